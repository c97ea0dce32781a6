//! `ingest run`: raw tree to shards.
//!
//! Plan, look what is there already, decode the rest in child processes, write shards in order, and when the last one is
//! there, the manifest. Every step can be interrupted at any moment and started again.

mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use datasets::{Info, ListOptions, NoteKind, Plot};
use features::MelDtype;
use util::atomic::remove_temporaries;

use crate::manifest;
use crate::plan::{self, Choices, DEFAULT_FRAME_POOL, DEFAULT_SHARD_ROWS, Segment};
use crate::run::execute::{self, End};
use crate::run::output_lock::{Claim, Lock};
use crate::run::{existing, signals};
use crate::shard_writer;
use crate::source;
use crate::workers::pool;
use util::{cli, outln};

/// Samples in a row that may give nothing at all. Real data have a dozen bad clips side by side at most.
const DEFAULT_MAX_IN_A_ROW: usize = 100;

/// Share of the samples that may lack something before the exit code says so.
const DEFAULT_MAX_FAILURES: &str = "1%";

const EXAMPLE: &str = "\
Examples:
  ingest run crema-d
  ingest run ave --raw /data/AVE_Dataset --out /data/shards/ave --workers 8
  ingest run clips.toml --limit 20 --dry-run
  ingest run kinetics-sound --part 0/3     # and 1/3, 2/3 elsewhere, in any order";

/// Raw media to Parquet shards. A run that was stopped goes on where it was
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: source::Select,
    /// Folder for the shards [default: data/shards/DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Decode so many clips at a time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Only the first N samples of each split
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Only the shards whose number, divided by N, leaves I (0 to N-1)
    #[arg(long, value_name = "I/N", conflicts_with_all = ["overwrite", "finish"])]
    part: Option<Part>,
    /// Decode nothing: write the manifest over the shards of all parts
    #[arg(long, conflicts_with = "overwrite")]
    finish: bool,
    /// Begin anew: remove the shards that are there
    #[arg(long, conflicts_with = "update")]
    overwrite: bool,
    /// Make those shards anew whose raw data has changed since
    #[arg(long)]
    update: bool,
    /// Samples per shard
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_ROWS, value_parser = at_least_one)]
    shard_rows: usize,
    /// Frames kept per clip, evenly spaced; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FRAME_POOL)]
    frame_pool: u32,
    /// What of a clip is ingested where its event's start and end are known (ave)
    #[arg(long, value_name = "WHAT", value_enum, default_value = "clip")]
    segment: Segment,
    /// Store mel values as f32 or f16
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    mel_dtype: MelDtype,
    /// Which plot becomes the text (mm-imdb): longest, first, outline or all
    #[arg(long, value_name = "WHICH", default_value = "longest")]
    plot: Plot,
    /// Exit with 1 where more samples than this, or than this share, lack a modality
    #[arg(long, value_name = "N|P%", default_value = DEFAULT_MAX_FAILURES)]
    max_failures: Budget,
    /// Stop with 2 where so many samples in a row give nothing, as when a disk goes away; 0 never stops
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_IN_A_ROW)]
    max_failures_in_a_row: usize,
    /// Give a clip up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = pool::DEFAULT_TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(1..))]
    clip_timeout: u64,
    /// Memory that one decode worker may use, in MiB
    #[arg(long, value_name = "MIB", default_value_t = pool::DEFAULT_MEMORY_MIB, value_parser = clap::value_parser!(u64).range(16..))]
    worker_memory: u64,
    /// Decode with this program instead, which speaks the decode worker's protocol (for tests)
    #[arg(long, value_name = "PROGRAM", hide = true)]
    decoder: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

/// `I/N`.
#[derive(Debug, Clone, Copy)]
struct Part {
    index: usize,
    of: usize,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, of)) if index < of => Ok(Part { index, of }),
            _ => Err("must be I/N with I from 0 to N-1, such as 0/3".to_owned()),
        }
    }
}

/// How much may fail.
#[derive(Debug, Clone, Copy)]
enum Budget {
    Count(usize),
    Percent(f64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let wrong = || "must be a count such as 20 or a share such as 1.5%".to_owned();
        match text.strip_suffix('%') {
            Some(share) => match share.parse() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(Budget::Percent(share)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Budget::Count).map_err(|_| wrong()),
        }
    }
}

