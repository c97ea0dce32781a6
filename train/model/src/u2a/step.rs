//! One training step, from a batch to losses and gradients; and the scores of a batch.

use super::frames::mean_over_frames;
use super::{Branch, U2a};
use crate::encoder::lora::LoraAdapters;
use crate::encoder::prompts::{MissingCase, SequencePrompts};
use crate::encoder::{
    DropoutConfig, Encoder, EncoderInput, EncoderOutput, StoredActivations, Tape,
};
use crate::fusion;
use crate::loss::LossConfig;
use crate::methods::mmlora::Stage;
use crate::methods::{MethodState, StateUpdate, g_blend, g_blend_logits};
use crate::ogm_ge;
use crate::pair::{Pair, Slot};
use crate::token_selection::{AlignmentPair, ModalityTokens, alignment_pairs};
use crate::variant::{Adaptation, Method, MissingToken};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;
use engine::{AdamW, AdamWConfig};
use features::{Batch, ModalityBatch};

/// The settings of one training step.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// The seed of the run.
    pub seed: u64,
    /// The number of the optimizer step.
    pub step: u32,
    /// Whether the encoders' own dropout is on.
    pub encoder_dropout: bool,
    /// The activations that the forward pass stores.
    pub stored: StoredActivations,
    /// The place of the batch in a larger one.
    pub micro_batch: MicroBatch,
}

/// The place of a micro-batch in its batch, and its contribution to the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MicroBatch {
    /// The number of its first sample in the batch, by which the random generator knows the
    /// samples.
    pub first: usize,
    /// Its share of the samples, over which the task loss is a mean.
    pub task: f64,
    /// Its share of the complete samples, over which the alignment loss is a mean.
    pub align: f64,
}

impl MicroBatch {
    /// A batch that is computed at once.
    pub const FULL_BATCH: MicroBatch = MicroBatch {
        first: 0,
        task: 1.0,
        align: 1.0,
    };
}

/// The inputs of one modality of a batch on the model's device.
pub struct Uploaded {
    /// The samples of the batch that they belong to, ascending.
    pub rows: Vec<usize>,
    /// The values, `rows x any`, f32.
    pub values: Tensor,
}

impl Uploaded {
    /// Selects the values of `rows`, which are counted from sample `first`; `None` if one of them
    /// is missing.
    fn select(&self, rows: &[usize], first: usize) -> Result<Option<Tensor>> {
        let place = |row: &usize| {
            self.rows
                .binary_search(&(row + first))
                .ok()
                .map(|at| at as u32)
        };
        let Some(places) = rows.iter().map(place).collect::<Option<Vec<u32>>>() else {
            return Ok(None);
        };
        let Some(start) = places.first().map(|at| *at as usize) else {
            return Ok(None);
        };
        let consecutive = places
            .iter()
            .enumerate()
            .all(|(i, at)| *at as usize == start + i);
        Ok(Some(match consecutive {
            true => self.values.narrow(0, start, places.len())?,
            false => self
                .values
                .index_select(&Tensor::new(places, self.values.device())?, 0)?,
        }))
    }
}

/// The losses and gradients of one training step.
pub struct StepResult {
    /// The three numbers of [`Losses`], still on the model's device.
    pub losses: Tensor,
    /// The logits, `n x classes`.
    pub logits: Tensor,
    /// The gradients in the order of [`U2a::parameters`]; `None` where the tensor took no part in
    /// the step.
    pub grads: Vec<Option<Tensor>>,
    /// What the method's state takes from the step if it is made: see
    /// [`MethodState::apply`](crate::methods::MethodState::apply).
    pub update: Option<StateUpdate>,
}

/// The losses of one training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// The training loss, `task + weight * align` (equation 7).
    pub loss: f64,
    /// The task loss.
    pub task: f64,
    /// The alignment loss, 0 if no sample is complete.
    pub align: f64,
}

impl Losses {
    /// Fetches the losses of several steps at once, so that the host waits for a GPU only once.
    pub fn read(steps: &[Tensor]) -> Result<Vec<Losses>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<f64> = Tensor::cat(steps, 0)?.to_dtype(DType::F64)?.to_vec1()?;
        let losses = |v: &[f64]| Losses {
            loss: v[0],
            task: v[1],
            align: v[2],
        };
        Ok(all.chunks_exact(3).map(losses).collect())
    }
}

impl StepResult {
    /// Fetches the losses of this step.
    pub fn losses(&self) -> Result<Losses> {
        Ok(Losses::read(std::slice::from_ref(&self.losses))?[0])
    }
}

/// The scores of a batch.
pub struct Scores {
    /// The logits, `n x classes`.
    pub logits: Vec<Vec<f32>>,
    /// For each complete sample its number in the batch, and the squared distances, mean over
    /// width, of MT_1 to CLS_2 and of MT_2 to CLS_1. Empty in a model without mask tokens.
    pub alignment: Vec<(usize, [f64; 2])>,
}

