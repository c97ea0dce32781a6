//! The exit codes of the command-line programs.
//!
//! | code | elsewhere | in a job ([`crate::job`]) |
//! |---|---|---|
//! | 0 | done | done; a part does not judge failures |
//! | 1 | finished, with findings that the user must examine | the same |
//! | 2 | wrong usage, unusable input or an error of the system | never |
//! | 42 | never | wrong usage or unusable input: no repetition helps |
//! | 74 | never | an error of the system, a lock that is held, a part that is not done: a repetition may help |
//! | 75 | never | stopped by a signal; the same command continues |
//!
//! 74 and 75 are `EX_IOERR` and `EX_TEMPFAIL` of sysexits.h.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::job;

/// A run that finished with findings that the user must examine.
pub const FINDINGS: u8 = 1;

/// Wrong usage, unusable input or an error of the system, outside of jobs.
pub const USAGE: u8 = 2;

/// In a job: wrong usage or unusable input.
pub const PERMANENT: u8 = 42;

/// In a job: an error that may be gone when the command is repeated.
pub const TEMPORARY: u8 = 74;

/// In a job: stopped by a signal. The same command continues.
pub const STOPPED: u8 = 75;

/// An error that may be gone when the command is repeated, and that no error of the system shows:
/// a lock that another process holds, a disk that has vanished.
#[derive(Debug)]
pub struct Temporary(String);

impl Temporary {
    /// An error with this message.
    pub fn error(message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Temporary(message.into()))
    }
}

impl fmt::Display for Temporary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Temporary {}

/// Returns the exit code of a program that a signal has stopped, which is `elsewhere` outside of
/// jobs.
pub fn stopped(elsewhere: u8) -> ExitCode {
    ExitCode::from(if job::is_job() { STOPPED } else { elsewhere })
}

/// Returns the exit code of an error.
pub fn of(error: &anyhow::Error) -> u8 {
    match (job::is_job(), is_temporary(error)) {
        (false, _) => USAGE,
        (true, true) => TEMPORARY,
        (true, false) => PERMANENT,
    }
}

/// Whether the error may be gone when the command is repeated.
pub fn is_temporary(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Temporary>()
            || match cause.downcast_ref::<io::Error>() {
                Some(error) => is_of_the_system(error),
                None => numbers_in(&cause.to_string())
                    .any(|number| is_of_the_system(&io::Error::from_raw_os_error(number))),
            }
    })
}

/// The numbers of system errors in a message, such as 5 in `cannot read (os error 5)`. Some
/// libraries keep the text of an error and not the error itself.
pub(crate) fn numbers_in(message: &str) -> impl Iterator<Item = i32> {
    let mut parts = message.split("(os error ");
    parts.next();
    parts.filter_map(|rest| rest.split_once(')')?.0.parse().ok())
}

/// Whether the cause is the state of the machine, the network or the disk, and not what the user
/// named.
fn is_of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::TimedOut
        | Kind::ConnectionRefused
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::NotConnected
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown => true,
        Kind::NotFound
        | Kind::PermissionDenied
        | Kind::AlreadyExists
        | Kind::NotADirectory
        | Kind::IsADirectory
        | Kind::DirectoryNotEmpty
        | Kind::ReadOnlyFilesystem
        | Kind::InvalidInput
        | Kind::InvalidData
        | Kind::InvalidFilename
        | Kind::Unsupported
        | Kind::UnexpectedEof => false,
        _ => error.raw_os_error().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    /// The numbers are those of Linux.
    #[test]
    fn errors_of_the_system_are_temporary_and_those_of_the_user_are_not() {
        let system = |number| anyhow::Error::new(io::Error::from_raw_os_error(number));
        // EIO, ENFILE, ENOSPC, ESTALE, EDQUOT, ETIMEDOUT, ENOLCK.
        for number in [5, 23, 28, 116, 122, 110, 37] {
            let error = system(number).context("train-00000-of-00001.parquet");
            assert!(is_temporary(&error), "{error:#}");
            // A library that keeps the text alone.
            let text = anyhow!("{error:#}").context("cannot be written");
            assert!(is_temporary(&text), "{text:#}");
        }
        // ENOENT, EACCES, ENOTDIR, EISDIR, EINVAL, ENAMETOOLONG.
        for number in [2, 13, 20, 21, 22, 36] {
            let error = system(number).context("clips.toml");
            assert!(!is_temporary(&error), "{error:#}");
            assert!(!is_temporary(&anyhow!("{error:#}")), "{error:#}");
        }
        assert!(!is_temporary(&anyhow!("--epochs many: is no number")));
        assert!(!is_temporary(&anyhow!(io::Error::other("not a JPEG file"))));
    }

    #[test]
    fn temporary_errors_keep_their_message_and_are_found_behind_a_context() {
        let error = Temporary::error("another ingest is writing here");
        assert_eq!(error.to_string(), "another ingest is writing here");
        let wrapped = Err::<(), _>(error).context("shards").unwrap_err();
        assert!(is_temporary(&wrapped));
    }
}
