//! The command line: one module per subcommand. Results go to stdout, progress to stderr; the exit codes are in
//! `util::cli`.

mod check;
mod inspect;
mod mask;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use util::cli::{report_error, report_usage};

use crate::synth;
use crate::workers::worker;

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

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    if let Err(error) = util::cpu::check() {
        return report_error(&error.into());
    }
    let outcome = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Check(args) => check::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Mask(args) => mask::run(args),
        Command::DecodeWorker(args) => worker::run(*args),
    };
    outcome.unwrap_or_else(|error| report_error(&error))
}
