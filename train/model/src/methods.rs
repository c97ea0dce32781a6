//! The methods that the paper compares U2A with: each is an objective on the class tokens of the
//! same encoders, with heads of its own, and may keep a state from step to step.
//!
//! Each method has a file with its formulas, as functions of tensors of any number type. This file
//! joins them to the model: the heads of each method ([`Method::heads`]), its objective
//! ([`Objective`]), the logits that it predicts with, and its state ([`MethodState`]).
//!
//! A method reads class tokens alone: `n x d` per modality, zeros where the modality is missing. An
//! encoder's sequence still ends with the mask token, as in the fusion baselines; its own output is
//! not read.

pub mod g_blend;
pub mod mla;
pub mod mmlora;
pub mod pmr;
pub mod qmf;

use crate::fusion::forward;
use crate::loss::task_loss;
use crate::pair::{Pair, Slot};
use crate::variant::{Fusion, Method, Variant};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;
use datasets::Modalities;
use std::collections::HashMap;

/// The name and the width of the input of one linear head.
pub(crate) struct HeadShape {
    /// What stands before `weight` and `bias` in the names of its tensors.
    pub(crate) prefix: String,
    /// The numbers that it reads of a sample.
    pub(crate) width: usize,
}

impl Method {
    /// Lists the heads of a method on encoders of width `d`, in the order of the model's parameters.
    pub(crate) fn heads(self, modalities: Modalities, fusion: Fusion, d: usize) -> Vec<HeadShape> {
        let head = |prefix: String, width| HeadShape { prefix, width };
        let unimodal = modalities
            .names()
            .map(|input| head(format!("head.{input}."), d));
        match self {
            Method::U2a | Method::Pmr => vec![head(String::new(), fusion.width(d))],
            Method::Qmf => unimodal.collect(),
            Method::Mla => vec![head(String::new(), d)],
            Method::GBlend | Method::Mmlora => unimodal
                .chain([head("head.joint.".to_string(), 2 * d)])
                .collect(),
        }
    }

    /// Returns how many updates of the optimizer one batch gives.
    pub fn updates_per_batch(self) -> usize {
        match self {
            Method::Mla => Slot::ALL.len(),
            Method::U2a | Method::Qmf | Method::GBlend | Method::Pmr | Method::Mmlora => 1,
        }
    }

    /// Returns the only modality that an update reads; `None` if it reads both. `pass` is the number
    /// of the update among those of the batch.
    pub(crate) fn only_modality(self, pass: usize) -> Option<Slot> {
        match self {
            Method::Mla => Slot::ALL.get(pass).copied(),
            _ => None,
        }
    }

    /// Returns whether a prediction depends on the method's state.
    pub fn predicts_by_state(self) -> bool {
        self == Method::Mmlora
    }

    /// Computes the logits (`n x classes`) that a method predicts with.
    pub(crate) fn logits(
        self,
        variant: &Variant,
        state: &MethodState,
        tokens: &Pair<Tensor>,
        present: &[[bool; 2]],
        layers: &[Linear],
    ) -> Result<Tensor> {
        match (self, layers) {
            (Method::U2a | Method::Pmr, layers) => variant.fusion.logits(tokens, layers),
            (Method::Qmf, [m1, m2]) => {
                let logits = [forward(m1, &tokens.m1)?, forward(m2, &tokens.m2)?];
                let temperature = variant.method_settings.qmf.temperature;
                qmf::fused_logits(logits.each_ref(), present, temperature)
            }
            (Method::GBlend, [_, _, joint]) => {
                forward(joint, &Tensor::cat(&[&tokens.m1, &tokens.m2], 1)?)
            }
            (Method::Mla, [head]) => {
                let logits = [forward(head, &tokens.m1)?, forward(head, &tokens.m2)?];
                mla::fused_logits(logits.each_ref(), present)
            }
            (Method::Mmlora, [m1, m2, joint]) => {
                let tokens = [&tokens.m1, &tokens.m2];
                mmlora::logits(state.stage()?, tokens, present, [m1, m2, joint])
            }
            (_, layers) => bail!("{} layers for the method {self:?}", layers.len()),
        }
    }
}

