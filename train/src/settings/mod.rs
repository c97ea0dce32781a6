//! Hyperparameters, with the paper's values as defaults.
//!
//! [`Settings`] are complete. They come from three layers, of which the later ones win: the file of
//! the dataset in `configs/`, `--set key=value`, and flags. Each layer is a [`SettingsOverrides`].
//! A run folder keeps them in its [`RunConfig`].

mod method;
mod modality_dropout;
mod overrides;
mod run_config;

pub use overrides::SettingsOverrides;
pub use run_config::{RunConfig, RunDevice};

use anyhow::{Context, Result, anyhow, bail};
use datasets::{InputName, Modalities, Modality};
use engine::{AdamWConfig, Compute, Precision, Schedule};
use model::encoder::StoredActivations;
use model::encoder::lora::LoraConfig;
use model::encoder::prompts::{PromptConfig, PromptLevel};
use model::loss::{ALIGN_WEIGHT, LossConfig};
use model::ogm_ge::OGM_ALPHA;
use model::peft::ModuleNames;
use model::variant::{
    Adaptation, Fusion, Method, MethodSettings, MissingToken, Modulation, Variant,
};
use serde::{Deserialize, Serialize};

/// The settings of a run, by the names that `--set` and `config.toml` use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Passes over the training split. The learning-rate schedule stretches over them.
    pub epochs: u64,
    /// Steps after which training stops, without a change of the schedule. With 0 only the initial
    /// checkpoint is written.
    pub max_steps: Option<u64>,
    /// Samples per step.
    pub batch_size: usize,
    /// Samples that are computed at once, to save memory. A step accumulates the gradients of its
    /// micro-batches, with the same result. Without a value, the whole batch is computed at once.
    pub micro_batch: Option<usize>,
    /// Base learning rate.
    pub lr: f64,
    /// Epochs at `warmup_factor` times the base learning rate.
    pub warmup_epochs: usize,
    /// Factor of the learning rate during the warm-up.
    pub warmup_factor: f64,
    /// Exponent of the polynomial decay of the learning rate.
    pub power: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The method that is trained. Methods other than U2A have an objective of their own.
    pub method: Method,
    /// Weight of QMF's ranking regulariser.
    pub qmf_lambda: f64,
    /// Temperature of QMF's energy score.
    pub qmf_temperature: f64,
    /// Weight of PMR's prototype losses.
    pub pmr_alpha: f64,
    /// Share of the old prototypes in PMR's new ones.
    pub pmr_momentum: f64,
    /// Weight of PMR's entropies.
    pub pmr_entropy: f64,
    /// First epochs, in which PMR's entropies count.
    pub pmr_entropy_epochs: u64,
    /// Epochs after which G-Blend estimates its weights again: a super-epoch.
    pub g_blend_epochs: u64,
    /// Lambda of MLA's recursive least squares.
    pub mla_lambda: f64,
    /// Epochs of MMLoRA's first stage, in which the encoders are fine-tuned each for itself. Without
    /// a value, they are half of `epochs`.
    pub mmlora_first_epochs: Option<u64>,
    /// Weights of the encoders that are trained.
    pub adapt: Adaptation,
    /// The only modality that is used. Without a value, the model uses all that the data have.
    pub modality: Option<InputName>,
    /// How the tokens of the two encoders become one feature vector.
    pub fusion: Fusion,
    /// Gradient modulation of the encoders (OGM-GE).
    pub modulation: Modulation,
    /// Alpha of the gradient modulation.
    pub ogm_alpha: f64,
    /// Missing-aware prompts in each block that has them, with `adapt` of `input-prompts` or
    /// `attention-prompts`, which needs an even number.
    pub prompt_length: usize,
    /// Blocks of an encoder with missing-aware prompts, from the first one on; an encoder with
    /// fewer blocks has them in all.
    pub prompt_layers: usize,
    /// Rank of the LoRA adapters.
    pub lora_rank: usize,
    /// The LoRA adapters are scaled by `lora_alpha / lora_rank`.
    pub lora_alpha: f64,
    /// Dropout on the input of the LoRA adapters.
    pub lora_dropout: f64,
    /// Version of transformers whose module names the adapters' files use.
    pub module_names: ModuleNames,
    /// Weight of the alignment loss. With prompts there is none, and it is 0.
    pub align_weight: f64,
    /// Whether the alignment loss sends no gradient into the class tokens.
    pub align_stop_gradient: bool,
    /// Modality dropout: whether one modality of a whole batch is hidden at random. Without a
    /// value, it is on if at most 5 % of the training samples lack a modality, by themselves or by
    /// the mask, and off with prompts. A run's `config.toml` says whether it is.
    pub modality_dropout: Option<bool>,
    /// Whether the encoders' own dropout is on (BERT's is 0.1).
    pub encoder_dropout: bool,
    /// The token that stands for a missing modality. With prompts it is by default that of an empty
    /// input, since there is no mask token.
    pub missing_token: MissingToken,
    /// Whether CLIP's tokens are read after or before its last layer norm.
    pub clip_features: ClipFeatures,
    /// Missing-modality mask of the training split: a file, or a protocol that is drawn with
    /// `train_mask_rate` and the run's seed.
    pub train_mask: Option<String>,
    /// Missing rate of a protocol in `train_mask`.
    pub train_mask_rate: f64,
    /// Whether the training split is in random order.
    pub shuffle: bool,
    /// Augmentation in training: random crops, flips and video frames.
    pub augment: bool,
    /// Frames per video.
    pub frames: usize,
    /// Word pieces per text, `[CLS]` and `[SEP]` included.
    pub text_length: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Whether the numbers are the same on every x86-64 processor with AVX2 and with any number of
    /// threads. The device is then the CPU, and the precision f32.
    pub reproducible: bool,
    /// Activations that the forward pass stores; the backward pass computes the others again. With
    /// `selective`, the default on a GPU, a step takes about two thirds of the memory of `all`, the
    /// default on a CPU, and with `inputs` (activation checkpointing) about a third.
    pub keep: StoredActivations,
    /// Steps between two checkpoints, beside the one at the end of each epoch; 0 for none.
    pub checkpoint_every: u64,
    /// Newest checkpoints that are not removed.
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
        let MethodSettings {
            qmf,
            pmr,
            g_blend,
            mla,
        } = MethodSettings::default();
        let prompts = PromptConfig::default();
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
            method: Method::U2a,
            qmf_lambda: qmf.lambda,
            qmf_temperature: qmf.temperature,
            pmr_alpha: pmr.alpha,
            pmr_momentum: pmr.momentum,
            pmr_entropy: pmr.entropy,
            pmr_entropy_epochs: pmr.entropy_epochs,
            g_blend_epochs: g_blend.super_epoch,
            mla_lambda: mla.lambda,
            mmlora_first_epochs: None,
            adapt: Adaptation::Lora,
            modality: None,
            fusion: Fusion::Sum,
            modulation: Modulation::None,
            ogm_alpha: OGM_ALPHA,
            prompt_length: prompts.length,
            prompt_layers: prompts.layers,
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
            reproducible: false,
            keep: StoredActivations::All,
            checkpoint_every: 0,
            keep_checkpoints: 2,
        }
    }
}

