//! What part of an output folder a run claims, so that no two write the same shards.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use util::lock::{FileLock, LockError, LockMode};

/// How much of the folder a run claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// All of it.
    Whole,
    /// The shards of one part of so many.
    Part(usize, usize),
    /// What is written once all parts are there; waits for its turn.
    Finish,
}

/// A claim on a folder, given back when dropped.
pub struct Lock {
    held: Vec<FileLock>,
}

impl Lock {
    /// Claims a folder that exists.
    ///
    /// # Errors
    /// Somebody else works on the same shards; the folder cannot be written.
    pub fn acquire(folder: &Path, claim: Claim) -> anyhow::Result<Lock> {
        let mut lock = Lock { held: Vec::new() };
        let whole = folder.join(".ingest.lock");
        match claim {
            Claim::Whole => lock.take(folder, whole, LockMode::Exclusive)?,
            Claim::Part(part, of) => {
                lock.take(folder, whole, LockMode::Shared)?;
                let own = folder.join(format!(".ingest-{part}-of-{of}.lock"));
                lock.take(folder, own, LockMode::Exclusive)?;
            }
            Claim::Finish => {
                lock.take(
                    folder,
                    folder.join(".ingest-finish.lock"),
                    LockMode::ExclusiveWait,
                )?;
            }
        }
        Ok(lock)
    }

    fn take(&mut self, folder: &Path, path: PathBuf, mode: LockMode) -> anyhow::Result<()> {
        let lock = FileLock::acquire(&path, mode).map_err(|error| match error {
            LockError::Held(holder) => anyhow!(
                "{}: another ingest{holder} is writing here; wait for it, or choose another --out",
                folder.display()
            ),
            LockError::Io(error) => anyhow::Error::new(error).context(format!(
                "{}: cannot write there; choose another --out",
                folder.display()
            )),
        })?;
        self.held.push(lock);
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The part's own lock before the folder's.
        while self.held.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_exclude_each_other_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let busy = |claim| {
            Lock::acquire(folder, claim)
                .err()
                .map(|error| error.to_string())
        };
        // Left behind by a killed run: nobody holds it.
        std::fs::write(folder.join(".ingest.lock"), "1").unwrap();
        {
            let _whole = Lock::acquire(folder, Claim::Whole).unwrap();
            let message = busy(Claim::Whole).unwrap();
            assert!(
                message.contains(&format!("process {}", std::process::id())),
                "{message}"
            );
            assert!(busy(Claim::Part(0, 2)).is_some());
        }
        {
            let _zero = Lock::acquire(folder, Claim::Part(0, 2)).unwrap();
            let _one = Lock::acquire(folder, Claim::Part(1, 2)).unwrap();
            assert!(busy(Claim::Part(1, 2)).is_some());
            assert!(busy(Claim::Whole).is_some());
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    }
}
