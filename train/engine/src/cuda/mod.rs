//! The layers of [`crate::layers`] on a GPU: the kernel of `train/engine/cuda` that each one
//! launches, its arguments and its grid.
//!
//! Matrix products are candle's (cuBLAS); everything around them is a kernel of ours. The same code
//! runs in tests on the host, where an emulator runs the very same kernels (the crate
//! `host_emulator`). Tensors are f32 or bf16; statistics, adapters and their gradients are always
//! f32.
//!
//! The driver and the upload of batches need a CUDA toolkit to build; the rest is part of every
//! build.

#[cfg(feature = "cuda")]
pub mod driver;
mod launch;
#[cfg(feature = "cuda")]
pub mod upload;

use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::params::{Adapter, Adapters, Attention, AttentionSaved, Linear, Norm, NormStats};
use crate::precision::Precision;
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::cell::Cell;

pub use launch::{Argument, Launch};

thread_local! {
    /// Launches the kernels for tensors in host memory, see [`set_host_launcher`].
    static HOST_LAUNCHER: Cell<Option<&'static dyn Launch>> = const { Cell::new(None) };
}

/// Makes `launcher` run the GPU's kernels for tensors in host memory, on this thread; with `None`
/// the CPU's own kernels run. Returns the former launcher. Tests set the host emulator.
pub fn set_host_launcher(launcher: Option<&'static dyn Launch>) -> Option<&'static dyn Launch> {
    HOST_LAUNCHER.replace(launcher)
}

/// Returns the layers of the GPU that `tensor` is on, or `None` if it is on the CPU.
pub fn of(tensor: &Tensor) -> Result<Option<Gpu>> {
    match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok(Some(Gpu(driver::launcher(device)?))),
        Device::Cpu => Ok(HOST_LAUNCHER.get().map(Gpu)),
        other => bail!("no kernels for {:?}", other.location()),
    }
}

/// The struct `Dropout` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct DropoutArgument {
    threshold: u32,
    scale: f32,
    key: [u32; 2],
    module: u32,
    step: u32,
}

impl DropoutArgument {
    /// Converts the dropout; without one, nothing is dropped.
    fn new(dropout: Option<&Dropout>) -> DropoutArgument {
        let Some(d) = dropout else {
            return DropoutArgument {
                threshold: 0,
                scale: 1.0,
                key: [0; 2],
                module: 0,
                step: 0,
            };
        };
        DropoutArgument {
            threshold: d.threshold(),
            scale: (1.0 / (1.0 - d.rate)) as f32,
            key: [d.seed as u32, (d.seed >> 32) as u32],
            module: d.module,
            step: d.step,
        }
    }
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

/// One tensor of an optimizer step, as the kernel `adamw` reads it.
#[derive(Clone, Copy)]
pub(crate) struct AdamWTensor {
    /// The addresses of the value and of the two moments.
    pub state: [u64; 3],
    /// The address of the gradient.
    pub gradient: u64,
    /// The number of elements.
    pub n: i32,
    /// `lr / (1 - beta1^t)`.
    pub step: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
    /// `1 - lr * weight_decay`.
    pub decay: f32,
}

impl AdamWTensor {
    /// The size of the kernel's struct `AdamWTensor` in words.
    const WORDS: usize = 12;

