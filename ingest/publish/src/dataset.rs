//! Reads what is published: the manifest and the schema of a folder of shards.

use anyhow::{Context, bail};
use datasets::{Modality, Split};
use features::{Folder, MANIFEST_FILE, ShardSpec, Shards, verify};

use crate::licence::Licence;
use crate::manifest::{Manifest, Totals};

/// The number of threads that compare sizes in an object store.
const THREADS: usize = 8;

/// A folder of finished shards, as it is published.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub(crate) manifest: Manifest,
    pub(crate) spec: ShardSpec,
    /// The licence under which it is published.
    pub licence: Licence,
}

impl Dataset {
    /// Reads the manifest and the footers of the shards, and compares the sizes of the shards with
    /// the manifest. `licence` is the answer of the user for data of their own.
    ///
    /// # Errors
    /// There is no manifest, which is written when all shards are finished; shards are missing or
    /// of another size; the licence is unknown, or is given for a dataset whose terms are known.
    pub fn open(folder: &Folder, licence: Option<&str>) -> anyhow::Result<Dataset> {
        // Says what is wrong with a folder without shards before it asks for the manifest.
        let shards = Shards::open(folder)?;
        let path = folder.path_of(MANIFEST_FILE);
        let Some(bytes) = folder.read(MANIFEST_FILE)? else {
            bail!(
                "{}: is missing, so the shards are not finished; run `ingest run` again, and after \
                 parts with --finish",
                path.display()
            );
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{}: is no manifest of this tool; run `ingest run` again, which writes a new one",
                path.display()
            )
        })?;
        if let Some(verdict) = verify::verify_sizes(folder, THREADS)? {
            verdict.check(folder)?;
        }
        let spec = shards.spec().clone();
        if manifest.settings_hash != spec.settings_hash {
            bail!(
                "{}: is not the manifest of these shards; run `ingest run` again, which writes a \
                 new one",
                path.display()
            );
        }
        let licence = Licence::of(&manifest.dataset, &manifest.license, licence)?;
        Ok(Dataset {
            manifest,
            spec,
            licence,
        })
    }

    /// Returns the dataset's name as its publisher writes it.
    pub fn title(&self) -> &str {
        &self.manifest.title
    }

    /// Returns the file names of the shards.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.manifest.shards.iter().map(|shard| shard.file.as_str())
    }

    /// Returns the splits that have shards, in order, with their totals.
    pub(crate) fn splits(&self) -> impl Iterator<Item = (Split, &Totals)> {
        self.manifest.totals.iter().map(|(split, of)| (*split, of))
    }

    /// Returns the size of the shards of a split in bytes.
    pub(crate) fn bytes_of(&self, split: Split) -> u64 {
        let of_split = self.manifest.shards.iter().filter(|s| s.split == split);
        of_split.map(|shard| shard.bytes).sum()
    }

    /// Returns the size of all shards in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.manifest.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Returns the number of rows of all shards.
    pub(crate) fn rows(&self) -> usize {
        self.manifest.shards.iter().map(|shard| shard.rows).sum()
    }

    pub(crate) fn has(&self, modality: Modality) -> bool {
        self.spec.has(modality)
    }

    /// Describes the dataset in one sentence.
    pub(crate) fn summary(&self) -> String {
        let modalities = self.spec.modalities;
        let missing = match modalities.count() {
            1 => "",
            _ => " A sample may lack one of its modalities.",
        };
        let labels = match self.spec.multi_label {
            true => "any number of",
            false => "one of",
        };
        format!(
            "{}: {} samples of {modalities}, each with {labels} {} classes, as Parquet \
             shards.{missing}",
            self.manifest.title,
            self.rows(),
            self.spec.classes.len()
        )
    }
}
