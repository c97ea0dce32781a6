//! Values that take the place of defaults: those of flags, of `--set` and of `configs/`.

use super::{ClipFeatures, Settings};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use datasets::InputName;
use engine::Precision;
use model::encoder::StoredActivations;
use model::peft::ModuleNames;
use model::variant::{Adaptation, Fusion, Method, MissingToken, Modulation};
use serde::{Deserialize, Serialize};
use util::suggest::did_you_mean;

/// A value for each of the [`Settings`] that is not to have its default.
///
/// The comments of those that are flags are the help text of these flags; `--set` and `configs/`
/// name them all.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[command(next_help_heading = "Settings (written to config.toml)")]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "Settings documents its fields of the same names"
)]
pub struct SettingsOverrides {
    /// Passes over the training split
    #[arg(long)]
    pub epochs: Option<u64>,
    /// Stop after this many steps; 0 writes the initial checkpoint and stops
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Samples per step
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Samples that are computed at once, to save memory; a step accumulates the gradients of its
    /// micro-batches [default: the whole batch]
    #[arg(long)]
    pub micro_batch: Option<usize>,
    /// Base learning rate
    #[arg(long)]
    pub lr: Option<f64>,
    #[arg(skip)]
    pub warmup_epochs: Option<usize>,
    #[arg(skip)]
    pub warmup_factor: Option<f64>,
    #[arg(skip)]
    pub power: Option<f64>,
    #[arg(skip)]
    pub beta1: Option<f64>,
    #[arg(skip)]
    pub beta2: Option<f64>,
    #[arg(skip)]
    pub eps: Option<f64>,
    #[arg(skip)]
    pub weight_decay: Option<f64>,
    /// Method that is trained; those other than u2a are compared with it [default: u2a]
    #[arg(long)]
    pub method: Option<Method>,
    #[arg(skip)]
    pub qmf_lambda: Option<f64>,
    #[arg(skip)]
    pub qmf_temperature: Option<f64>,
    #[arg(skip)]
    pub pmr_alpha: Option<f64>,
    #[arg(skip)]
    pub pmr_momentum: Option<f64>,
    #[arg(skip)]
    pub pmr_entropy: Option<f64>,
    #[arg(skip)]
    pub pmr_entropy_epochs: Option<u64>,
    #[arg(skip)]
    pub g_blend_epochs: Option<u64>,
    #[arg(skip)]
    pub mla_lambda: Option<f64>,
    #[arg(skip)]
    pub mmlora_first_epochs: Option<u64>,
    /// Weights of the encoders that are trained [default: lora]
    #[arg(long)]
    pub adapt: Option<Adaptation>,
    /// Train on one modality alone: audio, video, image or text (image_a or image_b of two images)
    #[arg(long)]
    pub modality: Option<InputName>,
    /// How the tokens of the two encoders become one feature vector [default: sum; concat for pmr]
    #[arg(long)]
    pub fusion: Option<Fusion>,
    /// Gradient modulation of the encoders (OGM-GE) [default: none]
    #[arg(long)]
    pub modulation: Option<Modulation>,
    #[arg(skip)]
    pub ogm_alpha: Option<f64>,
    #[arg(skip)]
    pub prompt_length: Option<usize>,
    #[arg(skip)]
    pub prompt_layers: Option<usize>,
    /// Rank of the LoRA adapters
    #[arg(long)]
    pub lora_rank: Option<usize>,
    #[arg(skip)]
    pub lora_alpha: Option<f64>,
    /// Dropout on the input of the LoRA adapters
    #[arg(long)]
    pub lora_dropout: Option<f64>,
    #[arg(skip)]
    pub module_names: Option<ModuleNames>,
    /// Weight of the alignment loss
    #[arg(long)]
    pub align_weight: Option<f64>,
    #[arg(skip)]
    pub align_stop_gradient: Option<bool>,
    /// Modality dropout: hide one modality of a whole batch at random [default: on if at
    /// most 5 % of the training samples lack a modality, by themselves or by the mask]
    #[arg(long, value_parser = on_or_off())]
    pub modality_dropout: Option<bool>,
    /// Dropout inside the encoders, as in their pretraining
    #[arg(long, value_parser = on_or_off())]
    pub encoder_dropout: Option<bool>,
    /// Token that stands for a missing modality [default: mask]
    #[arg(long)]
    pub missing_token: Option<MissingToken>,
    #[arg(skip)]
    pub clip_features: Option<ClipFeatures>,
    /// Missing-modality mask of the training split: a file, or a protocol (missing-audio,
    /// missing-both, ...) at rate 0.7 and the run's seed
    #[arg(long, value_name = "FILE|PROTOCOL")]
    pub train_mask: Option<String>,
    #[arg(skip)]
    pub train_mask_rate: Option<f64>,
    #[arg(skip)]
    pub shuffle: Option<bool>,
    /// Augmentation: random crops, flips and video frames
    #[arg(long, value_parser = on_or_off())]
    pub augment: Option<bool>,
    #[arg(skip)]
    pub frames: Option<usize>,
    #[arg(skip)]
    pub text_length: Option<usize>,
    /// Seed of everything random
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number format of the matrix products [default: bf16 on a GPU that has it, else f32]
    #[arg(long)]
    pub precision: Option<Precision>,
    /// Give the same numbers on every x86-64 processor with AVX2 and with any number of threads; on
    /// the CPU, in f32
    #[arg(long, num_args = 0, default_missing_value = "on", value_parser = on_or_off())]
    pub reproducible: Option<bool>,
    #[arg(skip)]
    pub keep: Option<StoredActivations>,
    /// Steps between two checkpoints, beside the one at the end of each epoch; 0 for none
    #[arg(long)]
    pub checkpoint_every: Option<u64>,
    #[arg(skip)]
    pub keep_checkpoints: Option<usize>,
}

