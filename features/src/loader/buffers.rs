//! The memory of batches, used again.

use super::BYTE_BUDGET;
use media::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory of batches that are no longer used, for later batches. New memory from the system is
/// slow to write to. Clones share it, and so do loaders that are given clones.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<f32>>>>);

impl Buffers {
    /// Takes back the values of a batch. Beyond [`BYTE_BUDGET`] they are freed, because a caller
    /// may hold many batches and return them at once.
    pub fn give_back(&self, values: Vec<f32>) {
        let mut free = self.lock();
        let bytes = |values: &Vec<f32>| values.capacity() * size_of::<f32>();
        if free.iter().map(bytes).sum::<usize>() + bytes(&values) <= BYTE_BUDGET {
            free.push(values);
        }
    }

    /// Returns an empty buffer for `count` values: the smallest free one that is large enough, or a
    /// new one.
    ///
    /// # Errors
    /// There is not so much memory.
    pub(super) fn take(&self, count: usize) -> Result<Vec<f32>, Error> {
        let mut free = self.lock();
        let fits = (0..free.len()).filter(|i| free[*i].capacity() >= count);
        match fits.min_by_key(|i| free[*i].capacity()) {
            Some(i) => {
                let mut buffer = free.swap_remove(i);
                buffer.clear();
                Ok(buffer)
            }
            None => {
                let mut buffer = Vec::new();
                let reserved = buffer.try_reserve_exact(count);
                reserved.map_err(|_| {
                    Error::unusable(
                        format!("there is no memory for a batch of {count} values"),
                        "load smaller batches",
                    )
                })?;
                Ok(buffer)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        // The list is consistent between statements, so a poisoned lock can be used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_a_batch_is_an_error() {
        let error = Buffers::default().take(usize::MAX / 8).unwrap_err();
        assert!(error.to_string().contains("smaller batches"), "{error}");
    }
}
