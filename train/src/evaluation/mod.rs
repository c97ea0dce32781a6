//! Evaluation: metrics of a split with any modality missing, and labels for new media files.

pub mod metrics;
pub mod predict;

use crate::session::Session;
use crate::settings::RunConfig;
use anyhow::{Context, Result, bail};
use datasets::{Modality, Split};
use features::Loader;
use metrics::Metrics;
use model::u2a::U2a;
use model::variant::MissingToken;
use report::main_metric;
use report::predictions::{self, Prediction};
use serde_json::json;
use std::path::{Path, PathBuf};
use util::atomic;

/// Samples per batch at evaluation.
pub const BATCH_SIZE: usize = 16;

/// What to evaluate.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Which split.
    pub split: Split,
    /// A protocol or mask file, its rate and its seed.
    pub mask: Option<(String, f64, u64)>,
    /// A modality gone from every sample.
    pub missing: Option<Modality>,
    /// What stands in for a missing modality.
    pub missing_token: MissingToken,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            split: Split::Test,
            mask: None,
            missing: None,
            missing_token: MissingToken::Mask,
        }
    }
}

impl EvalOptions {
    /// The name that tells this evaluation's files from others: `test`, `test-no-audio`,
    /// `test-missing-both-0.7-seed0`, with `-zeros` or `-input` where these stand in.
    pub fn name(&self) -> String {
        let mut name = self.split.to_string();
        if let Some((mask, rate, seed)) = &self.mask {
            let mask = Path::new(mask)
                .file_stem()
                .map_or(mask.clone(), |s| s.to_string_lossy().into_owned());
            name += &format!("-{mask}-{rate}-seed{seed}");
        }
        if let Some(modality) = self.missing {
            name += &format!("-no-{modality}");
        }
        match self.missing_token {
            MissingToken::Mask => {}
            MissingToken::Zeros => name += "-zeros",
            MissingToken::Input => name += "-input",
        }
        name
    }
}

/// The result of an evaluation.
pub struct Evaluation {
    /// Scores.
    pub metrics: Metrics,
    /// In file order.
    pub predictions: Vec<Prediction>,
    /// Mean over complete samples of the squared distance (mean over width) of MT_1 to CLS_2 and of
    /// MT_2 to CLS_1, overall and per class.
    pub alignment: Option<Alignment>,
    /// Samples that keep a modality which was to be missing, because they have no other.
    pub kept: usize,
}

/// Distances between mask tokens and the class tokens they stand for.
pub struct Alignment {
    /// Complete samples.
    pub samples: usize,
    /// (MT_1 to CLS_2, MT_2 to CLS_1).
    pub overall: [f64; 2],
    /// The same per class, in canonical order; none for a class without complete samples.
    pub classes: Vec<Option<[f64; 2]>>,
}

/// Which modalities of each sample of the split the model is shown, and how many samples keep the modality that
/// [`EvalOptions::missing`] names because they have no other.
///
/// # Errors
/// The split is empty, the mask cannot be used, or the run has no such modality.
pub fn shown_modalities(
    session: &Session,
    config: &RunConfig,
    options: &EvalOptions,
) -> Result<(Vec<[bool; 2]>, usize)> {
    let index = session.shards.split(options.split);
    if index.is_empty() {
        bail!(
            "{}: the {} split holds no sample",
            session.shards.folder().display(),
            options.split
        );
    }
    let mut shown = index.present.clone();
    if let Some((mask, rate, seed)) = &options.mask {
        shown = session
            .mask(mask, *rate, *seed)?
            .present(&session.shards, options.split)?;
    }
    let mut kept = 0;
    if let Some(modality) = options.missing {
        let Some(m) = config.modalities.iter().position(|x| *x == modality) else {
            bail!(
                "--missing {modality}: {} has {} and {}",
                config.dataset,
                config.modalities[0],
                config.modalities[1]
            );
        };
        for (has, there) in shown.iter_mut().zip(&index.present) {
            if has[1 - m] && there[1 - m] {
                has[m] = false;
            } else {
                kept += 1;
            }
        }
    }
    if let Some(only) = config.settings.modality {
        let used = config.modalities.map(|m| m == only);
        for has in &mut shown {
            *has = [0, 1].map(|m| has[m] && used[m]);
        }
    }
    Ok((shown, kept))
}

