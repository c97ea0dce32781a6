//! The parts of `manifest.json` that the card and the metadata show.

use std::collections::BTreeMap;

use datasets::{InputName, Split};
use serde::Deserialize;

/// The contents of `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// The version of the program that made the shards.
    pub tool_version: String,
    /// The version of the shard format.
    pub schema_version: u32,
    /// The dataset's name.
    pub dataset: String,
    /// The dataset's name as its publisher writes it.
    pub title: String,
    /// The licence of the data, in words for people.
    pub license: String,
    /// SHA-256 of the settings, in hexadecimal.
    pub settings_hash: String,
    /// The settings that the bytes depend on.
    pub settings: Settings,
    /// The shards, in the order of split and number.
    pub shards: Vec<Shard>,
    /// The totals of each split.
    pub totals: BTreeMap<Split, Totals>,
    /// Modalities that should be there and are missing.
    pub failures: Failures,
    /// Problems that did not cost a modality.
    pub warnings: Warnings,
}

/// The settings that the card names.
#[derive(Debug, Clone, Deserialize)]
pub struct Settings {
    /// How log-mel spectrograms are computed.
    pub mel_recipe: String,
    /// How frames are selected and encoded.
    pub frame_policy: String,
    /// The number of frames of a clip. 0 stands for all.
    pub frame_pool: u32,
    /// `clip`, or `event` where clips were cut to their annotated event.
    pub segment: String,
    /// The number of samples of each split. `None` stands for all.
    pub limit: Option<usize>,
}

/// One shard.
#[derive(Debug, Clone, Deserialize)]
pub struct Shard {
    /// The file name.
    pub file: String,
    /// The split.
    pub split: Split,
    /// The number of rows.
    pub rows: usize,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// The totals of one split.
#[derive(Debug, Clone, Deserialize)]
pub struct Totals {
    /// The number of samples in the annotation.
    pub samples: usize,
    /// The number of rows in the shards.
    pub rows: usize,
    /// The number of samples without any modality.
    pub quarantined: usize,
    /// The number of rows that lack a modality that should be there.
    pub incomplete: usize,
    /// The number of rows with each modality.
    pub present: BTreeMap<InputName, usize>,
    /// The number of rows of each class, in the order of the classes.
    pub classes: Vec<ClassCount>,
}

/// The rows of one class.
#[derive(Debug, Clone, Deserialize)]
pub struct ClassCount {
    /// The number of rows.
    pub rows: usize,
}

/// Modalities that should be there and are missing, by modality and cause.
#[derive(Debug, Clone, Deserialize)]
pub struct Failures {
    /// The counts.
    pub causes: BTreeMap<InputName, BTreeMap<String, usize>>,
}

/// Problems that did not cost a modality, by cause.
#[derive(Debug, Clone, Deserialize)]
pub struct Warnings {
    /// The counts.
    pub causes: BTreeMap<String, usize>,
}
