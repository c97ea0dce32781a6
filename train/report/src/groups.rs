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
    /// Those settings, each as `key=value`.
    pub(crate) differences: Vec<String>,
    /// The runs, in the order in which they were given.
    pub(crate) runs: Vec<&'a RunSummary>,
}

impl RunGroup<'_> {
    /// Returns the number of runs that have been evaluated.
    pub(crate) fn evaluated(&self) -> usize {
        let runs = self.runs.iter();
        runs.filter(|run| !run.evaluations.is_empty()).count()
    }
}

/// Groups runs by everything in their configuration that may not differ within a group.
pub(crate) fn group_runs(runs: &[RunSummary]) -> Vec<RunGroup<'_>> {
    let mut groups: Vec<(BTreeMap<String, String>, Vec<&RunSummary>)> = Vec::new();
    for run in runs {
        let key = settings(run, &FREE_KEYS);
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
            differences,
            runs: group.1.clone(),
        }
    });
    named.collect()
}

/// Returns the values of a run's configuration by dotted key, without some keys and all below them.
fn settings(run: &RunSummary, without: &[&str]) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    // The text was parsed when the run was read.
    let table: Table = toml::from_str(&run.config.text).unwrap_or_default();
    flatten("", &table, &mut settings);
    let below = |key: &str, top: &str| key.strip_prefix(top).is_some_and(|k| k.starts_with('.'));
    settings.retain(|key, _| !without.iter().any(|top| key == top || below(key, top)));
    settings
}

/// A setting, and each of its values with the numbers of the runs that have it.
pub(crate) type DifferingSetting = (String, Vec<(String, Vec<usize>)>);

/// Returns the settings in which runs differ, by their keys in `config.toml`. The values come in
/// the order of the runs; a run without the setting has `-`.
pub(crate) fn differing_settings(runs: &[RunSummary]) -> Vec<DifferingSetting> {
    let all: Vec<BTreeMap<String, String>> = runs.iter().map(|run| settings(run, &[])).collect();
    let keys: BTreeSet<&String> = all.iter().flat_map(|one| one.keys()).collect();
    let values = |key: &String| {
        let mut values: Vec<(String, Vec<usize>)> = Vec::new();
        for (run, one) in all.iter().enumerate() {
            let value = one.get(key).map_or("-", String::as_str);
            match values.iter_mut().find(|(other, _)| other == value) {
                Some((_, runs)) => runs.push(run),
                None => values.push((value.to_string(), vec![run])),
            }
        }
        values
    };
    let named = keys.into_iter().map(|key| (key.clone(), values(key)));
    named.filter(|(_, values)| values.len() > 1).collect()
}

fn flatten(prefix: &str, table: &Table, into: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_runs::TestRun;

    #[test]
    fn settings_that_differ_are_listed_with_their_runs() {
        let folder = tempfile::tempdir().unwrap();
        let run = |seed, settings, name| {
            let run = TestRun {
                seed,
                settings,
                ..TestRun::default()
            };
            run.write(folder.path(), name)
        };
        let runs = [
            run(0, "fusion = \"sum\"\nkeep = \"all\"", "a"),
            run(1, "fusion = \"sum\"", "b"),
            run(0, "fusion = \"concat\"\nkeep = \"all\"", "c"),
        ];
        let row = |key: &str, values: &[(&str, &[usize])]| {
            let values = values
                .iter()
                .map(|(v, runs)| (v.to_string(), runs.to_vec()));
            (key.to_string(), values.collect::<Vec<_>>())
        };
        assert_eq!(
            differing_settings(&runs),
            [
                row("settings.fusion", &[("sum", &[0, 1]), ("concat", &[2])]),
                row("settings.keep", &[("all", &[0, 2]), ("-", &[1])]),
                row("settings.seed", &[("0", &[0, 2]), ("1", &[1])]),
                row("shards", &[("/shards/0", &[0, 2]), ("/shards/1", &[1])]),
            ]
        );
        // Seed, shards and what is kept make no other experiment.
        let groups: Vec<usize> = group_runs(&runs).iter().map(|g| g.runs.len()).collect();
        assert_eq!(groups, [2, 1]);
    }
}
