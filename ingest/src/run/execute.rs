//! The execution of a plan: samples to the decode workers, their replies to rows, and rows to
//! shards, in the order of the plan.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use datasets::{NoteKind, Sample};
use features::RowContent;
use util::exit_code::Temporary;

use super::row;
use super::scheduler::{Decoders, Scheduler};
use super::signals;
use crate::contents::index::Index;
use crate::contents::recorder::Recorder;
use crate::decode::audio::USED_SECONDS;
use crate::failure::Failure;
use crate::output::Output;
use crate::plan::{self, Plan};
use crate::progress::Progress;
use crate::shard_writer::{Outcome, ShardWriter, Summary};
use crate::source::Source;
use crate::workers::pool::{PeakCost, Pool, Replies};
use crate::workers::protocol::{ReadAccess, Request};
use crate::workers::sandbox;
use crate::workers::worker_process::WorkerSettings;

/// Options that change no byte of the output.
pub struct Options {
    /// Decode workers at a time.
    pub workers: usize,
    /// Limit on the time that one clip may take.
    pub clip_timeout: Duration,
    /// Limit on the address space of one worker in MiB.
    pub worker_memory_mib: u64,
    /// The program to start as decode worker. `None` stands for this program.
    pub decoder: Option<PathBuf>,
    /// How many samples may fail in a row before the run stops. 0 stands for no limit.
    pub max_failures_in_a_row: usize,
}

/// How an execution ended.
pub enum End {
    /// All shards are written. Holds the highest cost of a clip.
    Done(Arc<PeakCost>),
    /// A signal, of which this is the number, stopped the run.
    Stopped(i32),
}

/// Decodes the samples of `shards` and writes the shards in order. `notes` are counts of the notes
/// about the raw tree, which are printed first.
///
/// # Errors
/// [`Options::max_failures_in_a_row`] samples have failed in a row, or a shard cannot be written.
pub fn execute(
    options: &Options,
    source: &Source,
    plan: &Plan,
    shards: &[&plan::Shard],
    output: &Output,
    notes: &BTreeMap<NoteKind, usize>,
) -> anyhow::Result<End> {
    let samples: Vec<&Sample> = shards.iter().flat_map(|shard| &shard.samples).collect();
    let (pool, links) = start_pool(options, source, &samples)?;
    let recorder = Recorder::start()?;
    let decoders = WatchedPool {
        pool: &pool,
        recorder: &recorder,
    };
    let mut progress = Progress::start("clips", samples.len() as u64);
    print_notes(&progress, notes, links);
    let modalities = source.dataset.info().modalities;
    let mut scheduler = Scheduler::new(
        &decoders,
        options.workers,
        &source.raw,
        modalities,
        &plan.settings,
        samples,
    );
    let mut counts = Counts::default();
    let mut streak = FailureStreak::new(options.max_failures_in_a_row);
    for shard in shards {
        let summary = Summary::new(
            plan.settings.clone(),
            shard.input_hash.clone(),
            plan.shards_per_split(),
        );
        let mut writer = ShardWriter::create(output, shard.name, &plan.spec, summary)?;
        for sample in &shard.samples {
            let Some(replies) = scheduler.next_replies()? else {
                return Ok(End::Stopped(signals::received().unwrap_or_default()));
            };
            let reading = Reading::of(&replies);
            let (outcome, warnings) = row::assemble(sample, modalities, replies);
            streak.record(sample, &reading, &outcome, &source.raw)?;
            counts.add(&outcome);
            writer.push(outcome, warnings)?;
            progress.step(|| counts.to_string());
        }
        streak.finish_shard(writer, recorder.index(&source.raw, shard)?)?;
    }
    if streak.has_lost_files {
        return Err(Temporary::error(format!(
            "{}: the files have vanished while they were read; is the disk still mounted? Finished shards are kept, the \
             same command continues",
            source.raw.display()
        )));
    }
    streak.finish()?;
    counts.note_long(&progress);
    progress.finish(&counts.to_string());
    Ok(End::Done(pool.peak_cost()))
}

/// The worker pool, with every file that goes to it recorded.
struct WatchedPool<'a> {
    pool: &'a Pool,
    recorder: &'a Recorder,
}

impl Decoders for WatchedPool<'_> {
    fn submit(&self, number: usize, request: Request) -> anyhow::Result<()> {
        for file in request.tasks.iter().flat_map(|task| &task.files) {
            self.recorder.watch(&file.path);
        }
        self.pool.submit(number, request)
    }

    fn next(&self, timeout: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
        self.pool.next(timeout)
    }
}

/// Starts the decode workers, which may read the files of these samples. Also returns how many files
/// are links that lead out of the raw folder.
///
/// # Errors
/// The raw folder cannot be read, or the system refuses to start the threads of the pool.
pub fn start_pool(
    options: &Options,
    source: &Source,
    samples: &[&Sample],
) -> anyhow::Result<(Pool, usize)> {
    let inputs = samples.iter().flat_map(|sample| &sample.inputs);
    let files = inputs.filter_map(plan::files).flatten();
    let (readable, links) = sandbox::folders_of(&source.raw, files.map(AsRef::as_ref))
        .with_context(|| format!("{}: cannot read this folder", source.raw.display()))?;
    let settings = worker_settings(options, readable)?;
    Ok((Pool::start(options.workers, &settings)?, links))
}

