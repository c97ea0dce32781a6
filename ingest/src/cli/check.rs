//! `ingest check`: compares a raw tree with what the dataset should hold, and prints the findings
//! of [`datasets::check`] and of a look into the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use datasets::{CheckOptions, CheckReport, Input, ListOptions, Listing, Modality, NoteKind, Plot};
use features::MelDtype;
use serde::Serialize;
use util::{cli, exit_code, outln};

use crate::decode::header_check;
use crate::failure::Failure;
use crate::plan::{self, Choices, DEFAULT_FRAME_POOL, DEFAULT_SHARD_ROWS, Segment};
use crate::run::execute::Options;
use crate::run::signals;
use crate::run::verify::{self, Finding, Verification};
use crate::source::{self, Source};
use crate::workers::pool;

/// Limit on the printed lines of each list. The JSON has all of them.
const MAX_LINES: usize = 20;

const EXAMPLES: &str = "\
Examples:
  ingest check crema-d
  ingest check crema-d --raw /data/CREMA-D --hashes lfs_pointers_AudioWAV.tsv
  ingest check ave --json | jq .missing
  ingest check clips.toml --verify

Without --verify the first bytes of every clip are read, which finds what is no media file, and what
was cut short in WAV, AVI, mp4 and Matroska. With it every clip and image is decoded in full, in the
same confined processes as in `ingest run`: that also finds damage, and takes as long as a run, or up
to twice as long for H.264 and FLV1, of which a run decodes only what it stores. As in a run, sound
after its first 10.24 seconds is not decoded.

Exits with 1 if something is missing or wrong.";

/// Compare a raw tree with what the dataset should hold
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: source::Select,
    /// Decode every file, and compare the hash of every one whose true hash is known
    #[arg(long)]
    verify: bool,
    /// Number of decode workers for --verify [default: one per core]
    #[arg(long, value_name = "N", requires = "verify", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// List of true hashes: path, SHA-256 and size, separated by tabs
    #[arg(long, value_name = "FILE")]
    hashes: Vec<PathBuf>,
    /// Plot to use as text (mm-imdb): longest, first, outline or all
    #[arg(long, value_name = "WHICH", default_value = "longest")]
    plot: Plot,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// The raw tree cannot be listed, a list of hashes cannot be read, or the decode workers cannot be
/// started.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = source::open(&args.source)?;
    let options = CheckOptions {
        list: ListOptions { plot: args.plot },
        verify: args.verify,
        hashes: args.hashes.clone(),
    };
    let dataset = source.dataset.as_ref();
    let listing = dataset.list(&source.raw, &options.list)?;
    let report = datasets::check_listing(dataset, &source.raw, listing.clone(), &options)?;
    let (mut decoded, mut suspects) = (None, Vec::new());
    if args.verify {
        signals::catch().context("cannot catch signals")?;
        decoded = decode(args, &source, listing)?;
        if decoded.is_none() {
            let signal = signals::received().unwrap_or_default();
            cli::warn(&format!("stopped by signal {signal}"));
            return Ok(exit_code::stopped(128u8.saturating_add(signal as u8)));
        }
    } else {
        suspects = look(&source, &listing);
    }
    if args.json {
        let mut json = serde_json::to_value(&report)?;
        json["suspects"] = serde_json::to_value(&suspects)?;
        json["decoded"] = serde_json::to_value(&decoded)?;
        cli::print_json(&json)?;
    } else {
        let info = source.dataset.info();
        outln!("{} in {}", info.title, source.raw.display())?;
        outln!("layout: {}", report.layout)?;
        print(&report)?;
        print_suspects(&suspects)?;
        if let Some(decoded) = &decoded {
            print_decoded(decoded)?;
        }
    }
    let has_findings = decoded.is_some_and(|decoded| !decoded.findings.is_empty());
    Ok(
        if report.needs_attention() || !suspects.is_empty() || has_findings {
            ExitCode::from(cli::EXIT_FINDINGS)
        } else {
            ExitCode::SUCCESS
        },
    )
}

/// A file with which something is wrong, as its first bytes show.
#[derive(Serialize)]
struct Suspect {
    /// The path relative to the raw root.
    file: String,
    #[serde(flatten)]
    problem: Failure,
}

/// Looks at the first bytes of every clip and of every image that is a file.
fn look(source: &Source, listing: &Listing) -> Vec<Suspect> {
    let modalities = source.dataset.info().modalities;
    let samples = listing.samples.iter();
    let inputs = samples.flat_map(|sample| modalities.names().zip(&sample.inputs));
    let files = inputs.filter_map(|(name, input)| match input {
        Input::Files(files) => Some(
            files
                .iter()
                .map(move |file| (file, name.modality == Modality::Image)),
        ),
        _ => None,
    });
    let files: BTreeSet<(&PathBuf, bool)> = files.flatten().collect();
    let suspects = files.into_iter().filter_map(|(file, is_image)| {
        let path = source.raw.join(file);
        let problem = match is_image {
            true => header_check::check_image(&path)?,
            false => header_check::check_clip(&path)?,
        };
        Some(Suspect {
            problem,
            file: file.to_string_lossy().into_owned(),
        })
    });
    suspects.collect()
}

/// `--verify`: decodes every file. Returns `None` if a signal was received.
fn decode(args: &Args, source: &Source, listing: Listing) -> anyhow::Result<Option<Verification>> {
    let choices = Choices {
        mel_dtype: MelDtype::F32,
        frame_pool: DEFAULT_FRAME_POOL,
        segment: Segment::Clip,
        shard_rows: DEFAULT_SHARD_ROWS,
        limit: None,
        listing: ListOptions { plot: args.plot },
    };
    let options = Options {
        workers: match args.workers {
            Some(workers) => usize::from(workers),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        },
        clip_timeout: Duration::from_secs(pool::DEFAULT_TIMEOUT_SECONDS),
        worker_memory_mib: pool::DEFAULT_MEMORY_MIB,
        decoder: None,
        max_failures_in_a_row: 0,
    };
    let plan = plan::plan(source.dataset.info(), listing, &choices);
    verify::verify(&options, source, &plan)
}

