//! Multi-modal low-rank adaptation learning, MMLoRA (Du, Zhao, Liao, You, Fu and Zhao, "Improving
//! Discriminative Multi-Modal Learning with Large-Scale Pre-Trained Models", arXiv 2310.05193,
//! section 3).
//!
//! Training has two stages. First each encoder is fine-tuned as a whole for itself, with a head of
//! its own. Then the tuned encoders are frozen, get LoRA adapters, and are trained together with a
//! new head on both features, side by side.
//!
//! The first stage minimises the sum of the unimodal losses: encoders and heads share nothing, so
//! that its gradients are those of two runs of their own.

use super::{availability, named, rows_with, select_samples};
use crate::fusion::forward;
use crate::loss::task_loss;
use crate::pair::Slot;
use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use candle_nn::Linear;
use std::collections::HashMap;

/// The name of the stage in a checkpoint.
const STAGE: &str = "stage";

/// A stage of the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// All weights of each encoder learn, with a head for each.
    #[default]
    Unimodal,
    /// The adapters learn, with one head for both.
    Joint,
}

impl Stage {
    /// Returns the stage as a number under its name in a checkpoint: 1 or 2.
    pub fn tensors(self) -> Result<HashMap<String, Tensor>> {
        let number = self as u32 + 1;
        let number = Tensor::new(&[number], &Device::Cpu)?;
        Ok(HashMap::from([(STAGE.to_string(), number)]))
    }

    /// Takes over the value of [`Stage::tensors`].
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        *self = match named(tensors, STAGE, &[1])?.to_vec1::<u32>()?[..] {
            [1] => Stage::Unimodal,
            _ => Stage::Joint,
        };
        Ok(())
    }
}

/// Computes the logits (`n x classes`) that a stage predicts with, from class tokens (`n x d`, zeros
/// where the modality is missing). In the first stage they are the mean of the logits of a sample's
/// modalities, in the second those of the head on both class tokens side by side. `heads` are those
/// of the first modality, of the second, and of both.
pub fn logits(
    stage: Stage,
    tokens: [&Tensor; 2],
    present: &[[bool; 2]],
    heads: [&Linear; 3],
) -> Result<Tensor> {
    if stage == Stage::Joint {
        return forward(heads[2], &Tensor::cat(&tokens, 1)?);
    }
    let [first, second] = Slot::ALL.map(|slot| -> Result<[Tensor; 2]> {
        let logits = forward(heads[slot.index()], tokens[slot.index()])?;
        let has = availability(present, slot, &logits)?;
        Ok([logits.broadcast_mul(&has)?, has])
    });
    let ([first, has_first], [second, has_second]) = (first?, second?);
    let count = (has_first + has_second)?;
    Ok((first + second)?.broadcast_div(&count)?)
}

/// Computes the objective of a stage, whose arguments are those of [`logits`]: in the first the sum
/// of the unimodal task losses, each a mean over the samples that have the modality, in the second
/// the task loss of the head on both.
///
/// # Errors
/// No sample has any modality, or the labels do not fit.
pub fn objective(
    stage: Stage,
    tokens: [&Tensor; 2],
    present: &[[bool; 2]],
    labels: &[Vec<u32>],
    heads: [&Linear; 3],
    multi_label: bool,
) -> Result<Tensor> {
    if stage == Stage::Joint {
        let logits = logits(stage, tokens, present, heads)?;
        return task_loss(&logits, labels, multi_label);
    }
    let mut loss: Option<Tensor> = None;
    for slot in Slot::ALL {
        let rows = rows_with(present, slot);
        if rows.is_empty() {
            continue;
        }
        let (tokens, labels) = select_samples(tokens[slot.index()], labels, &rows)?;
        let logits = forward(heads[slot.index()], &tokens)?;
        let unimodal = task_loss(&logits, &labels, multi_label)?;
        loss = Some(match loss {
            Some(loss) => (loss + unimodal)?,
            None => unimodal,
        });
    }
    loss.context("a batch without any modality")
}