/// The files of `configs/`.
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

/// What is different from the defaults with missing-aware prompts: they tell the model what is
/// missing, so that an empty input stands for it (Lee et al. 2023, section 3), and nothing else of
/// U2A is in use.
fn prompt_defaults() -> SettingsOverrides {
    SettingsOverrides {
        missing_token: Some(MissingToken::Input),
        align_weight: Some(0.0),
        modality_dropout: Some(false),
        ..SettingsOverrides::default()
    }
}

/// Returns whether an input is used, if `only` says which one is.
pub(crate) fn is_used(input: InputName, only: Option<InputName>) -> bool {
    only.is_none_or(|only| only == input)
}

impl Settings {
    /// The settings of a run on a dataset. A dataset without a file in `configs/` gets one of
    /// those: that of the paper's datasets of clips if it has audio or video, else that of its
    /// datasets of images and text. A method other than U2A has defaults of its own.
    ///
    /// # Errors
    /// The settings contradict each other, or a value is out of range.
    pub fn resolve(
        dataset: &str,
        modalities: impl Into<Modalities>,
        overrides: &SettingsOverrides,
    ) -> Result<Settings> {
        let modalities = modalities.into();
        let has_clips = modalities.has(Modality::Audio) || modalities.has(Modality::Video);
        let kind = if has_clips { "crema-d" } else { "food-101" };
        let config = |wanted: &str| CONFIGS.iter().find(|(name, _)| *name == wanted);
        let (name, text) = config(dataset)
            .or(config(kind))
            .ok_or_else(|| anyhow!("configs/{kind}.toml is missing"))?;
        let base: SettingsOverrides =
            toml::from_str(text).with_context(|| format!("configs/{name}.toml"))?;
        let given = base.updated_with(overrides)?;
        let method = given.method.unwrap_or_default();
        let base = base.updated_with(&SettingsOverrides::of_method(method))?;
        let base = match given.adapt.and_then(Adaptation::prompt_level) {
            Some(_) => base.updated_with(&prompt_defaults())?,
            None => base,
        };
        let settings: Settings = base.updated_with(overrides)?.to_table()?.try_into()?;
        settings.check()?;
        Ok(settings)
    }

