//! LoRA adapters: low-rank updates of frozen linear layers (Hu et al. 2022), which the paper puts
//! on the query, key, value and attention-output layers of every block (section 4.2).

use super::config::{BlockLayer, EncoderConfig};
use crate::init::{kaiming_bound, uniform};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use engine::Adapter;
use serde::{Deserialize, Serialize};
use util::rng::Rng;

/// The number of adapters in a block.
pub(crate) const ADAPTERS: usize = 4;

/// The layers with an adapter, in the order of the adapters.
pub(crate) const ADAPTED: [BlockLayer; ADAPTERS] = [
    BlockLayer::Query,
    BlockLayer::Key,
    BlockLayer::Value,
    BlockLayer::Out,
];

/// The stream of the random generator for new adapters.
const INIT_ADAPTER: u32 = 0x4c6f_5241;

/// The settings of LoRA adapters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// The rank of the update.
    pub rank: usize,
    /// The update is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The rate of dropout on the adapters' input during training.
    pub dropout: f64,
}

impl LoraConfig {
    /// Returns the factor of the update, `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

impl Default for LoraConfig {
    /// Returns the paper's settings (Table 5): rank 1, alpha 1, dropout 0.1.
    fn default() -> Self {
        LoraConfig {
            rank: 1,
            alpha: 1.0,
            dropout: 0.1,
        }
    }
}

/// The LoRA adapters of one encoder.
#[derive(Clone, Debug)]
pub struct LoraAdapters {
    /// For each block the adapters of query, key, value and attention output.
    pub blocks: Vec<[Adapter; ADAPTERS]>,
    /// The factor of the update, `alpha / rank`.
    pub scale: f64,
}

impl LoraAdapters {
    /// Draws new adapters as PEFT does: A Kaiming-uniform with a = sqrt 5, B zero. `encoder`
    /// numbers the encoder to the random generator.
    pub fn new(
        config: &EncoderConfig,
        lora: &LoraConfig,
        seed: u64,
        encoder: u32,
    ) -> Result<LoraAdapters> {
        let (rank, d) = (lora.rank, config.hidden);
        let adapter = |number: usize| -> Result<Adapter> {
            let mut rng = Rng::new(seed, &[INIT_ADAPTER, encoder, number as u32]);
            Ok(Adapter {
                a: uniform(&mut rng, (rank, d), kaiming_bound(d))?,
                b: Tensor::zeros((d, rank), DType::F32, &Device::Cpu)?,
            })
        };
        let block = |block: usize| -> Result<[Adapter; ADAPTERS]> {
            let first = block * ADAPTERS;
            Ok([
                adapter(first)?,
                adapter(first + 1)?,
                adapter(first + 2)?,
                adapter(first + 3)?,
            ])
        };
        Ok(LoraAdapters {
            blocks: (0..config.layers).map(block).collect::<Result<_>>()?,
            scale: lora.scale(),
        })
    }
}
