//! `ingest inspect`: starts the program `inspect`, which is a crate of its own because polars takes
//! long to compile.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

/// Show what shards hold: schema, rows of each split and class, missing modalities, durations,
/// failures
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// The arguments of `inspect`; see `ingest inspect --help`
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

/// Replaces this process by the program `inspect` in the same folder.
///
/// # Errors
/// The program is missing or cannot be started.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = own
        .with_file_name("inspect")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !program.is_file() {
        bail!(
            "{}: no such file; `just inspect` builds it, which takes a few minutes the first time",
            program.display()
        );
    }
    // `exec` returns only if the program cannot be started.
    let error = Command::new(&program).args(&args.arguments).exec();
    Err(error).with_context(|| format!("{}: cannot be started", program.display()))
}
