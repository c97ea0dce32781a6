//! The vocabulary that the other crates speak: what a dataset is, what a sample is before anything is decoded.
//!
//! Plain data. Nothing here touches a disk.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// One of the four kinds of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// A sound track.
    Audio,
    /// A moving picture, used as a handful of frames.
    Video,
    /// One still picture.
    Image,
    /// Written words.
    Text,
}

impl Modality {
    /// Every modality, in the order of the enum.
    pub const ALL: [Modality; 4] = [
        Modality::Audio,
        Modality::Video,
        Modality::Image,
        Modality::Text,
    ];

    /// The name used in columns, flags and files: `audio`, `video`, `image`, `text`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Modality::Audio => "audio",
            Modality::Video => "video",
            Modality::Image => "image",
            Modality::Text => "text",
        }
    }
}

/// The part of a dataset a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training.
    Train,
    /// For choosing among models. Called `dev` in some sources.
    Val,
    /// For the final score.
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

    /// Position in [`Split::ALL`] and in [`Info::expected`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Reads the spellings that split columns and file names use in the wild
    /// (`train`/`training`, `val`/`valid`/`validate`/`validation`/`dev`, `test`/`testing`), in any case.
    pub fn from_spelling(word: &str) -> Option<Split> {
        match word.trim().to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Split::Train),
            "val" | "valid" | "validate" | "validation" | "dev" => Some(Split::Val),
            "test" | "testing" => Some(Split::Test),
            _ => None,
        }
    }
}

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

names!(Modality, "modality", "audio, video, image, text");
names!(Split, "split", "train, val, test");
names!(Plot, "plot choice", "longest, first, outline, all");

/// What is known about a dataset without looking at any disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Info {
    /// Registry name: `food-101`, `mm-imdb`, `kinetics-sound`, `ave`, `crema-d`, or the name a user gave.
    pub name: String,
    /// The name people write: `CREMA-D`.
    pub title: String,
    /// The two modalities (m1, m2): image and text, or audio and video.
    pub modalities: [Modality; 2],
    /// Class names in canonical order; a label is an index into this.
    pub classes: Vec<String>,
    /// Whether a sample carries any number of labels (MM-IMDb) instead of exactly one.
    pub multi_label: bool,
    /// Samples per split ([`Split::ALL`] order) as the paper counts them; `None` where there is no such split or no count.
    pub expected: [Option<usize>; 3],
    /// Under which terms the data lies around, as far as anyone has said.
    pub license: String,
}

impl Info {
    /// Position of a modality in [`Info::modalities`] and [`Sample::inputs`].
    pub fn position(&self, modality: Modality) -> Option<usize> {
        self.modalities.iter().position(|&one| one == modality)
    }
}

/// Where one modality of one sample comes from. Paths are RELATIVE to the raw root, so that a listing says the same
/// wherever the tree lies; open `raw.join(path)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Media files to try, best first; never empty. An audio candidate may be the video file itself.
    /// Each one existed, was not empty and was not a Git LFS pointer when it was listed.
    Files(Vec<PathBuf>),
    /// The text itself, cleaned, never empty.
    Text(String),
    /// A file that holds the text, perhaps none: read it with [`read_text_file`](crate::read_text_file).
    TextFile(PathBuf),
    /// Nothing to read.
    Absent {
        /// `None`: the data never had it, which is no error. `Some`: it should be there; this says why it is not.
        reason: Option<String>,
    },
}

impl Input {
    /// Whether there is something to read.
    pub fn is_present(&self) -> bool {
        !matches!(self, Input::Absent { .. })
    }

    /// An input that should be there, and why it is not.
    pub fn absent(reason: impl Into<String>) -> Input {
        Input::Absent {
            reason: Some(reason.into()),
        }
    }

    /// An input that the data never had.
    pub const NONE: Input = Input::Absent { reason: None };
}

/// One annotation row: what it is called, what it is, and where its two modalities come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Unique in the dataset, stable across layouts, no `/`, no control character, at most [`MAX_ID_BYTES`] bytes.
    /// May begin with `-` or `_`.
    pub id: String,
    /// The split it belongs to.
    pub split: Split,
    /// Class indices, ascending and distinct; exactly one unless [`Info::multi_label`].
    pub labels: Vec<u32>,
    /// The two modalities in the order of [`Info::modalities`].
    pub inputs: [Input; 2],
    /// The file that best names the sample, below the raw root, with `/` on every system.
    pub source: String,
    /// Start and end in seconds of the labelled event inside the clip, where the annotation has one.
    pub segment: Option<(f32, f32)>,
}

