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

pub mod qmf;

use crate::fusion::forward;
use crate::pair::{Pair, Slot};
use crate::variant::{Fusion, Method, Variant};
use anyhow::{Context, Result, bail};
use candle_core::{D, Device, Tensor};
use candle_nn::Linear;
use candle_nn::ops::log_softmax;
use datasets::Modality;
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
    pub(crate) fn heads(
        self,
        modalities: &Pair<Modality>,
        fusion: Fusion,
        d: usize,
    ) -> Vec<HeadShape> {
        let head = |prefix: String, width| HeadShape { prefix, width };
        let unimodal = |m: &Modality| head(format!("head.{m}."), d);
        match self {
            Method::U2a => vec![head(String::new(), fusion.width(d))],
            Method::Qmf => vec![unimodal(&modalities.m1), unimodal(&modalities.m2)],
        }
    }

    /// Returns how many updates of the optimizer one batch gives.
    pub fn updates_per_batch(self) -> usize {
        match self {
            Method::U2a | Method::Qmf => 1,
        }
    }

    /// Computes the logits (`n x classes`) that a method predicts with.
    pub(crate) fn logits(
        self,
        variant: &Variant,
        tokens: &Pair<Tensor>,
        present: &[[bool; 2]],
        layers: &[Linear],
    ) -> Result<Tensor> {
        match (self, layers) {
            (Method::U2a, layers) => variant.fusion.logits(tokens, layers),
            (Method::Qmf, [m1, m2]) => {
                let logits = [forward(m1, &tokens.m1)?, forward(m2, &tokens.m2)?];
                let temperature = variant.method_settings.qmf.temperature;
                qmf::fused_logits([&logits[0], &logits[1]], present, temperature)
            }
            (_, layers) => bail!("{} layers for the method {self:?}", layers.len()),
        }
    }
}

/// What an objective is computed from.
#[allow(dead_code, reason = "no method reads each of them")]
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
}

/// What a method keeps from step to step. A checkpoint holds it, so that a resumed run continues as
/// if it had not stopped.
#[derive(Default)]
pub enum MethodState {
    /// The method keeps nothing.
    #[default]
    Stateless,
    /// QMF's loss history.
    Qmf(qmf::LossHistory),
}

impl MethodState {
    /// Returns the state at the start of a run. `ids` and `present` are the training samples, and
    /// which modalities the model gets of each.
    pub fn new(method: Method, ids: &[String], present: &[[bool; 2]]) -> MethodState {
        match method {
            Method::U2a => MethodState::Stateless,
            Method::Qmf => MethodState::Qmf(qmf::LossHistory::new(ids, present)),
        }
    }

    /// Takes over what a step has changed.
    pub fn apply(&mut self, update: StateUpdate) {
        match (self, update) {
            (MethodState::Qmf(history), StateUpdate::Qmf(losses)) => history.add(&losses),
            (MethodState::Stateless, _) => {}
        }
    }

    /// Returns the state as named tensors on the CPU; none if there is no state.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        match self {
            MethodState::Stateless => Ok(HashMap::new()),
            MethodState::Qmf(history) => history.tensors(),
        }
    }

    /// Takes over the values of [`MethodState::tensors`]; `device` is that of the model.
    ///
    /// # Errors
    /// A tensor is missing, or has another shape than this run's.
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>, _device: &Device) -> Result<()> {
        match self {
            MethodState::Stateless => Ok(()),
            MethodState::Qmf(history) => history.restore(tensors),
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
                [&logits[0], &logits[1]],
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
        (method, ..) => bail!("no state or no heads for the method {method:?}"),
    }
}

/// Returns the samples' only classes.
pub(crate) fn single_labels(labels: &[Vec<u32>]) -> Result<Vec<u32>> {
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

/// Returns a column (`n x 1`) of ones where a sample has a modality and zeros elsewhere, of the
/// number type and on the device of `like`.
pub(crate) fn availability(present: &[[bool; 2]], slot: Slot, like: &Tensor) -> Result<Tensor> {
    let ones = present.iter().map(|has| f64::from(has[slot.index()]));
    let ones = Tensor::from_vec(ones.collect::<Vec<f64>>(), (present.len(), 1), &Device::Cpu)?;
    Ok(ones.to_dtype(like.dtype())?.to_device(like.device())?)
}

/// Computes the cross-entropy of each sample, `n`.
pub(crate) fn cross_entropies(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let targets = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    let log_p = log_softmax(logits, D::Minus1)?.gather(&targets, D::Minus1)?;
    Ok(log_p.squeeze(1)?.neg()?)
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
