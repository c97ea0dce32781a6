//! The program `train`. See [`train::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    train::cli::main()
}