/// Prints the files whose first bytes show that they cannot be used.
fn print_suspects(suspects: &[Suspect]) -> anyhow::Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    outln!("\nfiles that look wrong: {}", suspects.len())?;
    print_lines(
        suspects
            .iter()
            .map(|one| format!("{}: {}", one.file, one.problem)),
    )
}

/// Prints what decoding has found, first by cause and then one by one.
fn print_decoded(decoded: &Verification) -> anyhow::Result<()> {
    let (samples, findings) = (decoded.samples, &decoded.findings);
    outln!("\ndecoded {samples} samples: {} findings", findings.len())?;
    let mut causes: BTreeMap<_, usize> = BTreeMap::new();
    for finding in findings {
        *causes
            .entry((finding.modality, &finding.cause))
            .or_default() += 1;
    }
    for ((modality, cause), count) in &causes {
        outln!("  {count} x {modality}: {cause}")?;
    }
    print_lines(findings.iter().map(|finding| {
        let Finding {
            files,
            modality,
            cause,
            detail,
            usable,
            ..
        } = finding;
        let kept = if *usable { ", kept" } else { "" };
        let detail = match detail.as_str() {
            "" => String::new(),
            detail => format!(" ({detail})"),
        };
        format!("{}: {modality}: {cause}{kept}{detail}", files.join(", "))
    }))
}

fn print(report: &CheckReport) -> anyhow::Result<()> {
    print_splits(report)?;
    print_classes(report)?;
    print_missing(report)?;
    print_notes(report)?;
    print_hashes(report)
}

/// Prints for each split how many samples it should have, has, and has with each modality.
fn print_splits(report: &CheckReport) -> anyhow::Result<()> {
    let names = report.modalities.names();
    let names: String = names.map(|input| format!(" {input:>8}")).collect();
    outln!(
        "\n{:<28} {:>8} {:>8} {:>8}{names}",
        "split",
        "expected",
        "found",
        "complete"
    )?;
    for split in &report.splits {
        let present = split.present.iter();
        let present: String = present.map(|count| format!(" {count:>8}")).collect();
        outln!(
            "{:<28} {:>8} {:>8} {:>8}{present}",
            split.split,
            count_or_dash(split.expected),
            split.listed,
            split.complete
        )?;
    }
    for split in report
        .splits
        .iter()
        .filter(|split| !split.published.is_empty())
    {
        let counts = split.published.iter();
        let counts: Vec<String> = counts
            .map(|one| format!("{} in {}", one.samples, one.source))
            .collect();
        outln!("{}: {}", split.split, counts.join("; "))?;
    }
    Ok(())
}

fn print_classes(report: &CheckReport) -> anyhow::Result<()> {
    outln!(
        "\n{:<28} {:>8} {:>8} {:>8}",
        "class",
        "expected",
        "found",
        "complete"
    )?;
    for class in &report.classes {
        outln!(
            "{:<28} {:>8} {:>8} {:>8}",
            shorten(&class.name, 28),
            count_or_dash(class.expected),
            class.listed,
            class.complete
        )?;
    }
    Ok(())
}

/// Prints the inputs that should be there and are missing, first by cause and then one by one.
fn print_missing(report: &CheckReport) -> anyhow::Result<()> {
    if report.missing.is_empty() {
        return Ok(());
    }
    let mut causes: BTreeMap<_, usize> = BTreeMap::new();
    for item in &report.missing {
        *causes
            .entry((item.modality, Failure::listed(&item.reason).cause))
            .or_default() += 1;
    }
    outln!("\nmissing:")?;
    for ((modality, cause), count) in &causes {
        outln!("  {count} x {modality}: {cause}")?;
    }
    let line =
        |item: &datasets::MissingItem| format!("{} {}: {}", item.split, item.id, item.reason);
    print_lines(report.missing.iter().map(line))
}

fn print_notes(report: &CheckReport) -> anyhow::Result<()> {
    for (kind, count) in &report.note_counts {
        // Missing inputs are printed above, sample by sample.
        if *kind == NoteKind::Missing.as_str() {
            continue;
        }
        outln!("\n{}: {count}", kind.replace('_', " "))?;
        let notes = report
            .notes
            .iter()
            .filter(|note| note.kind.as_str() == *kind);
        print_lines(notes.map(|note| format!("{}: {}", note.subject, note.message)))?;
    }
    Ok(())
}

fn print_hashes(report: &CheckReport) -> anyhow::Result<()> {
    for check in &report.hashes {
        outln!(
            "\n{}: {} of {} files right, {} absent, {} wrong, {} Git LFS pointers",
            check.list,
            check.right,
            check.rows,
            check.absent.len(),
            check.wrong.len(),
            check.pointers
        )?;
        print_lines(check.wrong.iter().map(|file| format!("{file:?}")))?;
    }
    Ok(())
}

/// Prints the first lines of a list, and how many more there are.
fn print_lines(mut lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    for line in lines.by_ref().take(MAX_LINES) {
        outln!("    {line}")?;
    }
    let more = lines.count();
    if more > 0 {
        outln!("    and {more} more (--json has them all)")?;
    }
    Ok(())
}

fn count_or_dash(count: Option<usize>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 2).chain("..".chars()).collect()
}
