//! Multi-head self-attention.

use super::host::{on_device, slice, tensor, typed};
use crate::cpu::dropout::Dropout;
use crate::cpu::{Real, attention};
use crate::cuda;
use crate::params::AttentionSaved;
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};

trait SavedOf: Real {
    fn wrap_saved(saved: attention::Saved<Self>) -> AttentionSaved;
    fn saved_of(saved: &AttentionSaved) -> Result<&attention::Saved<Self>>;
}

impl SavedOf for f32 {
    fn wrap_saved(saved: attention::Saved<f32>) -> AttentionSaved {
        AttentionSaved::F32(saved)
    }
    fn saved_of(saved: &AttentionSaved) -> Result<&attention::Saved<f32>> {
        match saved {
            AttentionSaved::F32(s) => Ok(s),
            _ => bail!("attention state of another precision or device"),
        }
    }
}

impl SavedOf for f64 {
    fn wrap_saved(saved: attention::Saved<f64>) -> AttentionSaved {
        AttentionSaved::F64(saved)
    }
    fn saved_of(saved: &AttentionSaved) -> Result<&attention::Saved<f64>> {
        match saved {
            AttentionSaved::F64(s) => Ok(s),
            _ => bail!("attention state of another precision or device"),
        }
    }
}

/// Multi-head self-attention; `qkv` is `n x 3d`, the result `n x d`.
pub fn attention_forward(
    qkv: &Tensor,
    heads: usize,
    rows: &Rows,
    dropout: Option<&Dropout>,
) -> Result<(Tensor, AttentionSaved)> {
    on_device!(qkv, gpu => gpu.attention_forward(qkv, heads, rows, dropout));
    let d = qkv.dim(1)? / 3;
    typed!(qkv, T => {
        let (out, saved) = attention::forward::<T>(&slice(qkv)?, d, heads, rows, dropout);
        Ok((tensor(out, (rows.len(), d))?, T::wrap_saved(saved)))
    })
}

/// The gradient of `qkv`, given the output and its gradient.
pub fn attention_backward(
    qkv: &Tensor,
    heads: usize,
    rows: &Rows,
    dropout: Option<&Dropout>,
    out: &Tensor,
    saved: &AttentionSaved,
    d_out: &Tensor,
) -> Result<Tensor> {
    on_device!(qkv, gpu => gpu.attention_backward(qkv, heads, rows, dropout, out, cuda::saved_of(saved)?, d_out));
    let d = qkv.dim(1)? / 3;
    typed!(qkv, T => {
        let grad = attention::backward::<T>(&slice(qkv)?, d, heads, rows, dropout, &slice(out)?, T::saved_of(saved)?, &slice(d_out)?);
        tensor(grad, (rows.len(), 3 * d))
    })
}
