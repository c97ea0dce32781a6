//! Linear layers with LoRA adapters.

use super::dropout::DropoutArgument;
use super::elementwise::activation_number;
use super::launch::{Argument, LinearProduct};
use super::{Gpu, VECTOR_WIDTH, dims, empty_f32, empty_like, kernel_name, product};
use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::params::{Adapter, Adapters, Linear, Norm};
use crate::rows::Rows;
use candle_core::{Result, Tensor, bail};

/// The operations after the product of a linear layer, in this order, in the same kernel as the
/// bias.
#[derive(Clone, Copy, Default)]
pub(crate) struct LinearEpilogue<'a> {
    /// The dropout of the layer's output.
    pub dropout: Option<&'a Dropout>,
    /// The tensor that is added.
    pub residual: Option<&'a Tensor>,
    /// The activation function that is applied to the sum.
    pub activation: Option<Activation>,
    /// Whether the activation takes the place of the sum instead of a tensor of its own.
    pub in_place: bool,
}

/// Adapters with the low-rank activation `u` of the rows, or its gradient.
#[derive(Clone, Copy)]
pub(crate) struct Lora<'a> {
    pub adapters: &'a Adapters<'a>,
    pub rows: &'a Rows,
    /// `n x parts*rank`.
    pub u: &'a Tensor,
}

