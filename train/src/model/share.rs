//! A part of a batch, for gradient accumulation and for several workers: parts' losses and gradients
//! add up to those of the whole batch.

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
pub fn cut(batch: &Batch, range: Range<usize>, size: usize) -> Vec<(Batch, Share)> {
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

/// Adds a part's gradients to the sum; a tensor that took no part in either has none.
pub fn add(sum: &mut Vec<Option<Tensor>>, part: Vec<Option<Tensor>>) -> Result<()> {
    if sum.is_empty() {
        *sum = part;
        return Ok(());
    }
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum = match (sum.take(), part) {
            (Some(a), Some(b)) => Some((a + b)?),
            (a, b) => a.or(b),
        };
    }
    Ok(())
}
