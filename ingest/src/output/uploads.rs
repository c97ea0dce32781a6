//! Uploads on a thread of their own, one at a time, so that decoding goes on meanwhile.

use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Context;

/// The upload that is running.
#[derive(Debug, Default)]
pub struct Uploads {
    running: Mutex<Option<JoinHandle<anyhow::Result<()>>>>,
}

impl Uploads {
    /// Starts an upload once the one before has ended.
    ///
    /// # Errors
    /// The upload before has failed, or the system starts no thread.
    pub fn start(
        &self,
        upload: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        self.finish()?;
        let thread = thread::Builder::new()
            .name("upload".to_owned())
            .spawn(upload)
            .context("cannot start a thread that uploads shards")?;
        self.set(Some(thread));
        Ok(())
    }

    /// Waits until the upload that is running has ended.
    ///
    /// # Errors
    /// The upload has failed.
    pub fn finish(&self) -> anyhow::Result<()> {
        match self.set(None) {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|cause| panic::resume_unwind(cause)),
            None => Ok(()),
        }
    }

    /// Sets the thread of the upload, and returns that of the one before.
    fn set(
        &self,
        thread: Option<JoinHandle<anyhow::Result<()>>>,
    ) -> Option<JoinHandle<anyhow::Result<()>>> {
        // Nothing panics while the lock is held.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut running, thread)
    }
}
