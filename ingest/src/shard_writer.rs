//! One shard on disk: written whole or not at all, and able to say on its own what it holds.
//!
//! The rows go into a file with a temporary name ([`util::atomic`]); only when that is complete and on the disk does it
//! get its final one.
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
use util::atomic::AtomicFile;

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
    path: PathBuf,
    spec: ShardSpec,
    writer: ArrowWriter<AtomicFile>,
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
        let path = folder.join(name.file_name());
        let file = AtomicFile::create(&path).with_context(|| path.display().to_string())?;
        let writer = ArrowWriter::try_new(file, spec.arrow_schema(), Some(writer_properties(spec)))
            .with_context(|| path.display().to_string())?;
        Ok(Writer {
            path,
            spec: spec.clone(),
            writer,
            summary,
        })
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
                self.writer
                    .write(&batch)
                    .with_context(|| self.path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Completes the shard and gives it its name. Returns what it holds.
    pub fn finish(mut self) -> anyhow::Result<Summary> {
        let json = serde_json::to_string(&self.summary)?;
        self.writer
            .append_key_value_metadata(KeyValue::new(SUMMARY_KEY.to_owned(), json));
        let path = self.path.display();
        let file = self.writer.into_inner().with_context(|| path.to_string())?;
        file.publish().with_context(|| path.to_string())?;
        Ok(self.summary)
    }
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
    let mut names = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    for entry in entries {
        let entry = entry.with_context(|| folder.display().to_string())?;
        names.extend(entry.file_name().to_str().and_then(ShardName::parse));
    }
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