/// What an objective is computed from.
pub(crate) struct ObjectiveInput<'a> {
    /// The model's variant, with the hyperparameters of its method.
    pub(crate) variant: &'a Variant,
    /// The class tokens, `n x d` per modality, zeros where it is missing.
    pub(crate) tokens: &'a Pair<Tensor>,
    /// Which modalities each sample has.
    pub(crate) present: &'a [[bool; 2]],
    /// The samples' ids.
    pub(crate) ids: &'a [String],
    /// The samples' classes.
    pub(crate) labels: &'a [Vec<u32>],
    /// The layers of the fusion, then the heads.
    pub(crate) layers: &'a [Linear],
    /// The method's state before the step.
    pub(crate) state: &'a MethodState,
    /// Whether a sample has any number of classes.
    pub(crate) multi_label: bool,
    /// The number of this update among those of the batch: see [`Method::updates_per_batch`].
    pub(crate) pass: usize,
}

/// The value of an objective.
pub(crate) struct Objective {
    /// The loss that is differentiated.
    pub(crate) loss: Tensor,
    /// The part of it that is the task loss of the method's prediction.
    pub(crate) task: Tensor,
    /// The logits that the method predicts with, `n x classes`.
    pub(crate) logits: Tensor,
    /// What the state takes from the step, if the step is made.
    pub(crate) update: Option<StateUpdate>,
}

/// What a step changes in the state of a method.
pub enum StateUpdate {
    /// QMF: the unimodal losses of the samples of a batch.
    Qmf(qmf::SampleLosses),
    /// MLA: the projection after the pass.
    Mla(mla::Projection),
}

/// What a method keeps from step to step. A checkpoint holds it, so that a resumed run continues as
/// if it had not stopped.
#[derive(Default)]
pub enum MethodState {
    /// The method keeps nothing.
    #[default]
    Stateless,
    /// QMF's sums of the losses of each training sample, by which its regulariser ranks samples.
    Qmf(qmf::LossHistory),
    /// G-Blend's weights of the heads' losses, and the losses that they are estimated from.
    GBlend(g_blend::Blending),
    /// PMR's class means of the features, which its prototype losses measure distances to.
    Pmr(pmr::Prototypes),
    /// MLA's projection of the head's gradient.
    Mla(mla::Projection),
    /// MMLoRA's stage.
    Mmlora(mmlora::Stage),
}

/// The training samples, as far as a method's state depends on them.
#[derive(Clone, Copy, Default)]
pub struct TrainingSplit<'a> {
    /// Their ids.
    pub ids: &'a [String],
    /// Which modalities the model gets of each.
    pub present: &'a [[bool; 2]],
    /// The ids of those that measure the loss and do not train, for a method that asks for such
    /// samples.
    pub held_out: &'a [String],
}

impl MethodState {
    /// Returns the state at the start of a run of a model with `classes` and tokens of width `d`.
    pub(crate) fn new(
        method: Method,
        split: &TrainingSplit,
        (classes, d): (usize, usize),
        device: &Device,
    ) -> Result<MethodState> {
        Ok(match method {
            Method::U2a => MethodState::Stateless,
            Method::Qmf => MethodState::Qmf(qmf::LossHistory::new(split.ids, split.present)),
            Method::GBlend => MethodState::GBlend(g_blend::Blending::new(split.held_out)),
            Method::Pmr => MethodState::Pmr(pmr::Prototypes::new(classes, d, DType::F32, device)?),
            Method::Mla => MethodState::Mla(mla::Projection::identity(d, DType::F32, device)?),
            Method::Mmlora => MethodState::Mmlora(mmlora::Stage::default()),
        })
    }

    /// Returns MMLoRA's stage.
    ///
    /// # Errors
    /// The state is that of another method.
    pub(crate) fn stage(&self) -> Result<mmlora::Stage> {
        match self {
            MethodState::Mmlora(stage) => Ok(*stage),
            _ => bail!("a method without stages"),
        }
    }

    /// Changes the gradients of the layers (weights and biases in turn) before they are used: MLA
    /// projects that of the head's weight.
    pub(crate) fn modify_gradients(&self, layers: &mut [Option<Tensor>]) -> Result<()> {
        if let (MethodState::Mla(projection), [Some(weight), ..]) = (self, layers) {
            *weight = projection.apply(weight)?;
        }
        Ok(())
    }