/// The normalisation of a linear layer's input, for its backward pass.
#[derive(Clone, Copy)]
pub(crate) struct InputNorm<'a> {
    pub norm: &'a Norm,
    pub stats: &'a Tensor,
    /// The gradient that reaches the norm's input by a residual connection.
    pub residual: Option<&'a Tensor>,
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

    /// Returns the last arguments of the kernels that project `n x d` numbers down: A, u,
    /// positions, sizes and dropout.
    pub(super) fn down_arguments(
        &self,
        lora: Option<Lora>,
        (n, d): (usize, usize),
    ) -> Result<[Argument; 8]> {
        let mut a = Argument::new([0u64; 3]);
        let (mut u, mut positions) = (None, self.optional(None)?);
        let (mut parts, mut rank, mut drop) = (0, 1, DropoutArgument::new(None));
        if let Some(Lora {
            adapters,
            rows,
            u: own,
        }) = lora
        {
            a = self.factors(adapters.parts.iter().map(|p| &p.a))?;
            (parts, rank) = sizes(adapters)?;
            drop = adapters_dropout(adapters)?;
            u = Some(own);
            positions = self.dropped_positions(rows, !adapters.dropout.is_empty(), own)?;
        }
        Ok([
            a,
            self.optional(u)?,
            positions,
            Argument::new(n as i32),
            Argument::new(d as i32),
            Argument::new(parts as i32),
            Argument::new(rank as i32),
            Argument::new(drop),
        ])
    }

    /// Returns `u = dropout(x) A^T`, `n x parts*rank`.
    pub(crate) fn lora_down(&self, x: &Tensor, rows: &Rows, adapters: &Adapters) -> Result<Tensor> {
        let (n, d) = dims(x)?;
        let u = empty_u(x, adapters)?;
        let lora = Lora {
            adapters,
            rows,
            u: &u,
        };
        let mut arguments = vec![self.address(x)?];
        arguments.extend(self.down_arguments(Some(lora), (n, d))?);
        self.launch_rows(kernel_name("lora_down", x)?, n, &arguments)?;
        Ok(u)
    }

    /// Returns `dropout(x W^T + b + scale B u) + residual`, and its activation if the epilogue has
    /// one.
    pub(crate) fn linear(
        &self,
        linear: &Linear,
        x: &Tensor,
        rows: &Rows,
        lora: Option<Lora>,
        epilogue: LinearEpilogue,
    ) -> Result<(Tensor, Option<Tensor>)> {
        // Only the matrix product reads `x`, whose width may be any: 588 where an image's patches have
        // 14 x 14 pixels.
        let (n, d) = x.dims2()?;
        let out = linear.weight.dim(0)?;
        if !out.is_multiple_of(VECTOR_WIDTH) {
            bail!("the GPU's kernels take widths that are multiples of {VECTOR_WIDTH}, not {out}");
        }
        let is_aligned = d.is_multiple_of(VECTOR_WIDTH);
        if is_aligned
            && lora.is_none()
            && epilogue.dropout.is_none()
            && epilogue.activation.is_none()
        {
            let residual = epilogue.residual;
            let product = LinearProduct {
                linear,
                x,
                residual,
            };
            if let Some(y) = self.0.linear_product(&product)? {
                return Ok((y, None));
            }
        }
        let positions = self.dropped_positions(rows, epilogue.dropout.is_some(), x)?;
        let (mut count, mut rank, mut scale, mut b) = (0, 1, 0.0, Argument::new([0u64; 3]));
        if let Some(Lora { adapters, .. }) = lora {
            (count, rank) = sizes(adapters)?;
            scale = adapters.scale;
            b = self.factors(adapters.parts.iter().map(|p| &p.b))?;
        }
        let y = product(x, &linear.weight.t()?, linear.precision)?;
        let activated = match epilogue.activation {
            Some(_) if epilogue.in_place => Some(y.clone()),
            Some(_) => Some(empty_like(&y)?),
            None => None,
        };
        self.launch_elements(
            kernel_name("linear_epilogue", x)?,
            n * out,
            &[
                self.address(&y)?,
                self.address(&linear.bias)?,
                b,
                self.optional(lora.map(|lora| lora.u))?,
                self.optional(epilogue.residual)?,
                self.optional(activated.as_ref())?,
                positions,
                Argument::new(n as i32),
                Argument::new(out as i32),
                Argument::new(count as i32),
                Argument::new(rank as i32),
                Argument::new(scale as f32),
                Argument::new(DropoutArgument::new(epilogue.dropout)),
                Argument::new(epilogue.activation.map_or(0, activation_number)),
            ],
        )?;
        Ok((y, activated))
    }

    /// [`Linear::backward`], and the backward pass of the norm before the layer if there is one;
    /// `x` is then the norm's input. The gradients of the adapters are filled by [`Gpu::add_sums`].
    pub(crate) fn linear_backward(
        &self,
        linear: &Linear,
        dy: &Tensor,
        x: &Tensor,
        lora: Lora,
        norm: Option<InputNorm>,
    ) -> Result<(Tensor, Vec<Adapter>, [PartialSums; 2])> {
        let (n, out) = dims(dy)?;
        let d = linear.weight.dim(1)?;
        let Lora { adapters, rows, u } = lora;
        let d_input = product(dy, &linear.weight, linear.precision)?;
        let (count, rank) = sizes(adapters)?;
        let du = empty_u(dy, adapters)?;
        self.launch_rows(
            kernel_name("lora_up_backward", dy)?,
            n,
            &[
                self.address(dy)?,
                self.factors(adapters.parts.iter().map(|p| &p.b))?,
                self.address(&du)?,
                Argument::new(n as i32),
                Argument::new(out as i32),
                Argument::new(count as i32),
                Argument::new(rank as i32),
                Argument::new(adapters.scale as f32),
            ],
        )?;
        let d_lora = Lora { u: &du, ..lora };
        let dx = match norm {
            Some(norm) => self.norm_backward(&d_input, x, norm, Some(d_lora))?,
            None => {
                let mut arguments = vec![self.address(&d_input)?];
                arguments.extend(self.down_arguments(Some(d_lora), (n, d))?);
                self.launch_elements(kernel_name("lora_down_backward", x)?, n * d, &arguments)?;
                d_input
            }
        };
        let positions = self.dropped_positions(rows, !adapters.dropout.is_empty(), x)?;
        let a = self.column_sums(&ColumnSums {
            x,
            norm,
            weights: &du,
            positions,
            width: d,
            rank,
            scale: 1.0,
            drop: adapters_dropout(adapters)?,
            transposed: false,
        })?;
        let b = self.column_sums(&ColumnSums {
            x: dy,
            norm: None,
            weights: u,
            positions,
            width: out / count,
            rank,
            scale: adapters.scale,
            drop: DropoutArgument::new(None),
            transposed: true,
        })?;
        let grads = (0..count).map(|i| {
            let (a, b) = (a.sum.narrow(0, i, 1)?, b.sum.narrow(0, i, 1)?);
            Ok(Adapter {
                a: a.reshape((rank, d))?,
                b: b.reshape((out / count, rank))?,
            })
        });
        Ok((dx, grads.collect::<Result<_>>()?, [a, b]))
    }

    /// Sums over the rows of each chunk.
    fn column_sums(&self, sums: &ColumnSums) -> Result<PartialSums> {
        let (n, columns) = dims(sums.x)?;
        let (width, rank) = (sums.width, sums.rank);
        let total = sums.weights.dim(1)?;
        let blocks = columns.div_ceil(SUM_GROUPS * VECTOR_WIDTH);
        let chunk = (n * blocks * rank).div_ceil(TARGET_BLOCKS);
        let chunk = chunk
            .next_multiple_of(SUM_LANES)
            .clamp(MIN_CHUNK, MAX_CHUNK);
        let chunks = n.div_ceil(chunk);
        let partial = empty_f32((chunks, total * width), sums.x)?;
        self.launch(
            kernel_name("column_sums", sums.x)?,
            [blocks, chunks, rank],
            (SUM_GROUPS * SUM_LANES) as u32,
            (SUM_LANES - 1) * VECTOR_WIDTH * SUM_GROUPS * size_of::<f32>(),
            &[
                self.address(sums.x)?,
                self.optional(sums.norm.map(|norm| norm.stats))?,
                self.optional(sums.norm.map(|norm| &norm.norm.weight))?,
                self.optional(sums.norm.map(|norm| &norm.norm.bias))?,
                self.address(sums.weights)?,
                self.address(&partial)?,
                sums.positions,
                Argument::new(n as i32),
                Argument::new(columns as i32),
                Argument::new(width as i32),
                Argument::new(chunk as i32),
                Argument::new((total / rank) as i32),
                Argument::new(rank as i32),
                Argument::new(sums.scale as f32),
                Argument::new(sums.drop),
            ],
        )?;
        let sum = empty_f32((total / rank, rank * width), sums.x)?;
        let transposed_rank = if sums.transposed { rank } else { 1 };
        Ok(PartialSums {
            partial,
            sum,
            width,
            transposed_rank,
        })
    }

    /// Fills the gradients of adapters, in one launch for all of them.
    pub(crate) fn add_sums(&self, sums: &[PartialSums]) -> Result<()> {
        let Some(first) = sums.first() else {
            return Ok(());
        };
        let mut words = Vec::with_capacity(sums.len() * PartialSums::WORDS);
        let mut largest = 0;
        for sum in sums {
            for tensor in [&sum.partial, &sum.sum] {
                let address = self.0.address(tensor)?;
                words.extend([address as u32, (address >> 32) as u32]);
            }
            let (chunks, numbers) = sum.partial.dims2()?;
            words.extend([chunks, numbers, sum.width, sum.transposed_rank].map(|n| n as u32));
            largest = largest.max(numbers);
        }
        let device = first.sum.device();
        let table = Tensor::from_vec(words, (sums.len(), PartialSums::WORDS), device)?;
        self.launch(
            "add_chunks",
            [largest.div_ceil(WARP), sums.len(), 1],
            (WARP * CHUNK_LANES) as u32,
            WARP * CHUNK_LANES * size_of::<f32>(),
            &[self.address(&table)?],
        )
    }
}

