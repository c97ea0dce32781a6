//! `ingest check`: compares a raw tree with what the dataset should hold, and prints the findings
//! of [`datasets::check`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use datasets::{CheckOptions, CheckReport, ListOptions, NoteKind, Plot};
use util::{cli, outln};

use crate::failure::Failure;
use crate::source;

/// Limit on the printed lines of each list. The JSON has all of them.
const MAX_LINES: usize = 20;

const EXAMPLES: &str = "\
Examples:
  ingest check crema-d
  ingest check crema-d --raw /data/CREMA-D --hashes lfs_pointers_AudioWAV.tsv
  ingest check ave --json | jq .missing

Exits with 1 if something is missing or wrong.";

/// Compare a raw tree with what the dataset should hold
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: source::Select,
    /// Compute the hash of every file whose true hash is known, and compare
    #[arg(long)]
    verify: bool,
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
/// The raw tree cannot be listed, or a list of hashes cannot be read.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = source::open(&args.source)?;
    let options = CheckOptions {
        list: ListOptions { plot: args.plot },
        verify: args.verify,
        hashes: args.hashes.clone(),
    };
    let report = datasets::check(source.dataset.as_ref(), &source.raw, &options)?;
    if args.json {
        cli::print_json(&serde_json::to_value(&report)?)?;
    } else {
        let info = source.dataset.info();
        outln!("{} in {}", info.title, source.raw.display())?;
        outln!("layout: {}", report.layout)?;
        print(&report)?;
    }
    Ok(if report.needs_attention() {
        ExitCode::from(cli::EXIT_FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
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
    let [first, second] = report.modalities;
    outln!(
        "\n{:<28} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "split",
        "expected",
        "found",
        "complete",
        first,
        second
    )?;
    for split in &report.splits {
        let [one, two] = split.present;
        outln!(
            "{:<28} {:>8} {:>8} {:>8} {one:>8} {two:>8}",
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
