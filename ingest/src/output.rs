//! What the user sees: results on stdout, one line on stderr when something is wrong, and the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

/// Exit code of a run that is over and leaves the user something to look at.
pub const LOOK: u8 = 1;

/// Exit code of wrong usage and of input that cannot work.
pub const UNUSABLE: u8 = 2;

/// `println!` that reports a closed pipe instead of panicking.
macro_rules! outln {
    ($($arguments:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($arguments)*)
    }};
}
pub(crate) use outln;

/// Prints a JSON document.
pub fn json(value: &Value) -> anyhow::Result<ExitCode> {
    outln!("{}", serde_json::to_string_pretty(value)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Says something that is no error.
pub fn warn(message: &str) {
    drop(writeln!(io::stderr(), "warning: {message}"));
}

/// Ends after a signal, with the code that a shell gives to it.
pub fn stopped(signal: i32, message: &str) -> ExitCode {
    warn(message);
    ExitCode::from(128u8.saturating_add(signal as u8))
}

/// The one line that an error deserves, and its code. A closed pipe is success: whoever read has seen enough.
pub fn error(error: &anyhow::Error) -> ExitCode {
    let causes = || {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
    };
    if causes().any(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let mut message = one_line(error);
    // Some libraries hand the system's error on as text alone.
    let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
    let is_full = |code: &i32| {
        causes().any(|cause| cause.raw_os_error() == Some(*code))
            || message.contains(&format!("(os error {code})"))
    };
    if full.iter().any(is_full) {
        message += "; make room or choose another --out, and run the same command again: finished shards are kept";
    }
    drop(writeln!(io::stderr(), "error: {message}"));
    ExitCode::from(UNUSABLE)
}

/// The chain of causes, each said once.
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
