//! The ranks of a build with MPI, and what they exchange.

use super::launch::Launch;
use anyhow::{Context, Result};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use std::mem::ManuallyDrop;

/// Returns the name and version of the MPI that this build uses, such as `Open MPI v4.1.4`.
pub fn mpi_library() -> Option<String> {
    let described = mpi::environment::library_version().ok()?;
    let name = described.split([',', '\n', '\0']).next()?;
    Some(name.trim().to_string())
}

/// All ranks. MPI ends them if one is lost.
pub struct World {
    /// Never dropped but by [`World::finalize`]: dropping it waits for all ranks, which a process
    /// that panics must not do.
    universe: ManuallyDrop<Universe>,
    all: SimpleCommunicator,
}

impl World {
    /// Initialises MPI, whose functions only the main thread calls.
    ///
    /// # Errors
    /// The launcher does not let the processes find each other, or MPI is initialised already.
    pub fn join(launch: &Launch) -> Result<World> {
        launch.check_connects()?;
        let initialized = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = initialized.context("MPI is initialised already")?;
        Ok(World {
            all: universe.world(),
            universe: ManuallyDrop::new(universe),
        })
    }

    /// Returns the number of this process.
    pub fn rank(&self) -> usize {
        self.all.rank() as usize
    }

    /// Returns the number of processes.
    pub fn count(&self) -> usize {
        self.all.size() as usize
    }

    /// Returns a number of each rank. All ranks have to call it.
    pub fn gather(&self, number: u64) -> Vec<u64> {
        gather(&self.all, number)
    }

    /// Returns a number of each rank on this machine, and this process's place among them. All
    /// ranks have to call it.
    pub fn gather_on_machine(&self, number: u64) -> (usize, Vec<u64>) {
        let machine = self.all.split_shared(self.all.rank());
        (machine.rank() as usize, gather(&machine, number))
    }

    /// Replaces the numbers by their sums over all ranks.
    ///
    /// Each rank adds one part of the numbers, in the order of the ranks, and hands the sums to the
    /// others. A rank sends and receives about twice the numbers whatever the number of ranks, as
    /// in the algorithms of `MPI_Allreduce`, which may add in any order.
    pub fn all_reduce(&self, numbers: &mut Vec<f32>) {
        let length = numbers.len();
        let part = length.div_ceil(self.count());
        if part == 0 {
            return;
        }
        numbers.resize(part * self.count(), 0.0);
        let mut received = vec![0.0f32; numbers.len()];
        self.all.all_to_all_into(&numbers[..], &mut received[..]);
        let (sums, others) = received.split_at_mut(part);
        for other in others.chunks_exact(part) {
            sums.iter_mut().zip(other).for_each(|(sum, n)| *sum += n);
        }
        self.all
            .all_gather_into(&received[..part], &mut numbers[..]);
        numbers.truncate(length);
    }

    /// Leaves the other ranks, once all of them do.
    pub fn finalize(self) {
        drop(ManuallyDrop::into_inner(self.universe));
    }

    /// Ends all ranks with an exit code.
    pub fn abort(&self, code: u8) -> ! {
        self.all.abort(code.into())
    }
}

fn gather(ranks: &SimpleCommunicator, number: u64) -> Vec<u64> {
    let mut numbers = vec![0u64; ranks.size() as usize];
    ranks.all_gather_into(&number, &mut numbers[..]);
    numbers
}