/// Parses `on` and `off`.
fn on_or_off() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|value| value == "on")
}

impl SettingsOverrides {
    /// Parses the values of `--set`, each of the form `key=value`. Of two values for a key the
    /// later one counts.
    ///
    /// # Errors
    /// There is no such setting, or the value has the wrong type.
    pub fn parse(pairs: &[String]) -> Result<SettingsOverrides> {
        let names = setting_names();
        let mut table = toml::Table::new();
        for pair in pairs {
            let (key, value) = pair
                .split_once('=')
                .map(|(key, value)| (key.trim(), value.trim()))
                .ok_or_else(|| anyhow!("--set {pair}: is not of the form key=value"))?;
            if !names.iter().any(|name| name == key) {
                bail!(
                    "--set {pair}: there is no setting {key:?}{}; choose one of {}",
                    did_you_mean(key, names.iter().map(String::as_str)),
                    names.join(", ")
                );
            }
            table.insert(key.to_string(), parse_value(value));
        }
        Self::from_table(table).context("--set")
    }

    /// These values with those of `other` in their place where it has one.
    pub(crate) fn updated_with(&self, other: &SettingsOverrides) -> Result<SettingsOverrides> {
        let mut table = self.to_table()?;
        table.extend(other.to_table()?);
        Self::from_table(table)
    }

    /// Refuses settings that nothing in the run would read: those of other methods, and of two
    /// modalities if the run has `one_modality`.
    ///
    /// # Errors
    /// There is one, such as `qmf_lambda` with another method than QMF.
    pub fn check_read(&self, one_modality: bool) -> Result<()> {
        let method = self.method.unwrap_or_default();
        let adapt = self.adapt.unwrap_or_default();
        for name in self.to_table()?.keys() {
            let (is_read, reader) = match &name[..] {
                "qmf_lambda" | "qmf_temperature" => (method == Method::Qmf, "method qmf"),
                "pmr_alpha" | "pmr_momentum" | "pmr_entropy" | "pmr_entropy_epochs" => {
                    (method == Method::Pmr, "method pmr")
                }
                "g_blend_epochs" => (method == Method::GBlend, "method g-blend"),
                "mla_lambda" => (method == Method::Mla, "method mla"),
                "mmlora_first_epochs" => (method == Method::Mmlora, "method mmlora"),
                "ogm_alpha" => (
                    self.modulation.unwrap_or_default() != Modulation::None,
                    "modulation ogm or ogm-ge",
                ),
                "prompt_length" | "prompt_layers" => (
                    adapt.prompt_level().is_some(),
                    "adapt input-prompts or attention-prompts",
                ),
                "lora_rank" | "lora_alpha" => (adapt == Adaptation::Lora, "adapt lora"),
                // What is switched off anyway may be switched off.
                "missing_token" if self.missing_token != Some(MissingToken::Zeros) => {
                    (!one_modality, "a run on two modalities")
                }
                "align_weight" if self.align_weight != Some(0.0) => {
                    (!one_modality, "a run on two modalities")
                }
                "modality_dropout" if self.modality_dropout == Some(true) => {
                    (!one_modality, "a run on two modalities")
                }
                _ => continue,
            };
            if !is_read {
                bail!("{name}: only {reader} reads it; leave it out");
            }
        }
        Ok(())
    }

    /// The overridden settings as `key=value`, in alphabetical order.
    pub(crate) fn assignments(&self) -> Result<Vec<String>> {
        let assignment = |(key, value): (String, toml::Value)| match value {
            toml::Value::String(text) => format!("{key}={text}"),
            value => format!("{key}={value}"),
        };
        Ok(self.to_table()?.into_iter().map(assignment).collect())
    }