    /// Takes over what a step has changed.
    pub fn apply(&mut self, update: StateUpdate) {
        match (self, update) {
            (MethodState::Qmf(history), StateUpdate::Qmf(losses)) => history.add(&losses),
            (MethodState::Mla(projection), StateUpdate::Mla(after)) => *projection = after,
            // An update comes from a step of the model that has the state.
            (_, StateUpdate::Qmf(_) | StateUpdate::Mla(_)) => {}
        }
    }

    /// Returns the state as named tensors on the CPU; none if there is no state.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        match self {
            MethodState::Stateless => Ok(HashMap::new()),
            MethodState::Qmf(history) => history.tensors(),
            MethodState::GBlend(blending) => blending.tensors(),
            MethodState::Pmr(prototypes) => prototypes.tensors(),
            MethodState::Mla(projection) => projection.tensors(),
            MethodState::Mmlora(stage) => stage.tensors(),
        }
    }

    /// Takes over the values of [`MethodState::tensors`].
    ///
    /// # Errors
    /// A tensor is missing, or has another shape than this run's.
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        match self {
            MethodState::Stateless => Ok(()),
            MethodState::Qmf(history) => history.restore(tensors),
            MethodState::GBlend(blending) => blending.restore(tensors),
            MethodState::Pmr(prototypes) => prototypes.restore(tensors),
            MethodState::Mla(projection) => projection.restore(tensors),
            MethodState::Mmlora(stage) => stage.restore(tensors),
        }
    }
}

/// Computes the objective of a method other than U2A, whose own is in `u2a::head`.
pub(crate) fn objective(input: &ObjectiveInput) -> Result<Objective> {
    match (input.variant.method, input.state, input.layers) {
        (Method::Qmf, MethodState::Qmf(history), [m1, m2]) => {
            let logits = [
                forward(m1, &input.tokens.m1)?,
                forward(m2, &input.tokens.m2)?,
            ];
            let objective = qmf::objective(
                logits.each_ref(),
                input.present,
                &single_labels(input.labels)?,
                &history.of_batch(input.ids, input.present),
                &input.variant.method_settings.qmf,
            )?;
            let losses = qmf::SampleLosses::new(input.ids, input.present, &objective)?;
            Ok(Objective {
                loss: objective.loss,
                task: objective.task,
                logits: objective.logits,
                update: Some(StateUpdate::Qmf(losses)),
            })
        }
        (Method::GBlend, MethodState::GBlend(blending), [m1, m2, joint]) => {
            let logits = g_blend_logits(input.tokens, [m1, m2, joint])?;
            let objective = g_blend::objective(
                logits.each_ref(),
                input.present,
                input.labels,
                &blending.held_out(input.ids),
                blending.weights(),
                input.multi_label,
            )?;
            let [_, _, joint] = logits;
            Ok(Objective {
                loss: objective.loss,
                task: objective.task,
                logits: joint,
                update: None,
            })
        }
        (Method::Pmr, MethodState::Pmr(prototypes), layers) => {
            let logits = input.variant.fusion.logits(input.tokens, layers)?;
            let objective = pmr::objective(
                &logits,
                [&input.tokens.m1, &input.tokens.m2],
                input.present,
                &single_labels(input.labels)?,
                prototypes,
                &input.variant.method_settings.pmr,
            )?;
            Ok(Objective {
                loss: objective.loss,
                task: objective.task,
                logits,
                update: None,
            })
        }
        (Method::Mla, MethodState::Mla(projection), [head]) => {
            mla_objective(input, projection, head)
        }
        (Method::Mmlora, MethodState::Mmlora(stage), [m1, m2, joint]) => {
            let tokens = [&input.tokens.m1, &input.tokens.m2];
            let heads = [m1, m2, joint];
            let (present, labels) = (input.present, input.labels);
            let loss =
                mmlora::objective(*stage, tokens, present, labels, heads, input.multi_label)?;
            Ok(Objective {
                task: loss.clone(),
                loss,
                logits: mmlora::logits(*stage, tokens, present, heads)?,
                update: None,
            })
        }
        (method, ..) => bail!("no state or no heads for the method {method:?}"),
    }
}

