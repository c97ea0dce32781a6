//! Prefetch: the next batches are uploaded while the GPU computes this one.

use anyhow::Result;
use candle_core::Device;
#[cfg(feature = "cuda")]
use engine::cuda::upload::Uploader;
#[cfg(feature = "cuda")]
use features::ModalityData;
use features::{Batch, Loader};
use model::u2a::Uploaded;
use std::collections::VecDeque;

/// Batches that are uploaded ahead.
#[cfg(feature = "cuda")]
const PREFETCH_BATCHES: usize = 2;

/// A batch, with those of its inputs that are already on the device.
pub struct PrefetchedBatch {
    /// The batch of the loader.
    pub batch: Batch,
    uploaded: [Option<Uploaded>; 2],
}

impl PrefetchedBatch {
    /// The uploaded inputs of the two modalities.
    pub fn uploaded(&self) -> [Option<&Uploaded>; 2] {
        [self.uploaded[0].as_ref(), self.uploaded[1].as_ref()]
    }
}

/// The batches of one loader after another, with their inputs on the GPU when they are taken. On
/// the CPU it does no more than the loader.
///
/// One prefetcher serves all epochs of a run, because its buffers are slow to allocate.
pub struct Prefetcher {
    loader: Option<Loader>,
    ready: VecDeque<Result<PrefetchedBatch>>,
    #[cfg(feature = "cuda")]
    uploaders: Option<[Uploader; 2]>,
}

impl Prefetcher {
    /// Makes a prefetcher for a device.
    pub fn new(device: &Device) -> Result<Prefetcher> {
        #[cfg(feature = "cuda")]
        let uploaders = match device {
            Device::Cuda(cuda) => Some([
                Uploader::new(cuda, PREFETCH_BATCHES)?,
                Uploader::new(cuda, PREFETCH_BATCHES)?,
            ]),
            _ => None,
        };
        let _ = device;
        Ok(Prefetcher {
            loader: None,
            ready: VecDeque::new(),
            #[cfg(feature = "cuda")]
            uploaders,
        })
    }

    /// Continues with the batches of another loader, and drops those of the last one.
    pub fn start(&mut self, loader: Loader) -> Result<()> {
        self.loader = Some(loader);
        self.ready.clear();
        #[cfg(feature = "cuda")]
        if let Some(uploaders) = &mut self.uploaders {
            uploaders.iter_mut().try_for_each(Uploader::restart)?;
        }
        Ok(())
    }

    /// Takes back a batch that is no longer needed, so that its memory is used for a later one.
    pub fn reuse(&self, prefetched: PrefetchedBatch) {
        if let Some(loader) = &self.loader {
            loader.reuse(prefetched.batch.inputs);
        }
    }

    /// Batches that are taken from the loader before they are asked for.
    fn ahead(&self) -> usize {
        #[cfg(feature = "cuda")]
        if self.uploaders.is_some() {
            return PREFETCH_BATCHES;
        }
        0
    }

    fn upload(&mut self, batch: Batch) -> Result<PrefetchedBatch> {
        #[allow(unused_mut, reason = "filled in a build with CUDA")]
        let mut uploaded = [None, None];
        #[cfg(feature = "cuda")]
        if let Some(uploaders) = &mut self.uploaders {
            let slots = uploaders.iter_mut().zip(&mut uploaded);
            for ((uploader, uploaded), input) in slots.zip(&batch.inputs) {
                let values = input.as_ref().map(|input| (&input.data, &input.rows));
                match values {
                    // Word pieces are few, and are uploaded by the step itself.
                    Some((ModalityData::Dense { values, .. }, rows)) => {
                        *uploaded = Some(Uploaded {
                            rows: rows.clone(),
                            values: uploader.begin(values, rows.len())?,
                        });
                    }
                    // Keeps the two uploaders at the same batch.
                    _ => uploader.skip(),
                }
            }
        }
        Ok(PrefetchedBatch { batch, uploaded })
    }
}

impl Iterator for Prefetcher {
    type Item = Result<PrefetchedBatch>;

    /// Returns the next batch. The GPU memory of the previous one is used for a later one.
    fn next(&mut self) -> Option<Result<PrefetchedBatch>> {
        #[cfg(feature = "cuda")]
        if let Some(uploaders) = &mut self.uploaders {
            let finished = uploaders.iter_mut().try_for_each(Uploader::finish);
            if let Err(error) = finished {
                return Some(Err(error.into()));
            }
        }
        while self.ready.len() <= self.ahead() {
            let Some(batch) = self.loader.as_mut().and_then(Iterator::next) else {
                break;
            };
            let prefetched = batch
                .map_err(Into::into)
                .and_then(|batch| self.upload(batch));
            self.ready.push_back(prefetched);
        }
        let next = self.ready.pop_front()?;
        #[cfg(feature = "cuda")]
        if let (Some(uploaders), Ok(_)) = (&mut self.uploaders, &next) {
            let ready = uploaders.iter_mut().try_for_each(Uploader::ready);
            if let Err(error) = ready {
                return Some(Err(error.into()));
            }
        }
        Some(next)
    }
}
