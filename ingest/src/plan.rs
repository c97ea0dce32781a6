//! What a run will do, before it does anything: settings, their hash, and the shards with their samples.
//!
//! A plan is a function of the dataset's listing and the settings alone. `--dry-run` prints it, a run executes it, and a
//! finished shard is recognised by it.

use std::collections::BTreeMap;

use datasets::{Info, ListOptions, Listing, Sample, Split};
use features::mel::MEL_RECIPE;
use features::schema::{FRAME_POLICY, SCHEMA_VERSION};
use features::{MelDtype, ShardName, ShardSpec};
use serde::{Deserialize, Serialize};

/// Samples per shard by default: about 350 MB of audio and video.
pub const DEFAULT_SHARD_ROWS: usize = 512;

/// Frames kept per clip by default.
pub const DEFAULT_FRAME_POOL: u32 = 10;

/// What of a clip is ingested, where the annotation tells when its event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    /// The whole clip.
    #[default]
    Clip,
    /// The event's seconds of sound and picture; the whole clip where a row has no event.
    Event,
}

/// Everything that changes the bytes of the output, beside the samples themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of this program.
    pub tool_version: String,
    /// Version of the shard format: columns, and what media become in them.
    pub schema_version: u32,
    /// The dataset's name.
    pub dataset: String,
    /// Its classes in order.
    pub classes: Vec<String>,
    /// How mel is computed.
    pub mel_recipe: String,
    /// How mel is stored.
    pub mel_dtype: String,
    /// How frames are drawn and stored.
    pub frame_policy: String,
    /// Frames per clip; 0 keeps all.
    pub frame_pool: u32,
    /// What of a clip is ingested.
    pub segment: Segment,
    /// Samples per shard.
    pub shard_rows: usize,
    /// Samples per split, where not all are taken.
    pub limit: Option<usize>,
    /// What the listing depends on.
    pub listing: ListOptions,
}

/// The part of the settings that the user chooses.
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

/// A run.
#[derive(Debug)]
pub struct Plan {
    /// The settings.
    pub settings: Settings,
    /// SHA-256 of the settings, in hexadecimal.
    pub hash: String,
    /// What every shard's schema is made from.
    pub spec: ShardSpec,
    /// The shards, by split and number.
    pub shards: Vec<Shard>,
}

/// One file to be.
#[derive(Debug)]
pub struct Shard {
    /// Which one.
    pub name: ShardName,
    /// Its samples, in the listing's order.
    pub samples: Vec<Sample>,
    /// SHA-256 over the samples as listed, in hexadecimal: tells whether a finished shard was made from them.
    pub input_hash: String,
}

/// Makes the plan.
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
    /// Samples in all shards.
    pub fn samples(&self) -> usize {
        self.shards.iter().map(|shard| shard.samples.len()).sum()
    }

    /// Shards per split.
    pub fn shards_per_split(&self) -> BTreeMap<Split, usize> {
        self.shards
            .iter()
            .map(|shard| (shard.name.split, shard.name.of))
            .collect()
    }
}

/// SHA-256 of a value's JSON, in hexadecimal.
pub(crate) fn hash_json(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).expect("plain data with string keys always serialises");
    util::hash::sha256(json)
}
