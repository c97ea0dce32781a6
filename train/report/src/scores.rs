//! The scores of runs: one row per kind of evaluation and group of runs.

use crate::groups::{RunGroup, group_runs};
use crate::run_folder::{RunDescription, RunSummary, kept_samples, main_metric};
use crate::statistics::{mean, standard_deviation};
use datasets::InputName;
use serde::Serialize;
use serde_json::Value;

/// A row of the table: one kind of evaluation of the runs that repeat one experiment.
#[derive(Clone, Debug, Serialize)]
pub struct ScoreRow {
    /// The dataset of the runs and, if runs on it differ, their settings.
    pub group: String,
    /// The name of the evaluation.
    pub evaluation: String,
    /// The inputs that the model was given, in words, such as `audio only, mask token`.
    #[serde(rename = "seen")]
    pub inputs: String,
    /// The name of the metric.
    pub metric: String,
    /// The score of each run of the group, if the run has this evaluation.
    pub values: Vec<Option<f64>>,
    /// The number of runs that have this evaluation.
    pub count: usize,
    /// The mean over those runs; none if no score is a number.
    pub mean: Option<f64>,
    /// The standard deviation over those runs (with n - 1); none for one run.
    pub deviation: Option<f64>,
    /// The accuracy of guessing, for single-label data.
    pub chance: Option<f64>,
}

/// Returns the table over all runs: for each group of runs that differ in the seed alone, one row
/// for each kind of evaluation that any of them has.
///
/// Evaluations without a modality that is missing from all samples come first, the others by the
/// length of their names; mask tokens come before zeros.
pub fn score_table(runs: &[RunSummary]) -> Vec<ScoreRow> {
    group_runs(runs).iter().flat_map(score_rows).collect()
}

/// Returns the rows of one group.
pub(crate) fn score_rows(group: &RunGroup) -> Vec<ScoreRow> {
    let runs = group.runs.iter();
    let mut names: Vec<&String> = runs.flat_map(|run| run.evaluations.keys()).collect();
    names.sort();
    names.dedup();
    let mut rows: Vec<ScoreRow> = names
        .into_iter()
        .filter_map(|name| score_row(group, name))
        .collect();
    rows.sort_by_key(|row| {
        (
            row.evaluation.contains("-zeros"),
            row.evaluation.len(),
            row.evaluation.clone(),
        )
    });
    rows.sort_by_key(|row| {
        let inputs = row.inputs.split(',').next();
        inputs.is_some_and(|inputs| inputs.ends_with(" only"))
    });
    rows
}

/// Returns the row of the evaluation with this name; `None` if no run has it.
fn score_row(group: &RunGroup, name: &str) -> Option<ScoreRow> {
    let runs = &group.runs;
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
        group: group.name.clone(),
        evaluation: name.to_string(),
        inputs: inputs_in_words(config, evaluation),
        metric: metric.to_string(),
        values,
        count: known.len(),
        mean: mean(&known),
        deviation: standard_deviation(&known),
        chance: evaluation["chance"].as_f64(),
    })
}

/// Describes the inputs that the model was given in an evaluation.
fn inputs_in_words(config: &RunDescription, evaluation: &Value) -> String {
    let missing = evaluation["missing"].as_str();
    let mut words = match (missing, config.only_input()) {
        (None, Some(only)) => only.to_string(),
        (None, None) => "both".to_string(),
        (Some(missing), _) => {
            let names = config.modalities.names().map(InputName::as_str);
            names.filter(|m| *m != missing).collect::<String>() + " only"
        }
    };
    let protocol = evaluation["protocol"].as_str();
    if let Some(protocol) = protocol {
        words += &format!(", {protocol} at {}", evaluation["rate"]);
    }
    if missing.is_some() || protocol.is_some() {
        let token = evaluation["missing_token"].as_str();
        words += match (config.stand_in(), token) {
            ("nothing", _) => ", missing modality left out",
            (_, Some("zeros")) => ", zeros for the missing token",
            (_, Some("input")) => ", empty input",
            _ => ", mask token",
        };
    }
    if let (Some(missing), Some((kept, all))) = (missing, kept_samples(evaluation)) {
        words += &format!(", {kept} of {all} samples keep {missing}");
    }
    if evaluation["split"] != "test" {
        let split = evaluation["split"].as_str().unwrap_or("?");
        words += &format!(", {split} split");
    }
    words
}

