//! A folder of shards: which samples it holds, where each of them lies, and single rows of it.
//!
//! Opening reads only footers and the small columns. A row is fetched through the page index, one
//! page per media cell, so that a shuffled epoch reads what it uses and nothing else.

mod index;
mod pages;
mod reader;

use crate::schema::ShardSpec;
use crate::shard_name::ShardName;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use datasets::Split;
pub use index::SplitIndex;
use media::Error;
use media::mel::Mel;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::PageIndexPolicy;
pub use reader::{Fetched, RowReader};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

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

/// One shard, its footer read.
struct Shard {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// The first row of each row group, then the number of rows.
    starts: Vec<u32>,
}

/// An opened folder of shards.
pub struct Shards {
    folder: PathBuf,
    spec: ShardSpec,
    shards: Vec<Shard>,
    splits: BTreeMap<Split, SplitIndex>,
    fingerprint: String,
}

fn parquet_error(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::unusable(
        format!("{}: cannot be read as Parquet: {error}", path.display()),
        "ingest this dataset again with --overwrite",
    )
}

impl Shard {
    /// Reads the footer of a shard, and what it says of the dataset.
    fn open(path: PathBuf) -> Result<(Shard, File, ShardSpec), Error> {
        let file = File::open(&path).map_err(Error::io(&path, "open"))?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::load(&file, options).map_err(|e| parquet_error(&path, e))?;
        let spec = ShardSpec::from_schema(metadata.schema()).map_err(|e| e.in_file(&path))?;
        let mut starts = vec![0u32];
        for group in metadata.metadata().row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows() as u32);
        }
        let shard = Shard {
            path,
            metadata,
            starts,
        };
        Ok((shard, file, spec))
    }
}

impl Shards {
    /// Opens the shards `SPLIT-NNNNN-of-MMMMM.parquet` in `folder`.
    ///
    /// # Errors
    /// There are no shards, one is missing, one has another schema version or dataset, or its
    /// footer is damaged.
    pub fn open(folder: &Path) -> Result<Shards, Error> {
        let names = names(folder)?;
        for split in Split::ALL {
            check_complete(folder, split, &names)?;
        }
        let mut first: Option<ShardSpec> = None;
        let mut shards = Vec::new();
        let mut splits: BTreeMap<Split, SplitIndex> = Split::ALL
            .iter()
            .map(|s| (*s, SplitIndex::default()))
            .collect();
        for name in &names {
            let (shard, file, own) = Shard::open(folder.join(name.file_name()))?;
            let spec = first.get_or_insert_with(|| own.clone());
            if *spec != own {
                return Err(Error::unusable(
                    format!(
                        "{}: was made from another dataset or with other settings than {}",
                        shard.path.display(),
                        names[0].file_name()
                    ),
                    "ingest into an empty folder",
                ));
            }
            let split = splits.entry(name.split).or_default();
            index::read(&shard, file, spec, shards.len() as u32, split)?;
            shards.push(shard);
        }
        // `names` is not empty, so a shard was read and set it.
        let Some(spec) = first else {
            return Err(Error::Invalid("no shard was read".into()));
        };
        let fingerprint = fingerprint(&spec, &splits);
        Ok(Shards {
            folder: folder.to_owned(),
            spec,
            shards,
            splits,
            fingerprint,
        })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
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

/// Returns the names of the shards in a folder, sorted; at least one.
fn names(folder: &Path) -> Result<Vec<ShardName>, Error> {
    if !folder.is_dir() {
        return Err(Error::unusable(
            format!("{}: there is no such folder of shards", folder.display()),
            "run `ingest run` first, or give the folder they are in",
        ));
    }
    let mut names: Vec<ShardName> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let file_name = entry.map_err(Error::io(folder, "list"))?.file_name();
        names.extend(file_name.to_str().and_then(ShardName::parse));
    }
    names.sort();
    if names.is_empty() {
        return Err(Error::unusable(
            format!(
                "{}: holds no shards (SPLIT-00000-of-00001.parquet)",
                folder.display()
            ),
            "run `ingest run` first",
        ));
    }
    Ok(names)
}

/// Checks that all shards of a split are there, and that they are of one run.
fn check_complete(folder: &Path, split: Split, names: &[ShardName]) -> Result<(), Error> {
    let of_split: Vec<ShardName> = names.iter().copied().filter(|n| n.split == split).collect();
    let Some(first) = of_split.first() else {
        return Ok(());
    };
    if let Some(other) = of_split.iter().find(|n| n.of != first.of) {
        return Err(Error::unusable(
            format!(
                "{}: holds {split} shards of two runs, one of {} and one of {}",
                folder.display(),
                first.of,
                other.of
            ),
            "ingest into an empty folder",
        ));
    }
    for number in 0..first.of {
        if !of_split.iter().any(|n| n.number == number) {
            let missing = ShardName { number, ..*first };
            return Err(Error::unusable(
                format!(
                    "{}: shard {} is missing",
                    folder.display(),
                    missing.file_name()
                ),
                "run `ingest run` again, it makes what is missing",
            ));
        }
    }
    Ok(())
}

/// Returns a column of a batch by its name.
fn column<'a>(batch: &'a RecordBatch, name: &str, path: &Path) -> Result<&'a ArrayRef, Error> {
    batch.column_by_name(name).ok_or_else(|| {
        Error::unusable(
            format!("{}: column {name} is missing", path.display()),
            "ingest this dataset again with --overwrite",
        )
    })
}

/// Computes [`Shards::fingerprint`].
/// Computes [`Shards::fingerprint`].
fn fingerprint(spec: &ShardSpec, splits: &BTreeMap<Split, SplitIndex>) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{}\0{:?}\0{:?}\0",
        spec.dataset, spec.modalities, spec.classes
    ));
    for (split, index) in splits {
        for ((id, labels), present) in index.ids.iter().zip(&index.labels).zip(&index.present) {
            hash.update(format!("{split}\0{id}\0{labels:?}\0{present:?}\0"));
        }
    }
    hex::encode(hash.finalize())
}
