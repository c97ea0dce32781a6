//! One trainer per run folder.
//!
//! The lock is the kernel's (on an open file), so it ends with its holder however that dies: a file left by a killed run
//! locks nobody out. Readers (`eval`, `predict`, `report`) need none.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILE: &str = ".train.lock";

/// A run folder that nobody else trains in, until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Claims a run folder, which must be there.
    ///
    /// # Errors
    /// Somebody else trains in it; it cannot be written.
    pub fn take(run: &Path) -> Result<Lock> {
        let path = run.join(FILE);
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| {
                    format!("{}: cannot be written; give another --out", run.display())
                })?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let who = match file.read_to_string(&mut holder) {
                        Ok(1..) => format!(" (process {})", holder.trim()),
                        _ => String::new(),
                    };
                    bail!(
                        "{}: another train{who} is training here; wait for it, or give another --out",
                        run.display()
                    );
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error)
                        .with_context(|| format!("{}: cannot be locked", path.display()));
                }
            }
            // Its last holder may have removed the file between our opening and locking it.
            let ours = file.metadata()?;
            let same = |now: fs::Metadata| (now.dev(), now.ino()) == (ours.dev(), ours.ino());
            if fs::metadata(&path).is_ok_and(same) {
                file.set_len(0)
                    .and_then(|()| write!(file, "{}", std::process::id()))
                    .with_context(|| format!("{}: cannot be written", path.display()))?;
                return Ok(Lock { file, path });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: whoever waits for the name finds it gone and makes a new one.
        drop(fs::remove_file(&self.path));
        drop(self.file.unlock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_no_stale_locks() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // Of a killed run: nobody holds it.
        fs::write(folder.join(FILE), "1234567").unwrap();
        let lock = Lock::take(folder).unwrap();
        let refused = Lock::take(folder).unwrap_err().to_string();
        let own = format!("process {}", std::process::id());
        assert!(refused.contains(&own), "{refused}");
        drop(lock);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        drop(Lock::take(folder).unwrap());
        let gone = Lock::take(&folder.join("nowhere")).unwrap_err();
        assert!(gone.to_string().contains("nowhere"));
    }
}
