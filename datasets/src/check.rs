//! Holds a raw tree against what the dataset should hold. Plain data comes out; whoever asked prints it.
//!
//! No media is decoded. With a list of hashes, and only then, files are read as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;
use crate::hashes::{self, HashCheck};
use crate::types::{Dataset, Input, ListOptions, Listing, Modality, Note, Split};

/// How `check` is to look.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// As for listing.
    pub list: ListOptions,
    /// Hash every file that a `lfs_pointers_*.tsv` below the raw root names.
    pub verify: bool,
    /// Lists of true hashes to hold files against: tab-separated `path`, `lfs_sha256`, `lfs_size`, one header line.
    pub hashes: Vec<PathBuf>,
}

/// A raw tree held against what the dataset should hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// Registry name.
    pub dataset: String,
    /// The two modalities, in the order of [`SplitCheck::present`].
    pub modalities: [Modality; 2],
    /// Which layout was found.
    pub layout: String,
    /// One entry per split that is listed or expected.
    pub splits: Vec<SplitCheck>,
    /// Per class over all splits.
    pub classes: Vec<ClassCheck>,
    /// Every modality of a sample that should be there and is not.
    pub missing: Vec<MissingItem>,
    /// How many notes there are of each kind, by [`NoteKind::as_str`](crate::NoteKind::as_str).
    pub note_counts: BTreeMap<&'static str, usize>,
    /// Everything else that is worth telling; kinds and order as in [`Listing::notes`].
    pub notes: Vec<Note>,
    /// One entry per list of hashes.
    pub hashes: Vec<HashCheck>,
}

/// One split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitCheck {
    /// Which.
    pub split: Split,
    /// Samples as the paper counts them.
    pub expected: Option<usize>,
    /// Samples as the annotation below the raw root counts them.
    pub listed: usize,
    /// Samples that have both modalities.
    pub complete: usize,
    /// Samples that have the one and the other modality.
    pub present: [usize; 2],
    /// Per class, in canonical order.
    pub classes: Vec<ClassCheck>,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassCheck {
    /// Class name.
    pub name: String,
    /// Samples in a whole copy, where that is known.
    pub expected: Option<usize>,
    /// Samples that the annotation names.
    pub listed: usize,
    /// Samples of these that have both modalities.
    pub complete: usize,
}

/// One modality that should be there and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingItem {
    /// Sample id.
    pub id: String,
    /// The sample's split.
    pub split: Split,
    /// What is missing.
    pub modality: Modality,
    /// Why.
    pub reason: String,
}

impl CheckReport {
    /// Whether something is missing or wrong in the user's copy (exit code 1). Fewer samples than the paper counts
    /// are not: a part of a dataset may be whole in itself.
    pub fn needs_attention(&self) -> bool {
        !self.missing.is_empty()
            || self.notes.iter().any(|note| note.kind.needs_attention())
            || self.hashes.iter().any(|one| one.right < one.rows)
    }
}

/// Checks a raw tree.
///
/// # Errors
/// As for listing; a list of hashes that cannot be read.
pub fn check(
    dataset: &dyn Dataset,
    raw: &Path,
    options: &CheckOptions,
) -> Result<CheckReport, Error> {
    let listing = dataset.list(raw, &options.list)?;
    let info = dataset.info();
    let per_class = dataset.expected_per_class();
    let mut splits = Vec::new();
    for split in Split::ALL {
        let expected = info.expected[split.index()];
        let listed = listing.count(split);
        if listed == 0 && expected.is_none() {
            continue;
        }
        let present = [0, 1].map(|which| {
            let samples = listing.split(split);
            samples.filter(|one| one.inputs[which].is_present()).count()
        });
        let complete = listing
            .split(split)
            .filter(|one| one.inputs.iter().all(Input::is_present));
        splits.push(SplitCheck {
            split,
            expected,
            listed,
            complete: complete.count(),
            present,
            classes: count_classes(
                dataset,
                &listing,
                |one| one == split,
                per_class[split.index()].as_deref(),
            ),
        });
    }
    let mut missing = Vec::new();
    for sample in &listing.samples {
        for (input, modality) in sample.inputs.iter().zip(info.modalities) {
            if let Input::Absent {
                reason: Some(reason),
            } = input
            {
                missing.push(MissingItem {
                    id: sample.id.clone(),
                    split: sample.split,
                    modality,
                    reason: reason.clone(),
                });
            }
        }
    }
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
    Ok(CheckReport {
        dataset: info.name.clone(),
        modalities: info.modalities,
        splits,
        classes: count_classes(
            dataset,
            &listing,
            |_| true,
            dataset.expected_over_splits().as_deref(),
        ),
        missing,
        note_counts,
        notes,
        hashes,
        layout: listing.layout,
    })
}

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
