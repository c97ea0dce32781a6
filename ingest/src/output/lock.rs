//! Locks on an output folder, so that no two runs write the same shards.

use std::path::{Path, PathBuf};

use util::exit_code::Temporary;
use util::lock::{FileLock, LockError, LockMode};

/// What a run is going to write in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every file.
    Whole,
    /// The shards of part `.0` out of `.1` parts.
    Part(usize, usize),
    /// The files that are written once all parts are done. Waits for another holder.
    Finish,
}

/// A lock on a folder, released when dropped.
pub struct OutputLock {
    locks: Vec<FileLock>,
}

impl OutputLock {
    /// Locks a folder that exists.
    ///
    /// # Errors
    /// Another run writes the same shards, or the folder cannot be written.
    pub fn acquire(folder: &Path, scope: Scope) -> anyhow::Result<OutputLock> {
        let mut lock = OutputLock { locks: Vec::new() };
        let whole = folder.join(".ingest.lock");
        match scope {
            Scope::Whole => lock.add(folder, whole, LockMode::Exclusive)?,
            Scope::Part(part, of) => {
                lock.add(folder, whole, LockMode::Shared)?;
                let own = folder.join(format!(".ingest-{part}-of-{of}.lock"));
                lock.add(folder, own, LockMode::Exclusive)?;
            }
            Scope::Finish => {
                let finish = folder.join(".ingest-finish.lock");
                lock.add(folder, finish, LockMode::ExclusiveWait)?;
            }
        }
        Ok(lock)
    }

    fn add(&mut self, folder: &Path, path: PathBuf, mode: LockMode) -> anyhow::Result<()> {
        let lock = FileLock::acquire(&path, mode).map_err(|error| match error {
            LockError::Held(holder) => Temporary::error(format!(
                "{}: another ingest{holder} is writing here; wait for it, or choose another --out",
                folder.display()
            )),
            LockError::Io(error) => anyhow::Error::new(error).context(format!(
                "{}: cannot write there; choose another --out",
                folder.display()
            )),
        })?;
        self.locks.push(lock);
        Ok(())
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // The part's own lock is released before the folder's.
        while self.locks.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_exclude_each_other_and_lock_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let error = |scope| {
            OutputLock::acquire(folder, scope)
                .err()
                .map(|error| error.to_string())
        };
        // A killed run has left its file behind; nobody holds the lock.
        std::fs::write(folder.join(".ingest.lock"), "1").unwrap();
        {
            let _whole = OutputLock::acquire(folder, Scope::Whole).unwrap();
            let message = error(Scope::Whole).unwrap();
            assert!(
                message.contains(&format!("process {}", std::process::id())),
                "{message}"
            );
            assert!(error(Scope::Part(0, 2)).is_some());
        }
        {
            let _zero = OutputLock::acquire(folder, Scope::Part(0, 2)).unwrap();
            let _one = OutputLock::acquire(folder, Scope::Part(1, 2)).unwrap();
            assert!(error(Scope::Part(1, 2)).is_some());
            assert!(error(Scope::Whole).is_some());
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    }
}