/// Scores a split.
pub fn evaluate(
    session: &Session,
    config: &RunConfig,
    model: &U2a,
    options: &EvalOptions,
) -> Result<Evaluation> {
    let index = session.shards.split(options.split);
    let (shown, kept) = shown_modalities(session, config, options)?;
    let placeholders = session.placeholders(options.missing_token)?;
    let merged = model.merged_encoders()?;
    let mut predictions = Vec::with_capacity(index.len());
    let mut distances = Vec::new();
    let stream = session.test_stream(options.split, BATCH_SIZE, Some(shown));
    let mut stream = Loader::new(&session.shards, stream, 0, 0)?;
    while let Some(batch) = stream.next() {
        let mut batch = batch?;
        if let Some(placeholders) = &placeholders {
            placeholders.fill(&mut batch);
        }
        let scores = model.score(&merged, &batch, options.missing_token)?;
        for (sample, d) in scores.alignment {
            distances.push((batch.labels[sample].clone(), d));
        }
        stream.reuse(batch.inputs);
        for (((id, labels), present), logits) in batch
            .ids
            .into_iter()
            .zip(batch.labels)
            .zip(batch.present)
            .zip(scores.logits)
        {
            predictions.push(Prediction {
                id,
                labels,
                present,
                logits,
            });
        }
    }
    let classes = config.classes.len();
    let logits: Vec<Vec<f32>> = predictions.iter().map(|p| p.logits.clone()).collect();
    let metrics = if config.multi_label {
        let labels: Vec<Vec<u32>> = predictions.iter().map(|p| p.labels.clone()).collect();
        metrics::multi_label(&logits, &labels, classes)
    } else {
        let labels = predictions.iter().map(|p| {
            p.labels
                .first()
                .copied()
                .with_context(|| format!("sample {} has no label", p.id))
        });
        metrics::single_label(&logits, &labels.collect::<Result<Vec<u32>>>()?, classes)
    };
    Ok(Evaluation {
        metrics,
        predictions,
        alignment: alignment(&distances, classes),
        kept,
    })
}

fn alignment(distances: &[(Vec<u32>, [f64; 2])], classes: usize) -> Option<Alignment> {
    let mean = |chosen: Vec<[f64; 2]>| {
        let n = chosen.len() as f64;
        (n > 0.0).then(|| [0, 1].map(|i| chosen.iter().map(|d| d[i]).sum::<f64>() / n))
    };
    let overall = mean(distances.iter().map(|(_, d)| *d).collect())?;
    let of = |c: u32| {
        mean(
            distances
                .iter()
                .filter(|(labels, _)| labels.contains(&c))
                .map(|(_, d)| *d)
                .collect(),
        )
    };
    Some(Alignment {
        samples: distances.len(),
        overall,
        classes: (0..classes as u32).map(of).collect(),
    })
}

/// Writes `RUN/eval-NAME.json` and `RUN/predictions-NAME.parquet`; returns both paths.
pub fn write(
    run: &Path,
    config: &RunConfig,
    options: &EvalOptions,
    checkpoint: &Path,
    evaluation: &Evaluation,
) -> Result<(PathBuf, PathBuf)> {
    let name = options.name();
    let json_path = run.join(report::evaluation_file(&name));
    let parquet_path = run.join(report::predictions_file(&name));
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

/// The content of `eval-NAME.json`.
pub fn to_json(
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
    let [m1, m2] = config.modalities;
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
        "protocol": options.mask.as_ref().map(|(p, _, _)| p),
        "rate": options.mask.as_ref().map(|(_, r, _)| r),
        "seed": options.mask.as_ref().map(|(_, _, s)| s),
        "missing": options.missing.map(|m| m.as_str()),
        "missing_token": options.missing_token,
        "metrics": metrics.values,
        "main_metric": main_metric(config.multi_label),
        "counts": {
            "samples": metrics.samples,
            "both": count(|p| p.present == [true, true]),
            format!("{m1}_only"): count(|p| p.present == [true, false]),
            format!("{m2}_only"): count(|p| p.present == [false, true]),
            "kept_for_lack_of_another": kept,
        },
        "classes": per_class,
        "confusion": metrics.confusion,
        "alignment": alignment.as_ref().map(|a| json!({
            "samples": a.samples,
            format!("{m1}_mask_to_{m2}_class"): a.overall[0],
            format!("{m2}_mask_to_{m1}_class"): a.overall[1],
            "classes": a.classes,
        })),
        "chance": chance(config, metrics),
        "tool_version": config.version,
    })
}

/// The accuracy of guessing uniformly; for multi-label data there is no such single figure.
fn chance(config: &RunConfig, metrics: &Metrics) -> Option<f64> {
    (!config.multi_label && metrics.samples > 0).then(|| 1.0 / config.classes.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_class() {
        let all = [
            (vec![0], [1.0, 10.0]),
            (vec![0, 2], [3.0, 30.0]),
            (vec![2], [5.0, 20.0]),
        ];
        let got = alignment(&all, 3).unwrap();
        assert_eq!((got.samples, got.overall), (3, [3.0, 20.0]));
        assert_eq!(got.classes, [Some([2.0, 20.0]), None, Some([4.0, 25.0])]);
        assert!(alignment(&[], 3).is_none(), "nobody is complete");
    }

    #[test]
    fn names_tell_evaluations_apart() {
        let name = |mask: Option<&str>, missing, missing_token| {
            let options = EvalOptions {
                mask: mask.map(|p| (p.to_string(), 0.7, 1)),
                missing,
                missing_token,
                ..EvalOptions::default()
            };
            options.name()
        };
        let audio = Some(Modality::Audio);
        assert_eq!(name(None, None, MissingToken::Mask), "test");
        assert_eq!(
            name(None, audio, MissingToken::Input),
            "test-no-audio-input"
        );
        assert_eq!(
            name(Some("missing-both"), None, MissingToken::Zeros),
            "test-missing-both-0.7-seed1-zeros"
        );
    }
}
