//! The GPU's kernels on the host, for tests: `train/cuda/kernels.cu` compiled by the C++ compiler, with
//! `platform.h` standing in for the GPU. Slow, and the same source line by line.

use super::device::{Argument, Launch, host_address};
use candle_core::{Result, Tensor, bail};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// `emulate` of `platform.h`.
type Emulate =
    unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *const *mut c_void) -> bool;

/// The kernels, loaded into this process.
pub struct Emulated {
    emulate: Emulate,
    // The library stays loaded as long as its function can be called.
    _library: libloading::Library,
    /// The stand-in runs one grid at a time.
    running: Mutex<()>,
}

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// The stand-in, where this thread has asked for it.
pub fn active() -> Option<&'static dyn Launch> {
    match ACTIVE.get() {
        true => loaded().map(|e| e as &dyn Launch),
        false => None,
    }
}

/// Runs `body` with the GPU's kernels in place of the host's; none, said aloud, where there is no C++
/// compiler.
pub fn emulating<R>(body: impl FnOnce() -> R) -> Option<R> {
    if loaded().is_none() {
        let reason = "no C++ compiler to build the GPU's kernels for the host";
        util::skip::skip(util::skip::Missing::Material, reason);
        return None;
    }
    ACTIVE.set(true);
    let result = body();
    ACTIVE.set(false);
    Some(result)
}

/// Runs `body` with the host's own kernels, wherever it is called from.
pub fn on_host<R>(body: impl FnOnce() -> R) -> R {
    let before = ACTIVE.replace(false);
    let result = body();
    ACTIVE.set(before);
    result
}

fn loaded() -> Option<&'static Emulated> {
    static LOADED: OnceLock<Option<Emulated>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref()
}

fn load() -> Option<Emulated> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("kernels.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/kernels.cu");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-x", "c++"]);
    let status = command.arg(source).arg("-o").arg(&library).status().ok()?;
    assert!(status.success(), "the kernels do not compile for the host");
    // SAFETY: the library was just made from our own source; it has no initialisers but its tables.
    let library = unsafe { libloading::Library::new(&library) }.unwrap();
    // SAFETY: this is the function's signature in `platform.h`.
    let emulate = unsafe { *library.get::<Emulate>(b"emulate").unwrap() };
    Some(Emulated {
        emulate,
        _library: library,
        running: Mutex::new(()),
    })
}

impl Launch for Emulated {
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        let name = CString::new(kernel).map_err(candle_core::Error::wrap)?;
        let pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let _one = self.running.lock().unwrap();
        // SAFETY: name and arguments live through the call; the arguments are those that the kernel
        // of that name declares, which the tests of every kernel show.
        let known = unsafe {
            (self.emulate)(
                name.as_ptr(),
                grid.as_ptr(),
                threads,
                shared,
                pointers.as_ptr(),
            )
        };
        if !known {
            bail!("no kernel {kernel}");
        }
        Ok(())
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        host_address(tensor)
    }
}