/// The result of an encoder on a batch, and what its backward pass needs.
pub(super) struct Encoded<'a> {
    pub(super) input: &'a ModalityBatch,
    pub(super) output: EncoderOutput,
    tape: Tape,
}

impl U2a {
    /// Computes the losses and gradients of one training step.
    pub fn step(
        &self,
        batch: &Batch,
        options: &StepOptions,
        config: &LossConfig,
    ) -> Result<StepResult> {
        self.step_uploaded(batch, [None, None], options, config)
    }

    /// [`U2a::step`] of a batch, or of a part of one, whose inputs may be on the device already.
    pub fn step_uploaded(
        &self,
        batch: &Batch,
        uploaded: [Option<&Uploaded>; 2],
        options: &StepOptions,
        config: &LossConfig,
    ) -> Result<StepResult> {
        self.step_pass(batch, uploaded, options, config, 0)
    }

    /// [`U2a::step_uploaded`] for one of the updates that a batch gives:
    /// [`Method::updates_per_batch`].
    pub fn step_pass(
        &self,
        batch: &Batch,
        uploaded: [Option<&Uploaded>; 2],
        options: &StepOptions,
        config: &LossConfig,
        pass: usize,
    ) -> Result<StepResult> {
        self.check_missing_token(config.missing_token)?;
        let only = self.variant.method.only_modality(pass);
        let encoded = Pair::try_from_fn(|slot| match only {
            Some(only) if only != slot => Ok(None),
            _ => self.encode(slot, batch, uploaded[slot.index()], options),
        })?;
        let head = self.head_step(batch, &encoded, options, config, pass)?;
        let mut grads = Vec::new();
        for (slot, (encoded, d_tokens)) in encoded.zip(head.d_tokens).entries() {
            let first = grads.len();
            let Some(branch) = &self.branches[slot] else {
                continue;
            };
            self.encoder_gradients(branch, encoded, d_tokens.as_ref(), &mut grads)?;
            if let Some(coefficients) = head.modulation {
                self.modulate(&mut grads, first, coefficients[slot], options)?;
            }
        }
        grads.extend(head.d_layers);
        Ok(StepResult {
            losses: head.losses,
            logits: head.logits,
            grads,
            update: head.update,
        })
    }

