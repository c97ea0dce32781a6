//! What a run is made of: hyperparameters with the paper's values as defaults, one small file per
//! dataset in `configs/`, and the `config.toml` that a run folder keeps.

use anyhow::{Context, Result, anyhow, bail};
use datasets::Modality;
use engine::{AdamWConfig, Compute, DeviceChoice, Precision, Schedule};
use model::encoder::StoredActivations;
use model::encoder::config::EncoderConfig;
use model::encoder::lora::LoraConfig;
use model::encoder::weights::WeightSource;
use model::loss::{ALIGN_WEIGHT, LossConfig};
use model::ogm_ge::OGM_ALPHA;
use model::peft::ModuleNames;
use model::variant::{Adaptation, Fusion, MissingToken, Modulation, Variant};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use util::suggest::did_you_mean;

/// Everything that can be set, by the names that `--set` and `config.toml` use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Passes over the training split; they also stretch the schedule.
    pub epochs: u64,
    /// Stop after this many steps (0: only write the initial checkpoint); the schedule stays.
    pub max_steps: Option<u64>,
    /// Samples per step.
    pub batch_size: usize,
    /// Samples that go through the encoders at once, to save memory: a step adds up the gradients of
    /// as many parts as it takes, to the same result; unset: all.
    pub micro_batch: Option<usize>,
    /// Base learning rate.
    pub lr: f64,
    /// Epochs at `warmup_factor` times the base rate.
    pub warmup_epochs: usize,
    /// See `warmup_epochs`.
    pub warmup_factor: f64,
    /// Exponent of the polynomial decay.
    pub power: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Which weights of the encoders learn: `lora`, `head` (none) or `full`.
    pub adapt: Adaptation,
    /// The only modality to use; unset: both.
    pub modality: Option<Modality>,
    /// `sum`, `concat`, `film` or `gated-bilinear`.
    pub fusion: Fusion,
    /// Gradient modulation: `none`, `ogm` or `ogm-ge`.
    pub modulation: Modulation,
    /// Alpha of the gradient modulation.
    pub ogm_alpha: f64,
    /// Rank of the adapters.
    pub lora_rank: usize,
    /// Adapters are scaled by `lora_alpha / lora_rank`.
    pub lora_alpha: f64,
    /// Dropout on the adapters' input.
    pub lora_dropout: f64,
    /// Names of the modules in the adapters' files.
    pub module_names: ModuleNames,
    /// Weight of the alignment loss.
    pub align_weight: f64,
    /// Whether the alignment loss leaves class tokens alone.
    pub align_stop_gradient: bool,
    /// Drop one modality of a whole batch now and then; unset: where the training set is complete.
    pub modality_dropout: Option<bool>,
    /// The encoders' own dropout (BERT has 0.1).
    pub encoder_dropout: bool,
    /// What stands in for a missing modality: `mask`, `zeros`, or the encoder's class token on an
    /// empty `input`.
    pub missing_token: MissingToken,
    /// Whether CLIP's tokens are read after or before its last norm.
    pub clip_features: ClipFeatures,
    /// A mask file, or a protocol at `train_mask_rate` and the run's seed.
    pub train_mask: Option<String>,
    /// Missing rate of a protocol given as `train_mask`.
    pub train_mask_rate: f64,
    /// Random order of the training split.
    pub shuffle: bool,
    /// Random crops, flips and frames in training.
    pub augment: bool,
    /// Frames per video.
    pub frames: usize,
    /// Word pieces per text, class and separator included.
    pub text_length: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Number type of the encoders.
    pub precision: Precision,
    /// What the forward pass keeps: all (fast) or each block's input (a third of the memory).
    pub keep: StoredActivations,
    /// A checkpoint every so many steps beside the one at each epoch's end; 0 for none.
    pub checkpoint_every: u64,
    /// Checkpoints that stay.
    pub keep_checkpoints: usize,
}

/// Where CLIP's class token is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipFeatures {
    /// After `post_layernorm`.
    #[default]
    PostNorm,
    /// The last block's output, as Hugging Face's `last_hidden_state`.
    LastHidden,
}

