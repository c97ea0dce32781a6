//! One writer per folder, by a lock file.
//!
//! The lock is the kernel's (`flock` on the open file, see [`File::lock`]), so it ends with the process that holds it,
//! and a file that a killed process has left behind locks nothing. The file holds the process number of its holder;
//! the last holder removes it. Whose lock it is says which files it protects and what to do where it is held.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Who else may hold the lock, and whether to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// One holder; where another process holds it, that is an error.
    Exclusive,
    /// Any number of holders in this mode; where one holds it exclusively, that is an error.
    Shared,
    /// One holder; waits until no other process holds it.
    ExclusiveWait,
}

/// Why a lock was not acquired.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it: ` (process 123)`, or nothing where the file does not say which.
    Held(String),
    /// The file cannot be made, written or locked.
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
    /// Acquires the lock on the file `path`, which is made where it is missing, in a folder that exists.
    ///
    /// # Errors
    /// Another process holds it; the file cannot be written.
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
            // The last holder may have removed the file between our opening and locking it.
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
        // Where others share the lock, the last of them removes the file. Unlock before trying to lock exclusively: of
        // two that are dropped at once, each would otherwise see the other's lock, and neither would remove the file.
        if self.file.unlock().is_ok() && self.file.try_lock().is_ok() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
