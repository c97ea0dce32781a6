//! Layer normalisation.

use super::launch::Argument;
use super::linear::empty_u;
use super::{
    Gpu, InputNorm, Lora, ROW_THREADS, ROWS_PER_BLOCK, dims, empty_f32, empty_like, kernel_name,
};
use crate::params::{Adapters, Norm};
use crate::rows::Rows;
use candle_core::{Result, Tensor, bail};

/// Bytes of shared memory that a block may have without asking for more.
const SHARED_MEMORY: usize = 48 * 1024;
/// The widest row that the kernels normalize backward: a block holds one of f32 for each warp.
pub(super) const MAX_WIDTH: usize = SHARED_MEMORY / (ROWS_PER_BLOCK * size_of::<f32>());

impl Gpu {
    /// [`Norm::forward`] and its statistics (`n x 2`), or [`Norm::recompute`] from `stats`; and
    /// [`Gpu::lora_down`] of the output if there are adapters.
    pub(crate) fn norm(
        &self,
        norm: &Norm,
        x: &Tensor,
        stats: Option<&Tensor>,
        lora: Option<(&Adapters, &Rows)>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let (n, d) = dims(x)?;
        let y = empty_like(x)?;
        let u = match lora {
            Some((adapters, _)) => Some(empty_u(x, adapters)?),
            None => None,
        };
        let lora = lora.zip(u.as_ref());
        let lora = lora.map(|((adapters, rows), u)| Lora { adapters, rows, u });
        let compute_stats = stats.is_none();
        let stats = match stats {
            Some(stats) => stats.clone(),
            None => empty_f32((n, 2), x)?,
        };
        let mut arguments = vec![
            self.address(x)?,
            self.address(&norm.weight)?,
            self.address(&norm.bias)?,
            self.address(&y)?,
            self.address(&stats)?,
            Argument::new(norm.eps as f32),
            Argument::new(i32::from(compute_stats)),
        ];
        arguments.extend(self.down_arguments(lora, (n, d))?);
        self.launch_rows(kernel_name("layer_norm", x)?, n, &arguments)?;
        Ok((y, stats, u))
    }

    /// [`Norm::backward`]. If there are adapters on the norm's output, their part of its gradient
    /// is added to `dy`.
    pub(crate) fn norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        norm: InputNorm,
        lora: Option<Lora>,
    ) -> Result<Tensor> {
        let (n, d) = dims(x)?;
        let dx = empty_like(x)?;
        let mut arguments = vec![
            self.address(dy)?,
            self.address(x)?,
            self.address(&norm.norm.weight)?,
            self.address(norm.stats)?,
            self.optional(norm.residual)?,
            self.address(&dx)?,
        ];
        arguments.extend(self.down_arguments(lora, (n, d))?);
        if d > MAX_WIDTH {
            bail!("a layer norm over {d} numbers: the GPU's kernels take {MAX_WIDTH} at most");
        }
        let shared = ROWS_PER_BLOCK * d * size_of::<f32>();
        let blocks = n.div_ceil(ROWS_PER_BLOCK);
        let kernel = kernel_name("layer_norm_backward", x)?;
        self.launch(kernel, [blocks, 1, 1], ROW_THREADS, shared, &arguments)?;
        Ok(dx)
    }
}
