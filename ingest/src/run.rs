//! `ingest run`: raw tree to shards.
//!
//! Plan, look what is there already, decode the rest in child processes, write shards in order, and when the last one is
//! there, the manifest. Every step can be interrupted at any moment and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use datasets::{Info, Input, ListOptions, Modality, NoteKind, Plot, Sample, Split};
use features::{Mel, MelDtype, Row};
use serde_json::json;

use crate::failure::Failure;
use crate::lock::{Claim, Lock};
use crate::manifest::{self, Manifest};
use crate::output::{self, outln};
use crate::plan::{self, Choices, DEFAULT_FRAME_POOL, DEFAULT_SHARD_ROWS, Plan};
use crate::pool::{self, Pool, Replies};
use crate::progress::Progress;
use crate::protocol::{Content, File, Request, Task};
use crate::shard::{self, Finished, Outcome, Quarantined, Summary, Warning, Writer};
use crate::source::{self, Source};
use crate::sys;

/// Clips handed to the workers ahead of the one that is written next, per worker. Bounds the memory: a clip is up to 2 MB.
const AHEAD_PER_WORKER: usize = 8;

/// How long to wait for a worker before looking at signals.
const PATIENCE: Duration = Duration::from_millis(200);

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
    /// Store mel values as f32 or f16
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    mel_dtype: MelDtype,
    /// Which plot becomes the text (mm-imdb): longest, first, outline or all
    #[arg(long, value_name = "WHICH", default_value = "longest")]
    plot: Plot,
    /// Exit with 1 where more samples than this, or than this share, lack a modality
    #[arg(long, value_name = "N|P%", default_value = DEFAULT_MAX_FAILURES)]
    max_failures: Budget,
    /// Give a clip up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = pool::DEFAULT_TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(1..))]
    clip_timeout: u64,
    /// Memory that one decode worker may use, in MiB
    #[arg(long, value_name = "MIB", default_value_t = pool::DEFAULT_MEMORY_MIB, value_parser = clap::value_parser!(u64).range(16..))]
    worker_memory: u64,
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
    let finished = if args.overwrite {
        Vec::new()
    } else {
        survey(&plan, &out)?
    };
    let stale = stale(&plan, &finished, args, &out)?;
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
        return print_plan(args, &source, &layout, &out, &plan, &todo);
    }

    fs::create_dir_all(&out).with_context(|| {
        format!(
            "{}: cannot create this folder; choose another --out",
            out.display()
        )
    })?;
    let claim = args
        .part
        .map_or(Claim::Whole, |part| Claim::Part(part.index, part.of));
    let _lock = Lock::acquire(&out, claim)?;
    match claim {
        Claim::Whole => {
            shard::sweep(&out, |_| true)?;
            shard::sweep_masks(&out)?;
        }
        Claim::Part(..) => shard::sweep(&out, |name| {
            todo.iter().any(|shard| shard.name.file() == name)
        })?,
    }
    if args.overwrite {
        remove_all(&out)?;
    }
    if !todo.is_empty() {
        manifest::remove(&out)?;
        sys::catch_signals();
        if let Some(signal) = execute(args, &source, &plan, &todo, &out, &notes)? {
            let message = format!(
                "stopped by signal {signal}; the same command goes on where this one stopped"
            );
            return Ok(output::stopped(signal, &message));
        }
    }
    conclude(args, info, &plan.shards_per_split(), &out)
}

/// Looks at what is there, and refuses what does not belong to this plan.
fn survey(plan: &Plan, out: &Path) -> anyhow::Result<Vec<Finished>> {
    let finished = shard::survey(out)?;
    let remedy = "use --overwrite to begin anew, or choose another --out";
    for shard in &finished {
        let file = shard.name.file();
        if shard.summary.settings.dataset != plan.settings.dataset {
            let other = &shard.summary.settings.dataset;
            bail!(
                "{}: {file} is of dataset {other}, not {}; {remedy}",
                out.display(),
                plan.settings.dataset
            );
        }
        if shard.spec.settings_hash != plan.hash {
            let difference = difference(&shard.summary.settings, &plan.settings)?;
            bail!(
                "{}: {file} was made with other settings ({difference}); {remedy}",
                out.display()
            );
        }
        if !plan.shards.iter().any(|planned| planned.name == shard.name) {
            bail!(
                "{}: {file} is none of this run's shards, the raw data has grown or shrunk; {remedy}",
                out.display()
            );
        }
    }
    Ok(finished)
}