/// Computes the objective of one of MLA's passes: the task loss of the shared head on the modality
/// whose turn it is, a mean over the samples that have it. Without such a sample it is 0, and
/// nothing learns from it.
fn mla_objective(
    input: &ObjectiveInput,
    projection: &mla::Projection,
    head: &Linear,
) -> Result<Objective> {
    let slot = Method::Mla.only_modality(input.pass);
    let slot = slot.context("a pass for each modality, and no other")?;
    let tokens = &input.tokens[slot];
    let logits = forward(head, tokens)?;
    let rows = rows_with(input.present, slot);
    if rows.is_empty() {
        let loss = Tensor::zeros((), logits.dtype(), logits.device())?;
        return Ok(Objective {
            task: loss.clone(),
            loss,
            logits,
            update: None,
        });
    }
    let (own, labels) = select_samples(&logits, input.labels, &rows)?;
    let loss = task_loss(&own, &labels, false)?;
    let rows = Tensor::new(rows, tokens.device())?;
    let mean = tokens.detach().index_select(&rows, 0)?.mean(0)?;
    let lambda = input.variant.method_settings.mla.lambda;
    Ok(Objective {
        task: loss.clone(),
        loss,
        logits,
        update: Some(StateUpdate::Mla(projection.after(&mean, lambda)?)),
    })
}

/// Computes the logits of G-Blend's heads: of both modalities, and the joint one.
pub(crate) fn g_blend_logits(
    tokens: &Pair<Tensor>,
    [m1, m2, joint]: [&Linear; g_blend::HEADS],
) -> Result<[Tensor; g_blend::HEADS]> {
    Ok([
        forward(m1, &tokens.m1)?,
        forward(m2, &tokens.m2)?,
        forward(joint, &Tensor::cat(&[&tokens.m1, &tokens.m2], 1)?)?,
    ])
}

/// Returns the samples' only classes.
pub fn single_labels(labels: &[Vec<u32>]) -> Result<Vec<u32>> {
    let only = labels.iter().map(|labels| match labels[..] {
        [label] => Ok(label),
        _ => bail!("labels {labels:?} where one class is expected"),
    });
    only.collect()
}

/// Returns the numbers of the samples that have a modality.
pub(crate) fn rows_with(present: &[[bool; 2]], slot: Slot) -> Vec<u32> {
    let has = present.iter().map(|has| has[slot.index()]);
    let rows = has.enumerate().filter(|(_, has)| *has);
    rows.map(|(row, _)| row as u32).collect()
}

/// Returns the given rows of a tensor with one row per sample, and the labels of these samples.
pub(crate) fn select_samples(
    tensor: &Tensor,
    labels: &[Vec<u32>],
    rows: &[u32],
) -> Result<(Tensor, Vec<Vec<u32>>)> {
    let labels = rows.iter().map(|row| labels[*row as usize].clone());
    let rows = Tensor::new(rows, tensor.device())?;
    Ok((tensor.index_select(&rows, 0)?, labels.collect()))
}

/// Returns a column (`n x 1`) of ones where a sample has a modality and zeros elsewhere, of the
/// number type and on the device of `like`.
pub(crate) fn availability(present: &[[bool; 2]], slot: Slot, like: &Tensor) -> Result<Tensor> {
    let ones = present.iter().map(|has| f64::from(has[slot.index()]));
    let ones = Tensor::from_vec(ones.collect::<Vec<f64>>(), (present.len(), 1), &Device::Cpu)?;
    Ok(ones.to_dtype(like.dtype())?.to_device(like.device())?)
}

/// Returns the tensor of this name and shape.
pub(crate) fn named(
    tensors: &HashMap<String, Tensor>,
    name: &str,
    shape: &[usize],
) -> Result<Tensor> {
    let tensor = tensors
        .get(name)
        .with_context(|| format!("tensor {name} is missing"))?;
    if tensor.dims() != shape {
        bail!(
            "tensor {name} has shape {:?}, the run has {shape:?}",
            tensor.dims()
        );
    }
    Ok(tensor.clone())
}
