//! Multi-head self-attention.
//!
//! The bf16 kernels come with blocks of 64 and of 128 rows ([`AttentionBlocks`]). Each warp of the
//! latter reads shared memory half as often for its products, but a block of 128 rows leaves more of
//! its threads without work at the end of a sequence, and fewer blocks spread over the processors. So
//! the length of the longest sequence decides, unless the environment variable `U2A_ATTENTION` or
//! [`set_attention_blocks`] does.

use super::dropout::DropoutArgument;
use super::launch::{Argument, Kernel};
use super::{Gpu, dims, empty, empty_f32, empty_like, kernel_name};
use crate::params::{Attention, AttentionSaved};
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::cell::Cell;

/// Threads of a block of the attention kernels.
const ATTENTION_THREADS: u32 = 128;
/// Rows of a tile in shared memory of the attention kernels in bf16.
const TILE_BF16: usize = 64;
/// Rows of a block and of a tile of the attention kernels in f32.
const TILE_F32: usize = 32;
/// Length of the longest sequence from which on blocks of 128 rows are the default. At 198 tokens two
/// of them compute 224 rows and four of 64 compute 208 (warps without rows have no work), in half as
/// many blocks, which in a small batch are too few for all processors; at 1215 tokens both compute
/// 1216.
const WIDE_FROM: usize = 256;
/// Elements that a row of a bf16 tile in shared memory has beyond the size of a head.
const TILE_PADDING: usize = 8;
/// Head sizes that the attention kernels are compiled for.
const HEAD_SIZES: [usize; 3] = [16, 32, 64];

/// The variants of the bf16 attention kernels. Without dropout there are both; with it, blocks are
/// always narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionBlocks {
    /// Blocks of 64 rows.
    Narrow,
    /// Blocks of 128 rows.
    Wide,
}

thread_local! {
    /// The variant of this thread, see [`set_attention_blocks`].
    static BLOCKS: Cell<Option<AttentionBlocks>> = const { Cell::new(None) };
}

/// Makes attention without dropout on this thread use one variant for all lengths; with `None` the
/// environment variable or the length decides. Returns the former one.
pub fn set_attention_blocks(blocks: Option<AttentionBlocks>) -> Option<AttentionBlocks> {
    BLOCKS.replace(blocks)
}

/// Returns the variant for a value of `U2A_ATTENTION`.
fn blocks_of_variable(value: Option<&str>) -> Result<Option<AttentionBlocks>> {
    match value {
        None => Ok(None),
        Some("narrow") => Ok(Some(AttentionBlocks::Narrow)),
        Some("wide") => Ok(Some(AttentionBlocks::Wide)),
        Some(other) => bail!("U2A_ATTENTION={other}: it is narrow or wide, or not set"),
    }
}

/// Returns the variant that the user asked for, or that of the longest sequence.
fn choose_blocks(asked: Option<AttentionBlocks>, longest: usize, dropout: bool) -> AttentionBlocks {
    match asked {
        _ if dropout => AttentionBlocks::Narrow,
        Some(blocks) => blocks,
        None if longest < WIDE_FROM => AttentionBlocks::Narrow,
        None => AttentionBlocks::Wide,
    }
}

/// Refuses a head size that the attention kernels are not compiled for.
pub(super) fn check_head_size(dim: usize) -> Result<()> {
    if !HEAD_SIZES.contains(&dim) {
        bail!("the GPU's attention is compiled for heads of {HEAD_SIZES:?} numbers, not {dim}");
    }
    Ok(())
}

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
        let kernels = AttentionKernels::new(attention, qkv.dtype(), d)?;
        let out = empty((n, d), qkv.dtype(), qkv)?;
        let lse = empty_f32((heads, n), qkv)?;
        self.launch(
            kernels.name("attention_forward"),
            kernels.grid(heads, rows),
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
        let kernels = AttentionKernels::new(attention, qkv.dtype(), d)?;
        let delta = empty_f32((heads, n), qkv)?;
        self.launch_rows(
            kernel_name("attention_delta", qkv)?,
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
                kernels.name(kernel),
                kernels.grid(heads, rows),
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

/// The attention kernels for one head size, number type and variant.
struct AttentionKernels {
    dim: usize,
    /// Tokens of the longest sequence.
    longest: usize,
    /// The variant and whether there is dropout, or `None` in f32.
    bf16: Option<(AttentionBlocks, bool)>,
}

impl AttentionKernels {
    fn new(attention: &Attention, dtype: DType, d: usize) -> Result<AttentionKernels> {
        let dim = d / attention.heads;
        check_head_size(dim)?;
        let longest = attention.rows.longest();
        let dropout = attention.dropout.is_some();
        let bf16 = match dtype {
            DType::BF16 => {
                let variable = std::env::var("U2A_ATTENTION").ok();
                let asked = match BLOCKS.get() {
                    None => blocks_of_variable(variable.as_deref())?,
                    asked => asked,
                };
                Some((choose_blocks(asked, longest, dropout), dropout))
            }
            _ => None,
        };
        Ok(AttentionKernels { dim, longest, bf16 })
    }

    fn name(&self, template: &'static str) -> Kernel {
        let (dtype, variant) = match self.bf16 {
            None => (DType::F32, None),
            Some((AttentionBlocks::Wide, _)) => (DType::BF16, Some("wide")),
            Some((AttentionBlocks::Narrow, true)) => (DType::BF16, Some("dropout")),
            Some((AttentionBlocks::Narrow, false)) => (DType::BF16, None),
        };
        Kernel::of(template, dtype)
            .with_variant(variant)
            .with_head(self.dim)
    }

    /// Returns the number of blocks for the rows of the longest sequence, for heads and for sequences.
    fn grid(&self, heads: usize, rows: &Rows) -> [usize; 3] {
        let block = match self.bf16 {
            None => TILE_F32,
            Some((AttentionBlocks::Narrow, _)) => TILE_BF16,
            Some((AttentionBlocks::Wide, _)) => 2 * TILE_BF16,
        };
        [self.longest.div_ceil(block), heads, rows.sequences()]
    }

    /// Returns the size of two tiles and of two numbers per row, in bf16 twice: for the tiles that are
    /// read and for those that are being copied.
    fn shared_bytes(&self) -> usize {
        match self.bf16 {
            None => 2 * TILE_F32 * (self.dim + 1) * 4,
            Some(_) => 2 * 2 * TILE_BF16 * ((self.dim + TILE_PADDING) * 2 + 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_user_choose_the_blocks() {
        use AttentionBlocks::{Narrow, Wide};
        for (asked, longest, dropout, want) in [
            (None, 198, false, Narrow),
            (None, 1215, false, Wide),
            (Some(Narrow), 1215, false, Narrow),
            (Some(Wide), 41, false, Wide),
            (Some(Wide), 1215, true, Narrow),
        ] {
            assert_eq!(choose_blocks(asked, longest, dropout), want);
        }
        assert_eq!(blocks_of_variable(Some("wide")).unwrap(), Some(Wide));
        assert_eq!(blocks_of_variable(None).unwrap(), None);
        let error = blocks_of_variable(Some("128")).unwrap_err().to_string();
        assert!(
            error.contains("U2A_ATTENTION=128: it is narrow or wide"),
            "{error}"
        );
    }
}
