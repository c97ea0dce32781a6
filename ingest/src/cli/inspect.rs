//! `ingest inspect`: hands its arguments over to the program `inspect`, which is built on its own because of polars.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

/// What shards hold: schema, rows per split and class, availability, durations, failures
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Everything that `inspect` takes; see `ingest inspect --help`
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

/// Replaces this process by `inspect` beside it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("this program's own path is unknown")?;
    let program = own
        .with_file_name("inspect")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !program.is_file() {
        bail!(
            "{}: is not there; `just inspect` builds it, which takes a few minutes the first time",
            program.display()
        );
    }
    // Returns only where the program cannot be started.
    let error = Command::new(&program).args(&args.arguments).exec();
    Err(error).with_context(|| format!("{}: cannot be started", program.display()))
}
