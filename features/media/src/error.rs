//! The errors of `media` and `features`, by what the caller should do about them.
//!
//! Every message is one line that names the file or sample, the problem and the remedy, so that a
//! binary can print it as it is. It has the messages of its causes in it.

use std::path::{Path, PathBuf};

/// The error of every public function of `media` and `features`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system cannot read or write a file. A retry may succeed once the cause (rights, space,
    /// connection) is removed.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The action that failed, as an infinitive: "read", "create".
        action: &'static str,
        /// The system's error. A store that does not answer has one of the kind
        /// [`ConnectionAborted`](std::io::ErrorKind::ConnectionAborted) or
        /// [`TimedOut`](std::io::ErrorKind::TimedOut).
        #[source]
        cause: std::io::Error,
    },
    /// The input cannot be used as it is. The user must change something.
    #[error("{problem}; {remedy}")]
    Unusable {
        /// The problem.
        problem: String,
        /// The remedy.
        remedy: String,
    },
    /// One image, audio or text cannot be decoded. Record the failure and go on.
    #[error("{0}")]
    Media(String),
    /// One image, audio or text exceeds a limit that guards memory. Record the failure and go on.
    #[error("{0}")]
    Limit(String),
    /// The arguments contradict each other: a bug in the calling code.
    #[error("{0}")]
    Invalid(String),
    /// One of the above, with the file.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        cause: Box<Error>,
    },
    /// One of the above, with the sample.
    #[error("sample '{id}': {cause}")]
    AtSample {
        /// The sample's id.
        id: String,
        /// The error.
        #[source]
        cause: Box<Error>,
    },
}

impl Error {
    /// Returns an [`Error::Unusable`].
    pub fn unusable(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Unusable {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Adds the file to the message.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        Error::InFile {
            path: path.to_owned(),
            cause: Box::new(self),
        }
    }

    /// Adds the sample to the message.
    #[must_use]
    pub fn at_sample(self, id: &str) -> Self {
        Error::AtSample {
            id: id.to_owned(),
            cause: Box::new(self),
        }
    }

    /// Returns a function that creates an [`Error::Io`], for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Error::Io {
            path,
            action,
            cause,
        }
    }
}
