//! U2A: two frozen encoders with adapters, a mask token each, per-sample token selection, one
//! linear head.
//!
//! ```text
//! both present   T = CLS_1 + CLS_2        m1 missing   T = MT_2 + CLS_2
//! m2 missing     T = CLS_1 + MT_1         logits = W T + b
//! ```
//!
//! An encoder runs on the samples that have its modality and on no others. The baselines of
//! [`Design`] change which weights learn and how the tokens are fused, nothing else.

pub mod micro_batch;
mod step;

pub use step::{Losses, Scores, StepMode, StepResult, Uploaded};

use crate::encoder::config::{ADAPTED, EncoderConfig};
use crate::encoder::{Encoder, Learnable};
use crate::peft::{self, LoraConfig, ModuleNames};
use crate::variant::{Adapt, Design};
use crate::weights::Weights;
use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use datasets::Modality;
use engine::Adapter;
use serde::{Deserialize, Serialize};
use util::rng::Rng;

/// What stands in for a missing modality's class token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum MissingToken {
    /// The other encoder's mask token.
    #[default]
    Mask,
    /// Zeros: the baseline without mask tokens.
    Zeros,
    /// The missing modality's own class token on an empty input: zeros, or a text without words.
    Input,
}

/// The loss's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    /// Weight of the alignment loss.
    pub align_weight: f64,
    /// Whether the alignment loss leaves the class tokens alone.
    pub align_stop_gradient: bool,
    /// Binary cross-entropy per class instead of cross-entropy.
    pub multi_label: bool,
    /// What stands in for a missing modality.
    pub missing_token: MissingToken,
}

/// Weight of the alignment loss in the paper.
pub const ALIGN_WEIGHT: f64 = 0.2;
/// Standard deviation of a new mask token.
const MASK_TOKEN_STD: f64 = 0.02;
/// Streams of the random generator.
const INIT_ADAPTER: u32 = 0x4c6f_5241;
const INIT_MASK: u32 = 0x4d61_736b;
const INIT_HEAD: u32 = 0x4865_6164;

/// The model: frozen encoders and everything learnable.
pub struct U2a {
    /// The dataset's modalities (m1, m2).
    pub modalities: [Modality; 2],
    /// Frozen encoders in the same order.
    pub encoders: [Encoder; 2],
    /// Adapters and mask tokens in the same order.
    pub learnable: [Learnable; 2],
    /// `classes x d`.
    pub weight: Tensor,
    /// `classes`.
    pub bias: Tensor,
    /// Settings of the adapters.
    pub lora: LoraConfig,
    /// What kind of model it is.
    pub design: Design,
    /// The fusion's own layers, by name.
    pub fusion: Vec<(&'static str, Tensor)>,
    /// The encoders' weights by canonical name where they learn.
    pub full: [Option<Weights>; 2],
    /// Where everything learnable is; the encoders are put there by who makes them.
    pub device: Device,
}

/// The name and tensor of one learnable parameter.
pub struct Parameter<'a> {
    /// `MODALITY/KEY` for adapters, `mask_token.MODALITY`, `weight`, `bias`.
    pub name: String,
    /// Its value.
    pub tensor: &'a Tensor,
}

