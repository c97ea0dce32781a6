//! The plan of a run: its settings, their hash, and the shards with their samples.
//!
//! A plan depends on the dataset's listing and the settings alone, and is known before anything is
//! decoded. `--dry-run` prints it, a run executes it, and a finished shard is recognised by it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use datasets::{Info, Input, ListOptions, Listing, Sample, Split};
use features::mel::MEL_RECIPE;
use features::schema::{FRAME_POLICY, SCHEMA_VERSION};
use features::{MelDtype, ShardName, ShardSpec};
use serde::{Deserialize, Serialize};

/// Default number of samples in a shard: about 350 MB of audio and video.
pub const DEFAULT_SHARD_ROWS: usize = 512;

/// Default number of frames that are kept of a clip. The evaluation view takes the second, fifth
/// and eighth of nine, which are at the centres of the clip's thirds.
pub const DEFAULT_FRAME_POOL: u32 = 9;

/// The part of a clip that is ingested, where the annotation gives the time of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    /// The whole clip.
    #[default]
    Clip,
    /// The audio and video of the event; the whole clip if a sample has no event.
    Event,
}

/// Everything but the samples that changes the bytes of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The version of this program.
    pub tool_version: String,
    /// The version of the shard format: the columns and the encoding of media in them.
    pub schema_version: u32,
    /// The dataset's name.
    pub dataset: String,
    /// The dataset's classes, in order.
    pub classes: Vec<String>,
    /// How log-mel spectrograms are computed.
    pub mel_recipe: String,
    /// The number format of mel values.
    pub mel_dtype: String,
    /// How frames are selected and encoded.
    pub frame_policy: String,
    /// The number of frames of a clip. 0 stands for all.
    pub frame_pool: u32,
    /// The part of a clip that is ingested.
    pub segment: Segment,
    /// The number of samples in a shard.
    pub shard_rows: usize,
    /// The number of samples of each split. `None` stands for all.
    pub limit: Option<usize>,
    /// The settings of the listing.
    pub listing: ListOptions,
}

/// The settings that the user chooses.
#[derive(Debug, Clone)]
pub struct Choices {
    /// See [`Settings::mel_dtype`].
    pub mel_dtype: MelDtype,
    /// See [`Settings::frame_pool`].
    pub frame_pool: u32,
    /// See [`Settings::segment`].
    pub segment: Segment,
    /// See [`Settings::shard_rows`].
    pub shard_rows: usize,
    /// See [`Settings::limit`].
    pub limit: Option<usize>,
    /// See [`Settings::listing`].
    pub listing: ListOptions,
}

/// The plan of a run.
#[derive(Debug)]
pub struct Plan {
    /// The settings.
    pub settings: Settings,
    /// SHA-256 of the settings, in hexadecimal.
    pub hash: String,
    /// The description of every shard's schema.
    pub spec: ShardSpec,
    /// The shards, in the order of split and number.
    pub shards: Vec<Shard>,
}

/// One shard to be written.
#[derive(Debug)]
pub struct Shard {
    /// The shard's name.
    pub name: ShardName,
    /// The samples, in the order of the listing.
    pub samples: Vec<Sample>,
    /// SHA-256 of the samples as listed, in hexadecimal. It tells whether a finished shard was made
    /// from the same samples.
    pub input_hash: String,
}

impl Shard {
    /// The files that the inputs of all samples name, relative to the raw root and sorted.
    pub fn files(&self) -> BTreeSet<&Path> {
        let inputs = self.samples.iter().flat_map(|sample| &sample.inputs);
        let files = inputs.filter_map(files).flatten();
        files.map(PathBuf::as_path).collect()
    }
}

/// Returns the files that a worker has to open for an input. `None` for an input without files.
pub fn files(input: &Input) -> Option<&[PathBuf]> {
    match input {
        Input::Files(paths) => Some(paths),
        Input::TextFile { path, .. } => Some(std::slice::from_ref(path)),
        Input::TableCell { table, .. } => Some(std::slice::from_ref(table)),
        Input::Text(_) | Input::None | Input::Absent(_) => None,
    }
}

/// Names one of an input's files in messages: its path below the raw root with slashes between its
/// parts, or its place in a table.
pub fn name(input: &Input, file: &Path) -> String {
    if let Input::TableCell { row, .. } = input {
        let table = file.file_name().unwrap_or_default();
        return datasets::table_row(&table.to_string_lossy(), *row);
    }
    let parts = file.components();
    let parts: Vec<_> = parts
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

/// Plans a run over the samples of a listing.
pub fn plan(info: &Info, listing: Listing, choices: &Choices) -> Plan {
    let settings = Settings {
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        schema_version: SCHEMA_VERSION,
        dataset: info.name.clone(),
        classes: info.classes.clone(),
        mel_recipe: MEL_RECIPE.to_owned(),
        mel_dtype: choices.mel_dtype.as_str().to_owned(),
        frame_policy: FRAME_POLICY.to_owned(),
        frame_pool: choices.frame_pool,
        segment: choices.segment,
        shard_rows: choices.shard_rows,
        limit: choices.limit,
        listing: choices.listing.clone(),
    };
    let hash = hash_json(&settings);
    let mut by_split: BTreeMap<Split, Vec<Sample>> = BTreeMap::new();
    let mut segment = false;
    for sample in listing.samples {
        segment |= sample.segment.is_some();
        by_split.entry(sample.split).or_default().push(sample);
    }
    let mut shards = Vec::new();
    for (split, mut samples) in by_split {
        samples.truncate(choices.limit.unwrap_or(usize::MAX));
        let of = samples.len().div_ceil(choices.shard_rows);
        let mut samples = samples.into_iter();
        for number in 0..of {
            let samples: Vec<Sample> = samples.by_ref().take(choices.shard_rows).collect();
            let input_hash = hash_json(&samples);
            shards.push(Shard {
                name: ShardName { split, number, of },
                samples,
                input_hash,
            });
        }
    }
    let spec = ShardSpec {
        dataset: info.name.clone(),
        modalities: info.modalities,
        classes: info.classes.clone(),
        multi_label: info.multi_label,
        mel_dtype: choices.mel_dtype,
        frame_pool: choices.frame_pool,
        segment,
        tool_version: settings.tool_version.clone(),
        settings_hash: hash.clone(),
    };
    Plan {
        settings,
        hash,
        spec,
        shards,
    }
}

impl Plan {
    /// The number of samples in all shards.
    pub fn samples(&self) -> usize {
        self.shards.iter().map(|shard| shard.samples.len()).sum()
    }

    /// The number of shards of each split.
    pub fn shards_per_split(&self) -> BTreeMap<Split, usize> {
        self.shards
            .iter()
            .map(|shard| (shard.name.split, shard.name.of))
            .collect()
    }
}

/// Returns the SHA-256 of a value's JSON, in hexadecimal.
pub(crate) fn hash_json(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).expect("plain data with string keys always serialises");
    util::hash::sha256(json)
}