    /// Runs the encoder of one modality; `None` if the batch has no such input or the variant does
    /// not use it.
    fn encode<'a>(
        &self,
        slot: Slot,
        batch: &'a Batch,
        uploaded: Option<&Uploaded>,
        options: &StepOptions,
    ) -> Result<Option<Encoded<'a>>> {
        let Some(input) = batch.inputs[slot.index()].as_ref() else {
            return Ok(None);
        };
        let branch = self.branches[slot].as_ref();
        let Some(branch) = branch.filter(|_| self.uses(slot)) else {
            return Ok(None);
        };
        let first = options.micro_batch.first;
        let uploaded = match uploaded {
            Some(uploaded) => uploaded.select(&input.rows, first)?,
            None => None,
        };
        let read = EncoderInput {
            data: &input.data,
            samples: &sequence_names(input, first),
            uploaded: uploaded.as_ref(),
        };
        let stored = self.encoders_learn().then_some(options.stored);
        let dropout = self.dropout(branch, slot, options);
        let (output, tape) = match branch.prompts() {
            Some(prompts) => {
                let cases = &missing_cases(input, &batch.present)?;
                let prompts = SequencePrompts { prompts, cases };
                let encoder = branch.encoder();
                encoder.forward_prompted(&read, &prompts, &dropout, stored)?
            }
            None => branch.encoder().forward(
                &read,
                branch.mask_token(),
                self.adapters_of(branch),
                &dropout,
                stored,
            )?,
        };
        Ok(Some(Encoded {
            input,
            output,
            tape,
        }))
    }

    /// Returns the LoRA adapters that an encoder computes with; none in the variants without, and in
    /// MMLoRA's first stage.
    pub(super) fn adapters_of<'a>(&self, branch: &'a Branch) -> Option<&'a LoraAdapters> {
        match (self.variant.adaptation, &self.method_state) {
            (_, MethodState::Mmlora(Stage::Unimodal)) => None,
            (Adaptation::Lora, _) => branch.adapters(),
            _ => None,
        }
    }

    /// Refuses the mask token in a model that has none.
    fn check_missing_token(&self, missing: MissingToken) -> Result<()> {
        if missing == MissingToken::Mask && !self.has_mask_tokens() {
            bail!("a model with prompts has no mask token; the missing token is input or zeros");
        }
        Ok(())
    }

    /// Returns whether the encoders have mask tokens: those with prompts have none.
    pub(super) fn has_mask_tokens(&self) -> bool {
        self.variant.adaptation.prompt_level().is_none()
    }

    fn dropout(&self, branch: &Branch, slot: Slot, options: &StepOptions) -> DropoutConfig {
        let config = branch.encoder().config();
        let own = |rate: f64| if options.encoder_dropout { rate } else { 0.0 };
        DropoutConfig {
            seed: options.seed,
            step: options.step,
            lora: self.lora.dropout,
            hidden: own(config.hidden_dropout),
            attention: own(config.attention_dropout),
            first_module: first_dropout_module(slot),
        }
    }

    /// Runs an encoder's backward pass and appends the gradients of [`Branch::parameters`]; `None`
    /// for each if the encoder did not run or does not learn.
    fn encoder_gradients(
        &self,
        branch: &Branch,
        encoded: Option<Encoded>,
        d_tokens: Option<&EncoderOutput>,
        grads: &mut Vec<Option<Tensor>>,
    ) -> Result<()> {
        let learns = self.encoders_learn();
        let (Some(Encoded { input, tape, .. }), Some(d), true) = (encoded, d_tokens, learns) else {
            grads.extend((0..branch.parameter_count()).map(|_| None));
            return Ok(());
        };
        let encoder = branch.encoder();
        if let Some(prompts) = branch.prompts() {
            grads.extend(encoder.backward_prompted(tape, d, prompts)?);
            return Ok(());
        }
        // What the encoder does not compute with, or what is frozen in this step, learns nothing.
        let d_mask_token = match (branch.weights(), self.adapters_of(branch)) {
            (Some(weights), None) => {
                let mut g = encoder.backward_full(tape, &input.data, d)?;
                grads.extend(weights.iter().map(|(name, _)| g.weights.remove(name)));
                grads.extend((0..branch.adapter_count()).map(|_| None));
                g.mask_token
            }
            (weights, Some(adapters)) => {
                let frozen = weights.map_or(0, |weights| weights.iter().count());
                grads.extend((0..frozen).map(|_| None));
                let g = encoder.backward(tape, d, adapters)?;
                for adapter in g.adapters.into_iter().flatten() {
                    grads.extend([Some(adapter.a), Some(adapter.b)]);
                }
                g.mask_token
            }
            (None, None) => bail!("an encoder that learns nothing"),
        };
        grads.push(self.variant.mask_tokens_learn().then_some(d_mask_token));
        Ok(())
    }

    /// Modulates an encoder's gradients, those from number `first` on.
    fn modulate(
        &self,
        grads: &mut [Option<Tensor>],
        first: usize,
        coefficient: f64,
        options: &StepOptions,
    ) -> Result<()> {
        for (i, grad) in grads.iter_mut().enumerate().skip(first) {
            let Some(grad) = grad else { continue };
            let key = (options.seed, options.step, i as u32);
            *grad = ogm_ge::modulate(grad, coefficient, self.variant.modulation, key)?;
        }
        Ok(())
    }

    /// Creates an optimizer that starts from the parameters as they are now.
    pub fn optimizer(&self, config: AdamWConfig) -> Result<AdamW> {
        let parameters = self.parameters();
        let vars = parameters.iter().map(|p| Var::from_tensor(p.tensor));
        Ok(AdamW::new(
            vars.collect::<candle_core::Result<_>>()?,
            config,
        )?)
    }

    /// Updates every learnable tensor that has a gradient; the others stay as they are. The
    /// gradients are in the order of [`U2a::parameters`]. The values are the optimizer's from now
    /// on: what [`U2a::set_parameters`] puts into the model later is lost at the next update.
    pub fn update(
        &mut self,
        optimizer: &mut AdamW,
        grads: Vec<Option<Tensor>>,
        lr: f64,
    ) -> Result<()> {
        optimizer.set_learning_rate(lr);
        optimizer.step(&optimizer.gradients(grads))?;
        self.set_parameters(optimizer.values())
    }

    /// Runs the encoders of [`U2a::merged_encoders`] on a batch, without any dropout.
    fn evaluation_tokens<'a>(
        &self,
        merged: &[Option<Encoder>; 2],
        batch: &'a Batch,
    ) -> Result<Pair<Option<ModalityTokens<'a>>>> {
        Pair::try_from_fn(|slot| -> Result<_> {
            let input = batch.inputs[slot.index()].as_ref();
            let (Some(branch), Some(encoder)) = (&self.branches[slot], &merged[slot.index()])
            else {
                return Ok(None);
            };
            let Some(input) = input.filter(|_| self.uses(slot)) else {
                return Ok(None);
            };
            let read = EncoderInput {
                data: &input.data,
                samples: &sequence_names(input, 0),
                uploaded: None,
            };
            let (output, _) = match branch.prompts() {
                Some(prompts) => {
                    let cases = &missing_cases(input, &batch.present)?;
                    let prompts = SequencePrompts { prompts, cases };
                    encoder.forward_prompted(&read, &prompts, &DropoutConfig::OFF, None)?
                }
                None => {
                    let mask_token = branch.mask_token();
                    encoder.forward(&read, mask_token, None, &DropoutConfig::OFF, None)?
                }
            };
            mean_over_frames(input, &output).map(Some)
        })
    }

    /// Computes the class tokens of a batch with the encoders of [`U2a::merged_encoders`], without
    /// any dropout: `n x d` of each modality, zeros where it is missing.
    pub fn class_tokens(
        &self,
        merged: &[Option<Encoder>; 2],
        batch: &Batch,
    ) -> Result<[Tensor; 2]> {
        let tokens = self.evaluation_tokens(merged, batch)?;
        let selected = self.select_tokens(batch, &tokens, MissingToken::Zeros, None)?;
        Ok(selected.into())
    }

    /// Computes the logits of G-Blend's heads on a batch, from [`U2a::class_tokens`].
    ///
    /// # Errors
    /// The model has not G-Blend's heads.
    pub fn head_logits(&self, tokens: &[Tensor; 2]) -> Result<[Tensor; g_blend::HEADS]> {
        let layers: Vec<Tensor> = self.layer_tensors().cloned().collect();
        match &fusion::linear_layers(&layers)[..] {
            [m1, m2, joint] => g_blend_logits(&Pair::from(tokens.clone()), [m1, m2, joint]),
            layers => bail!("{} layers where G-Blend has three heads", layers.len()),
        }
    }

    /// Scores a batch with the encoders of [`U2a::merged_encoders`], without any dropout.
    pub fn score(
        &self,
        merged: &[Option<Encoder>; 2],
        batch: &Batch,
        missing_token: MissingToken,
    ) -> Result<Scores> {
        self.check_method(missing_token)?;
        self.check_missing_token(missing_token)?;
        let tokens = self.evaluation_tokens(merged, batch)?;
        let selected = self.select_tokens(batch, &tokens, missing_token, None)?;
        let layers: Vec<Tensor> = self.layer_tensors().cloned().collect();
        let layers = fusion::linear_layers(&layers);
        let (variant, state, present) = (&self.variant, &self.method_state, &batch.present);
        let logits = variant
            .method
            .logits(variant, state, &selected, present, &layers)?;
        Ok(Scores {
            logits: logits.to_dtype(DType::F32)?.to_vec2()?,
            alignment: match variant.method {
                Method::U2a if self.has_mask_tokens() => alignment_distances(batch, &tokens)?,
                // Nothing has aligned the mask tokens, or there are none.
                _ => Vec::new(),
            },
        })
    }
}

