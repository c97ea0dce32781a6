//! What a finished run leaves beside its shards: `failures.parquet`, the standard masks, and last `manifest.json`.
//!
//! Made from the shards alone, so it is the same whoever makes it, after however many interruptions. No clock, no host
//! name, no absolute path goes in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use datasets::{Info, Modality, Split};
use features::mask::{self, Mask, Protocol};
use features::{FAILURES_FILE, MANIFEST_FILE, Shards};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use crate::plan::Settings;
use crate::shard_writer::{self, Finished, Warning};

/// Seeds of the masks that every run gets: the paper's tables report three.
const STANDARD_SEEDS: [u64; 3] = [0, 1, 2];

/// Warnings listed in full.
const MAX_WARNINGS: usize = 1000;

/// The whole output in one document.
#[derive(Debug, Serialize)]
pub struct Manifest {
    /// Version of the program that made the shards.
    pub tool_version: String,
    /// Version of the column layout.
    pub schema_version: u32,
    /// The dataset's name.
    pub dataset: String,
    /// The name people write.
    pub title: String,
    /// Under which terms the data lies around.
    pub license: String,
    /// (m1, m2).
    pub modalities: [Modality; 2],
    /// Hash over `settings`.
    pub settings_hash: String,
    /// What the bytes depend on.
    pub settings: Settings,
    /// The shards, by split and number.
    pub shards: Vec<ShardEntry>,
    /// What the splits hold.
    pub totals: BTreeMap<Split, Totals>,
    /// What is missing that should be there.
    pub failures: Failures,
    /// What went well and still deserves a word.
    pub warnings: Warnings,
}

/// One shard.
#[derive(Debug, Serialize)]
pub struct ShardEntry {
    /// File name.
    pub file: String,
    /// Its split.
    pub split: Split,
    /// Rows in it.
    pub rows: usize,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// One split.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    /// Samples in the annotation.
    pub samples: usize,
    /// Rows in the shards.
    pub rows: usize,
    /// Samples of which nothing is left: `samples - rows`.
    pub quarantined: usize,
    /// Rows that lack a modality that should be there.
    pub incomplete: usize,
    /// Rows that have each modality.
    pub present: BTreeMap<Modality, usize>,
    /// Rows per class, in the classes' order.
    pub classes: Vec<ClassCount>,
}

/// Rows of one class.
#[derive(Debug, Serialize)]
pub struct ClassCount {
    /// The class.
    pub name: String,
    /// Its rows; a row counts once for each of its labels.
    pub rows: usize,
}

/// What is missing that should be there.
#[derive(Debug, Default, Serialize)]
pub struct Failures {
    /// Samples with nothing left; they are in `failures.parquet`.
    pub quarantined: usize,
    /// Rows that lack a modality; their `error` column says why.
    pub incomplete: usize,
    /// Both kinds by modality and cause.
    pub causes: BTreeMap<Modality, BTreeMap<String, usize>>,
}

/// What went well and still deserves a word.
#[derive(Debug, Default, Serialize)]
pub struct Warnings {
    /// How many of each sort.
    pub causes: BTreeMap<String, usize>,
    /// The first ones.
    pub first: Vec<Warning>,
}

/// Adds the shards up and writes everything that belongs beside them into the folder, the manifest last.
pub fn write(
    folder: &Path,
    info: &Info,
    finished: &[Finished],
) -> anyhow::Result<Option<Manifest>> {
    let Some(first) = finished.first() else {
        return Ok(None);
    };
    write_failures(folder, info, finished)?;
    let mut manifest = Manifest {
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
    };
    for shard in finished {
        let path = folder.join(shard.name.file_name());
        let (bytes, sha256) =
            util::hash::sha256_of_file(&path).with_context(|| path.display().to_string())?;
        let summary = &shard.summary;
        manifest.shards.push(ShardEntry {
            file: shard.name.file_name(),
            split: shard.name.split,
            rows: summary.rows,
            bytes,
            sha256,
        });
        let totals = manifest
            .totals
            .entry(shard.name.split)
            .or_insert_with(|| Totals {
                classes: shard
                    .spec
                    .classes
                    .iter()
                    .map(|name| ClassCount {
                        name: name.clone(),
                        rows: 0,
                    })
                    .collect(),
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
        manifest.failures.quarantined += summary.quarantined.len();
        manifest.failures.incomplete += summary.incomplete;
        for (modality, causes) in &summary.causes {
            add(
                manifest.failures.causes.entry(*modality).or_default(),
                causes,
            );
        }
        add(&mut manifest.warnings.causes, &summary.warning_causes);
        let room = MAX_WARNINGS - manifest.warnings.first.len();
        manifest
            .warnings
            .first
            .extend(summary.warnings.iter().take(room).cloned());
    }
    if manifest.shards.iter().any(|shard| shard.rows > 0) {
        write_masks(folder)?;
    }
    let mut json = serde_json::to_vec_pretty(&manifest)?;
    json.push(b'\n');
    write_file(folder, MANIFEST_FILE, &json)?;
    Ok(Some(manifest))
}

fn add<K: Ord + Clone>(sum: &mut BTreeMap<K, usize>, more: &BTreeMap<K, usize>) {
    for (key, count) in more {
        *sum.entry(key.clone()).or_default() += count;
    }
}

/// One row per sample with nothing left: id, split, source, the whole sentence, and one reason per modality.
fn write_failures(folder: &Path, info: &Info, finished: &[Finished]) -> anyhow::Result<()> {
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
    for modality in info.modalities {
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
    write_file(folder, FAILURES_FILE, &bytes)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let path = folder.join(name);
    util::atomic::write(&path, bytes).with_context(|| path.display().to_string())
}

/// The masks of every protocol that the dataset has, at the rate and for the seeds of the paper's tables.
fn write_masks(folder: &Path) -> anyhow::Result<()> {
    let shards = Shards::open(folder)?;
    for protocol in Protocol::of(shards.spec().modalities) {
        for seed in STANDARD_SEEDS {
            let path = Mask::path_in(folder, protocol, mask::RATE, seed);
            Mask::draw(&shards, protocol, mask::RATE, seed)?.write(&path)?;
        }
    }
    Ok(())
}

/// Removes manifest and failures, which speak of shards that are about to change.
pub fn remove(folder: &Path) -> anyhow::Result<()> {
    for name in [MANIFEST_FILE, FAILURES_FILE] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
    }
    Ok(())
}