/// The first setting in which two runs differ, in words.
fn difference(theirs: &plan::Settings, ours: &plan::Settings) -> anyhow::Result<String> {
    let (theirs, ours) = (serde_json::to_value(theirs)?, serde_json::to_value(ours)?);
    let first = theirs
        .as_object()
        .into_iter()
        .flatten()
        .find_map(|(key, their)| {
            let our = ours.get(key)?;
            let short =
                |value: &serde_json::Value| value.to_string().chars().take(60).collect::<String>();
            (their != our).then(|| format!("{key} {}, now {}", short(their), short(our)))
        });
    Ok(first.unwrap_or_else(|| "an unknown difference".to_owned()))
}

/// Finished shards whose samples are listed differently now.
fn stale(
    plan: &Plan,
    finished: &[Finished],
    args: &Args,
    out: &Path,
) -> anyhow::Result<BTreeSet<plan::Name>> {
    let hashes: BTreeMap<_, _> = plan
        .shards
        .iter()
        .map(|shard| (shard.name, &shard.input_hash))
        .collect();
    let stale: BTreeSet<_> = finished
        .iter()
        .filter(|shard| hashes.get(&shard.name) != Some(&&shard.summary.input_hash))
        .map(|shard| shard.name)
        .collect();
    match stale.first() {
        Some(first) if !args.update => bail!(
            "{}: the raw data has changed since {} of the shards were made (the first is {}); --update makes those anew, \
             --overwrite all",
            out.display(),
            stale.len(),
            first.file()
        ),
        _ => Ok(stale),
    }
}

