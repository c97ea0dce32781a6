//! `ingest publish`: a dataset card and Croissant metadata beside shards.

use std::path::PathBuf;
use std::process::ExitCode;

/// Write a dataset card (README.md) and Croissant metadata (croissant.json) beside shards
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder of the shards
    #[arg(value_name = "DIR")]
    shards: PathBuf,
}

/// Writes both files.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{}: there is no card yet", args.shards.display())
}
