//! The scores of runs: one row per kind of evaluation, over the runs that have it.

use crate::run_folder::{RunDescription, RunSummary, main_metric};
use crate::statistics::{mean, standard_deviation};
use serde::Serialize;
use serde_json::Value;

/// A row of the table: one kind of evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct ScoreRow {
    /// The name of the evaluation.
    pub evaluation: String,
    /// The inputs that the model was given, in words, such as `audio only, mask token`.
    #[serde(rename = "seen")]
    pub inputs: String,
    /// The name of the metric.
    pub metric: String,
    /// The score of each run that has this evaluation.
    pub values: Vec<Option<f64>>,
    /// The mean over the runs.
    pub mean: f64,
    /// The standard deviation over the runs (with n - 1); 0 for one run.
    pub deviation: f64,
    /// The accuracy of guessing, for single-label data.
    pub chance: Option<f64>,
}

/// Returns the table over all runs, one row for each kind of evaluation that any of them has.
///
/// Evaluations with both modalities come first, the others by the length of their names; mask
/// tokens come before zeros.
pub fn score_table(runs: &[RunSummary]) -> Vec<ScoreRow> {
    let mut names: Vec<&String> = runs.iter().flat_map(|r| r.evaluations.keys()).collect();
    names.sort();
    names.dedup();
    let mut rows: Vec<ScoreRow> = names
        .into_iter()
        .filter_map(|name| score_row(runs, name))
        .collect();
    rows.sort_by_key(|row| {
        (
            row.evaluation.contains("-zeros"),
            row.evaluation.len(),
            row.evaluation.clone(),
        )
    });
    rows.sort_by_key(|row| row.inputs.split(',').next() != Some("both"));
    rows
}

/// Returns the row of the evaluation with this name; `None` if no run has it.
fn score_row(runs: &[RunSummary], name: &str) -> Option<ScoreRow> {
    let (config, evaluation) = runs
        .iter()
        .find_map(|r| Some((&r.config, r.evaluations.get(name)?)))?;
    let metric = main_metric(config.multi_label);
    let values: Vec<Option<f64>> = runs
        .iter()
        .map(|r| r.evaluations.get(name)?["metrics"][metric].as_f64())
        .collect();
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    Some(ScoreRow {
        evaluation: name.to_string(),
        inputs: inputs_in_words(config, evaluation),
        metric: metric.to_string(),
        values,
        mean: mean(&known).unwrap_or(0.0),
        deviation: standard_deviation(&known).unwrap_or(0.0),
        chance: evaluation["chance"].as_f64(),
    })
}

/// Describes the inputs that the model was given in an evaluation.
fn inputs_in_words(config: &RunDescription, evaluation: &Value) -> String {
    let missing = evaluation["missing"].as_str();
    let mut words = match missing {
        None => "both".to_string(),
        Some(missing) => {
            let names = config.modalities.iter().map(|m| m.as_str());
            names.filter(|m| *m != missing).collect::<String>() + " only"
        }
    };
    let protocol = evaluation["protocol"].as_str();
    if let Some(protocol) = protocol {
        words += &format!(", {protocol} at {}", evaluation["rate"]);
    }
    if missing.is_some() || protocol.is_some() {
        words += match evaluation["missing_token"].as_str() {
            Some("zeros") => ", zeros for the missing token",
            Some("input") => ", empty input",
            _ => ", mask token",
        };
    }
    if evaluation["split"] != "test" {
        let split = evaluation["split"].as_str().unwrap_or("?");
        words += &format!(", {split} split");
    }
    words
}

/// Returns the table as text for a terminal.
pub fn text_table(runs: &[RunSummary]) -> String {
    let rows = score_table(runs);
    let Some(first) = rows.first() else {
        return "no evaluations yet; run `train eval` first".to_string();
    };
    let width = rows.iter().map(|row| row.inputs.len()).max().unwrap_or(0);
    let width = width.max(12);
    let mut out = format!(
        "{:<width$}  {:>7}  {:>7}  per run\n",
        format!("{} on", first.metric),
        "mean",
        "sd"
    );
    for row in &rows {
        let values: Vec<String> = row
            .values
            .iter()
            .map(|v| v.map_or("-".into(), |v| format!("{v:.3}")))
            .collect();
        out += &format!(
            "{:<width$}  {:>7.3}  {:>7.3}  {}\n",
            row.inputs,
            row.mean,
            row.deviation,
            values.join(" ")
        );
    }
    if let Some(chance) = first.chance {
        out += &format!("{:<width$}  {chance:>7.3}", "chance");
    }
    out.trim_end().to_string()
}
