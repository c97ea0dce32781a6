//! Output of the command-line programs: results go to stdout, errors are one line on stderr. Their
//! exit codes are those of [`crate::exit_code`].

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde_json::Value;

use crate::exit_code;
pub use crate::exit_code::FINDINGS as EXIT_FINDINGS;

/// The Linux error numbers ENOSPC, EDQUOT and EFBIG: a full file system, an exceeded quota, a file
/// beyond the size limit.
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
    // If stderr is closed, nobody can be warned.
    drop(writeln!(io::stderr(), "warning: {message}"));
}

/// Runs a program: parses its command line, checks the environment variables of
/// [`cpu`](crate::cpu) and [`job`](crate::job), calls `run`, and reports an error of any of these.
pub fn run_program<C: clap::Parser>(run: impl FnOnce(C) -> anyhow::Result<ExitCode>) -> ExitCode {
    let cli = match C::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    crate::cpu::check()
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(crate::job::check()?))
        .and_then(|()| run(cli))
        .unwrap_or_else(|error| report_error(&error))
}

/// Prints an error as one line on stderr and returns its exit code. A closed pipe counts as
/// success, because the reader of the output wanted no more of it.
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
    // Some libraries keep the text of a system error but not its number.
    let is_full = |code: &i32| {
        io_errors().any(|cause| cause.raw_os_error() == Some(*code))
            || exit_code::numbers_in(&message).any(|number| number == *code)
    };
    if NO_SPACE.iter().any(is_full) {
        message += "; make room or choose another folder; what is finished is kept, and the same command (`train run` with --resume) goes on";
    }
    // In one piece: several processes may write to the same stderr.
    drop(io::stderr().write_all(format!("error: {message}\n").as_bytes()));
    ExitCode::from(exit_code::of(error))
}

/// Joins the chain of causes into one line, without causes whose text is already in it.
pub fn one_line(error: &anyhow::Error) -> String {
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

/// Prints the output of clap, help and version unchanged and usage errors as one line, and returns
/// the exit code.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let text = match error.kind() {
        // The text of this error is the whole help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a subcommand is missing".into(),
        _ => error.to_string(),
    };
    // clap's first paragraph is the problem; usage and a hint at --help follow.
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
