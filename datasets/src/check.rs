//! Compares a raw tree with what a complete copy of the dataset holds.
//!
//! No media file is decoded. Text files are read as a run reads them, and other files in full only to
//! compare them with a list of hashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use serde::Serialize;

use crate::error::Error;
use crate::hashes::{self, HashCheck};
use crate::modalities::{InputName, Modalities};
use crate::read_text_file;
use crate::types::{
    AbsenceCause, Dataset, Info, Input, ListOptions, Listing, Note, PublishedCount, Split,
};

/// Options of [`check()`].
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// Options of the listing.
    pub list: ListOptions,
    /// Whether to hash every file that a `lfs_pointers_*.tsv` below the raw root names.
    pub verify: bool,
    /// Lists of published hashes to compare the files with: tab-separated `path`, `lfs_sha256`,
    /// `lfs_size`, below one header line.
    pub hashes: Vec<PathBuf>,
}

/// The comparison of a raw tree with a complete copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The dataset's registry name.
    pub dataset: String,
    /// The modalities, in the order of [`SplitCheck::present`].
    pub modalities: Modalities,
    /// The layout that was recognised, in words for people.
    pub layout: String,
    /// The splits that are listed or expected.
    pub splits: Vec<SplitCheck>,
    /// The classes, counted over all splits.
    pub classes: Vec<ClassCheck>,
    /// Every input that should exist and cannot be used.
    pub missing: Vec<MissingItem>,
    /// The number of notes of each kind, by [`NoteKind::as_str`](crate::NoteKind::as_str).
    pub note_counts: BTreeMap<&'static str, usize>,
    /// The notes of the listing, in its order, and those of the hash check.
    pub notes: Vec<Note>,
    /// The comparison with each list of hashes.
    pub hashes: Vec<HashCheck>,
}

/// The samples of one split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitCheck {
    /// The split.
    pub split: Split,
    /// The number of samples that the paper states, if any.
    pub expected: Option<usize>,
    /// All published numbers with their sources, where they differ.
    pub published: Vec<PublishedCount>,
    /// The number of samples in the annotation below the raw root.
    pub listed: usize,
    /// The number of samples with every modality.
    pub complete: usize,
    /// The number of samples with each modality.
    pub present: Vec<usize>,
    /// The classes, in canonical order.
    pub classes: Vec<ClassCheck>,
}

/// The samples of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassCheck {
    /// The name of the class.
    pub name: String,
    /// The number of samples in a complete copy, if known.
    pub expected: Option<usize>,
    /// The number of samples in the annotation.
    pub listed: usize,
    /// The number of these with every modality.
    pub complete: usize,
}

/// An input that should exist and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingItem {
    /// The id of the sample.
    pub id: String,
    /// The split of the sample.
    pub split: Split,
    /// The input.
    pub modality: InputName,
    /// The cause; in JSON it is a sentence.
    pub reason: AbsenceCause,
}

impl CheckReport {
    /// Whether something is missing or wrong in the user's copy (exit code 1). Fewer samples than
    /// the paper states are not, because a copy may hold a part of a dataset on purpose.
    pub fn needs_attention(&self) -> bool {
        !self.missing.is_empty()
            || self.notes.iter().any(|note| note.kind.needs_attention())
            || self.hashes.iter().any(|one| one.right < one.rows)
    }
}

/// Compares a raw tree with what a complete copy of the dataset holds.
///
/// # Errors
/// The errors of [`Dataset::list`]; a list of hashes cannot be read.
pub fn check(
    dataset: &dyn Dataset,
    raw: &Path,
    options: &CheckOptions,
) -> Result<CheckReport, Error> {
    let listing = dataset.list(raw, &options.list)?;
    check_listing(dataset, raw, listing, options)
}

/// Compares a raw tree, of which this is the listing, with what a complete copy of the dataset
/// holds.
///
/// # Errors
/// A list of hashes cannot be read.
pub fn check_listing(
    dataset: &dyn Dataset,
    raw: &Path,
    mut listing: Listing,
    options: &CheckOptions,
) -> Result<CheckReport, Error> {
    read_texts(raw, &mut listing);
    let info = dataset.info();
    let mut notes = listing.notes.clone();
    let hashes = if options.verify || !options.hashes.is_empty() {
        hashes::verify(raw, &options.hashes, &mut notes)?
    } else {
        Vec::new()
    };
    let mut note_counts = BTreeMap::new();
    for note in &notes {
        *note_counts.entry(note.kind.as_str()).or_default() += 1;
    }
    let expected = dataset.expected_over_splits();
    Ok(CheckReport {
        dataset: info.name.clone(),
        modalities: info.modalities,
        splits: check_splits(dataset, &listing),
        classes: count_classes(dataset, &listing, |_| true, expected.as_deref()),
        missing: missing_items(info, &listing),
        note_counts,
        notes,
        hashes,
        layout: listing.layout,
    })
}