impl Default for Settings {
    fn default() -> Self {
        let adamw = AdamWConfig::default();
        let lora = LoraConfig::default();
        Settings {
            epochs: 10,
            max_steps: None,
            batch_size: 8,
            micro_batch: None,
            lr: 1e-3,
            warmup_epochs: Schedule::WARMUP_EPOCHS,
            warmup_factor: Schedule::WARMUP_FACTOR,
            power: Schedule::POWER,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            weight_decay: adamw.weight_decay,
            adapt: Adaptation::Lora,
            modality: None,
            fusion: Fusion::Sum,
            modulation: Modulation::None,
            ogm_alpha: OGM_ALPHA,
            lora_rank: lora.rank,
            lora_alpha: lora.alpha,
            lora_dropout: lora.dropout,
            module_names: ModuleNames::default(),
            align_weight: ALIGN_WEIGHT,
            align_stop_gradient: false,
            modality_dropout: None,
            encoder_dropout: true,
            missing_token: MissingToken::Mask,
            clip_features: ClipFeatures::PostNorm,
            train_mask: None,
            train_mask_rate: 0.7,
            shuffle: true,
            augment: true,
            frames: 3,
            text_length: 40,
            seed: 0,
            precision: Precision::F32,
            keep: StoredActivations::All,
            checkpoint_every: 0,
            keep_checkpoints: 2,
        }
    }
}

/// The files of `configs/`, built in.
const CONFIGS: [(&str, &str); 5] = [
    ("food-101", include_str!("../../configs/food-101.toml")),
    ("mm-imdb", include_str!("../../configs/mm-imdb.toml")),
    (
        "kinetics-sound",
        include_str!("../../configs/kinetics-sound.toml"),
    ),
    ("ave", include_str!("../../configs/ave.toml")),
    ("crema-d", include_str!("../../configs/crema-d.toml")),
];

