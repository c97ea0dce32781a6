//! Launching the kernels on an NVIDIA GPU, through the driver that candle has opened.
//!
//! `unsafe` here is for calls of the driver, whose handles live as long as the process.

use super::{Argument, Launch};
use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, result, sys};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, DeviceLocation, Result, Storage, Tensor, bail};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;

/// The kernels, compiled by `build.rs`.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
/// The compute capability that the kernels were compiled for, as nvcc writes it: 90 is 9.0. Later
/// cards translate them when they are loaded, earlier ones cannot run them.
const ARCH: &str = env!("U2A_CUDA_ARCH");
/// The first compute capability whose tensor cores multiply bf16.
const BF16_ARCH: u32 = 80;

struct Cuda {
    device: CudaDevice,
    module: sys::CUmodule,
    functions: Mutex<BTreeMap<String, usize>>,
}

// SAFETY: a module's handle may be used from any thread that has the context bound, and `launch`
// binds it.
unsafe impl Sync for Cuda {}
// SAFETY: as above.
unsafe impl Send for Cuda {}

/// Returns the launcher of `device`, whose module is loaded on the first call and stays loaded.
pub fn launcher(device: &CudaDevice) -> Result<&'static dyn Launch> {
    static ALL: Mutex<Vec<(usize, &'static Cuda)>> = Mutex::new(Vec::new());
    let DeviceLocation::Cuda { gpu_id } = device.location() else {
        bail!("not a CUDA device")
    };
    let mut all = ALL
        .lock()
        .map_err(|_| candle_core::Error::msg("a thread died while it loaded kernels"))?;
    if let Some((_, found)) = all.iter().find(|(id, _)| *id == gpu_id) {
        return Ok(*found);
    }
    device.cuda_stream().context().bind_to_thread().w()?;
    // The driver reads aligned words, and bytes in a program may have any alignment.
    let mut image = vec![0u64; KERNELS.len().div_ceil(8)];
    for (word, bytes) in image.iter_mut().zip(KERNELS.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    // SAFETY: the image is what nvcc made, whole.
    let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.w()?;
    let made: &'static Cuda = Box::leak(Box::new(Cuda {
        device: device.clone(),
        module,
        functions: Mutex::new(BTreeMap::new()),
    }));
    all.push((gpu_id, made));
    Ok(made)
}

impl Cuda {
    fn function(&self, kernel: &str) -> Result<sys::CUfunction> {
        let mut functions = self
            .functions
            .lock()
            .map_err(|_| candle_core::Error::msg("a thread died while it looked up a kernel"))?;
        if let Some(found) = functions.get(kernel) {
            return Ok(*found as sys::CUfunction);
        }
        let name = CString::new(kernel).map_err(candle_core::Error::wrap)?;
        // SAFETY: the module lives as long as the process.
        let found = unsafe { result::module::get_function(self.module, name) }.w()?;
        functions.insert(kernel.to_string(), found as usize);
        Ok(found)
    }
}

impl Launch for Cuda {
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let function = self.function(kernel)?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        // SAFETY: the arguments are those that the kernel declares (tests run every kernel with
        // them on the host); the tensors they point to are freed on this same stream, so after it.
        unsafe {
            result::launch_kernel(
                function,
                grid.into(),
                (threads, 1, 1),
                shared,
                stream.cu_stream(),
                &mut pointers,
            )
        }
        .w()
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            bail!("a kernel was given a tensor that is not contiguous: {layout:?}")
        };
        let Storage::Cuda(cuda) = &*storage else {
            bail!("a kernel was given a tensor that is not on the GPU")
        };
        let stream = self.device.cuda_stream();
        let base = match tensor.dtype() {
            DType::F32 => cuda.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
            DType::BF16 => cuda.as_cuda_slice::<half::bf16>()?.device_ptr(&stream).0,
            DType::U32 => cuda.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
            other => bail!("no kernel reads {other:?}"),
        };
        Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
    }
}

fn arch() -> u32 {
    ARCH.parse().unwrap_or(u32::MAX)
}

/// Returns the GPU's name as its driver reports it.
pub fn name(device: &CudaDevice) -> String {
    let name = device.cuda_stream().context().name();
    name.unwrap_or_else(|_| "NVIDIA GPU".to_string())
}

/// Returns whether both the kernels and the device support bf16.
pub fn has_bf16(device: &CudaDevice) -> bool {
    let capability = device.cuda_stream().context().compute_capability();
    capability.is_ok_and(|(major, _)| major * 10 >= BF16_ARCH as i32) && arch() >= BF16_ARCH
}

/// Prepares a device that was just opened. Only one stream uses its tensors, so candle need not
/// track their uses by events, and the pool keeps freed memory for the next step.
///
/// # Errors
/// The GPU is older than the compute capability that the kernels were compiled for.
pub fn prepare(device: &CudaDevice) -> Result<()> {
    let (major, minor) = device.cuda_stream().context().compute_capability().w()?;
    if ((major * 10 + minor) as u32) < arch() {
        bail!(
            "it is sm_{major}{minor}, this program was built for sm_{ARCH}: build with `just build-cuda --arch {major}{minor}`"
        );
    }
    // SAFETY: no tensor of this device is used on another stream than the one it came from.
    unsafe { device.disable_event_tracking() };
    let mut all = u64::MAX;
    // SAFETY: the attribute is a 64-bit number.
    unsafe {
        let pool = memory_pool(device)?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast())
            .result()
            .w()
    }
}

/// Returns the largest number of bytes that were in use at once since [`reset_peak_memory`], or
/// since the device was opened.
pub fn peak_memory(device: &CudaDevice) -> Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: the attribute is a 64-bit number.
    unsafe {
        let pool = memory_pool(device)?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast())
            .result()
            .w()?;
    }
    Ok(bytes)
}

/// Makes [`peak_memory`] count anew from what is in use now.
pub fn reset_peak_memory(device: &CudaDevice) -> Result<()> {
    let mut zero = 0u64;
    // SAFETY: the attribute is a 64-bit number, and 0 is the one value that may be set.
    unsafe {
        let pool = memory_pool(device)?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut zero).cast())
            .result()
            .w()
    }
}

/// Returns the pool that candle allocates from, the device's default one.
unsafe fn memory_pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the pool is written where it is asked for.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()) }
        .result()
        .w()?;
    Ok(pool)
}