/// Longest id in bytes: ids name files and fill columns.
pub const MAX_ID_BYTES: usize = 200;

/// Why a [`Note`] was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// An annotated file is not there.
    Missing,
    /// A file is there and holds no bytes.
    Empty,
    /// A Git LFS pointer lies where a media file should.
    LfsPointer,
    /// A file is there and cannot be read as what it should be.
    Unreadable,
    /// The publisher's file is known to be wrong; says what was done about it.
    KnownBad,
    /// One media file carries several samples.
    SharedFile,
    /// One media file carries samples of several splits.
    SplitLeak,
    /// A replacement clip was taken instead of the original.
    Replacement,
    /// An annotation line was repaired or read in an unusual way.
    Repaired,
    /// An annotation row could not become a sample.
    Dropped,
    /// A media file that no annotation names.
    Unlisted,
    /// A choice was made that the user may want to know about.
    Choice,
}

impl NoteKind {
    /// The name used in reports: `missing`, `lfs_pointer`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            NoteKind::Missing => "missing",
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

    /// Whether the user's copy of the data lacks something (exit code 1), as against a remark.
    pub const fn needs_attention(self) -> bool {
        matches!(
            self,
            NoteKind::Missing
                | NoteKind::Empty
                | NoteKind::LfsPointer
                | NoteKind::Unreadable
                | NoteKind::Dropped
        )
    }
}

/// One thing the user may want to know about the raw tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What sort of thing.
    pub kind: NoteKind,
    /// The sample id, or the path below the raw root, that it is about.
    pub subject: String,
    /// One sentence.
    pub message: String,
}

impl Note {
    /// Shorthand.
    pub fn new(kind: NoteKind, subject: impl Into<String>, message: impl Into<String>) -> Note {
        Note {
            kind,
            subject: subject.into(),
            message: message.into(),
        }
    }
}

/// What a raw tree holds, as the annotation tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listing {
    /// Which of the known layouts was found and which lists were used, for people.
    pub layout: String,
    /// Every annotation row, whether its files are there or not: ordered by split, then as the annotation has them.
    pub samples: Vec<Sample>,
    /// What is worth telling, in a deterministic order.
    pub notes: Vec<Note>,
}

impl Listing {
    /// The samples of one split, in order.
    pub fn split(&self, split: Split) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |one| one.split == split)
    }

    /// How many samples a split has.
    pub fn count(&self, split: Split) -> usize {
        self.split(split).count()
    }
}

/// Which of a movie's plots becomes its text (MM-IMDb).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plot {
    /// The plot with the most characters, the first of equals.
    #[default]
    Longest,
    /// The first plot.
    First,
    /// The plot outline where there is one, else the first plot.
    Outline,
    /// All plots, joined by blanks. One row per movie all the same.
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
    /// Which plot becomes the text; MM-IMDb only.
    pub plot: Plot,
}

/// A dataset: facts, and the way from a raw tree to a list of samples.
pub trait Dataset: Send + Sync {
    /// What is known without looking at the disk.
    fn info(&self) -> &Info;

    /// Reads the annotation below `raw` and finds the files. One walk over the tree, no media is opened.
    ///
    /// # Errors
    /// A folder that is missing, empty or of no known layout; annotation that cannot be read; nothing but Git LFS
    /// pointers. What merely lacks some files is not an error: see [`Listing::notes`].
    fn list(&self, raw: &Path, options: &ListOptions) -> Result<Listing, Error>;

    /// Where the raw tree lies when the user does not say, if the dataset itself knows
    /// (a user's own `.toml` does; the five registered datasets do not).
    fn default_raw(&self) -> Option<&Path> {
        None
    }

    /// Samples per split and class that a whole copy holds, where that is known: per split one count per class.
    fn expected_per_class(&self) -> [Option<Vec<usize>>; 3] {
        [None, None, None]
    }

    /// Samples per class over all splits, where only that is known; else what the splits add up to.
    fn expected_over_splits(&self) -> Option<Vec<usize>> {
        let splits = self.expected_per_class();
        let known: Vec<&Vec<usize>> = splits.iter().flatten().collect();
        let classes = known.first()?.len();
        let sum = |class| known.iter().map(|counts| counts[class]).sum();
        Some((0..classes).map(sum).collect())
    }
}
