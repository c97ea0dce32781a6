//! What can go wrong in this crate, sorted by what the caller should do about it.
//!
//! Every message is one line that names the thing, the problem and the remedy, so that a binary can print it as it is.

use std::path::{Path, PathBuf};

/// The error of everything public in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to read or write. Worth a retry once the cause (rights, space, cable) is gone.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as an infinitive: "read", "create".
        action: &'static str,
        /// What the system said. Shown in the message, so no `source`: it would be printed twice.
        cause: std::io::Error,
    },
    /// The input cannot work as it is. The user must change something.
    #[error("{problem}; {remedy}")]
    Unusable {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// One medium cannot be decoded. Quarantine it and go on.
    #[error("{0}")]
    Media(String),
    /// One medium is beyond a limit that guards memory. Quarantine it and go on.
    #[error("{0}")]
    Limit(String),
    /// The calling code contradicts itself. A bug in the caller.
    #[error("{0}")]
    Invalid(String),
    /// Any of the above, in one file.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<Error>,
    },
    /// Any of the above, at one sample.
    #[error("sample '{id}': {cause}")]
    AtSample {
        /// The sample's id.
        id: String,
        /// What is wrong with it.
        cause: Box<Error>,
    },
}

impl Error {
    /// An [`Error::Unusable`].
    pub fn unusable(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Unusable {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Says in which file it went wrong.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        Error::InFile {
            path: path.to_owned(),
            cause: Box::new(self),
        }
    }

    /// Says at which sample it went wrong.
    #[must_use]
    pub fn at_sample(self, id: &str) -> Self {
        Error::AtSample {
            id: id.to_owned(),
            cause: Box::new(self),
        }
    }

    /// An [`Error::Io`], for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Error::Io {
            path,
            action,
            cause,
        }
    }
}
