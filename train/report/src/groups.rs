//! Groups of runs that repeat one experiment: the same data and settings, another seed. Scores are
//! averaged within a group only.

use crate::run_folder::RunSummary;
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// The keys of `config.toml` that may differ within a group: the seed, what it draws, and what
/// changes where or how fast a run computes but not what.
const FREE_KEYS: [&str; 9] = [
    "version",
    "shards",
    "train_mask_sha256",
    "device",
    "settings.seed",
    "settings.keep",
    "settings.micro_batch",
    "settings.checkpoint_every",
    "settings.keep_checkpoints",
];

/// Runs that repeat one experiment.
pub(crate) struct RunGroup<'a> {
    /// The dataset and, if another group has the same dataset, the settings in which they differ.
    pub(crate) name: String,
    /// The runs, in the order in which they were given.
    pub(crate) runs: Vec<&'a RunSummary>,
}

/// Groups runs by everything in their configuration that may not differ within a group.
pub(crate) fn group_runs(runs: &[RunSummary]) -> Vec<RunGroup<'_>> {
    let mut groups: Vec<(BTreeMap<String, String>, Vec<&RunSummary>)> = Vec::new();
    for run in runs {
        let key = group_key(run);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, members)) => members.push(run),
            None => groups.push((key, vec![run])),
        }
    }
    let dataset = |group: &(_, Vec<&RunSummary>)| group.1[0].config.dataset.clone();
    let named = groups.iter().map(|group| {
        let name = dataset(group);
        let alike = groups.iter().filter(|other| dataset(other) == name);
        let differences = differences(&alike.map(|(key, _)| key).collect::<Vec<_>>(), &group.0);
        RunGroup {
            name: match differences.is_empty() {
                true => name,
                false => format!("{name}, {}", differences.join(", ")),
            },
            runs: group.1.clone(),
        }
    });
    named.collect()
}

/// Returns the values of a run's configuration by dotted key, without [`FREE_KEYS`].
fn group_key(run: &RunSummary) -> BTreeMap<String, String> {
    let mut key = BTreeMap::new();
    // The text was parsed when the run was read.
    let table: Table = toml::from_str(&run.config.text).unwrap_or_default();
    flatten("", &table, &mut key);
    key
}

fn flatten(prefix: &str, table: &Table, into: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            _ if FREE_KEYS.contains(&key.as_str()) => {}
            Value::Table(inner) => flatten(&format!("{key}."), inner, into),
            Value::String(text) => drop(into.insert(key, text.clone())),
            other => drop(into.insert(key, other.to_string())),
        }
    }
}

/// Returns `key=value` for each key in which `all` differ, with the values of `own`; `-` for a key
/// that it lacks.
fn differences(all: &[&BTreeMap<String, String>], own: &BTreeMap<String, String>) -> Vec<String> {
    let keys: BTreeSet<&String> = all.iter().flat_map(|key| key.keys()).collect();
    let differing = keys
        .into_iter()
        .filter(|key| all.iter().any(|other| other.get(*key) != own.get(*key)));
    differing
        .map(|key| {
            let short = key.strip_prefix("settings.").unwrap_or(key);
            format!("{short}={}", own.get(key).map_or("-", String::as_str))
        })
        .collect()
}
