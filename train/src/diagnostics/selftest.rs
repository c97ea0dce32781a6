//! `train selftest` and `train bench`: what a device computes, held against the CPU, and how fast it
//! steps; on random weights and made-up batches, so nothing but this program is needed.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use engine::Arithmetic;
use engine::has_bf16;
use engine::parity::max_relative_error;
use engine::{AdamW, AdamWConfig};
use features::Batch;
use model::encoder::StoredActivations;
use model::parity::{self, AUDIO_VIDEO, EncoderPair, IMAGE_TEXT, LOSS, step_options};
use model::u2a::{U2a, micro_batch};
use model::variant::MissingToken;
use serde::Serialize;
use serde_json::json;
use std::io::{BufRead, Write};
use std::time::Instant;

/// How far the device may be from the CPU, relative to the largest number of a result: a layer in f32
/// and in bf16 (8 bits of mantissa: 4e-3 per rounding).
const LAYER_LIMITS: [f64; 2] = [1e-4, 2e-2];
/// The same for a whole training step, whose gradients are compared by their norm.
const STEP_LIMITS: [f64; 2] = [1e-3, 1e-1];
/// Samples of a compared step: every case of availability.
const STEP_SAMPLES: usize = 3;
/// Side of the square matrices whose product shows what the device can do.
const PEAK_SIDE: usize = 8192;
const PEAK_PRODUCTS: usize = 20;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was compared.
    pub name: String,
    /// `f32` or `bf16`.
    pub precision: &'static str,
    /// How far apart.
    pub error: f64,
    /// How far apart they may be.
    pub limit: f64,
}

impl Finding {
    /// Whether the device is right.
    pub fn holds(&self) -> bool {
        self.error <= self.limit
    }
}

/// The number types that a device computes in.
fn precisions(device: &Device) -> Vec<(DType, &'static str, usize)> {
    let mut all = vec![(DType::F32, "f32", 0)];
    if has_bf16(device) {
        all.push((DType::BF16, "bf16", 1));
    }
    all
}

/// Every layer on the device against the CPU.
pub fn layers(device: &Device) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for case in engine::parity::layer_cases()? {
        let want = case.run(&Device::Cpu, DType::F32)?;
        for (dtype, precision, i) in precisions(device) {
            let mut error = 0.0f64;
            for (got, want) in case.run(device, dtype)?.iter().zip(&want) {
                error = error.max(max_relative_error(got, want)?);
            }
            findings.push(Finding {
                name: case.name.clone(),
                precision,
                error,
                limit: LAYER_LIMITS[i],
            });
        }
    }
    Ok(findings)
}

/// A training step of both pairs of encoders on the device against the CPU: losses, and the gradients
/// of each encoder's adapters and mask token by the norm of their difference.
pub fn steps(device: &Device, tiny: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let configs = parity::configs(pair, tiny);
        let batch = parity::batch(pair, &configs, STEP_SAMPLES, true)?;
        let run = |device: &Device, dtype: DType| -> Result<(Tensor, Vec<Tensor>)> {
            let model = parity::model(pair, &configs, device, dtype)?;
            let result = model.step(&batch, &step_options(1, StoredActivations::All), &LOSS)?;
            let grads = result.grads.into_iter().flatten().map(|g| {
                g.to_device(&Device::Cpu)?
                    .to_dtype(DType::F32)?
                    .flatten_all()
            });
            let grads = grads.collect::<candle_core::Result<Vec<_>>>()?;
            Ok((result.losses, grads))
        };
        let (losses, grads) = run(&Device::Cpu, DType::F32)?;
        let name = |what: &str| format!("{} and {}, {what}", pair[0].0, pair[1].0);
        for (dtype, precision, i) in precisions(device) {
            let (got_losses, got) = run(device, dtype)?;
            let (mut apart_by, mut whole) = (0.0, 0.0);
            for (got, want) in got.iter().zip(&grads) {
                apart_by += square(&(got - want)?)?;
                whole += square(want)?;
            }
            let gradient: f64 = (apart_by / whole).sqrt();
            for (what, error) in [
                (
                    "losses",
                    max_relative_error(&got_losses.to_device(&Device::Cpu)?, &losses)?,
                ),
                (
                    "gradients",
                    if gradient.is_finite() {
                        gradient
                    } else {
                        f64::INFINITY
                    },
                ),
            ] {
                findings.push(Finding {
                    name: name(what),
                    precision,
                    error,
                    limit: STEP_LIMITS[i],
                });
            }
        }
    }
    Ok(findings)
}

