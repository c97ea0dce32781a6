//! The types that the other crates share: what a dataset is, and what a sample is before anything
//! is decoded.
//!
//! Plain data; nothing here reads a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::error::Error;
use crate::modalities::Modalities;

/// The part of a dataset that a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The training split.
    Train,
    /// The validation split, called `dev` by some publishers.
    Val,
    /// The test split.
    Test,
}

impl Split {
    /// Every split, in the order in which a [`Listing`] holds them.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// The name used in columns, flags and files: `train`, `val`, `test`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }

    /// The position in [`Split::ALL`] and in [`Info::expected`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Parses the spellings that publishers use in split columns and file names, in any letter
    /// case: `train`/`training`, `val`/`valid`/`validate`/`validation`/`dev`, `test`/`testing`.
    pub fn from_spelling(word: &str) -> Option<Split> {
        match word.trim().to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Split::Train),
            "val" | "valid" | "validate" | "validation" | "dev" => Some(Split::Val),
            "test" | "testing" => Some(Split::Test),
            _ => None,
        }
    }
}

/// Implements `Display` and `FromStr` for an enum with `ALL` and `as_str`.
macro_rules! names {
    ($type:ident, $what:literal, $choices:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self, Error> {
                $type::ALL
                    .into_iter()
                    .find(|one| one.as_str() == name)
                    .ok_or_else(|| Error::UnknownWord {
                        what: $what,
                        word: name.to_owned(),
                        choices: $choices,
                    })
            }
        }
    };
}

names!(Split, "split", "train, val, test");
names!(Plot, "plot choice", "longest, first, outline, all");

/// What is known about a dataset without reading its raw tree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Info {
    /// The registry name (`food-101`, `mm-imdb`, `kinetics-sound`, `ave`, `crema-d`), or the name
    /// that a user's description gives.
    pub name: String,
    /// The published name, such as `CREMA-D`.
    pub title: String,
    /// The modalities, one or two.
    pub modalities: Modalities,
    /// Class names in canonical order; a label is an index into this list.
    pub classes: Vec<String>,
    /// Whether a sample has any number of labels (MM-IMDb) instead of exactly one.
    pub multi_label: bool,
    /// Samples per split, in the order of [`Split::ALL`], as the paper counts them. `None` for a
    /// split that does not exist or whose count nobody has published.
    pub expected: [Option<usize>; 3],
    /// The terms under which the publisher distributes the data, if stated.
    pub license: String,
}

/// Where one modality of one sample comes from.
///
/// Paths are relative to the raw root, so that a listing does not depend on where the tree lies;
/// open `raw.join(path)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Media files to try, best first; never empty. A candidate for audio may be the video file.
    /// When the tree was listed, each of them existed, was not empty and was no Git LFS pointer.
    Files(Vec<PathBuf>),
    /// The text itself, cleaned, never empty.
    Text(String),
    /// A file that holds the text; [`read_text_file`](crate::read_text_file) reads it, and may
    /// find that the text is empty.
    TextFile {
        /// The file.
        path: PathBuf,
        /// The label of the encoding that the file has if it is no UTF-8.
        encoding: Option<String>,
    },
    /// A media file that lies in a cell of a Parquet table.
    TableCell {
        /// The table, which may lie outside of the raw root.
        table: PathBuf,
        /// The name of the column, which holds bytes, or structs of which they are the field
        /// `bytes`.
        column: String,
        /// The number of the row, from 0.
        row: usize,
    },
    /// The publisher provides none for this sample, which is no error.
    None,
    /// The input should exist and cannot be used.
    Absent(AbsenceCause),
}

impl Input {
    /// Whether there is something to read.
    pub fn is_present(&self) -> bool {
        !matches!(self, Input::None | Input::Absent(_))
    }
}

impl From<Option<String>> for Input {
    /// Turns a cleaned text into an input; `None` is a sample without text.
    fn from(text: Option<String>) -> Input {
        text.map_or(Input::None, Input::Text)
    }
}

