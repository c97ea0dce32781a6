//! A part of a batch, for gradient accumulation and for several workers: parts' losses and gradients
//! add up to those of the whole batch.

use super::{LossConfig, StepMode, U2a, Uploaded};
use anyhow::Result;
use candle_core::Tensor;
use features::Batch;
use std::ops::Range;

/// What one part contributes to the whole batch's losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The whole batch's number of the part's first sample: names it to the random generator.
    pub first: usize,
    /// The part's share of the samples, over which the task loss is a mean.
    pub task: f64,
    /// The part's share of the complete samples, over which the alignment loss is one.
    pub align: f64,
}

impl Share {
    /// All of it.
    pub const WHOLE: Share = Share {
        first: 0,
        task: 1.0,
        align: 1.0,
    };
}

/// Samples of worker `rank` of `count`: consecutive, as even as can be.
pub fn of_worker(samples: usize, rank: usize, count: usize) -> Range<usize> {
    samples * rank / count..samples * (rank + 1) / count
}

/// Cuts samples `range` of a batch into parts of at most `size` samples.
fn cut(batch: &Batch, range: Range<usize>, size: usize) -> Vec<(Batch, Share)> {
    let complete = |part: &[[bool; 2]]| part.iter().filter(|has| **has == [true, true]).count();
    let all_complete = complete(&batch.present).max(1) as f64;
    let starts = range.clone().step_by(size.max(1));
    let parts = starts.map(|first| {
        let range = first..range.end.min(first + size.max(1));
        let share = Share {
            first,
            task: range.len() as f64 / batch.ids.len() as f64,
            align: complete(&batch.present[range.clone()]) as f64 / all_complete,
        };
        (part(batch, range), share)
    });
    parts.collect()
}

fn part(batch: &Batch, range: Range<usize>) -> Batch {
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

/// Gradients, one for each parameter that took part, and the three losses.
pub type Summed = (Vec<Option<Tensor>>, Tensor);

/// One training step on samples `range` of a batch, in parts of at most `at_once`, added up; none
/// where the range is empty. A whole batch at once is not copied.
pub fn step(
    model: &U2a,
    batch: &Batch,
    uploaded: [Option<&Uploaded>; 2],
    range: Range<usize>,
    at_once: usize,
    mode: &StepMode,
    config: &LossConfig,
) -> Result<Option<Summed>> {
    let samples = batch.ids.len();
    if range == (0..samples) && samples <= at_once {
        let result = model.step_uploaded(batch, uploaded, mode, config)?;
        return Ok(Some((result.grads, result.losses)));
    }
    let mut sum: Option<Summed> = None;
    for (part, share) in cut(batch, range, at_once) {
        let result = model.step_uploaded(&part, uploaded, &StepMode { share, ..*mode }, config)?;
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

/// Adds a part's gradients to the sum; a tensor that took no part in either has none.
fn add(sum: &mut [Option<Tensor>], part: Vec<Option<Tensor>>) -> Result<()> {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum = match (sum.take(), part) {
            (Some(a), Some(b)) => Some((a + b)?),
            (a, b) => a.or(b),
        };
    }
    Ok(())
}
