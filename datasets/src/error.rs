//! The errors of this crate. Every message names the file, what is wrong with it and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// An error in the user's files or choices. No error goes away by trying again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No dataset has this name.
    #[error(
        "no dataset is called \"{name}\"{hint}; choose one of {choices}, or give the path of a .toml that describes your own"
    )]
    UnknownDataset {
        /// The name.
        name: String,
        /// A suggestion such as ` (did you mean "ave"?)`, or an empty text.
        hint: String,
        /// The registered names.
        choices: String,
    },
    /// A word is none of the choices.
    #[error("\"{word}\" is no {what}; choose one of {choices}")]
    UnknownWord {
        /// The kind of word that was expected.
        what: &'static str,
        /// The word.
        word: String,
        /// The words that are accepted.
        choices: &'static str,
    },
    /// The raw folder is missing, empty, or of no known layout.
    #[error("{}: {problem}; {remedy}", path.display())]
    Raw {
        /// The raw folder.
        path: PathBuf,
        /// The problem.
        problem: String,
        /// What the user should do.
        remedy: String,
    },
    /// All media files of the tree are Git LFS pointers.
    #[error("{}: all {count} media files are Git LFS pointers (small text files that stand for the real ones); run `git lfs install && git lfs pull` in the clone they came from", path.display())]
    LfsPointers {
        /// The raw folder.
        path: PathBuf,
        /// The number of pointers.
        count: usize,
    },
    /// An annotation file does not have the expected form.
    #[error("{}{}: {problem}; {remedy}", path.display(), at(*line))]
    Annotation {
        /// The annotation file.
        path: PathBuf,
        /// The line, counted from 1, if the problem is in one line.
        line: Option<usize>,
        /// The problem.
        problem: String,
        /// What the user should do.
        remedy: String,
    },
    /// A `.toml` description is wrong.
    #[error("{}: {problem}; {remedy}", path.display())]
    Description {
        /// The `.toml`.
        path: PathBuf,
        /// The problem.
        problem: String,
        /// What the user should do.
        remedy: String,
    },
    /// A form of the data that this crate cannot read.
    #[error("{}: {problem}; {remedy}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What the file is, and why it cannot be used.
        problem: String,
        /// What the user should get instead.
        remedy: String,
    },
    /// The operating system reported an error.
    #[error("{}: {cause}; check that the file is there and that you may read it", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system. It is part of the message and therefore no `source`, which
        /// would be printed a second time.
        cause: io::Error,
    },
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

impl Error {
    pub(crate) fn io(path: &Path, cause: io::Error) -> Error {
        Error::Io {
            path: path.to_owned(),
            cause,
        }
    }

    pub(crate) fn raw(path: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Raw {
            path: path.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn annotation(
        path: &Path,
        line: Option<usize>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        Error::Annotation {
            path: path.to_owned(),
            line,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Returns the beginning of a line, escaped, for an error message.
pub(crate) fn shorten(line: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut short: String = line
        .chars()
        .take(MAX_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if line.chars().count() > MAX_CHARS {
        short.push_str("...");
    }
    short
}
