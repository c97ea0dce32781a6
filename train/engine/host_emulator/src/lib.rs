//! The GPU's kernels on the host, for tests: `train/engine/cuda/kernels.cu`, compiled by the C++
//! compiler with the emulator in `platform.h`. It is slow, but the source is the same line by line.

#![allow(
    clippy::unwrap_used,
    reason = "only tests use this crate, and may panic"
)]

use candle_core::{DType, Result, Storage, Tensor, bail};
use engine::cuda::{Argument, Kernel, Launch, LinearProduct, Mark, set_host_launcher};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

/// The type of the function `emulate` of `platform.h`.
type Emulate =
    unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *const *mut c_void) -> *const c_char;

/// Compiled kernels, loaded into this process.
struct HostEmulator {
    function: Emulate,
    // The library stays loaded as long as its function can be called.
    _library: libloading::Library,
    /// Held while a grid runs, because `platform.h` keeps its state in global variables.
    running: Mutex<()>,
}

/// Returns the host emulator, or `None` if there is no C++ compiler.
pub fn launcher() -> Option<&'static dyn Launch> {
    loaded().map(|e| e as &dyn Launch)
}

/// Runs `body` with the GPU's kernels in place of the CPU's on this thread. Returns `None` and
/// reports a skipped test if there is no C++ compiler.
pub fn emulate<R>(body: impl FnOnce() -> R) -> Option<R> {
    let Some(launcher) = launcher() else {
        let reason = "no C++ compiler to build the GPU's kernels for the host";
        util::skip::skip(util::skip::Missing::Material, reason);
        return None;
    };
    let before = set_host_launcher(Some(launcher));
    let result = body();
    set_host_launcher(before);
    Some(result)
}

/// Runs `body` as [`emulate`] does, with products that add bias and residual themselves.
pub fn emulate_with_linear_products<R>(body: impl FnOnce() -> R) -> Option<R> {
    let emulator = loaded()?;
    let with_products: &'static dyn Launch = Box::leak(Box::new(WithLinearProducts(emulator)));
    emulate(|| {
        set_host_launcher(Some(with_products));
        body()
    })
}

/// The emulator with the products of cuBLASLt, made of candle's operations.
struct WithLinearProducts(&'static HostEmulator);

impl Launch for WithLinearProducts {
    fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        self.0.launch(kernel, grid, threads, shared, arguments)
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        self.0.address(tensor)
    }

    fn mark(&self) -> Result<Mark> {
        self.0.mark()
    }

    /// Sums in f32 and rounds once at the end; the bias is rounded to the layer's numbers before.
    fn linear_product(&self, product: &LinearProduct) -> Result<Option<Tensor>> {
        let LinearProduct {
            linear,
            x,
            residual,
        } = product;
        let single = |t: &Tensor| t.to_dtype(DType::F32);
        let bias = single(&linear.bias.to_dtype(x.dtype())?)?;
        let y = single(x)?.matmul(&single(&linear.weight)?.t()?)?;
        let mut y = y.broadcast_add(&bias)?;
        if let Some(residual) = residual {
            y = (y + single(residual)?)?;
        }
        Ok(Some(y.to_dtype(x.dtype())?))
    }
}

/// Runs `body` with the CPU's own kernels, also within [`emulate`].
pub fn on_cpu<R>(body: impl FnOnce() -> R) -> R {
    let before = set_host_launcher(None);
    let result = body();
    set_host_launcher(before);
    result
}

fn loaded() -> Option<&'static HostEmulator> {
    static LOADED: OnceLock<Option<HostEmulator>> = OnceLock::new();
    LOADED.get_or_init(|| load("../cuda/kernels.cu")).as_ref()
}

/// Compiles a source file, named relative to this crate's folder, and loads it.
fn load(source: &str) -> Option<HostEmulator> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("kernels.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-x", "c++"]);
    let status = command.arg(source).arg("-o").arg(&library).status().ok()?;
    assert!(status.success(), "the kernels do not compile for the host");
    // SAFETY: the library was just made from our own source; it has no initialisers but its tables.
    let library = unsafe { libloading::Library::new(&library) }.unwrap();
    // SAFETY: the function has this signature in `platform.h`.
    let function = unsafe { *library.get::<Emulate>(b"emulate").unwrap() };
    Some(HostEmulator {
        function,
        _library: library,
        running: Mutex::new(()),
    })
}

impl Launch for HostEmulator {
    fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        let name = CString::new(kernel.to_string()).map_err(candle_core::Error::wrap)?;
        let pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let _running = self.running.lock().unwrap();
        // SAFETY: name and arguments live through the call; the arguments are those that the kernel
        // of that name declares, which the tests of every kernel show.
        let error = unsafe {
            (self.function)(
                name.as_ptr(),
                grid.as_ptr(),
                threads,
                shared,
                pointers.as_ptr(),
            )
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: a string that lives until the next call, which `running` excludes.
        bail!("{}", unsafe { CStr::from_ptr(error) }.to_string_lossy())
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        host_address(tensor)
    }

    fn linear_product(&self, _product: &LinearProduct) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn mark(&self) -> Result<Mark> {
        Ok(Mark::Host(Instant::now()))
    }
}

/// Returns the address of the first element of a contiguous tensor on the CPU.
fn host_address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("a kernel was given a tensor that is not contiguous: {layout:?}")
    };
    let Storage::Cpu(cpu) = &*storage else {
        bail!("a host kernel was given a tensor on another device")
    };
    let base = match tensor.dtype() {
        DType::F32 => cpu.as_slice::<f32>()?.as_ptr() as u64,
        DType::BF16 => cpu.as_slice::<half::bf16>()?.as_ptr() as u64,
        DType::U32 => cpu.as_slice::<u32>()?.as_ptr() as u64,
        other => bail!("no kernel reads {other:?}"),
    };
    Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
}

#[cfg(test)]
mod tests;
