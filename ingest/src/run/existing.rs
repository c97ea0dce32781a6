//! The shards that an earlier run has finished, and whether this run may continue with them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use features::ShardName;
use serde_json::Value;

use crate::contents::comparison::{Comparison, Finding};
use crate::contents::index;
use crate::manifest;
use crate::output::Output;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::shard_writer::{self, Finished};

/// The file with the settings of the runs into a folder of an object store.
const SETTINGS_FILE: &str = ".settings.json";

/// What to do about shards that this run cannot continue.
const REMEDY: &str = "use --overwrite to start over, or choose another --out";

/// Reads the summaries of the shards in the output folder.
///
/// # Errors
/// A shard cannot be read, or is of another dataset, of other settings or not part of this plan.
pub fn finished_shards(plan: &Plan, output: &Output) -> anyhow::Result<Vec<Finished>> {
    let finished = shard_writer::read_summaries(output)?;
    for shard in &finished {
        let file = shard.name.file_name();
        if shard.summary.settings.dataset != plan.settings.dataset {
            let other = &shard.summary.settings.dataset;
            bail!(
                "{output}: {file} is of dataset {other}, not {}; {REMEDY}",
                plan.settings.dataset
            );
        }
        if shard.spec.settings_hash != plan.hash {
            let old = serde_json::to_value(&shard.summary.settings)?;
            let difference = first_difference(&old, &serde_json::to_value(&plan.settings)?);
            bail!("{output}: {file} was made with other settings ({difference}); {REMEDY}");
        }
        if !plan.shards.iter().any(|planned| planned.name == shard.name) {
            bail!(
                "{output}: {file} is not one of this run's shards, because the number of samples has changed; {REMEDY}"
            );
        }
    }
    Ok(finished)
}

/// Claims a folder in an object store for runs with the settings of this plan. A store has no locks,
/// so two runs with the same settings may be writing at once, and write the same bytes. Does nothing
/// for a folder on a disk, which is locked.
///
/// # Errors
/// A run with other settings has begun before, and this one does not start over.
pub fn claim(plan: &Plan, output: &Output, start_over: bool) -> anyhow::Result<()> {
    let json = serde_json::to_vec(&plan.settings)?;
    if !output.is_remote() {
        return Ok(());
    }
    if start_over {
        return output.write(SETTINGS_FILE, &json);
    }
    // Of two runs that begin at once, the store lets one write.
    if output.write_new(SETTINGS_FILE, &json)? {
        return Ok(());
    }
    let old = output.read(SETTINGS_FILE)?.unwrap_or_default();
    if old == json {
        return Ok(());
    }
    let path = || format!("{} is damaged; {REMEDY}", output.describe(SETTINGS_FILE));
    let old: Value = serde_json::from_slice(&old).with_context(path)?;
    let difference = first_difference(&old, &serde_json::to_value(&plan.settings)?);
    bail!("{output}: a run with other settings has begun here ({difference}); {REMEDY}")
}

/// Describes the first setting in which two runs differ.
fn first_difference(old: &Value, new: &Value) -> String {
    let first = old
        .as_object()
        .into_iter()
        .flatten()
        .find_map(|(key, old)| {
            let new = new.get(key)?;
            let short = |value: &Value| value.to_string().chars().take(60).collect::<String>();
            (old != new).then(|| format!("{key} {}, now {}", short(old), short(new)))
        });
    first.unwrap_or_else(|| "an unknown difference".to_owned())
}

/// What [`stale`] may do.
#[derive(Debug, Clone, Copy)]
pub struct StaleOptions {
    /// Whether stale shards are going to be replaced. Otherwise they are an error.
    pub update: bool,
    /// Whether nothing may be written.
    pub dry_run: bool,
}

