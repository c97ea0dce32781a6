//! Launching the kernels on an NVIDIA GPU, through the driver that candle has opened.

use super::cublaslt::{self, CublasLt};
use super::{Argument, Kernel, Launch, LinearProduct, Mark, arch, trace};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DevicePtr, DeviceRepr, LaunchConfig,
    PushKernelArg, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::{DType, Error, Result, Storage, Tensor, bail};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// The kernels, compiled by `build.rs`.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
/// The environment variable that names a file with other kernels, a fatbin or a cubin.
const KERNELS_VARIABLE: &str = "U2A_KERNELS";
/// The compute capability that the kernels were compiled for, as nvcc writes it: 90 is 9.0.
const ARCH: &str = env!("U2A_CUDA_ARCH");
/// The first compute capability whose tensor cores multiply bf16.
const BF16_ARCH: u32 = 80;

/// The kernels on one GPU, which run in the order of their launches, on the stream on which candle
/// allocates, computes and frees.
struct Cuda {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    /// The file that the module was read from, if it is not this program's own.
    file: Option<PathBuf>,
    /// The kernels that were launched before.
    functions: RwLock<HashMap<Kernel, CudaFunction>>,
    /// cuBLASLt if it was asked for and can be used.
    cublaslt: OnceLock<Option<CublasLt>>,
}

/// Returns the launcher of `device`, whose module is loaded on the first call and stays loaded.
pub fn launcher(device: &CudaDevice) -> Result<&'static dyn Launch> {
    // By the number that candle gives to each opening of a GPU, not by that of the GPU: each
    // opening has a stream of its own.
    static ALL: Mutex<Vec<(DeviceId, &'static Cuda)>> = Mutex::new(Vec::new());
    // The list is whole whatever happens to a thread that holds the lock.
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, found)) = all.iter().find(|(id, _)| *id == device.id()) {
        return Ok(*found);
    }
    let made: &'static Cuda = Box::leak(Box::new(Cuda::load(device)?));
    all.push((device.id(), made));
    Ok(made)
}

impl Cuda {
    /// Loads the kernels of the file in [`KERNELS_VARIABLE`], else those of this program.
    fn load(device: &CudaDevice) -> Result<Cuda> {
        let file = std::env::var_os(KERNELS_VARIABLE).map(PathBuf::from);
        let image = match &file {
            Some(path) => std::fs::read(path).map_err(|error| {
                let path = path.display();
                Error::msg(format!(
                    "{KERNELS_VARIABLE}: {path}: cannot be read ({error})"
                ))
            })?,
            None => KERNELS.to_vec(),
        };
        let stream = device.cuda_stream();
        let loaded = stream.context().load_module(Ptx::from_binary(image));
        let module = loaded.map_err(|error| {
            Error::msg(match &file {
                Some(path) => format!(
                    "{KERNELS_VARIABLE}: {}: the driver cannot load it ({error}); it must be a fatbin or cubin of \
                     train/engine/cuda/kernels.cu for this GPU",
                    path.display()
                ),
                None => format!("the driver cannot load the kernels for sm_{ARCH} ({error})"),
            })
        })?;
        Ok(Cuda {
            stream,
            module,
            file,
            functions: RwLock::default(),
            cublaslt: OnceLock::new(),
        })
    }

    /// Calls `launch` with a kernel's function, which is looked up by name on the first call.
    fn with_function(
        &self,
        kernel: Kernel,
        launch: impl Fn(&CudaFunction) -> Result<()>,
    ) -> Result<()> {
        // The map is whole whatever happens to a thread that holds the lock.
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&kernel) {
            return launch(function);
        }
        drop(functions);
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match functions.entry(kernel) {
            Entry::Occupied(found) => launch(found.get()),
            Entry::Vacant(vacant) => {
                let found = self.module.load_function(&kernel.to_string());
                let function = found.map_err(|error| {
                    let file = self.file.as_ref();
                    let place =
                        file.map_or("this program".to_string(), |f| f.display().to_string());
                    Error::msg(format!("no kernel {kernel} in {place} ({error})"))
                })?;
                launch(vacant.insert(function))
            }
        }
    }
}

// SAFETY: the words are plain data, and the driver copies as many bytes from their start as the
// kernel declares for this argument.
unsafe impl DeviceRepr for Argument {}

impl Cuda {
    /// Opens cuBLASLt on the first call, if it was asked for. If that fails, a note says so, and
    /// candle's cuBLAS computes the products.
    fn cublaslt(&self) -> Result<Option<&CublasLt>> {
        if let Some(opened) = self.cublaslt.get() {
            return Ok(opened.as_ref());
        }
        let opened = match cublaslt::chosen()? {
            false => None,
            true => CublasLt::new(&self.stream)
                .inspect_err(|error| eprintln!("note: cuBLAS multiplies, since {error}"))
                .ok(),
        };
        Ok(self.cublaslt.get_or_init(|| opened).as_ref())
    }
}

