//! `fetch`: gets the raw data of a dataset, or the weights of the encoders, from their publishers.

use std::process::ExitCode;

fn main() -> ExitCode {
    fetch::cli::main()
}
