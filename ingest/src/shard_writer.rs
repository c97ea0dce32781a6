//! Shards on disk. A shard is written whole or not at all, and describes its own contents.
//!
//! The rows go into a file without a name ([`crate::output`]), which gets its name when it is
//! complete. Beside the rows a shard has a [`Summary`] in its Parquet
//! key-value metadata, which says what became of every sample that was planned for it. The manifest
//! and the table of failures are made from the summaries alone.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail};
use datasets::{InputName, Split};
use features::{Row, ShardName, ShardSpec, record_batch, writer_properties};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};

use crate::contents::index::Index;
use crate::failure::Failure;
use crate::output::{Output, ShardFile, StoredShard};
use crate::plan::Settings;

/// Key of the [`Summary`] in the Parquet metadata.
pub(crate) const SUMMARY_KEY: &str = "u2a.summary";

/// Limit on the warnings that a summary lists. All of them are counted.
const MAX_WARNINGS: usize = 100;

/// What became of the samples of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The settings of the run.
    pub settings: Settings,
    /// SHA-256 of the samples as listed, in hexadecimal.
    pub input_hash: String,
    /// SHA-256 of the contents of the samples' files, in hexadecimal. Empty in shards of schema
    /// version 2 and before.
    #[serde(default)]
    pub content_hash: String,
    /// The number of shards of each split in the whole run.
    pub shards: BTreeMap<Split, usize>,
    /// The number of samples that were planned for the shard.
    pub samples: usize,
    /// The number of rows.
    pub rows: usize,
    /// The number of rows of each class, by label.
    pub classes: Vec<usize>,
    /// The number of rows with each modality.
    pub present: BTreeMap<InputName, usize>,
    /// The number of rows that lack a modality that should be there.
    pub incomplete: usize,
    /// Failures by modality and cause, those of quarantined samples included.
    pub causes: BTreeMap<InputName, BTreeMap<String, usize>>,
    /// The samples without any modality, which have no row.
    pub quarantined: Vec<Quarantined>,
    /// The number of warnings, by cause.
    pub warning_causes: BTreeMap<String, usize>,
    /// The first [`MAX_WARNINGS`] warnings.
    pub warnings: Vec<Warning>,
}

/// A sample without any modality, which gets no row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The sample's id.
    pub id: String,
    /// The path below the raw root.
    pub source: String,
    /// The class indices.
    pub labels: Vec<u32>,
    /// Failures by modality. Empty if the data never had any.
    pub failures: BTreeMap<InputName, Failure>,
}

/// A problem of a row that did not cost a modality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// The sample's id.
    pub id: String,
    /// The input with the problem.
    pub modality: InputName,
    /// The problem.
    #[serde(rename = "what")]
    pub problem: Failure,
}

/// What became of one sample.
pub enum Outcome {
    /// A row, and the failures of the modalities that it lacks.
    Row(Box<Row>, BTreeMap<InputName, Failure>),
    /// No row.
    Quarantined(Quarantined),
}

impl Summary {
    /// The summary of a shard without samples.
    pub fn new(settings: Settings, input_hash: String, shards: BTreeMap<Split, usize>) -> Summary {
        Summary {
            classes: vec![0; settings.classes.len()],
            settings,
            input_hash,
            content_hash: String::new(),
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

    fn count(&mut self, failures: &BTreeMap<InputName, Failure>) {
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
                .entry(warning.problem.cause.clone())
                .or_default() += 1;
            if self.warnings.len() < MAX_WARNINGS {
                self.warnings.push(warning);
            }
        }
    }
}

/// A shard that is being written.
pub struct ShardWriter {
    output: Output,
    name: ShardName,
    spec: ShardSpec,
    writer: ArrowWriter<ShardFile>,
    summary: Summary,
    sources: Index,
}

impl ShardWriter {
    /// Creates a shard, which has no name until [`ShardWriter::finish`].
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(
        output: &Output,
        name: ShardName,
        spec: &ShardSpec,
        summary: Summary,
    ) -> anyhow::Result<ShardWriter> {
        let file = output.create_shard(name)?;
        let writer = ArrowWriter::try_new(file, spec.arrow_schema(), Some(writer_properties(spec)))
            .with_context(|| output.describe(&name.file_name()))?;
        Ok(ShardWriter {
            output: output.clone(),
            name,
            spec: spec.clone(),
            writer,
            summary,
            sources: Index::default(),
        })
    }

    /// Adds the next sample.
    ///
    /// # Errors
    /// The file cannot be written.
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
                for (input, content) in self.spec.modalities.names().zip(&row.contents) {
                    *self.summary.present.entry(input).or_default() +=
                        usize::from(content.is_some());
                }
                // A batch of one row makes the row groups depend on the rows alone.
                let batch = record_batch(&self.spec, std::slice::from_ref(&row))?;
                self.writer
                    .write(&batch)
                    .with_context(|| self.output.describe(&self.name.file_name()))?;
            }
        }
        Ok(())
    }

    /// Sets the contents of the files that the shard was made from.
    pub fn set_sources(&mut self, sources: Index) {
        self.summary.content_hash = sources.content_hash();
        self.sources = sources;
    }

    /// Completes the shard and gives it its final name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        // An index without its shard does no harm: a shard is judged by its own hash.
        self.sources.write(&self.output, self.name)?;
        let json = serde_json::to_string(&self.summary)?;
        self.writer
            .append_key_value_metadata(KeyValue::new(SUMMARY_KEY.to_owned(), json));
        let path = || self.output.describe(&self.name.file_name());
        let file = self.writer.into_inner().with_context(path)?;
        file.publish()
    }
}

/// A shard with its final name.
#[derive(Debug)]
pub struct Finished {
    /// The shard's name.
    pub name: ShardName,
    /// The file.
    pub stored: StoredShard,
    /// What its schema says.
    pub spec: ShardSpec,
    /// What became of its samples.
    pub summary: Summary,
}

/// Reads the summaries of all finished shards, in order.
///
/// # Errors
/// The folder or a shard cannot be read.
pub fn read_summaries(output: &Output) -> anyhow::Result<Vec<Finished>> {
    output
        .folder()
        .map(&output.shards()?, |shard| read_summary(output, shard))
}

fn read_summary(output: &Output, shard: &StoredShard) -> anyhow::Result<Finished> {
    let remedy = "delete it and repeat the command, or use --overwrite";
    let damaged = |problem: &dyn std::fmt::Display| {
        anyhow!(
            "{}: this shard cannot be read ({problem}); {remedy}",
            output.describe(&shard.entry.name)
        )
    };
    let file = output.open(shard)?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(
        |error| match error {
            // The store does not answer, which says nothing about the shard.
            ParquetError::External(cause) => match cause.downcast::<features::Error>() {
                Ok(error) => (*error).into(),
                Err(cause) => damaged(&cause),
            },
            error => damaged(&error),
        },
    )?;
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
        bail!(damaged(&"its summary has another number of rows"));
    }
    Ok(Finished {
        name: shard.name,
        stored: shard.clone(),
        spec,
        summary,
    })
}