/// Returns the missing case of each sequence of an encoder's input.
fn missing_cases(input: &ModalityBatch, present: &[[bool; 2]]) -> Result<Vec<MissingCase>> {
    let images = input.data.images_per_sample();
    let mut cases = Vec::with_capacity(input.rows.len() * images);
    for row in &input.rows {
        let case = MissingCase::of(present[*row]);
        let case =
            case.with_context(|| format!("sample {row} of the batch has no modality at all"))?;
        cases.extend(std::iter::repeat_n(case, images));
    }
    Ok(cases)
}

/// Computes [`Scores::alignment`].
fn alignment_distances(
    batch: &Batch,
    tokens: &Pair<Option<ModalityTokens>>,
) -> Result<Vec<(usize, [f64; 2])>> {
    let Some((samples, pairs)) = alignment_pairs(&batch.present, tokens)? else {
        return Ok(Vec::new());
    };
    let distances = pairs.try_map(|AlignmentPair { mask, class }| -> Result<Vec<f64>> {
        let squares = (mask - class)?.sqr()?;
        Ok(squares.mean(1)?.to_dtype(DType::F64)?.to_vec1()?)
    })?;
    let distances = distances.m1.into_iter().zip(distances.m2);
    Ok(samples
        .into_iter()
        .zip(distances.map(|(m1, m2)| [m1, m2]))
        .collect())
}

/// Returns the first module number of an encoder's dropout; the two are so far apart that the
/// modules of no depth meet.
fn first_dropout_module(slot: Slot) -> u32 {
    match slot {
        Slot::M1 => 0,
        Slot::M2 => 1 << 16,
    }
}

/// Numbers each sequence for the random generator, by its sample's number in the whole batch and by
/// the frame. `first` is the number of the first sample at hand.
fn sequence_names(input: &ModalityBatch, first: usize) -> Vec<u32> {
    let images = input.data.images_per_sample();
    input
        .rows
        .iter()
        .flat_map(|row| (0..images).map(move |frame| ((first + row) * images + frame) as u32))
        .collect()
}