fn print_plan(
    args: &Args,
    source: &Source,
    layout: &str,
    out: &Path,
    plan: &Plan,
    todo: &[&plan::Shard],
) -> anyhow::Result<ExitCode> {
    let entry = |shard: &plan::Shard| {
        let action = if todo.iter().any(|one| one.name == shard.name) {
            "make"
        } else {
            "keep"
        };
        (shard.name.file(), shard.samples.len(), action)
    };
    if args.json {
        let shards: Vec<_> = plan
            .shards
            .iter()
            .map(entry)
            .map(|(file, samples, action)| json!({"file": file, "samples": samples, "action": action}))
            .collect();
        return output::json(&json!({
            "raw": source.raw, "layout": layout, "out": out, "settings": plan.settings, "settings_hash": plan.hash,
            "samples": plan.samples(), "shards": shards,
        }));
    }
    outln!(
        "{} from {} ({layout})",
        plan.settings.dataset,
        source.raw.display()
    )?;
    outln!("into {}, settings {}", out.display(), &plan.hash[..16])?;
    for (file, samples, action) in plan.shards.iter().map(entry) {
        outln!("  {action} {file}: {samples} samples")?;
    }
    let samples: usize = todo.iter().map(|shard| shard.samples.len()).sum();
    outln!(
        "{} of {} shards to make, {samples} of {} samples to decode",
        todo.len(),
        plan.shards.len(),
        plan.samples()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Decodes and writes the shards in order. `Some`: a signal asked to stop.
fn execute(
    args: &Args,
    source: &Source,
    plan: &Plan,
    todo: &[&plan::Shard],
    out: &Path,
    notes: &BTreeMap<NoteKind, usize>,
) -> anyhow::Result<Option<i32>> {
    let workers = match args.workers {
        Some(workers) => usize::from(workers),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let pool = Pool::start(&pool::Settings {
        workers,
        timeout: Duration::from_secs(args.clip_timeout),
        memory_mib: args.worker_memory,
    })?;
    let samples: Vec<&Sample> = todo.iter().flat_map(|shard| &shard.samples).collect();
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
    let mut feed = Feed {
        pool: &pool,
        raw: &source.raw,
        modalities: source.dataset.info().modalities,
        frame_pool: plan.settings.frame_pool as usize,
        samples,
        ahead: workers * AHEAD_PER_WORKER,
        submitted: 0,
        arrived: BTreeMap::new(),
        next: 0,
    };
    let (mut incomplete, mut quarantined) = (0, 0);
    for shard in todo {
        let summary = Summary::new(
            plan.settings.clone(),
            shard.input_hash.clone(),
            plan.shards_per_split(),
        );
        let mut writer = Writer::create(out, shard.name, &plan.spec, summary)?;
        for sample in &shard.samples {
            let Some(replies) = feed.take()? else {
                return Ok(sys::stop_signal());
            };
            let (outcome, warnings) = assemble(sample, feed.modalities, replies);
            match &outcome {
                Outcome::Quarantined(_) => quarantined += 1,
                Outcome::Row(_, failures) => incomplete += usize::from(!failures.is_empty()),
            }
            writer.push(outcome, warnings)?;
            progress.step(|| note(incomplete, quarantined));
        }
        writer.finish()?;
    }
    progress.finish(&note(incomplete, quarantined));
    Ok(None)
}

fn note(incomplete: usize, quarantined: usize) -> String {
    format!("{incomplete} incomplete, {quarantined} without anything")
}

/// Keeps the workers busy and gives their replies out in the order of the samples.
struct Feed<'a> {
    pool: &'a Pool,
    raw: &'a Path,
    modalities: [Modality; 2],
    frame_pool: usize,
    samples: Vec<&'a Sample>,
    ahead: usize,
    submitted: usize,
    arrived: BTreeMap<usize, Replies>,
    next: usize,
}

impl Feed<'_> {
    /// The next sample's replies; `None` where a signal asked to stop.
    fn take(&mut self) -> anyhow::Result<Option<Replies>> {
        while self.submitted < self.samples.len().min(self.next + self.ahead) {
            let request = self.request(self.samples[self.submitted]);
            if request.tasks.is_empty() {
                self.arrived.insert(self.submitted, Vec::new());
            } else {
                self.pool.submit(self.submitted, request)?;
            }
            self.submitted += 1;
        }
        loop {
            if sys::stop_signal().is_some() {
                return Ok(None);
            }
            if let Some(replies) = self.arrived.remove(&self.next) {
                self.next += 1;
                return Ok(Some(replies));
            }
            if let Some((index, replies)) = self.pool.next(PATIENCE)? {
                self.arrived.insert(index, replies);
            }
        }
    }

    fn request(&self, sample: &Sample) -> Request {
        let tasks = self
            .modalities
            .iter()
            .zip(&sample.inputs)
            .filter_map(|(&modality, input)| {
                let files = files(input)?;
                let files = files
                    .iter()
                    .map(|path| File {
                        path: self.raw.join(path),
                        name: slashed(path),
                    })
                    .collect();
                Some(Task { modality, files })
            });
        Request {
            pool: self.frame_pool,
            tasks: tasks.collect(),
        }
    }
}

/// The files that a worker has to open for an input.
fn files(input: &Input) -> Option<&[PathBuf]> {
    match input {
        Input::Files(paths) => Some(paths),
        Input::TextFile(path) => Some(std::slice::from_ref(path)),
        Input::Text(_) | Input::Absent { .. } => None,
    }
}

fn slashed(path: &Path) -> String {
    path.components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
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
    let nonsense = || Failure::with(crate::failure::CRASHED, "it answered nonsense");
    let mut blobs = content.blobs;
    match modality {
        Modality::Audio => {
            let (values, rest) = blobs.first().ok_or_else(nonsense)?.as_chunks::<4>();
            let values: Vec<f32> = values
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            let frames = values.len() / features::mel::MEL_BINS;
            let whole = rest.is_empty() && values.len().is_multiple_of(features::mel::MEL_BINS);
            let sane = (1..=features::mel::MAX_MEL_FRAMES).contains(&frames)
                && values.iter().all(|v| v.is_finite());
            if !whole || !sane {
                return Err(nonsense());
            }
            row.mel = Some(Mel {
                bins: features::mel::MEL_BINS,
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

/// `--finish`: nothing but the manifest.
fn finish_only(args: &Args, info: &Info, out: &Path) -> anyhow::Result<ExitCode> {
    let finished = shard::survey(out)?;
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
            manifest::FILE,
            manifest::FAILURES,
            out.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = Lock::acquire(out, Claim::Whole)?;
    conclude(args, info, &expected, out)
}

/// Writes the manifest where all shards are there, and tells how it went.
fn conclude(
    args: &Args,
    info: &Info,
    expected: &BTreeMap<Split, usize>,
    out: &Path,
) -> anyhow::Result<ExitCode> {
    let finished = shard::survey(out)?;
    if let Some(other) = finished.iter().find(|shard| shard.spec != finished[0].spec) {
        bail!(
            "{}: {} and {} were made with different settings; use --overwrite to begin anew",
            out.display(),
            finished[0].name.file(),
            other.name.file()
        );
    }
    let total: usize = expected.values().sum();
    let missing = total - finished.len().min(total);
    if missing > 0 {
        if args.finish {
            bail!(
                "{}: {missing} of {total} shards are still missing; run their parts first",
                out.display()
            );
        }
        if args.json {
            return output::json(
                &json!({"out": out, "shards": finished.len(), "of": total, "manifest": null}),
            );
        }
        outln!(
            "{} of {total} shards in {}; the part that comes last writes the manifest",
            finished.len(),
            out.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(manifest) = manifest::write(out, info, &finished)? else {
        bail!("{}: no shards here", out.display());
    };
    report(args, out, &manifest)
}

fn report(args: &Args, out: &Path, manifest: &Manifest) -> anyhow::Result<ExitCode> {
    let samples: usize = manifest.totals.values().map(|totals| totals.samples).sum();
    let failed = manifest.failures.incomplete + manifest.failures.quarantined;
    let allowed = args.max_failures.allows(failed, samples);
    if args.json {
        output::json(&json!({"out": out, "within_budget": allowed, "manifest": manifest}))?;
    } else {
        for (split, totals) in &manifest.totals {
            let present: Vec<String> = totals
                .present
                .iter()
                .map(|(modality, n)| format!("{n} with {modality}"))
                .collect();
            outln!(
                "{split:<5} {} rows of {} samples: {}",
                totals.rows,
                totals.samples,
                present.join(", ")
            )?;
        }
        for (modality, causes) in &manifest.failures.causes {
            for (cause, count) in causes {
                outln!("  {count} x {modality}: {cause}")?;
            }
        }
        for (cause, count) in &manifest.warnings.causes {
            outln!(
                "  {count} x {cause} (kept; see \"warnings\" in {})",
                manifest::FILE
            )?;
        }
        let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
        outln!(
            "{} shards, {:.1} MB, in {}",
            manifest.shards.len(),
            bytes as f64 / 1e6,
            out.display()
        )?;
    }
    if !allowed {
        output::warn(&format!(
            "{failed} of {samples} samples lack something that should be there (--max-failures {}); \
             see the error column and {}",
            match args.max_failures {
                Budget::Count(most) => most.to_string(),
                Budget::Percent(share) => format!("{share}%"),
            },
            manifest::FAILURES
        ));
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// `--overwrite`: the shards and what was made from them.
fn remove_all(out: &Path) -> anyhow::Result<()> {
    manifest::remove(out)?;
    for entry in fs::read_dir(out).with_context(|| out.display().to_string())? {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .and_then(plan::Name::parse)
            .is_some()
        {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
