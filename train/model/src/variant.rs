//! Variants of the model: U2A, and the baselines that the paper compares it with. Each is a setting
//! of the same trainer on the same encoders.

use crate::encoder::prompts::{PromptConfig, PromptLevel};
use datasets::InputName;
use serde::{Deserialize, Serialize};

/// The method that is trained. Every method but U2A computes its own objective from the class tokens
/// of the same encoders: see [`crate::methods`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[clap(rename_all = "kebab-case")]
pub enum Method {
    /// U2A, and its variants by adaptation, fusion and gradient modulation.
    #[default]
    U2a,
    /// Quality-aware multimodal fusion (Zhang et al., ICML 2023).
    Qmf,
    /// Gradient blending (Wang et al., CVPR 2020).
    GBlend,
    /// Prototypical modal rebalance (Fan et al., CVPR 2023).
    Pmr,
    /// Multimodal learning with alternating unimodal adaptation (Zhang et al., CVPR 2024).
    Mla,
    /// Multi-modal low-rank adaptation: each encoder is fine-tuned for itself, then both together
    /// by LoRA (Du et al., arXiv 2310.05193).
    Mmlora,
}

impl Method {
    /// Returns the name, as the setting `method` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::U2a => "u2a",
            Method::Qmf => "qmf",
            Method::GBlend => "g-blend",
            Method::Pmr => "pmr",
            Method::Mla => "mla",
            Method::Mmlora => "mmlora",
        }
    }

    /// Returns whether the objective is defined for data with several classes per sample.
    pub fn is_multi_label(self) -> bool {
        match self {
            Method::U2a | Method::GBlend | Method::Mmlora => true,
            // Energy score and entropy are those of one softmax over the classes; a prototype is the
            // mean of one class.
            Method::Qmf | Method::Mla | Method::Pmr => false,
        }
    }
}

/// The hyperparameters of the methods; each method reads its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MethodSettings {
    /// QMF's.
    pub qmf: QmfSettings,
    /// PMR's.
    pub pmr: PmrSettings,
    /// G-Blend's.
    pub g_blend: GBlendSettings,
    /// MLA's.
    pub mla: MlaSettings,
}

/// The hyperparameters of QMF, quality-aware multimodal fusion (Zhang et al., ICML 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QmfSettings {
    /// The weight lambda of the ranking regulariser.
    pub lambda: f64,
    /// The temperature T of the energy score.
    pub temperature: f64,
}

impl Default for QmfSettings {
    /// The published code's values for NYU Depth V2.
    fn default() -> Self {
        QmfSettings {
            lambda: 0.1,
            temperature: 1.0,
        }
    }
}

/// The hyperparameters of PMR, prototypical modal rebalance (Fan et al., CVPR 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PmrSettings {
    /// The weight alpha of the prototype losses.
    pub alpha: f64,
    /// The share of the old prototypes in the new ones.
    pub momentum: f64,
    /// The weight mu of the entropies.
    pub entropy: f64,
    /// The first epochs, in which the entropies count.
    pub entropy_epochs: u64,
}

impl Default for PmrSettings {
    /// The published code's values. It has no entropy, whose weight and epochs are ours.
    fn default() -> Self {
        PmrSettings {
            alpha: 1.0,
            momentum: 0.2,
            entropy: 0.01,
            entropy_epochs: 5,
        }
    }
}

/// The hyperparameters of G-Blend, gradient blending (Wang et al., CVPR 2020).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GBlendSettings {
    /// The epochs of a super-epoch, after which the weights are estimated again.
    pub super_epoch: u64,
}

impl Default for GBlendSettings {
    fn default() -> Self {
        GBlendSettings { super_epoch: 5 }
    }
}

/// The hyperparameters of MLA, alternating unimodal adaptation (Zhang et al., CVPR 2024).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlaSettings {
    /// The number lambda that recursive least squares adds to the denominator.
    pub lambda: f64,
}

impl Default for MlaSettings {
    /// The value with which the published code begins an epoch.
    fn default() -> Self {
        MlaSettings { lambda: 0.1 }
    }
}

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
    /// The method that is trained.
    pub method: Method,
    /// The hyperparameters of all methods, of which the one that is trained reads its own.
    pub method_settings: MethodSettings,
    /// What learns in the encoders.
    pub adaptation: Adaptation,
    /// The only input that is used, in a unimodal baseline.
    pub modality: Option<InputName>,
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
    /// Returns whether the encoders' own weights learn at any time.
    pub(crate) fn weights_learn(&self) -> bool {
        self.adaptation == Adaptation::Full || self.method == Method::Mmlora
    }

    /// Returns whether the mask tokens learn. MMLoRA trains nothing but weights, adapters and
    /// heads; with the other methods a mask token is a token that the class token attends to.
    pub(crate) fn mask_tokens_learn(&self) -> bool {
        self.adaptation != Adaptation::Head && self.method != Method::Mmlora
    }

    /// Returns whether an input is used: all are, except in a unimodal baseline.
    pub(crate) fn uses(&self, input: InputName) -> bool {
        self.modality.is_none_or(|only| only == input)
    }
}
