//! Builds the layers of an encoder from its weights.

use super::block::Block;
use super::config::{BlockLayer, EncoderConfig};
use super::weights::Weights;
use anyhow::Result;
use candle_core::{DType, Tensor};
use engine::{Arithmetic, Linear, Norm, Precision};

/// Takes layers out of an encoder's weights, in the number type that they compute with.
pub(super) struct LayerReader {
    weights: Weights,
    /// The number type of matrices, and the precision of their products.
    arithmetic: Arithmetic,
    /// The epsilon of normalizations.
    norm_eps: f64,
}

impl LayerReader {
    pub(super) fn new(weights: Weights, arithmetic: Arithmetic, norm_eps: f64) -> LayerReader {
        LayerReader {
            weights,
            arithmetic,
            norm_eps,
        }
    }

    /// Returns the precision of matrix products.
    pub(super) fn precision(&self) -> Precision {
        self.arithmetic.precision
    }

    /// Takes the tensor of this name. Norms and biases stay in single precision where matrices are
    /// in bf16.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let tensor = self.weights.take(name)?;
        let dtype = match (tensor.rank(), self.arithmetic.dtype) {
            (1, DType::BF16) => DType::F32,
            (_, dtype) => dtype,
        };
        Ok(tensor.to_dtype(dtype)?)
    }

    pub(super) fn linear(&mut self, name: &str) -> Result<Linear> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"))?,
            bias: self.tensor(&format!("{name}.bias"))?,
            precision: self.arithmetic.precision,
        })
    }

    pub(super) fn norm(&mut self, name: &str) -> Result<Norm> {
        Ok(Norm {
            weight: self.tensor(&format!("{name}.weight"))?,
            bias: self.tensor(&format!("{name}.bias"))?,
            eps: self.norm_eps,
        })
    }

    /// Takes block number `block`, with query, key and value stacked into one layer.
    pub(super) fn block(&mut self, config: &EncoderConfig, block: usize) -> Result<Block> {
        let name = |layer| config.layer_name(block, layer);
        let q = self.linear(&name(BlockLayer::Query))?;
        let k = self.linear(&name(BlockLayer::Key))?;
        let v = self.linear(&name(BlockLayer::Value))?;
        let qkv = Linear {
            weight: Tensor::cat(&[q.weight, k.weight, v.weight], 0)?,
            bias: Tensor::cat(&[q.bias, k.bias, v.bias], 0)?,
            precision: self.arithmetic.precision,
        };
        Ok(Block {
            norm1: self.norm(&name(BlockLayer::Norm1))?,
            qkv,
            out: self.linear(&name(BlockLayer::Out))?,
            norm2: self.norm(&name(BlockLayer::Norm2))?,
            fc1: self.linear(&name(BlockLayer::Fc1))?,
            fc2: self.linear(&name(BlockLayer::Fc2))?,
        })
    }
}
