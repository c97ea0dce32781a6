//! Output of the command-line programs: results on stdout, one line on stderr when something is wrong, exit codes.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde_json::Value;

/// Exit code of a run that finished with something that the user must look at.
pub const EXIT_FINDINGS: u8 = 1;

/// Exit code of wrong usage and of input that cannot work.
pub const EXIT_USAGE: u8 = 2;

/// Error numbers of Linux for a full file system, an exceeded quota and a file beyond the size limit
/// (ENOSPC, EDQUOT, EFBIG).
const NO_SPACE: [i32; 3] = [28, 122, 27];

/// `println!` that returns an error for a closed pipe instead of panicking.
#[macro_export]
macro_rules! outln {
    ($($arguments:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($arguments)*)
    }};
}

/// Prints a JSON document on stdout.
///
/// # Errors
/// Stdout cannot be written.
pub fn print_json(value: &Value) -> anyhow::Result<ExitCode> {
    outln!("{}", serde_json::to_string_pretty(value)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a warning on stderr.
pub fn warn(message: &str) {
    // There is nobody to tell where stderr is closed.
    drop(writeln!(io::stderr(), "warning: {message}"));
}

/// Prints an error as one line on stderr and returns its exit code. A closed pipe counts as success: whoever read the
/// output has seen enough of it.
pub fn report_error(error: &anyhow::Error) -> ExitCode {
    let io_errors = || {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
    };
    if io_errors().any(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let mut message = one_line(error);
    // Some libraries hand on the text of a system error and drop its number.
    let is_full = |code: &i32| {
        io_errors().any(|cause| cause.raw_os_error() == Some(*code))
            || message.contains(&format!("(os error {code})"))
    };
    if NO_SPACE.iter().any(is_full) {
        message += "; make room or choose another --out; what is finished is kept, and the same command (`train run` with --resume) goes on";
    }
    drop(writeln!(io::stderr(), "error: {message}"));
    ExitCode::from(EXIT_USAGE)
}

/// The chain of causes in one line; a cause whose text stands in the line already is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if message.contains(&cause) {
            continue;
        }
        if !message.is_empty() {
            message += ": ";
        }
        message += &cause;
    }
    message.replace(['\n', '\r'], " ")
}

/// Prints what clap has to say: help and version as they are, wrong usage as one line.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let text = match error.kind() {
        // clap has the whole help for its text.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a subcommand is missing".into(),
        _ => error.to_string(),
    };
    // clap's first paragraph is the problem; the usage and the hint at --help follow it.
    let problem: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .collect();
    let problem = problem.join(" ");
    let problem = problem
        .trim()
        .trim_start_matches("error: ")
        .trim_end_matches(" For more information, try '--help'.");
    report_error(&anyhow::anyhow!(
        "{}; see --help",
        problem.split_whitespace().collect::<Vec<_>>().join(" ")
    ))
}
