//! Activations, sums and dropout.

use super::host::{on_device, slice, tensor, typed};
use crate::cpu::activation::{self, Activation};
use crate::cpu::dropout::Dropout;
use crate::cuda;
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Returns `f(z)` of every element.
pub fn activate(f: Activation, z: &Tensor) -> Result<Tensor> {
    on_device!(z, gpu => gpu.activate(f, z));
    typed!(z, T => tensor(f.forward::<T>(&slice(z)?), z.dims()))
}

/// Returns `dy f'(z)` of every element, the gradient of `z`.
pub fn activate_backward(f: Activation, z: &Tensor, dy: &Tensor) -> Result<Tensor> {
    on_device!(z, gpu => gpu.activate_backward(f, z, None, dy));
    typed!(z, T => tensor(f.backward::<T>(&slice(z)?, &slice(dy)?), z.dims()))
}

/// Returns the sum of two tensors of one shape, computed on this crate's threads: candle's own sum
/// keeps a second pool of spinning threads busy.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    on_device!(a, _gpu => a + b);
    typed!(a, T => {
        tensor(activation::sum::<T>(&slice(a)?, &slice(b)?), a.dims())
    })
}

/// Applies dropout to a token matrix. The same function, applied to the gradient, is its backward
/// pass, because it draws the same mask.
pub fn dropout(x: &Tensor, dropout: Option<&Dropout>, rows: &Rows) -> Result<Tensor> {
    let Some(dropout) = dropout else {
        return Ok(x.clone());
    };
    on_device!(x, gpu => gpu.dropout(x, dropout, rows));
    let d = x.dim(1)?;
    typed!(x, T => {
        let mut y = activation::copy::<T>(&slice(x)?);
        dropout.apply::<T>(&mut y, d, rows);
        tensor(y, x.dims())
    })
}