impl Launch for Cuda {
    fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        let config = LaunchConfig {
            grid_dim: grid.into(),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: shared,
        };
        self.with_function(kernel, |function| {
            let mut launch = self.stream.launch_builder(function);
            for argument in arguments {
                launch.arg(argument);
            }
            // SAFETY: the arguments are those that the kernel declares (tests run every kernel with
            // them on the host); the memory they point to belongs to tensors of the same stream,
            // on which it is freed after this launch.
            unsafe { launch.launch(config) }.w()?;
            Ok(())
        })
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            bail!("a kernel was given a tensor that is not contiguous: {layout:?}")
        };
        let Storage::Cuda(cuda) = &*storage else {
            bail!("a kernel was given a tensor that is not on the GPU")
        };
        let stream = &self.stream;
        let base = match tensor.dtype() {
            DType::F32 => cuda.as_cuda_slice::<f32>()?.device_ptr(stream).0,
            DType::BF16 => cuda.as_cuda_slice::<half::bf16>()?.device_ptr(stream).0,
            DType::U32 => cuda.as_cuda_slice::<u32>()?.device_ptr(stream).0,
            other => bail!("no kernel reads {other:?}"),
        };
        Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
    }

    fn linear_product(&self, product: &LinearProduct) -> Result<Option<Tensor>> {
        match self.cublaslt()? {
            Some(library) => {
                let (x, w) = (product.x.dims(), product.linear.weight.dims());
                let name = || format!("product with bias {} x {} x {}", x[0], x[1], w[0]);
                let address = |t: &Tensor| self.address(t);
                trace::record(self, name, || library.linear_product(product, address))
            }
            None => Ok(None),
        }
    }

    fn mark(&self) -> Result<Mark> {
        let with_time = sys::CUevent_flags::CU_EVENT_DEFAULT;
        Ok(Mark::Gpu(self.stream.record_event(Some(with_time)).w()?))
    }
}

/// Returns the newest version of CUDA whose programs the installed driver runs, as CUDA counts
/// versions (13000 is 13.0), or 0 if there is no driver.
pub(super) fn version() -> u32 {
    let mut version = 0;
    // SAFETY: the version is written where it is asked for; no GPU need be open.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    asked.map_or(0, |()| version as u32)
}

/// Returns the GPU's name as its driver reports it.
pub fn name(device: &CudaDevice) -> String {
    let name = device.cuda_stream().context().name();
    name.unwrap_or_else(|_| "NVIDIA GPU".to_string())
}

/// Returns whether both the kernels and the device support bf16.
pub fn has_bf16(device: &CudaDevice) -> bool {
    let capability = device.cuda_stream().context().compute_capability();
    capability.is_ok_and(|(major, _)| major * 10 >= BF16_ARCH as i32)
        && arch::number(ARCH) >= BF16_ARCH
}

/// Prepares a device that was just opened with a stream of its own, before the first tensor. Only
/// that stream uses its tensors, so candle need not track their uses by events, and the pool keeps
/// freed memory for the next step.
///
/// # Errors
/// The GPU cannot run what this program was compiled for.
pub fn prepare(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    let (major, minor) = stream.context().compute_capability().w()?;
    arch::check(ARCH, (major as u32, minor as u32)).map_err(Error::msg)?;
    if let Some(problem) = super::versions().and_then(|versions| versions.problem()) {
        bail!("{problem}");
    }
    // SAFETY: all work on tensors of this device is queued on its one stream, whichever thread
    // queues it; `upload` alone copies on another, and orders that by events of its own.
    unsafe { device.disable_event_tracking() };
    let Some(pool) = memory_pool(stream.context())? else {
        return Ok(());
    };
    let mut all = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast()) }.w()
}

/// Returns the largest number of bytes that tensors used at once since [`reset_peak_memory`], or
/// since the device was opened, with cuBLAS's workspace; 0 on a device without memory pools, which
/// counts none.
///
/// As with PyTorch, the code of kernels and the driver's own context are not in it.
pub fn peak_memory(device: &CudaDevice) -> Result<u64> {
    let stream = device.cuda_stream();
    let Some(pool) = memory_pool(stream.context())? else {
        return Ok(0);
    };
    let (major, _) = stream.context().compute_capability().w()?;
    let mut bytes = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the attribute is a 64-bit number.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.w()?;
    Ok(bytes + arch::cublas_workspace(major))
}

/// Makes [`peak_memory`] count anew from what is in use now.
pub fn reset_peak_memory(device: &CudaDevice) -> Result<()> {
    let Some(pool) = memory_pool(device.cuda_stream().context())? else {
        return Ok(());
    };
    let mut zero = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the attribute is a 64-bit number, and 0 is the one value that may be set.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut zero).cast()) }.w()
}

/// Returns the pool that candle allocates from, the device's default one, or `None` if the device
/// has none, as some shared ones of virtual machines: candle then allocates without a pool.
fn memory_pool(context: &CudaContext) -> Result<Option<sys::CUmemoryPool>> {
    if !context.has_async_alloc() {
        return Ok(None);
    }
    context.bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the pool is written where it is asked for.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) }
        .result()
        .w()?;
    Ok(Some(pool))
}
