//! Multi-head self-attention.

use super::host::{on_device, slice, tensor, typed};
use crate::cpu::{Real, attention};
use crate::cuda;
use crate::params::{Attention, AttentionSaved};
use candle_core::{DType, Device, Result, Tensor, bail};

/// A number type whose saved values are a variant of [`AttentionSaved`].
trait Saved: Real {
    fn wrap(saved: attention::Saved<Self>) -> AttentionSaved;
    fn unwrap(saved: &AttentionSaved) -> Result<&attention::Saved<Self>>;
}

impl Saved for f32 {
    fn wrap(saved: attention::Saved<f32>) -> AttentionSaved {
        AttentionSaved::F32(saved)
    }
    fn unwrap(saved: &AttentionSaved) -> Result<&attention::Saved<f32>> {
        match saved {
            AttentionSaved::F32(s) => Ok(s),
            _ => bail!("attention state of another precision or device"),
        }
    }
}

impl Saved for f64 {
    fn wrap(saved: attention::Saved<f64>) -> AttentionSaved {
        AttentionSaved::F64(saved)
    }
    fn unwrap(saved: &AttentionSaved) -> Result<&attention::Saved<f64>> {
        match saved {
            AttentionSaved::F64(s) => Ok(s),
            _ => bail!("attention state of another precision or device"),
        }
    }
}

impl Attention<'_> {
    /// Returns `softmax(q k^T / sqrt(dim)) v`, `n x d`, of queries, keys and values side by side
    /// (`n x 3d`).
    pub fn forward(&self, qkv: &Tensor) -> Result<(Tensor, AttentionSaved)> {
        on_device!(qkv, gpu => gpu.attention_forward(self, qkv));
        let d = qkv.dim(1)? / 3;
        typed!(qkv, T => {
            let (out, saved) = self.on_cpu(d).forward::<T>(&slice(qkv)?);
            Ok((tensor(out, (self.rows.len(), d))?, T::wrap(saved)))
        })
    }

    /// Returns the gradient of `qkv`, given the output and its gradient.
    pub fn backward(
        &self,
        qkv: &Tensor,
        out: &Tensor,
        saved: &AttentionSaved,
        d_out: &Tensor,
    ) -> Result<Tensor> {
        on_device!(qkv, gpu => {
            gpu.attention_backward(self, qkv, out, cuda::saved_of(saved)?, d_out)
        });
        let d = qkv.dim(1)? / 3;
        typed!(qkv, T => {
            let (qkv, out, d_out) = (slice(qkv)?, slice(out)?, slice(d_out)?);
            let grad = self.on_cpu(d).backward::<T>(&qkv, &out, T::unwrap(saved)?, &d_out);
            tensor(grad, (self.rows.len(), 3 * d))
        })
    }

    /// Returns the same attention for the CPU's kernels, on tokens of width `d`.
    fn on_cpu(&self, d: usize) -> attention::Attention<'_> {
        attention::Attention {
            d,
            heads: self.heads,
            rows: self.rows,
            dropout: self.dropout,
            precision: self.precision,
        }
    }
}
