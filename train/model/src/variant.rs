//! Variants of the model: U2A, and the baselines that the paper compares it with. Each is a setting
//! of the same trainer on the same encoders.

use datasets::InputName;
use serde::{Deserialize, Serialize};

/// Which weights of the encoders learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum Adaptation {
    /// LoRA adapters and mask tokens: U2A.
    #[default]
    Lora,
    /// Nothing in the encoders: only fusion layers and head learn.
    Head,
    /// All weights of the encoders and the mask tokens (full fine-tuning); there are no adapters.
    Full,
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
    /// Which weights of the encoders learn.
    pub adaptation: Adaptation,
    /// The only input that is used, in a unimodal baseline.
    pub modality: Option<InputName>,
    /// How the tokens of the two modalities become one feature.
    pub fusion: Fusion,
    /// Gradient modulation of the encoders.
    pub modulation: Modulation,
    /// The factor alpha of gradient modulation.
    pub ogm_alpha: f64,
}

impl Variant {
    /// Returns whether an input is used: all are, except in a unimodal baseline.
    pub(crate) fn uses(&self, input: InputName) -> bool {
        self.modality.is_none_or(|only| only == input)
    }
}
