//! `inspect`: shows what shards hold, read with polars as any user would read them.
//!
//! It is a program of its own, because polars takes longer to compile than everything else in the
//! workspace together. It changes no shard. The images of `--sample` go into a folder of their own.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod heat_map;
mod overview;
mod sample;
mod scan;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use features::{Folder, MANIFEST_FILE, ShardName, shards, verify};
use serde_json::json;
use util::{cli, outln};

use self::scan::{columns, count, scan};

/// Number of rows that are printed of a table that is no shard.
const HEAD_ROWS: u32 = 10;

const EXAMPLES: &str = "\
Examples:
  inspect crema-d
  inspect data/shards/ave --json | jq .splits
  inspect crema-d --verify
  inspect s3://bucket/shards/crema-d --verify
  inspect crema-d --sample 1041_TIE_NEU_XX --out /tmp/sample

Exits with 1 if --verify finds a shard that has changed.";

/// Show what shards hold: schema, rows of each split and class, missing modalities, durations,
/// failures
#[derive(Parser, Debug)]
#[command(name = "inspect", version, max_term_width = 100, after_help = EXAMPLES)]
struct Args {
    /// Name of a dataset, a folder of shards or its URL, or one Parquet file
    #[arg(value_name = "DATASET|DIR|FILE")]
    target: String,
    /// Print one sample, and write its frames and its log-mel spectrogram as PNG images
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    sample: Option<String>,
    /// Folder for the images of --sample [default: sample-ID]
    #[arg(long, value_name = "DIR", requires = "sample")]
    out: Option<PathBuf>,
    /// Print the names of the images of --sample, and write none
    #[arg(long, requires = "sample")]
    dry_run: bool,
    /// Compare the SHA-256 of every shard with that in the manifest
    #[arg(long, conflicts_with = "sample")]
    verify: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run(&args).unwrap_or_else(|error| cli::report_error(&error)),
        Err(error) => cli::report_usage(&error),
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let target = Path::new(&args.target);
    if args.target.contains("://") {
        let folder: Folder = args.target.parse()?;
        if args.verify {
            return verify_shards(&folder, args.json);
        }
        return run_on_copy(args, &folder);
    }
    let (files, folder) = if target.is_file() {
        (vec![target.to_owned()], None)
    } else {
        let folder = shards_folder(&args.target)?;
        (shard_files(&folder)?, Some(folder))
    };
    if let Some(id) = &args.sample {
        return sample::run(&files, id, args.out.as_deref(), args.dry_run, args.json);
    }
    if args.verify {
        let Some(folder) = folder else {
            bail!("{}: --verify needs the folder of the shards", args.target);
        };
        return verify_shards(&folder.into(), args.json);
    }
    show(args, &files, folder.as_deref())
}

/// Copies shards from an object store into a temporary folder, because polars reads files, and
/// shows them.
fn run_on_copy(args: &Args, folder: &Folder) -> anyhow::Result<ExitCode> {
    let copy = tempfile::tempdir().context("the temporary folder cannot be written")?;
    eprintln!(
        "{folder}: copying the shards into {}",
        copy.path().display()
    );
    shards::copy_to(folder, copy.path())?;
    let files = shard_files(copy.path())?;
    if let Some(id) = &args.sample {
        return sample::run(&files, id, args.out.as_deref(), args.dry_run, args.json);
    }
    show(args, &files, Some(copy.path()))
}

/// Prints the overview of shards, or the head of another Parquet file.
fn show(args: &Args, files: &[PathBuf], folder: Option<&Path>) -> anyhow::Result<ExitCode> {
    let Some(schema) = overview::read_schema(&files[0])? else {
        return print_table(&files[0], args.json);
    };
    let report = overview::overview(files, folder, &schema)?;
    if args.json {
        return cli::print_json(&report);
    }
    overview::print(&report, &schema)?;
    Ok(ExitCode::SUCCESS)
}

/// `--verify`: compares the shards with the manifest.
fn verify_shards(folder: &Folder, as_json: bool) -> anyhow::Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(found) = verify::verify(folder, threads)? else {
        bail!(
            "{folder}: no {MANIFEST_FILE} to compare the shards with; `ingest run` writes it when all shards are finished"
        );
    };
    if as_json {
        cli::print_json(&json!({
            "shards": found.shards, "bytes": found.bytes, "damaged": found.damaged,
        }))?;
    } else {
        for (file, problem) in &found.damaged {
            outln!("{file}: {problem}; delete it and run `ingest run` again")?;
        }
        let intact = found.shards - found.damaged.len();
        outln!(
            "{intact} of {} shards have the bytes that were written",
            found.shards
        )?;
    }
    Ok(match found.damaged.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(cli::EXIT_FINDINGS),
    })
}

/// Returns the folder of shards that an argument names: the argument itself if it is a folder, and
/// the default folder if it is the name of a dataset.
fn shards_folder(argument: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(argument);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if argument.contains('/') && !argument.ends_with(".toml") {
        bail!("{argument}: no such folder; give a folder of shards or a dataset's name");
    }
    let name = datasets::open(argument)?.info().name.clone();
    let folder = util::default_shards(&name);
    if !folder.is_dir() {
        bail!(
            "{}: no such folder; run `ingest run {argument}` first, or give the folder of the shards",
            folder.display()
        );
    }
    Ok(folder)
}

/// Returns the shards in a folder, in the order of split and number.
fn shard_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        names.extend(entry?.file_name().to_str().and_then(ShardName::parse));
    }
    names.sort();
    if names.is_empty() {
        bail!(
            "{}: holds no shards; run `ingest run` first, or give another folder",
            folder.display()
        );
    }
    Ok(names
        .into_iter()
        .map(|name| folder.join(name.file_name()))
        .collect())
}

/// Prints the head of a Parquet file that is no shard, such as a mask, the failures or a user's
/// table.
fn print_table(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let frame = scan(&[file.to_owned()])?;
    let schema = columns(&frame)?;
    let rows = count(frame.clone())?;
    if as_json {
        return cli::print_json(&json!({"file": file, "rows": rows, "columns": schema}));
    }
    outln!("{}: {rows} rows", file.display())?;
    outln!("{}", frame.limit(HEAD_ROWS).collect()?)?;
    Ok(ExitCode::SUCCESS)
}
