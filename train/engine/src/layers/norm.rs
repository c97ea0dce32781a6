//! Layer normalisation.

use super::host::{on_device, slice, tensor, typed};
use crate::cpu::parallel::zeros;
use crate::cpu::{Real, activation, norm};
use crate::cuda;
use crate::params::{Norm, NormStats};
use candle_core::{DType, Device, Result, Tensor, bail};

trait StatsOf: Real {
    fn wrap_stats(stats: norm::RowStats<Self>) -> NormStats;
    fn stats_of(stats: &NormStats) -> Result<&norm::RowStats<Self>>;
}

impl StatsOf for f32 {
    fn wrap_stats(stats: norm::RowStats<f32>) -> NormStats {
        NormStats::F32(stats)
    }
    fn stats_of(stats: &NormStats) -> Result<&norm::RowStats<f32>> {
        match stats {
            NormStats::F32(s) => Ok(s),
            _ => bail!("statistics of another precision or device"),
        }
    }
}

impl StatsOf for f64 {
    fn wrap_stats(stats: norm::RowStats<f64>) -> NormStats {
        NormStats::F64(stats)
    }
    fn stats_of(stats: &NormStats) -> Result<&norm::RowStats<f64>> {
        match stats {
            NormStats::F64(s) => Ok(s),
            _ => bail!("statistics of another precision or device"),
        }
    }
}

impl Norm {
    /// Normalises each row of `x` (`n x d`).
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, NormStats)> {
        on_device!(x, gpu => gpu.norm(self, x, None).map(|(y, s)| (y, NormStats::Device(s))));
        typed!(x, T => {
            let (y, stats) = norm::layer_norm::<T>(&slice(x)?, &slice(&self.weight)?, &slice(&self.bias)?, self.eps);
            Ok((tensor(y, x.dims())?, T::wrap_stats(stats)))
        })
    }

    /// The output of [`Norm::forward`] again: cheaper than keeping it.
    pub fn again(&self, x: &Tensor, stats: &NormStats) -> Result<Tensor> {
        on_device!(x, gpu => Ok(gpu.norm(self, x, Some(cuda::stats_of(stats)?))?.0));
        typed!(x, T => {
            let y = norm::layer_norm_again::<T>(&slice(x)?, &slice(&self.weight)?, &slice(&self.bias)?, T::stats_of(stats)?);
            tensor(y, x.dims())
        })
    }

    /// `plus` + the gradient of the input, given that of the output.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
        plus: Option<&Tensor>,
    ) -> Result<Tensor> {
        on_device!(x, gpu => gpu.norm_backward(self, dy, x, cuda::stats_of(stats)?, plus));
        typed!(x, T => {
            let mut dx: Vec<T> = match plus {
                Some(t) => activation::copied::<T>(&slice(t)?),
                None => zeros(x.elem_count()),
            };
            norm::layer_norm_backward::<T>(&slice(dy)?, &slice(x)?, &slice(&self.weight)?, T::stats_of(stats)?, &mut dx);
            tensor(dx, x.dims())
        })
    }
}

impl Norm {
    /// Gradients of scale and shift, given that of the output.
    pub fn weight_gradient(
        &self,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
    ) -> Result<[Tensor; 2]> {
        let d = self.weight.elem_count();
        on_device!(x, _gpu => norm_weight_gradient(dy, x, cuda::stats_of(stats)?));
        typed!(x, T => {
            let (scale, shift) = norm::layer_norm_weights::<T>(&slice(dy)?, &slice(x)?, d, T::stats_of(stats)?);
            Ok([tensor(scale, d)?, tensor(shift, d)?])
        })
    }
}

/// Gradients of a normalisation's scale and shift on a device, in candle's own operations: full
/// fine-tuning alone asks for them.
fn norm_weight_gradient(dy: &Tensor, x: &Tensor, stats: &Tensor) -> Result<[Tensor; 2]> {
    let (dy, x) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    let (mean, rstd) = (stats.narrow(1, 0, 1)?, stats.narrow(1, 1, 1)?);
    let h = x.broadcast_sub(&mean)?.broadcast_mul(&rstd)?;
    Ok([(&dy * h)?.sum(0)?, dy.sum(0)?])
}
