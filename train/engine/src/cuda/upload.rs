//! Copies to a GPU while it works: from page-locked memory, on a stream of their own.
//!
//! An uploader is a ring of slots, each with a buffer on the host and one on the device. Its
//! functions are called in this order, again and again: [`Uploader::begin`] (or [`Uploader::skip`])
//! fills the next slot; [`Uploader::ready`] makes the GPU's work wait for the oldest filled one;
//! [`Uploader::finish`] marks the work on it as queued.

use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

/// The numbers that one task copies.
const CHUNK: usize = 1 << 18;

struct Slot {
    /// The page-locked buffer on the host, null before the first copy.
    host: *mut f32,
    /// The size of both buffers in numbers.
    capacity: usize,
    /// The buffer on the device.
    on_device: Option<Tensor>,
    /// The event that is recorded on the copying stream after the copy.
    copied: sys::CUevent,
    /// The event that is recorded on the working stream after all work on the slot.
    used: sys::CUevent,
}

/// Uploads one modality's inputs.
pub struct Uploader {
    device: CudaDevice,
    copying: sys::CUstream,
    slots: Vec<Slot>,
    begun: usize,
    readied: usize,
    finished: usize,
}

impl Uploader {
    /// Makes an uploader with room for `ahead` batches beside the one that the GPU works on.
    pub fn new(device: &CudaDevice, ahead: usize) -> Result<Uploader> {
        device.cuda_stream().context().bind_to_thread().w()?;
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).w();
        let slots = (0..=ahead).map(|_| {
            Ok(Slot {
                host: std::ptr::null_mut(),
                capacity: 0,
                on_device: None,
                copied: event()?,
                used: event()?,
            })
        });
        Ok(Uploader {
            device: device.clone(),
            copying: result::stream::create(result::stream::StreamKind::NonBlocking).w()?,
            slots: slots.collect::<Result<_>>()?,
            begun: 0,
            readied: 0,
            finished: 0,
        })
    }

    /// Begins to copy `values` and returns the tensor of `rows` rows that will hold them, which may
    /// be read after [`Uploader::ready`] only.
    pub fn begin(&mut self, values: &[f32], rows: usize) -> Result<Tensor> {
        let count = self.slots.len();
        let slot = &mut self.slots[self.begun % count];
        let working = self.device.cuda_stream();
        working.context().bind_to_thread().w()?;
        if slot.capacity < values.len() {
            // This is rare: it happens for the first batches and for a larger one.
            working.synchronize().w()?;
            slot.release()?;
            // SAFETY: freed in `release` alone.
            let host = unsafe { result::malloc_host(values.len() * 4, 0) }.w()?;
            slot.host = host.cast();
            slot.capacity = values.len();
            // SAFETY: filled by the copy below before `ready` lets anything read it.
            let buffer = unsafe {
                Tensor::empty(values.len(), DType::F32, &Device::Cuda(self.device.clone()))?
            };
            // The allocation is queued on the working stream, and the copy must follow it.
            working.synchronize().w()?;
            slot.on_device = Some(buffer);
        } else {
            // SAFETY: the event was made in `new`; the host's buffer is free once the last copy is
            // done.
            unsafe { sys::cuEventSynchronize(slot.copied) }
                .result()
                .w()?;
        }
        let Some(buffer) = &slot.on_device else {
            candle_core::bail!("an upload without a buffer")
        };
        // SAFETY: page-locked memory of at least this size, used by nobody else until the copy is
        // queued.
        let host = unsafe { std::slice::from_raw_parts_mut(slot.host, values.len()) };
        host.par_chunks_mut(CHUNK)
            .zip(values.par_chunks(CHUNK))
            .for_each(|(to, from)| to.copy_from_slice(from));
        let launcher = super::driver::launcher(&self.device)?;
        let address = launcher.address(buffer)?;
        // SAFETY: both buffers live as long as the slot; the copy waits for the last work on it.
        unsafe {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            result::stream::wait_event(self.copying, slot.used, flags).w()?;
            result::memcpy_htod_async(address, host, self.copying).w()?;
            result::event::record(slot.copied, self.copying).w()?;
        }
        self.begun += 1;
        buffer.narrow(0, 0, values.len())?.reshape((rows, ()))
    }

    /// Passes over a slot, for a batch without this modality.
    pub fn skip(&mut self) -> Result<()> {
        self.begun += 1;
        Ok(())
    }

    /// Makes the device's work from now on wait for the oldest copy that is not ready.
    pub fn ready(&mut self) -> Result<()> {
        let slot = &self.slots[self.readied % self.slots.len()];
        let working = self.device.cuda_stream();
        working.context().bind_to_thread().w()?;
        // SAFETY: the event was made in `new`; one that was never recorded holds nothing up.
        unsafe {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            result::stream::wait_event(working.cu_stream(), slot.copied, flags).w()?;
        }
        self.readied += 1;
        Ok(())
    }

    /// Marks the work on all slots that were made ready as queued, so that they may be filled again
    /// after it.
    pub fn finish(&mut self) -> Result<()> {
        let working = self.device.cuda_stream();
        working.context().bind_to_thread().w()?;
        while self.finished < self.readied {
            let slot = &self.slots[self.finished % self.slots.len()];
            // SAFETY: the event was made in `new`.
            unsafe { result::event::record(slot.used, working.cu_stream()) }.w()?;
            self.finished += 1;
        }
        Ok(())
    }
}

impl Slot {
    fn release(&mut self) -> Result<()> {
        if !self.host.is_null() {
            // SAFETY: from `malloc_host`; the caller has waited for the copies out of it.
            unsafe {
                sys::cuEventSynchronize(self.copied).result().w()?;
                result::free_host(self.host.cast()).w()?;
            }
            self.host = std::ptr::null_mut();
            self.capacity = 0;
        }
        Ok(())
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // No copy and no kernel may still use the buffers. An error means that the device is gone,
        // and its memory with it.
        self.device.cuda_stream().synchronize().ok();
        for slot in &mut self.slots {
            slot.release().ok();
        }
    }
}
