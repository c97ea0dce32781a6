//! The command line of `train`: parses, resolves, calls the library, turns errors into one line.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(arguments) => {
            cli::dispatch(arguments).unwrap_or_else(|error| util::cli::report_error(&error))
        }
        Err(error) => util::cli::report_usage(&error),
    }
}
