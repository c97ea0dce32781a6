//! A folder of shards: which samples it holds, where each of them lies, and single rows of it.
//!
//! Opening reads only footers and the small columns. A row is fetched through the page index, one
//! page per media cell, so that a shuffled epoch reads what it uses and nothing else. Of shards in
//! an object store, the pages of a batch are requested together.

mod copy;
mod footer;
mod index;
mod names;
mod pages;
mod ranges;
mod reader;
mod scan;
mod shard;

use crate::schema::ShardSpec;
use arrow_buffer::Buffer;
pub use copy::copy_to;
use datasets::{Modality, Split};
use footer::Opened;
pub use index::SplitIndex;
use media::Error;
use media::mel::Mel;
pub use reader::{Fetched, RowReader};
use sha2::{Digest, Sha256};
use shard::Shard;
use std::collections::BTreeMap;
use store::Folder;

/// The content of one modality, as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A log-mel spectrogram.
    Mel(Mel),
    /// JPEG files, shared with the memory that was read: the frames of a video in time
    /// order, or one image.
    Images(Vec<Buffer>),
    /// Cleaned text.
    Text(String),
}

/// An opened folder of shards.
pub struct Shards {
    folder: Folder,
    spec: ShardSpec,
    shards: Vec<Shard>,
    splits: BTreeMap<Split, SplitIndex>,
    fingerprint: String,
}

impl Shards {
    /// Opens the shards `SPLIT-NNNNN-of-MMMMM.parquet` in `folder`.
    ///
    /// # Errors
    /// There are no shards, one is missing, one has another schema version or dataset, or its
    /// footer is damaged.
    pub fn open(folder: &Folder) -> Result<Shards, Error> {
        let entries = names::list(folder)?;
        let mut first: Option<ShardSpec> = None;
        let mut shards = Vec::new();
        let mut splits: BTreeMap<Split, SplitIndex> = Split::ALL
            .iter()
            .map(|s| (*s, SplitIndex::default()))
            .collect();
        for opened in footer::open_all(folder, &entries)? {
            let Opened { shard, spec, index } = opened;
            let common = first.get_or_insert_with(|| spec.clone());
            if *common != spec {
                return Err(Error::unusable(
                    format!(
                        "{}: was made from another dataset or with other settings than {}",
                        shard.path.display(),
                        entries[0].0.file_name()
                    ),
                    "ingest into an empty folder",
                ));
            }
            let split = splits.entry(shard.name.split).or_default();
            split.append(index, shards.len() as u32);
            shards.push(shard);
        }
        // `entries` is not empty, so a shard was read and set it.
        let Some(spec) = first else {
            return Err(Error::Invalid("no shard was read".into()));
        };
        let fingerprint = fingerprint(&spec, &splits);
        Ok(Shards {
            folder: folder.clone(),
            spec,
            shards,
            splits,
            fingerprint,
        })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns what all shards have in common.
    pub fn spec(&self) -> &ShardSpec {
        &self.spec
    }

    /// Returns the samples of a split.
    pub fn split(&self, split: Split) -> &SplitIndex {
        &self.splits[&split]
    }

    /// Returns a SHA-256 in hexadecimal that identifies the samples, their labels and their
    /// modalities, but not the bytes of the shards.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// Computes [`Shards::fingerprint`].
fn fingerprint(spec: &ShardSpec, splits: &BTreeMap<Split, SplitIndex>) -> String {
    let mut hash = Sha256::new();
    let modalities = spec.modalities.names().map(|input| input.modality);
    let modalities: Vec<Modality> = modalities.collect();
    hash.update(format!(
        "{}\0{modalities:?}\0{:?}\0",
        spec.dataset, spec.classes
    ));
    for (split, index) in splits {
        for ((id, labels), present) in index.ids.iter().zip(&index.labels).zip(&index.present) {
            hash.update(format!("{split}\0{id}\0{labels:?}\0{present:?}\0"));
        }
    }
    hex::encode(hash.finalize())
}
