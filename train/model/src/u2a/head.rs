//! Everything behind the encoders: selected tokens, fusion, head and losses, with the gradients of
//! all of it.
//!
//! candle's autograd computes every variant. On a GPU two kernels of [`engine::cuda`] compute U2A
//! itself and the variants that add or concatenate tokens, where autograd would launch some 180
//! kernels of a few numbers each.

use super::frames::{mean_over_frames, spread_over_frames};
use super::step::{Encoded, StepOptions};
use super::{LinearHead, MicroBatch, U2a};
use crate::encoder::EncoderOutput;
use crate::fusion;
use crate::loss::{LossConfig, alignment_loss, task_loss};
use crate::methods::{self, Objective, ObjectiveInput, StateUpdate};
use crate::ogm_ge;
use crate::pair::{Pair, Slot};
use crate::token_selection::{ModalityTokens, SelectionRule, Source, select};
use crate::variant::{Adaptation, Fusion, Method, MissingToken, Modulation};
use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Linear;
use engine::cuda::{Gpu, Head, HeadInput, HeadSample, HeadToken};
use features::Batch;

/// The result of everything behind the encoders.
pub(super) struct HeadResult {
    /// Loss, task loss and alignment loss.
    pub(super) losses: Tensor,
    pub(super) logits: Tensor,
    /// The gradients of the encoders' outputs, where the encoders learn.
    pub(super) d_tokens: Pair<Option<EncoderOutput>>,
    /// The gradients of the fusion's layers and of the heads; `None` for a head of a method that
    /// took no part in the step.
    pub(super) d_layers: Vec<Option<Tensor>>,
    /// The coefficients of gradient modulation, if it is on.
    pub(super) modulation: Option<Pair<f64>>,
    /// What the method's state takes from the step.
    pub(super) update: Option<StateUpdate>,
}

impl U2a {
    /// Selects tokens, fuses them, computes the losses and differentiates all of it. `pass` is that
    /// of [`U2a::step_pass`].
    pub(super) fn head_step(
        &self,
        batch: &Batch,
        encoded: &Pair<Option<Encoded>>,
        options: &StepOptions,
        config: &LossConfig,
        pass: usize,
    ) -> Result<HeadResult> {
        let share = options.micro_batch;
        let plain = matches!(self.variant.fusion, Fusion::Sum | Fusion::Concat)
            && self.variant.modulation == Modulation::None
            && self.variant.method == Method::U2a;
        if let [head] = &self.heads[..]
            && plain
            && let Some(gpu) = engine::cuda::of(&head.weight)?
        {
            return self.head_on_device(gpu, head, batch, encoded, share, config);
        }
        self.head_with_autograd(batch, encoded, options, config, pass)
    }

    /// Returns whether the variant's encoders learn anything.
    pub(super) fn encoders_learn(&self) -> bool {
        self.variant.adaptation != Adaptation::Head
    }

    fn head_on_device(
        &self,
        gpu: Gpu,
        head: &LinearHead,
        batch: &Batch,
        encoded: &Pair<Option<Encoded>>,
        share: MicroBatch,
        config: &LossConfig,
    ) -> Result<HeadResult> {
        let sources = self.selection_rule(config.missing_token);
        let sources = sources.sources(&batch.present)?;
        let both_ran = encoded.m1.is_some() && encoded.m2.is_some();
        let samples = sources.into_iter().enumerate().map(|(i, sources)| {
            let ran = |encoded: &Option<Encoded>| match encoded {
                Some(encoded) => encoded.input.rows.binary_search(&i).is_ok(),
                None => false,
            };
            let token = |source| match source {
                Source::Zeros => None,
                Source::Class(slot) => Some(HeadToken::Class(slot.index())),
                Source::Mask(slot) => Some(HeadToken::Mask(slot.index())),
            };
            HeadSample {
                inputs: encoded.as_ref().map(ran).into(),
                tokens: sources.map(token).into(),
                aligned: both_ran && self.has_mask_tokens() && batch.present[i] == [true, true],
                labels: &batch.labels[i],
            }
        });
        let inputs = encoded.as_ref().map(|encoded| {
            let encoded = encoded.as_ref()?;
            Some(HeadInput {
                tokens: &encoded.output.tokens,
                images: encoded.input.data.images_per_sample(),
                learns: self.encoders_learn(),
            })
        });
        let result = gpu.head(&Head {
            inputs: inputs.into(),
            samples: &samples.collect::<Vec<_>>(),
            weight: &head.weight,
            bias: &head.bias,
            multi_label: config.multi_label,
            stop_gradient: config.align_stop_gradient,
            shares: [share.task, share.align],
            align_weight: config.align_weight,
        })?;
        let d_tokens = result
            .d_tokens
            .map(|tokens| tokens.map(|tokens| EncoderOutput { tokens }));
        Ok(HeadResult {
            losses: result.losses,
            logits: result.logits,
            d_tokens: d_tokens.into(),
            d_layers: vec![Some(result.d_weight), Some(result.d_bias)],
            modulation: None,
            update: None,
        })
    }

