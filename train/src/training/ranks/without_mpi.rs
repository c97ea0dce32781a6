//! The ranks of a build without MPI, of which there are none.

use super::launch::Launch;
use anyhow::{Result, bail};

/// Returns the name and version of the MPI that this build uses: none.
pub fn mpi_library() -> Option<String> {
    None
}

/// All ranks: a value that does not exist in this build.
pub enum World {}

impl World {
    /// Refuses to be one of several processes: each would train the whole run into one folder.
    ///
    /// # Errors
    /// Always.
    pub fn join(launch: &Launch) -> Result<World> {
        launch.check_connects()?;
        bail!(
            "{launch}, but this build has no MPI: `U2A_MPI=1 just build` makes one that has; a single process needs none"
        )
    }

    /// Returns the number of this process.
    pub fn rank(&self) -> usize {
        match *self {}
    }

    /// Returns the number of processes.
    pub fn count(&self) -> usize {
        match *self {}
    }

    /// Returns a number of each rank.
    pub fn gather(&self, _: u64) -> Vec<u64> {
        match *self {}
    }

    /// Returns a number of each rank on this machine, and this process's place among them.
    pub fn gather_on_machine(&self, _: u64) -> (usize, Vec<u64>) {
        match *self {}
    }

    /// Adds numbers over all ranks.
    pub fn all_reduce(&self, _: &mut Vec<f32>) {
        match *self {}
    }

    /// Leaves the other ranks.
    pub fn finalize(self) {
        match self {}
    }

    /// Ends all ranks.
    pub fn abort(&self, _: u8) -> ! {
        match *self {}
    }
}
