//! The command line of `fetch`. Results go to stdout and progress to stderr. The exit codes are those
//! of [`util::exit_code`].

use std::fs;
use std::io::{IsTerminal, Write, stderr, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use datasets::sources::{Sources, sources};
use indicatif::DecimalBytes;
use serde_json::json;
use util::cli::{self, run_program};
use util::lock::{FileLock, LockError, LockMode};
use util::outln;

use crate::archive::record;
use crate::client::{Client, Limits};
use crate::error::without_secrets;
use crate::origin::Base;
use crate::progress::Progress;
use crate::raw::{self, Report, Run};
use crate::weights::fetch_weights;

/// In place of a dataset: the weights of the encoders.
const WEIGHTS: &str = "weights";
/// Files that are fetched at once.
const DEFAULT_JOBS: u16 = 4;
/// Findings that are printed; --json has them all.
const MAX_LINES: usize = 20;

const EXAMPLES: &str = "\
Examples:
  fetch crema-d --accept-licence
  fetch kinetics-sound --raw /data/raw/kinetics-sound --jobs 8 --accept-licence
  fetch mm-imdb --limit 50 --raw /tmp/mm-imdb
  fetch ave --source /media/disk/ave        # a folder with AVE_Dataset.zip, or a mirror's address
  fetch food-101 --from kaggle              # with KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle
  fetch crema-d --dry-run
  fetch weights                             # of CLIP, BERT and AST, into the cache of the Hugging Face hub
  fetch weights --to weights                # or into a folder that `train --weights` takes

A fetch that was interrupted goes on when the same command is given again, and repeats only the end
of what was on its way. Proxies are those of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
docs/fetch.md says what each dataset takes and what has to be done by hand.

Exits with 1 if something could not be fetched, and says how to get it by hand.";

/// Get the raw data of a dataset, or the weights of the encoders, from their publishers. Continues a
/// fetch that was stopped
#[derive(Parser, Debug)]
#[command(name = "fetch", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// food-101, mm-imdb, kinetics-sound, ave or crema-d; or weights
    #[arg(value_name = "DATASET|weights")]
    what: String,
    /// Folder for the raw data [default: data/raw/DATASET]
    #[arg(long, value_name = "DIR")]
    raw: Option<PathBuf>,
    /// Folder for the weights [default: the cache of the Hugging Face hub]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Fetch only N samples, as many of each split; the first N of mm-imdb and of food-101's publisher
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Number of files to fetch at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_JOBS, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// A mirror, or a folder with the same files, instead of the publisher; may be repeated
    #[arg(long, value_name = "URL|DIR")]
    source: Vec<String>,
    /// Source of food-101: publisher or kaggle. Clips of kinetics-sound: lists (of OGM-GE) or classes
    #[arg(long, value_name = "WHICH")]
    from: Option<String>,
    /// Accept the licence that the first line names
    #[arg(long, alias = "accept-license")]
    accept_licence: bool,
    /// Keep archives that have to be fetched as a whole
    #[arg(long)]
    keep_archives: bool,
    /// Print what would be fetched, and fetch nothing; for weights the hub is asked for sizes
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Parses the command line and fetches.
pub fn main() -> ExitCode {
    run_program(|cli: Cli| run(&cli))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if cli.what == WEIGHTS {
        return run_weights(cli);
    }
    if cli.to.is_some() {
        bail!("--to: is for weights; the raw data of a dataset go to --raw DIR");
    }
    if cli.what.ends_with(".toml") {
        bail!(
            "{}: describes your own data, which have no publisher to fetch them from; put them where it says",
            cli.what
        );
    }
    if cli.source.iter().any(String::is_empty) {
        bail!("--source: is empty; name a folder, or an address with http:// or https://");
    }
    let name = datasets::open(&cli.what)?.info().name.clone();
    let sources = sources(&name).with_context(|| format!("{name}: has no known source"))?;
    check_from(&name, cli.from.as_deref())?;
    let raw = cli.raw.clone().unwrap_or_else(|| util::default_raw(&name));
    let plan = plan(cli, sources, &raw);
    if !cli.json {
        outln!("{plan}")?;
    }
    if cli.dry_run {
        if cli.json {
            cli::print_json(&json!({"dataset": name, "raw": raw, "plan": plan}))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    accept(cli, sources)?;
    let folder = raw.join(record::FOLDER);
    fs::create_dir_all(&folder).with_context(|| {
        format!(
            "{}: cannot be created; choose another --raw",
            folder.display()
        )
    })?;
    let _lock = lock(&folder)?;
    let report = fetch(cli, sources, &raw)?;
    print(cli, sources, &raw, &report)
}

/// Fetches the weights of the encoders.
fn run_weights(cli: &Cli) -> anyhow::Result<ExitCode> {
    let of_datasets = [
        ("--raw", cli.raw.is_some()),
        ("--limit", cli.limit.is_some()),
        ("--source", !cli.source.is_empty()),
        ("--from", cli.from.is_some()),
    ];
    if let Some((flag, _)) = of_datasets.iter().find(|(_, is_given)| *is_given) {
        bail!(
            "{flag}: is for datasets; weights go to --to DIR, and HF_ENDPOINT names a mirror of the hub"
        );
    }
    let fetched = fetch_weights(cli.to.as_deref(), cli.dry_run)?;
    if cli.json {
        return cli::print_json(&json!(fetched));
    }
    if cli.dry_run {
        outln!("{}", fetched.plan)?;
    }
    for folder in &fetched.folders {
        outln!("{}", folder.display())?;
    }
    match &cli.to {
        Some(to) if !cli.dry_run => outln!("next: just train DATASET --weights {}", to.display())?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a `--from` that the dataset does not have.
fn check_from(name: &str, from: Option<&str>) -> anyhow::Result<()> {
    let choices: &[&str] = match name {
        "food-101" => &["publisher", "kaggle"],
        "kinetics-sound" => &["lists", "classes"],
        _ => &[],
    };
    match from {
        Some(from) if !choices.contains(&from) && choices.is_empty() => {
            bail!("--from {from}: {name} has one source; leave --from out")
        }
        Some(from) if !choices.contains(&from) => {
            bail!("--from {from}: choose one of {}", choices.join(", "))
        }
        _ => Ok(()),
    }
}

/// Returns the line that is printed beforehand.
fn plan(cli: &Cli, sources: &Sources, raw: &Path) -> String {
    let size = match cli.limit {
        Some(1) => "1 sample".to_owned(),
        Some(limit) => format!("{limit} samples"),
        None => format!(
            "about {} over the network, {} on the disk",
            DecimalBytes(sources.transfer),
            DecimalBytes(sources.disk)
        ),
    };
    let role = match cli.from.as_deref() {
        Some("kaggle") => "kaggle",
        _ => "publisher",
    };
    let from = match &cli.source[..] {
        [] => sources
            .places(role)
            .next()
            .map_or_else(String::new, |place| place.address.to_owned()),
        mirrors => {
            let mirrors = mirrors.iter().map(|mirror| without_secrets(mirror));
            mirrors.collect::<Vec<_>>().join(", ")
        }
    };
    format!(
        "{}: {size}, from {from} to {}; licence: {}",
        sources.dataset,
        raw.display(),
        sources.licence
    )
}

/// Makes sure that the user has accepted the licence, if the publisher states one.
fn accept(cli: &Cli, sources: &Sources) -> anyhow::Result<()> {
    if cli.accept_licence || !sources.has_terms {
        return Ok(());
    }
    if !cli.json && stdin().is_terminal() && stderr().is_terminal() {
        write!(stderr(), "Do you accept the licence? [y/N] ")?;
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        if answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes") {
            return Ok(());
        }
    }
    bail!(
        "{}: its licence is {}; read it, and pass --accept-licence if you accept it",
        sources.dataset,
        sources.licence
    )
}

/// Restricts the raw folder to one `fetch`.
fn lock(folder: &Path) -> anyhow::Result<FileLock> {
    let path = folder.join("lock");
    FileLock::acquire(&path, LockMode::Exclusive).map_err(|error| match error {
        LockError::Held(holder) => util::exit_code::Temporary::error(format!(
            "{}: another fetch{holder} is writing here; wait for it",
            folder.display()
        )),
        LockError::Io(error) => anyhow::Error::new(error).context(path.display().to_string()),
    })
}

fn fetch(cli: &Cli, sources: &'static Sources, raw: &Path) -> anyhow::Result<Report> {
    let client = Client::new(Limits::default()).context("cannot start the client")?;
    let bytes = cli.limit.is_none().then_some(sources.transfer);
    // The sizes of a mirror's files may be others.
    let progress = Progress::start(sources.dataset, bytes.filter(|_| cli.source.is_empty()));
    let mirrors: Vec<Base> = cli
        .source
        .iter()
        .map(|source| Base::parse(source))
        .collect();
    let run = Run {
        client: &client,
        progress: &progress,
        sources,
        raw,
        limit: cli.limit.map(|limit| limit as usize),
        jobs: usize::from(cli.jobs),
        mirrors: &mirrors,
        from: cli.from.as_deref(),
        keep_archives: cli.keep_archives,
    };
    let report = raw::fetch(sources.dataset, &run).map_err(crate::Error::into_anyhow)?;
    progress.finish(&format!("{} files", report.files));
    Ok(report)
}

/// Prints what was fetched, what could not be, and what to do next.
fn print(cli: &Cli, sources: &Sources, raw: &Path, report: &Report) -> anyhow::Result<ExitCode> {
    let name = sources.dataset;
    let flag = match &cli.raw {
        Some(raw) => format!(" --raw {}", raw.display()),
        None => String::new(),
    };
    let next = [
        format!("just check {name}{flag}"),
        format!("just ingest {name}{flag}"),
    ];
    if cli.json {
        cli::print_json(&json!({
            "dataset": name,
            "raw": raw,
            "plan": plan(cli, sources, raw),
            "files": report.files,
            "missing": report.missing,
            "by_hand": (!report.missing.is_empty()).then_some(sources.by_hand),
            "next": if report.files > 0 { &next[..] } else { &[] },
        }))?;
    } else {
        outln!("{} files in {}", report.files, raw.display())?;
        if !report.missing.is_empty() {
            outln!("\ncould not be fetched: {}", report.missing.len())?;
            for one in report.missing.iter().take(MAX_LINES) {
                outln!("    {}: {}", one.what, one.why)?;
            }
            if report.missing.len() > MAX_LINES {
                let more = report.missing.len() - MAX_LINES;
                outln!("    and {more} more (--json has them all)")?;
            }
            outln!("by hand: {}", sources.by_hand)?;
        }
        if report.files > 0 {
            outln!("next: {}, then {}", next[0], next[1])?;
        }
    }
    Ok(match report.missing.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(cli::EXIT_FINDINGS),
    })
}