/// Returns the table as text for a terminal: a part for each group of runs.
pub fn text_table(runs: &[RunSummary]) -> String {
    let groups = group_runs(runs);
    let several = groups.len() > 1;
    let parts = groups.iter().map(|group| {
        let rows = score_rows(group);
        let table = group_table(group, &rows);
        match several {
            true => format!("{}\n{table}", group.name),
            false => table,
        }
    });
    parts.collect::<Vec<_>>().join("\n\n")
}

/// Returns the table of one group. Where it has several runs, each row says over how many of them
/// its mean is.
fn group_table(group: &RunGroup, rows: &[ScoreRow]) -> String {
    let Some(first) = rows.first() else {
        return "no evaluations yet; run `train eval` first".to_string();
    };
    let width = rows.iter().map(|row| row.inputs.len()).max().unwrap_or(0);
    let width = width.max(12);
    let count = |text: String| match group.runs.len() {
        1 => String::new(),
        _ => format!("  {text:>2}"),
    };
    let mut out = format!(
        "{:<width$}  {:>7}  {:>7}{}  per run\n",
        format!("{} on", first.metric),
        "mean",
        "sd",
        count("n".to_string())
    );
    let number = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.3}"));
    for row in rows {
        let values: Vec<String> = row.values.iter().map(|value| number(*value)).collect();
        out += &format!(
            "{:<width$}  {:>7}  {:>7}{}  {}\n",
            row.inputs,
            number(row.mean),
            number(row.deviation),
            count(row.count.to_string()),
            values.join(" ")
        );
    }
    if let Some(chance) = first.chance {
        out += &format!("{:<width$}  {chance:>7.3}", "chance");
    }
    out.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_runs::{TestRun, evaluation};

    #[test]
    fn rows_name_the_inputs_that_the_model_had() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = evaluation(Some("audio"), "zeros", [0.2; 2]);
        kept["counts"] = serde_json::json!({"samples": 12, "kept_for_lack_of_another": 3});
        for (settings, expected) in [
            (
                "modality = \"audio\"",
                [
                    "audio",
                    "video only, zeros for the missing token, 3 of 12 samples keep audio",
                ],
            ),
            (
                "method = \"qmf\"",
                [
                    "both",
                    "video only, missing modality left out, 3 of 12 samples keep audio",
                ],
            ),
        ] {
            let run = TestRun {
                settings,
                evaluations: &[
                    ("test-no-audio", kept.clone()),
                    ("test-of-all-zeros", evaluation(None, "zeros", [0.5; 2])),
                ],
                ..TestRun::default()
            };
            let run = run.write(folder.path(), &settings.replace('"', ""));
            let rows = score_table(&[run]);
            let inputs: Vec<&str> = rows.iter().map(|row| &*row.inputs).collect();
            assert_eq!(inputs, expected);
        }
    }

    #[test]
    fn only_repetitions_of_one_experiment_are_averaged() {
        let folder = tempfile::tempdir().unwrap();
        let run = |dataset: &str, seed: u64, fusion: &str, scores: &[(Option<&str>, f64)]| {
            let evaluations = scores.iter().map(|(missing, score)| {
                let name = missing.map_or("test", |_| "test-no-audio");
                (name, evaluation(*missing, "mask", [*score; 2]))
            });
            let run = TestRun {
                dataset,
                seed,
                settings: &format!("fusion = \"{fusion}\""),
                evaluations: &evaluations.collect::<Vec<_>>(),
                ..TestRun::default()
            };
            run.write(folder.path(), &format!("{dataset}-{fusion}-{seed}"))
        };
        let runs = [
            run("ave", 0, "sum", &[(None, 0.5), (Some("audio"), 0.4)]),
            run("food-101", 0, "sum", &[(None, 0.9)]),
            run("ave", 1, "sum", &[(None, 0.7)]),
            run("ave", 1, "concat", &[(None, 0.1)]),
        ];
        let rows = score_table(&runs);
        let found: Vec<_> = rows
            .iter()
            .map(|row| (&*row.group, &*row.evaluation, row.count, row.mean.unwrap()))
            .collect();
        assert_eq!(
            found,
            [
                ("ave, fusion=sum", "test", 2, 0.6),
                ("ave, fusion=sum", "test-no-audio", 1, 0.4),
                ("food-101", "test", 1, 0.9),
                ("ave, fusion=concat", "test", 1, 0.1),
            ]
        );
        let text = text_table(&runs);
        assert!(text.starts_with("ave, fusion=sum\naccuracy on"), "{text}");
        assert!(text.contains("0.141   2  0.500 0.700"), "{text}");
        assert!(text.contains("      -   1  0.400 -"), "{text}");
        assert!(text.contains("\n\nfood-101\naccuracy on"), "{text}");
    }
}