/// Why an input that should exist cannot be used. Paths are relative to the raw root.
///
/// `Display` gives one sentence for people, which is also what it serializes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbsenceCause {
    /// No file of this path exists.
    NoFile(String),
    /// No file of this path exists, but one of nearly this name.
    Misnamed {
        /// The path as the annotation has it.
        file: String,
        /// The path that may be meant; several are joined by "or".
        meant: String,
    },
    /// The file of this path holds no bytes.
    EmptyFile(String),
    /// A Git LFS pointer lies at this path in place of the file.
    LfsPointer(String),
    /// A file exists, and the system does not let it be read.
    Closed {
        /// The path of the file.
        file: String,
        /// The system's reason.
        reason: String,
    },
    /// The bytes of a text file do not fit its encoding.
    Encoding {
        /// The path of the file.
        file: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The text file of this path holds no words.
    NoWords(String),
    /// A file exists and cannot be used or parsed; the text says which one and why.
    Unreadable(String),
    /// The publisher's own file is known to be wrong; the text says in what way.
    KnownBad(String),
    /// The genres of a movie are unknown, because the file that holds them cannot be used for
    /// the inner cause (MM-IMDb). Neither input of such a sample is used.
    UnknownGenres(Box<AbsenceCause>),
}

impl fmt::Display for AbsenceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AbsenceCause::NoFile(path) => write!(f, "there is no {path}"),
            AbsenceCause::Misnamed { file, meant } => {
                write!(f, "there is no {file}; did you mean {meant}?")
            }
            AbsenceCause::EmptyFile(path) => write!(f, "{path} holds no bytes"),
            AbsenceCause::LfsPointer(path) => {
                write!(f, "{path} is a Git LFS pointer; run `git lfs pull`")
            }
            AbsenceCause::Closed { file, reason } => write!(f, "{file} cannot be read: {reason}"),
            AbsenceCause::Encoding { file, problem } => write!(f, "{file}: {problem}"),
            AbsenceCause::NoWords(path) => write!(f, "{path} holds no words"),
            AbsenceCause::Unreadable(problem) => f.write_str(problem),
            AbsenceCause::KnownBad(problem) => write!(f, "known to be bad: {problem}"),
            AbsenceCause::UnknownGenres(cause) => write!(f, "its genres are unknown: {cause}"),
        }
    }
}

impl Serialize for AbsenceCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One row of the annotation: an id, a split, labels and the input of each modality.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The id: unique in the dataset, the same in all layouts, without `/` and control characters,
    /// at most [`MAX_ID_BYTES`] bytes. It may begin with `-` or `_`.
    pub id: String,
    /// The split that the sample belongs to.
    pub split: Split,
    /// Class indices, ascending and distinct; exactly one unless [`Info::multi_label`].
    pub labels: Vec<u32>,
    /// The input of each modality, in the order of [`Info::modalities`].
    pub inputs: Vec<Input>,
    /// The file that best names the sample, relative to the raw root, with `/` on every system.
    pub source: String,
    /// Start and end, in seconds, of the labelled event in the clip, if the annotation has one.
    pub segment: Option<(f32, f32)>,
}

/// The longest id in bytes: ids become file names and Parquet values.
pub const MAX_ID_BYTES: usize = 200;

/// The kind of a [`Note`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// An annotated file does not exist.
    Missing,
    /// A list or table of the annotation does not exist, so that a split or a modality is left
    /// out.
    MissingList,
    /// A file holds no bytes.
    Empty,
    /// A Git LFS pointer lies in place of a media file.
    LfsPointer,
    /// A file cannot be read or parsed.
    Unreadable,
    /// The publisher's file is known to be wrong; the message says what was done about it.
    KnownBad,
    /// Several samples share one media file.
    SharedFile,
    /// Samples of several splits share one media file.
    SplitLeak,
    /// A replacement clip was used instead of the original.
    Replacement,
    /// A malformed annotation line was repaired.
    Repaired,
    /// An annotation row could not become a sample.
    Dropped,
    /// No annotation names this media file.
    Unlisted,
    /// One of several possible readings of the tree was chosen.
    Choice,
}

impl NoteKind {
    /// The name used in reports: `missing`, `lfs_pointer` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            NoteKind::Missing => "missing",
            NoteKind::MissingList => "missing_list",
            NoteKind::Empty => "empty",
            NoteKind::LfsPointer => "lfs_pointer",
            NoteKind::Unreadable => "unreadable",
            NoteKind::KnownBad => "known_bad",
            NoteKind::SharedFile => "shared_file",
            NoteKind::SplitLeak => "split_leak",
            NoteKind::Replacement => "replacement",
            NoteKind::Repaired => "repaired",
            NoteKind::Dropped => "dropped",
            NoteKind::Unlisted => "unlisted",
            NoteKind::Choice => "choice",
        }
    }

    /// Whether the user's copy of the data lacks something (exit code 1); other kinds only inform.
    pub const fn needs_attention(self) -> bool {
        matches!(
            self,
            NoteKind::Missing
                | NoteKind::MissingList
                | NoteKind::Empty
                | NoteKind::LfsPointer
                | NoteKind::Unreadable
                | NoteKind::Dropped
        )
    }
}

