//! A check of the gradients before the first step.

use crate::session::Session;
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use features::Batch;
use model::encoder::weights::WeightSource;
use model::loss::LossConfig;
use model::u2a::{StepOptions, U2a, micro_batch};
use std::ops::Range;

/// Size of the numbers that the check puts into B of the LoRA adapters, which starts as zero.
const PROBE: f32 = 1e-3;

/// Checks that each learnable parameter gets a finite gradient that is not zero throughout from the
/// samples `own` of a batch. B of the LoRA adapters is not zero during the check, because A would
/// get no gradient. Without an input there is nothing to check.
///
/// # Errors
/// A parameter gets no usable gradient, which the error blames on `weights`, the source of the
/// encoders' weights.
pub fn check_gradients(
    model: &mut U2a,
    session: &Session,
    batch: &Batch,
    own: Range<usize>,
    options: &StepOptions,
    loss: &LossConfig,
    weights: &WeightSource,
) -> Result<()> {
    let mut present = batch.present[own.clone()].iter();
    if !present.any(|has| *has != [false, false]) {
        return Ok(());
    }
    let initial: Vec<Tensor> = model
        .parameters()
        .iter()
        .map(|p| p.tensor.clone())
        .collect();
    let probes = model.parameters().into_iter().map(|p| {
        if p.name.ends_with("lora_B.weight") {
            // The numbers differ: below a layer norm the elements of a gradient add up to zero, so
            // that equal numbers would give A no gradient.
            let n = p.tensor.elem_count();
            let probe: Vec<f32> = (0..n).map(|i| PROBE * ((i % 7) as f32 - 2.5)).collect();
            p.tensor + Tensor::from_vec(probe, p.tensor.dims(), p.tensor.device())?
        } else {
            Ok(p.tensor.clone())
        }
    });
    let probes = probes.collect::<candle_core::Result<Vec<_>>>()?;
    model.set_parameters(probes)?;
    let complete = own.clone().find(|i| batch.present[*i] == [true, true]);
    let checked = complete.map_or(own, |sample| sample..sample + 1);
    let mut sample = micro_batch::part(batch, checked);
    if let Some(placeholders) = session.placeholders(loss.missing_token)? {
        let samples = 0..sample.ids.len();
        placeholders.fill(&mut sample, samples);
    }
    let result = model.step(&sample, options, loss)?;
    for (p, grad) in model.parameters().iter().zip(&result.grads) {
        // In a batch without a complete sample, a parameter may get no gradient and is not checked.
        let Some(grad) = grad else { continue };
        let numbers: Vec<f32> = grad.flatten_all()?.to_vec1()?;
        if numbers.iter().any(|g| !g.is_finite()) || numbers.iter().all(|g| *g == 0.0) {
            bail!(
                "{} gets no usable gradient from the first batch (zero or not finite throughout); the weights of {weights:?} may be damaged",
                p.name
            );
        }
    }
    model
        .set_parameters(initial)
        .context("after the gradient check")
}
