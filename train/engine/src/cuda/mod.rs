//! The layers of [`crate::layers`] on a GPU: which kernel of `train/engine/cuda` runs on what, with which grid.
//!
//! Matrix products are candle's (cuBLAS); everything around them is a kernel of ours. The same code
//! runs in tests on the host, where an emulator runs the very same kernels (the crate `host_emulator`).
//! Tensors are f32 or bf16; statistics, adapters and their gradients are always f32.

#[cfg(feature = "cuda")]
pub mod driver;
mod launch;
#[cfg(feature = "cuda")]
pub mod upload;

use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::params::{Adapter, Adapters, AttentionSaved, Linear, Norm, NormStats};
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::cell::Cell;

pub use launch::{Argument, Launch};

thread_local! {
    /// Starts the kernels for tensors in host memory, see [`set_host_launcher`].
    static HOST_LAUNCHER: Cell<Option<&'static dyn Launch>> = const { Cell::new(None) };
}

/// Makes `launcher` run the GPU's kernels for tensors in host memory, on this thread; with `None`
/// the CPU's own kernels run. Returns what was set before. Tests set the host emulator.
pub fn set_host_launcher(launcher: Option<&'static dyn Launch>) -> Option<&'static dyn Launch> {
    HOST_LAUNCHER.replace(launcher)
}

/// The GPU layers for the device that `tensor` is on; `None` for the CPU.
pub fn of(tensor: &Tensor) -> Result<Option<Gpu>> {
    match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok(Some(Gpu(driver::launcher(device)?))),
        Device::Cpu => Ok(HOST_LAUNCHER.get().map(Gpu)),
        other => bail!("no kernels for {:?}", other.location()),
    }
}

/// Kernels' `Dropout`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Drop {
    threshold: u32,
    keep: f32,
    key: [u32; 2],
    module: u32,
    step: u32,
}

impl Drop {
    fn of(dropout: Option<&Dropout>) -> Drop {
        let Some(d) = dropout else {
            return Drop {
                threshold: 0,
                keep: 1.0,
                key: [0; 2],
                module: 0,
                step: 0,
            };
        };
        Drop {
            threshold: d.threshold(),
            keep: (1.0 / (1.0 - d.rate)) as f32,
            key: [d.seed as u32, (d.seed >> 32) as u32],
            module: d.module,
            step: d.step,
        }
    }
}

/// Kernels' `Heads`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Heads {
    offsets: u64,
    samples: u64,
    n: i32,
    d: i32,
    scale: f32,
    drop: Drop,
}

/// One tensor of an optimiser step, as the kernel `adamw` reads it (`Learnable` there).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AdamWTensor {
    /// Addresses of value and moments.
    pub state: [u64; 3],
    /// Address of the gradient.
    pub gradient: u64,
    /// Elements.
    pub n: i32,
    /// `lr / (1 - beta1^t)`.
    pub step: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
    /// `1 - lr * weight_decay`.
    pub decay: f32,
}

/// Elements that a thread takes at once; every row's width is a multiple.
const WIDE: usize = 8;
/// Threads of a block where each takes [`WIDE`] elements.
const THREADS: u32 = 256;
/// Threads of a block where each warp takes a row, and rows of such a block.
const ROW_THREADS: u32 = 128;
const ROWS_PER_BLOCK: usize = 4;
/// Rows that one block of `column_sums` adds up: `SUM_ROWS` there.
const SUM_ROWS: usize = 128;
/// Threads of attention's blocks; rows of its tiles in bf16 and in f32.
const ATTENTION_THREADS: u32 = 128;
const TILE: usize = 64;
const SMALL_TILE: usize = 32;
/// Elements between rows of a tile in shared memory beyond a head's size.
const PAD: usize = 8;
/// Head sizes that the kernels are compiled for.
const HEAD_SIZES: [usize; 3] = [16, 32, 64];

