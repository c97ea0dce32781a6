//! One trainer per run folder. Readers (`eval`, `predict`, `report`) need no lock.

use anyhow::{Result, anyhow};
use std::path::Path;
use util::lock::{FileLock, LockError, LockMode};

const FILE: &str = ".train.lock";

/// A run folder that nobody else trains in, until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _held: FileLock,
}

impl Lock {
    /// Claims a run folder, which must be there.
    ///
    /// # Errors
    /// Somebody else trains in it; it cannot be written.
    pub fn take(run: &Path) -> Result<Lock> {
        let run_folder = run.display();
        let lock = FileLock::acquire(&run.join(FILE), LockMode::Exclusive);
        let held = lock.map_err(|error| match error {
            LockError::Held(holder) => anyhow!(
                "{run_folder}: another train{holder} is training here; wait for it, or give another --out"
            ),
            LockError::Io(error) => anyhow::Error::new(error)
                .context(format!("{run_folder}: cannot be written; give another --out")),
        })?;
        Ok(Lock { _held: held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
