//! The program `ingest` as a child process, which decodes media. This crate decodes none.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use util::cli::EXIT_FINDINGS;

/// The path of `ingest`, in the folder of this program.
///
/// # Errors
/// There is no such file.
pub fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path is unknown")?;
    let path = own
        .with_file_name("ingest")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !path.is_file() {
        bail!(
            "{}: is missing; media are decoded by `ingest`, which `just build` puts beside `train`",
            path.display()
        );
    }
    Ok(path)
}

/// Runs `ingest` and returns its standard output.
///
/// # Errors
/// `ingest` fails; the error is the one that it prints.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let program = program()?;
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("{}: cannot be started", program.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() || output.status.code() == Some(EXIT_FINDINGS.into()) {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let problem = stderr
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    match problem {
        Some(problem) => bail!("ingest: {problem}"),
        None => bail!("{}: ended with {}", program.display(), output.status),
    }
}
