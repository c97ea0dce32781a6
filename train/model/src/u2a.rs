//! The model U2A: two frozen encoders with LoRA adapters and a mask token each, token selection per
//! sample, one linear head (section 3).
//!
//! ```text
//! both present   T = CLS_1 + CLS_2        m1 missing   T = MT_2 + CLS_2
//! m2 missing     T = CLS_1 + MT_1         logits = W T + b
//! ```
//!
//! An encoder runs on the samples that have its modality and on no others. The baselines of
//! [`Variant`] change what learns in the encoders and how the tokens are fused, nothing else.

mod branch;
mod frames;
mod head;
pub mod micro_batch;
mod step;

pub use branch::Branch;
pub use step::{Losses, MicroBatch, Scores, StepOptions, StepResult, Uploaded};

use crate::encoder::Encoder;
use crate::encoder::lora::LoraConfig;
use crate::encoder::weights::Weights;
use crate::init::{kaiming_bound, uniform};
use crate::pair::{Pair, Slot};
use crate::variant::{Adaptation, Variant};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use datasets::Modality;
use util::rng::Rng;

/// The stream of the random generator for a new head.
const INIT_HEAD: u32 = 0x4865_6164;

/// The model: frozen encoders and everything that learns.
pub struct U2a {
    branches: Pair<Branch>,
    /// The fusion's own layers by name.
    fusion: Vec<(&'static str, Tensor)>,
    /// The head's weight, `classes x width`.
    weight: Tensor,
    /// The head's bias, `classes`.
    bias: Tensor,
    lora: LoraConfig,
    variant: Variant,
    /// The device of everything that learns.
    device: Device,
}

/// The name and the value of one learnable tensor.
pub struct Parameter<'a> {
    /// `MODALITY/KEY` for adapters and encoder weights, `mask_token.MODALITY`,
    /// `prompts.MODALITY.CASE`, `fusion.LAYER.KEY`, `weight`, `bias`.
    pub name: String,
    /// The value.
    pub tensor: &'a Tensor,
}

/// Builds a model: see [`U2a::builder`].
pub struct U2aBuilder {
    modalities: Pair<Modality>,
    encoders: Pair<Encoder>,
    classes: usize,
    lora: LoraConfig,
    variant: Variant,
    weights: Option<Pair<Weights>>,
    seed: u64,
    device: Device,
}

impl U2aBuilder {
    /// Sets rank, alpha and dropout of the LoRA adapters; the paper's by default.
    pub fn lora(mut self, lora: LoraConfig) -> U2aBuilder {
        self.lora = lora;
        self
    }

    /// Sets the variant; U2A by default.
    pub fn variant(mut self, variant: Variant) -> U2aBuilder {
        self.variant = variant;
        self
    }

    /// Sets the weights that the encoders were built from, which learn in full fine-tuning. Other
    /// variants ignore them.
    pub fn weights(mut self, weights: [Weights; 2]) -> U2aBuilder {
        self.weights = Some(weights.into());
        self
    }

    /// Sets the seed of the initial values; 0 by default.
    pub fn seed(mut self, seed: u64) -> U2aBuilder {
        self.seed = seed;
        self
    }

    /// Sets the device of everything that learns, which must be that of the encoders; the CPU by
    /// default.
    pub fn device(mut self, device: &Device) -> U2aBuilder {
        self.device = device.clone();
        self
    }

    /// Builds the model with new adapters (A Kaiming-uniform, B zero), mask tokens (normal with
    /// standard deviation 0.02) or prompts in the place of both, fusion layers and head (as
    /// PyTorch's `nn.Linear`).
    ///
    /// # Errors
    /// The encoders differ in width, the variant's only modality is none of the two, full
    /// fine-tuning has no weights, or prompts are for one modality alone or cannot be halved.
    pub fn build(self) -> Result<U2a> {
        let U2aBuilder {
            variant,
            lora,
            seed,
            ..
        } = self;
        let widths = self
            .encoders
            .as_ref()
            .map(|encoder| encoder.config().hidden);
        let d = widths.m1;
        if widths.m2 != d {
            bail!(
                "the encoders differ in width ({d} and {}): their class tokens cannot be added",
                widths.m2
            );
        }
        let Pair { m1, m2 } = self.modalities;
        if let Some(only) = variant.modality
            && ![m1, m2].contains(&only)
        {
            bail!("modality {only}: the data have {m1} and {m2}");
        }
        let prompt_level = variant.adaptation.prompt_level();
        if prompt_level.is_some() && variant.modality.is_some() {
            bail!("missing-aware prompts need two modalities");
        }
        let weights = match variant.adaptation {
            Adaptation::Full => {
                let weights = self.weights.context("full fine-tuning without weights")?;
                let used = self.modalities.map(|m| variant.uses(m));
                weights.zip(used).map(|(w, used)| used.then_some(w))
            }
            _ => Pair::default(),
        };
        let [first, second] = self
            .modalities
            .zip(self.encoders)
            .zip(weights)
            .entries()
            .map(|(slot, ((modality, encoder), weights))| {
                let adapters = matches!(variant.adaptation, Adaptation::Lora | Adaptation::Head);
                let lora = adapters.then_some(&lora);
                let branch = Branch::new(modality, encoder, weights, lora, seed, slot)?;
                match prompt_level {
                    Some(level) => branch.with_prompts(level, &variant.prompts, seed, slot),
                    None => Ok(branch),
                }
            });
        let mut rng = Rng::new(seed, &[INIT_HEAD]);
        let width = variant.fusion.width(d);
        let bound = kaiming_bound(width);
        let mut model = U2a {
            branches: Pair {
                m1: first?,
                m2: second?,
            },
            fusion: variant.fusion.new_layers(d, seed)?,
            weight: uniform(&mut rng, (self.classes, width), bound)?,
            bias: uniform(&mut rng, self.classes, bound)?,
            lora,
            variant,
            device: self.device,
        };
        let values = model.values();
        model.set_parameters(values)?;
        Ok(model)
    }
}

