//! One writer per output folder, told apart from a lock file that a killed run has left behind.
//!
//! The lock is the kernel's (flock on an open file), so it ends with its holder whatever happens; the file is only where
//! it hangs, and is removed by whoever holds it last.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

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

/// How one lock file is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    /// Nobody else may hold it; who does is an error.
    Alone,
    /// Others may hold it in the same way.
    Shared,
    /// Nobody else may hold it; wait for who does.
    Patiently,
}

/// A claim on a folder, given back when dropped.
pub struct Lock {
    held: Vec<(PathBuf, File)>,
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
            Claim::Whole => lock.take(folder, whole, Take::Alone)?,
            Claim::Part(part, of) => {
                lock.take(folder, whole, Take::Shared)?;
                let own = folder.join(format!(".ingest-{part}-of-{of}.lock"));
                lock.take(folder, own, Take::Alone)?;
            }
            Claim::Finish => {
                lock.take(folder, folder.join(".ingest-finish.lock"), Take::Patiently)?;
            }
        }
        Ok(lock)
    }

    fn take(&mut self, folder: &Path, path: PathBuf, how: Take) -> anyhow::Result<()> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| {
                    format!(
                        "{}: cannot write there; choose another --out",
                        folder.display()
                    )
                })?;
            let taken = match how {
                Take::Alone => file.try_lock(),
                Take::Shared => file.try_lock_shared(),
                Take::Patiently => file.lock().map_err(TryLockError::Error),
            };
            match taken {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let who = match file.read_to_string(&mut holder) {
                        Ok(1..) => format!(" (process {})", holder.trim()),
                        _ => String::new(),
                    };
                    bail!(
                        "{}: another ingest{who} is writing here; wait for it, or choose another --out",
                        folder.display()
                    );
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error)
                        .with_context(|| format!("{}: cannot be locked", path.display()));
                }
            }
            // The one before us may have removed the file between our opening and locking it.
            let ours = file.metadata()?;
            if !std::fs::metadata(&path)
                .is_ok_and(|now| now.ino() == ours.ino() && now.dev() == ours.dev())
            {
                continue;
            }
            if how != Take::Shared {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                write!(file, "{}", std::process::id())?;
            }
            self.held.push((path, file));
            return Ok(());
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for (path, file) in self.held.drain(..).rev() {
            // Another part may still hold the folder's lock; then the file is its to remove. Let go before asking, or two
            // that end together wait for each other and nobody removes it.
            if file.unlock().is_ok() && file.try_lock().is_ok() {
                drop(std::fs::remove_file(path));
            }
        }
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
