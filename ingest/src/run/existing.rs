//! What an earlier run has left in the output folder, and whether this one may go on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};

use crate::manifest;
use crate::plan::{self, Plan};
use crate::shard_writer::{self, Finished};

/// Looks at what is there, and refuses what does not belong to this plan.
pub fn survey(plan: &Plan, out: &Path) -> anyhow::Result<Vec<Finished>> {
    let finished = shard_writer::survey(out)?;
    let remedy = "use --overwrite to begin anew, or choose another --out";
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
            let difference = difference(&shard.summary.settings, &plan.settings)?;
            bail!(
                "{}: {file} was made with other settings ({difference}); {remedy}",
                out.display()
            );
        }
        if !plan.shards.iter().any(|planned| planned.name == shard.name) {
            bail!(
                "{}: {file} is none of this run's shards, the raw data has grown or shrunk; {remedy}",
                out.display()
            );
        }
    }
    Ok(finished)
}

/// The first setting in which two runs differ, in words.
fn difference(theirs: &plan::Settings, ours: &plan::Settings) -> anyhow::Result<String> {
    let (theirs, ours) = (serde_json::to_value(theirs)?, serde_json::to_value(ours)?);
    let first = theirs
        .as_object()
        .into_iter()
        .flatten()
        .find_map(|(key, their)| {
            let our = ours.get(key)?;
            let short =
                |value: &serde_json::Value| value.to_string().chars().take(60).collect::<String>();
            (their != our).then(|| format!("{key} {}, now {}", short(their), short(our)))
        });
    Ok(first.unwrap_or_else(|| "an unknown difference".to_owned()))
}

/// Finished shards whose samples are listed differently now.
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
            "{}: the raw data has changed since {} of the shards were made (the first is {}); --update makes those anew, \
             --overwrite all",
            out.display(),
            stale.len(),
            first.file_name()
        ),
        _ => Ok(stale),
    }
}

/// `--overwrite`: the shards and what was made from them.
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

    /// A shard without rows, as a version of this tool with these settings would leave it.
    fn leave_shard(out: &Path, plan: &Plan, settings: Settings) {
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

    /// Old and new bytes of the same media must not come to stand in one folder.
    #[test]
    fn shards_of_an_older_format_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan();
        let settings = &plan.settings;
        assert_eq!(settings.schema_version, SCHEMA_VERSION);
        leave_shard(folder.path(), &plan, settings.clone());
        assert_eq!(survey(&plan, folder.path()).unwrap().len(), 1);

        let older = Settings {
            schema_version: SCHEMA_VERSION - 1,
            ..settings.clone()
        };
        leave_shard(folder.path(), &plan, older);
        let error = survey(&plan, folder.path()).unwrap_err().to_string();
        let versions = format!(
            "schema_version {}, now {SCHEMA_VERSION}",
            SCHEMA_VERSION - 1
        );
        assert!(error.contains(&versions), "{error}");
        assert!(error.contains("--overwrite"), "{error}");
    }
}
