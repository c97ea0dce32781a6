//! `train bench`: measures the time of steps on random weights and inputs.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use engine::{AdamW, AdamWConfig, Arithmetic};
use features::Batch;
use model::encoder::StoredActivations;
use model::parity::{self, EncoderPair, LOSS, step_options};
use model::u2a::{U2a, micro_batch};
use model::variant::MissingToken;
use serde_json::json;
use std::io::{BufRead, Write};
use std::time::Instant;

/// Side of the square matrices of [`matmul_flops`], and how many products are timed.
const MATMUL_SIDE: usize = 8192;
const MATMUL_PRODUCTS: usize = 20;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct BenchTask {
    /// The two encoders.
    pub pair: EncoderPair,
    /// Whether batches are evaluated instead of trained on.
    pub evaluate: bool,
    /// Samples per step.
    pub batch_size: usize,
    /// Samples that are computed at once.
    pub micro_batch: usize,
    /// Whether the encoders are small.
    pub tiny: bool,
    /// Activations that the forward pass stores.
    pub stored: StoredActivations,
    /// Steps for each line of input. A GPU is waited for after the last one.
    pub steps: usize,
}

/// For each line of stdin, computes `task.steps` steps and prints a line of JSON with their time.
/// Returns at the end of stdin.
pub fn serve(task: &BenchTask, device: &Device, arithmetic: Arithmetic) -> Result<()> {
    let configs = parity::configs(task.pair, task.tiny);
    let mut model = parity::model(task.pair, &configs, device, arithmetic)?;
    let mut optimizer = model.optimizer(AdamWConfig::default())?;
    let batch = parity::batch(task.pair, &configs, task.batch_size, false)?;
    let merged = match task.evaluate {
        true => Some(model.merged_encoders()?),
        false => None,
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({"ready": true}))?;
    let mut step = 0;
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let mut loss = 0.0;
        for i in 0..task.steps {
            match &merged {
                // Fetching the scores waits for the device.
                Some(merged) => drop(model.score(merged, &batch, MissingToken::Mask)?),
                None => {
                    let losses = train(task, &mut model, &mut optimizer, &batch, step)?;
                    if i + 1 == task.steps {
                        loss = losses.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
                    }
                    step += 1;
                }
            }
        }
        let line = json!({
            "seconds": start.elapsed().as_secs_f64(),
            "items": task.batch_size * task.steps,
            "peak_mb": peak_memory(device)? / 1e6,
            "loss": loss,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Computes one training step and returns its losses.
fn train(
    task: &BenchTask,
    model: &mut U2a,
    optimizer: &mut AdamW,
    batch: &Batch,
    step: u32,
) -> Result<Tensor> {
    let options = step_options(step, task.stored);
    let (samples, uploaded) = (0..task.batch_size, [None, None]);
    let summed = micro_batch::accumulate(
        model,
        batch,
        uploaded,
        samples,
        task.micro_batch,
        &options,
        &LOSS,
    )?;
    let (grads, losses) = summed.context("an empty batch")?;
    model.update(optimizer, grads, 1e-4)?;
    Ok(losses)
}

/// Returns the floating-point operations per second of products of large square matrices, which is
/// the most that the device's matrix units give.
pub fn matmul_flops(device: &Device, dtype: DType, side: Option<usize>) -> Result<f64> {
    let side = side.unwrap_or(MATMUL_SIDE);
    let a = Tensor::ones((side, side), dtype, device)?;
    let multiply = |n: usize| -> Result<()> {
        let mut last = a.clone();
        for _ in 0..n {
            last = a.matmul(&a)?;
        }
        // Fetching a number waits for all products.
        last.narrow(0, 0, 1)?
            .to_dtype(DType::F32)?
            .sum_all()?
            .to_scalar::<f32>()?;
        Ok(())
    };
    multiply(3)?;
    let start = Instant::now();
    multiply(MATMUL_PRODUCTS)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(2.0 * (side as f64).powi(3) * MATMUL_PRODUCTS as f64 / seconds)
}

/// Returns the most bytes that were in use at once so far: of the device's memory, or on the CPU of
/// this process.
fn peak_memory(device: &Device) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return Ok(engine::cuda::driver::peak_memory(cuda)? as f64);
    }
    let _ = device;
    let peak = util::memory::peak(std::process::id());
    Ok(peak.unwrap_or_default() as f64)
}
