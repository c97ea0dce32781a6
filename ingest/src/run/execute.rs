//! The work itself: samples to the decode workers, their replies to rows, rows to shards, all in the order of the plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use datasets::{Input, Modality, NoteKind, Sample};
use features::mel::{MAX_MEL_FRAMES, MEL_BINS};
use features::{Mel, Row};

use super::feed::{self, Feed};
use super::signals;
use crate::failure::{self, Failure};
use crate::plan::{self, Plan};
use crate::progress::Progress;
use crate::shard_writer::{Outcome, Quarantined, Summary, Warning, Writer};
use crate::source::Source;
use crate::workers::pool::{self, Effort, Pool, Replies};
use crate::workers::protocol::{Bounds, Content};
use crate::workers::sandbox;

/// How a plan is executed. Nothing here changes a byte of the output.
pub struct Options {
    /// Decode workers at a time.
    pub workers: usize,
    /// The longest that one clip may take.
    pub clip_timeout: Duration,
    /// Address space of one worker in MiB.
    pub worker_memory_mib: u64,
    /// The program to start as a worker, where it is not this one.
    pub decoder: Option<PathBuf>,
    /// How many samples in a row may fail before the run stops; 0 never stops it.
    pub max_failures_in_a_row: usize,
}

/// How it ended.
pub enum End {
    /// Everything is written; what the clips have cost.
    Done(Arc<Effort>),
    /// A signal asked to stop.
    Stopped(i32),
}

/// Decodes and writes the shards in order.
///
/// A shard that ends in a row of failures gets its name only once that row is broken: where the disk with the raw data has
/// gone away, a shard full of failures must not pass for finished.
///
/// # Errors
/// `--max-failures-in-a-row` samples had files and none gave anything; a shard cannot be written.
pub fn execute(
    options: &Options,
    source: &Source,
    plan: &Plan,
    todo: &[&plan::Shard],
    out: &Path,
    notes: &BTreeMap<NoteKind, usize>,
) -> anyhow::Result<End> {
    let samples: Vec<&Sample> = todo.iter().flat_map(|shard| &shard.samples).collect();
    let inputs = samples.iter().flat_map(|sample| &sample.inputs);
    let files = inputs.filter_map(feed::files).flatten();
    let (readable, links) = sandbox::folders(&source.raw, files.map(AsRef::as_ref))
        .with_context(|| format!("{}: cannot be looked into", source.raw.display()))?;
    let pool = Pool::start(&pool::Settings {
        workers: options.workers,
        timeout: options.clip_timeout,
        memory_mib: options.worker_memory_mib,
        bounds: Bounds { readable },
        decoder: options.decoder.clone(),
    })?;
    let mut progress = Progress::start("clips", samples.len() as u64);
    for (kind, count) in notes {
        progress.say(
            "note",
            &format!(
                "{count} x {} in the raw data (see `ingest check`)",
                kind.as_str()
            ),
        );
    }
    if links > 0 {
        let message =
            format!("{links} files are links that lead out of the raw folder; they are followed");
        progress.say("note", &message);
    }
    let modalities = source.dataset.info().modalities;
    let mut feed = Feed::new(
        &pool,
        options.workers,
        &source.raw,
        modalities,
        &plan.settings,
        samples,
    );
    let (mut incomplete, mut quarantined) = (0, 0);
    let mut in_a_row = 0;
    let mut held: Vec<Writer> = Vec::new();
    for shard in todo {
        let summary = Summary::new(
            plan.settings.clone(),
            shard.input_hash.clone(),
            plan.shards_per_split(),
        );
        let mut writer = Writer::create(out, shard.name, &plan.spec, summary)?;
        for sample in &shard.samples {
            let Some(replies) = feed.take()? else {
                return Ok(End::Stopped(signals::received().unwrap_or_default()));
            };
            // A sample whose files were not asked for says nothing about the disk.
            match failure_of_all(&replies) {
                Some(failure) => {
                    in_a_row += 1;
                    if in_a_row == options.max_failures_in_a_row {
                        bail!(
                            "{}: {in_a_row} samples in a row gave nothing, the last is {} ({failure}); is the disk still there? \
                             Finished shards are kept, the same command goes on; --max-failures-in-a-row 0 never stops",
                            source.raw.display(),
                            sample.id
                        );
                    }
                }
                None if replies.is_empty() => {}
                None => {
                    in_a_row = 0;
                    for writer in held.drain(..) {
                        writer.finish()?;
                    }
                }
            }
            let (outcome, warnings) = assemble(sample, modalities, replies);
            match &outcome {
                Outcome::Quarantined(_) => quarantined += 1,
                Outcome::Row(_, failures) => incomplete += usize::from(!failures.is_empty()),
            }
            writer.push(outcome, warnings)?;
            progress.step(|| note(incomplete, quarantined));
        }
        if in_a_row == 0 {
            writer.finish()?;
        } else {
            held.push(writer);
        }
    }
    for writer in held {
        writer.finish()?;
    }
    progress.finish(&note(incomplete, quarantined));
    Ok(End::Done(pool.effort()))
}

