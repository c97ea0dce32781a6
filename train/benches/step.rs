//! One training step, or one evaluation batch, at full size: one line in, one unit of work, one line of JSON out, for
//! `tests/bench/bench.py`. `step audio-video|image-text train|eval`; two threads.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use candle_core::DType;
use datasets::Modality;
use features::rng::Rng;
use features::{Batch, ModalityBatch, ModalityData};
use std::io::BufRead;
use std::time::Instant;
use train::adapter::LoraConfig;
use train::encoder::config::{EncoderConfig, Kind};
use train::encoder::{Encoder, Keep};
use train::model::{LossConfig, MissingToken, StepMode, U2a};
use train::optim::{AdamW, AdamWConfig};
use train::weights::Weights;

const CLASSES: usize = 28;
const TEXT_LENGTH: usize = 40;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut rng = Rng::new(1, &[seed]);
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn input(modality: Modality, batch: usize) -> ModalityBatch {
    let images = |images_per_sample: usize| ModalityData::Pixels {
        values: noise(batch * images_per_sample * 3 * 224 * 224, 1),
        images_per_sample,
        size: 224,
    };
    let data = match modality {
        Modality::Audio => ModalityData::Mel {
            values: noise(batch * 1024 * 128, 2),
            frames: 1024,
            bins: 128,
        },
        Modality::Video => images(3),
        Modality::Image => images(1),
        Modality::Text => {
            let mut rng = Rng::new(2, &[0]);
            ModalityData::Tokens {
                ids: (0..batch * TEXT_LENGTH)
                    .map(|_| 1000 + rng.below(29_000))
                    .collect(),
                lengths: vec![TEXT_LENGTH; batch],
                max_len: TEXT_LENGTH,
            }
        }
    };
    ModalityBatch {
        rows: (0..batch).collect(),
        data,
    }
}

/// Highest resident memory of this process so far, in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() * 1024.0 / 1e6
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let video = arguments.iter().any(|a| a == "audio-video");
    let evaluate = arguments.iter().any(|a| a == "eval");
    let threads = std::env::var("BENCH_THREADS").map_or(2, |n| n.parse().unwrap());
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .unwrap();
    let modalities = if video {
        [Modality::Audio, Modality::Video]
    } else {
        [Modality::Image, Modality::Text]
    };
    let count = if video { 4 } else { 8 };
    let encoders = modalities.map(|modality| {
        let config = EncoderConfig::base(Kind::of(modality));
        let weights = Weights::random(0, &config).unwrap();
        Encoder::new(config, weights, DType::F32).unwrap()
    });
    let mut model = U2a::new(modalities, encoders, CLASSES, LoraConfig::default(), 0).unwrap();
    let mut optimiser = AdamW::new(
        AdamWConfig::default(),
        model.parameters().iter().map(|p| p.tensor.elem_count()),
    );
    let batch = Batch {
        ids: (0..count).map(|i| i.to_string()).collect(),
        labels: (0..count).map(|i| vec![i as u32]).collect(),
        present: vec![[true, true]; count],
        inputs: modalities.map(|modality| Some(input(modality, count))),
        consumed: count as u64,
    };
    let loss = LossConfig {
        align_weight: 0.2,
        align_stop_gradient: false,
        multi_label: false,
        missing_token: MissingToken::Mask,
    };
    let merged = evaluate.then(|| model.merged().unwrap());
    println!("{{\"ready\": true}}");
    for (number, _) in std::io::stdin().lock().lines().enumerate() {
        let start = Instant::now();
        if let Some(merged) = &merged {
            model.score(merged, &batch, MissingToken::Mask).unwrap();
        } else {
            let mode = StepMode {
                seed: 0,
                step: number as u32,
                encoder_dropout: true,
                keep: Keep::All,
                share: train::model::share::Share::WHOLE,
            };
            let result = model.step(&batch, &mode, &loss).unwrap();
            model.update(&mut optimiser, result.grads, 1e-3).unwrap();
        }
        println!(
            "{{\"seconds\": {}, \"items\": {count}, \"peak_mb\": {}}}",
            start.elapsed().as_secs_f64(),
            peak()
        );
    }
}
