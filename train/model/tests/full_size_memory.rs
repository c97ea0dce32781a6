//! The peak memory of one audio-video training step at the paper's sizes. The test is alone in its
//! file, because peak memory is a figure of the whole process.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::DType;
use datasets::Modality;
use features::{Batch, ModalityBatch, ModalityData};
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::weights::Weights;
use model::encoder::{Encoder, StoredActivations};
use model::parity::LOSS;
use model::u2a::{MicroBatch, StepOptions, U2a};
use util::skip::{Missing, skip};

const BATCH: usize = 4;
/// PyTorch with PEFT takes 8.4 GB for this step.
const LIMIT: u64 = 6_000_000_000;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut rng = util::rng::Rng::new(1, &[seed]);
    (0..n)
        .map(|_| (rng.bits() as f32 / u32::MAX as f32) * 2.0 - 1.0)
        .collect()
}

#[test]
fn training_step_of_batch_4_stays_below_6_gb() {
    let encoder = |kind| {
        let config = EncoderConfig::base(kind);
        let weights = Weights::random(0, &config).unwrap();
        Encoder::new(config, weights, DType::F32).unwrap()
    };
    let modalities = [Modality::Audio, Modality::Video];
    let encoders = [encoder(Kind::Ast), encoder(Kind::Clip)];
    let model = U2a::builder(modalities, encoders, 28).build().unwrap();
    let rows: Vec<usize> = (0..BATCH).collect();
    let batch = Batch {
        ids: rows.iter().map(ToString::to_string).collect(),
        labels: rows.iter().map(|r| vec![*r as u32]).collect(),
        present: vec![[true, true]; BATCH],
        inputs: [
            Some(ModalityBatch {
                rows: rows.clone(),
                data: ModalityData::Dense {
                    values: noise(BATCH * 1024 * 128, 1),
                    shape: vec![1024, 128],
                },
            }),
            Some(ModalityBatch {
                rows,
                data: ModalityData::Dense {
                    values: noise(BATCH * 3 * 3 * 224 * 224, 2),
                    shape: vec![3, 3, 224, 224],
                },
            }),
        ],
        consumed: BATCH as u64,
    };
    let options = StepOptions {
        seed: 0,
        step: 0,
        encoder_dropout: true,
        stored: StoredActivations::All,
        micro_batch: MicroBatch::FULL_BATCH,
    };
    let start = std::time::Instant::now();
    let result = model.step(&batch, &options, &LOSS).unwrap();
    let loss = result.losses().unwrap().loss;
    eprintln!("loss {loss}, {:.1} s", start.elapsed().as_secs_f64());
    assert!(loss.is_finite());
    assert!(result.grads.iter().all(Option::is_some));
    match util::memory::peak(std::process::id()) {
        Some(peak) => {
            eprintln!("peak memory {:.2} GB", peak as f64 / 1e9);
            assert!(peak < LIMIT, "{peak} bytes");
        }
        None => skip(Missing::Platform, "the system does not report peak memory"),
    }
}