    /// Returns the bytes of the kernel's struct as little-endian words, without padding.
    fn words(&self) -> [u32; AdamWTensor::WORDS] {
        let [value, m, v] = self.state;
        let mut words = [0; AdamWTensor::WORDS];
        for (to, address) in words.chunks_exact_mut(2).zip([value, m, v, self.gradient]) {
            to.copy_from_slice(&[address as u32, (address >> 32) as u32]);
        }
        words[8] = self.n as u32;
        let factors = [self.step, self.root_correction, self.decay];
        for (to, factor) in words[9..].iter_mut().zip(factors) {
            *to = factor.to_bits();
        }
        words
    }
}

/// Elements that a thread loads at once; the width of every matrix is a multiple.
const VECTOR_WIDTH: usize = 8;
/// Threads of a block in which each handles [`VECTOR_WIDTH`] elements.
const THREADS: u32 = 256;
/// Threads of a block in which each warp handles a row.
const ROW_THREADS: u32 = 128;
/// Rows of a block in which each warp handles a row.
const ROWS_PER_BLOCK: usize = 4;
/// Rows that one block of the kernel `column_sums` adds up, `SUM_ROWS` in its source.
const SUM_ROWS: usize = 128;
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

/// The layers on one GPU.
#[derive(Clone, Copy)]
pub struct Gpu(&'static dyn Launch);

impl Gpu {
    /// Returns the address of a tensor as an argument.
    fn address(&self, tensor: &Tensor) -> Result<Argument> {
        Ok(Argument::new(self.0.address(tensor)?))
    }

    /// Returns the address of a tensor as an argument, or a null pointer.
    fn optional(&self, tensor: Option<&Tensor>) -> Result<Argument> {
        tensor.map_or(Ok(Argument::new(0u64)), |t| self.address(t))
    }

    fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let grid = grid.map(|n| n as u32);
        self.0
            .launch(kernel, grid, threads, shared as u32, arguments)
    }

    /// Launches one thread for every [`VECTOR_WIDTH`] elements.
    fn launch_elements(&self, kernel: &str, elements: usize, arguments: &[Argument]) -> Result<()> {
        let blocks = (elements / VECTOR_WIDTH).div_ceil(THREADS as usize);
        self.launch(kernel, [blocks, 1, 1], THREADS, 0, arguments)
    }

    /// Launches one warp for every row.
    fn launch_rows(&self, kernel: &str, rows: usize, arguments: &[Argument]) -> Result<()> {
        let blocks = rows.div_ceil(ROWS_PER_BLOCK);
        self.launch(kernel, [blocks, 1, 1], ROW_THREADS, 0, arguments)
    }

    /// Returns the addresses of one factor of each adapter.
    fn factors<'a>(&self, factors: impl Iterator<Item = &'a Tensor>) -> Result<Argument> {
        let mut parts = [0u64; 3];
        for (part, factor) in parts.iter_mut().zip(factors) {
            *part = self.0.address(factor)?;
        }
        Ok(Argument::new(parts))
    }

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

    /// [`crate::layers::activate`].
    pub(crate) fn activate(&self, f: Activation, z: &Tensor) -> Result<Tensor> {
        let y = empty_like(z)?;
        let arguments = [
            self.address(z)?,
            self.address(&y)?,
            Argument::new((z.elem_count() / VECTOR_WIDTH) as u32),
            Argument::new(activation_number(f)),
        ];
        self.launch_elements(&kernel_name("activate", z)?, z.elem_count(), &arguments)?;
        Ok(y)
    }

    /// [`crate::layers::activate_backward`].
    pub(crate) fn activate_backward(
        &self,
        f: Activation,
        z: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let dz = empty_like(z)?;
        let arguments = [
            self.address(z)?,
            self.address(dy)?,
            self.address(&dz)?,
            Argument::new((z.elem_count() / VECTOR_WIDTH) as u32),
            Argument::new(activation_number(f)),
        ];
        self.launch_elements(
            &kernel_name("activate_backward", z)?,
            z.elem_count(),
            &arguments,
        )?;
        Ok(dz)
    }

    /// [`crate::layers::dropout`].
    pub(crate) fn dropout(&self, x: &Tensor, dropout: &Dropout, rows: &Rows) -> Result<Tensor> {
        let (n, d) = dims(x)?;
        let y = empty_like(x)?;
        let arguments = [
            self.address(x)?,
            self.address(&y)?,
            self.address(&rows.tables(x.device())?.positions)?,
            Argument::new(n as i32),
            Argument::new(d as i32),
            Argument::new(DropoutArgument::new(Some(dropout))),
        ];
        self.launch_elements(&kernel_name("dropout", x)?, n * d, &arguments)?;
        Ok(y)
    }

    /// Returns the patches of images as rows of the number type `dtype`; `input` is `inputs x
    /// (channels * rows * cols)`, f32. `sizes` are channels, rows, columns, patch size, row stride,
    /// column stride, patches down and patches across.
    pub fn cut_patches(
        &self,
        input: &Tensor,
        sizes: [usize; 8],
        transposed: bool,
        dtype: DType,
    ) -> Result<Tensor> {
        let [channels, _, _, patch, _, _, down, across] = sizes;
        let shape = (input.dim(0)? * down * across, channels * patch * patch);
        let out = empty(shape, dtype, input)?;
        let total = out.elem_count();
        let mut arguments = vec![
            self.address(input)?,
            self.address(&out)?,
            Argument::new(total as u32),
        ];
        arguments.extend(sizes.map(|n| Argument::new(n as i32)));
        arguments.push(Argument::new(i32::from(transposed)));
        let blocks = total.div_ceil(THREADS as usize);
        self.launch(
            &kernel_name("cut_patches", &out)?,
            [blocks, 1, 1],
            THREADS,
            0,
            &arguments,
        )?;
        Ok(out)
    }