impl Settings {
    /// The settings of a dataset (another one takes those of its kind, image-text or audio-video)
    /// with overrides as `key=value`, later ones winning.
    pub fn resolve(
        dataset: &str,
        modalities: [Modality; 2],
        overrides: &[String],
    ) -> Result<Settings> {
        let kind = if modalities.contains(&Modality::Text) {
            "food-101"
        } else {
            "crema-d"
        };
        let file = |name: &str| {
            CONFIGS
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, text)| *text)
        };
        let text = file(dataset).or(file(kind)).unwrap_or_default();
        let mut table: toml::Table =
            toml::from_str(text).with_context(|| format!("configs/{dataset}.toml"))?;
        for pair in overrides {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| anyhow!("--set {pair}: not of the form key=value"))?;
            let (key, value) = (key.trim(), value.trim());
            // A bare word is a string; anything TOML knows is that.
            let parsed = format!("v = {value}")
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut t| t.remove("v"));
            table.insert(
                key.to_string(),
                parsed.unwrap_or_else(|| toml::Value::String(value.to_string())),
            );
        }
        Self::from_table(table).context("--set")
    }

    fn from_table(table: toml::Table) -> Result<Settings> {
        let names = Self::names();
        if let Some(unknown) = table.keys().find(|k| !names.contains(&k.as_str())) {
            let hint = did_you_mean(unknown, names.iter().copied());
            let all = names.join(", ");
            bail!("there is no setting {unknown:?}{hint}; choose one of {all}");
        }
        let settings: Settings = toml::Value::Table(table)
            .try_into()
            .map_err(|e| anyhow!("{}", e.to_string().trim().replace('\n', " ")))?;
        settings.check()?;
        Ok(settings)
    }

    /// All names, in the order of the struct.
    fn names() -> Vec<&'static str> {
        vec![
            "epochs",
            "max_steps",
            "batch_size",
            "micro_batch",
            "lr",
            "warmup_epochs",
            "warmup_factor",
            "power",
            "beta1",
            "beta2",
            "eps",
            "weight_decay",
            "adapt",
            "modality",
            "fusion",
            "modulation",
            "ogm_alpha",
            "lora_rank",
            "lora_alpha",
            "lora_dropout",
            "module_names",
            "align_weight",
            "align_stop_gradient",
            "modality_dropout",
            "encoder_dropout",
            "missing_token",
            "clip_features",
            "train_mask",
            "train_mask_rate",
            "shuffle",
            "augment",
            "frames",
            "text_length",
            "seed",
            "precision",
            "keep",
            "checkpoint_every",
            "keep_checkpoints",
        ]
    }

    fn check(&self) -> Result<()> {
        let positive = [
            ("epochs", self.epochs as usize),
            ("batch_size", self.batch_size),
            ("micro_batch", self.micro_batch.unwrap_or(1)),
            ("lora_rank", self.lora_rank),
            ("frames", self.frames),
            ("keep_checkpoints", self.keep_checkpoints),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            bail!("{name} must be at least 1");
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            bail!("lr must be a positive number, not {}", self.lr);
        }
        for (name, v) in [
            ("lora_dropout", self.lora_dropout),
            ("train_mask_rate", self.train_mask_rate),
        ] {
            if !(0.0..=1.0).contains(&v) || (name == "lora_dropout" && v == 1.0) {
                bail!("{name} must lie in [0, 1), not {v}");
            }
        }
        if self.modality.is_some() && self.fusion != Fusion::Sum {
            bail!("fusion needs two modalities; leave out modality or fusion");
        }
        if self.modulation != Modulation::None {
            if !matches!(self.fusion, Fusion::Sum | Fusion::Concat) || self.modality.is_some() {
                bail!(
                    "modulation weighs two modalities' scores, which only fusion sum and concat have"
                );
            }
            if !(self.ogm_alpha > 0.0 && self.ogm_alpha.is_finite()) {
                bail!(
                    "ogm_alpha must be a positive number, not {}",
                    self.ogm_alpha
                );
            }
        }
        if self.text_length < 3 {
            bail!("text_length must be at least 3: class, one word piece, separator");
        }
        Ok(())
    }

    /// Refuses what the data cannot serve.
    pub fn check_for(&self, modalities: [Modality; 2], multi_label: bool) -> Result<()> {
        if let Some(only) = self.modality
            && !modalities.contains(&only)
        {
            bail!(
                "modality {only}: the data have {} and {}",
                modalities[0],
                modalities[1]
            );
        }
        if multi_label && self.modulation != Modulation::None {
            bail!("modulation is defined for one class per sample; these data have several");
        }
        Ok(())
    }

    /// What kind of model the run trains.
    pub fn variant(&self) -> Variant {
        Variant {
            adaptation: self.adapt,
            modality: self.modality,
            fusion: self.fusion,
            modulation: self.modulation,
            ogm_alpha: self.ogm_alpha,
        }
    }

    /// Settings of the adapters.
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.lora_rank,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
        }
    }

    /// Settings of the optimiser.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
        }
    }

    /// The learning-rate schedule.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            lr: self.lr,
            warmup_epochs: self.warmup_epochs,
            warmup_factor: self.warmup_factor,
            power: self.power,
        }
    }

    /// Whether a run with these settings can be trained on this device.
    pub fn check_device(&self, compute: &Compute) -> Result<()> {
        if self.modulation != Modulation::None && self.micro_batch.is_some() {
            bail!("gradient modulation balances whole batches; leave micro_batch out");
        }
        compute.check_precision(self.precision)?;
        if !compute.device.is_cpu()
            && self.precision == Precision::Bf16
            && self.adapt == Adaptation::Full
        {
            bail!(
                "full fine-tuning keeps its weights in single precision; add --precision f32 or tf32"
            );
        }
        Ok(())
    }

    /// Settings of the loss.
    pub fn loss(&self, multi_label: bool) -> LossConfig {
        LossConfig {
            align_weight: self.align_weight,
            align_stop_gradient: self.align_stop_gradient,
            multi_label,
            missing_token: self.missing_token,
        }
    }
}

/// What a run was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDevice {
    /// The value of `--device`.
    pub asked: DeviceChoice,
    /// What it came to when the run began: `cpu` or `cuda:N`. A run resumed with `auto` stays on the CPU where it
    /// began there, because it continues bit for bit only there.
    pub used: DeviceChoice,
}

/// `RUN/config.toml`: everything that made the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Version of this tool.
    pub version: String,
    /// Dataset name.
    pub dataset: String,
    /// Folder of the shards.
    pub shards: PathBuf,
    /// What the shards held; a changed set is refused on resume.
    pub fingerprint: String,
    /// (m1, m2).
    pub modalities: [Modality; 2],
    /// Class names in canonical order.
    pub classes: Vec<String>,
    /// Whether a sample has several classes.
    pub multi_label: bool,
    /// Where frozen weights come from.
    pub weights: WeightSource,
    /// SHA-256 of the training mask, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_mask_sha256: Option<String>,
    /// The device; runs of earlier versions do not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<RunDevice>,
    /// The settings.
    pub settings: Settings,
    /// Sizes of the two encoders.
    pub encoders: [EncoderConfig; 2],
}

pub use report::CONFIG_FILE;

impl RunConfig {
    /// Reads `RUN/config.toml`.
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

#[cfg(test)]
mod tests {
    use super::*;

    const AV: [Modality; 2] = [Modality::Audio, Modality::Video];