    /// Refuses values that are out of range and settings that contradict each other.
    fn check(&self) -> Result<()> {
        let positive = [
            ("epochs", self.epochs as usize),
            ("batch_size", self.batch_size),
            ("micro_batch", self.micro_batch.unwrap_or(1)),
            ("lora_rank", self.lora_rank),
            ("g_blend_epochs", self.g_blend_epochs as usize),
            ("frames", self.frames),
            ("keep_checkpoints", self.keep_checkpoints),
            ("prompt_length", self.prompt_length),
            ("prompt_layers", self.prompt_layers),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            bail!("{name} must be at least 1");
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            bail!("lr must be a positive number, not {}", self.lr);
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            bail!("lora_dropout must lie in [0, 1), not {}", self.lora_dropout);
        }
        if !(0.0..=1.0).contains(&self.train_mask_rate) {
            bail!(
                "train_mask_rate must lie in [0, 1], not {}",
                self.train_mask_rate
            );
        }
        // The method first: its defaults are not what the user has given.
        self.check_method()?;
        if self.modality.is_some() && self.fusion != Fusion::Sum {
            bail!("fusion needs two modalities; leave out modality or fusion");
        }
        if self.modulation != Modulation::None {
            if !matches!(self.fusion, Fusion::Sum | Fusion::Concat) || self.modality.is_some() {
                bail!(
                    "modulation compares the scores of two modalities, which only the fusions sum and concat have; leave out modulation or change fusion"
                );
            }
            if !(self.ogm_alpha > 0.0 && self.ogm_alpha.is_finite()) {
                bail!(
                    "ogm_alpha must be a positive number, not {}",
                    self.ogm_alpha
                );
            }
        }
        self.check_prompts()?;
        if self.text_length < 3 {
            bail!("text_length must be at least 3: class, one word piece, separator");
        }
        Ok(())
    }

    /// Refuses settings that contradict missing-aware prompts.
    fn check_prompts(&self) -> Result<()> {
        let Some(level) = self.adapt.prompt_level() else {
            return Ok(());
        };
        if self.modality.is_some() {
            bail!(
                "prompts are chosen by which of two modalities is missing; leave out modality or change adapt"
            );
        }
        if level == PromptLevel::Attention && !self.prompt_length.is_multiple_of(2) {
            bail!(
                "prompt_length must be even with adapt = \"attention-prompts\", half keys and half values, not {}",
                self.prompt_length
            );
        }
        if self.missing_token == MissingToken::Mask {
            bail!(
                "missing_token mask: a model with prompts has no mask token; choose input or zeros"
            );
        }
        if self.align_weight != 0.0 {
            bail!(
                "align_weight must be 0 with prompts, since there are no mask tokens to align, not {}",
                self.align_weight
            );
        }
        if self.modulation != Modulation::None {
            bail!(
                "modulation balances the gradients of encoders, and those with prompts are frozen; leave out modulation or change adapt"
            );
        }
        Ok(())
    }

    /// A note on missing-aware prompts that do not learn: those of a modality that no training
    /// sample lacks, as long as modality dropout hides none. `present` is what the model gets of
    /// each training sample, after a mask.
    pub(crate) fn untrained_prompts(
        &self,
        modalities: Modalities,
        present: &[[bool; 2]],
    ) -> Option<String> {
        self.adapt.prompt_level()?;
        let [first, second] = modalities.pair()?;
        let is_met = |case| present.contains(&case);
        let lacking = match (is_met([false, true]), is_met([true, false])) {
            _ if self.uses_modality_dropout(present) => return None,
            (true, true) => return None,
            (false, true) => first.to_string(),
            (true, false) => second.to_string(),
            (false, false) => format!("{first} or {second}"),
        };
        Some(format!(
            "note: no training sample lacks {lacking}, so that the prompts for such samples keep their random values; --train-mask missing-both or --modality-dropout on hides inputs in training"
        ))
    }

    /// Refuses settings that do not fit the data.
    pub fn check_data(&self, modalities: impl Into<Modalities>, multi_label: bool) -> Result<()> {
        let modalities = modalities.into();
        if let Some(only) = self.modality
            && modalities.position(only).is_none()
        {
            bail!("modality {only}: the data have {modalities}");
        }
        if modalities.count() == 1 {
            self.check_single_modality(modalities)?;
        }
        if multi_label && self.modulation != Modulation::None {
            bail!("modulation is defined for one class per sample; these data have several");
        }
        if multi_label && !self.method.is_multi_label() {
            bail!(
                "method {} is defined for one class per sample; these data have several",
                self.method.as_str()
            );
        }
        Ok(())
    }

