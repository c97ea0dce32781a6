//! The scores of runs: one line per kind of evaluation, over the runs that have it.

use crate::run_folder::{RunDescription, RunSummary, main_metric};
use serde::Serialize;
use serde_json::Value;

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

fn in_words(config: &RunDescription, json: &Value) -> String {
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
