//! The parameters of layers, and the values that their forward passes save for the backward passes.

use crate::cpu::dropout::Dropout;
use crate::cpu::{attention, norm};
use crate::precision::Precision;
use crate::rows::Rows;
use candle_core::Tensor;

/// A layer normalisation over rows of width `d`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// The scale, `d`.
    pub weight: Tensor,
    /// The shift, `d`.
    pub bias: Tensor,
    /// The number that is added to the variance.
    pub eps: f64,
}

/// The mean and the reciprocal standard deviation of each row that a [`Norm`] has normalised.
#[derive(Clone)]
pub enum NormStats {
    /// On the CPU, in single precision.
    F32(norm::RowStats<f32>),
    /// On the CPU, in double precision.
    F64(norm::RowStats<f64>),
    /// On a device: `n x 2`, f32.
    Device(Tensor),
}

/// A LoRA adapter, which adds `scale b a x` to a layer's output.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The factor that projects down, `rank x in`.
    pub a: Tensor,
    /// The factor that projects up, `out x rank`.
    pub b: Tensor,
}

/// A frozen linear layer. Several layers that read the same input (query, key, value) may be
/// stacked into one.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weight, `out x in`.
    pub weight: Tensor,
    /// The bias, `out`.
    pub bias: Tensor,
    /// The precision of the layer's matrix products, if its numbers are f32.
    pub precision: Precision,
}

/// The adapters of a [`Linear`]: adapter `i` covers the `i`-th of equal slices of the output.
pub struct Adapters<'a> {
    /// One adapter for each stacked layer.
    pub parts: &'a [&'a Adapter],
    /// `alpha / rank`.
    pub scale: f64,
    /// The dropout of each part's input, each with a random stream of its own; empty for none.
    pub dropout: Vec<Dropout>,
}

/// Multi-head self-attention on one packed token matrix.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The number of heads, which share the width evenly.
    pub heads: usize,
    /// The sequences, each of which attends to itself.
    pub rows: &'a Rows,
    /// The dropout of the attention probabilities.
    pub dropout: Option<&'a Dropout>,
    /// The precision of matrix products on the CPU, if the tensors are f32.
    pub precision: Precision,
}

/// The values that the forward pass of [`Attention`] saves for its backward pass.
pub enum AttentionSaved {
    /// On the CPU, in single precision.
    F32(attention::Saved<f32>),
    /// On the CPU, in double precision.
    F64(attention::Saved<f64>),
    /// On a device: the logarithm of each softmax's denominator, `heads x n`, f32.
    Device(Tensor),
}
