//! Multi-head self-attention.

use super::dropout::DropoutArgument;
use super::launch::{Argument, Kernel};
use super::{Gpu, dims, empty, empty_f32, empty_like, kernel_name};
use crate::params::{Attention, AttentionSaved};
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Threads of a block of the attention kernels.
const ATTENTION_THREADS: u32 = 128;
/// Rows of a tile of the attention kernels in bf16.
const TILE_BF16: usize = 64;
/// Rows of a tile of the attention kernels in f32.
const TILE_F32: usize = 32;
/// Elements that a row of a bf16 tile in shared memory has beyond the size of a head.
const TILE_PADDING: usize = 8;
/// Head sizes that the attention kernels are compiled for.
const HEAD_SIZES: [usize; 3] = [16, 32, 64];

/// The struct `Attention` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct AttentionArgument {
    offsets: u64,
    samples: u64,
    n: i32,
    d: i32,
    scale: f32,
    dropout: DropoutArgument,
}

impl Gpu {
    /// [`Attention::forward`].
    pub(crate) fn attention_forward(
        &self,
        attention: &Attention,
        qkv: &Tensor,
    ) -> Result<(Tensor, AttentionSaved)> {
        let Attention { heads, rows, .. } = *attention;
        let (n, d) = (rows.len(), dims(qkv)?.1 / 3);
        let kernels = AttentionKernels::new(qkv, d, heads)?;
        let out = empty((n, d), qkv.dtype(), qkv)?;
        let lse = empty_f32((heads, n), qkv)?;
        self.launch(
            &kernels.name("attention_forward"),
            kernels.grid(rows, heads),
            ATTENTION_THREADS,
            kernels.shared_bytes(),
            &[
                self.address(qkv)?,
                self.address(&out)?,
                self.address(&lse)?,
                self.attention_argument(attention, d, qkv.device())?,
            ],
        )?;
        Ok((out, AttentionSaved::Device(lse)))
    }

    /// [`Attention::backward`]; `lse` is what the forward pass has saved.
    pub(crate) fn attention_backward(
        &self,
        attention: &Attention,
        qkv: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        d_out: &Tensor,
    ) -> Result<Tensor> {
        let Attention { heads, rows, .. } = *attention;
        let (n, d) = (rows.len(), dims(qkv)?.1 / 3);
        let kernels = AttentionKernels::new(qkv, d, heads)?;
        let delta = empty_f32((heads, n), qkv)?;
        self.launch_rows(
            &kernel_name("attention_delta", qkv)?,
            n * heads,
            &[
                self.address(out)?,
                self.address(d_out)?,
                self.address(&delta)?,
                Argument::new(n as i32),
                Argument::new(d as i32),
                Argument::new(heads as i32),
            ],
        )?;
        let d_qkv = empty_like(qkv)?;
        let arguments = [
            self.address(qkv)?,
            self.address(d_out)?,
            self.address(lse)?,
            self.address(&delta)?,
            self.address(&d_qkv)?,
            self.attention_argument(attention, d, qkv.device())?,
        ];
        for kernel in ["attention_backward_q", "attention_backward_kv"] {
            self.launch(
                &kernels.name(kernel),
                kernels.grid(rows, heads),
                ATTENTION_THREADS,
                kernels.shared_bytes(),
                &arguments,
            )?;
        }
        Ok(d_qkv)
    }

    fn attention_argument(
        &self,
        attention: &Attention,
        d: usize,
        device: &Device,
    ) -> Result<Argument> {
        let tables = attention.rows.tables(device)?;
        Ok(Argument::new(AttentionArgument {
            offsets: self.0.address(&tables.offsets)?,
            samples: self.0.address(&tables.samples)?,
            n: attention.rows.len() as i32,
            d: d as i32,
            scale: (1.0 / ((d / attention.heads) as f64).sqrt()) as f32,
            dropout: DropoutArgument::new(attention.dropout),
        }))
    }
}

/// The attention kernels for one head size and number type.
struct AttentionKernels {
    dim: usize,
    is_f32: bool,
}

impl AttentionKernels {
    fn new(qkv: &Tensor, d: usize, heads: usize) -> Result<AttentionKernels> {
        let dim = d / heads;
        if !HEAD_SIZES.contains(&dim) {
            bail!("the GPU's attention is compiled for heads of {HEAD_SIZES:?} numbers, not {dim}");
        }
        Ok(AttentionKernels {
            dim,
            is_f32: qkv.dtype() == DType::F32,
        })
    }

    fn name(&self, template: &'static str) -> Kernel {
        let dtype = if self.is_f32 { DType::F32 } else { DType::BF16 };
        Kernel::of(template, dtype).with_head(self.dim)
    }

    /// Returns a block for each tile of the longest sequence, each head and each sequence.
    fn grid(&self, rows: &Rows, heads: usize) -> [usize; 3] {
        let tile = if self.is_f32 { TILE_F32 } else { TILE_BF16 };
        [rows.longest().div_ceil(tile), heads, rows.sequences()]
    }

    /// Returns the size of two tiles and, in bf16, of two numbers per row.
    fn shared_bytes(&self) -> usize {
        if self.is_f32 {
            2 * TILE_F32 * (self.dim + 1) * 4
        } else {
            2 * TILE_BF16 * ((self.dim + TILE_PADDING) * 2 + 4)
        }
    }
}