impl Budget {
    fn allows(self, failed: usize, samples: usize) -> bool {
        match self {
            Budget::Count(most) => failed <= most,
            Budget::Percent(share) => failed as f64 <= samples as f64 * share / 100.0,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = source::open(&args.source)?;
    let info = source.dataset.info();
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| source::default_shards(&info.name));
    if args.finish {
        return finish_only(args, info, &out);
    }
    let choices = Choices {
        mel_dtype: args.mel_dtype,
        frame_pool: args.frame_pool,
        segment: args.segment,
        shard_rows: args.shard_rows,
        limit: args.limit,
        listing: ListOptions { plot: args.plot },
    };
    let listing = source.dataset.list(&source.raw, &choices.listing)?;
    let mut notes: BTreeMap<NoteKind, usize> = BTreeMap::new();
    for note in &listing.notes {
        *notes.entry(note.kind).or_default() += 1;
    }
    let layout = listing.layout.clone();
    let plan = plan::plan(info, listing, &choices);
    if plan.shards.is_empty() {
        bail!(
            "{}: the annotation lists no samples; run `ingest check` on it",
            source.raw.display()
        );
    }
    if args.segment == Segment::Event && !plan.spec.segment {
        bail!(
            "--segment event: the annotation of {} tells of no events; leave the flag away",
            info.name
        );
    }
    // Held from before the look at the folder until the end.
    let _lock = if args.dry_run {
        None
    } else {
        Some(claim(args, &out)?)
    };
    let finished = if args.overwrite {
        Vec::new()
    } else {
        existing::survey(&plan, &out)?
    };
    let stale = existing::stale(&plan, &finished, args.update, &out)?;
    let todo: Vec<&plan::Shard> = plan
        .shards
        .iter()
        .enumerate()
        .filter(|(number, _)| args.part.is_none_or(|part| number % part.of == part.index))
        .map(|(_, shard)| shard)
        .filter(|shard| {
            stale.contains(&shard.name) || !finished.iter().any(|done| done.name == shard.name)
        })
        .collect();
    if args.dry_run {
        return report::plan(args, &source, &layout, &out, &plan, &todo);
    }
    // What a killed run has left. The other parts may be writing their shards at this moment.
    let own = |name: &str| todo.iter().any(|shard| shard.name.file_name() == name);
    let removed = match args.part {
        Some(_) => remove_temporaries(&out, own),
        None => remove_temporaries(&out, |_| true)
            .and_then(|()| remove_temporaries(&out.join("masks"), |_| true)),
    };
    removed.with_context(|| out.display().to_string())?;
    if args.overwrite {
        existing::remove_all(&out)?;
    }
    let mut effort = None;
    if !todo.is_empty() {
        manifest::remove(&out)?;
        signals::catch().context("cannot catch signals")?;
        match execute::execute(&execute_options(args), &source, &plan, &todo, &out, &notes)? {
            End::Done(found) => effort = Some(found),
            End::Stopped(signal) => {
                let message = format!(
                    "stopped by signal {signal}; the same command goes on where this one stopped"
                );
                cli::warn(&message);
                // The code that a shell gives to a program ended by this signal.
                return Ok(ExitCode::from(128u8.saturating_add(signal as u8)));
            }
        }
    }
    report::conclude(
        args,
        info,
        &plan.shards_per_split(),
        &out,
        effort.as_deref(),
    )
}

fn execute_options(args: &Args) -> execute::Options {
    execute::Options {
        workers: match args.workers {
            Some(workers) => usize::from(workers),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        },
        clip_timeout: Duration::from_secs(args.clip_timeout),
        worker_memory_mib: args.worker_memory,
        decoder: args.decoder.clone(),
        max_failures_in_a_row: args.max_failures_in_a_row,
    }
}

/// Makes the output folder and claims it.
fn claim(args: &Args, out: &Path) -> anyhow::Result<Lock> {
    fs::create_dir_all(out).with_context(|| {
        format!(
            "{}: cannot create this folder; choose another --out",
            out.display()
        )
    })?;
    let claim = args
        .part
        .map_or(Claim::Whole, |part| Claim::Part(part.index, part.of));
    Lock::acquire(out, claim)
}

/// `--finish`: nothing but the manifest.
fn finish_only(args: &Args, info: &Info, out: &Path) -> anyhow::Result<ExitCode> {
    let finished = shard_writer::survey(out)?;
    let Some(first) = finished.first() else {
        bail!("{}: no shards here; run the parts first", out.display());
    };
    if first.spec.dataset != info.name {
        bail!(
            "{}: the shards are of dataset {}, not {}",
            out.display(),
            first.spec.dataset,
            info.name
        );
    }
    let expected = first.summary.shards.clone();
    if args.dry_run {
        outln!(
            "would write {} and {} in {}",
            features::MANIFEST_FILE,
            features::FAILURES_FILE,
            out.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = Lock::acquire(out, Claim::Whole)?;
    report::conclude(args, info, &expected, out, None)
}
