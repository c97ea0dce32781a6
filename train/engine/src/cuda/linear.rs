//! Linear layers with LoRA adapters.

use super::dropout::DropoutArgument;
use super::elementwise::activation_number;
use super::launch::Argument;
use super::{
    Gpu, ROW_THREADS, THREADS, VECTOR_WIDTH, dims, empty_f32, empty_like, kernel_name, product,
};
use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::params::{Adapter, Adapters, Linear};
use crate::rows::Rows;
use candle_core::{Result, Tensor, bail};

/// Rows that one block of the kernel `column_sums` adds up, `SUM_ROWS` in its source.
const SUM_ROWS: usize = 128;

/// The operations after the product of a linear layer, in this order, in the same kernel as the
/// bias.
#[derive(Clone, Copy, Default)]
pub(crate) struct LinearEpilogue<'a> {
    /// The dropout of the layer's output.
    pub dropout: Option<&'a Dropout>,
    /// The tensor that is added.
    pub residual: Option<&'a Tensor>,
    /// The activation of the sum, which is written into a tensor of its own.
    pub activation: Option<Activation>,
}

impl Gpu {
    /// Returns the addresses of one factor of each adapter.
    fn factors<'a>(&self, factors: impl Iterator<Item = &'a Tensor>) -> Result<Argument> {
        let mut parts = [0u64; 3];
        for (part, factor) in parts.iter_mut().zip(factors) {
            *part = self.0.address(factor)?;
        }
        Ok(Argument::new(parts))
    }

    /// Returns `dropout(x W^T + b + scale B u) + residual`, `u` if there are adapters, and the
    /// activation of the first if the epilogue has one.
    pub(crate) fn linear(
        &self,
        linear: &Linear,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
        epilogue: LinearEpilogue,
    ) -> Result<(Tensor, Option<Tensor>, Option<Tensor>)> {
        let (n, d) = dims(x)?;
        let out = linear.weight.dim(0)?;
        let positions = rows.tables(x.device())?.positions;
        let mut u = None;
        let mut parts = (0, 1, 0.0, Argument::new([0u64; 3]));
        if let Some(adapters) = adapters {
            let (count, rank) = (adapters.parts.len(), adapters.parts[0].a.dim(0)?);
            let down = empty_f32((n, count * rank), x)?;
            self.launch_rows(
                &kernel_name("lora_down", x)?,
                n,
                &[
                    self.address(x)?,
                    self.factors(adapters.parts.iter().map(|p| &p.a))?,
                    self.address(&down)?,
                    self.address(&positions)?,
                    Argument::new(n as i32),
                    Argument::new(d as i32),
                    Argument::new(count as i32),
                    Argument::new(rank as i32),
                    Argument::new(adapters_dropout(adapters)?),
                ],
            )?;
            let b = self.factors(adapters.parts.iter().map(|p| &p.b))?;
            parts = (count, rank, adapters.scale, b);
            u = Some(down);
        }
        let y = product(x, &linear.weight.t()?, linear.precision)?;
        let activated = epilogue.activation.map(|_| empty_like(&y)).transpose()?;
        let (count, rank, scale, b) = parts;
        self.launch_elements(
            &kernel_name("linear_epilogue", x)?,
            n * out,
            &[
                self.address(&y)?,
                self.address(&linear.bias)?,
                b,
                self.optional(u.as_ref())?,
                self.optional(epilogue.residual)?,
                self.optional(activated.as_ref())?,
                self.address(&positions)?,
                Argument::new(n as i32),
                Argument::new(out as i32),
                Argument::new(count as i32),
                Argument::new(rank as i32),
                Argument::new(scale as f32),
                Argument::new(DropoutArgument::new(epilogue.dropout)),
                Argument::new(epilogue.activation.map_or(0, activation_number)),
            ],
        )?;
        Ok((y, u, activated))
    }

    /// [`Linear::backward`].
    pub(crate) fn linear_backward(
        &self,
        linear: &Linear,
        dy: &Tensor,
        x: &Tensor,
        u: &Tensor,
        rows: &Rows,
        adapters: &Adapters,
    ) -> Result<(Tensor, Vec<Adapter>)> {
        let (n, out) = dims(dy)?;
        let d = linear.weight.dim(1)?;
        let dx = product(dy, &linear.weight, linear.precision)?;
        let (count, rank) = (adapters.parts.len(), adapters.parts[0].a.dim(0)?);
        let part_width = out / count;
        let positions = rows.tables(x.device())?.positions;
        let sizes = [Argument::new(count as i32), Argument::new(rank as i32)];
        let du = empty_f32((n, count * rank), x)?;
        self.launch_rows(
            &kernel_name("lora_up_backward", dy)?,
            n,
            &[
                self.address(dy)?,
                self.factors(adapters.parts.iter().map(|p| &p.b))?,
                self.address(&du)?,
                Argument::new(n as i32),
                Argument::new(out as i32),
                sizes[0],
                sizes[1],
                Argument::new(adapters.scale as f32),
            ],
        )?;
        let drop = adapters_dropout(adapters)?;
        self.launch_elements(
            &kernel_name("lora_down_backward", x)?,
            n * d,
            &[
                self.address(&dx)?,
                self.factors(adapters.parts.iter().map(|p| &p.a))?,
                self.address(&du)?,
                self.address(&positions)?,
                Argument::new(n as i32),
                Argument::new(d as i32),
                sizes[0],
                sizes[1],
                Argument::new(drop),
            ],
        )?;
        let a = self.column_sums(x, &du, &positions, (d, 0), (count, rank), 1.0, drop)?;
        let b = self.column_sums(
            dy,
            u,
            &positions,
            (part_width, part_width),
            (count, rank),
            adapters.scale,
            DropoutArgument::new(None),
        )?;
        let grads = (0..count).map(|i| {
            Ok(Adapter {
                a: a.narrow(0, i * rank, rank)?,
                b: b.narrow(0, i * rank, rank)?.t()?.contiguous()?,
            })
        });
        Ok((dx, grads.collect::<Result<_>>()?))
    }

    /// Returns, for each `k`, the sum over rows of `weights[row, k] * dropout(x)[row, columns of
    /// k's part]`.
    #[allow(clippy::too_many_arguments, reason = "a kernel's operands are many")]
    fn column_sums(
        &self,
        x: &Tensor,
        weights: &Tensor,
        positions: &Tensor,
        (columns, step): (usize, usize),
        (count, rank): (usize, usize),
        scale: f64,
        drop: DropoutArgument,
    ) -> Result<Tensor> {
        let (n, stride) = dims(x)?;
        let (chunks, total) = (n.div_ceil(SUM_ROWS), count * rank);
        let partial = empty_f32((chunks, total * columns), x)?;
        let blocks = (columns / VECTOR_WIDTH).div_ceil(ROW_THREADS as usize);
        self.launch(
            &kernel_name("column_sums", x)?,
            [blocks, chunks, total],
            ROW_THREADS,
            0,
            &[
                self.address(x)?,
                self.address(weights)?,
                self.address(&partial)?,
                self.address(positions)?,
                Argument::new(n as i32),
                Argument::new(stride as i32),
                Argument::new(columns as i32),
                Argument::new(step as i32),
                Argument::new(count as i32),
                Argument::new(rank as i32),
                Argument::new(scale as f32),
                Argument::new(drop),
            ],
        )?;
        let sum = empty_f32((total, columns), x)?;
        self.launch(
            "add_chunks",
            [(total * columns).div_ceil(THREADS as usize), 1, 1],
            THREADS,
            0,
            &[
                self.address(&partial)?,
                self.address(&sum)?,
                Argument::new(chunks as i32),
                Argument::new((total * columns) as i32),
            ],
        )?;
        Ok(sum)
    }
}

/// Returns the dropout of the first adapter, from whose random stream the kernels count the
/// others'.
fn adapters_dropout(adapters: &Adapters) -> Result<DropoutArgument> {
    let first = adapters.dropout.first();
    for (i, dropout) in adapters.dropout.iter().enumerate() {
        if first.is_some_and(|first| dropout.module != first.module + i as u32) {
            bail!("adapters of one layer draw from neighbouring streams");
        }
    }
    Ok(DropoutArgument::new(first))
}
