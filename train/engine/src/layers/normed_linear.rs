//! A linear layer after a norm, as before the attention of a pre-norm block: a GPU computes the
//! adapters' part of the layer inside the norm's kernels.

use super::linear::{AdapterGradients, lora};
use crate::cuda::{self, InputNorm, LinearEpilogue};
use crate::params::{Adapters, Linear, Norm, NormStats};
use crate::rows::Rows;
use candle_core::{Result, Tensor};

/// A linear layer that reads the output of a norm, which nothing else reads.
#[derive(Clone, Copy)]
pub struct NormedLinear<'a> {
    /// The norm.
    pub norm: &'a Norm,
    /// The layer.
    pub linear: &'a Linear,
}

/// The input of a [`NormedLinear`] and what its forward pass has returned of it.
#[derive(Clone, Copy)]
pub struct NormedInput<'a> {
    /// The norm's input, `n x d`.
    pub x: &'a Tensor,
    /// The norm's statistics.
    pub stats: &'a NormStats,
    /// The low-rank activation of the adapters, if there are any.
    pub u: Option<&'a Tensor>,
}

impl NormedLinear<'_> {
    /// Returns the layer's output, the norm's statistics and, if there are adapters, their `u`, as
    /// [`Norm::forward`] and [`Linear::forward`] do.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
    ) -> Result<(Tensor, NormStats, Option<Tensor>)> {
        if let Some(gpu) = cuda::of(x)? {
            let with_rows = adapters.map(|adapters| (adapters, rows));
            let (normed, stats, u) = gpu.norm(self.norm, x, None, with_rows)?;
            let lora = lora(adapters, rows, u.as_ref());
            let epilogue = LinearEpilogue::default();
            let (y, _) = gpu.linear(self.linear, &normed, rows, lora, epilogue)?;
            return Ok((y, NormStats::Device(stats), u));
        }
        let (normed, stats) = self.norm.forward(x)?;
        let (y, u) = self.linear.forward(&normed, rows, adapters)?;
        Ok((y, stats, u))
    }

    /// Returns the gradient of the norm's input, given that of the layer's output, and adds the
    /// gradients of the adapters to `grads`. `residual`, the gradient that reaches the input by a
    /// residual connection, is added.
    pub fn backward(
        &self,
        dy: &Tensor,
        input: NormedInput,
        residual: Option<&Tensor>,
        rows: &Rows,
        adapters: Option<&Adapters>,
        grads: &mut AdapterGradients,
    ) -> Result<Tensor> {
        let NormedInput { x, stats, u } = input;
        let Some(lora) = lora(adapters, rows, u) else {
            let d_normed = self.linear.input_gradient(dy)?;
            return self.norm.backward(&d_normed, x, stats, residual);
        };
        if let Some(gpu) = cuda::of(x)? {
            let norm = InputNorm {
                norm: self.norm,
                stats: cuda::stats_of(stats)?,
                residual,
            };
            return Ok(grads.add(gpu.linear_backward(self.linear, dy, x, lora, Some(norm))?));
        }
        let normed = self.norm.recompute(x, stats)?;
        let d_normed = self
            .linear
            .backward(dy, &normed, u, rows, adapters, grads)?;
        self.norm.backward(&d_normed, x, stats, residual)
    }
}
