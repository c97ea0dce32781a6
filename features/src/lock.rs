//! One writer per folder, told apart from a lock file that a killed run has left behind.
//!
//! The lock is the kernel's (flock on an open file), so it ends with its holder whatever happens; the file is only where
//! it hangs, holds the holder's process number, and is removed by whoever holds it last. What a lock protects and what to
//! do about a busy one is its user's to say.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How a lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Nobody else may hold it; who does is an error.
    Alone,
    /// Others may hold it in the same way.
    Shared,
    /// Nobody else may hold it; wait for who does.
    Patiently,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it: its process, where it says so. Wait for it.
    #[error("held by another run{}", .0.as_deref().map(|process| format!(" (process {process})")).unwrap_or_default())]
    Busy(Option<String>),
    /// The file cannot be made, written or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LockError {
    /// ` (process 123)`, or nothing.
    pub fn holder(&self) -> String {
        match self {
            LockError::Busy(Some(process)) => format!(" (process {process})"),
            _ => String::new(),
        }
    }
}

/// A lock file that is held, given back when dropped.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    file: File,
}

impl FileLock {
    /// Takes the lock that hangs on `path`, in a folder that exists.
    ///
    /// # Errors
    /// Somebody else holds it; the file cannot be written.
    pub fn take(path: &Path, how: Take) -> Result<FileLock, LockError> {
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(path)?;
            let taken = match how {
                Take::Alone => file.try_lock(),
                Take::Shared => file.try_lock_shared(),
                Take::Patiently => file.lock().map_err(TryLockError::Error),
            };
            match taken {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let said = file.read_to_string(&mut holder).is_ok_and(|n| n > 0);
                    return Err(LockError::Busy(said.then(|| holder.trim().to_string())));
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // The one before us may have removed the file between our opening and locking it.
            let ours = file.metadata()?;
            if !std::fs::metadata(path)
                .is_ok_and(|now| now.ino() == ours.ino() && now.dev() == ours.dev())
            {
                continue;
            }
            if how != Take::Shared {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                write!(file, "{}", std::process::id())?;
            }
            return Ok(FileLock {
                path: path.to_path_buf(),
                file,
            });
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Another may still share it; then the file is its to remove. Let go before asking, or two that end together wait
        // for each other and nobody removes it.
        if self.file.unlock().is_ok() && self.file.try_lock().is_ok() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
