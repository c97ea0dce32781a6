//! A run folder: its configuration, its losses and its evaluations, as reports read them.

use anyhow::{Context, Result, anyhow};
use datasets::Modality;
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
    /// The two modalities, in the dataset's order.
    pub modalities: [Modality; 2],
    /// The names of the classes, in canonical order.
    pub classes: Vec<String>,
    /// Whether a sample has several classes.
    pub multi_label: bool,
    /// The hyperparameters.
    pub settings: RunSettings,
    /// The sizes of the two encoders.
    pub encoders: [EncoderSize; 2],
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
    /// Which weights of the encoders learn.
    pub adapt: String,
    /// How the two encoders' tokens are fused.
    pub fusion: String,
    /// What stands in for a missing modality.
    pub missing_token: String,
    /// The missing-modality mask of the training split: a file or a protocol.
    pub train_mask: Option<String>,
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            seed: 0,
            adapt: "lora".to_string(),
            fusion: "sum".to_string(),
            missing_token: "mask".to_string(),
            train_mask: None,
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

/// All that a report shows of one run but its samples.
pub struct RunSummary {
    /// The run folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: RunDescription,
    /// The number of each step, and its loss.
    pub losses: Vec<(u64, f64)>,
    /// The contents of `eval-NAME.json`, by NAME.
    pub evaluations: BTreeMap<String, Value>,
}

impl RunSummary {
    /// Reads `config.toml`, `metrics.jsonl` and each `eval-*.json` of a run. A run without
    /// `metrics.jsonl` has no losses; lines that are no steps are skipped.
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
            folder: run.to_path_buf(),
            config,
            losses,
            evaluations,
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
