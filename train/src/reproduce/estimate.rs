//! How long a plan takes: one training step and one scored batch measured on this machine, with
//! random weights and inputs of the run's own sizes, times what the plan has left.

use super::{Options, Plan};
use crate::session;
use crate::settings::Settings;
use anyhow::Result;
use datasets::{Modality, Split};
use engine::Compute;
use features::{Batch, ModalityBatch, ModalityData};
use model::encoder::config::{EncoderConfig, InputSize, Kind};
use model::encoder::{Encoder, StoredActivations};
use model::peft::LoraConfig;
use model::u2a::{StepMode, U2a};
use model::weights::Weights;
use std::collections::BTreeMap;
use std::time::Instant;

/// Fills in the seconds of every run.
pub fn fill(options: &Options, plan: &mut Plan) -> Result<()> {
    let mut measured: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for run in &mut plan.runs {
        let opened = datasets::open(&run.dataset)?;
        let info = opened.info();
        let mut overrides = run.training.settings.clone();
        if options.small {
            overrides.splice(0..0, super::SMALL_SETTINGS.map(String::from));
        }
        overrides.extend(options.settings.iter().cloned());
        let settings = Settings::resolve(&run.dataset, info.modalities, &overrides)?;
        // Without the weights at hand a plan can still be made: their published sizes are known.
        let encoders = session::encoder_configs(info.modalities, &options.weights, options.tiny)
            .unwrap_or_else(|_| info.modalities.map(|m| EncoderConfig::base(Kind::of(m))));
        // What makes a step dear: sizes, batch, and which weights learn.
        let key = format!(
            "{encoders:?} {} {} {:?} {}",
            settings.batch_size, settings.frames, settings.adapt, settings.text_length
        );
        let [step, sample] = match measured.get(&key) {
            Some(known) => *known,
            None => {
                eprintln!("measuring a step of {}", run.dataset);
                let classes = info.classes.len();
                let (of, compute) = (info.modalities, &options.compute);
                let found = measure(of, &encoders, &settings, classes, compute)?;
                measured.insert(key, found);
                found
            }
        };
        let shards = options.shards(&run.dataset);
        let test = match features::Shards::open(&shards) {
            Ok(shards) => shards.split(Split::Test).len(),
            Err(_) if options.small => options.samples / 4,
            Err(_) => info.expected[2].unwrap_or(0),
        };
        let steps = if run.finished { 0 } else { run.steps };
        let scored = test * run.evaluations.len();
        run.seconds = Some(steps as f64 * step + scored as f64 * sample);
    }
    Ok(())
}

/// Seconds of a training step, and of one sample's evaluation.
fn measure(
    modalities: [Modality; 2],
    encoders: &[EncoderConfig; 2],
    settings: &Settings,
    classes: usize,
    compute: &Compute,
) -> Result<[f64; 2]> {
    let arithmetic = compute.arithmetic(settings.precision);
    let build = |c: &EncoderConfig| -> Result<(Encoder, Weights)> {
        let weights = Weights::random(0, c)?.to_device(&compute.device)?;
        let encoder = Encoder::new(c.clone(), weights.clone(), arithmetic)?;
        Ok((encoder, weights))
    };
    let ((first, w1), (second, w2)) = (build(&encoders[0])?, build(&encoders[1])?);
    let lora: LoraConfig = settings.lora();
    let classes = classes.max(2);
    let model = U2a::new(modalities, [first, second], classes, lora, 0)?
        .designed(settings.design(), [w1, w2], 0)?
        .on(&compute.device)?;
    let n = settings.batch_size;
    let input = |m: usize| {
        let data = match encoders[m].input {
            InputSize::Image { size, .. } => {
                let images = match modalities[m] {
                    Modality::Video => settings.frames,
                    _ => 1,
                };
                ModalityData::Pixels {
                    values: vec![0.5; n * images * 3 * size * size],
                    images_per_sample: images,
                    size,
                }
            }
            InputSize::Mel { frames, bins, .. } => ModalityData::Mel {
                values: vec![0.5; n * frames * bins],
                frames,
                bins,
            },
            InputSize::Text {
                vocab, positions, ..
            } => {
                let length = settings.text_length.min(positions);
                ModalityData::Tokens {
                    ids: (0..n * length).map(|i| (i % vocab) as u32).collect(),
                    lengths: vec![length; n],
                    max_len: length,
                }
            }
        };
        Some(ModalityBatch {
            rows: (0..n).collect(),
            data,
        })
    };
    let batch = Batch {
        ids: (0..n).map(|i| i.to_string()).collect(),
        labels: (0..n).map(|i| vec![(i % classes) as u32]).collect(),
        present: vec![[true, true]; n],
        inputs: [input(0), input(1)],
        consumed: 0,
    };
    let mode = StepMode {
        seed: 0,
        step: 0,
        encoder_dropout: settings.encoder_dropout,
        stored: StoredActivations::All,
        share: model::u2a::micro_batch::Share::WHOLE,
    };
    let loss = settings.loss(false);
    // The first step warms up buffers and threads.
    model.step(&batch, &mode, &loss)?;
    compute.device.synchronize()?;
    let begun = Instant::now();
    model.step(&batch, &mode, &loss)?;
    compute.device.synchronize()?;
    let step = begun.elapsed().as_secs_f64();
    let merged = model.merged()?;
    let begun = Instant::now();
    model.score(&merged, &batch, settings.missing_token)?;
    Ok([step, begun.elapsed().as_secs_f64() / n as f64])
}
