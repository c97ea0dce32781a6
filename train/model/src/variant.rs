//! Variants of the model: U2A, and the baselines that the paper compares it with. Each is a setting
//! of the same trainer on the same encoders.

use crate::encoder::prompts::{PromptConfig, PromptLevel};
use datasets::Modality;
use serde::{Deserialize, Serialize};

/// What learns in the encoders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[clap(rename_all = "kebab-case")]
pub enum Adaptation {
    /// LoRA adapters and mask tokens: U2A.
    #[default]
    Lora,
    /// Nothing in the encoders: only fusion layers and head learn.
    Head,
    /// All weights of the encoders and the mask tokens (full fine-tuning); there are no adapters.
    Full,
    /// Input-level missing-aware prompts (Lee et al. 2023, section 3): tokens that join the
    /// sequences of frozen encoders.
    InputPrompts,
    /// Attention-level missing-aware prompts: keys and values that join those of frozen encoders.
    AttentionPrompts,
}

impl Adaptation {
    /// Returns where prompts enter the encoders' blocks; `None` without prompts.
    pub fn prompt_level(self) -> Option<PromptLevel> {
        match self {
            Adaptation::InputPrompts => Some(PromptLevel::Input),
            Adaptation::AttentionPrompts => Some(PromptLevel::Attention),
            Adaptation::Lora | Adaptation::Head | Adaptation::Full => None,
        }
    }
}

/// How the tokens of the two modalities become one feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[clap(rename_all = "kebab-case")]
pub enum Fusion {
    /// `T_1 + T_2`: U2A (equation 5).
    #[default]
    Sum,
    /// `[T_1, T_2]`.
    Concat,
    /// `gamma(T_1) T_2 + beta(T_1)` with linear gamma and beta (Perez et al. 2018).
    Film,
    /// `sigmoid(U T_1 + u) (V T_2 + v)`, element by element (the gate of Kiela et al. 2018).
    GatedBilinear,
}

/// Gradient modulation of the encoders (Peng et al. 2022, "Balanced Multimodal Learning via
/// On-the-fly Gradient Modulation").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[clap(rename_all = "kebab-case")]
pub enum Modulation {
    /// Gradients are used as they are.
    #[default]
    None,
    /// The gradient of the stronger modality's encoder is scaled down.
    Ogm,
    /// As OGM, with noise added that restores the spread of the gradient.
    OgmGe,
}

/// What stands in for the class token of a missing modality.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum MissingToken {
    /// The mask token of the other modality's encoder: U2A (equation 4).
    #[default]
    Mask,
    /// Zeros: the baseline without mask tokens.
    Zeros,
    /// The class token of the missing modality's own encoder on an empty input: zeros, or a text
    /// without words.
    Input,
}

/// A variant of the model; the default is U2A.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Variant {
    /// What learns in the encoders.
    pub adaptation: Adaptation,
    /// The only modality that is used, in a unimodal baseline.
    pub modality: Option<Modality>,
    /// How the tokens of the two modalities become one feature.
    pub fusion: Fusion,
    /// Gradient modulation of the encoders.
    pub modulation: Modulation,
    /// The factor alpha of gradient modulation.
    pub ogm_alpha: f64,
    /// The sizes of prompts, in the variants that have them.
    pub prompts: PromptConfig,
}

impl Variant {
    /// Returns whether a modality is used: both are, except in a unimodal baseline.
    pub(crate) fn uses(&self, modality: Modality) -> bool {
        self.modality.is_none_or(|only| only == modality)
    }
}
