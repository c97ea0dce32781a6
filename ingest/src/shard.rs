//! One shard on disk: written whole or not at all, and able to say on its own what it holds.
//!
//! The rows go into a file with a temporary name; only when that is complete and on the disk does it get its final one.
//! Beside the rows a shard carries a [`Summary`] in its Parquet key-value metadata: what became of every sample that
//! was to be in it. Manifest and failures are made from these alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use datasets::{Modality, Split};
use features::{Row, ShardName, ShardSpec, record_batch, writer_properties};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::plan::Settings;

/// Parquet metadata key of the [`Summary`].
pub(crate) const SUMMARY_KEY: &str = "u2a.summary";

/// Warnings kept in full per shard; all are counted.
const MAX_WARNINGS: usize = 100;

/// What became of a shard's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The settings it was made with.
    pub settings: Settings,
    /// Hash over its samples as listed.
    pub input_hash: String,
    /// Shards per split of the whole run.
    pub shards: BTreeMap<Split, usize>,
    /// Samples that were to be in it.
    pub samples: usize,
    /// Rows that are.
    pub rows: usize,
    /// Rows per class, by label.
    pub classes: Vec<usize>,
    /// Rows that have each modality.
    pub present: BTreeMap<Modality, usize>,
    /// Rows that lack a modality that should be there.
    pub incomplete: usize,
    /// Why, by modality and cause, quarantined samples included.
    pub causes: BTreeMap<Modality, BTreeMap<String, usize>>,
    /// Samples with nothing left.
    pub quarantined: Vec<Quarantined>,
    /// What went well and still deserves a word, by cause.
    pub warning_causes: BTreeMap<String, usize>,
    /// The first of these warnings.
    pub warnings: Vec<Warning>,
}

/// A sample of which nothing is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its id.
    pub id: String,
    /// Path below the raw root.
    pub source: String,
    /// Class indices.
    pub labels: Vec<u32>,
    /// Why, by modality; empty where the data never had anything.
    pub failures: BTreeMap<Modality, Failure>,
}

/// Something about a row that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// The row's id.
    pub id: String,
    /// Which modality it is about.
    pub modality: Modality,
    /// What.
    pub what: Failure,
}

/// What became of one sample.
pub enum Outcome {
    /// A row, and why it lacks what it lacks.
    Row(Box<Row>, BTreeMap<Modality, Failure>),
    /// Nothing.
    Quarantined(Quarantined),
}

