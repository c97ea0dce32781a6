//! The rows of a reproduced table with our scores, read from evaluation files.

use crate::artefact::Row;
use crate::statistics::{mean, standard_deviation};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A row with our scores.
#[derive(Serialize)]
pub struct RowResult<'a> {
    #[serde(flatten)]
    pub row: &'a Row,
    /// The score of each finished seed, in per cent.
    pub values: Vec<f64>,
    /// The mean over the seeds.
    pub mean: Option<f64>,
    /// The standard deviation over the seeds (with n - 1); `None` for fewer than two.
    pub deviation: Option<f64>,
    /// The scores per class, as fractions.
    #[serde(skip)]
    pub classes: PerClass,
    /// The evaluations that the scores are taken from.
    #[serde(skip)]
    pub evaluations: Vec<Value>,
}

/// The names of the classes, each with a mean over the seeds.
pub type PerClass = Vec<(String, Option<f64>)>;

impl<'a> RowResult<'a> {
    /// Reads the evaluations of a row; a file that does not exist is skipped.
    ///
    /// # Errors
    /// A file is not JSON.
    pub fn read(row: &'a Row, files: &[PathBuf]) -> Result<RowResult<'a>> {
        let mut evaluations = Vec::new();
        for path in files {
            if let Ok(text) = fs::read_to_string(path) {
                let json: Value = serde_json::from_str(&text)
                    .with_context(|| format!("{}: is not JSON; remove it", path.display()))?;
                evaluations.push(json);
            }
        }
        let percent = |e: &Value| Some(100.0 * e["metrics"][row.metric].as_f64()?);
        let values: Vec<f64> = evaluations.iter().filter_map(percent).collect();
        Ok(RowResult {
            row,
            mean: mean(&values),
            deviation: standard_deviation(&values),
            classes: per_class(&evaluations, class_score),
            values,
            evaluations,
        })
    }
}

/// Returns the mean over evaluations of `value(evaluation, class)`, for each class.
fn per_class(evaluations: &[Value], value: impl Fn(&Value, usize) -> Option<f64>) -> PerClass {
    let Some(classes) = evaluations.first().and_then(|e| e["classes"].as_array()) else {
        return Vec::new();
    };
    let name = |class: &Value| class["class"].as_str().unwrap_or("?").to_string();
    let mean_of = |class: usize| {
        let all: Vec<f64> = evaluations.iter().filter_map(|e| value(e, class)).collect();
        mean(&all)
    };
    classes
        .iter()
        .enumerate()
        .map(|(i, class)| (name(class), mean_of(i)))
        .collect()
}

/// Returns a class's F1 for multi-label data, and its accuracy otherwise; `None` for a class
/// without samples.
fn class_score(evaluation: &Value, class: usize) -> Option<f64> {
    let scores = &evaluation["classes"][class]["scores"];
    if scores["support"].as_u64() == Some(0) {
        return None;
    }
    let key = match evaluation["main_metric"].as_str() {
        Some("f1_macro") => "f1",
        _ => "recall",
    };
    scores[key].as_f64()
}

/// Returns the distances per class of the first and of the second modality's mask token from the
/// class tokens that they stand for, each with a name such as `audio to video`.
pub fn mask_token_distances(evaluations: &[Value]) -> [(String, PerClass); 2] {
    let names: Vec<String> = evaluations[0]["alignment"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_suffix("_class"))
        .map(|key| key.replace("_mask_to_", " to "))
        .collect();
    [0, 1].map(|direction| {
        let distance =
            move |e: &Value, class: usize| e["alignment"]["classes"][class][direction].as_f64();
        let name = names.get(direction).cloned().unwrap_or_default();
        (name, per_class(evaluations, distance))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn class_score_is_recall_or_f1_by_the_kind_of_labels() {
        let evaluation = |metric: &str| {
            json!({"main_metric": metric, "classes": [
                {"class": "a", "scores": {"support": 2, "recall": 0.5, "f1": 0.25}},
                {"class": "b", "scores": {"support": 0, "recall": 0.0, "f1": 0.0}},
            ]})
        };
        let single = per_class(&[evaluation("accuracy")], class_score);
        assert_eq!(single, [("a".into(), Some(0.5)), ("b".into(), None)]);
        let multi = per_class(&[evaluation("f1_macro")], class_score);
        assert_eq!(multi[0].1, Some(0.25));
    }
}
