//! The shards that an earlier run has finished, and whether this run may continue with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};

use crate::manifest;
use crate::plan::{self, Plan};
use crate::shard_writer::{self, Finished};

/// Reads the summaries of the shards in the output folder.
///
/// # Errors
/// A shard cannot be read, or is of another dataset, of other settings or not part of this plan.
pub fn finished_shards(plan: &Plan, out: &Path) -> anyhow::Result<Vec<Finished>> {
    let finished = shard_writer::read_summaries(out)?;
    let remedy = "use --overwrite to start over, or choose another --out";
    for shard in &finished {
        let file = shard.name.file_name();
        if shard.summary.settings.dataset != plan.settings.dataset {
            let other = &shard.summary.settings.dataset;
            bail!(
                "{}: {file} is of dataset {other}, not {}; {remedy}",
                out.display(),
                plan.settings.dataset
            );
        }
        if shard.spec.settings_hash != plan.hash {
            let difference = first_difference(&shard.summary.settings, &plan.settings)?;
            bail!(
                "{}: {file} was made with other settings ({difference}); {remedy}",
                out.display()
            );
        }
        if !plan.shards.iter().any(|planned| planned.name == shard.name) {
            bail!(
                "{}: {file} is not one of this run's shards, because the number of samples has changed; {remedy}",
                out.display()
            );
        }
    }
    Ok(finished)
}

/// Describes the first setting in which two runs differ.
fn first_difference(old: &plan::Settings, new: &plan::Settings) -> anyhow::Result<String> {
    let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    let first = old
        .as_object()
        .into_iter()
        .flatten()
        .find_map(|(key, old)| {
            let new = new.get(key)?;
            let short =
                |value: &serde_json::Value| value.to_string().chars().take(60).collect::<String>();
            (old != new).then(|| format!("{key} {}, now {}", short(old), short(new)))
        });
    Ok(first.unwrap_or_else(|| "an unknown difference".to_owned()))
}

/// Returns the finished shards whose samples are listed differently now.
///
/// # Errors
/// There are such shards, and `update` is not set.
pub fn stale(
    plan: &Plan,
    finished: &[Finished],
    update: bool,
    out: &Path,
) -> anyhow::Result<BTreeSet<features::ShardName>> {
    let hashes: BTreeMap<_, _> = plan
        .shards
        .iter()
        .map(|shard| (shard.name, &shard.input_hash))
        .collect();
    let stale: BTreeSet<_> = finished
        .iter()
        .filter(|shard| hashes.get(&shard.name) != Some(&&shard.summary.input_hash))
        .map(|shard| shard.name)
        .collect();
    match stale.first() {
        Some(first) if !update => bail!(
            "{}: the raw data has changed since {} of the shards were made (the first is {}); --update replaces those, \
             --overwrite all",
            out.display(),
            stale.len(),
            first.file_name()
        ),
        _ => Ok(stale),
    }
}

/// Removes all shards, the manifest and the table of failures.
pub fn remove_all(out: &Path) -> anyhow::Result<()> {
    manifest::remove(out)?;
    for entry in fs::read_dir(out).with_context(|| out.display().to_string())? {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .and_then(features::ShardName::parse)
            .is_some()
        {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use datasets::{Info, Input, ListOptions, Listing, Modality, Sample, Split};
    use features::{MelDtype, SCHEMA_VERSION};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::KeyValue;

    use super::*;
    use crate::plan::{Choices, Segment, Settings};

    fn plan() -> Plan {
        let info = Info {
            name: "clips".into(),
            title: "Clips".into(),
            modalities: [Modality::Audio, Modality::Video],
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
            inputs: [input.clone(), input],
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
        write_shard(folder.path(), &plan, settings.clone());
        assert_eq!(finished_shards(&plan, folder.path()).unwrap().len(), 1);

        let older = Settings {
            schema_version: SCHEMA_VERSION - 1,
            ..settings.clone()
        };
        write_shard(folder.path(), &plan, older);
        let error = finished_shards(&plan, folder.path())
            .unwrap_err()
            .to_string();
        let versions = format!(
            "schema_version {}, now {SCHEMA_VERSION}",
            SCHEMA_VERSION - 1
        );
        assert!(error.contains(&versions), "{error}");
        assert!(error.contains("--overwrite"), "{error}");
    }
}
