//! What can make a raw tree unusable. Every message names the file, what is wrong with it, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why no listing came out. All of these are the user's to solve: none goes away by trying again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No dataset of that name.
    #[error(
        "no dataset is called \"{name}\"{hint}; choose one of {choices}, or give the path of a .toml that describes your own"
    )]
    UnknownDataset {
        /// What was asked for.
        name: String,
        /// Empty, or ` (did you mean "ave"?)`.
        hint: String,
        /// The registered names.
        choices: String,
    },
    /// A word that stands for one of a few choices is none of them.
    #[error("\"{word}\" is no {what}; choose one of {choices}")]
    UnknownWord {
        /// What sort of word was expected.
        what: &'static str,
        /// The word.
        word: String,
        /// The words that would do.
        choices: &'static str,
    },
    /// The raw folder is missing, empty, or holds none of the known layouts.
    #[error("{}: {problem}; {remedy}", path.display())]
    Raw {
        /// The raw folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: String,
    },
    /// The tree holds Git LFS pointers and no media at all.
    #[error("{}: all {count} media files are Git LFS pointers (small text files that stand for the real ones); run `git lfs install && git lfs pull` in the clone they came from", path.display())]
    LfsPointers {
        /// The raw folder.
        path: PathBuf,
        /// How many pointers there are.
        count: usize,
    },
    /// An annotation file cannot be read as what it should be.
    #[error("{}{}: {problem}; {remedy}", path.display(), at(*line))]
    Annotation {
        /// The annotation file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A `.toml` description is wrong.
    #[error("{}: {problem}; {remedy}", path.display())]
    Description {
        /// The `.toml`.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A form of the data that cannot be used, and which one to get instead.
    #[error("{}: {problem}; {remedy}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is and why that does not work.
        problem: String,
        /// What to get instead.
        remedy: String,
    },
    /// The system refused.
    #[error("{}: {cause}; check that the file is there and that you may read it", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said. Shown in the message, so no `source`: it would be printed twice.
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

/// The beginning of a line, for a message.
pub(crate) fn shorten(line: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = line
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    if line.chars().count() > MOST {
        short.push_str("...");
    }
    short
}
