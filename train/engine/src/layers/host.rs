//! Tensors as slices for the CPU's kernels, and the choice between CPU and GPU.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor, WithDType, bail};
use std::ops::Deref;

/// Returns the body's value if the tensor is on a device with kernels of its own.
macro_rules! on_device {
    ($t:expr, $gpu:ident => $body:expr) => {
        if let Some($gpu) = cuda::of($t)? {
            return $body;
        }
    };
}
pub(super) use on_device;

/// Runs a body with `$T` bound to the number type of a tensor on the CPU.
macro_rules! typed {
    ($t:expr, $T:ident => $body:expr) => {
        match ($t.device(), $t.dtype()) {
            (Device::Cpu, DType::F32) => {
                type $T = f32;
                $body
            }
            (Device::Cpu, DType::F64) => {
                type $T = f64;
                $body
            }
            (device, dtype) => bail!("no kernel for {dtype:?} on {:?}", device.location()),
        }
    };
}
pub(super) use typed;

/// A contiguous tensor in host memory, readable as a slice.
pub(super) struct Slice<G, T> {
    storage: G,
    range: (usize, usize),
    _type: std::marker::PhantomData<T>,
}

impl<G: Deref<Target = Storage>, T: WithDType> Deref for Slice<G, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(cpu) => &cpu_slice::<T>(cpu)[self.range.0..self.range.1],
            // `slice` lets host tensors through only.
            _ => unreachable!("checked when the slice was made"),
        }
    }
}

fn cpu_slice<T: WithDType>(storage: &CpuStorage) -> &[T] {
    // `slice` has compared the types.
    storage
        .as_slice::<T>()
        .expect("type checked when the slice was made")
}

/// Borrows the elements of a contiguous tensor of type `T` on the CPU.
pub(super) fn slice<T: WithDType>(
    t: &Tensor,
) -> Result<Slice<impl Deref<Target = Storage> + '_, T>> {
    let (storage, layout): (_, &Layout) = t.storage_and_layout();
    let Some(range) = layout.contiguous_offsets() else {
        bail!("a kernel was given a tensor that is not contiguous: {layout:?}")
    };
    match &*storage {
        Storage::Cpu(cpu) => drop(cpu.as_slice::<T>()?),
        _ => bail!("a CPU kernel was given a tensor on another device"),
    }
    Ok(Slice {
        storage,
        range,
        _type: std::marker::PhantomData,
    })
}

/// Makes a tensor on the CPU of a kernel's result.
pub(super) fn tensor<T: WithDType>(
    values: Vec<T>,
    shape: impl Into<candle_core::Shape>,
) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
