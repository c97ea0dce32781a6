//! A run folder: its configuration, its losses and its evaluations, as reports read them.

use anyhow::{Context, Result, anyhow};
use datasets::{InputName, Modalities};
use features::Folder;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The name of a run's configuration.
pub const CONFIG_FILE: &str = "config.toml";

/// The name of a run's log: one JSON line per step and per evaluation during training.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Returns the name of the file with the scores of an evaluation.
pub fn evaluation_file(name: &str) -> String {
    format!("eval-{name}.json")
}

/// Returns the name of the file with the predictions of an evaluation.
pub fn predictions_file(name: &str) -> String {
    format!("predictions-{name}.parquet")
}

/// Returns the metric that chooses the best checkpoint and heads a report.
pub fn main_metric(multi_label: bool) -> &'static str {
    if multi_label { "f1_macro" } else { "accuracy" }
}

/// The part of a run's `config.toml` that reports show. The file has more keys.
#[derive(Clone, Debug, Deserialize)]
pub struct RunDescription {
    /// The name of the dataset.
    pub dataset: String,
    /// The path or URL of the folder of shards.
    pub shards: Folder,
    /// The modalities, in the dataset's order.
    pub modalities: Modalities,
    /// The names of the classes, in canonical order.
    pub classes: Vec<String>,
    /// Whether a sample has several classes.
    pub multi_label: bool,
    /// The hyperparameters.
    pub settings: RunSettings,
    /// The sizes of the encoders; of no meaning for a modality that is not used.
    pub encoders: Vec<EncoderSize>,
    /// The text of the file.
    #[serde(skip)]
    pub text: String,
}

/// The hyperparameters that reports show, by their names and values in `config.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct RunSettings {
    /// The seed.
    pub seed: u64,
    /// The method that was trained.
    pub method: String,
    /// Which weights of the encoders learn.
    pub adapt: String,
    /// How the two encoders' tokens are fused.
    pub fusion: String,
    /// What stands in for a missing modality.
    pub missing_token: String,
    /// The missing-modality mask of the training split: a file or a protocol.
    pub train_mask: Option<String>,
    /// The only modality that is used, if not both are.
    pub modality: Option<InputName>,
    /// The number of frames that the model is given of a video.
    pub frames: usize,
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            seed: 0,
            method: "u2a".to_string(),
            adapt: "lora".to_string(),
            fusion: "sum".to_string(),
            missing_token: "mask".to_string(),
            train_mask: None,
            modality: None,
            frames: 3,
        }
    }
}

impl RunSettings {
    /// Returns the name of the method as its authors write it.
    pub(crate) fn method_title(&self) -> &str {
        match (self.method.as_str(), self.adapt.as_str()) {
            ("u2a", "input-prompts" | "attention-prompts") => "Missing-aware prompts",
            ("u2a", _) => "U2A",
            ("qmf", _) => "QMF",
            ("g-blend", _) => "G-Blend",
            ("pmr", _) => "PMR",
            ("mla", _) => "MLA",
            ("mmlora", _) => "MMLoRA",
            (other, _) => other,
        }
    }
}

/// The size of an encoder.
#[derive(Clone, Debug, Deserialize)]
pub struct EncoderSize {
    /// The architecture: `clip`, `bert` or `ast`.
    pub kind: String,
    /// The number of blocks.
    pub layers: usize,
    /// The width of a token.
    pub hidden: usize,
}

impl RunDescription {
    /// Returns the only input that the model uses; `None` if it uses two.
    pub(crate) fn only_input(&self) -> Option<InputName> {
        let one = self.modalities.count() == 1;
        let only = one.then(|| self.modalities.name(0));
        self.settings.modality.or(only)
    }

    /// Returns what stands for a missing modality: `mask`, `zeros` or `input`, as in the settings,
    /// or `nothing` where the method leaves it out of its sums.
    pub(crate) fn stand_in(&self) -> &str {
        match self.settings.method.as_str() {
            "qmf" | "mla" => "nothing",
            _ => &self.settings.missing_token,
        }
    }

    /// Reads `RUN/config.toml`.
    ///
    /// # Errors
    /// The file cannot be read, or is not the configuration of a run.
    pub fn read(run: &Path) -> Result<RunDescription> {
        let path = run.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: cannot be read; {} is not a run folder made by `train run`",
                path.display(),
                run.display()
            )
        })?;
        let mut description: RunDescription = toml::from_str(&text).map_err(|e| {
            anyhow!(
                "{}: {}; the file was changed or comes from another version",
                path.display(),
                e.to_string().trim().replace('\n', " ")
            )
        })?;
        description.text = text;
        Ok(description)
    }
}

/// A step of a run, as `metrics.jsonl` has it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Step {
    /// Its number; the first is 1.
    pub step: u64,
    /// The loss: that of the task plus the weighted one of the alignment.
    pub loss: f64,
    /// The loss of the task.
    pub task_loss: Option<f64>,
    /// The alignment loss, before its weight.
    pub align_loss: Option<f64>,
    /// The learning rate.
    pub lr: Option<f64>,
}

