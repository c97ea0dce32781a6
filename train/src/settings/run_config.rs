//! The `config.toml` of a run folder.

use super::Settings;
use anyhow::{Context, Result, anyhow};
use datasets::Modalities;
use engine::DeviceChoice;
use features::Folder;
use model::encoder::config::EncoderConfig;
use model::encoder::weights::WeightSource;
use report::CONFIG_FILE;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The device that a run was asked to use, and the one that it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDevice {
    /// The value of `--device`.
    pub asked: DeviceChoice,
    /// The device that it stood for when the run began: `cpu` or `cuda:N`. A run that began on the
    /// CPU and is resumed with `auto` stays there, because it continues bit for bit only there.
    pub used: DeviceChoice,
}

/// The content of `RUN/config.toml`: everything that determines the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Version of this program.
    pub version: String,
    /// Name of the dataset.
    pub dataset: String,
    /// Path or URL of the folder of shards.
    pub shards: Folder,
    /// Fingerprint of the samples in the shards; a run is not resumed on other samples.
    pub fingerprint: String,
    /// The modalities of the dataset, in the order of the encoders.
    pub modalities: Modalities,
    /// Class names in canonical order.
    pub classes: Vec<String>,
    /// Whether a sample may have several classes.
    pub multi_label: bool,
    /// Source of the frozen weights.
    pub weights: WeightSource,
    /// SHA-256 of the training split's missing-modality mask, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_mask_sha256: Option<String>,
    /// The device; runs of earlier versions do not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<RunDevice>,
    /// The settings.
    pub settings: Settings,
    /// Sizes of the encoders; the smallest ones for a modality that is not used.
    pub encoders: Vec<EncoderConfig>,
}

impl RunConfig {
    /// Reads `RUN/config.toml`.
    ///
    /// # Errors
    /// The file cannot be read, or its settings are invalid.
    pub fn read(run: &Path) -> Result<RunConfig> {
        let path = run.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: cannot be read; {} is not a run folder made by `train run`",
                path.display(),
                run.display()
            )
        })?;
        let config: RunConfig = toml::from_str(&text).map_err(|e| {
            anyhow!(
                "{}: {}; the file was changed or comes from another version",
                path.display(),
                e.to_string().trim().replace('\n', " ")
            )
        })?;
        config
            .settings
            .check()
            .with_context(|| path.display().to_string())?;
        Ok(config)
    }

    /// The text of `RUN/config.toml`.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}
