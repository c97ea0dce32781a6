//! Copies to a GPU while it works: from page-locked memory, on a stream of their own.
//!
//! An uploader is a ring of slots, each with a buffer on the host and one on the device. Its
//! functions are called in this order, again and again: [`Uploader::begin`] (or [`Uploader::skip`])
//! fills the next slot; [`Uploader::ready`] makes the GPU's work wait for the oldest filled one;
//! [`Uploader::finish`] marks the work on it as queued. One uploader serves a whole run: to lock
//! memory takes long, and waits for the GPU.

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// The numbers that one task copies.
const CHUNK: usize = 1 << 18;

struct Slot {
    /// The buffers of the same size, `None` before the first copy.
    buffers: Option<Buffers>,
    /// The event that is recorded on the copying stream after the copy.
    copied: CudaEvent,
    /// The event that is recorded on the working stream after all work on the slot.
    used: CudaEvent,
}

struct Buffers {
    /// Page-locked memory.
    host: PinnedHostSlice<f32>,
    on_device: Tensor,
}

/// Uploads one modality's inputs.
pub struct Uploader {
    device: CudaDevice,
    /// The stream of the tensors.
    working: Arc<CudaStream>,
    copying: Arc<CudaStream>,
    slots: Vec<Slot>,
    begun: usize,
    readied: usize,
    finished: usize,
}

impl Uploader {
    /// Makes an uploader with room for `ahead` batches beside the one that the GPU works on.
    pub fn new(device: &CudaDevice, ahead: usize) -> Result<Uploader> {
        let working = device.cuda_stream();
        let context = working.context();
        let slots = (0..=ahead).map(|_| {
            Ok(Slot {
                buffers: None,
                copied: context.new_event(None).w()?,
                used: context.new_event(None).w()?,
            })
        });
        Ok(Uploader {
            device: device.clone(),
            copying: context.new_stream().w()?,
            slots: slots.collect::<Result<_>>()?,
            working,
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
        // The host's buffer is free once the last copy out of it is done. (The buffer has an event
        // of its own, which cudarc records only where it tracks tensors by events: not here.)
        slot.copied.synchronize().w()?;
        let fitting = slot.buffers.take().filter(|b| b.host.len() >= values.len());
        let buffers = match fitting {
            Some(buffers) => slot.buffers.insert(buffers),
            // This is rare: it happens for the first batches and for a larger one.
            None => {
                let made = Buffers::new(&self.device, values.len())?;
                // The allocation is queued on the working stream, and the copy must follow it.
                self.working.synchronize().w()?;
                slot.buffers.insert(made)
            }
        };
        let host = &mut buffers.host.as_mut_slice().w()?[..values.len()];
        host.par_chunks_mut(CHUNK)
            .zip(values.par_chunks(CHUNK))
            .for_each(|(to, from)| to.copy_from_slice(from));
        let address = super::driver::launcher(&self.device)?.address(&buffers.on_device)?;
        self.copying.wait(&slot.used).w()?;
        // SAFETY: the buffer on the device has the size of the host's, and the copy waits for the
        // last work on it. The host's is neither written nor freed before `copied`.
        unsafe { result::memcpy_htod_async(address, host, self.copying.cu_stream()) }.w()?;
        slot.copied.record(&self.copying).w()?;
        self.begun += 1;
        let filled = buffers.on_device.narrow(0, 0, values.len())?;
        filled.reshape((rows, ()))
    }

    /// Passes over a slot, for a batch without this modality.
    pub fn skip(&mut self) {
        self.begun += 1;
    }

    /// Makes the device's work from now on wait for the oldest copy that is not ready.
    pub fn ready(&mut self) -> Result<()> {
        let slot = &self.slots[self.readied % self.slots.len()];
        // An event that was never recorded holds nothing up.
        self.working.wait(&slot.copied).w()?;
        self.readied += 1;
        Ok(())
    }

    /// Marks the work on all slots that were made ready as queued, so that they may be filled again
    /// after it.
    pub fn finish(&mut self) -> Result<()> {
        while self.finished < self.readied {
            let slot = &self.slots[self.finished % self.slots.len()];
            slot.used.record(&self.working).w()?;
            self.finished += 1;
        }
        Ok(())
    }

    /// Gives up the batches that were begun and are not finished, so that the ring is empty.
    pub fn restart(&mut self) -> Result<()> {
        while self.readied < self.begun {
            self.ready()?;
        }
        self.finish()
    }
}

impl Buffers {
    /// Allocates room for `len` numbers on both sides.
    fn new(device: &CudaDevice, len: usize) -> Result<Buffers> {
        let stream = device.cuda_stream();
        // SAFETY: any bits are an f32, and every number is written before it is copied.
        let host = unsafe { stream.context().alloc_pinned_with_flags(len, 0) }.w()?;
        // SAFETY: filled by a copy before `Uploader::ready` lets anything read it.
        let on_device = unsafe { Tensor::empty(len, DType::F32, &Device::Cuda(device.clone()))? };
        Ok(Buffers { host, on_device })
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // No copy may still read the host's buffers. An error means that the device is gone, and
        // its memory with it. The device's buffers are freed in the order of the work on them.
        self.copying.synchronize().ok();
    }
}
