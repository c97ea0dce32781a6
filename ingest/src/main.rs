//! `ingest`: raw media to Parquet shards, and what belongs to that.
//!
//! One binary, one module per subcommand. Results go to stdout, progress to stderr; the exit codes are in `output`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
mod decode;
mod failure;
mod inspect;
mod lock;
mod manifest;
mod mask;
mod mask_import;
mod output;
mod plan;
mod pool;
mod progress;
mod protocol;
mod run;
mod sandbox;
mod shard;
mod source;
mod synth;
mod sys;
mod table;
mod worker;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Raw media of five multimodal datasets, or your own, to Parquet shards
#[derive(Parser, Debug)]
#[command(name = "ingest", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::Args),
    Synth(synth::Args),
    Check(check::Args),
    Inspect(inspect::Args),
    Mask(mask::Args),
    /// Decodes clips for a parent process
    #[command(hide = true)]
    DecodeWorker(worker::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let outcome = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Check(args) => check::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Mask(args) => mask::run(args),
        Command::DecodeWorker(args) => worker::run(*args),
    };
    outcome.unwrap_or_else(|error| output::error(&error))
}

/// Help goes to stdout as it is; wrong usage becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody to tell where stdout is closed.
            drop(error.print());
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.to_string();
            // clap's first paragraph is the problem; the rest is its own hint at --help.
            let problem: Vec<&str> = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:"))
                .collect();
            let problem = problem.join(" ");
            let problem = problem
                .trim()
                .trim_start_matches("error: ")
                .trim_end_matches(" For more information, try '--help'.");
            output::error(&anyhow::anyhow!(
                "{}; see --help",
                problem.split_whitespace().collect::<Vec<_>>().join(" ")
            ))
        }
    }
}
