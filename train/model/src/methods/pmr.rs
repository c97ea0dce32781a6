//! Prototypical modal rebalance, PMR (Fan, Xu, Wang, Wang and Guo, "PMR: Prototypical Modal
//! Rebalance for Multimodal Learning", CVPR 2023, section 3).
//!
//! The joint head learns as always. Beside it, each modality is classified by its distance to
//! prototypes, the class means of its features; the modality that lags behind gets a loss that
//! draws its features to their prototypes, and in the first epochs the other one is kept from
//! becoming too certain.
//!
//! Prototypes and prototype losses are those of samples that have the modality; the imbalance is
//! measured on complete samples, as in OGM-GE.

use super::{named, rows_with};
use crate::loss::cross_entropies;
use crate::pair::Slot;
use crate::variant::PmrSettings;
use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
use std::collections::HashMap;

/// Added to squared distances: the root has no gradient at 0.
const MIN_SQUARED_DISTANCE: f64 = 1e-12;
/// Added to the similarity to a class without a prototype.
const NO_PROTOTYPE: f64 = -1e9;

/// Computes the logarithm of the probability of each class (`n x classes`): the softmax of the
/// negative Euclidean distances of features (`n x d`) to the prototypes (`classes x d`), over the
/// classes that are `known` (section 3, the prototypical cross-entropy).
pub fn log_probabilities(features: &Tensor, prototypes: &Tensor, known: &[bool]) -> Result<Tensor> {
    let differences = features
        .unsqueeze(1)?
        .broadcast_sub(&prototypes.unsqueeze(0)?)?;
    let squares = differences.sqr()?.sum(D::Minus1)?;
    let distances = (squares + MIN_SQUARED_DISTANCE)?.sqrt()?;
    let offsets = known.iter().map(|known| match known {
        true => 0.0,
        false => NO_PROTOTYPE,
    });
    let offsets = Tensor::from_vec(
        offsets.collect::<Vec<f64>>(),
        (1, known.len()),
        &Device::Cpu,
    )?;
    let offsets = offsets
        .to_dtype(features.dtype())?
        .to_device(features.device())?;
    let similarities = distances.neg()?.broadcast_add(&offsets)?;
    Ok(log_softmax(&similarities, D::Minus1)?)
}

/// Computes the coefficients of the two prototype losses, `beta = clip(1 / rho - 1, 0, 1)` of the
/// first modality and `gamma = clip(rho - 1, 0, 1)` of the second (section 3, the accelerated
/// loss). `rho` is the imbalance ratio: the sum of the true classes' probabilities by the first
/// modality's prototypes, over that by the second's.
pub fn coefficients(scores: [f64; 2]) -> [f64; 2] {
    let excess = |ratio: f64| match ratio.is_finite() {
        true => (ratio - 1.0).clamp(0.0, 1.0),
        false => 0.0,
    };
    [excess(scores[1] / scores[0]), excess(scores[0] / scores[1])]
}

/// The sums of the features of both modalities by class, of which prototypes are means.
pub struct ClassSums {
    sums: [Vec<Vec<f64>>; 2],
    counts: [Vec<usize>; 2],
}

impl ClassSums {
    /// Returns empty sums for features of width `d`.
    pub fn new(classes: usize, d: usize) -> ClassSums {
        let sums = vec![vec![0.0; d]; classes];
        ClassSums {
            sums: [sums.clone(), sums],
            counts: [vec![0; classes], vec![0; classes]],
        }
    }

    /// Adds the features of a batch, `n x d` of each modality.
    ///
    /// # Errors
    /// A sample's class is not one of the classes.
    pub fn add(
        &mut self,
        features: [&Tensor; 2],
        present: &[[bool; 2]],
        labels: &[u32],
    ) -> Result<()> {
        for slot in Slot::ALL {
            let m = slot.index();
            let features: Vec<Vec<f64>> = features[m].to_dtype(DType::F64)?.to_vec2()?;
            for row in rows_with(present, slot) {
                let class = labels[row as usize] as usize;
                let sums = self.sums[m].get_mut(class).context("an unknown class")?;
                for (sum, value) in sums.iter_mut().zip(&features[row as usize]) {
                    *sum += value;
                }
                self.counts[m][class] += 1;
            }
        }
        Ok(())
    }
}

/// The prototypes of both modalities.
pub struct Prototypes {
    /// The prototypes of each modality, `classes x d`; zeros where there is none.
    means: [Tensor; 2],
    /// Whether a class has a prototype of each modality.
    known: [Vec<bool>; 2],
    /// The number of the epoch that they are for, from 0.
    epoch: u64,
}

impl Prototypes {
    /// Returns the prototypes before the first epoch: none.
    pub fn new(classes: usize, d: usize, dtype: DType, device: &Device) -> Result<Prototypes> {
        let zeros = Tensor::zeros((classes, d), dtype, device)?;
        Ok(Prototypes {
            means: [zeros.clone(), zeros],
            known: [vec![false; classes], vec![false; classes]],
            epoch: 0,
        })
    }