/// The layers on one device.
#[derive(Clone, Copy)]
pub struct Gpu(&'static dyn Launch);

impl Gpu {
    fn address(&self, tensor: &Tensor) -> Result<Argument> {
        Ok(Argument::of(self.0.address(tensor)?))
    }

    fn optional(&self, tensor: Option<&Tensor>) -> Result<Argument> {
        tensor.map_or(Ok(Argument::of(0u64)), |t| self.address(t))
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

    /// A thread for every [`WIDE`] of so many elements.
    fn launch_wide(&self, kernel: &str, elements: usize, arguments: &[Argument]) -> Result<()> {
        let blocks = (elements / WIDE).div_ceil(THREADS as usize);
        self.launch(kernel, [blocks, 1, 1], THREADS, 0, arguments)
    }

    /// A warp for every one of so many rows.
    fn launch_rows(&self, kernel: &str, rows: usize, arguments: &[Argument]) -> Result<()> {
        let blocks = rows.div_ceil(ROWS_PER_BLOCK);
        self.launch(kernel, [blocks, 1, 1], ROW_THREADS, 0, arguments)
    }

    /// The addresses of adapters' factors.
    fn parts<'a>(&self, factors: impl Iterator<Item = &'a Tensor>) -> Result<Argument> {
        let mut parts = [0u64; 3];
        for (part, factor) in parts.iter_mut().zip(factors) {
            *part = self.0.address(factor)?;
        }
        Ok(Argument::of(parts))
    }

    /// [`Norm::forward`] and its statistics (`n x 2`); with `stats` [`Norm::again`].
    pub fn norm(
        &self,
        norm: &Norm,
        x: &Tensor,
        stats: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (n, d) = width(x)?;
        let y = like(x)?;
        let fresh = stats.is_none();
        let stats = match stats {
            Some(stats) => stats.clone(),
            None => single((n, 2), x)?,
        };
        self.launch_rows(
            &named("layer_norm", x)?,
            n,
            &[
                self.address(x)?,
                self.address(&norm.weight)?,
                self.address(&norm.bias)?,
                self.address(&y)?,
                self.address(&stats)?,
                Argument::of(n as i32),
                Argument::of(d as i32),
                Argument::of(norm.eps as f32),
                Argument::of(i32::from(fresh)),
            ],
        )?;
        Ok((y, stats))
    }

    /// [`Norm::backward`].
    pub fn norm_backward(
        &self,
        norm: &Norm,
        dy: &Tensor,
        x: &Tensor,
        stats: &Tensor,
        plus: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (n, d) = width(x)?;
        let dx = like(x)?;
        self.launch_rows(
            &named("layer_norm_backward", x)?,
            n,
            &[
                self.address(dy)?,
                self.address(x)?,
                self.address(&norm.weight)?,
                self.address(stats)?,
                self.optional(plus)?,
                self.address(&dx)?,
                Argument::of(n as i32),
                Argument::of(d as i32),
            ],
        )?;
        Ok(dx)
    }

    /// `dropout(x W^T + b + scale B u) + plus`, and `u`; with an activation that of it as well.
    pub fn linear(
        &self,
        linear: &Linear,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
        after: After,
    ) -> Result<(Tensor, Option<Tensor>, Option<Tensor>)> {
        let (n, d) = width(x)?;
        let out = linear.weight.dim(0)?;
        let places = rows.tables(x.device())?.places;
        let mut u = None;
        let mut parts = (0, 1, 0.0, Argument::of([0u64; 3]));
        if let Some(adapters) = adapters {
            let (count, rank) = (adapters.parts.len(), adapters.parts[0].a.dim(0)?);
            let down = single((n, count * rank), x)?;
            self.launch_rows(
                &named("lora_down", x)?,
                n,
                &[
                    self.address(x)?,
                    self.parts(adapters.parts.iter().map(|p| &p.a))?,
                    self.address(&down)?,
                    self.address(&places)?,
                    Argument::of(n as i32),
                    Argument::of(d as i32),
                    Argument::of(count as i32),
                    Argument::of(rank as i32),
                    Argument::of(adapters_drop(adapters)?),
                ],
            )?;
            let b = self.parts(adapters.parts.iter().map(|p| &p.b))?;
            parts = (count, rank, adapters.scale, b);
            u = Some(down);
        }
        let y = product(x, &linear.weight.t()?)?;
        let activated = after.activation.map(|_| like(&y)).transpose()?;
        let (count, rank, scale, b) = parts;
        self.launch_wide(
            &named("finish_linear", x)?,
            n * out,
            &[
                self.address(&y)?,
                self.address(&linear.bias)?,
                b,
                self.optional(u.as_ref())?,
                self.optional(after.plus)?,
                self.optional(activated.as_ref())?,
                self.address(&places)?,
                Argument::of(n as i32),
                Argument::of(out as i32),
                Argument::of(count as i32),
                Argument::of(rank as i32),
                Argument::of(scale as f32),
                Argument::of(Drop::of(after.dropout)),
                Argument::of(after.activation.map_or(0, quick)),
            ],
        )?;
        Ok((y, u, activated))
    }

    /// [`Linear::backward`].
    pub fn linear_backward(
        &self,
        linear: &Linear,
        dy: &Tensor,
        x: &Tensor,
        u: Option<&Tensor>,
        rows: &Rows,
        adapters: Option<&Adapters>,
    ) -> Result<(Tensor, Vec<Adapter>)> {
        let (n, out) = width(dy)?;
        let d = linear.weight.dim(1)?;
        let dx = product(dy, &linear.weight)?;
        let (Some(adapters), Some(u)) = (adapters, u) else {
            return Ok((dx, Vec::new()));
        };
        let (count, rank) = (adapters.parts.len(), adapters.parts[0].a.dim(0)?);
        let part_width = out / count;
        let places = rows.tables(x.device())?.places;
        let sizes = [Argument::of(count as i32), Argument::of(rank as i32)];
        let du = single((n, count * rank), x)?;
        self.launch_rows(
            &named("lora_up_backward", dy)?,
            n,
            &[
                self.address(dy)?,
                self.parts(adapters.parts.iter().map(|p| &p.b))?,
                self.address(&du)?,
                Argument::of(n as i32),
                Argument::of(out as i32),
                sizes[0],
                sizes[1],
                Argument::of(adapters.scale as f32),
            ],
        )?;
        let drop = adapters_drop(adapters)?;
        self.launch_wide(
            &named("lora_down_backward", x)?,
            n * d,
            &[
                self.address(&dx)?,
                self.parts(adapters.parts.iter().map(|p| &p.a))?,
                self.address(&du)?,
                self.address(&places)?,
                Argument::of(n as i32),
                Argument::of(d as i32),
                sizes[0],
                sizes[1],
                Argument::of(drop),
            ],
        )?;
        let a = self.column_sums(x, &du, &places, (d, 0), (count, rank), 1.0, drop)?;
        let b = self.column_sums(
            dy,
            u,
            &places,
            (part_width, part_width),
            (count, rank),
            adapters.scale,
            Drop::of(None),
        )?;
        let grads = (0..count).map(|i| {
            Ok(Adapter {
                a: a.narrow(0, i * rank, rank)?,
                b: b.narrow(0, i * rank, rank)?.t()?.contiguous()?,
            })
        });
        Ok((dx, grads.collect::<Result<_>>()?))
    }

    /// `sum over rows of weights[row, k] * dropout(x)[row, columns of k's part]`, one row per k.
    #[allow(clippy::too_many_arguments, reason = "a kernel's operands are many")]
    fn column_sums(
        &self,
        x: &Tensor,
        weights: &Tensor,
        places: &Tensor,
        (columns, step): (usize, usize),
        (count, rank): (usize, usize),
        scale: f64,
        drop: Drop,
    ) -> Result<Tensor> {
        let (n, stride) = width(x)?;
        let (chunks, total) = (n.div_ceil(SUM_ROWS), count * rank);
        let partial = single((chunks, total * columns), x)?;
        let blocks = (columns / WIDE).div_ceil(ROW_THREADS as usize);
        self.launch(
            &named("column_sums", x)?,
            [blocks, chunks, total],
            ROW_THREADS,
            0,
            &[
                self.address(x)?,
                self.address(weights)?,
                self.address(&partial)?,
                self.address(places)?,
                Argument::of(n as i32),
                Argument::of(stride as i32),
                Argument::of(columns as i32),
                Argument::of(step as i32),
                Argument::of(count as i32),
                Argument::of(rank as i32),
                Argument::of(scale as f32),
                Argument::of(drop),
            ],
        )?;
        let sum = single((total, columns), x)?;
        self.launch(
            "add_chunks",
            [(total * columns).div_ceil(THREADS as usize), 1, 1],
            THREADS,
            0,
            &[
                self.address(&partial)?,
                self.address(&sum)?,
                Argument::of(chunks as i32),
                Argument::of((total * columns) as i32),
            ],
        )?;
        Ok(sum)
    }

    /// [`crate::layers::attention_forward`].
    pub fn attention_forward(
        &self,
        qkv: &Tensor,
        heads: usize,
        rows: &Rows,
        dropout: Option<&Dropout>,
    ) -> Result<(Tensor, AttentionSaved)> {
        let (n, d) = (rows.len(), width(qkv)?.1 / 3);
        let head = Head::new(qkv, d, heads)?;
        let out = empty((n, d), qkv.dtype(), qkv)?;
        let lse = single((heads, n), qkv)?;
        self.launch(
            &head.kernel("attention_forward"),
            head.grid(rows, heads),
            ATTENTION_THREADS,
            head.shared(),
            &[
                self.address(qkv)?,
                self.address(&out)?,
                self.address(&lse)?,
                self.heads(rows, d, heads, dropout, qkv.device())?,
            ],
        )?;
        Ok((out, AttentionSaved::Device(lse)))
    }

    #[allow(clippy::too_many_arguments, reason = "a kernel's operands are many")]
    /// [`crate::layers::attention_backward`]; `lse` is what the forward pass saved.
    pub fn attention_backward(
        &self,
        qkv: &Tensor,
        heads: usize,
        rows: &Rows,
        dropout: Option<&Dropout>,
        out: &Tensor,
        lse: &Tensor,
        d_out: &Tensor,
    ) -> Result<Tensor> {
        let (n, d) = (rows.len(), width(qkv)?.1 / 3);
        let head = Head::new(qkv, d, heads)?;
        let delta = single((heads, n), qkv)?;
        self.launch_rows(
            &named("attention_delta", qkv)?,
            n * heads,
            &[
                self.address(out)?,
                self.address(d_out)?,
                self.address(&delta)?,
                Argument::of(n as i32),
                Argument::of(d as i32),
                Argument::of(heads as i32),
            ],
        )?;
        let d_qkv = like(qkv)?;
        let arguments = [
            self.address(qkv)?,
            self.address(d_out)?,
            self.address(lse)?,
            self.address(&delta)?,
            self.address(&d_qkv)?,
            self.heads(rows, d, heads, dropout, qkv.device())?,
        ];
        for kernel in ["attention_backward_q", "attention_backward_kv"] {
            let grid = head.grid(rows, heads);
            self.launch(
                &head.kernel(kernel),
                grid,
                ATTENTION_THREADS,
                head.shared(),
                &arguments,
            )?;
        }
        Ok(d_qkv)
    }

    fn heads(
        &self,
        rows: &Rows,
        d: usize,
        heads: usize,
        dropout: Option<&Dropout>,
        device: &Device,
    ) -> Result<Argument> {
        let tables = rows.tables(device)?;
        Ok(Argument::of(Heads {
            offsets: self.0.address(&tables.offsets)?,
            samples: self.0.address(&tables.samples)?,
            n: rows.len() as i32,
            d: d as i32,
            scale: (1.0 / ((d / heads) as f64).sqrt()) as f32,
            drop: Drop::of(dropout),
        }))
    }

    /// [`crate::layers::activate`].
    pub fn activate(&self, f: Activation, z: &Tensor) -> Result<Tensor> {
        let y = like(z)?;
        let arguments = [
            self.address(z)?,
            self.address(&y)?,
            Argument::of((z.elem_count() / WIDE) as u32),
            Argument::of(quick(f)),
        ];
        self.launch_wide(&named("activate", z)?, z.elem_count(), &arguments)?;
        Ok(y)
    }

    /// [`crate::layers::activate_backward`].
    pub fn activate_backward(&self, f: Activation, z: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let dz = like(z)?;
        let arguments = [
            self.address(z)?,
            self.address(dy)?,
            self.address(&dz)?,
            Argument::of((z.elem_count() / WIDE) as u32),
            Argument::of(quick(f)),
        ];
        self.launch_wide(&named("activate_backward", z)?, z.elem_count(), &arguments)?;
        Ok(dz)
    }

    /// [`crate::layers::dropout`].
    pub fn dropout(&self, x: &Tensor, dropout: &Dropout, rows: &Rows) -> Result<Tensor> {
        let (n, d) = width(x)?;
        let y = like(x)?;
        let arguments = [
            self.address(x)?,
            self.address(&y)?,
            self.address(&rows.tables(x.device())?.places)?,
            Argument::of(n as i32),
            Argument::of(d as i32),
            Argument::of(Drop::of(Some(dropout))),
        ];
        self.launch_wide(&named("dropout", x)?, n * d, &arguments)?;
        Ok(y)
    }

    /// Patches as rows in the number type of `like`; `input` is `inputs x (channels * rows * cols)`,
    /// f32. `sizes`: channels, rows, cols, patch, row stride, column stride, patches down and across.
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
            Argument::of(total as u32),
        ];
        arguments.extend(sizes.map(|n| Argument::of(n as i32)));
        arguments.push(Argument::of(i32::from(transposed)));
        let blocks = total.div_ceil(THREADS as usize);
        self.launch(
            &named("cut_patches", &out)?,
            [blocks, 1, 1],
            THREADS,
            0,
            &arguments,
        )?;
        Ok(out)
    }

    /// One AdamW step of all tensors in the table; writes values and moments where they lie.
    pub fn adamw(
        &self,
        table: &[AdamWTensor],
        betas: [f64; 2],
        eps: f64,
        device: &Device,
    ) -> Result<()> {
        const WORDS: usize = size_of::<AdamWTensor>() / 4;
        // SAFETY: the struct is `repr(C)`, of 32- and 64-bit numbers without gaps.
        let words: Vec<u32> = table
            .iter()
            .flat_map(|m| unsafe { std::mem::transmute_copy::<AdamWTensor, [u32; WORDS]>(m) })
            .collect();
        let rows = Tensor::from_vec(words, (table.len(), WORDS), device)?;
        let arguments = [
            self.address(&rows)?,
            Argument::of((1.0 - betas[0]) as f32),
            Argument::of(betas[1] as f32),
            Argument::of((1.0 - betas[1]) as f32),
            Argument::of(eps as f32),
        ];
        let largest = table.iter().map(|m| m.n as usize).max().unwrap_or(0);
        let blocks = largest.div_ceil(THREADS as usize).min(1024);
        self.launch("adamw", [blocks, table.len(), 1], THREADS, 0, &arguments)
    }

    /// The address of a tensor that [`Gpu::adamw`] is to read or write.
    pub fn address_of(&self, tensor: &Tensor) -> Result<u64> {
        self.0.address(tensor)
    }
}

