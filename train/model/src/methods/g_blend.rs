//! Gradient blending, G-Blend (Wang, Tran and Feiszli, "What Makes Training Multi-modal
//! Classification Networks Hard?", CVPR 2020, section 3).
//!
//! One head per modality and a joint one, whose losses are weighted by how much a head generalises
//! for how much it overfits. The joint head predicts.
//!
//! The weights are estimated online: over each super-epoch from the losses of the heads at its
//! beginning and its end, for the next one. In the paper, copies of the network are trained ahead
//! for that.

use super::{named, select_samples};
use crate::loss::{task_loss, task_losses};
use crate::pair::Slot;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::collections::{HashMap, HashSet};

/// The number of heads: of the first and of the second modality, and the joint one.
pub const HEADS: usize = 3;
/// The smallest change of a head's overfitting, in nats, that is told from none.
const MIN_OVERFITTING: f64 = 1e-3;

/// The losses of the heads at one point of the training, each a mean over samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadLosses {
    /// The losses on the samples that are trained on.
    pub train: [f64; HEADS],
    /// The losses on samples that are held out of the training.
    pub held_out: [f64; HEADS],
}

/// Estimates the weights of the heads from two points of the training (section 3, optimal
/// blending): with `O` the held-out loss less the training loss, `dO` what `O` gained between the
/// points and `dG` what the held-out loss lost, head k weighs `dG_k / dO_k^2`, and all together 1.
/// A head that did not generalise weighs nothing; `None` if none did.
pub fn weights(before: &HeadLosses, after: &HeadLosses) -> Option<[f64; HEADS]> {
    let mut weights = [0.0; HEADS];
    for (k, weight) in weights.iter_mut().enumerate() {
        let overfitting = |losses: &HeadLosses| losses.held_out[k] - losses.train[k];
        let gained = (overfitting(after) - overfitting(before)).abs();
        let generalization = (before.held_out[k] - after.held_out[k]).max(0.0);
        *weight = generalization / gained.max(MIN_OVERFITTING).powi(2);
    }
    let sum: f64 = weights.iter().sum();
    (sum > 0.0).then(|| weights.map(|weight| weight / sum))
}

/// The weights of the heads, and what they are estimated from.
pub struct Blending {
    /// The weights of the heads' losses in the current super-epoch, which add up to 1.
    weights: [f64; HEADS],
    /// The losses at its beginning; `None` before the first one.
    last: Option<HeadLosses>,
    /// The ids of the training samples that do not train.
    held_out: HashSet<String>,
}

impl Blending {
    /// Returns equal weights. `held_out` are the ids of the training samples that do not train.
    pub fn new(held_out: &[String]) -> Blending {
        Blending {
            weights: [1.0 / HEADS as f64; HEADS],
            last: None,
            held_out: held_out.iter().cloned().collect(),
        }
    }

    /// Takes the losses at the beginning of a super-epoch, and weights the heads by what has
    /// changed since the beginning of the last one.
    pub fn begin_super_epoch(&mut self, losses: HeadLosses) {
        if let Some(last) = &self.last
            && let Some(weights) = weights(last, &losses)
        {
            self.weights = weights;
        }
        self.last = Some(losses);
    }

    /// Returns the weights of the heads.
    pub fn weights(&self) -> [f64; HEADS] {
        self.weights
    }

    /// Returns for each of these samples whether it is held out of the training.
    pub fn held_out(&self, ids: &[String]) -> Vec<bool> {
        ids.iter().map(|id| self.held_out.contains(id)).collect()
    }

    /// Returns whether any training sample is held out of the training.
    pub fn holds_out(&self) -> bool {
        !self.held_out.is_empty()
    }

    /// Returns the state as named tensors of f64: the weights, and the losses `train` and
    /// `held_out`, which are not numbers before the first super-epoch.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let last = self.last.unwrap_or(HeadLosses {
            train: [f64::NAN; HEADS],
            held_out: [f64::NAN; HEADS],
        });
        let tensor = |values: &[f64; HEADS]| Tensor::new(values, &Device::Cpu);
        Ok(HashMap::from([
            ("weights".to_string(), tensor(&self.weights)?),
            ("losses.train".to_string(), tensor(&last.train)?),
            ("losses.held_out".to_string(), tensor(&last.held_out)?),
        ]))
    }

    /// Takes over the values of [`Blending::tensors`].
    ///
    /// # Errors
    /// A tensor is missing, or has another shape.
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let values = |name: &str| -> Result<[f64; HEADS]> {
            let values: Vec<f64> = named(tensors, name, &[HEADS])?.to_vec1()?;
            Ok([values[0], values[1], values[2]])
        };
        self.weights = values("weights")?;
        let (train, held_out) = (values("losses.train")?, values("losses.held_out")?);
        let measured = !train[0].is_nan();
        self.last = measured.then_some(HeadLosses { train, held_out });
        Ok(())
    }
}

