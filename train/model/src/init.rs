//! Initial values of learnable tensors.

use anyhow::Result;
use candle_core::{Device, Shape, Tensor};
use util::rng::Rng;

/// Returns `1 / sqrt(width)`, the bound of PyTorch's `nn.Linear` for layers that read `width`
/// numbers. It equals that of a Kaiming-uniform initialization with a = sqrt 5.
pub(crate) fn kaiming_bound(width: usize) -> f64 {
    1.0 / (width as f64).sqrt()
}

/// Draws a tensor whose numbers are uniform within `bound` of zero.
pub(crate) fn uniform(rng: &mut Rng, shape: impl Into<Shape>, bound: f64) -> Result<Tensor> {
    let shape = shape.into();
    let numbers = (0..shape.elem_count()).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32);
    Ok(Tensor::from_vec(
        numbers.collect::<Vec<f32>>(),
        shape,
        &Device::Cpu,
    )?)
}

/// Draws a tensor of normally distributed numbers with mean zero.
pub(crate) fn normal(rng: &mut Rng, shape: impl Into<Shape>, std: f64) -> Result<Tensor> {
    let shape = shape.into();
    let numbers = (0..shape.elem_count()).map(|_| (rng.normal() * std) as f32);
    Ok(Tensor::from_vec(
        numbers.collect::<Vec<f32>>(),
        shape,
        &Device::Cpu,
    )?)
}