fn worker_settings(options: &Options, readable: Vec<PathBuf>) -> anyhow::Result<WorkerSettings> {
    let program = match &options.decoder {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    Ok(WorkerSettings {
        program,
        timeout: options.clip_timeout,
        memory_mib: options.worker_memory_mib,
        read_access: ReadAccess { readable },
    })
}

/// Prints the counts of notes about the raw tree, and of links that lead out of it.
fn print_notes(progress: &Progress, notes: &BTreeMap<NoteKind, usize>, links: usize) {
    for (kind, count) in notes {
        let kind = kind.as_str();
        let message = format!("{count} x {kind} in the raw data (see `ingest check`)");
        progress.print("note", &message);
    }
    if links > 0 {
        let message =
            format!("{links} files are links that lead out of the raw folder; they are followed");
        progress.print("note", &message);
    }
}

/// How much longer than [`USED_SECONDS`] a clip must be to be worth a note, in seconds. Clips of
/// "10 s" often have some frames more.
const LONG_BY: f64 = 0.5;

/// Samples that lack a modality that should be there, and those with more sound than is used.
#[derive(Default)]
struct Counts {
    incomplete: usize,
    quarantined: usize,
    long: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Quarantined(_) => self.quarantined += 1,
            Outcome::Row(row, failures) => {
                self.incomplete += usize::from(!failures.is_empty());
                let mut contents = row.contents.iter().flatten();
                let is_long = contents.any(|content| match content {
                    RowContent::Mel { seconds, .. } => {
                        f64::from(seconds.unwrap_or_default()) > USED_SECONDS + LONG_BY
                    }
                    _ => false,
                });
                self.long += usize::from(is_long);
            }
        }
    }

    /// Says once how many samples have more sound than is used.
    fn note_long(&self, progress: &Progress) {
        if self.long > 0 {
            let message = format!(
                "{} clips have more sound than a spectrogram holds: the first {USED_SECONDS} s are used; frames are \
                 taken from the whole clip",
                self.long
            );
            progress.print("note", &message);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (incomplete, quarantined) = (self.incomplete, self.quarantined);
        write!(f, "{incomplete} incomplete, {quarantined} quarantined")
    }
}

/// Counts samples that fail in a row.
///
/// A shard that ends in such a row gets its final name only once a sample succeeds. Where the disk
/// with the raw data has failed, a shard full of failures must not pass for a finished one.
struct FailureStreak {
    length: usize,
    limit: usize,
    /// Whether all files of a shard have vanished after they were found.
    has_lost_files: bool,
    /// Shards that are complete except for their final names.
    held_back: Vec<ShardWriter>,
}

impl FailureStreak {
    fn new(limit: usize) -> FailureStreak {
        FailureStreak {
            length: 0,
            limit,
            has_lost_files: false,
            held_back: Vec::new(),
        }
    }

    /// Records one sample. It counts only if nothing is left of it; a sample that has only what the
    /// annotation gives it says nothing about the disk.
    ///
    /// # Errors
    /// The limit is reached, or a shard that was held back cannot be finished.
    fn record(
        &mut self,
        sample: &Sample,
        reading: &Reading,
        outcome: &Outcome,
        raw: &Path,
    ) -> anyhow::Result<()> {
        match (reading, outcome) {
            (Reading::Failed(failure), Outcome::Quarantined(_)) => {
                self.length += 1;
                if self.length == self.limit {
                    return Err(Temporary::error(format!(
                        "{}: {} samples in a row failed, the last is {} ({failure}); is the disk still mounted? \
                         Finished shards are kept, the same command continues; --max-failures-in-a-row 0 never stops",
                        raw.display(),
                        self.length,
                        sample.id
                    )));
                }
            }
            (Reading::Succeeded, _) => {
                self.length = 0;
                // A sample may succeed that was decoded before.
                if !self.has_lost_files {
                    self.finish()?;
                }
            }
            (Reading::Failed(_) | Reading::Nothing, _) => {}
        }
        Ok(())
    }

    /// Finishes a shard whose samples are all written, or holds it back. `sources` are its files,
    /// `None` if they have vanished.
    fn finish_shard(
        &mut self,
        mut writer: ShardWriter,
        sources: Option<Index>,
    ) -> anyhow::Result<()> {
        match sources {
            Some(sources) => writer.set_sources(sources),
            None => self.has_lost_files = true,
        }
        if self.length == 0 && !self.has_lost_files {
            writer.finish()?;
        } else {
            self.held_back.push(writer);
        }
        Ok(())
    }

    /// Finishes the shards that were held back.
    fn finish(&mut self) -> anyhow::Result<()> {
        for writer in self.held_back.drain(..) {
            writer.finish()?;
        }
        Ok(())
    }
}

/// What became of the files of one sample.
enum Reading {
    /// It has none.
    Nothing,
    /// At least one of its tasks succeeded.
    Succeeded,
    /// All of its tasks failed. Holds the first failure.
    Failed(Failure),
}

impl Reading {
    fn of(replies: &Replies) -> Reading {
        let mut failures = replies.iter().map(|reply| reply.outcome.as_ref().err());
        match failures.next() {
            None => Reading::Nothing,
            Some(Some(first)) if failures.all(|failure| failure.is_some()) => {
                Reading::Failed(first.clone())
            }
            Some(_) => Reading::Succeeded,
        }
    }
}
