//! What an earlier run has left in the output folder, and whether this one may go on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};

use crate::manifest;
use crate::plan::{self, Plan};
use crate::shard::{self, Finished};

/// Looks at what is there, and refuses what does not belong to this plan.
pub fn survey(plan: &Plan, out: &Path) -> anyhow::Result<Vec<Finished>> {
    let finished = shard::survey(out)?;
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
