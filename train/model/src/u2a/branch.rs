//! One modality of the model: its encoder and all that this encoder learns.

use super::Parameter;
use crate::encoder::Encoder;
use crate::encoder::lora::{ADAPTERS, LoraAdapters, LoraConfig};
use crate::encoder::prompts::{MissingCase, PromptConfig, PromptLevel, Prompts};
use crate::encoder::weights::Weights;
use crate::init::normal;
use crate::pair::Slot;
use crate::peft::{self, ModuleNames};
use anyhow::Result;
use candle_core::Tensor;
use datasets::InputName;
use util::rng::Rng;

/// The standard deviation of a new mask token.
const MASK_TOKEN_STD: f64 = 0.02;
/// The stream of the random generator for a new mask token.
const INIT_MASK_TOKEN: u32 = 0x4d61_736b;

/// One modality's encoder and all that it learns.
pub struct Branch {
    input: InputName,
    encoder: Encoder,
    /// The LoRA adapters; none in full fine-tuning and with prompts, and for a modality that is not
    /// used.
    adapters: Option<LoraAdapters>,
    /// The missing-aware prompts, in the variants that have them.
    prompts: Option<Prompts>,
    /// The encoder's weights if they learn at any time. MMLoRA has adapters as well.
    weights: Option<Weights>,
    /// The mask token, `1 x d`, whose output stands for the other modality if that is missing. With
    /// prompts no encoder reads it, and it is no parameter.
    mask_token: Tensor,
}

impl Branch {
    /// Draws a new mask token, and adapters where `lora` gives their settings.
    pub(super) fn new(
        input: InputName,
        encoder: Encoder,
        weights: Option<Weights>,
        lora: Option<&LoraConfig>,
        seed: u64,
        slot: Slot,
    ) -> Result<Branch> {
        let number = slot.index() as u32;
        let adapters = lora.map(|lora| LoraAdapters::new(encoder.config(), lora, seed, number));
        let mut rng = Rng::new(seed, &[INIT_MASK_TOKEN, number]);
        let mask_token = normal(&mut rng, (1, encoder.config().hidden), MASK_TOKEN_STD)?;
        Ok(Branch {
            input,
            adapters: adapters.transpose()?,
            prompts: None,
            weights,
            mask_token,
            encoder,
        })
    }

    /// Adds new prompts, which take the place of the mask token.
    pub(super) fn with_prompts(
        mut self,
        level: PromptLevel,
        sizes: &PromptConfig,
        seed: u64,
        slot: Slot,
    ) -> Result<Branch> {
        let number = slot.index() as u32;
        let prompts = Prompts::new(self.encoder.config(), level, sizes, seed, number)?;
        self.prompts = Some(prompts);
        Ok(self)
    }

    /// Returns the name of the input.
    pub fn input(&self) -> InputName {
        self.input
    }

    /// Returns the encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Returns the LoRA adapters; `None` in full fine-tuning and with prompts, and for a modality
    /// that is not used.
    pub fn adapters(&self) -> Option<&LoraAdapters> {
        self.adapters.as_ref()
    }

    /// Returns the missing-aware prompts, if the variant has them.
    pub fn prompts(&self) -> Option<&Prompts> {
        self.prompts.as_ref()
    }

    /// Returns the encoder's weights if they learn: in full fine-tuning and in MMLoRA's first stage,
    /// for a modality in use.
    pub fn weights(&self) -> Option<&Weights> {
        self.weights.as_ref()
    }

    pub(super) fn mask_token(&self) -> &Tensor {
        &self.mask_token
    }

    /// Lists the learnable tensors: weights or adapters, then the mask token; or the prompts of each
    /// missing case.
    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        let input = self.input;
        if let Some(prompts) = &self.prompts {
            let cases = MissingCase::ALL.iter().zip(&prompts.cases);
            let parameter = |(case, tensor): (&MissingCase, _)| Parameter {
                name: format!("prompts.{input}.{}", case.name()),
                tensor,
            };
            return cases.map(parameter).collect();
        }
        let weights = self.weights.iter().flat_map(Weights::iter);
        let weights = weights.map(|(name, tensor)| (name.to_string(), tensor));
        let blocks = self.adapters.as_ref().map_or(&[][..], |a| &a.blocks);
        let adapters = peft::named_tensors(self.encoder.config(), blocks, ModuleNames::default());
        let mut list: Vec<_> = weights
            .chain(adapters)
            .map(|(name, tensor)| Parameter {
                name: format!("{input}/{name}"),
                tensor,
            })
            .collect();
        list.push(Parameter {
            name: format!("mask_token.{input}"),
            tensor: &self.mask_token,
        });
        list
    }

    /// Returns the length of [`Branch::parameters`].
    pub(super) fn parameter_count(&self) -> usize {
        if let Some(prompts) = &self.prompts {
            return prompts.cases.len();
        }
        let weights = self.weights.as_ref().map_or(0, |w| w.iter().count());
        weights + self.adapter_count() + 1
    }

    /// Returns how many of [`Branch::parameters`] are tensors of adapters.
    pub(super) fn adapter_count(&self) -> usize {
        let blocks = self.adapters.as_ref().map_or(0, |a| a.blocks.len());
        blocks * ADAPTERS * 2
    }

    /// Replaces the learnable tensors by calling `set` on each in the order of
    /// [`Branch::parameters`].
    pub(super) fn set_parameters(
        &mut self,
        set: &mut impl FnMut(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        if let Some(prompts) = &mut self.prompts {
            prompts.cases.iter_mut().try_for_each(&mut *set)?;
            // What has no parameter's value follows them in device and number type.
            self.mask_token = self
                .mask_token
                .to_device(prompts.cases[0].device())?
                .to_dtype(prompts.cases[0].dtype())?;
            return Ok(());
        }
        if let Some(weights) = &mut self.weights {
            weights.iter_mut().try_for_each(&mut *set)?;
            self.encoder = self.encoder.with_weights(weights.clone())?;
        }
        if let Some(adapters) = &mut self.adapters {
            for adapter in adapters.blocks.iter_mut().flatten() {
                set(&mut adapter.a)?;
                set(&mut adapter.b)?;
            }
        }
        set(&mut self.mask_token)
    }
}
