//! Batches on their way to the device: the next ones are uploaded while the GPU works on this one.

use anyhow::Result;
use candle_core::Device;
#[cfg(feature = "cuda")]
use engine::cuda::upload::Uploader;
#[cfg(feature = "cuda")]
use features::ModalityData;
use features::{Batch, Loader};
use model::u2a::Uploaded;
use std::collections::VecDeque;

/// Batches that are uploaded before they are asked for.
#[cfg(feature = "cuda")]
const AHEAD: usize = 2;

/// A batch, and those of its inputs that are on the device already.
pub struct Fed {
    /// As the stream gave it.
    pub batch: Batch,
    uploaded: [Option<Uploaded>; 2],
}

impl Fed {
    /// By modality.
    pub fn uploaded(&self) -> [Option<&Uploaded>; 2] {
        [self.uploaded[0].as_ref(), self.uploaded[1].as_ref()]
    }
}

/// A stream whose batches come with their inputs on the device; on the CPU, the stream.
pub struct Feed {
    stream: Loader,
    waiting: VecDeque<Result<Fed>>,
    #[cfg(feature = "cuda")]
    uploaders: Option<[Uploader; 2]>,
}

impl Feed {
    /// Feeds `device` from a stream.
    pub fn new(stream: Loader, device: &Device) -> Result<Feed> {
        #[cfg(feature = "cuda")]
        let uploaders = match device {
            Device::Cuda(cuda) => Some([Uploader::new(cuda, AHEAD)?, Uploader::new(cuda, AHEAD)?]),
            _ => None,
        };
        let _ = device;
        Ok(Feed {
            stream,
            waiting: VecDeque::new(),
            #[cfg(feature = "cuda")]
            uploaders,
        })
    }

    /// Takes a batch that is done with, as [`Stream::reuse`].
    pub fn reuse(&self, fed: Fed) {
        self.stream.reuse(fed.batch.inputs);
    }

    fn ahead(&self) -> usize {
        #[cfg(feature = "cuda")]
        if self.uploaders.is_some() {
            return AHEAD;
        }
        0
    }

    fn upload(&mut self, batch: Batch) -> Result<Fed> {
        #[allow(unused_mut, reason = "filled in a build with CUDA")]
        let mut uploaded = [None, None];
        #[cfg(feature = "cuda")]
        if let Some(uploaders) = &mut self.uploaders {
            let slots = uploaders.iter_mut().zip(&mut uploaded);
            for ((uploader, uploaded), input) in slots.zip(&batch.inputs) {
                let values = input.as_ref().map(|input| (&input.data, &input.rows));
                *uploaded = match values {
                    // Word pieces are few; they go up with the step.
                    Some((
                        ModalityData::Mel { values, .. } | ModalityData::Pixels { values, .. },
                        rows,
                    )) => Some(Uploaded {
                        rows: rows.clone(),
                        values: uploader.begin(values, rows.len())?,
                    }),
                    // Keeps both in step.
                    _ => uploader.skip().map(|()| None)?,
                };
            }
        }
        Ok(Fed { batch, uploaded })
    }
}

impl Iterator for Feed {
    type Item = Result<Fed>;

    /// What was handed out before is done with: its memory may be filled anew.
    fn next(&mut self) -> Option<Result<Fed>> {
        #[cfg(feature = "cuda")]
        if let Some(uploaders) = &mut self.uploaders {
            let done = uploaders.iter_mut().try_for_each(Uploader::finish);
            if let Err(error) = done {
                return Some(Err(error.into()));
            }
        }
        while self.waiting.len() <= self.ahead() {
            let Some(batch) = self.stream.next() else {
                break;
            };
            let fed = batch
                .map_err(Into::into)
                .and_then(|batch| self.upload(batch));
            self.waiting.push_back(fed);
        }
        let next = self.waiting.pop_front()?;
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
