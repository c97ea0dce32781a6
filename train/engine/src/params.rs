//! Parameters of layers, and what their forward passes save for the backward passes.

use crate::cpu::dropout::Dropout;
use crate::cpu::{attention, norm};
use candle_core::Tensor;

/// Scale and shift of a layer normalisation, each `d`, and its epsilon.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Scale.
    pub weight: Tensor,
    /// Shift.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// Mean and reciprocal standard deviation per row.
#[derive(Clone)]
pub enum NormStats {
    /// Single precision.
    F32(norm::RowStats<f32>),
    /// Double precision.
    F64(norm::RowStats<f64>),
    /// On a device: `n x 2`, f32.
    Device(Tensor),
}

/// The two factors of a low-rank adapter: `a` is `rank x in`, `b` is `out x rank`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Projects down.
    pub a: Tensor,
    /// Projects up.
    pub b: Tensor,
}

/// A frozen linear layer, `weight` is `out x in`; several layers that read the same input may be
/// stacked into one (query, key, value).
#[derive(Clone, Debug)]
pub struct Linear {
    /// `out x in`.
    pub weight: Tensor,
    /// `out`.
    pub bias: Tensor,
}

/// Adapters on a [`Linear`]: adapter `i` covers the `i`-th of equal slices of the output.
pub struct Adapters<'a> {
    /// One per stacked layer.
    pub parts: &'a [&'a Adapter],
    /// `alpha / rank`.
    pub scale: f64,
    /// Dropout of each part's input, with a stream of its own each; empty for none.
    pub dropout: Vec<Dropout>,
}

/// What attention's backward needs beside its inputs and output.
pub enum AttentionSaved {
    /// Single precision.
    F32(attention::Saved<f32>),
    /// Double precision.
    F64(attention::Saved<f64>),
    /// On a device: the logarithm of each softmax's denominator, `heads x n`, f32.
    Device(Tensor),
}
