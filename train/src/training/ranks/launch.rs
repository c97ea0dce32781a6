//! The launcher that has started this process as one of several, as the environment tells it.

use anyhow::{Result, bail};
use std::fmt;

/// The start of this process as one of several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program that has started the processes.
    launcher: &'static str,
    /// The number of this process, counted from 0.
    rank: usize,
    /// The number of processes, where the environment tells it.
    pub count: Option<usize>,
    /// Whether the launcher lets the processes find each other.
    connects: bool,
}

/// The launchers: name, variables of rank and count, and whether it lets processes find each other.
/// The first that is found counts: `mpirun` in a job of Slurm inherits the variables of Slurm.
const LAUNCHERS: [(&str, &str, &str, bool); 4] = [
    // Open MPI.
    (
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        true,
    ),
    // MPICH and Intel MPI; `srun --mpi=pmi2`.
    ("mpiexec", "PMI_RANK", "PMI_SIZE", true),
    // `srun --mpi=pmix`. Only the environment of a step has the number of its tasks.
    ("srun", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", true),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", false),
];

impl Launch {
    /// Returns the start of this process by a launcher of several, by its environment `variable`.
    /// `None` if it was started alone.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        let found = LAUNCHERS
            .iter()
            .find_map(|(launcher, rank, count, connects)| {
                let (rank, count) = (number(rank)?, number(count));
                // Slurm's variables of tasks are also in the environment of a batch script.
                (*connects || count.is_some()).then_some(Launch {
                    launcher,
                    rank,
                    count,
                    connects: *connects,
                })
            });
        found.filter(|launch| launch.count != Some(1))
    }

    /// Checks that the processes can find each other.
    ///
    /// # Errors
    /// They were started without.
    pub fn check_connects(&self) -> Result<()> {
        if !self.connects {
            bail!(
                "{self}, without MPI, so that each would train the whole run; start them with `srun --mpi=pmix`, or one alone with --ntasks=1"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Launch { launcher, rank, .. } = self;
        match self.count {
            Some(count) => write!(f, "{launcher} has started {count} processes"),
            None => write!(f, "{launcher} has started this process as rank {rank}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(environment: &[(&str, &str)]) -> Option<Launch> {
        let value = |name: &str| environment.iter().find(|(key, _)| *key == name);
        Launch::find(|name| value(name).map(|(_, value)| value.to_string()))
    }

    /// The variables as Open MPI 4.1 and Slurm 22.05 set them.
    #[test]
    fn launchers_of_several_processes_are_found() {
        assert_eq!(find(&[]), None);
        let batch_script = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_JOB_ID", "1"),
        ];
        assert_eq!(find(&batch_script), None);
        let mpirun = |count| {
            let own = [
                ("OMPI_COMM_WORLD_RANK", "1"),
                ("OMPI_COMM_WORLD_SIZE", count),
                ("PMIX_RANK", "1"),
            ];
            // mpirun starts its daemons with srun, one on each machine.
            find(
                &[
                    &own[..],
                    &[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")],
                ]
                .concat(),
            )
        };
        assert_eq!(mpirun("1"), None);
        let launch = mpirun("4").unwrap();
        assert_eq!((launch.rank, launch.count), (1, Some(4)));
        assert!(launch.check_connects().is_ok());
        let step = [("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "4")];
        let launch = find(&step).unwrap();
        assert_eq!((launch.rank, launch.count), (2, Some(4)));
        let error = launch.check_connects().unwrap_err().to_string();
        assert!(error.contains("srun has started 4 processes"), "{error}");
        assert!(error.contains("srun --mpi=pmix"), "{error}");
        let launch = find(&[&step[..], &[("PMIX_RANK", "2")]].concat()).unwrap();
        assert!(launch.check_connects().is_ok());
        assert_eq!(
            find(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")]),
            None
        );
        let launch = find(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).unwrap();
        assert_eq!((launch.launcher, launch.count), ("mpiexec", Some(2)));
    }

    #[test]
    fn launch_without_a_count_is_one_of_several() {
        let launch = find(&[("PMIX_RANK", "3")]).unwrap();
        assert_eq!((launch.rank, launch.count), (3, None));
        assert!(launch.to_string().contains("rank 3"), "{launch}");
    }
}
