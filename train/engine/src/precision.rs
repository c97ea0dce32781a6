//! The precision of a run.

use serde::{Deserialize, Serialize};

/// Number type of frozen weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Single precision, whose matrix products round their operands: to ten bits on a GPU, to 16 on a
    /// CPU with AMX.
    Tf32,
    /// Brain floating point for weights and activations on a GPU, for the operands of the encoders' matrix
    /// products on a CPU with AMX or with AVX-512's bf16; what learns, statistics and sums stay in single precision.
    Bf16,
}

impl Precision {
    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}
