//! Starting a kernel: its name, its grid and its arguments.

use candle_core::{Result, Tensor};

/// Something that runs kernels: the driver of a GPU, or the host emulator.
pub trait Launch: Sync {
    /// Launches `kernel` over a grid of blocks of `threads`, each with `shared` bytes of shared
    /// memory.
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()>;

    /// Returns the address of a contiguous tensor's first element, as the kernels read it.
    fn address(&self, tensor: &Tensor) -> Result<u64>;
}

/// One argument of a kernel, laid out as in C.
#[derive(Clone, Copy)]
pub struct Argument([u64; 8]);

impl Argument {
    /// Lays out a value of at most 64 bytes.
    pub fn new<T: Copy>(value: T) -> Argument {
        const { assert!(size_of::<T>() <= 64 && align_of::<T>() <= 8) };
        let mut words = [0u64; 8];
        // SAFETY: the value fits in and is not stricter aligned, as was just checked.
        unsafe { words.as_mut_ptr().cast::<T>().write(value) };
        Argument(words)
    }

    /// Returns the address of the value.
    pub fn pointer(&self) -> *mut std::ffi::c_void {
        self.0.as_ptr().cast_mut().cast()
    }
}