    /// The overridden settings by name; those without a value are left out.
    pub(super) fn to_table(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).context("a setting is too large to be written to config.toml")
    }

    fn from_table(table: toml::Table) -> Result<SettingsOverrides> {
        table
            .try_into()
            .map_err(|error| anyhow!("{}", error.to_string().trim().replace('\n', " ")))
    }
}

/// Reads a value as TOML. What is no TOML, such as a bare word, is a string.
fn parse_value(value: &str) -> toml::Value {
    let table = format!("v = {value}").parse::<toml::Table>().ok();
    let parsed = table.and_then(|mut table| table.remove("v"));
    parsed.unwrap_or_else(|| toml::Value::String(value.to_string()))
}

/// The names of all settings, in the order of [`Settings`].
fn setting_names() -> Vec<String> {
    // JSON has a null for each optional setting, where TOML leaves it out.
    match serde_json::to_value(Settings::default()) {
        Ok(serde_json::Value::Object(settings)) => settings.into_iter().map(|(k, _)| k).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Modality;

    fn message(pairs: &[&str]) -> String {
        let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
        format!("{:#}", SettingsOverrides::parse(&pairs).unwrap_err())
    }

    #[test]
    fn each_setting_can_be_overridden() {
        let names = setting_names();
        assert_eq!(names.len(), 51);
        // With every setting given, both structs have to have the same fields.
        let full = Settings {
            max_steps: Some(1),
            micro_batch: Some(1),
            mmlora_first_epochs: Some(1),
            modality_dropout: Some(true),
            modality: Some(Modality::Audio.into()),
            train_mask: Some("x".into()),
            ..Settings::default()
        };
        let table = toml::Table::try_from(full).unwrap();
        assert_eq!(table.len(), names.len());
        let overrides = SettingsOverrides::from_table(table.clone()).unwrap();
        assert_eq!(overrides.to_table().unwrap(), table);
    }

    #[test]
    fn later_values_replace_earlier_ones() {
        let parse = |pairs: &[&str]| {
            let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
            SettingsOverrides::parse(&pairs).unwrap()
        };
        let first = parse(&["lr=1", "lr = 0.1", "shuffle=false", "fusion=gated-bilinear"]);
        assert_eq!((first.lr, first.shuffle), (Some(0.1), Some(false)));
        assert_eq!(first.fusion, Some(Fusion::GatedBilinear));
        let updated = first
            .updated_with(&parse(&["lr=2", "keep=inputs"]))
            .unwrap();
        assert_eq!(
            updated.assignments().unwrap(),
            [
                "fusion=gated-bilinear",
                "keep=inputs",
                "lr=2.0",
                "shuffle=false"
            ]
        );
    }

    #[test]
    fn settings_that_nothing_reads_are_refused() {
        let check = |words: &str, one_modality| {
            let pairs: Vec<String> = words.split(' ').map(String::from).collect();
            let overrides = SettingsOverrides::parse(&pairs).unwrap();
            let error = overrides.check_read(one_modality).err();
            error.map_or(String::new(), |error| error.to_string())
        };
        for (words, reader) in [
            ("qmf_lambda=1", "method qmf"),
            ("method=qmf pmr_entropy_epochs=2", "method pmr"),
            ("method=pmr g_blend_epochs=2", "method g-blend"),
            ("method=qmf mla_lambda=1", "method mla"),
            ("mmlora_first_epochs=2", "method mmlora"),
            ("ogm_alpha=0.5", "modulation"),
            ("prompt_length=4", "prompts"),
            ("adapt=head prompt_layers=4", "prompts"),
            ("adapt=input-prompts lora_rank=2", "adapt lora"),
        ] {
            let error = check(words, false);
            assert!(error.contains(reader), "{words}: {error}");
        }
        for words in [
            "missing_token=input",
            "align_weight=0.3",
            "modality_dropout=true",
        ] {
            assert_eq!(check(words, false), "", "{words}");
            assert!(check(words, true).contains("two modalities"), "{words}");
        }
        for words in [
            "method=qmf qmf_lambda=1 lora_rank=2",
            "modulation=ogm ogm_alpha=0.5",
            "adapt=attention-prompts prompt_length=4",
            "align_weight=0.0 modality_dropout=false missing_token=zeros",
        ] {
            assert_eq!(check(words, true), "", "{words}");
        }
    }

    #[test]
    fn wrong_values_of_set_are_named() {
        let typo = message(&["lora_rnk=2"]);
        assert!(
            typo.contains("--set lora_rnk=2") && typo.contains("\"lora_rank\""),
            "{typo}"
        );
        let type_error = message(&["lr=fast"]);
        assert!(
            type_error.contains("--set") && type_error.contains("lr"),
            "{type_error}"
        );
        assert!(message(&["precision=f16"]).contains("bf16"));
        assert!(message(&["lr"]).contains("key=value"));
    }
}
