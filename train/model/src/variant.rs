//! What kind of model a run trains: U2A, or one of the baselines it is compared with, each a
//! setting of the same trainer on the same encoders.

use datasets::Modality;
use serde::{Deserialize, Serialize};

/// Which weights of the encoders learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum Adapt {
    /// Low-rank adapters and the mask token: U2A.
    #[default]
    Lora,
    /// None: the head (and fusion) reads frozen encoders.
    Head,
    /// All of them and the mask token; no adapters.
    Full,
}

/// How two tokens become one feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[clap(rename_all = "kebab-case")]
pub enum Fusion {
    /// `T_1 + T_2`: U2A.
    #[default]
    Sum,
    /// `[T_1, T_2]`.
    Concat,
    /// `gamma(T_1) T_2 + beta(T_1)` with linear gamma, beta (Perez et al. 2018).
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
    /// None.
    #[default]
    None,
    /// The stronger modality's gradient is scaled down.
    Ogm,
    /// And noise is added that restores the gradient's own spread.
    OgmGe,
}

/// The kind of model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// Which weights of the encoders learn.
    pub adapt: Adapt,
    /// The only modality that is used, where there is but one.
    pub modality: Option<Modality>,
    /// How the two tokens become one feature.
    pub fusion: Fusion,
    /// Gradient modulation.
    pub modulation: Modulation,
    /// Its alpha.
    pub ogm_alpha: f64,
}