/// Lists the samples that the loss of a head is a mean over: those that have its modality, all for
/// the joint head, without those that are left out.
fn rows_of(head: usize, present: &[[bool; 2]], left_out: &[bool]) -> Vec<u32> {
    let counts = |row: &usize| match Slot::ALL.get(head) {
        Some(slot) => present[*row][slot.index()],
        None => true,
    };
    (0..present.len())
        .filter(|row| counts(row) && !left_out[*row])
        .map(|row| row as u32)
        .collect()
}

/// The value of G-Blend's objective.
pub struct GBlendObjective {
    /// The weighted sum of the losses.
    pub loss: Tensor,
    /// The loss of the joint head.
    pub task: Tensor,
}

/// Computes G-Blend's objective from the logits of the heads (`n x classes` each): the sum of their
/// losses times their weights (section 3, the blended loss). The loss of a modality's head is a
/// mean over the samples that have the modality. `held_out` says which samples of the batch do not
/// count.
pub fn objective(
    logits: [&Tensor; HEADS],
    present: &[[bool; 2]],
    labels: &[Vec<u32>],
    held_out: &[bool],
    weights: [f64; HEADS],
    multi_label: bool,
) -> Result<GBlendObjective> {
    // A batch of held-out samples alone has no loss, and so no gradients.
    let mut loss = (logits[HEADS - 1].sum_all()? * 0.0)?;
    let mut task = loss.clone();
    for (head, (logits, weight)) in logits.into_iter().zip(weights).enumerate() {
        let rows = rows_of(head, present, held_out);
        if rows.is_empty() {
            continue;
        }
        let (logits, labels) = select_samples(logits, labels, &rows)?;
        task = task_loss(&logits, &labels, multi_label)?;
        // A factor of 0 that is no tensor would leave the head without a gradient, so that its
        // moments would stand still.
        let weight = Tensor::new(weight, logits.device())?.to_dtype(logits.dtype())?;
        loss = (loss + (&task * weight)?)?;
    }
    Ok(GBlendObjective { loss, task })
}

/// Sums of the heads' losses over samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossSums {
    sums: [f64; HEADS],
    counts: [usize; HEADS],
}

impl LossSums {
    /// Adds the losses of a batch's samples, from the logits of the heads. `left_out` says which
    /// samples do not count.
    pub fn add(
        &mut self,
        logits: [&Tensor; HEADS],
        present: &[[bool; 2]],
        labels: &[Vec<u32>],
        left_out: &[bool],
        multi_label: bool,
    ) -> Result<()> {
        for (head, logits) in logits.into_iter().enumerate() {
            let rows = rows_of(head, present, left_out);
            if rows.is_empty() {
                continue;
            }
            let (logits, labels) = select_samples(logits, labels, &rows)?;
            let losses = task_losses(&logits, &labels, multi_label)?;
            let losses: Vec<f64> = losses.to_dtype(DType::F64)?.to_vec1()?;
            self.sums[head] += losses.iter().sum::<f64>();
            self.counts[head] += losses.len();
        }
        Ok(())
    }

    /// Returns the mean losses of the heads; 0 for a head without a sample.
    pub fn means(&self) -> [f64; HEADS] {
        let mut means = self.sums;
        for (mean, count) in means.iter_mut().zip(self.counts) {
            *mean /= count.max(1) as f64;
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_generalization_over_squared_overfitting() {
        let before = HeadLosses {
            train: [2.0, 2.0, 2.0],
            held_out: [2.0, 2.0, 2.0],
        };
        // By hand: dG = 1, 0.5, -0.1 and dO = 0.5, 0.5, 0.6, so 4, 2 and 0 over their sum.
        let after = HeadLosses {
            train: [0.5, 1.0, 1.5],
            held_out: [1.0, 1.5, 2.1],
        };
        let found = weights(&before, &after).unwrap();
        let wanted = [4.0 / 6.0, 2.0 / 6.0, 0.0];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(weights(&after, &after), None);
        let mut blending = Blending::new(&[]);
        blending.begin_super_epoch(before);
        assert_eq!(blending.weights(), [1.0 / 3.0; 3]);
        blending.begin_super_epoch(after);
        assert_eq!(blending.weights(), found);
        // Of all heads the third one alone is better at the earlier point.
        blending.begin_super_epoch(before);
        assert_eq!(blending.weights(), [0.0, 0.0, 1.0]);
        blending.begin_super_epoch(before);
        assert_eq!(blending.weights(), [0.0, 0.0, 1.0], "kept");
    }
}
