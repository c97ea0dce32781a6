//! The model U2A: two frozen encoders with LoRA adapters and a mask token each, token selection per
//! sample, one linear head (section 3).
//!
//! ```text
//! both present   T = CLS_1 + CLS_2        m1 missing   T = MT_2 + CLS_2
//! m2 missing     T = CLS_1 + MT_1         logits = W T + b
//! ```
//!
//! An encoder runs on the samples that have its modality and on no others. The baselines of
//! [`Variant`] change what learns in the encoders and how the tokens are fused; a [`Method`] other
//! than U2A brings its own heads and objective.

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
use crate::methods::{HeadShape, MethodState, TrainingSplit};
use crate::pair::{Pair, Slot};
use crate::variant::{Adaptation, Method, Variant};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use datasets::Modalities;
use util::rng::Rng;

/// The stream of the random generator for a new head.
const INIT_HEAD: u32 = 0x4865_6164;

/// The model: frozen encoders and everything that learns.
pub struct U2a {
    /// The encoders with all that they learn; there is no second one of a single modality.
    branches: Pair<Option<Branch>>,
    /// The fusion's own layers by name.
    fusion: Vec<(&'static str, Tensor)>,
    /// The linear heads: one, or those of the method.
    heads: Vec<LinearHead>,
    /// What the method keeps from step to step.
    method_state: MethodState,
    lora: LoraConfig,
    variant: Variant,
    /// The device of everything that learns.
    device: Device,
}

/// A linear layer that gives logits.
struct LinearHead {
    /// What stands before `weight` and `bias` in the names of its tensors.
    prefix: String,
    /// `classes x width`.
    weight: Tensor,
    /// `classes`.
    bias: Tensor,
}

impl LinearHead {
    /// Draws a new head, as PyTorch's `nn.Linear` does.
    fn new(shape: HeadShape, classes: usize, rng: &mut Rng) -> Result<LinearHead> {
        let HeadShape { prefix, width } = shape;
        let bound = kaiming_bound(width);
        Ok(LinearHead {
            prefix,
            weight: uniform(rng, (classes, width), bound)?,
            bias: uniform(rng, classes, bound)?,
        })
    }
}

/// The name and the value of one learnable tensor.
pub struct Parameter<'a> {
    /// `INPUT/KEY` for adapters and encoder weights, `mask_token.INPUT`, `prompts.INPUT.CASE`,
    /// `fusion.LAYER.KEY`, `weight`, `bias`; `head.NAME.weight`, `head.NAME.bias` if the method has
    /// several heads.
    pub name: String,
    /// The value.
    pub tensor: &'a Tensor,
}

