//! The `ingest` program as a child: this crate decodes no media, it starts the program that does.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Exit code of a run that finished with something to look at.
const LOOK: i32 = 1;

/// `ingest` beside this program.
pub fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path is unknown")?;
    let path = own
        .with_file_name("ingest")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !path.is_file() {
        bail!(
            "{}: is not there; decoding media takes `ingest` beside `train`, built by `just build`",
            path.display()
        );
    }
    Ok(path)
}

/// Runs `ingest` to its end. Its standard output comes back, its progress is kept for the error.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let program = program()?;
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("{}: cannot be started", program.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() || output.status.code() == Some(LOOK) {
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
