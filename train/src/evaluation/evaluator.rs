//! Evaluation of a model on one split.

use super::EvalOptions;
use super::alignment::Alignment;
use super::metrics::{self, Metrics};
use crate::session::Session;
use crate::settings::{RunConfig, Settings};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use datasets::Modalities;
use features::{Loader, LoaderOptions, Share};
use model::u2a::{U2a, micro_batch};
use model::variant::{Method, MissingToken};
use report::predictions::Prediction;

/// Samples per batch and process.
const BATCH_SIZE: usize = 16;

/// The labels of a complete sample, and its two alignment distances.
type LabelledDistances = (Vec<u32>, [f64; 2]);

/// The result of an evaluation.
pub struct Evaluation {
    /// Metrics of the split.
    pub metrics: Metrics,
    /// Predictions, in the order of the shards.
    pub predictions: Vec<Prediction>,
    /// Distances between mask tokens and class tokens; `None` without a complete sample.
    pub alignment: Option<Alignment>,
    /// Samples that keep the modality that [`EvalOptions::missing`] names, because they have no
    /// other one.
    pub kept: usize,
}

/// An evaluation whose options fit the data: the split has samples, the mask exists, and the run
/// has the modality that is to be missing.
pub struct Evaluator<'a> {
    session: &'a Session,
    config: &'a RunConfig,
    options: &'a EvalOptions,
    /// For each sample of the split, which modalities the model gets.
    present: Vec<[bool; 2]>,
    /// See [`Evaluation::kept`].
    kept: usize,
}

impl<'a> Evaluator<'a> {
    /// Checks the options and applies masks. It needs no model, so that wrong usage is reported
    /// before one is built.
    ///
    /// # Errors
    /// The split is empty, the mask cannot be used, or the run has no such modality or no mask
    /// tokens.
    pub fn new(
        session: &'a Session,
        config: &'a RunConfig,
        options: &'a EvalOptions,
    ) -> Result<Evaluator<'a>> {
        let index = session.shards.split(options.split);
        if index.is_empty() {
            bail!(
                "{}: the {} split holds no sample",
                session.shards.folder(),
                options.split
            );
        }
        check_options(
            &config.dataset,
            config.modalities,
            &config.settings,
            options,
        )?;
        let mut present = match &options.mask {
            Some(mask) => session
                .mask(&mask.source, mask.rate, mask.seed)?
                .present(&session.shards, options.split)?,
            None => index.present.clone(),
        };
        let mut kept = 0;
        if let Some(modality) = options.missing {
            let m = config.modalities.position(modality);
            let m = m.context("a modality that the options were checked for")?;
            for (present, stored) in present.iter_mut().zip(&index.present) {
                if present[1 - m] && stored[1 - m] {
                    present[m] = false;
                } else {
                    kept += 1;
                }
            }
        }
        if let Some(only) = config.settings.modality {
            let used = config.modalities.map(|own| own == only);
            for present in &mut present {
                *present = [0, 1].map(|m| present[m] && used[m]);
            }
        }
        Ok(Evaluator {
            session,
            config,
            options,
            present,
            kept,
        })
    }

    /// Evaluates a model.
    ///
    /// # Errors
    /// A shard cannot be read, or a sample of single-label data has no label.
    pub fn run(self, model: &U2a) -> Result<Evaluation> {
        let (predictions, distances) = self.score(model, Share::default())?;
        Ok(Evaluation {
            metrics: compute_metrics(self.config, &predictions)?,
            alignment: Alignment::average(&distances, self.config.classes.len()),
            predictions,
            kept: self.kept,
        })
    }

    /// Computes the metrics of a model together with other processes, each of which scores its
    /// share of every batch: `all_reduce` replaces numbers by their sums over all of them.
    ///
    /// # Errors
    /// They are those of [`Evaluator::run`].
    pub fn metrics(
        self,
        model: &U2a,
        share: Share,
        all_reduce: impl FnOnce(&mut Vec<f32>),
    ) -> Result<Metrics> {
        let (mut predictions, _) = self.score(model, share)?;
        // The logits of each sample come from one process, and are zeros in the others.
        let mut all: Vec<f32> = predictions.iter().flat_map(|p| p.logits.clone()).collect();
        all_reduce(&mut all);
        let summed = all.chunks_exact(self.config.classes.len());
        for (prediction, logits) in predictions.iter_mut().zip(summed) {
            prediction.logits.copy_from_slice(logits);
        }
        compute_metrics(self.config, &predictions)
    }

    /// Scores a share of each batch. The logits of all other samples are zeros. Beside the
    /// predictions, returns labels and alignment distances of the complete samples of the share.
    fn score(
        &self,
        model: &U2a,
        share: Share,
    ) -> Result<(Vec<Prediction>, Vec<LabelledDistances>)> {
        let missing_token = self.options.missing_token;
        let placeholders = self.session.placeholders(missing_token)?;
        let merged = model.merged_encoders()?;
        let present = Some(self.present.clone());
        let batch_size = BATCH_SIZE * share.count;
        let options = self
            .session
            .eval_loader(self.options.split, batch_size, present);
        let options = LoaderOptions { share, ..options };
        let mut loader = Loader::new(&self.session.shards, options, 0, 0)?;
        let mut predictions = Vec::new();
        let mut distances = Vec::new();
        while let Some(batch) = loader.next() {
            let mut batch = batch?;
            let own = share.range(batch.ids.len());
            if let Some(placeholders) = &placeholders {
                placeholders.fill(&mut batch, own.clone());
            }
            let mut logits = vec![vec![0.0; self.config.classes.len()]; batch.ids.len()];
            if !own.is_empty() {
                let part =
                    (own.len() < batch.ids.len()).then(|| micro_batch::part(&batch, own.clone()));
                let scores =
                    model.score(&merged, part.as_ref().unwrap_or(&batch), missing_token)?;
                for (sample, distance) in scores.alignment {
                    distances.push((batch.labels[own.start + sample].clone(), distance));
                }
                logits.splice(own, scores.logits);
            }
            loader.reuse(batch.inputs);
            let samples = batch.ids.into_iter().zip(batch.labels).zip(batch.present);
            for (((id, labels), present), logits) in samples.zip(logits) {
                predictions.push(Prediction {
                    id,
                    labels,
                    present,
                    logits,
                });
            }
        }
        Ok((predictions, distances))
    }
}

