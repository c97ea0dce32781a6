//! The arguments of `ingest run`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use datasets::{ListOptions, Plot};
use features::MelDtype;
use store::Folder;
use util::job::{self, Part};

use crate::plan::{Choices, DEFAULT_FRAME_POOL, DEFAULT_SHARD_ROWS, Segment};
use crate::progress;
use crate::run::execute;
use crate::source;
use crate::workers::pool;

/// Default of `--max-failures-in-a-row`. Real data have a dozen bad clips in a row at most.
const DEFAULT_MAX_IN_A_ROW: usize = 100;

/// Default of `--max-failures`.
const DEFAULT_MAX_FAILURES: &str = "1%";

const EXAMPLES: &str = "\
Examples:
  ingest run crema-d
  ingest run ave --raw /data/AVE_Dataset --out /data/shards/ave --workers 8
  ingest run clips.toml --limit 20 --dry-run
  ingest run crema-d --out s3://bucket/shards/crema-d
  ingest run kinetics-sound --part 0/3     # and 1/3, 2/3 on other machines, in any order
  srun --ntasks=8 ingest run ave           # eight parts; then `ingest run ave --finish`

A finished shard is made again only with --update or --overwrite. A file whose size, times and inode
are as remembered in OUT/.sources is not read again; of any other file the content decides, so that
neither a touched file nor a copied tree is decoded again. Without --update a changed file is an error.

Exits with 1 if more samples than --max-failures lack a modality that should be there. In a job (a part
from the environment, or U2A_JOB=1) a part exits with 0 when its shards are done and --finish judges; 75
means that a signal stopped it and the same command continues, 42 that no repetition helps, any other
code that one may. `ingest cluster` prints scripts that heed this.";

/// Decode raw media and write Parquet shards. Continues a run that was stopped
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub source: source::Select,
    /// Folder for the shards, or its URL in an object store: s3://BUCKET/PREFIX, gs:// or az://
    /// [default: data/shards/DATASET]
    #[arg(long, value_name = "DIR|URL")]
    pub out: Option<Folder>,
    /// Number of decode workers [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Ingest only the first N samples of each split
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Write only every N-th shard, from shard I on (0 to N-1) [default: the task of a Slurm job
    /// array 0-(N-1) or of srun, the pod of an Indexed Job of Kubernetes, or all shards]
    #[arg(long, value_name = "I/N", conflicts_with_all = ["overwrite", "finish"])]
    pub part: Option<Part>,
    /// Decode nothing, and write the manifest over the shards of all parts
    #[arg(long, conflicts_with = "overwrite")]
    pub finish: bool,
    /// Remove existing shards and start over
    #[arg(long, conflicts_with = "update")]
    pub overwrite: bool,
    /// Replace the shards whose raw data has changed, by listing or by content
    #[arg(long)]
    pub update: bool,
    /// Number of samples in a shard
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_ROWS, value_parser = at_least_one)]
    pub shard_rows: usize,
    /// Number of frames to keep of a clip, evenly spaced; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FRAME_POOL)]
    pub frame_pool: u32,
    /// Part of a clip to ingest where the annotation has the time of an event (ave)
    #[arg(long, value_name = "WHAT", value_enum, default_value = "clip")]
    pub segment: Segment,
    /// Number format of mel values: f32 or f16
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub mel_dtype: MelDtype,
    /// Plot to use as text (mm-imdb): longest, first, outline or all
    #[arg(long, value_name = "WHICH", default_value = "longest")]
    pub plot: Plot,
    /// Exit with 1 if more samples than this number or share lack a modality
    #[arg(long, value_name = "N|P%", default_value = DEFAULT_MAX_FAILURES)]
    pub max_failures: FailureBudget,
    /// Stop with exit code 2 if nothing is left of N samples in a row, as when a disk is lost; 0
    /// never stops
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_IN_A_ROW)]
    pub max_failures_in_a_row: usize,
    /// Time limit for a clip in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = pool::DEFAULT_TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(1..))]
    pub clip_timeout: u64,
    /// Memory limit of a decode worker in MiB
    #[arg(long, value_name = "MIB", default_value_t = pool::DEFAULT_MEMORY_MIB, value_parser = clap::value_parser!(u64).range(16..))]
    pub worker_memory: u64,
    /// Program to start as decode worker instead of this one (for tests)
    #[arg(long, value_name = "PROGRAM", hide = true)]
    pub decoder: Option<PathBuf>,
    /// Print the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Returns these arguments, with the part that the environment of a job names if none is given.
    /// Says on stderr which part that is.
    ///
    /// # Errors
    /// The environment names a part in a way that is not clear, or `--overwrite` is given for one
    /// of several parts.
    pub fn with_part_of_job(&self) -> anyhow::Result<Args> {
        let mut args = self.clone();
        // The manifest is about all parts.
        if args.part.is_some() || args.finish {
            return Ok(args);
        }
        let Some(assigned) = job::assigned()?.filter(|assigned| assigned.part.of > 1) else {
            return Ok(args);
        };
        let (part, variable) = (assigned.part, assigned.variable);
        if args.overwrite {
            bail!(
                "--overwrite: this is part {part} ({variable}), and it would remove the shards of the other parts; \
                 remove the output folder before the job, or choose another --out"
            );
        }
        progress::announce(
            "note",
            &format!("part {part} of the shards, from {variable}"),
        );
        args.part = Some(part);
        Ok(args)
    }

    /// The arguments that change the bytes of the output.
    pub fn choices(&self) -> Choices {
        Choices {
            mel_dtype: self.mel_dtype,
            frame_pool: self.frame_pool,
            segment: self.segment,
            shard_rows: self.shard_rows,
            limit: self.limit,
            listing: ListOptions { plot: self.plot },
        }
    }

    /// The arguments that change how the output is made.
    pub fn execute_options(&self) -> execute::Options {
        execute::Options {
            workers: match self.workers {
                Some(workers) => usize::from(workers),
                None => std::thread::available_parallelism().map_or(1, usize::from),
            },
            clip_timeout: Duration::from_secs(self.clip_timeout),
            worker_memory_mib: self.worker_memory,
            decoder: self.decoder.clone(),
            max_failures_in_a_row: self.max_failures_in_a_row,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

/// How many samples may lack a modality before the exit code says so.
#[derive(Debug, Clone, Copy)]
pub enum FailureBudget {
    /// A number of samples.
    Count(usize),
    /// A share of the samples in percent.
    Percent(f64),
}

impl FromStr for FailureBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<FailureBudget, String> {
        let error = || "must be a number such as 20 or a share such as 1.5%".to_owned();
        match text.strip_suffix('%') {
            Some(share) => match share.parse() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(FailureBudget::Percent(share)),
                _ => Err(error()),
            },
            None => text.parse().map(FailureBudget::Count).map_err(|_| error()),
        }
    }
}

impl fmt::Display for FailureBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureBudget::Count(most) => write!(f, "{most}"),
            FailureBudget::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl FailureBudget {
    /// Whether `failed` out of `samples` are within the budget.
    pub fn allows(self, failed: usize, samples: usize) -> bool {
        match self {
            FailureBudget::Count(most) => failed <= most,
            FailureBudget::Percent(share) => failed as f64 <= samples as f64 * share / 100.0,
        }
    }
}
