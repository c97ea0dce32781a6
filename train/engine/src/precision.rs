//! The precision of a run, and what it means for the numbers of an encoder.

use candle_core::DType;
use serde::{Deserialize, Serialize};

/// The number format of weights, activations and matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Single precision, whose matrix products round their operands: to ten bits on a GPU, to 16 on
    /// a CPU with AMX.
    Tf32,
    /// Brain floating point for weights and activations on a GPU, for the operands of the encoders'
    /// matrix products on a CPU with AMX or with AVX-512's bf16; learnable parameters, statistics and
    /// sums stay in single precision.
    Bf16,
}

impl Precision {
    /// Returns the name that settings and the command line use.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// How an encoder computes on one device: a run's [`Precision`] comes to this by
/// [`Compute::arithmetic`](crate::Compute::arithmetic).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// The number type of weights and activations.
    pub dtype: DType,
    /// The precision of matrix products of f32 tensors.
    pub precision: Precision,
}

impl From<DType> for Arithmetic {
    /// Multiplies numbers of this type without rounding them first.
    fn from(dtype: DType) -> Arithmetic {
        Arithmetic {
            dtype,
            precision: Precision::F32,
        }
    }
}
