//! Brings what the next batches need from an object store into the cache on the disk, while earlier
//! batches are decoded.

use super::Shared;
use std::collections::VecDeque;

/// The most batches beyond the last claimed one.
const BATCHES: usize = 32;
/// The samples that are requested together, so that small batches make use of several requests at
/// once.
const SAMPLES: usize = 64;

impl Shared {
    /// What the thread runs that reads ahead: stays at most [`BATCHES`] ahead of the threads that
    /// decode, and at most a part of the cache, so that no batch displaces an earlier one. After an
    /// error it ends: the thread that needs the batch meets the same one.
    pub(super) fn read_ahead(&self) {
        let Ok(limit) = store::prefetch_limit() else {
            return;
        };
        // The batches ahead, and the bytes of each.
        let mut ahead: VecDeque<(usize, u64)> = VecDeque::new();
        let mut next = 0;
        while let Some(claimed) = self.next_to_read_ahead(next, &mut ahead, limit) {
            next = next.max(claimed);
            let together = (SAMPLES / self.options.batch_size.max(1)).clamp(1, BATCHES);
            let batches = next..next + together;
            let samples = batches.clone().flat_map(|number| self.own_samples(number));
            let samples: Vec<u32> = samples.copied().collect();
            let present = self.present(&samples);
            let split = self.options.split;
            let Ok(bytes) = self.shards.prefetch(split, &samples, &present) else {
                return;
            };
            ahead.push_back((batches.end, bytes));
            next = batches.end;
        }
    }

    /// Waits until there is room ahead, and returns the number of the batch that is claimed next.
    /// `None` if the epoch has no more batches, or the loader is dropped.
    fn next_to_read_ahead(
        &self,
        next: usize,
        ahead: &mut VecDeque<(usize, u64)>,
        limit: u64,
    ) -> Option<usize> {
        let mut state = self.lock();
        loop {
            let claimed = state.next_claimed;
            if state.stop || next.max(claimed) * self.options.batch_size >= self.order.len() {
                return None;
            }
            ahead.retain(|(end, _)| *end > claimed);
            let bytes: u64 = ahead.iter().map(|(_, bytes)| bytes).sum();
            if next < claimed + BATCHES && bytes < limit {
                return Some(claimed);
            }
            state = self.wait(state);
        }
    }
}
