//! The command line, with one module per subcommand. Results go to stdout and progress to stderr.
//! The exit codes are those of [`util::cli`].

mod cluster;
mod doctor;
mod eval;
mod predict;
mod report;
mod reproduce;
mod run;
mod selftest;
mod shared;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use util::cli::run_program;

const EXAMPLES: &str = "\
Examples:
  train run crema-d --random-weights 0 --encoders tiny --epochs 3 --out runs/first
  train eval runs/first --missing audio
  train report runs/first
  train cluster slurm crema-d --out runs/first";

/// Trains and evaluates U2A (unified unimodal adaptation) on the shards that `ingest` writes
#[derive(Parser)]
#[command(name = "train", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Eval(eval::EvalArgs),
    Predict(predict::PredictArgs),
    Reproduce(Box<reproduce::ReproduceArgs>),
    Report(report::ReportArgs),
    Cluster(cluster::ClusterArgs),
    Doctor(doctor::DoctorArgs),
    Selftest(selftest::SelftestArgs),
    /// Measure the time of steps: for each line of stdin, computes steps and prints a line of JSON
    #[command(hide = true)]
    Bench(selftest::BenchArgs),
}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    run_program(|cli: Cli| dispatch(&cli.command))
}

fn dispatch(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Reproduce(args) => reproduce::run(args),
        Command::Report(args) => report::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Selftest(args) => selftest::run(args),
        Command::Bench(args) => selftest::bench(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The arguments of all subcommands and the values of those that are enums. Scripts of users
    /// depend on them.
    #[test]
    fn flags_of_settings_and_subcommands_are_those_of_the_snapshot() {
        let mut cli = Cli::command();
        cli.build();
        let mut listing = String::new();
        for command in cli.get_subcommands().filter(|c| c.get_name() != "help") {
            listing += &format!("{}\n", command.get_name());
            for argument in command.get_arguments().filter(|a| a.get_id() != "help") {
                let name = match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => argument.get_id().to_string(),
                };
                let values = argument.get_possible_values();
                let values: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
                let line = format!("  {name} {}", values.join("|"));
                listing += line.trim_end();
                listing += "\n";
            }
        }
        assert_eq!(
            listing,
            include_str!("flags.txt"),
            "the new list:\n{listing}"
        );
    }

    #[test]
    fn every_subcommand_has_an_example() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let help = command.get_after_help().map(ToString::to_string);
            let example = format!("  train {} ", command.get_name());
            let lines = help.unwrap_or_default();
            assert!(
                format!("{lines} ").replace('\n', " \n").contains(&example),
                "{}: {lines}",
                command.get_name()
            );
        }
    }
}
