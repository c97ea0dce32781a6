//! A check of the gradients before the first step.

use crate::session::Session;
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use features::Batch;
use model::encoder::weights::WeightSource;
use model::loss::LossConfig;
use model::u2a::{StepOptions, U2a};

/// Size of the numbers that the check puts into B of the LoRA adapters, which starts as zero.
const PROBE: f32 = 1e-3;

/// Checks that each learnable parameter gets a finite gradient that is not zero throughout. B of
/// the LoRA adapters is not zero during the check, because A would get no gradient.
///
/// # Errors
/// A parameter gets no usable gradient, which the error blames on `weights`, the source of the
/// encoders' weights.
pub fn check_gradients(
    model: &mut U2a,
    session: &Session,
    batch: &Batch,
    options: &StepOptions,
    loss: &LossConfig,
    weights: &WeightSource,
) -> Result<()> {
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
    let mut sample = first_complete_sample(batch).unwrap_or_else(|| batch.clone());
    if let Some(placeholders) = session.placeholders(loss.missing_token)? {
        placeholders.fill(&mut sample);
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

/// The first complete sample of a batch, as a batch of its own.
fn first_complete_sample(batch: &Batch) -> Option<Batch> {
    let sample = batch.present.iter().position(|has| *has == [true, true])?;
    let mut one = Batch {
        ids: vec![batch.ids[sample].clone()],
        labels: vec![batch.labels[sample].clone()],
        present: vec![[true, true]],
        inputs: [None, None],
        consumed: 0,
    };
    for m in 0..2 {
        let mut input = batch.inputs[m].as_ref()?.pick(&[sample])?;
        input.rows = vec![0];
        one.inputs[m] = Some(input);
    }
    Some(one)
}
