//! `ingest browse`: an HTML page that shows what shards hold.

use std::process::ExitCode;

/// Write an HTML page that shows shards: samples with frames, spectrograms and texts, and charts
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A dataset's name, or a folder of shards
    #[arg(value_name = "DATASET|DIR")]
    shards: String,
}

/// Writes the page.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{}: there is no page yet", args.shards)
}