/// Groups of columns of a block of the kernel `column_sums`, as in its source.
const SUM_GROUPS: usize = 96;
/// Threads for each group of columns, as in the kernel's source.
const SUM_LANES: usize = 4;
/// Blocks that a launch of `column_sums` should have: a few for each multiprocessor of the largest
/// GPUs. It is the same on all of them, so that sums have the same order.
const TARGET_BLOCKS: usize = 512;
/// Rows of a chunk at least: with fewer, the partial sums take longer to add up than the rows.
const MIN_CHUNK: usize = 16;
/// Rows of a chunk at most: the partial sums of so many are a few per cent of the rows' bytes.
const MAX_CHUNK: usize = 256;
/// Threads of a warp.
const WARP: usize = 32;
/// Warps of a block of the kernel `add_chunks`, as in its source.
const CHUNK_LANES: usize = 8;

/// For each part and `r`, the sum over rows of `scale * weights[row, part * rank + r] *
/// dropout(x)[row, columns of the part]`.
struct ColumnSums<'a> {
    x: &'a Tensor,
    /// The norm whose output takes the place of `x`.
    norm: Option<InputNorm<'a>>,
    /// `n x parts*rank`.
    weights: &'a Tensor,
    positions: Argument,
    /// The columns of a part: all of `x`, or a slice of its own.
    width: usize,
    rank: usize,
    scale: f64,
    drop: DropoutArgument,
    /// Whether a part's sum is written as `width x rank` instead of `rank x width`.
    transposed: bool,
}

/// Sums over chunks of rows, whose total [`Gpu::add_sums`] writes.
pub(crate) struct PartialSums {
    /// `chunks x parts*rank*width`.
    partial: Tensor,
    /// `parts x rank*width`.
    sum: Tensor,
    width: usize,
    /// The rank if each part is written transposed, otherwise 1.
    transposed_rank: usize,
}

impl PartialSums {
    /// The size of the kernel's struct `PartialSums` in words.
    const WORDS: usize = 8;
}

/// Returns the number of parts and the rank.
fn sizes(adapters: &Adapters) -> Result<(usize, usize)> {
    Ok((adapters.parts.len(), adapters.parts[0].a.dim(0)?))
}

/// Allocates the low-rank activation of the rows of `x`, or its gradient.
pub(super) fn empty_u(x: &Tensor, adapters: &Adapters) -> Result<Tensor> {
    let (parts, rank) = sizes(adapters)?;
    empty_f32((x.dim(0)?, parts * rank), x)
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