/// All that a report shows of one run but its samples.
pub struct RunSummary {
    /// The run folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: RunDescription,
    /// Its steps.
    pub steps: Vec<Step>,
    /// The main metric on the validation split, after each step with an evaluation.
    pub validation: Vec<(u64, f64)>,
    /// The contents of `eval-NAME.json`, by NAME.
    pub evaluations: BTreeMap<String, Value>,
}

impl RunSummary {
    /// Reads `config.toml`, `metrics.jsonl` and each `eval-*.json` of a run. A run without
    /// `metrics.jsonl` has no steps; lines that are neither steps nor evaluations are skipped.
    ///
    /// # Errors
    /// A file cannot be read, or is not what its name says.
    pub fn read(run: &Path) -> Result<RunSummary> {
        let config = RunDescription::read(run)?;
        let path = run.join(METRICS_FILE);
        let text = if path.exists() {
            fs::read_to_string(&path).with_context(|| path.display().to_string())?
        } else {
            String::new()
        };
        let metric = main_metric(config.multi_label);
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (mut steps, mut validation) = (Vec::new(), Vec::new());
        for line in lines {
            if line["split"] == "val" {
                let score = line["step"].as_u64().zip(line["metrics"][metric].as_f64());
                validation.extend(score);
            } else {
                // A loss that is not a number is written as null.
                steps.extend(serde_json::from_value::<Step>(line));
            }
        }
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
            folder: run.to_path_buf(),
            config,
            steps,
            validation,
            evaluations,
        })
    }

    /// Returns the evaluation of the default checkpoint on the test split with this modality
    /// missing from all samples, and with this token in place of missing ones.
    pub fn test_evaluation(&self, missing: Option<InputName>, token: &str) -> Option<&Value> {
        Some(self.find_test_evaluation(missing, token)?.1)
    }

    /// Returns [`RunSummary::test_evaluation`] with its name.
    pub(crate) fn find_test_evaluation(
        &self,
        missing: Option<InputName>,
        token: &str,
    ) -> Option<(&str, &Value)> {
        let missing = missing.map(InputName::as_str);
        let all = self
            .evaluations
            .iter()
            .map(|(name, json)| (name.as_str(), json));
        all.into_iter().find(|(_, json)| {
            json["split"] == "test"
                && json["protocol"].is_null()
                && json["missing"].as_str() == missing
                && json["missing_token"].as_str().unwrap_or("mask") == token
                // Evaluations of earlier versions do not say which checkpoint they are of.
                && json["default_checkpoint"] != false
        })
    }

    /// Returns the name of the run, which is that of its folder.
    pub fn name(&self) -> String {
        self.folder.file_name().map_or_else(
            || self.folder.display().to_string(),
            |n| n.to_string_lossy().into_owned(),
        )
    }
}

/// Returns how many samples of an evaluation keep the input that is missing from the others, because
/// they have nothing else, and the number of all; `None` if there are none.
pub(crate) fn kept_samples(evaluation: &Value) -> Option<(u64, u64)> {
    let counts = &evaluation["counts"];
    let kept = counts["kept_for_lack_of_another"].as_u64();
    kept.filter(|kept| *kept > 0)
        .zip(counts["samples"].as_u64())
}

#[cfg(test)]
mod tests {
    use crate::test_runs::{TestRun, evaluation};
    use datasets::Modality;
    use serde_json::json;

    #[test]
    fn metrics_have_steps_and_validation_scores() {
        let folder = tempfile::tempdir().unwrap();
        let run = TestRun {
            metrics: &[
                json!({"step": 1, "loss": 2.5, "task_loss": 2.0, "align_loss": 2.5, "lr": 0.1}),
                // A loss that is not a number.
                json!({"step": 2, "loss": null, "task_loss": null, "align_loss": 1.0}),
                json!({"step": 2, "epoch": 0, "split": "val", "metrics": {"accuracy": 0.25}}),
                // Of an earlier version.
                json!({"step": 3, "loss": 1.5}),
            ],
            ..TestRun::default()
        };
        let run = run.write(folder.path(), "run");
        let losses: Vec<_> = run
            .steps
            .iter()
            .map(|s| (s.step, s.loss, s.task_loss))
            .collect();
        assert_eq!(losses, [(1, 2.5, Some(2.0)), (3, 1.5, None)]);
        assert_eq!(run.validation, [(2, 0.25)]);
    }

    #[test]
    fn evaluations_of_other_checkpoints_are_not_those_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = evaluation(None, "mask", [0.1; 2]);
        other["default_checkpoint"] = false.into();
        let run = TestRun {
            evaluations: &[
                ("test-checkpoint-00000120", other),
                ("test-no-audio", evaluation(Some("audio"), "mask", [0.2; 2])),
            ],
            ..TestRun::default()
        };
        let run = run.write(folder.path(), "run");
        assert!(run.test_evaluation(None, "mask").is_none());
        assert!(
            run.test_evaluation(Some(Modality::Audio.into()), "zeros")
                .is_none()
        );
        let found = run.find_test_evaluation(Some(Modality::Audio.into()), "mask");
        assert_eq!(found.unwrap().0, "test-no-audio");
    }
}
