//! Runs as a page and as a table: learning curves, scores with each modality gone, per-class
//! scores, confusion, samples. The page is one file that loads nothing.

mod embed;
mod page;
mod samples;

use crate::evaluation::main_metric;
use crate::logging::METRICS_FILE;
use crate::settings::RunConfig;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a report knows of one run.
pub struct RunSummary {
    /// The run folder.
    pub run: PathBuf,
    /// Its configuration.
    pub config: RunConfig,
    /// (step, loss).
    pub losses: Vec<(u64, f64)>,
    /// Evaluations by name.
    pub evaluations: BTreeMap<String, Value>,
}

/// One line of the table: an evaluation over the runs that have it.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Name of the evaluation.
    pub evaluation: String,
    /// What the model saw, in words.
    pub seen: String,
    /// Which metric.
    pub metric: String,
    /// One value per run.
    pub values: Vec<Option<f64>>,
    /// Mean over the runs.
    pub mean: f64,
    /// Standard deviation over the runs (n - 1); 0 for one run.
    pub deviation: f64,
    /// Accuracy of guessing, for single-label data.
    pub chance: Option<f64>,
}

impl RunSummary {
    /// Reads `config.toml`, `metrics.jsonl` and every `eval-*.json` of a run.
    pub fn read(run: &Path) -> Result<RunSummary> {
        let config = RunConfig::read(run)?;
        let path = run.join(METRICS_FILE);
        let text = if path.exists() {
            fs::read_to_string(&path).with_context(|| path.display().to_string())?
        } else {
            String::new()
        };
        let losses = text
            .lines()
            .filter_map(|line| {
                let json: Value = serde_json::from_str(line).ok()?;
                Some((json["step"].as_u64()?, json["loss"].as_f64()?))
            })
            .collect();
        let mut evaluations = BTreeMap::new();
        for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file
                .strip_prefix("eval-")
                .and_then(|n| n.strip_suffix(".json"))
            else {
                continue;
            };
            let text = fs::read_to_string(entry.path())
                .with_context(|| entry.path().display().to_string())?;
            let json = serde_json::from_str(&text).with_context(|| {
                format!(
                    "{}: is not JSON; make it again with `train eval`",
                    entry.path().display()
                )
            })?;
            evaluations.insert(name.to_string(), json);
        }
        Ok(RunSummary {
            run: run.to_path_buf(),
            config,
            losses,
            evaluations,
        })
    }
}

/// The table over all runs, one line per kind of evaluation.
pub fn table(runs: &[RunSummary]) -> Vec<Line> {
    let mut names: Vec<&String> = runs.iter().flat_map(|r| r.evaluations.keys()).collect();
    names.sort();
    names.dedup();
    let mut lines: Vec<Line> = names
        .into_iter()
        .filter_map(|name| {
            let first = runs
                .iter()
                .find_map(|r| Some((r, r.evaluations.get(name)?)))?;
            let metric = main_metric(first.0.config.multi_label);
            let values: Vec<Option<f64>> = runs
                .iter()
                .map(|r| r.evaluations.get(name)?["metrics"][metric].as_f64())
                .collect();
            let known: Vec<f64> = values.iter().flatten().copied().collect();
            let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
            let spread = known.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let deviation = if known.len() > 1 {
                (spread / (known.len() - 1) as f64).sqrt()
            } else {
                0.0
            };
            Some(Line {
                evaluation: name.clone(),
                seen: in_words(&first.0.config, first.1),
                metric: metric.to_string(),
                values,
                mean,
                deviation,
                chance: first.1["chance"].as_f64(),
            })
        })
        .collect();
    // Everything there first, then by what is gone; mask tokens before zeros.
    lines.sort_by_key(|l| {
        (
            l.evaluation.contains("-zeros"),
            l.evaluation.len(),
            l.evaluation.clone(),
        )
    });
    lines.sort_by_key(|l| l.seen.split(',').next() != Some("both"));
    lines
}

fn in_words(config: &RunConfig, json: &Value) -> String {
    let mut seen = match json["missing"].as_str() {
        None => "both".to_string(),
        Some(gone) => {
            config
                .modalities
                .iter()
                .map(|m| m.as_str())
                .filter(|m| *m != gone)
                .collect::<Vec<_>>()
                .join("")
                + " only"
        }
    };
    if let Some(protocol) = json["protocol"].as_str() {
        seen += &format!(", {protocol} at {}", json["rate"]);
    }
    if json["missing"].is_string() || json["protocol"].is_string() {
        seen += match json["missing_token"].as_str() {
            Some("zeros") => ", zeros for the missing token",
            Some("input") => ", empty input",
            _ => ", mask token",
        };
    }
    if json["split"] != "test" {
        seen += &format!(", {} split", json["split"].as_str().unwrap_or("?"));
    }
    seen
}

/// The table for a terminal.
pub fn text_table(runs: &[RunSummary]) -> String {
    let lines = table(runs);
    let Some(first) = lines.first() else {
        return "no evaluations yet; run `train eval` first".to_string();
    };
    let width = lines
        .iter()
        .map(|l| l.seen.len())
        .max()
        .unwrap_or(0)
        .max(12);
    let mut out = format!(
        "{:<width$}  {:>7}  {:>7}  per run\n",
        format!("{} on", first.metric),
        "mean",
        "sd"
    );
    for line in &lines {
        let each: Vec<String> = line
            .values
            .iter()
            .map(|v| v.map_or("-".into(), |v| format!("{v:.3}")))
            .collect();
        out += &format!(
            "{:<width$}  {:>7.3}  {:>7.3}  {}\n",
            line.seen,
            line.mean,
            line.deviation,
            each.join(" ")
        );
    }
    if let Some(chance) = first.chance {
        out += &format!("{:<width$}  {chance:>7.3}", "chance");
    }
    out.trim_end().to_string()
}

/// Writes the page.
pub fn write(path: &Path, runs: &[RunSummary]) -> Result<()> {
    util::atomic::write(path, page::page(runs))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

fn run_name(run: &RunSummary) -> String {
    run.run.file_name().map_or_else(
        || run.run.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    )
}
