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

mod adamw;
#[cfg(any(feature = "cuda", test))]
mod arch;
mod attention;
#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(feature = "cuda")]
pub mod driver;
mod dropout;
mod elementwise;
mod head;
mod launch;
mod linear;
mod norm;
mod positions;
mod tokens;
pub mod trace;
#[cfg(feature = "cuda")]
pub mod upload;
mod versions;

use crate::params::{AttentionSaved, NormStats};
use crate::precision::Precision;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::cell::Cell;

pub(crate) use adamw::AdamWTensor;
pub use attention::{AttentionBlocks, set_attention_blocks};
pub use head::{Head, HeadInput, HeadResult, HeadSample, HeadToken};
pub use launch::{Argument, Kernel, Launch, LinearProduct, Mark};
pub(crate) use linear::{InputNorm, LinearEpilogue, Lora, PartialSums};
pub use versions::CudaVersions;

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

/// Refuses the sizes of a transformer for which a GPU has no kernels: its width, its number of
/// heads, and the width between the two layers of its feed-forward part.
///
/// # Errors
/// One of the sizes has no kernel; the message says which are possible.
pub fn check_sizes(width: usize, heads: usize, feed_forward: usize) -> Result<()> {
    attention::check_head_size(width / heads)?;
    if width > norm::MAX_WIDTH {
        bail!(
            "tokens of {width} numbers: the GPU's kernels take {} at most",
            norm::MAX_WIDTH
        );
    }
    if !feed_forward.is_multiple_of(VECTOR_WIDTH) {
        bail!(
            "a feed-forward part of {feed_forward} numbers: the GPU's kernels take multiples of {VECTOR_WIDTH}"
        );
    }
    Ok(())
}

/// Returns the versions of CUDA of this build and this machine, or `None` for a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn versions() -> Option<CudaVersions> {
    None
}

/// Returns the versions of CUDA of this build and this machine, or `None` for a build without CUDA.
#[cfg(feature = "cuda")]
pub fn versions() -> Option<CudaVersions> {
    Some(CudaVersions {
        // From the toolkit's cuda.h, by `build.rs`.
        toolkit: env!("U2A_CUDA_VERSION").parse().unwrap_or(0),
        driver: driver::version(),
    })
}

/// Elements that a thread loads at once; the width of every matrix is a multiple.
const VECTOR_WIDTH: usize = 8;
/// Threads of a block in which each handles [`VECTOR_WIDTH`] elements.
const THREADS: u32 = 256;
/// Threads of a block in which each warp handles a row.
const ROW_THREADS: u32 = 128;
/// Rows of a block in which each warp handles a row.
const ROWS_PER_BLOCK: usize = 4;

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
        kernel: impl Into<Kernel>,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let (kernel, grid) = (kernel.into(), grid.map(|n| n as u32));
        let launch = || {
            self.0
                .launch(kernel, grid, threads, shared as u32, arguments)
        };
        trace::record(self.0, || kernel.to_string(), launch)
    }

    /// Launches one thread for every [`VECTOR_WIDTH`] elements. The kernels number the threads in
    /// 32 bits.
    fn launch_elements(
        &self,
        kernel: impl Into<Kernel>,
        elements: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let kernel = kernel.into();
        let blocks = (elements / VECTOR_WIDTH).div_ceil(THREADS as usize);
        if blocks * THREADS as usize > u32::MAX as usize {
            bail!(
                "{elements} numbers are too many for the kernel {kernel}: use a smaller micro-batch"
            );
        }
        self.launch(kernel, [blocks, 1, 1], THREADS, 0, arguments)
    }

    /// Launches one warp for every row.
    fn launch_rows(
        &self,
        kernel: impl Into<Kernel>,
        rows: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let blocks = rows.div_ceil(ROWS_PER_BLOCK);
        self.launch(kernel, [blocks, 1, 1], ROW_THREADS, 0, arguments)
    }
}

/// Returns the numbers of rows and columns; that of columns must be a multiple of [`VECTOR_WIDTH`].
fn dims(x: &Tensor) -> Result<(usize, usize)> {
    let (n, d) = x.dims2()?;
    if d % VECTOR_WIDTH != 0 {
        bail!("the GPU's kernels take widths that are multiples of {VECTOR_WIDTH}, not {d}");
    }
    Ok((n, d))
}

/// Returns the kernel of a template for the number type of `x`.
fn kernel_name(template: &'static str, x: &Tensor) -> Result<Kernel> {
    match x.dtype() {
        DType::F32 | DType::BF16 => Ok(Kernel::of(template, x.dtype())),
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
    let multiply = || {
        if a.device().is_cpu() && a.dtype() == DType::BF16 {
            let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
            return a.matmul(&b)?.to_dtype(DType::BF16);
        }
        a.matmul(b)
    };
    let Some(Gpu(launcher)) = of(a)? else {
        return multiply();
    };
    let name = || match (a.dims(), b.dims()) {
        ([m, k], [_, n]) => format!("product {m} x {k} x {n}"),
        (a, b) => format!("product {a:?} {b:?}"),
    };
    trace::record(launcher, name, multiply)
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