    fn head_with_autograd(
        &self,
        batch: &Batch,
        encoded: &Pair<Option<Encoded>>,
        options: &StepOptions,
        config: &LossConfig,
        pass: usize,
    ) -> Result<HeadResult> {
        let outputs = encoded.as_ref().try_map(|encoded| match encoded {
            Some(encoded) => mean_over_frames(encoded.input, &encoded.output).map(Some),
            None => Ok(None),
        })?;
        let token_vars = outputs.as_ref().try_map(|tokens| match tokens {
            Some(tokens) => tokens.variables().map(Some),
            None => Ok(None),
        })?;
        let tokens = token_vars.as_ref().zip(outputs.as_ref());
        let tokens = tokens.map(|(vars, output)| {
            let rows = output.as_ref()?.rows;
            let [class, mask] = vars.as_ref()?;
            Some(ModalityTokens {
                rows,
                class: class.as_tensor().clone(),
                mask: mask.as_tensor().clone(),
            })
        });
        let layer_vars = self
            .layer_tensors()
            .map(Var::from_tensor)
            .collect::<candle_core::Result<Vec<Var>>>()?;
        let layers: Vec<Tensor> = layer_vars.iter().map(|v| v.as_tensor().clone()).collect();
        let layers = fusion::linear_layers(&layers);
        let only = self.variant.method.only_modality(pass);
        let selected = self.select_tokens(batch, &tokens, config.missing_token, only)?;
        let share = options.micro_batch;
        let (objective, align) = match self.variant.method {
            Method::U2a => self.u2a_objective(batch, &tokens, &selected, &layers, share, config)?,
            _ => {
                let objective =
                    self.method_objective(batch, &selected, &layers, options, config, pass)?;
                (objective, None)
            }
        };
        let Objective {
            loss, task, logits, ..
        } = objective;
        let store = loss.backward()?;
        let learning = token_vars.zip(encoded.as_ref());
        let d_tokens = learning.try_map(|(vars, encoded)| match (vars, encoded) {
            (Some([class, mask]), Some(encoded)) if self.encoders_learn() => {
                if store.get(&class).is_none() && store.get(&mask).is_none() {
                    return Ok(None);
                }
                let images = encoded.input.data.images_per_sample();
                let [class, mask] = [gradient(&store, &class)?, gradient(&store, &mask)?];
                spread_over_frames(&class, &mask, images).map(Some)
            }
            _ => Ok(None),
        })?;
        let d_layers = layer_vars.iter().map(|var| store.get(var));
        let d_layers = d_layers.map(|gradient| gradient.map(Tensor::detach));
        let mut d_layers: Vec<Option<Tensor>> = d_layers.collect();
        self.method_state.modify_gradients(&mut d_layers)?;
        let head = layers.last().context("a model without a head")?;
        let modulation = self.modulation_coefficients(batch, &selected, head)?;
        let align = align.map_or_else(|| task.zeros_like(), Ok)?;
        Ok(HeadResult {
            losses: Tensor::stack(&[loss, task, align], 0)?.detach(),
            logits: logits.detach(),
            d_tokens,
            d_layers,
            modulation,
            update: objective.update,
        })
    }

    /// Computes the training loss (equation 7), and the alignment loss if a sample is complete.
    fn u2a_objective(
        &self,
        batch: &Batch,
        tokens: &Pair<Option<ModalityTokens>>,
        selected: &Pair<Tensor>,
        layers: &[Linear],
        share: MicroBatch,
        config: &LossConfig,
    ) -> Result<(Objective, Option<Tensor>)> {
        let logits = self.variant.fusion.logits(selected, layers)?;
        let task = task_loss(&logits, &batch.labels, config.multi_label)?;
        let task = scaled(task, share.task)?;
        let align = match self.has_mask_tokens() {
            true => alignment_loss(&batch.present, tokens, config.align_stop_gradient)?,
            false => None,
        };
        let align = align.map(|align| scaled(align, share.align)).transpose()?;
        let loss = match &align {
            Some(align) => (&task + (align * config.align_weight)?)?,
            None => task.clone(),
        };
        let objective = Objective {
            loss,
            task,
            logits,
            update: None,
        };
        Ok((objective, align))
    }