/// Reads the text files that the samples name, which may be many, on all cores. An input whose file
/// has no text, or one in an unknown encoding, becomes absent, as it will be in a run.
fn read_texts(raw: &Path, listing: &mut Listing) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let per_thread = listing.samples.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        for samples in listing.samples.chunks_mut(per_thread) {
            scope.spawn(move || {
                for input in samples.iter_mut().flat_map(|one| &mut one.inputs) {
                    if let Input::TextFile { path, encoding } = input
                        && let Some(cause) = text_problem(raw, path, encoding.as_deref())
                    {
                        *input = Input::Absent(cause);
                    }
                }
            });
        }
    });
}

/// Returns why a text file cannot be used, if that is so.
fn text_problem(raw: &Path, path: &Path, encoding: Option<&str>) -> Option<AbsenceCause> {
    let file = path.display().to_string();
    match read_text_file(&raw.join(path), encoding) {
        Ok(Some(_)) => None,
        Ok(None) => Some(AbsenceCause::NoWords(file)),
        Err(Error::Annotation {
            problem, remedy, ..
        }) => {
            let problem = format!("{problem}; {remedy}");
            Some(AbsenceCause::Encoding { file, problem })
        }
        Err(error) => Some(AbsenceCause::Unreadable(error.to_string())),
    }
}

/// Counts the samples of each split that is listed or expected.
fn check_splits(dataset: &dyn Dataset, listing: &Listing) -> Vec<SplitCheck> {
    let per_class = dataset.expected_per_class();
    let mut splits = Vec::new();
    for split in Split::ALL {
        let expected = dataset.info().expected[split.index()];
        let listed = listing.count(split);
        if listed == 0 && expected.is_none() {
            continue;
        }
        let count = dataset.info().modalities.count();
        let present = (0..count).map(|which| {
            let samples = listing.split(split);
            samples.filter(|one| one.inputs[which].is_present()).count()
        });
        let complete = listing
            .split(split)
            .filter(|one| one.inputs.iter().all(Input::is_present));
        let in_split = |one| one == split;
        let expected_classes = per_class[split.index()].as_deref();
        splits.push(SplitCheck {
            split,
            expected,
            published: dataset.published_counts(split),
            listed,
            complete: complete.count(),
            present: present.collect(),
            classes: count_classes(dataset, listing, in_split, expected_classes),
        });
    }
    splits
}

/// Lists the inputs that should exist and cannot be used.
fn missing_items(info: &Info, listing: &Listing) -> Vec<MissingItem> {
    let mut missing = Vec::new();
    for sample in &listing.samples {
        for (input, modality) in sample.inputs.iter().zip(info.modalities.names()) {
            if let Input::Absent(cause) = input {
                missing.push(MissingItem {
                    id: sample.id.clone(),
                    split: sample.split,
                    modality,
                    reason: cause.clone(),
                });
            }
        }
    }
    missing
}

/// Counts the samples of each class in the splits that `wanted` accepts.
fn count_classes(
    dataset: &dyn Dataset,
    listing: &Listing,
    wanted: impl Fn(Split) -> bool,
    expected: Option<&[usize]>,
) -> Vec<ClassCheck> {
    let names = dataset.info().classes.iter();
    let mut classes: Vec<ClassCheck> = names
        .enumerate()
        .map(|(index, name)| ClassCheck {
            name: name.clone(),
            expected: expected.and_then(|counts| counts.get(index).copied()),
            listed: 0,
            complete: 0,
        })
        .collect();
    for sample in listing.samples.iter().filter(|one| wanted(one.split)) {
        let complete = sample.inputs.iter().all(Input::is_present);
        for &label in &sample.labels {
            classes[label as usize].listed += 1;
            classes[label as usize].complete += usize::from(complete);
        }
    }
    classes
}