/// The sum of squares.
fn square(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}

/// Products of large square matrices per second, in floating-point operations: what the device's
/// matrix units give at best.
pub fn peak_flops(device: &Device, dtype: DType, side: Option<usize>) -> Result<f64> {
    let side = side.unwrap_or(PEAK_SIDE);
    let a = Tensor::ones((side, side), dtype, device)?;
    let run = |n: usize| -> Result<()> {
        let mut last = a.clone();
        for _ in 0..n {
            last = a.matmul(&a)?;
        }
        // Waits for all of them.
        last.narrow(0, 0, 1)?
            .to_dtype(DType::F32)?
            .sum_all()?
            .to_scalar::<f32>()?;
        Ok(())
    };
    run(3)?;
    let begun = Instant::now();
    run(PEAK_PRODUCTS)?;
    Ok(2.0 * (side as f64).powi(3) * PEAK_PRODUCTS as f64 / begun.elapsed().as_secs_f64())
}

/// What `train bench` does over and over.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Which encoders.
    pub pair: EncoderPair,
    /// Scores instead of training.
    pub evaluate: bool,
    /// Samples of a batch.
    pub batch: usize,
    /// Samples at once.
    pub at_once: usize,
    /// Small encoders.
    pub tiny: bool,
    /// What the forward pass keeps.
    pub stored: StoredActivations,
    /// Steps per line of input: a GPU is waited for after the last.
    pub steps: usize,
}

/// One line in, so many steps, one line of JSON out; ends with its input.
pub fn serve(task: &Task, device: &Device, arithmetic: Arithmetic) -> Result<()> {
    let configs = parity::configs(task.pair, task.tiny);
    let mut model = parity::model(task.pair, &configs, device, arithmetic)?;
    let mut optimiser = model.optimiser(AdamWConfig::default())?;
    let batch = parity::batch(task.pair, &configs, task.batch, false)?;
    let merged = match task.evaluate {
        true => Some(model.merged_encoders()?),
        false => None,
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({"ready": true}))?;
    let mut step = 0;
    for line in std::io::stdin().lock().lines() {
        line?;
        let begun = Instant::now();
        let mut loss = 0.0;
        for i in 0..task.steps {
            match &merged {
                // Fetches its scores, so it has waited.
                Some(merged) => drop(model.score(merged, &batch, MissingToken::Mask)?),
                None => {
                    let losses = train(task, &mut model, &mut optimiser, &batch, step)?;
                    if i + 1 == task.steps {
                        loss = losses.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
                    }
                    step += 1;
                }
            }
        }
        let line = json!({
            "seconds": begun.elapsed().as_secs_f64(),
            "items": task.batch * task.steps,
            "peak_mb": peak_memory(device)? / 1e6,
            "loss": loss,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn train(
    task: &Task,
    model: &mut U2a,
    optimiser: &mut AdamW,
    batch: &Batch,
    step: u32,
) -> Result<Tensor> {
    let options = step_options(step, task.stored);
    let (range, none) = (0..task.batch, [None, None]);
    let summed = micro_batch::accumulate(model, batch, none, range, task.at_once, &options, &LOSS)?;
    let (grads, losses) = summed.context("an empty batch")?;
    model.update(optimiser, grads, 1e-4)?;
    Ok(losses)
}

/// Most bytes in use at once so far: of the device's memory, on the CPU of this process.
pub fn peak_memory(device: &Device) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return Ok(engine::cuda::driver::peak_memory(cuda)? as f64);
    }
    let _ = device;
    let peak = util::memory::peak(std::process::id());
    Ok(peak.unwrap_or_default() as f64)
}