    /// Replaces the prototypes at the start of an epoch by the class means of the training split's
    /// features; where a class had a prototype, by `(1 - momentum) mean + momentum old`.
    pub fn update(&mut self, sums: &ClassSums, epoch: u64, momentum: f64) -> Result<()> {
        self.epoch = epoch;
        for m in 0..2 {
            let (dtype, device) = (self.means[m].dtype(), self.means[m].device().clone());
            let mut means: Vec<Vec<f64>> = self.means[m].to_dtype(DType::F64)?.to_vec2()?;
            for (class, count) in sums.counts[m].iter().enumerate() {
                if *count == 0 {
                    continue;
                }
                let momentum = if self.known[m][class] { momentum } else { 0.0 };
                for (mean, sum) in means[class].iter_mut().zip(&sums.sums[m][class]) {
                    *mean = (1.0 - momentum) * sum / *count as f64 + momentum * *mean;
                }
                self.known[m][class] = true;
            }
            self.means[m] = Tensor::new(means, &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(&device)?;
        }
        Ok(())
    }

    /// Returns the state as named tensors on the CPU: `prototypes.mM`, `known.mM` and `epoch`.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let epoch = Tensor::new(&[self.epoch as i64], &Device::Cpu)?;
        let mut tensors = HashMap::from([("epoch".to_string(), epoch)]);
        for m in 0..2 {
            let known: Vec<u8> = self.known[m].iter().map(|known| u8::from(*known)).collect();
            let known = Tensor::new(known, &Device::Cpu)?;
            tensors.insert(format!("known.m{}", m + 1), known);
            let means = self.means[m].to_device(&Device::Cpu)?;
            tensors.insert(format!("prototypes.m{}", m + 1), means);
        }
        Ok(tensors)
    }

    /// Takes over the values of [`Prototypes::tensors`].
    ///
    /// # Errors
    /// A tensor is missing, or has another shape than this run's.
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let epoch: Vec<i64> = named(tensors, "epoch", &[1])?.to_vec1()?;
        self.epoch = epoch[0] as u64;
        for m in 0..2 {
            let name = format!("known.m{}", m + 1);
            let known: Vec<u8> = named(tensors, &name, &[self.known[m].len()])?.to_vec1()?;
            self.known[m] = known.into_iter().map(|known| known == 1).collect();
            let (name, device) = (format!("prototypes.m{}", m + 1), self.means[m].device());
            self.means[m] = named(tensors, &name, self.means[m].dims())?.to_device(device)?;
        }
        Ok(())
    }
}

/// The value of PMR's objective.
pub struct PmrObjective {
    /// The task loss, the weighted prototype losses and entropies.
    pub loss: Tensor,
    /// The task loss of the joint head.
    pub task: Tensor,
}

/// Computes PMR's objective from the logits of the joint head (`n x classes`) and the features of
/// both modalities (`n x d` each):
///
/// `CE + alpha (beta PCE_1 + gamma PCE_2) - mu (gamma H_1 + beta H_2)`,
///
/// with the [`coefficients`] beta and gamma, the cross-entropies PCE of the prototypes'
/// probabilities and the entropies H of these, which count in the first epochs only (section 3, the
/// prototypical entropy regularization). No gradient goes through coefficients and prototypes.
pub fn objective(
    logits: &Tensor,
    features: [&Tensor; 2],
    present: &[[bool; 2]],
    labels: &[u32],
    prototypes: &Prototypes,
    settings: &PmrSettings,
) -> Result<PmrObjective> {
    let task = cross_entropies(logits, labels)?.mean_all()?;
    let mut scores = [0.0; 2];
    let mut terms = Vec::new();
    for slot in Slot::ALL {
        let m = slot.index();
        let rows = rows_with(present, slot);
        if rows.is_empty() || !prototypes.known[m].contains(&true) {
            continue;
        }
        let own_labels: Vec<u32> = rows.iter().map(|row| labels[*row as usize]).collect();
        let own = features[m].index_select(&Tensor::new(&rows[..], logits.device())?, 0)?;
        let log_p = log_probabilities(&own, &prototypes.means[m], &prototypes.known[m])?;
        let targets = Tensor::new(own_labels, logits.device())?.unsqueeze(1)?;
        let log_true = log_p.gather(&targets, D::Minus1)?.squeeze(1)?;
        let p: Vec<f64> = log_true.detach().exp()?.to_dtype(DType::F64)?.to_vec1()?;
        let complete = |row: &u32| present[*row as usize] == [true, true];
        let counted = p.iter().zip(&rows).filter(|(_, row)| complete(row));
        scores[m] = counted.map(|(p, _)| p).sum();
        let entropy = (log_p.exp()? * &log_p)?.sum(D::Minus1)?.neg()?;
        terms.push((m, log_true.neg()?.mean_all()?, entropy.mean_all()?));
    }
    let [beta, gamma] = coefficients(scores);
    let mut loss = task.clone();
    for (m, cross_entropy, entropy) in terms {
        let (lag, lead) = [(beta, gamma), (gamma, beta)][m];
        loss = (loss + (cross_entropy * (settings.alpha * lag))?)?;
        if prototypes.epoch < settings.entropy_epochs {
            loss = (loss - (entropy * (settings.entropy * lead))?)?;
        }
    }
    Ok(PmrObjective { loss, task })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_slower_modality_is_accelerated() {
        // By hand: rho = 2 / 1.6 = 1.25.
        let [beta, gamma] = coefficients([2.0, 1.6]);
        assert!(
            beta == 0.0 && (gamma - 0.25).abs() < 1e-12,
            "{beta} {gamma}"
        );
        assert_eq!(coefficients([1.0, 4.0]), [1.0, 0.0], "clipped at 1");
        assert_eq!(coefficients([0.0, 0.0]), [0.0, 0.0], "no complete sample");
    }
}
