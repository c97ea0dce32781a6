//! The place of this process among the ranks that train together by MPI.
//!
//! `mpirun` or `srun` starts the processes. Each computes a part of every batch; after each step
//! all add up their gradients and losses ([`Ranks::all_reduce`]) and make the same update. Only
//! rank 0 writes files and prints. All ranks draw the random numbers of a single process, so that
//! the losses are those of a single process with the whole batch, except for the order of the
//! additions.

mod launch;
#[cfg(feature = "mpi")]
mod with_mpi;
#[cfg(not(feature = "mpi"))]
mod without_mpi;

use anyhow::{Result, anyhow, bail};
use features::Share;
use launch::Launch;
use std::fmt;
use std::process::ExitCode;
use util::cli::report_error;
use util::exit_code;
#[cfg(feature = "mpi")]
use with_mpi::World;
#[cfg(not(feature = "mpi"))]
use without_mpi::World;

#[cfg(feature = "mpi")]
pub use with_mpi::mpi_library;
#[cfg(not(feature = "mpi"))]
pub use without_mpi::mpi_library;

/// The place of this process among the ranks.
pub struct Ranks {
    share: Share,
    /// All ranks; `None` if this is the only process.
    world: Option<World>,
}

/// A place among those processes of a machine that have something in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of this process among them, counted from 0.
    pub index: usize,
    /// The number of these processes.
    pub count: usize,
}

/// The error of a rank after another one has failed, which reports the reason.
#[derive(Debug)]
struct ReportedElsewhere;

impl fmt::Display for ReportedElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another rank has failed")
    }
}

impl std::error::Error for ReportedElsewhere {}

impl Ranks {
    /// Returns the place of a process that trains alone.
    pub fn single() -> Ranks {
        Ranks {
            share: Share::default(),
            world: None,
        }
    }

    /// Returns the place of this process among those that `mpirun` or `srun` has started with it,
    /// and initialises MPI if there are several. To be called once, from the main thread.
    ///
    /// # Errors
    /// There are several processes and they cannot find each other: this build has no MPI, or
    /// another one than the launcher.
    pub fn join() -> Result<Ranks> {
        let Some(launch) = Launch::find(|name| std::env::var(name).ok()) else {
            return Ok(Ranks::single());
        };
        let world = World::join(&launch)?;
        let (rank, count) = (world.rank(), world.count());
        if launch.count.is_some_and(|started| started != count) {
            bail!(
                "{launch}, but the MPI of this build sees {count}: they are of different makes; use the mpirun of the MPI that this build was compiled with"
            );
        }
        Ok(Ranks {
            share: Share { rank, count },
            world: Some(world),
        })
    }

    /// Checks that this process was started alone, for what only one process can do.
    ///
    /// # Errors
    /// `mpirun` or `srun` has started several processes.
    pub fn check_alone() -> Result<()> {
        match Launch::find(|name| std::env::var(name).ok()) {
            None => Ok(()),
            Some(launch) => {
                bail!("{launch}; only `train run` is shared among processes, start this as one")
            }
        }
    }

    /// Returns whether this is rank 0, which writes the files of the run and prints.
    pub fn is_first(&self) -> bool {
        self.share.rank == 0
    }

    /// Returns the number of ranks.
    pub fn count(&self) -> usize {
        self.share.count
    }

    /// Returns this rank's part of each batch.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Returns the place of this process among the ranks on its machine that see the same GPUs. A
    /// launcher may show all GPUs to all ranks, or each rank its own.
    pub fn place_among_gpus(&self) -> Place {
        self.place(&std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default())
    }

    /// Returns the place of this process among the ranks on its machine that may run on the same
    /// cores. A launcher may bind each rank to cores of its own.
    pub fn place_among_cores(&self) -> Place {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut lines = status.lines();
        self.place(lines.find(|l| l.starts_with("Cpus_allowed:")).unwrap_or(""))
    }

    /// Returns the place of this process among the ranks on its machine that give the same text.
    fn place(&self, text: &str) -> Place {
        let Some(world) = &self.world else {
            return Place { index: 0, count: 1 };
        };
        let own = number_of(text);
        let (index, numbers) = world.gather_on_machine(own);
        let same = |numbers: &[u64]| numbers.iter().filter(|number| **number == own).count();
        Place {
            index: same(&numbers[..index]),
            count: same(&numbers),
        }
    }

    /// Replaces the numbers by their sums over all ranks (all-reduce). The sums have the same bits
    /// in every rank, and from run to run for one number of ranks.
    pub fn all_reduce(&self, numbers: &mut Vec<f32>) {
        if let Some(world) = &self.world {
            world.all_reduce(numbers);
        }
    }

    /// Returns what rank 0 decides. All ranks have to call it.
    pub fn first_decides(&self, decision: impl FnOnce() -> bool) -> bool {
        match &self.world {
            None => decision(),
            Some(world) => world.gather(u64::from(self.is_first() && decision()))[0] > 0,
        }
    }

    /// Waits for all ranks and returns the result of this one if all have succeeded. All ranks have
    /// to call it.
    ///
    /// # Errors
    /// A rank has failed. Only the first of them gets its error; for the others, [`Ranks::end`]
    /// reports nothing.
    pub fn agree<T>(&self, result: Result<T>) -> Result<T> {
        let Some(world) = &self.world else {
            return result;
        };
        let failed = world.gather(u64::from(result.is_err()));
        match failed.iter().position(|failed| *failed > 0) {
            None => result,
            Some(first) if first == self.share.rank => result,
            Some(_) => Err(ReportedElsewhere.into()),
        }
    }

    /// Checks that all ranks give the same text, which describes what they are about to train. All
    /// ranks have to call it.
    ///
    /// # Errors
    /// A rank gives another text than rank 0.
    pub fn check_same(&self, text: &str) -> Result<()> {
        let Some(world) = &self.world else {
            return Ok(());
        };
        let numbers = world.gather(number_of(text));
        let other = numbers.iter().position(|number| *number != numbers[0]);
        self.agree(match other {
            None => Ok(()),
            Some(rank) => Err(anyhow!(
                "rank {rank} has other settings, another number format, other data or another checkpoint than rank 0; give --device and --precision, and let every machine see the same shards and the same run folder"
            )),
        })
    }

    /// Leaves the other ranks with the result of this one. After an error, which is printed, all
    /// ranks are ended at once: they may be waiting for this one.
    pub fn end(self, result: Result<ExitCode>) -> Result<ExitCode> {
        let Ranks { share, world } = self;
        let Some(world) = world else {
            return result;
        };
        match result {
            Ok(code) => {
                world.finalize();
                Ok(code)
            }
            Err(error) if error.is::<ReportedElsewhere>() => {
                // Until the rank that reports ends this one.
                world.finalize();
                Ok(ExitCode::from(exit_code::of(&error)))
            }
            Err(error) => {
                let named = match share.rank {
                    0 => error,
                    rank => error.context(format!("rank {rank} of {}", share.count)),
                };
                report_error(&named);
                world.abort(exit_code::of(&named))
            }
        }
    }
}

/// Returns the first bytes of a text's SHA-256 as a number.
fn number_of(text: &str) -> u64 {
    let hash = util::hash::sha256(text);
    u64::from_str_radix(&hash[..16], 16).expect("a SHA-256 in hexadecimal has 64 digits")
}
