//! Micro-batches: the parts of a batch that are computed one after another (gradient accumulation)
//! or by several ranks. Their losses and gradients add up to those of the whole batch.

use super::{MicroBatch, StepOptions, U2a, Uploaded};
use crate::loss::LossConfig;
use anyhow::Result;
use candle_core::Tensor;
use features::Batch;
use std::ops::Range;

/// Cuts the samples `range` of a batch into micro-batches of at most `size` samples.
fn cut(batch: &Batch, range: Range<usize>, size: usize) -> Vec<(Batch, MicroBatch)> {
    let complete = |part: &[[bool; 2]]| part.iter().filter(|has| **has == [true, true]).count();
    let all_complete = complete(&batch.present).max(1) as f64;
    let starts = range.clone().step_by(size.max(1));
    let parts = starts.map(|first| {
        let range = first..range.end.min(first + size.max(1));
        let micro_batch = MicroBatch {
            first,
            task: range.len() as f64 / batch.ids.len() as f64,
            align: complete(&batch.present[range.clone()]) as f64 / all_complete,
        };
        (part(batch, range), micro_batch)
    });
    parts.collect()
}

/// Returns the samples `range` of a batch as a batch of their own.
pub fn part(batch: &Batch, range: Range<usize>) -> Batch {
    let samples: Vec<usize> = range.clone().collect();
    let input = |m: usize| {
        let mut input = batch.inputs[m].as_ref()?.pick(&samples)?;
        input.rows.iter_mut().for_each(|row| *row -= range.start);
        Some(input)
    };
    Batch {
        ids: batch.ids[range.clone()].to_vec(),
        labels: batch.labels[range.clone()].to_vec(),
        present: batch.present[range.clone()].to_vec(),
        inputs: [input(0), input(1)],
        consumed: batch.consumed,
    }
}

/// The gradients, one for each parameter that took part, and the three losses.
pub type GradientsAndLosses = (Vec<Option<Tensor>>, Tensor);

/// Computes one training step on the samples `range` of a batch, in micro-batches of at most `size`
/// samples, and adds up their gradients and losses. `None` if the range is empty. The batch needs
/// no inputs of samples outside the range. A whole batch at once is not copied.
pub fn accumulate(
    model: &U2a,
    batch: &Batch,
    uploaded: [Option<&Uploaded>; 2],
    range: Range<usize>,
    size: usize,
    options: &StepOptions,
    config: &LossConfig,
) -> Result<Option<GradientsAndLosses>> {
    let samples = batch.ids.len();
    if range == (0..samples) && samples <= size {
        let result = model.step_uploaded(batch, uploaded, options, config)?;
        return Ok(Some((result.grads, result.losses)));
    }
    let mut sum: Option<GradientsAndLosses> = None;
    for (part, micro_batch) in cut(batch, range, size) {
        let options = StepOptions {
            micro_batch,
            ..*options
        };
        let result = model.step_uploaded(&part, uploaded, &options, config)?;
        sum = Some(match sum {
            Some((mut grads, losses)) => {
                add(&mut grads, result.grads)?;
                (grads, (losses + result.losses)?)
            }
            None => (result.grads, result.losses),
        });
    }
    Ok(sum)
}

/// Adds a micro-batch's gradients to the sum; a tensor that took part in neither has none.
fn add(sum: &mut [Option<Tensor>], part: Vec<Option<Tensor>>) -> Result<()> {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum = match (sum.take(), part) {
            (Some(a), Some(b)) => Some((a + b)?),
            (a, b) => a.or(b),
        };
    }
    Ok(())
}
