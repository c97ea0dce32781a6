//! Layer normalisation.

use super::launch::Argument;
use super::{Gpu, dims, empty_f32, empty_like, kernel_name};
use crate::params::Norm;
use candle_core::{Result, Tensor};

impl Gpu {
    /// [`Norm::forward`] and its statistics (`n x 2`), or [`Norm::recompute`] from `stats`.
    pub(crate) fn norm(
        &self,
        norm: &Norm,
        x: &Tensor,
        stats: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (n, d) = dims(x)?;
        let y = empty_like(x)?;
        let compute_stats = stats.is_none();
        let stats = match stats {
            Some(stats) => stats.clone(),
            None => empty_f32((n, 2), x)?,
        };
        self.launch_rows(
            &kernel_name("layer_norm", x)?,
            n,
            &[
                self.address(x)?,
                self.address(&norm.weight)?,
                self.address(&norm.bias)?,
                self.address(&y)?,
                self.address(&stats)?,
                Argument::new(n as i32),
                Argument::new(d as i32),
                Argument::new(norm.eps as f32),
                Argument::new(i32::from(compute_stats)),
            ],
        )?;
        Ok((y, stats))
    }

    /// [`Norm::backward`].
    pub(crate) fn norm_backward(
        &self,
        norm: &Norm,
        dy: &Tensor,
        x: &Tensor,
        stats: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (n, d) = dims(x)?;
        let dx = empty_like(x)?;
        self.launch_rows(
            &kernel_name("layer_norm_backward", x)?,
            n,
            &[
                self.address(dy)?,
                self.address(x)?,
                self.address(&norm.weight)?,
                self.address(stats)?,
                self.optional(residual)?,
                self.address(&dx)?,
                Argument::new(n as i32),
                Argument::new(d as i32),
            ],
        )?;
        Ok(dx)
    }
}