    /// Refuses settings that need two modalities. `modalities` holds the only one.
    fn check_single_modality(&self, modalities: Modalities) -> Result<()> {
        if self.method != Method::U2a {
            bail!(
                "method {} needs two modalities, and the data have {modalities} alone; leave it out",
                self.method.as_str()
            );
        }
        if self.fusion != Fusion::Sum || self.modulation != Modulation::None {
            bail!(
                "fusion and modulation need two modalities, and the data have {modalities} alone; leave them out"
            );
        }
        if self.train_mask.is_some() {
            bail!(
                "train_mask hides one of two modalities, and the data have {modalities} alone; leave it out"
            );
        }
        if self.adapt.prompt_level().is_some() {
            bail!(
                "prompts are chosen by which of two modalities is missing, and the data have {modalities} alone; change adapt"
            );
        }
        Ok(())
    }

    /// The variant of the model.
    pub(crate) fn variant(&self) -> Variant {
        Variant {
            method: self.method,
            method_settings: self.method_settings(),
            adaptation: self.adapt,
            modality: self.modality,
            fusion: self.fusion,
            modulation: self.modulation,
            ogm_alpha: self.ogm_alpha,
            prompts: PromptConfig {
                length: self.prompt_length,
                layers: self.prompt_layers,
            },
        }
    }