    /// Computes the objective of another method than U2A on a whole batch.
    fn method_objective(
        &self,
        batch: &Batch,
        selected: &Pair<Tensor>,
        layers: &[Linear],
        options: &StepOptions,
        config: &LossConfig,
        pass: usize,
    ) -> Result<Objective> {
        self.check_method(config.missing_token)?;
        if options.micro_batch != MicroBatch::FULL_BATCH {
            bail!(
                "the objective of {} needs whole batches",
                self.variant.method.as_str()
            );
        }
        methods::objective(&ObjectiveInput {
            variant: &self.variant,
            tokens: selected,
            present: &batch.present,
            ids: &batch.ids,
            labels: &batch.labels,
            layers,
            state: &self.method_state,
            multi_label: config.multi_label,
            pass,
        })
    }

    /// Refuses tokens for missing modalities that the method does not know.
    pub(super) fn check_method(&self, missing: MissingToken) -> Result<()> {
        if self.variant.method != Method::U2a && missing != MissingToken::Zeros {
            bail!(
                "{} reads class tokens only; set missing_token=zeros",
                self.variant.method.as_str()
            );
        }
        Ok(())
    }

    /// Selects the two tokens of each sample (equation 4). With `only`, those of the other modality
    /// are zeros.
    pub(super) fn select_tokens(
        &self,
        batch: &Batch,
        tokens: &Pair<Option<ModalityTokens>>,
        missing: MissingToken,
        only: Option<Slot>,
    ) -> Result<Pair<Tensor>> {
        let mut rule = self.selection_rule(missing);
        rule.only = only.or(rule.only);
        // The token of zeros has the width of an encoder that is used.
        let branch = self.branches[rule.only.unwrap_or(Slot::M1)].as_ref();
        let mask_token = branch.context("a model without encoders")?.mask_token();
        select(&batch.present, tokens, rule, mask_token)
    }

    fn selection_rule(&self, missing: MissingToken) -> SelectionRule {
        let mut used = Slot::ALL.into_iter().filter(|slot| self.uses(*slot));
        SelectionRule {
            missing,
            only: match (used.next(), used.next()) {
                (Some(only), None) => Some(only),
                _ => None,
            },
        }
    }

    /// Lists the weights and biases of the fusion's layers and of the heads, in turn.
    pub(super) fn layer_tensors(&self) -> impl Iterator<Item = &Tensor> {
        let layers = self.fusion.iter().map(|(_, tensor)| tensor);
        let heads = self.heads.iter();
        layers.chain(heads.flat_map(|head| [&head.weight, &head.bias]))
    }

    /// Computes OGM's coefficients of the two encoders from the complete samples; `None` if there
    /// is no such sample or no modulation.
    fn modulation_coefficients(
        &self,
        batch: &Batch,
        selected: &Pair<Tensor>,
        head: &Linear,
    ) -> Result<Option<Pair<f64>>> {
        let rows: Vec<u32> = (0..batch.present.len())
            .filter(|i| batch.present[*i] == [true, true])
            .map(|i| i as u32)
            .collect();
        if self.variant.modulation == Modulation::None || rows.is_empty() {
            return Ok(None);
        }
        let labels = rows.iter().map(|i| match batch.labels[*i as usize][..] {
            [label] => Ok(label),
            _ => bail!("gradient modulation is defined for one class per sample"),
        });
        let labels = labels.collect::<Result<Vec<u32>>>()?;
        let rows = Tensor::new(rows, head.weight().device())?;
        let logits = self.variant.fusion.unimodal_logits(selected, head)?;
        let scores = logits.try_map(|logits| {
            fusion::true_class_score(&logits.detach().index_select(&rows, 0)?, &labels)
        })?;
        let alpha = self.variant.ogm_alpha;
        Ok(Some(ogm_ge::coefficients(scores, alpha)))
    }
}

/// Returns the gradient of a variable: zeros if the loss does not depend on it.
fn gradient(store: &GradStore, var: &Var) -> Result<Tensor> {
    Ok(match store.get(var) {
        Some(gradient) => gradient.detach(),
        None => var.as_tensor().zeros_like()?.detach(),
    })
}

/// Multiplies a loss by a weight; that of a whole batch stays what it is to the last bit.
fn scaled(loss: Tensor, weight: f64) -> Result<Tensor> {
    Ok(if weight == 1.0 {
        loss
    } else {
        (loss * weight)?
    })
}
