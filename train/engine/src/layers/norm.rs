//! Layer normalisation.

use super::host::{on_device, slice, tensor, typed};
use crate::cpu::parallel::zeros;
use crate::cpu::{Real, activation, norm};
use crate::cuda::{self, InputNorm};
use crate::params::{Norm, NormStats};
use candle_core::{DType, Device, Result, Tensor, bail};

/// A number type whose statistics are a variant of [`NormStats`].
trait Stats: Real {
    fn wrap(stats: norm::RowStats<Self>) -> NormStats;
    fn unwrap(stats: &NormStats) -> Result<&norm::RowStats<Self>>;
}

impl Stats for f32 {
    fn wrap(stats: norm::RowStats<f32>) -> NormStats {
        NormStats::F32(stats)
    }
    fn unwrap(stats: &NormStats) -> Result<&norm::RowStats<f32>> {
        match stats {
            NormStats::F32(s) => Ok(s),
            _ => bail!("statistics of another precision or device"),
        }
    }
}

impl Stats for f64 {
    fn wrap(stats: norm::RowStats<f64>) -> NormStats {
        NormStats::F64(stats)
    }
    fn unwrap(stats: &NormStats) -> Result<&norm::RowStats<f64>> {
        match stats {
            NormStats::F64(s) => Ok(s),
            _ => bail!("statistics of another precision or device"),
        }
    }
}

impl Norm {
    /// Normalises each row of `x` (`n x d`) and returns the statistics for the other functions.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, NormStats)> {
        on_device!(x, gpu => {
            let (y, stats, _) = gpu.norm(self, x, None, None)?;
            Ok((y, NormStats::Device(stats)))
        });
        typed!(x, T => {
            let (scale, shift) = (slice(&self.weight)?, slice(&self.bias)?);
            let (y, stats) = norm::layer_norm::<T>(&slice(x)?, &scale, &shift, self.eps);
            Ok((tensor(y, x.dims())?, T::wrap(stats)))
        })
    }

    /// Computes the output of [`Norm::forward`] once more from its statistics, which is cheaper
    /// than to store it for the backward pass.
    pub fn recompute(&self, x: &Tensor, stats: &NormStats) -> Result<Tensor> {
        on_device!(x, gpu => Ok(gpu.norm(self, x, Some(cuda::stats_of(stats)?), None)?.0));
        typed!(x, T => {
            let (scale, shift) = (slice(&self.weight)?, slice(&self.bias)?);
            let y = norm::normalize::<T>(&slice(x)?, &scale, &shift, T::unwrap(stats)?);
            tensor(y, x.dims())
        })
    }

    /// Returns the gradient of the input, given that of the output; `residual`, the gradient that
    /// reaches the input by a residual connection, is added to it.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        on_device!(x, gpu => {
            let norm = InputNorm { norm: self, stats: cuda::stats_of(stats)?, residual };
            gpu.norm_backward(dy, x, norm, None)
        });
        typed!(x, T => {
            let mut dx: Vec<T> = match residual {
                Some(t) => activation::copy::<T>(&slice(t)?),
                None => zeros(x.elem_count()),
            };
            let (dy, x_slice, scale) = (slice(dy)?, slice(x)?, slice(&self.weight)?);
            norm::layer_norm_backward::<T>(&dy, &x_slice, &scale, T::unwrap(stats)?, &mut dx);
            tensor(dx, x.dims())
        })
    }

    /// Returns the gradients of scale and shift, given that of the output.
    pub fn weight_gradient(
        &self,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
    ) -> Result<[Tensor; 2]> {
        let d = self.weight.elem_count();
        on_device!(x, _gpu => weight_gradient_on_device(dy, x, cuda::stats_of(stats)?));
        typed!(x, T => {
            let (dy, x, stats) = (slice(dy)?, slice(x)?, T::unwrap(stats)?);
            let (scale, shift) = norm::layer_norm_weight_gradient::<T>(&dy, &x, d, stats);
            Ok([tensor(scale, d)?, tensor(shift, d)?])
        })
    }
}

/// [`Norm::weight_gradient`] in candle's own operations: only full fine-tuning needs it.
fn weight_gradient_on_device(dy: &Tensor, x: &Tensor, stats: &Tensor) -> Result<[Tensor; 2]> {
    let (dy, x) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    let (mean, rstd) = (stats.narrow(1, 0, 1)?, stats.narrow(1, 1, 1)?);
    let h = x.broadcast_sub(&mean)?.broadcast_mul(&rstd)?;
    Ok([(&dy * h)?.sum(0)?, dy.sum(0)?])
}