/// What follows a linear layer.
#[derive(Clone, Copy, Default)]
pub struct After<'a> {
    /// Falls on the layer's output.
    pub dropout: Option<&'a Dropout>,
    /// Is added then.
    pub plus: Option<&'a Tensor>,
    /// Is applied then, into a tensor of its own.
    pub activation: Option<Activation>,
}

/// Sizes of attention's kernels for one head size and number type.
struct Head {
    dim: usize,
    single: bool,
}

impl Head {
    fn new(qkv: &Tensor, d: usize, heads: usize) -> Result<Head> {
        let dim = d / heads;
        if !HEAD_SIZES.contains(&dim) {
            bail!("the GPU's attention is compiled for heads of {HEAD_SIZES:?} numbers, not {dim}");
        }
        Ok(Head {
            dim,
            single: qkv.dtype() == DType::F32,
        })
    }

    fn kernel(&self, name: &str) -> String {
        let suffix = if self.single { "f32" } else { "bf16" };
        format!("{name}_{suffix}_{}", self.dim)
    }

    fn grid(&self, rows: &Rows, heads: usize) -> [usize; 3] {
        let tile = if self.single { SMALL_TILE } else { TILE };
        let lengths = rows.offsets.windows(2).map(|ends| ends[1] - ends[0]);
        let longest = lengths.max().unwrap_or(0);
        [longest.div_ceil(tile), heads, rows.sequences()]
    }