    #[test]
    fn the_papers_table_5() {
        for (name, modalities, lr, epochs, batch) in [
            ("food-101", [Modality::Image, Modality::Text], 1e-3, 10, 8),
            ("mm-imdb", [Modality::Image, Modality::Text], 1e-3, 10, 8),
            ("kinetics-sound", AV, 5e-5, 100, 4),
            ("ave", AV, 5e-5, 100, 4),
            ("crema-d", AV, 5e-5, 100, 4),
            ("mine", AV, 5e-5, 100, 4),
        ] {
            let s = Settings::resolve(name, modalities, &[]).unwrap();
            assert_eq!(
                (s.lr, s.epochs, s.batch_size),
                (lr, epochs, batch),
                "{name}"
            );
            assert_eq!(
                (s.power, s.eps, s.weight_decay, s.align_weight),
                (0.9, 1e-8, 0.02, 0.2)
            );
            assert_eq!((s.lora_rank, s.lora_alpha, s.warmup_epochs), (1, 1.0, 5));
        }
        assert_eq!(
            Settings::resolve("mm-imdb", [Modality::Image, Modality::Text], &[])
                .unwrap()
                .text_length,
            256
        );
    }

    /// Table 5 against the settings that a run of each kind starts from.
    #[test]
    fn hyperparameters_are_the_settings_defaults() {
        use datasets::Modality::{Audio, Image, Text, Video};
        for (column, modalities, names) in [
            ("image_text", [Image, Text], &["food-101", "mm-imdb"][..]),
            (
                "audio_video",
                [Audio, Video],
                &["ave", "crema-d", "kinetics-sound"],
            ),
        ] {
            for name in names {
                let settings = Settings::resolve(name, modalities, &[]).unwrap();
                let ours = serde_json::to_value(&settings).unwrap();
                for row in report::paper::PaperTable::open(5).unwrap().rows() {
                    let cell = |c: &str| row.iter().find(|(name, _)| *name == c).unwrap().1;
                    let (key, paper) = (cell("setting"), cell(column));
                    if paper.is_empty() {
                        continue;
                    }
                    let paper: f64 = paper.parse().unwrap();
                    assert_eq!(ours[key].as_f64(), Some(paper), "{name} {key}");
                }
            }
        }
    }

    #[test]
    fn reports_have_the_same_defaults() {
        let ours = toml::Table::try_from(Settings::default()).unwrap();
        let shown = report::RunSettings::default();
        assert_eq!(ours["seed"].as_integer(), Some(shown.seed as i64));
        assert_eq!(ours["adapt"].as_str(), Some(shown.adapt.as_str()));
        assert_eq!(ours["fusion"].as_str(), Some(shown.fusion.as_str()));
        let token = shown.missing_token.as_str();
        assert_eq!(ours["missing_token"].as_str(), Some(token));
        assert_eq!((ours.get("train_mask"), shown.train_mask), (None, None));
    }

    #[test]
    fn names_are_those_of_the_struct() {
        let full = Settings {
            max_steps: Some(1),
            micro_batch: Some(1),
            modality_dropout: Some(true),
            modality: Some(Modality::Audio),
            train_mask: Some("x".into()),
            ..Settings::default()
        };
        let table = toml::Table::try_from(full).unwrap();
        let mut names: Vec<&str> = table.keys().map(String::as_str).collect();
        let mut listed = Settings::names();
        names.sort_unstable();
        listed.sort_unstable();
        assert_eq!(names, listed);
    }

    #[test]
    fn overrides() {
        let set = |pairs: &[&str]| {
            Settings::resolve(
                "ave",
                AV,
                &pairs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        let s = set(&[
            "lr=0.1",
            "train_mask=missing-audio",
            "shuffle = false",
            "clip_features=last_hidden",
        ])
        .unwrap();
        assert_eq!(
            (s.lr, s.shuffle, s.clip_features),
            (0.1, false, ClipFeatures::LastHidden)
        );
        assert_eq!(s.train_mask.as_deref(), Some("missing-audio"));
        let message = |pairs: &[&str]| format!("{:#}", set(pairs).unwrap_err());
        assert!(message(&["lora_rnk=2"]).contains("\"lora_rank\""));
        assert!(
            message(&["lr=fast"]).contains("lr"),
            "{}",
            message(&["lr=fast"])
        );
        assert!(message(&["batch_size=0"]).contains("batch_size"));
        assert!(message(&["lr"]).contains("key=value"));
    }
}