impl U2a {
    /// Starts a model of two encoders with a head of `classes` outputs.
    pub fn builder(
        modalities: [Modality; 2],
        encoders: [Encoder; 2],
        classes: usize,
    ) -> U2aBuilder {
        U2aBuilder {
            modalities: modalities.into(),
            encoders: encoders.into(),
            classes,
            lora: LoraConfig::default(),
            variant: Variant::default(),
            weights: None,
            seed: 0,
            device: Device::Cpu,
        }
    }

    /// Returns the encoders with all that they learn, in the order of the modalities.
    pub fn branches(&self) -> [&Branch; 2] {
        self.branches.as_ref().into()
    }

    /// Returns the settings of the LoRA adapters.
    pub fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    /// Returns the device of everything that learns.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns whether the variant uses a modality.
    fn uses(&self, slot: Slot) -> bool {
        self.variant.uses(self.branches[slot].modality())
    }

    /// Lists all learnable tensors in a fixed order: the first encoder's adapters (in full
    /// fine-tuning its weights) and mask token or its prompts, the second's, the fusion's layers, the
    /// head.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut list = Vec::new();
        for branch in self.branches() {
            list.extend(branch.parameters());
        }
        let layers = self.fusion.iter().map(|(name, tensor)| (*name, tensor));
        let head = [("weight", &self.weight), ("bias", &self.bias)];
        list.extend(layers.chain(head).map(|(name, tensor)| Parameter {
            name: name.to_string(),
            tensor,
        }));
        list
    }

    /// Returns the values of [`U2a::parameters`].
    fn values(&self) -> Vec<Tensor> {
        let parameters = self.parameters().into_iter();
        parameters.map(|p| p.tensor.clone()).collect()
    }

    /// Replaces all learnable tensors, in the order of [`U2a::parameters`], by tensors of any
    /// device.
    pub fn set_parameters(&mut self, values: Vec<Tensor>) -> Result<()> {
        let device = &self.device;
        let mut values = values.into_iter();
        let mut set = |parameter: &mut Tensor| -> Result<()> {
            match values.next() {
                Some(value) if value.dims() == parameter.dims() => {
                    *parameter = value.to_device(device)?;
                    Ok(())
                }
                Some(value) => bail!(
                    "a value of shape {:?} for a parameter of shape {:?}",
                    value.dims(),
                    parameter.dims()
                ),
                None => bail!("fewer values than parameters"),
            }
        };
        for slot in Slot::ALL {
            self.branches[slot].set_parameters(&mut set)?;
        }
        self.fusion
            .iter_mut()
            .try_for_each(|(_, tensor)| set(tensor))?;
        set(&mut self.weight)?;
        set(&mut self.bias)
    }

    /// Converts all learnable tensors to another number type, for gradient checks in f64.
    pub fn to_dtype(&mut self, dtype: DType) -> Result<()> {
        let values = self.values();
        let values = values.iter().map(|value| value.to_dtype(dtype));
        self.set_parameters(values.collect::<candle_core::Result<_>>()?)
    }

    /// Returns the encoders for evaluation, with the LoRA adapters merged into their weights.
    pub fn merged_encoders(&self) -> Result<[Encoder; 2]> {
        let encoders = self
            .branches
            .as_ref()
            .try_map(|branch| match self.adapters_of(branch) {
                Some(adapters) => branch.encoder().merged(adapters),
                None => Ok(branch.encoder().clone()),
            })?;
        Ok(encoders.into())
    }
}