/// A finding in a raw tree that is no error, such as a duplicate row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The kind of finding.
    pub kind: NoteKind,
    /// The sample id, or the path relative to the raw root, that the note is about.
    pub subject: String,
    /// One sentence for people.
    pub message: String,
}

impl Note {
    /// Makes a note.
    pub fn new(kind: NoteKind, subject: impl Into<String>, message: impl Into<String>) -> Note {
        Note {
            kind,
            subject: subject.into(),
            message: message.into(),
        }
    }
}

/// All samples of a dataset, as read from the annotation and the raw tree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listing {
    /// The layout that was recognised and the lists that were used, in words for people.
    pub layout: String,
    /// One sample per annotation row, whether its files exist or not: ordered by split, then as in
    /// the annotation.
    pub samples: Vec<Sample>,
    /// The findings, in a deterministic order.
    pub notes: Vec<Note>,
}

impl Listing {
    /// The samples of one split, in order.
    pub fn split(&self, split: Split) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |one| one.split == split)
    }

    /// The number of samples in one split.
    pub fn count(&self, split: Split) -> usize {
        self.split(split).count()
    }
}

/// Which of a movie's plots becomes its text (MM-IMDb).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plot {
    /// The plot with the most characters; of several with equally many, the first.
    #[default]
    Longest,
    /// The first plot.
    First,
    /// The plot outline, or the first plot of a movie that has no outline.
    Outline,
    /// All plots, joined by blanks into one text.
    All,
}

impl Plot {
    /// Every choice.
    pub const ALL: [Plot; 4] = [Plot::Longest, Plot::First, Plot::Outline, Plot::All];

    /// The name used in flags: `longest`, `first`, `outline`, `all`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Plot::Longest => "longest",
            Plot::First => "first",
            Plot::Outline => "outline",
            Plot::All => "all",
        }
    }
}

/// Choices that change what a listing holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListOptions {
    /// Which plot becomes the text; only MM-IMDb has several.
    pub plot: Plot,
}

/// A published number of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PublishedCount {
    /// The number of samples.
    pub samples: usize,
    /// Where it stands, in words for people.
    pub source: &'static str,
}

/// A dataset: what is known about it, and the reader of its raw tree.
///
/// `datasets/examples/add_dataset.rs` implements it for a dataset of one's own.
pub trait Dataset: Send + Sync {
    /// What is known without reading the raw tree.
    fn info(&self) -> &Info;

    /// Reads the annotation below `raw` and finds the files. Walks the tree once and opens no
    /// media file.
    ///
    /// # Errors
    /// The folder is missing, empty or of no known layout; the annotation cannot be read; all
    /// media files are Git LFS pointers. A tree that lacks some of the files is not an error: see
    /// [`Listing::notes`].
    fn list(&self, raw: &Path, options: &ListOptions) -> Result<Listing, Error>;

    /// The raw root to use if the user names none. A user's `.toml` gives one; the five registered
    /// datasets do not.
    fn default_raw(&self) -> Option<&Path> {
        None
    }

    /// Samples of a complete copy, for each split one count per class; `None` for a split whose
    /// counts are not known.
    fn expected_per_class(&self) -> [Option<Vec<usize>>; 3] {
        [None, None, None]
    }

    /// The numbers of samples that are published of a split, where several are: each with the
    /// source that it stands in.
    fn published_counts(&self, _split: Split) -> Vec<PublishedCount> {
        Vec::new()
    }

    /// Samples of a complete copy per class over all splits: the sum over the splits, unless an
    /// implementation knows only the total.
    fn expected_over_splits(&self) -> Option<Vec<usize>> {
        let splits = self.expected_per_class();
        let known: Vec<&Vec<usize>> = splits.iter().flatten().collect();
        let classes = known.first()?.len();
        let sum = |class| known.iter().map(|counts| counts[class]).sum();
        Some((0..classes).map(sum).collect())
    }
}