/// Refuses options that do not fit a run with these settings.
fn check_options(
    dataset: &str,
    modalities: Modalities,
    settings: &Settings,
    options: &EvalOptions,
) -> Result<()> {
    let token = options.missing_token;
    if settings.adapt.prompt_level().is_some() && token == MissingToken::Mask {
        bail!(
            "--missing-token mask: the run has prompts and no mask tokens; leave it out, or choose zeros"
        );
    }
    if settings.method != Method::U2a && token != MissingToken::Zeros {
        let token = token.to_possible_value().map(|v| v.get_name().to_string());
        bail!(
            "--missing-token {}: method {} reads class tokens only; leave it out",
            token.unwrap_or_default(),
            settings.method.as_str()
        );
    }
    let Some(modality) = options.missing else {
        return Ok(());
    };
    if modalities.position(modality).is_none() {
        bail!("--missing {modality}: {dataset} has {modalities}");
    }
    if modalities.count() == 1 {
        bail!("--missing {modality}: {dataset} has nothing else; leave it out");
    }
    if let Some(only) = settings.modality {
        bail!("--missing {modality}: the run uses {only} alone; leave it out");
    }
    Ok(())
}

fn compute_metrics(config: &RunConfig, predictions: &[Prediction]) -> Result<Metrics> {
    let classes = config.classes.len();
    let logits: Vec<Vec<f32>> = predictions.iter().map(|p| p.logits.clone()).collect();
    if config.multi_label {
        let labels: Vec<Vec<u32>> = predictions.iter().map(|p| p.labels.clone()).collect();
        return Ok(metrics::multi_label(&logits, &labels, classes));
    }
    let label = |p: &Prediction| {
        let label = p.labels.first().copied();
        label.with_context(|| format!("sample {} has no label", p.id))
    };
    let labels = predictions
        .iter()
        .map(label)
        .collect::<Result<Vec<u32>>>()?;
    Ok(metrics::single_label(&logits, &labels, classes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingsOverrides;
    use datasets::{InputName, Modality};

    #[test]
    fn options_that_do_not_fit_the_run_are_refused() {
        let two = Modalities::Two(Modality::Audio, Modality::Video);
        let one = Modalities::One(Modality::Audio);
        let (mask, zeros) = (MissingToken::Mask, MissingToken::Zeros);
        let (audio, video) = (Some("audio"), Some("video"));
        let prompts = Some("adapt=input-prompts");
        for (modalities, setting, missing, missing_token, problem) in [
            (two, None, audio, mask, ""),
            (
                two,
                None,
                Some("text"),
                mask,
                "--missing text: ave has audio",
            ),
            (one, None, audio, mask, "ave has nothing else"),
            (
                two,
                Some("modality=audio"),
                audio,
                zeros,
                "uses audio alone",
            ),
            (
                two,
                Some("modality=audio"),
                video,
                zeros,
                "uses audio alone",
            ),
            (two, Some("modality=audio"), None, zeros, ""),
            (two, prompts, None, mask, "prompts and no mask tokens"),
            (two, prompts, audio, zeros, ""),
            (two, Some("method=qmf"), audio, zeros, ""),
            (
                two,
                Some("method=qmf"),
                audio,
                mask,
                "--missing-token mask: method qmf",
            ),
            (
                two,
                Some("method=mla"),
                None,
                MissingToken::Input,
                "leave it out",
            ),
        ] {
            let setting: Vec<String> = setting.into_iter().map(String::from).collect();
            let overrides = SettingsOverrides::parse(&setting).unwrap();
            let settings = Settings::resolve("ave", modalities, &overrides).unwrap();
            let options = EvalOptions {
                missing: missing.map(|name| name.parse::<InputName>().unwrap()),
                missing_token,
                ..EvalOptions::default()
            };
            let result = check_options("ave", modalities, &settings, &options);
            let error = result.err().map_or(String::new(), |e| e.to_string());
            assert_eq!(error.is_empty(), problem.is_empty(), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }
}