    /// Settings of the LoRA adapters.
    pub(crate) fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.lora_rank,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
        }
    }

    /// Settings of the optimizer.
    pub(crate) fn adamw(&self) -> AdamWConfig {
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

    /// Refuses settings that cannot be trained on this device.
    pub(crate) fn check_device(&self, compute: &Compute) -> Result<()> {
        self.check_batch_splitting(1)?;
        if self.reproducible && self.precision != Precision::F32 {
            bail!(
                "--reproducible: only in precision f32 do all processors give the same numbers, and precision is {}",
                self.precision.as_str()
            );
        }
        compute.check_precision(self.precision)?;
        if !compute.device.is_cpu()
            && self.precision == Precision::Bf16
            && (self.adapt == Adaptation::Full || self.method == Method::Mmlora)
        {
            bail!(
                "full fine-tuning keeps its weights in single precision; add --precision f32 or tf32"
            );
        }
        Ok(())
    }

    /// Settings of the loss.
    pub(crate) fn loss(&self, multi_label: bool) -> LossConfig {
        LossConfig {
            align_weight: self.align_weight,
            align_stop_gradient: self.align_stop_gradient,
            multi_label,
            missing_token: self.missing_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIO_VIDEO: [Modality; 2] = [Modality::Audio, Modality::Video];

    #[test]
    fn defaults_of_each_dataset() {
        for (name, modalities, lr, epochs, batch) in [
            ("food-101", [Modality::Image, Modality::Text], 1e-3, 10, 8),
            ("mm-imdb", [Modality::Image, Modality::Text], 1e-3, 10, 8),
            ("kinetics-sound", AUDIO_VIDEO, 5e-5, 100, 4),
            ("ave", AUDIO_VIDEO, 5e-5, 100, 4),
            ("crema-d", AUDIO_VIDEO, 5e-5, 100, 4),
            ("mine", AUDIO_VIDEO, 5e-5, 100, 4),
        ] {
            let s = Settings::resolve(name, modalities, &SettingsOverrides::default()).unwrap();
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
            Settings::resolve(
                "mm-imdb",
                [Modality::Image, Modality::Text],
                &SettingsOverrides::default()
            )
            .unwrap()
            .text_length,
            256
        );
    }

    /// Table 5 against the settings that a run of each kind starts from.
    #[test]
    fn defaults_are_those_of_table_5() {
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
                let settings =
                    Settings::resolve(name, modalities, &SettingsOverrides::default()).unwrap();
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
        assert_eq!(ours["method"].as_str(), Some(shown.method.as_str()));
        assert_eq!(ours["adapt"].as_str(), Some(shown.adapt.as_str()));
        assert_eq!(ours["fusion"].as_str(), Some(shown.fusion.as_str()));
        let token = shown.missing_token.as_str();
        assert_eq!(ours["missing_token"].as_str(), Some(token));
        assert_eq!((ours.get("train_mask"), shown.train_mask), (None, None));
        assert_eq!((ours.get("modality"), shown.modality), (None, None));
        assert_eq!(ours["frames"].as_integer(), Some(shown.frames as i64));
    }

    #[test]
    fn invalid_settings_are_refused() {
        let refused = |pair: &str| {
            let overrides = SettingsOverrides::parse(&[pair.to_string()]).unwrap();
            let error = Settings::resolve("ave", AUDIO_VIDEO, &overrides).unwrap_err();
            error.to_string()
        };
        assert!(refused("batch_size=0").contains("batch_size"));
        assert!(refused("lr=nan").contains("lr"));
        assert!(refused("lora_dropout=1.0").contains("lora_dropout"));
        assert!(refused("text_length=2").contains("text_length"));
        assert!(refused("prompt_length=0").contains("prompt_length"));
        assert!(refused("prompt_layers=0").contains("prompt_layers"));
    }

    #[test]
    fn prompts_have_defaults_of_their_own() {
        let resolve = |pairs: &[&str]| {
            let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
            let overrides = SettingsOverrides::parse(&pairs).unwrap();
            Settings::resolve("ave", AUDIO_VIDEO, &overrides).map_err(|error| error.to_string())
        };
        for adapt in ["adapt=input-prompts", "adapt=attention-prompts"] {
            let settings = resolve(&[adapt]).unwrap();
            assert_eq!(settings.missing_token, MissingToken::Input);
            assert_eq!(settings.align_weight, 0.0);
            assert_eq!(settings.modality_dropout, Some(false));
            assert_eq!((settings.prompt_length, settings.prompt_layers), (16, 6));
            let zeros = resolve(&[adapt, "missing_token=zeros"]).unwrap();
            assert_eq!(zeros.missing_token, MissingToken::Zeros);
            for (pair, words) in [
                ("modality=audio", "two modalities"),
                ("missing_token=mask", "no mask token"),
                ("align_weight=0.2", "align_weight"),
                ("modulation=ogm", "modulation"),
            ] {
                let error = resolve(&[adapt, pair]).unwrap_err();
                assert!(error.contains(words), "{pair}: {error}");
            }
        }
        assert!(resolve(&["adapt=input-prompts", "prompt_length=5"]).is_ok());
        let odd = resolve(&["adapt=attention-prompts", "prompt_length=5"]).unwrap_err();
        assert!(odd.contains("prompt_length must be even"), "{odd}");
        assert_eq!(resolve(&[]).unwrap().missing_token, MissingToken::Mask);
    }

    #[test]
    fn prompts_of_cases_that_no_training_sample_shows_are_noted() {
        let (both, no_audio, no_video) = ([true, true], [false, true], [true, false]);
        for (pair, present, lacking) in [
            ("adapt=input-prompts", &[both][..], "lacks audio or video,"),
            ("adapt=input-prompts", &[both, no_audio], "lacks video,"),
            ("adapt=attention-prompts", &[no_video], "lacks audio,"),
            ("adapt=attention-prompts", &[no_audio, no_video], ""),
            ("adapt=lora", &[both], ""),
        ] {
            for dropout in [false, true] {
                let pairs = [pair.to_string(), format!("modality_dropout={dropout}")];
                let overrides = SettingsOverrides::parse(&pairs).unwrap();
                let settings = Settings::resolve("ave", AUDIO_VIDEO, &overrides).unwrap();
                let note = settings.untrained_prompts(AUDIO_VIDEO.into(), present);
                let note = note.unwrap_or_default();
                let expected = if dropout { "" } else { lacking };
                assert_eq!(note.is_empty(), expected.is_empty(), "{pairs:?} {note}");
                assert!(note.contains(expected), "{pairs:?} {note}");
            }
        }
    }

    #[test]
    fn overrides_replace_the_values_of_the_dataset() {
        let pairs = ["lr=0.1", "train_mask=missing-audio", "shuffle = false"];
        let overrides = SettingsOverrides::parse(&pairs.map(String::from)).unwrap();
        let settings = Settings::resolve("ave", AUDIO_VIDEO, &overrides).unwrap();
        assert_eq!((settings.lr, settings.shuffle), (0.1, false));
        assert_eq!(settings.train_mask.as_deref(), Some("missing-audio"));
        assert_eq!(settings.epochs, 100);
        let overrides = SettingsOverrides {
            clip_features: Some(ClipFeatures::LastHidden),
            ..SettingsOverrides::default()
        };
        let settings = Settings::resolve("ave", AUDIO_VIDEO, &overrides).unwrap();
        assert_eq!(settings.clip_features, ClipFeatures::LastHidden);
    }
}