    /// Makes one AdamW step of all tensors in the table, whose values and moments it updates in
    /// place.
    pub(crate) fn adamw(
        &self,
        table: &[AdamWTensor],
        betas: [f64; 2],
        eps: f64,
        device: &Device,
    ) -> Result<()> {
        let words: Vec<u32> = table.iter().flat_map(AdamWTensor::words).collect();
        let rows = Tensor::from_vec(words, (table.len(), AdamWTensor::WORDS), device)?;
        let arguments = [
            self.address(&rows)?,
            Argument::new((1.0 - betas[0]) as f32),
            Argument::new(betas[1] as f32),
            Argument::new((1.0 - betas[1]) as f32),
            Argument::new(eps as f32),
        ];
        let largest = table.iter().map(|m| m.n as usize).max().unwrap_or(0);
        let blocks = largest.div_ceil(THREADS as usize).min(1024);
        self.launch("adamw", [blocks, table.len(), 1], THREADS, 0, &arguments)
    }

    /// Returns the address of a tensor that [`Gpu::adamw`] is to read or write.
    pub(crate) fn address_of(&self, tensor: &Tensor) -> Result<u64> {
        self.0.address(tensor)
    }
}

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

    fn name(&self, kernel: &str) -> String {
        let suffix = if self.is_f32 { "f32" } else { "bf16" };
        format!("{kernel}_{suffix}_{}", self.dim)
    }

    /// Returns a block for each tile of the longest sequence, each head and each sequence.
    fn grid(&self, rows: &Rows, heads: usize) -> [usize; 3] {
        let tile = if self.is_f32 { TILE_F32 } else { TILE_BF16 };
        let lengths = rows.offsets.windows(2).map(|ends| ends[1] - ends[0]);
        let longest = lengths.max().unwrap_or(0);
        [longest.div_ceil(tile), heads, rows.sequences()]
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

/// Returns the number by which the kernels know an activation.
fn activation_number(f: Activation) -> i32 {
    i32::from(f == Activation::QuickGelu)
}

/// Returns the numbers of rows and columns; that of columns must be a multiple of [`VECTOR_WIDTH`].
fn dims(x: &Tensor) -> Result<(usize, usize)> {
    let (n, d) = x.dims2()?;
    if d % VECTOR_WIDTH != 0 {
        bail!("the GPU's kernels take widths that are multiples of {VECTOR_WIDTH}, not {d}");
    }
    Ok((n, d))
}

/// Returns the name of a kernel for the number type of `x`.
fn kernel_name(kernel: &str, x: &Tensor) -> Result<String> {
    match x.dtype() {
        DType::F32 => Ok(format!("{kernel}_f32")),
        DType::BF16 => Ok(format!("{kernel}_bf16")),
        other => bail!("the GPU's kernels run in f32 and bf16, not in {other:?}"),
    }
}

/// Allocates a tensor that a kernel is about to fill.
fn empty(shape: (usize, usize), dtype: DType, on: &Tensor) -> Result<Tensor> {
    // SAFETY: every caller hands it to a kernel that writes all of it before anything reads it.
    unsafe { Tensor::empty(shape, dtype, on.device()) }
}

fn empty_like(x: &Tensor) -> Result<Tensor> {
    empty(x.dims2()?, x.dtype(), x)
}

fn empty_f32(shape: (usize, usize), on: &Tensor) -> Result<Tensor> {
    empty(shape, DType::F32, on)
}

/// Returns the matrix product of two tensors on a device, or in tests on the host, for which candle
/// has no product of bf16.
#[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
pub(crate) fn product(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Tensor> {
    // candle has no argument for it, only this switch of the whole process.
    #[cfg(feature = "cuda")]
    candle_core::cuda::set_gemm_reduced_precision_f32(precision == Precision::Tf32);
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        return a.matmul(&b)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

/// Returns the statistics of a tensor on a device.
pub(crate) fn stats_of(stats: &NormStats) -> Result<&Tensor> {
    match stats {
        NormStats::Device(stats) => Ok(stats),
        _ => bail!("statistics of another device"),
    }
}

/// Returns the values that the forward pass of attention on a device has saved.
pub(crate) fn saved_of(saved: &AttentionSaved) -> Result<&Tensor> {
    match saved {
        AttentionSaved::Device(lse) => Ok(lse),
        _ => bail!("attention state of another device"),
    }
}