impl Summary {
    /// Of a shard to which nothing was added yet.
    pub fn new(settings: Settings, input_hash: String, shards: BTreeMap<Split, usize>) -> Summary {
        Summary {
            classes: vec![0; settings.classes.len()],
            settings,
            input_hash,
            shards,
            samples: 0,
            rows: 0,
            present: BTreeMap::new(),
            incomplete: 0,
            causes: BTreeMap::new(),
            quarantined: Vec::new(),
            warning_causes: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    fn count(&mut self, failures: &BTreeMap<Modality, Failure>) {
        for (modality, failure) in failures {
            *self
                .causes
                .entry(*modality)
                .or_default()
                .entry(failure.cause.clone())
                .or_default() += 1;
        }
    }

    fn warn(&mut self, warnings: Vec<Warning>) {
        for warning in warnings {
            *self
                .warning_causes
                .entry(warning.what.cause.clone())
                .or_default() += 1;
            if self.warnings.len() < MAX_WARNINGS {
                self.warnings.push(warning);
            }
        }
    }
}

/// A shard being written.
pub struct Writer {
    folder: PathBuf,
    name: ShardName,
    spec: ShardSpec,
    writer: Option<ArrowWriter<File>>,
    summary: Summary,
}

impl Writer {
    /// Begins a shard in a folder.
    pub fn create(
        folder: &Path,
        name: ShardName,
        spec: &ShardSpec,
        summary: Summary,
    ) -> anyhow::Result<Writer> {
        let path = temporary(folder, &name.file_name());
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let writer = ArrowWriter::try_new(file, spec.arrow_schema(), Some(writer_properties(spec)))
            .with_context(|| path.display().to_string());
        // From here on Drop removes the file.
        let mut shard = Writer {
            folder: folder.to_owned(),
            name,
            spec: spec.clone(),
            writer: None,
            summary,
        };
        shard.writer = Some(writer?);
        Ok(shard)
    }

    /// Adds the next sample's outcome.
    pub fn push(&mut self, outcome: Outcome, warnings: Vec<Warning>) -> anyhow::Result<()> {
        self.summary.samples += 1;
        self.summary.warn(warnings);
        match outcome {
            Outcome::Quarantined(sample) => {
                self.summary.count(&sample.failures);
                self.summary.quarantined.push(sample);
            }
            Outcome::Row(row, failures) => {
                self.summary.rows += 1;
                self.summary.incomplete += usize::from(!failures.is_empty());
                self.summary.count(&failures);
                for &label in &row.labels {
                    self.summary.classes[label as usize] += 1;
                }
                for modality in self.spec.modalities {
                    *self.summary.present.entry(modality).or_default() +=
                        usize::from(row.has(modality));
                }
                // One row per batch: the schema's row groups are then the same however rows arrive.
                let batch = record_batch(&self.spec, std::slice::from_ref(&row))?;
                let path = temporary(&self.folder, &self.name.file_name());
                let writer = self
                    .writer
                    .as_mut()
                    .ok_or_else(|| anyhow!("the shard is closed"))?;
                writer
                    .write(&batch)
                    .with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Completes the shard and gives it its name. Returns what it holds.
    pub fn finish(mut self) -> anyhow::Result<Summary> {
        let path = temporary(&self.folder, &self.name.file_name());
        let mut writer = self
            .writer
            .take()
            .ok_or_else(|| anyhow!("the shard is closed"))?;
        let json = serde_json::to_string(&self.summary)?;
        writer.append_key_value_metadata(KeyValue::new(SUMMARY_KEY.to_owned(), json));
        let file = writer
            .into_inner()
            .with_context(|| path.display().to_string())?;
        publish(file, &path, &self.folder.join(self.name.file_name()))?;
        Ok(self.summary.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Gone already where the shard was finished.
        drop(fs::remove_file(temporary(
            &self.folder,
            &self.name.file_name(),
        )));
    }
}

/// Writes a small file whole or not at all.
pub fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    let path = temporary(folder, name);
    let written = File::create(&path).and_then(|mut file| file.write_all(bytes).map(|()| file));
    let done = written
        .with_context(|| path.display().to_string())
        .and_then(|file| publish(file, &path, &folder.join(name)));
    if done.is_err() {
        drop(fs::remove_file(&path));
    }
    done
}

/// Where a file lies until it is whole. The name begins with a dot and ends with none of the endings that readers of a
/// folder look for.
pub fn temporary(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.tmp"))
}

/// Removes what a killed run has left of these temporary names.
pub fn sweep(folder: &Path, mine: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for path in list(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let inner = name.and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp"));
        if inner.is_some_and(&mine) {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The same for the masks, whose temporary names are `features`' own. Only for who has the folder for himself.
pub fn sweep_masks(folder: &Path) -> anyhow::Result<()> {
    for path in list(&folder.join("masks"))? {
        if path.extension().is_some_and(|ending| ending == "tmp") {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The entries of a folder; of one that is not there, none.
fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>();
    paths.with_context(|| folder.display().to_string())
}

/// Data to the disk, then the name, then the name to the disk.
fn publish(file: File, from: &Path, to: &Path) -> anyhow::Result<()> {
    let publish = || {
        file.sync_all()?;
        drop(file);
        fs::rename(from, to)?;
        match to.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    publish().with_context(|| to.display().to_string())
}

/// A shard that is there.
#[derive(Debug)]
pub struct Finished {
    /// Its name.
    pub name: ShardName,
    /// Its schema's settings.
    pub spec: ShardSpec,
    /// What it says of itself.
    pub summary: Summary,
}

/// Reads the footers of all shards in a folder, in order. An absent folder has none.
pub fn survey(folder: &Path) -> anyhow::Result<Vec<Finished>> {
    let paths = list(folder)?;
    let name = |path: &PathBuf| ShardName::parse(path.file_name()?.to_str()?);
    let mut names: Vec<ShardName> = paths.iter().filter_map(name).collect();
    names.sort();
    names.into_iter().map(|name| read(folder, name)).collect()
}

fn read(folder: &Path, name: ShardName) -> anyhow::Result<Finished> {
    let path = folder.join(name.file_name());
    let remedy = "delete it and start again, or use --overwrite";
    let damaged = |problem: &dyn std::fmt::Display| {
        anyhow!(
            "{}: this shard cannot be read ({problem}); {remedy}",
            path.display()
        )
    };
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
        .map_err(|error| damaged(&error))?;
    let spec = ShardSpec::from_schema(metadata.schema()).map_err(|error| damaged(&error))?;
    let pairs = metadata.metadata().file_metadata().key_value_metadata();
    let summary = pairs
        .into_iter()
        .flatten()
        .find(|pair| pair.key == SUMMARY_KEY)
        .and_then(|pair| pair.value.as_deref())
        .ok_or_else(|| damaged(&"it has no summary"))?;
    let summary: Summary = serde_json::from_str(summary).map_err(|error| damaged(&error))?;
    if metadata.metadata().file_metadata().num_rows() as usize != summary.rows {
        bail!(damaged(&"its rows are not those of its summary"));
    }
    Ok(Finished {
        name,
        spec,
        summary,
    })
}