impl U2a {
    /// New adapters (A Kaiming-uniform with a = sqrt 5, B zero), mask tokens N(0, 0.02) and head
    /// (uniform within 1 / sqrt d), all from the seed.
    pub fn new(
        modalities: [Modality; 2],
        encoders: [Encoder; 2],
        classes: usize,
        lora: LoraConfig,
        seed: u64,
    ) -> Result<U2a> {
        let d = encoders[0].config().hidden;
        if encoders[1].config().hidden != d {
            bail!(
                "the encoders differ in width ({d} and {}): their class tokens cannot be added",
                encoders[1].config().hidden
            );
        }
        let uniform = |rng: &mut Rng, n: usize, bound: f64| {
            (0..n)
                .map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32)
                .collect::<Vec<_>>()
        };
        // Kaiming-uniform with a = sqrt 5 on `rank x d` is uniform within 1 / sqrt d; so is PyTorch's Linear.
        let bound = 1.0 / (d as f64).sqrt();
        let mut learnable = Vec::new();
        for (m, encoder) in encoders.iter().enumerate() {
            let mut adapters = Vec::new();
            for layer in 0..encoder.config().layers {
                let make = |i: usize| -> Result<Adapter> {
                    let mut rng = Rng::new(
                        seed,
                        &[INIT_ADAPTER, m as u32, (layer * ADAPTED.len() + i) as u32],
                    );
                    Ok(Adapter {
                        a: Tensor::from_vec(
                            uniform(&mut rng, lora.rank * d, bound),
                            (lora.rank, d),
                            &Device::Cpu,
                        )?,
                        b: Tensor::zeros((d, lora.rank), DType::F32, &Device::Cpu)?,
                    })
                };
                adapters.push([make(0)?, make(1)?, make(2)?, make(3)?]);
            }
            let mut rng = Rng::new(seed, &[INIT_MASK, m as u32]);
            let mask: Vec<f32> = (0..d)
                .map(|_| (rng.normal() * MASK_TOKEN_STD) as f32)
                .collect();
            learnable.push(Learnable {
                adapters,
                scale: lora.scale(),
                mask_token: Tensor::from_vec(mask, (1, d), &Device::Cpu)?,
            });
        }
        let mut rng = Rng::new(seed, &[INIT_HEAD]);
        let weight = Tensor::from_vec(
            uniform(&mut rng, classes * d, bound),
            (classes, d),
            &Device::Cpu,
        )?;
        let bias = Tensor::from_vec(uniform(&mut rng, classes, bound), classes, &Device::Cpu)?;
        let Ok(learnable) = <[Learnable; 2]>::try_from(learnable) else {
            bail!("one learnable part per encoder")
        };
        Ok(U2a {
            modalities,
            encoders,
            learnable,
            weight,
            bias,
            lora,
            design: Design::default(),
            fusion: Vec::new(),
            full: [None, None],
            device: Device::Cpu,
        })
    }

    /// The same model as another design: new fusion layers from the seed, and for full fine-tuning
    /// the encoders' weights, which `weights` hands over once more.
    pub fn designed(mut self, design: Design, weights: [Weights; 2], seed: u64) -> Result<U2a> {
        let (classes, d) = self.weight.dims2()?;
        let width = design.fusion.width(d);
        if width != d {
            let bound = 1.0 / (width as f64).sqrt();
            let mut rng = Rng::new(seed, &[INIT_HEAD]);
            let mut uniform = |n: usize| -> Vec<f32> {
                (0..n)
                    .map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32)
                    .collect()
            };
            self.weight =
                Tensor::from_vec(uniform(classes * width), (classes, width), &Device::Cpu)?;
            self.bias = Tensor::from_vec(uniform(classes), classes, &Device::Cpu)?;
        }
        self.fusion = design.fusion.new_layers(d, seed)?;
        if let Some(only) = design.modality
            && !self.modalities.contains(&only)
        {
            bail!(
                "modality {only}: the data have {} and {}",
                self.modalities[0],
                self.modalities[1]
            );
        }
        self.design = design;
        if design.adapt == Adapt::Full {
            for (m, weights) in weights.into_iter().enumerate() {
                if self.runs(m) {
                    self.full[m] = Some(weights);
                }
            }
        }
        Ok(self)
    }

    /// The same model with everything learnable on a device.
    pub fn on(mut self, device: &Device) -> Result<U2a> {
        self.device = device.clone();
        let values = self.parameters().iter().map(|p| p.tensor.clone()).collect();
        self.set_parameters(values)?;
        Ok(self)
    }

    /// Whether encoder `m` is used at all.
    pub fn runs(&self, m: usize) -> bool {
        self.design
            .modality
            .is_none_or(|only| only == self.modalities[m])
    }

    /// All learnable tensors in a fixed order: first modality's adapters (or, in full fine-tuning,
    /// its encoder's weights) and mask token, second's, fusion, head.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut list = Vec::new();
        for (m, modality) in self.modalities.iter().enumerate() {
            let config = self.encoders[m].config();
            for (name, tensor) in self.full[m].iter().flat_map(Weights::iter) {
                list.push(Parameter {
                    name: format!("{modality}/{name}"),
                    tensor,
                });
            }
            let adapters = match self.design.adapt {
                Adapt::Full => &[][..],
                _ => &self.learnable[m].adapters,
            };
            for (layer, block) in adapters.iter().enumerate() {
                for (adapter, part) in block.iter().zip(ADAPTED) {
                    let [a, b] = peft::tensor_names(config, layer, part, ModuleNames::default());
                    list.push(Parameter {
                        name: format!("{modality}/{a}"),
                        tensor: &adapter.a,
                    });
                    list.push(Parameter {
                        name: format!("{modality}/{b}"),
                        tensor: &adapter.b,
                    });
                }
            }
            list.push(Parameter {
                name: format!("mask_token.{modality}"),
                tensor: &self.learnable[m].mask_token,
            });
        }
        for (name, tensor) in &self.fusion {
            list.push(Parameter {
                name: (*name).to_string(),
                tensor,
            });
        }
        list.push(Parameter {
            name: "weight".into(),
            tensor: &self.weight,
        });
        list.push(Parameter {
            name: "bias".into(),
            tensor: &self.bias,
        });
        list
    }

    /// Replaces all learnable tensors, wherever the new ones are; the order is that of [`U2a::parameters`].
    pub fn set_parameters(&mut self, values: Vec<Tensor>) -> Result<()> {
        let device = self.device.clone();
        let mut values = values.into_iter();
        let mut set = |slot: &mut Tensor| -> Result<()> {
            match values.next() {
                Some(value) if value.dims() == slot.dims() => {
                    *slot = value.to_device(&device)?;
                    Ok(())
                }
                Some(value) => bail!(
                    "a value of shape {:?} for a parameter of shape {:?}",
                    value.dims(),
                    slot.dims()
                ),
                None => bail!("fewer values than parameters"),
            }
        };
        for (m, learnable) in self.learnable.iter_mut().enumerate() {
            if let Some(weights) = &mut self.full[m] {
                weights.iter_mut().try_for_each(&mut set)?;
                self.encoders[m] = self.encoders[m].with_weights(weights.clone())?;
            }
            if self.design.adapt != Adapt::Full {
                for adapter in learnable.adapters.iter_mut().flatten() {
                    set(&mut adapter.a)?;
                    set(&mut adapter.b)?;
                }
            }
            set(&mut learnable.mask_token)?;
        }
        self.fusion
            .iter_mut()
            .try_for_each(|(_, tensor)| set(tensor))?;
        set(&mut self.weight)?;
        set(&mut self.bias)
    }

    /// The same model with all learnable tensors in another precision (gradient checks).
    pub fn to_dtype(&mut self, dtype: DType) -> Result<()> {
        let values = self
            .parameters()
            .iter()
            .map(|p| p.tensor.to_dtype(dtype))
            .collect::<candle_core::Result<_>>()?;
        self.set_parameters(values)
    }

    /// For evaluation: encoders with the adapters multiplied into their weights.
    pub fn merged(&self) -> Result<[Encoder; 2]> {
        if self.design.adapt != Adapt::Lora {
            return Ok(self.encoders.clone());
        }
        Ok([
            self.encoders[0].merged(&self.learnable[0])?,
            self.encoders[1].merged(&self.learnable[1])?,
        ])
    }

    /// The parameter table: (part, total, learnable).
    pub fn table(
        modalities: [Modality; 2],
        configs: &[EncoderConfig; 2],
        classes: usize,
        rank: usize,
        design: &Design,
    ) -> Vec<(String, usize, usize)> {
        let mut table = Vec::new();
        for (modality, config) in modalities.iter().zip(configs) {
            if design.modality.is_some_and(|only| only != *modality) {
                continue;
            }
            let name = format!("{modality} encoder ({:?})", config.kind);
            let all = config.parameters();
            if design.adapt != Adapt::Lora {
                let learns = if design.adapt == Adapt::Full { all } else { 0 };
                table.push((name, all, learns));
                let learns = if learns > 0 { config.hidden } else { 0 };
                table.push((format!("{modality} mask token"), config.hidden, learns));
                continue;
            }
            table.push((name, all, 0));
            let adapters = config.layers * ADAPTED.len() * 2 * config.hidden * rank;
            table.push((
                format!("{modality} adapters, rank {rank}"),
                adapters,
                adapters,
            ));
            table.push((
                format!("{modality} mask token"),
                config.hidden,
                config.hidden,
            ));
        }
        let d = configs[0].hidden;
        for (name, shape) in design.fusion.layers(d) {
            let n = shape.iter().product();
            table.push((name.to_string(), n, n));
        }
        let head = classes * design.fusion.width(d) + classes;
        table.push((format!("head, {classes} classes"), head, head));
        table
    }
}
