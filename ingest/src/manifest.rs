//! The files beside finished shards: `failures.parquet`, the standard masks and, last,
//! `manifest.json`.
//!
//! They are made from the shards alone, so they have the same bytes whichever run makes them and
//! however often runs were interrupted. They hold no clock time, no host name and no absolute path.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use datasets::{Info, InputName, Modalities, Split};
use features::mask::{self, Mask, Protocol};
use features::{FAILURES_FILE, MANIFEST_FILE, Shards};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use crate::output::Output;
use crate::plan::Settings;
use crate::shard_writer::{self, Finished, Warning};

/// Seeds of the masks that every run writes. The paper's tables report three.
const STANDARD_SEEDS: [u64; 3] = [0, 1, 2];

/// Limit on the warnings that are listed. All of them are counted.
const MAX_WARNINGS: usize = 1000;

/// The contents of `manifest.json`.
#[derive(Debug, Serialize)]
pub struct Manifest {
    /// The version of the program that made the shards.
    pub tool_version: String,
    /// The version of the shard format.
    pub schema_version: u32,
    /// The dataset's name.
    pub dataset: String,
    /// The dataset's name as its publisher writes it.
    pub title: String,
    /// The licence of the data.
    pub license: String,
    /// The modalities, one or two.
    pub modalities: Modalities,
    /// SHA-256 of `settings`, in hexadecimal.
    pub settings_hash: String,
    /// The settings that the bytes depend on.
    pub settings: Settings,
    /// The shards, in the order of split and number.
    pub shards: Vec<ShardEntry>,
    /// The totals of each split.
    pub totals: BTreeMap<Split, Totals>,
    /// Modalities that should be there and are missing.
    pub failures: Failures,
    /// Problems that did not cost a modality.
    pub warnings: Warnings,
}

/// One shard in the manifest.
#[derive(Debug, Serialize)]
pub struct ShardEntry {
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
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    /// The number of samples in the annotation.
    pub samples: usize,
    /// The number of rows in the shards.
    pub rows: usize,
    /// The number of samples without any modality: `samples - rows`.
    pub quarantined: usize,
    /// The number of rows that lack a modality that should be there.
    pub incomplete: usize,
    /// The number of rows with each modality.
    pub present: BTreeMap<InputName, usize>,
    /// The number of rows of each class, in the order of the classes.
    pub classes: Vec<ClassCount>,
}

/// The rows of one class.
#[derive(Debug, Serialize)]
pub struct ClassCount {
    /// The class's name.
    pub name: String,
    /// The number of rows. A row counts once for each of its labels.
    pub rows: usize,
}

/// Modalities that should be there and are missing.
#[derive(Debug, Default, Serialize)]
pub struct Failures {
    /// The number of samples without any modality, which are in `failures.parquet`.
    pub quarantined: usize,
    /// The number of rows that lack a modality. Their `error` column holds the reason.
    pub incomplete: usize,
    /// The failures of both by modality and cause.
    pub causes: BTreeMap<InputName, BTreeMap<String, usize>>,
}

/// Problems that did not cost a modality.
#[derive(Debug, Default, Serialize)]
pub struct Warnings {
    /// The number of warnings, by cause.
    pub causes: BTreeMap<String, usize>,
    /// The first [`MAX_WARNINGS`] warnings.
    pub first: Vec<Warning>,
}

impl Manifest {
    /// A manifest without shards, with the settings of a run's first one.
    fn without_shards(info: &Info, first: &Finished) -> Manifest {
        Manifest {
            tool_version: first.spec.tool_version.clone(),
            schema_version: first.summary.settings.schema_version,
            dataset: first.spec.dataset.clone(),
            title: info.title.clone(),
            license: info.license.clone(),
            modalities: first.spec.modalities,
            settings_hash: first.spec.settings_hash.clone(),
            settings: first.summary.settings.clone(),
            shards: Vec::new(),
            totals: BTreeMap::new(),
            failures: Failures::default(),
            warnings: Warnings::default(),
        }
    }