    /// Two tiles and two numbers per row.
    fn shared(&self) -> usize {
        if self.single {
            2 * SMALL_TILE * (self.dim + 1) * 4
        } else {
            2 * TILE * ((self.dim + PAD) * 2 + 4)
        }
    }
}

/// The adapters' dropout: one stream after the other, as the kernels count them.
fn adapters_drop(adapters: &Adapters) -> Result<Drop> {
    let first = adapters.dropout.first();
    for (i, dropout) in adapters.dropout.iter().enumerate() {
        if first.is_some_and(|first| dropout.module != first.module + i as u32) {
            bail!("adapters of one layer draw from neighbouring streams");
        }
    }
    Ok(Drop::of(first))
}

fn quick(f: Activation) -> i32 {
    i32::from(f == Activation::QuickGelu)
}

/// Rows and columns; columns come in groups of [`WIDE`].
fn width(x: &Tensor) -> Result<(usize, usize)> {
    let (n, d) = x.dims2()?;
    if d % WIDE != 0 {
        bail!("the GPU's kernels take widths that are multiples of {WIDE}, not {d}");
    }
    Ok((n, d))
}

/// A kernel's name for the number type of `x`.
fn named(kernel: &str, x: &Tensor) -> Result<String> {
    match x.dtype() {
        DType::F32 => Ok(format!("{kernel}_f32")),
        DType::BF16 => Ok(format!("{kernel}_bf16")),
        other => bail!("the GPU's kernels run in f32 and bf16, not in {other:?}"),
    }
}

/// A tensor that a kernel is about to fill.
fn empty(shape: (usize, usize), dtype: DType, on: &Tensor) -> Result<Tensor> {
    // SAFETY: every caller hands it to a kernel that writes all of it before anything reads it.
    unsafe { Tensor::empty(shape, dtype, on.device()) }
}

fn like(x: &Tensor) -> Result<Tensor> {
    empty(x.dims2()?, x.dtype(), x)
}

fn single(shape: (usize, usize), on: &Tensor) -> Result<Tensor> {
    empty(shape, DType::F32, on)
}

/// The matrix product; candle's on the host has no bf16, which tests need.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        return a.matmul(&b)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

/// Statistics as a device keeps them.
pub fn stats_of(stats: &NormStats) -> Result<&Tensor> {
    match stats {
        NormStats::Device(stats) => Ok(stats),
        _ => bail!("statistics of another device"),
    }
}

/// Attention's state as a device keeps it.
pub fn saved_of(saved: &AttentionSaved) -> Result<&Tensor> {
    match saved {
        AttentionSaved::Device(lse) => Ok(lse),
        _ => bail!("attention state of another device"),
    }
}
