//! `train selftest`: compares the results of a device with those of the CPU, on random weights and
//! inputs.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use engine::has_bf16;
use engine::parity::{layer_cases, max_relative_error};
use model::encoder::StoredActivations;
use model::parity::{self, AUDIO_VIDEO, EncoderPair, IMAGE_TEXT, LOSS, step_options};
use serde::Serialize;

/// Largest error of a layer in f32 and in bf16, relative to the largest number of the result. A
/// rounding to bf16's 8 bits of mantissa is an error of up to 4e-3.
const LAYER_LIMITS: [f64; 2] = [1e-4, 2e-2];
/// The same for a whole training step, whose gradients are compared by their norm.
const STEP_LIMITS: [f64; 2] = [1e-3, 1e-1];
/// Samples of a compared step: one that is complete and one that lacks each modality.
const STEP_SAMPLES: usize = 3;

/// The comparison of one result.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The layer, or the pair of encoders and the part of the result.
    pub name: String,
    /// The number format of the device: `f32` or `bf16`.
    pub precision: &'static str,
    /// The relative error of the device.
    pub error: f64,
    /// The largest error that rounding explains.
    pub limit: f64,
}

impl Comparison {
    /// Whether the device is accurate.
    pub fn passes(&self) -> bool {
        self.error <= self.limit
    }
}

/// The number formats that a device computes in: type, name, and index into the limits.
fn precisions(device: &Device) -> Vec<(DType, &'static str, usize)> {
    let mut all = vec![(DType::F32, "f32", 0)];
    if has_bf16(device) {
        all.push((DType::BF16, "bf16", 1));
    }
    all
}

/// Compares each layer.
pub fn compare_layers(device: &Device) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    for case in layer_cases()? {
        let expected = case.run(&Device::Cpu, DType::F32)?;
        for (dtype, precision, i) in precisions(device) {
            let mut error = 0.0f64;
            for (got, expected) in case.run(device, dtype)?.iter().zip(&expected) {
                error = error.max(max_relative_error(got, expected)?);
            }
            comparisons.push(Comparison {
                name: case.name.clone(),
                precision,
                error,
                limit: LAYER_LIMITS[i],
            });
        }
    }
    Ok(comparisons)
}

/// Compares a training step of each pair of encoders: its losses, and the gradients of all
/// learnable parameters by the norm of their difference.
pub fn compare_steps(device: &Device, tiny: bool) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let (expected_losses, expected_grads) = step(pair, tiny, &Device::Cpu, DType::F32)?;
        for (dtype, precision, i) in precisions(device) {
            let (losses, grads) = step(pair, tiny, device, dtype)?;
            let losses = losses.to_device(&Device::Cpu)?;
            for (part, error) in [
                ("losses", max_relative_error(&losses, &expected_losses)?),
                ("gradients", relative_error(&grads, &expected_grads)?),
            ] {
                comparisons.push(Comparison {
                    name: format!("{} and {}, {part}", pair[0].0, pair[1].0),
                    precision,
                    error,
                    limit: STEP_LIMITS[i],
                });
            }
        }
    }
    Ok(comparisons)
}

/// Computes a training step. Returns the losses, and the gradients as vectors on the CPU.
fn step(
    pair: EncoderPair,
    tiny: bool,
    device: &Device,
    dtype: DType,
) -> Result<(Tensor, Vec<Tensor>)> {
    let configs = parity::configs(pair, tiny);
    let batch = parity::batch(pair, &configs, STEP_SAMPLES, true)?;
    let model = parity::model(pair, &configs, device, dtype)?;
    let result = model.step(&batch, &step_options(1, StoredActivations::All), &LOSS)?;
    let grads = result.grads.into_iter().flatten().map(|grad| {
        grad.to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()
    });
    Ok((result.losses, grads.collect::<candle_core::Result<_>>()?))
}

/// The norm of the difference, relative to the norm of what is expected. Infinite if a number is
/// not finite.
fn relative_error(got: &[Tensor], expected: &[Tensor]) -> Result<f64> {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (got, expected) in got.iter().zip(expected) {
        difference += sum_of_squares(&(got - expected)?)?;
        norm += sum_of_squares(expected)?;
    }
    let error: f64 = (difference / norm).sqrt();
    Ok(if error.is_finite() {
        error
    } else {
        f64::INFINITY
    })
}

fn sum_of_squares(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}