/// Builds a model: see [`U2a::builder`].
pub struct U2aBuilder {
    modalities: Modalities,
    encoders: Vec<Encoder>,
    classes: usize,
    lora: LoraConfig,
    variant: Variant,
    weights: Option<Vec<Weights>>,
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
    pub fn weights(mut self, weights: impl Into<Vec<Weights>>) -> U2aBuilder {
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
    /// Two encoders that are used differ in width, their number is not that of the modalities, the
    /// variant's only input is none of theirs, full fine-tuning has no weights, or prompts are for
    /// one modality alone or cannot be halved.
    pub fn build(self) -> Result<U2a> {
        let U2aBuilder {
            variant,
            lora,
            seed,
            ..
        } = self;
        let modalities = self.modalities;
        if let Some(only) = variant.modality
            && modalities.position(only).is_none()
        {
            bail!("modality {only}: the data have {modalities}");
        }
        if self.encoders.len() != modalities.count() {
            bail!("{} encoders for {modalities}", self.encoders.len());
        }
        let used = modalities.names().zip(&self.encoders);
        let used = used.filter(|(input, _)| variant.uses(*input));
        let widths: Vec<usize> = used.map(|(_, e)| e.config().hidden).collect();
        let d = match widths[..] {
            [first, second] if first != second => bail!(
                "the encoders differ in width ({first} and {second}): their class tokens cannot be added"
            ),
            [d, ..] => d,
            [] => bail!("no encoder is used"),
        };
        let prompt_level = variant.adaptation.prompt_level();
        if prompt_level.is_some() && widths.len() < 2 {
            bail!("missing-aware prompts need two modalities");
        }
        let mut weights = match variant.weights_learn() {
            true => {
                let weights = self.weights.context("full fine-tuning without weights")?;
                let names = modalities.names().zip(weights);
                names
                    .map(|(input, w)| variant.uses(input).then_some(w))
                    .collect()
            }
            false => Vec::new(),
        }
        .into_iter();
        let mut inputs = modalities.names().zip(self.encoders);
        let branches = Pair::try_from_fn(|slot| -> Result<Option<Branch>> {
            let Some((input, encoder)) = inputs.next() else {
                return Ok(None);
            };
            let adapters = variant.uses(input)
                && matches!(variant.adaptation, Adaptation::Lora | Adaptation::Head);
            let (weights, lora) = (weights.next().flatten(), adapters.then_some(&lora));
            let branch = Branch::new(input, encoder, weights, lora, seed, slot)?;
            let branch = match prompt_level {
                Some(level) => branch.with_prompts(level, &variant.prompts, seed, slot)?,
                None => branch,
            };
            Ok(Some(branch))
        })?;
        let mut rng = Rng::new(seed, &[INIT_HEAD]);
        let heads = variant.method.heads(modalities, variant.fusion, d);
        let heads = heads.into_iter();
        let heads = heads.map(|shape| LinearHead::new(shape, self.classes, &mut rng));
        let mut model = U2a {
            branches,
            fusion: variant.fusion.new_layers(d, seed)?,
            heads: heads.collect::<Result<_>>()?,
            method_state: MethodState::default(),
            lora,
            variant,
            device: self.device,
        };
        let values = model.values();
        model.set_parameters(values)?;
        model.start_method(&TrainingSplit::default())?;
        Ok(model)
    }
}

impl U2a {
    /// Starts a model of one encoder for each modality, with a head of `classes` outputs.
    pub fn builder(
        modalities: impl Into<Modalities>,
        encoders: impl Into<Vec<Encoder>>,
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
    pub fn branches(&self) -> Vec<&Branch> {
        let Pair { m1, m2 } = &self.branches;
        m1.iter().chain(m2).collect()
    }

    /// Returns the settings of the LoRA adapters.
    pub fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    /// Returns the device of everything that learns.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the method.
    pub fn method(&self) -> Method {
        self.variant.method
    }

    /// Returns what the method keeps from step to step.
    pub fn method_state(&self) -> &MethodState {
        &self.method_state
    }

    /// Returns what the method keeps from step to step, to change it.
    pub fn method_state_mut(&mut self) -> &mut MethodState {
        &mut self.method_state
    }

    /// Puts the method's state to the start of a run.
    pub fn start_method(&mut self, split: &TrainingSplit) -> Result<()> {
        let size = (self.classes(), self.width());
        self.method_state = MethodState::new(self.variant.method, split, size, &self.device)?;
        Ok(())
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.heads.first().map_or(0, |head| head.bias.elem_count())
    }

    /// Returns the width of a token.
    pub fn width(&self) -> usize {
        let branch = self.branches.m1.as_ref();
        branch.map_or(0, |branch| branch.encoder().config().hidden)
    }

    /// Returns whether the variant uses a modality.
    fn uses(&self, slot: Slot) -> bool {
        let branch = self.branches[slot].as_ref();
        branch.is_some_and(|branch| self.variant.uses(branch.input()))
    }

    /// Lists all learnable tensors in a fixed order: the first encoder's adapters (in full
    /// fine-tuning its weights) and mask token or its prompts, the second's, the fusion's layers, the
    /// heads.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut list = Vec::new();
        for branch in self.branches() {
            list.extend(branch.parameters());
        }
        let layers = self.fusion.iter().map(|(name, tensor)| (*name, tensor));
        list.extend(layers.map(|(name, tensor)| Parameter {
            name: name.to_string(),
            tensor,
        }));
        for head in &self.heads {
            let tensors = [("weight", &head.weight), ("bias", &head.bias)];
            list.extend(tensors.map(|(name, tensor)| Parameter {
                name: format!("{}{name}", head.prefix),
                tensor,
            }));
        }
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
            if let Some(branch) = &mut self.branches[slot] {
                branch.set_parameters(&mut set)?;
            }
        }
        self.fusion
            .iter_mut()
            .try_for_each(|(_, tensor)| set(tensor))?;
        for head in &mut self.heads {
            set(&mut head.weight)?;
            set(&mut head.bias)?;
        }
        Ok(())
    }

    /// Converts all learnable tensors to another number type, for gradient checks in f64.
    pub fn to_dtype(&mut self, dtype: DType) -> Result<()> {
        let values = self.values();
        let values = values.iter().map(|value| value.to_dtype(dtype));
        self.set_parameters(values.collect::<candle_core::Result<_>>()?)
    }

    /// Returns the encoders for evaluation, with the LoRA adapters merged into their weights.
    pub fn merged_encoders(&self) -> Result<[Option<Encoder>; 2]> {
        let encoders = self.branches.as_ref().try_map(|branch| -> Result<_> {
            let Some(branch) = branch else {
                return Ok(None);
            };
            let encoder = match self.adapters_of(branch) {
                Some(adapters) => branch.encoder().merged(adapters)?,
                None => branch.encoder().clone(),
            };
            Ok(Some(encoder))
        })?;
        Ok(encoders.into())
    }
}
