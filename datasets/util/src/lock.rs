//! Lock files, which restrict a folder to one writing process.
//!
//! The lock is that of the kernel (`flock` on the open file, see [`File::lock`]). It ends with the
//! process that holds it, so a file that a killed process has left behind locks nothing. The file
//! contains the process id of its holder, and the last holder removes it. Callers define which
//! files a lock protects and what to do if another process holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether other processes may hold the lock too, and whether to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// One process may hold the lock; if another one holds it, acquiring it fails.
    Exclusive,
    /// Any number of processes may hold the lock in this mode; if one holds it exclusively,
    /// acquiring it fails.
    Shared,
    /// One process may hold the lock; acquiring it waits until no other process holds it.
    ExclusiveWait,
}

/// Why a lock was not acquired.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds the lock: ` (process 123)`, or an empty text if its id is not known.
    Held(String),
    /// The file cannot be created, written or locked.
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> LockError {
        LockError::Io(error)
    }
}

/// A lock file that this process holds until the value is dropped.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    file: File,
}

impl FileLock {
    /// Acquires the lock on the file `path`, which is created if it is missing; its folder must
    /// exist.
    ///
    /// # Errors
    /// Another process holds the lock, or the file cannot be written.
    pub fn acquire(path: &Path, mode: LockMode) -> Result<FileLock, LockError> {
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(path)?;
            let locked = match mode {
                LockMode::Exclusive => file.try_lock(),
                LockMode::Shared => file.try_lock_shared(),
                LockMode::ExclusiveWait => file.lock().map_err(TryLockError::Error),
            };
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    if file.read_to_string(&mut holder).is_ok_and(|n| n > 0) {
                        holder = format!(" (process {})", holder.trim());
                    }
                    return Err(LockError::Held(holder));
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // The last holder may have removed the file after it was opened and before it was
            // locked here.
            let locked = file.metadata()?;
            let is_at_path =
                |now: std::fs::Metadata| now.ino() == locked.ino() && now.dev() == locked.dev();
            if !std::fs::metadata(path).is_ok_and(is_at_path) {
                continue;
            }
            if mode != LockMode::Shared {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                write!(file, "{}", std::process::id())?;
            }
            let path = path.to_path_buf();
            return Ok(FileLock { path, file });
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // The last of several holders removes the file. The lock is released before it is tried
        // exclusively: of two holders that are dropped at once, each would otherwise find the
        // other's lock, and neither would remove the file.
        if self.file.unlock().is_ok() && self.file.try_lock().is_ok() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
