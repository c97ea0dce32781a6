//! The command line, with one module per subcommand. Results go to stdout and progress to stderr.
//! The exit codes are those of [`util::cli`].

mod browse;
mod check;
mod cluster;
mod inspect;
mod mask;
mod publish;
mod run;
mod synth;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use util::cli::run_program;

use crate::workers::worker;

const EXAMPLES: &str = "\
Examples:
  ingest synth crema-d       # a synthetic raw tree, to try the others on
  ingest check crema-d
  ingest run crema-d
  ingest inspect crema-d
  ingest browse crema-d
  ingest mask crema-d --protocol missing-audio
  ingest publish data/shards/crema-d
  ingest cluster slurm crema-d --parts 8";

/// Turns the raw media of five multimodal datasets, or of your own, into Parquet shards
#[derive(Parser, Debug)]
#[command(name = "ingest", version, max_term_width = 100, after_help = EXAMPLES)]
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
    Browse(browse::Args),
    Mask(mask::Args),
    Publish(publish::Args),
    Cluster(cluster::Args),
    /// Decode media for a parent process
    #[command(hide = true)]
    DecodeWorker(worker::Args),
}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    run_program(|cli: Cli| match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Check(args) => check::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Browse(args) => browse::run(args),
        Command::Mask(args) => mask::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::DecodeWorker(args) => worker::run(*args),
    })
}