    /// Adds a shard, whose file has this size and SHA-256, to the list and to all totals.
    fn add_shard(&mut self, shard: &Finished, bytes: u64, sha256: String) {
        let summary = &shard.summary;
        self.shards.push(ShardEntry {
            file: shard.name.file_name(),
            split: shard.name.split,
            rows: summary.rows,
            bytes,
            sha256,
        });
        let no_rows = |name: &String| ClassCount {
            name: name.clone(),
            rows: 0,
        };
        let totals = self
            .totals
            .entry(shard.name.split)
            .or_insert_with(|| Totals {
                classes: shard.spec.classes.iter().map(no_rows).collect(),
                ..Totals::default()
            });
        totals.samples += summary.samples;
        totals.rows += summary.rows;
        totals.quarantined += summary.quarantined.len();
        totals.incomplete += summary.incomplete;
        add(&mut totals.present, &summary.present);
        for (count, rows) in totals.classes.iter_mut().zip(&summary.classes) {
            count.rows += rows;
        }
        self.failures.quarantined += summary.quarantined.len();
        self.failures.incomplete += summary.incomplete;
        for (modality, causes) in &summary.causes {
            add(self.failures.causes.entry(*modality).or_default(), causes);
        }
        add(&mut self.warnings.causes, &summary.warning_causes);
        let room = MAX_WARNINGS - self.warnings.first.len();
        let listed = summary.warnings.iter().take(room).cloned();
        self.warnings.first.extend(listed);
    }
}

/// Writes the files that belong beside the shards, the manifest last. Returns `None` if there are
/// no shards.
///
/// # Errors
/// A shard cannot be read, or a file cannot be written.
pub fn write(
    output: &Output,
    info: &Info,
    finished: &[Finished],
) -> anyhow::Result<Option<Manifest>> {
    let Some(first) = finished.first() else {
        return Ok(None);
    };
    write_failures(output, info, finished)?;
    let mut manifest = Manifest::without_shards(info, first);
    let hashes = output
        .folder()
        .map(finished, |shard| output.size_and_sha256(&shard.stored))?;
    for (shard, (bytes, sha256)) in finished.iter().zip(hashes) {
        manifest.add_shard(shard, bytes, sha256);
    }
    if manifest.shards.iter().any(|shard| shard.rows > 0) {
        write_masks(output)?;
    }
    let mut json = serde_json::to_vec_pretty(&manifest)?;
    json.push(b'\n');
    output.write(MANIFEST_FILE, &json)?;
    Ok(Some(manifest))
}

/// Adds the counts of `more` to those of `sum`.
fn add<K: Ord + Clone>(sum: &mut BTreeMap<K, usize>, more: &BTreeMap<K, usize>) {
    for (key, count) in more {
        *sum.entry(key.clone()).or_default() += count;
    }
}

/// Writes `failures.parquet`. It has a row for each sample without any modality: id, split, source
/// and the failure of each modality.
fn write_failures(output: &Output, info: &Info, finished: &[Finished]) -> anyhow::Result<()> {
    let all = || {
        finished.iter().flat_map(|shard| {
            shard
                .summary
                .quarantined
                .iter()
                .map(|one| (shard.name.split, one))
        })
    };
    let required = |name: &str| Field::new(name, DataType::Utf8, false);
    let mut fields = vec![required("id"), required("split"), required("source")];
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(all().map(|(_, one)| Some(&one.id)).collect::<StringArray>()),
        Arc::new(
            all()
                .map(|(split, _)| Some(split.as_str()))
                .collect::<StringArray>(),
        ),
        Arc::new(
            all()
                .map(|(_, one)| Some(&one.source))
                .collect::<StringArray>(),
        ),
    ];
    for modality in info.modalities.names() {
        fields.push(Field::new(
            format!("{modality}_error"),
            DataType::Utf8,
            true,
        ));
        let reason = |(_, one): (Split, &shard_writer::Quarantined)| {
            one.failures.get(&modality).map(ToString::to_string)
        };
        columns.push(Arc::new(all().map(reason).collect::<StringArray>()));
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    let properties = WriterProperties::builder()
        .set_created_by(format!("u2a {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    output.write(FAILURES_FILE, &bytes)
}

/// Writes the masks of all protocols that the dataset has, with the rate and the seeds of the
/// paper's tables.
fn write_masks(output: &Output) -> anyhow::Result<()> {
    let shards = Shards::open(output.folder())?;
    for protocol in Protocol::of(shards.spec().modalities) {
        for seed in STANDARD_SEEDS {
            let mask = Mask::draw(&shards, protocol, mask::RATE, seed)?;
            output.write(&Mask::name(protocol, mask::RATE, seed), &mask.encode()?)?;
        }
    }
    Ok(())
}

/// Removes the manifest and the table of failures, because the shards are about to change.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(output: &Output) -> anyhow::Result<()> {
    [MANIFEST_FILE, FAILURES_FILE]
        .into_iter()
        .try_for_each(|name| output.remove(name))
}
