//! The lock of a run folder, which only one process may train in. `eval`, `predict` and `report`
//! only read and take no lock.

use anyhow::Result;
use std::path::Path;
use util::exit_code::Temporary;
use util::lock::{FileLock, LockError, LockMode};

const LOCK_FILE: &str = ".train.lock";

/// The lock of a run folder, until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    _lock: FileLock,
}

impl RunLock {
    /// Locks a run folder, which must exist.
    ///
    /// # Errors
    /// Another process trains in the folder, or it cannot be written.
    pub fn acquire(run: &Path) -> Result<RunLock> {
        let run_folder = run.display();
        let lock = FileLock::acquire(&run.join(LOCK_FILE), LockMode::Exclusive);
        let lock = lock.map_err(|error| match error {
            LockError::Held(holder) => Temporary::error(format!(
                "{run_folder}: another train{holder} is training here; wait for it, or give another --out"
            )),
            LockError::Io(error) => anyhow::Error::new(error)
                .context(format!("{run_folder}: cannot be written; give another --out")),
        })?;
        Ok(RunLock { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_one_process_holds_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // The file of a process that was killed locks nothing.
        fs::write(folder.join(LOCK_FILE), "1234567").unwrap();
        let lock = RunLock::acquire(folder).unwrap();
        let refused = RunLock::acquire(folder).unwrap_err().to_string();
        let own = format!("process {}", std::process::id());
        assert!(refused.contains(&own), "{refused}");
        drop(lock);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        drop(RunLock::acquire(folder).unwrap());
        let missing = RunLock::acquire(&folder.join("nowhere")).unwrap_err();
        assert!(missing.to_string().contains("nowhere"));
    }
}
