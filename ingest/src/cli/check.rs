//! `ingest check`: holds a raw tree against what the dataset should hold, and prints what `datasets` found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use datasets::{CheckOptions, CheckReport, ClassCheck, ListOptions, NoteKind, Plot};

use crate::failure::Failure;
use crate::source;
use util::{cli, outln};

/// Lines printed of each list; all of them are in the JSON.
const LINES: usize = 20;

const EXAMPLE: &str = "\
Examples:
  ingest check crema-d
  ingest check crema-d --raw /data/CREMA-D --hashes lfs_pointers_AudioWAV.tsv
  ingest check ave --json | jq .missing

Exits with 1 where something is missing.";

/// Holds a raw tree against what the dataset should hold
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: source::Select,
    /// Hash every file whose true hash is known
    #[arg(long)]
    verify: bool,
    /// A list of true hashes: tab-separated path, sha256, size
    #[arg(long, value_name = "FILE")]
    hashes: Vec<PathBuf>,
    /// Which plot becomes the text (mm-imdb): longest, first, outline or all
    #[arg(long, value_name = "WHICH", default_value = "longest")]
    plot: Plot,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
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
    let [first, second] = report.modalities;
    outln!()?;
    outln!(
        "{:<28} {:>8} {:>8} {:>8} {:>8} {:>8}",
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
            expected(split.expected),
            split.listed,
            split.complete
        )?;
    }
    outln!()?;
    outln!(
        "{:<28} {:>8} {:>8} {:>8}",
        "class",
        "expected",
        "found",
        "complete"
    )?;
    for ClassCheck {
        name,
        expected: count,
        listed,
        complete,
    } in &report.classes
    {
        outln!(
            "{:<28} {:>8} {listed:>8} {complete:>8}",
            shorten(name, 28),
            expected(*count)
        )?;
    }
    if !report.missing.is_empty() {
        let mut causes: BTreeMap<_, usize> = BTreeMap::new();
        for item in &report.missing {
            *causes
                .entry((item.modality, Failure::listed(&item.reason).cause))
                .or_default() += 1;
        }
        outln!()?;
        outln!("missing:")?;
        for ((modality, cause), count) in &causes {
            outln!("  {count} x {modality}: {cause}")?;
        }
        let line =
            |item: &datasets::MissingItem| format!("{} {}: {}", item.split, item.id, item.reason);
        list(report.missing.iter().map(line))?;
    }
    for (kind, count) in &report.note_counts {
        // What is missing stands above, sample by sample.
        if *kind == NoteKind::Missing.as_str() {
            continue;
        }
        outln!()?;
        outln!("{}: {count}", kind.replace('_', " "))?;
        let notes = report
            .notes
            .iter()
            .filter(|note| note.kind.as_str() == *kind);
        list(notes.map(|note| format!("{}: {}", note.subject, note.message)))?;
    }
    for check in &report.hashes {
        outln!()?;
        outln!(
            "{}: {} of {} files right, {} absent, {} wrong, {} Git LFS pointers",
            check.list,
            check.right,
            check.rows,
            check.absent.len(),
            check.wrong.len(),
            check.pointers
        )?;
        list(check.wrong.iter().map(|file| format!("{file:?}")))?;
    }
    Ok(())
}

/// The first lines of a list, and how many more there are.
fn list(mut lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    for line in lines.by_ref().take(LINES) {
        outln!("    {line}")?;
    }
    let more = lines.count();
    if more > 0 {
        outln!("    and {more} more (--json has them all)")?;
    }
    Ok(())
}

fn expected(count: Option<usize>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 2).chain("..".chars()).collect()
}
