//! The rows at the ends of sequences, where the class token and the mask token are, and their
//! gradients.

use super::host::on_device;
use crate::cuda;
use crate::rows::Rows;
use candle_core::{Result, Tensor};

/// Returns the first and the last row of each sequence in turn: `2 sequences x d`.
pub fn ends(x: &Tensor, rows: &Rows) -> Result<Tensor> {
    on_device!(x, gpu => gpu.pick_ends(x, rows, 2));
    x.index_select(&end_numbers(rows)?, 0)
}

/// Returns the gradient of the input of [`ends`], given that of its output: zero in all other rows.
pub fn ends_backward(d_ends: &Tensor, rows: &Rows) -> Result<Tensor> {
    on_device!(d_ends, gpu => gpu.spread_ends(d_ends, rows));
    let shape = (rows.len(), d_ends.dim(1)?);
    Tensor::zeros(shape, d_ends.dtype(), d_ends.device())?.index_add(&end_numbers(rows)?, d_ends, 0)
}

/// Returns the last row of each sequence: `sequences x d`.
pub fn last_rows(x: &Tensor, rows: &Rows) -> Result<Tensor> {
    on_device!(x, gpu => gpu.pick_ends(x, rows, 1));
    let last = rows.offsets[1..].iter().map(|end| *end as u32 - 1);
    x.index_select(&Tensor::new(last.collect::<Vec<_>>(), x.device())?, 0)
}

/// Returns the sum of all rows: `1 x d`, in f32 if the rows are bf16.
pub fn sum_rows(x: &Tensor) -> Result<Tensor> {
    on_device!(x, gpu => gpu.sum_rows(x));
    x.sum_keepdim(0)
}

/// Returns the numbers of the rows that [`ends`] selects.
fn end_numbers(rows: &Rows) -> Result<Tensor> {
    let ends = rows.offsets.windows(2);
    let numbers = ends.flat_map(|ends| [ends[0] as u32, ends[1] as u32 - 1]);
    Tensor::new(numbers.collect::<Vec<_>>(), &candle_core::Device::Cpu)
}
