//! Starting a kernel: its name, its grid and its arguments.

use crate::params::Linear;
use candle_core::{DType, Result, Tensor};
use std::fmt;
use std::time::Instant;

/// Something that runs kernels: the driver of a GPU, or the host emulator.
pub trait Launch: Sync {
    /// Launches `kernel` over a grid of blocks of `threads`, each with `shared` bytes of shared
    /// memory.
    fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()>;

    /// Returns the address of a contiguous tensor's first element, as the kernels read it.
    fn address(&self, tensor: &Tensor) -> Result<u64>;

    /// Computes a linear layer in one product that adds bias and residual itself, or returns
    /// `None` where there is no such product.
    fn linear_product(&self, product: &LinearProduct) -> Result<Option<Tensor>>;

    /// Marks the end of all work that was launched so far.
    fn mark(&self) -> Result<Mark>;
}

/// A point in the order of a device's work.
pub enum Mark {
    /// The time at which the host emulator got there; it has finished what came before.
    Host(Instant),
    /// The event that a GPU reaches after what came before.
    #[cfg(feature = "cuda")]
    Gpu(candle_core::cuda_backend::cudarc::driver::CudaEvent),
}

impl Mark {
    /// Returns the time from this mark to a later one of the same device. Waits for the later one.
    pub(super) fn microseconds_until(&self, later: &Mark) -> Result<f64> {
        match (self, later) {
            (Mark::Host(start), Mark::Host(end)) => Ok((*end - *start).as_secs_f64() * 1e6),
            #[cfg(feature = "cuda")]
            (Mark::Gpu(start), Mark::Gpu(end)) => {
                use candle_core::cuda_backend::WrapErr;
                Ok(f64::from(start.elapsed_ms(end).w()?) * 1e3)
            }
            #[cfg(feature = "cuda")]
            _ => candle_core::bail!("two marks of different devices"),
        }
    }
}

/// A linear layer without adapters or dropout: `x W^T + b + residual`.
#[derive(Clone, Copy)]
pub struct LinearProduct<'a> {
    /// The layer.
    pub linear: &'a Linear,
    /// The layer's input, `n x in`.
    pub x: &'a Tensor,
    /// What is added to the layer's output, `n x out`.
    pub residual: Option<&'a Tensor>,
}

/// The name of a kernel: that of its template, and the variant, the number type and the head size
/// that it was compiled for.
///
/// It is a small value, so that a launch neither formats nor allocates a string: the driver
/// looks the function up by this value, and formats the name on the first launch only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    template: &'static str,
    variant: Option<&'static str>,
    dtype: Option<DType>,
    head: Option<usize>,
}

impl Kernel {
    /// Returns the kernel that was compiled for a number type, [`DType::F32`] or [`DType::BF16`].
    pub fn of(template: &'static str, dtype: DType) -> Kernel {
        Kernel {
            dtype: Some(dtype),
            ..Kernel::from(template)
        }
    }

    /// Returns the kernel that was compiled as a variant of its template.
    pub fn with_variant(self, variant: Option<&'static str>) -> Kernel {
        Kernel { variant, ..self }
    }

    /// Returns the kernel that was compiled for heads of `size` numbers.
    pub fn with_head(self, size: usize) -> Kernel {
        Kernel {
            head: Some(size),
            ..self
        }
    }
}

impl From<&'static str> for Kernel {
    /// The kernel of a name that stands for one number type alone.
    fn from(template: &'static str) -> Kernel {
        Kernel {
            template,
            variant: None,
            dtype: None,
            head: None,
        }
    }
}

impl From<&Kernel> for Kernel {
    fn from(kernel: &Kernel) -> Kernel {
        *kernel
    }
}

impl fmt::Display for Kernel {
    /// Writes the name as `kernels.cu` exports it: `attention_forward_bf16_64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.template)?;
        if let Some(variant) = self.variant {
            write!(f, "_{variant}")?;
        }
        if let Some(dtype) = self.dtype {
            write!(f, "_{}", dtype.as_str())?;
        }
        if let Some(head) = self.head {
            write!(f, "_{head}")?;
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_as_the_source_exports_them() {
        let named = |kernel: Kernel| kernel.to_string();
        assert_eq!(named("adamw".into()), "adamw");
        assert_eq!(named(Kernel::of("dropout", DType::F32)), "dropout_f32");
        assert_eq!(
            named(Kernel::of("attention_forward", DType::BF16).with_head(64)),
            "attention_forward_bf16_64"
        );
    }
}
