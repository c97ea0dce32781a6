//! The files of an evaluation: `eval-NAME.json` and `predictions-NAME.parquet` in the run folder.

use super::metrics::Metrics;
use super::{EvalOptions, Evaluation};
use crate::settings::RunConfig;
use anyhow::{Context, Result};
use report::predictions::{self, Prediction};
use report::{evaluation_file, main_metric, predictions_file};
use serde_json::json;
use std::path::{Path, PathBuf};
use util::atomic;

/// Writes `RUN/eval-NAME.json` and `RUN/predictions-NAME.parquet`, and returns their paths. NAME is
/// that of [`EvalOptions::name`].
///
/// # Errors
/// The evaluation or the predictions cannot be written.
pub fn write(
    run: &Path,
    config: &RunConfig,
    options: &EvalOptions,
    checkpoint: &Path,
    evaluation: &Evaluation,
) -> Result<(PathBuf, PathBuf)> {
    let name = options.name();
    let json_path = run.join(evaluation_file(&name));
    let parquet_path = run.join(predictions_file(&name));
    let (modalities, multi_label) = (config.modalities, config.multi_label);
    predictions::write(
        &parquet_path,
        modalities,
        multi_label,
        &evaluation.predictions,
    )
    .with_context(|| format!("{}: cannot be written", parquet_path.display()))?;
    let json = to_json(config, options, checkpoint, evaluation);
    atomic::write(&json_path, format!("{json:#}\n"))
        .with_context(|| format!("{}: cannot be written", json_path.display()))?;
    Ok((json_path, parquet_path))
}

/// Returns the content of `eval-NAME.json`.
pub(crate) fn to_json(
    config: &RunConfig,
    options: &EvalOptions,
    checkpoint: &Path,
    evaluation: &Evaluation,
) -> serde_json::Value {
    let Evaluation {
        metrics,
        predictions,
        alignment,
        kept,
    } = evaluation;
    let count = |f: fn(&Prediction) -> bool| predictions.iter().filter(|p| f(p)).count();
    let pair = config.modalities.pair();
    let per_class: Vec<_> = config
        .classes
        .iter()
        .zip(&metrics.classes)
        .map(|(name, score)| json!({"class": name, "scores": score}))
        .collect();
    json!({
        "dataset": config.dataset,
        "split": options.split.as_str(),
        "checkpoint": checkpoint.file_name().map(|n| n.to_string_lossy().into_owned()),
        "default_checkpoint": options.checkpoint.is_none(),
        "protocol": options.mask.as_ref().map(|mask| &mask.source),
        "rate": options.mask.as_ref().map(|mask| mask.rate),
        "seed": options.mask.as_ref().map(|mask| mask.seed),
        "missing": options.missing.map(|m| m.as_str()),
        "missing_token": options.missing_token,
        "metrics": metrics.values,
        "main_metric": main_metric(config.multi_label),
        "counts": match pair {
            Some([m1, m2]) => json!({
                "samples": metrics.samples,
                "both": count(|p| p.present == [true, true]),
                format!("{m1}_only"): count(|p| p.present == [true, false]),
                format!("{m2}_only"): count(|p| p.present == [false, true]),
                "kept_for_lack_of_another": kept,
            }),
            None => json!({"samples": metrics.samples}),
        },
        "classes": per_class,
        "confusion": metrics.confusion,
        "alignment": alignment.as_ref().zip(pair).map(|(a, [m1, m2])| json!({
            "samples": a.samples,
            format!("{m1}_mask_to_{m2}_class"): a.overall[0],
            format!("{m2}_mask_to_{m1}_class"): a.overall[1],
            "classes": a.classes,
        })),
        "chance": chance(config, metrics),
        "tool_version": config.version,
    })
}

/// The accuracy of uniform guesses. Multi-label data have no such single number.
fn chance(config: &RunConfig, metrics: &Metrics) -> Option<f64> {
    (!config.multi_label && metrics.samples > 0).then(|| 1.0 / config.classes.len() as f64)
}