/// Why nothing could be read of a sample that has files: the first reason. `None` where something could.
fn failure_of_all(replies: &Replies) -> Option<Failure> {
    let mut failures = replies.iter().map(|reply| reply.outcome.as_ref().err());
    let first = failures.next()??.clone();
    failures.all(|failure| failure.is_some()).then_some(first)
}

fn note(incomplete: usize, quarantined: usize) -> String {
    format!("{incomplete} incomplete, {quarantined} without anything")
}

/// A sample and the workers' replies, in the order of its file inputs, to what goes into the shard.
fn assemble(
    sample: &Sample,
    modalities: [Modality; 2],
    replies: Replies,
) -> (Outcome, Vec<Warning>) {
    let mut row = Row::new(&sample.id, sample.split, sample.labels.clone());
    row.source = sample.source.clone();
    row.segment = sample.segment;
    let mut failures: BTreeMap<Modality, Failure> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut replies = replies.into_iter();
    for (&modality, input) in modalities.iter().zip(&sample.inputs) {
        match input {
            Input::Text(text) => row.text = Some(text.clone()),
            Input::Absent { reason: None } => {}
            Input::Absent {
                reason: Some(reason),
            } => {
                failures.insert(modality, Failure::listed(reason));
            }
            Input::Files(_) | Input::TextFile(_) => {
                let Some(reply) = replies.next() else {
                    continue;
                };
                let warn = |what| Warning {
                    id: sample.id.clone(),
                    modality,
                    what,
                };
                warnings.extend(reply.warnings.into_iter().map(warn));
                if let Err(failure) = reply
                    .outcome
                    .and_then(|content| fill(&mut row, modality, content))
                {
                    failures.insert(modality, failure);
                }
            }
        }
    }
    if !modalities.iter().any(|&modality| row.has(modality)) {
        let gone = Quarantined {
            id: row.id,
            source: row.source,
            labels: row.labels,
            failures,
        };
        return (Outcome::Quarantined(gone), warnings);
    }
    let sentences: Vec<String> = failures
        .iter()
        .map(|(modality, failure)| format!("{modality}: {failure}"))
        .collect();
    row.error = (!sentences.is_empty()).then(|| sentences.join("; "));
    (Outcome::Row(Box::new(row), failures), warnings)
}

/// Puts a worker's answer into a row, checking what the schema would refuse: the worker is not to be trusted.
fn fill(row: &mut Row, modality: Modality, content: Content) -> Result<(), Failure> {
    let nonsense = || Failure::with(failure::CRASHED, "it answered nonsense");
    let mut blobs = content.blobs;
    match modality {
        Modality::Audio => {
            let (values, rest) = blobs.first().ok_or_else(nonsense)?.as_chunks::<4>();
            let values: Vec<f32> = values
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            let frames = values.len() / MEL_BINS;
            let whole = rest.is_empty() && values.len().is_multiple_of(MEL_BINS);
            let sane =
                (1..=MAX_MEL_FRAMES).contains(&frames) && values.iter().all(|v| v.is_finite());
            if !whole || !sane {
                return Err(nonsense());
            }
            row.mel = Some(Mel {
                bins: MEL_BINS,
                values,
            });
            row.audio_seconds = content.seconds;
        }
        Modality::Video => {
            if blobs.is_empty() || blobs.len() != content.times.len() {
                return Err(nonsense());
            }
            row.frames = Some(blobs);
            row.frame_times = content.times;
            row.video_seconds = content.seconds;
        }
        Modality::Image => row.image = Some(blobs.pop().ok_or_else(nonsense)?),
        Modality::Text => {
            let text = blobs.pop().and_then(|bytes| String::from_utf8(bytes).ok());
            row.text = Some(text.filter(|text| !text.is_empty()).ok_or_else(nonsense)?);
        }
    }
    Ok(())
}