/// Returns the finished shards whose samples are listed differently now, and those for which
/// `is_own` holds whose files have other contents now, each with the reason in words.
///
/// # Errors
/// There are such shards, and `update` is not set; what is remembered of files cannot be written.
pub fn stale(
    plan: &Plan,
    finished: &[Finished],
    raw: &Path,
    output: &Output,
    is_own: impl Fn(ShardName) -> bool,
    options: StaleOptions,
) -> anyhow::Result<BTreeMap<ShardName, String>> {
    let planned: BTreeMap<_, _> = plan
        .shards
        .iter()
        .map(|shard| (shard.name, shard))
        .collect();
    let mut stale = BTreeMap::new();
    let mut comparisons = Vec::new();
    for shard in finished {
        match planned.get(&shard.name) {
            Some(now) if now.input_hash == shard.summary.input_hash => {
                if is_own(shard.name) {
                    let hash = &shard.summary.content_hash;
                    comparisons.push((shard.name, Comparison::start(raw, output, now, hash)));
                }
            }
            _ => {
                let reason = "other samples or files are listed".to_owned();
                stale.insert(shard.name, reason);
            }
        }
    }
    let files: usize = comparisons.iter().map(|(_, one)| one.files_to_read()).sum();
    let mut progress = (files > 0).then(|| Progress::start("comparing files", files as u64));
    for (name, comparison) in comparisons {
        let step = || {
            if let Some(progress) = &mut progress {
                progress.step(String::new);
            }
        };
        match comparison.finish(raw, step) {
            Finding::Same(None) => {}
            Finding::Same(Some(index)) => {
                if !options.dry_run {
                    index.write(output, name)?;
                }
            }
            Finding::Changed(file) => {
                let file = file
                    .as_deref()
                    .map_or("a file".into(), Path::to_string_lossy);
                stale.insert(name, format!("{file} has changed"));
            }
        }
    }
    if let Some(progress) = progress {
        progress.finish("");
    }
    match stale.first_key_value() {
        Some((first, reason)) if !options.update => bail!(
            "{output}: the raw data has changed since {} of the shards were made (the first is {}: {reason}); --update \
             replaces those, --overwrite all",
            stale.len(),
            first.file_name()
        ),
        _ => Ok(stale),
    }
}

/// Removes all shards, what is remembered of their files, the manifest and the table of failures.
///
/// # Errors
/// A file cannot be removed.
pub fn remove_all(output: &Output) -> anyhow::Result<()> {
    manifest::remove(output)?;
    output.remove_shards(&[index::FOLDER])
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use datasets::{Info, Input, ListOptions, Listing, Modalities, Modality, Sample, Split};
    use features::{MelDtype, SCHEMA_VERSION};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::KeyValue;

    use super::*;
    use crate::plan::{self, Choices, Segment, Settings};

    fn plan() -> Plan {
        let info = Info {
            name: "clips".into(),
            title: "Clips".into(),
            modalities: Modalities::Two(Modality::Audio, Modality::Video),
            classes: vec!["one".into()],
            multi_label: false,
            expected: [None; 3],
            license: "none".into(),
        };
        let input = Input::Files(vec!["a.mp4".into()]);
        let sample = Sample {
            id: "a".into(),
            split: Split::Train,
            labels: vec![0],
            inputs: vec![input.clone(), input],
            source: "a.mp4".into(),
            segment: None,
        };
        let listing = Listing {
            layout: "test".into(),
            samples: vec![sample],
            notes: Vec::new(),
        };
        let choices = Choices {
            mel_dtype: MelDtype::F32,
            frame_pool: 3,
            segment: Segment::Clip,
            shard_rows: 8,
            limit: None,
            listing: ListOptions::default(),
        };
        plan::plan(&info, listing, &choices)
    }

    /// Writes a shard without rows, as a version of this tool with these settings would.
    fn write_shard(out: &Path, plan: &Plan, settings: Settings) {
        let mut spec = plan.spec.clone();
        spec.settings_hash = plan::hash_json(&settings);
        let mut schema = spec.arrow_schema().as_ref().clone();
        let version = settings.schema_version.to_string();
        schema.metadata.insert("u2a.schema_version", version);
        let shard = &plan.shards[0];
        let file = File::create(out.join(shard.name.file_name())).unwrap();
        let mut writer = ArrowWriter::try_new(file, Arc::new(schema), None).unwrap();
        let summary =
            shard_writer::Summary::new(settings, shard.input_hash.clone(), plan.shards_per_split());
        let summary = serde_json::to_string(&summary).unwrap();
        writer.append_key_value_metadata(KeyValue::new(
            shard_writer::SUMMARY_KEY.to_owned(),
            summary,
        ));
        writer.close().unwrap();
    }

    /// One folder must not hold bytes of two formats.
    #[test]
    fn shards_of_an_older_format_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan();
        let settings = &plan.settings;
        assert_eq!(settings.schema_version, SCHEMA_VERSION);
        let output = Output::new(folder.path().into());
        write_shard(folder.path(), &plan, settings.clone());
        assert_eq!(finished_shards(&plan, &output).unwrap().len(), 1);

        let older = Settings {
            schema_version: SCHEMA_VERSION - 1,
            ..settings.clone()
        };
        write_shard(folder.path(), &plan, older);
        let error = finished_shards(&plan, &output).unwrap_err().to_string();
        let versions = format!(
            "schema_version {}, now {SCHEMA_VERSION}",
            SCHEMA_VERSION - 1
        );
        assert!(error.contains(&versions), "{error}");
        assert!(error.contains("--overwrite"), "{error}");
    }
}
