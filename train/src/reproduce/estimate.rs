//! Estimates how long a plan takes: one training step and one evaluated batch, measured on this
//! machine with random weights and inputs of the run's sizes, times what is still to do.

use super::{Options, Plan};
use crate::session;
use crate::settings::Settings;
use anyhow::Result;
use datasets::{Info, InputName, Modality, Split};
use engine::Compute;
use features::{Batch, ModalityBatch, ModalityData};
use model::encoder::config::{EncoderConfig, InputSize};
use model::encoder::weights::Weights;
use model::encoder::{Encoder, StoredActivations};
use model::methods::TrainingSplit;
use model::u2a::{MicroBatch, StepOptions, U2a};
use model::variant::Method;
use std::collections::BTreeMap;
use std::time::Instant;

/// Sets [`PlannedRun::seconds`](super::PlannedRun::seconds) of all runs.
pub fn estimate(options: &Options, plan: &mut Plan) -> Result<()> {
    let mut measured: BTreeMap<String, Timing> = BTreeMap::new();
    for run in &mut plan.runs {
        let info = &run.info;
        let overrides = options.overrides(&run.training)?;
        let settings = Settings::resolve(&run.dataset, info.modalities, &overrides)?;
        let (only, weights) = (settings.modality, &options.weights);
        let encoders = session::encoder_sizes(info.modalities, only, weights, options.tiny)?;
        // Runs that agree in these take equally long.
        let key = format!(
            "{encoders:?} {} {} {:?} {:?} {}",
            settings.batch_size,
            settings.frames,
            settings.method,
            settings.adapt,
            settings.text_length
        );
        let timing = match measured.get(&key) {
            Some(known) => *known,
            None => {
                let method = run.training.method;
                eprintln!("measuring a step of {method} on {}", run.dataset);
                let timing = measure(info, &encoders, &settings, &options.compute)?;
                measured.insert(key, timing);
                timing
            }
        };
        let shards = options.shards(&run.dataset);
        let test_samples = match features::Shards::open(&shards) {
            Ok(shards) => shards.split(Split::Test).len(),
            Err(_) if options.small => options.samples / 4,
            Err(_) => info.expected[2].unwrap_or(0),
        };
        let steps = if run.finished { 0 } else { run.steps };
        let evaluated = test_samples * run.evaluations.len();
        let evaluated = evaluated as f64 + samples_measured(steps, &settings);
        run.seconds = Some(steps as f64 * timing.step + evaluated * timing.sample);
    }
    Ok(())
}

/// Returns the number of samples that a method runs through the encoders between its steps: PMR the
/// training split in each epoch, G-Blend in each super-epoch.
fn samples_measured(steps: u64, settings: &Settings) -> f64 {
    let trained = steps as f64 * settings.batch_size as f64;
    match settings.method {
        Method::Pmr => trained,
        Method::GBlend => trained / settings.g_blend_epochs as f64,
        Method::U2a | Method::Qmf | Method::Mla | Method::Mmlora => 0.0,
    }
}

/// The measured durations from which the time of a run is estimated, in seconds.
#[derive(Clone, Copy)]
struct Timing {
    /// The duration of a training step of one batch.
    step: f64,
    /// The duration of the evaluation of one sample.
    sample: f64,
}

/// Measures a training step and the evaluation of a batch. Of MMLoRA it is a step of the first
/// stage, which takes longer.
fn measure(
    info: &Info,
    encoders: &[EncoderConfig],
    settings: &Settings,
    compute: &Compute,
) -> Result<Timing> {
    let arithmetic = compute.arithmetic(settings.precision);
    let build = |c: &EncoderConfig| -> Result<(Encoder, Weights)> {
        let weights = Weights::random(0, c)?.to_device(&compute.device)?;
        let encoder = Encoder::new(c.clone(), weights.clone(), arithmetic)?;
        Ok((encoder, weights))
    };
    let built: Vec<_> = encoders.iter().map(build).collect::<Result<_>>()?;
    let (encoders_built, weights): (Vec<_>, Vec<_>) = built.into_iter().unzip();
    let classes = info.classes.len().max(2);
    let mut model = U2a::builder(info.modalities, encoders_built, classes)
        .lora(settings.lora())
        .variant(settings.variant())
        .weights(weights)
        .device(&compute.device)
        .build()?;
    let batch = constant_batch(info, encoders, settings, classes);
    model.start_method(&TrainingSplit {
        ids: &batch.ids,
        present: &batch.present,
        held_out: &[],
    })?;
    let options = StepOptions {
        seed: 0,
        step: 0,
        encoder_dropout: settings.encoder_dropout,
        stored: StoredActivations::All,
        micro_batch: MicroBatch::FULL_BATCH,
    };
    let loss = settings.loss(false);
    // The first step allocates buffers and starts threads.
    model.step(&batch, &options, &loss)?;
    compute.device.synchronize()?;
    let begun = Instant::now();
    for pass in 0..model.method().updates_per_batch() {
        model.step_pass(&batch, [None, None], &options, &loss, pass)?;
    }
    compute.device.synchronize()?;
    let step = begun.elapsed().as_secs_f64();
    let merged = model.merged_encoders()?;
    let begun = Instant::now();
    model.score(&merged, &batch, settings.missing_token)?;
    let sample = begun.elapsed().as_secs_f64() / batch.ids.len() as f64;
    Ok(Timing { step, sample })
}

/// Returns a batch of complete samples with constant inputs of the encoders' sizes.
fn constant_batch(
    info: &Info,
    encoders: &[EncoderConfig],
    settings: &Settings,
    classes: usize,
) -> Batch {
    let n = settings.batch_size;
    let input = |input: InputName, config: &EncoderConfig| {
        let data = match config.input {
            InputSize::Image { size, .. } => {
                let images = match input.modality {
                    Modality::Video => settings.frames,
                    _ => 1,
                };
                ModalityData::Dense {
                    values: vec![0.5; n * images * 3 * size * size],
                    shape: vec![images, 3, size, size],
                }
            }
            InputSize::Mel { frames, bins, .. } => ModalityData::Dense {
                values: vec![0.5; n * frames * bins],
                shape: vec![frames, bins],
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
        ModalityBatch {
            rows: (0..n).collect(),
            data,
        }
    };
    let inputs = info.modalities.names().zip(encoders);
    let mut inputs = inputs.map(|(name, config)| input(name, config));
    Batch {
        ids: (0..n).map(|i| i.to_string()).collect(),
        labels: (0..n).map(|i| vec![(i % classes) as u32]).collect(),
        present: vec![[true, info.modalities.count() == 2]; n],
        inputs: [inputs.next(), inputs.next()],
        consumed: 0,
    }
}
