//! Quality-aware multimodal fusion, QMF (Zhang, Wu, Zhang, Hu, Fu, Zhou and Peng, "Provable Dynamic
//! Fusion for Low-Quality Multimodal Data", ICML 2023, section 3).
//!
//! One head per modality; the logits are fused with weights that follow each modality's energy
//! score. A sample whose modality is missing is fused of what it has.
//!
//! The regulariser is the correctness ranking loss of Moon et al. (ICML 2020), with the loss history
//! in the place of how often a prediction was right. The published code has the opposite sign before
//! its margin.

use super::{availability, named, rows_with};
use crate::loss::cross_entropies;
use crate::pair::Slot;
use crate::variant::QmfSettings;
use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use std::collections::HashMap;

/// What the published code divides the negative energy by, to get a fusion weight.
const WEIGHT_SCALE: f64 = 10.0;

/// Computes the fusion weights of a modality (`n x 1`) from its logits (`n x classes`): a tenth of
/// the negative energy score `-E = T ln sum_k exp(l_k / T)` (Liu et al. 2020), so that a modality
/// with less energy, which is more certain, weighs more.
pub fn fusion_weight(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let scaled = (logits / temperature)?;
    // The largest logit cancels out of value and gradient; without it the exponential overflows.
    let top = scaled.max_keepdim(D::Minus1)?.detach();
    let sum = scaled.broadcast_sub(&top)?.exp()?;
    let log_sum = (sum.sum_keepdim(D::Minus1)?.log()? + top)?;
    Ok((log_sum * (temperature / WEIGHT_SCALE))?)
}

/// Computes the fused logits `sum_m w_m l_m` over the modalities that a sample has. No gradient
/// goes through the weights. Rows of samples without a modality are not read of its logits.
///
/// # Errors
/// No sample has any modality.
pub fn fused_logits(
    logits: [&Tensor; 2],
    present: &[[bool; 2]],
    temperature: f64,
) -> Result<Tensor> {
    let mut fused: Option<Tensor> = None;
    for slot in Slot::ALL {
        if rows_with(present, slot).is_empty() {
            continue;
        }
        let logits = logits[slot.index()];
        let weight = fusion_weight(logits, temperature)?.detach();
        let weight = (weight * availability(present, slot, logits)?)?;
        let weighted = logits.broadcast_mul(&weight)?;
        fused = Some(match fused {
            Some(fused) => (fused + weighted)?,
            None => weighted,
        });
    }
    fused.context("a batch without any modality")
}

/// Computes the ranking regulariser of one modality: the mean over neighbours i, j in the batch, the
/// last one's neighbour being the first, of
/// `max(0, g(k_i, k_j) (w_i - w_j) + |k_i - k_j|)`, where `k` is a sample's loss history and
/// `g(a, b)` is 1 if a > b, 0 if equal, else -1. So the weights `w` (`n x 1`) are ranked against
/// the losses.
pub fn ranking_loss(weights: &Tensor, history: &[f64]) -> Result<Tensor> {
    let n = history.len();
    let neighbour: Vec<u32> = (0..n).map(|i| ((i + 1) % n) as u32).collect();
    let column = |values: Vec<f64>| -> Result<Tensor> {
        let column = Tensor::from_vec(values, (n, 1), &Device::Cpu)?;
        Ok(column
            .to_dtype(weights.dtype())?
            .to_device(weights.device())?)
    };
    let differences = (0..n).map(|i| history[i] - history[(i + 1) % n]);
    let differences: Vec<f64> = differences.collect();
    let order = differences.iter().map(|d| match *d {
        d if d > 0.0 => 1.0,
        d if d < 0.0 => -1.0,
        _ => 0.0,
    });
    let order = column(order.collect())?;
    let margin = column(differences.iter().map(|d| d.abs()).collect())?;
    let neighbours = weights.index_select(&Tensor::new(neighbour, weights.device())?, 0)?;
    let ranked = (order * (weights - neighbours)?)?;
    Ok((ranked + margin)?.relu()?.mean_all()?)
}

/// The value of QMF's objective.
pub struct QmfObjective {
    /// Task losses of the fused logits and of each modality, and the weighted regularisers.
    pub loss: Tensor,
    /// The task loss of the fused logits.
    pub task: Tensor,
    /// The fused logits, `n x classes`.
    pub logits: Tensor,
    /// For each modality the cross-entropies of the samples that have it, in their order.
    pub sample_losses: [Vec<f64>; 2],
}

/// Computes QMF's objective from the logits of each modality (`n x classes`, rows of samples
/// without it are not read): the cross-entropy of the fused logits, plus for each modality the
/// cross-entropy of its own and lambda times its ranking regulariser, each a mean over the samples
/// that have it. `history` is [`LossHistory::of_batch`].
pub fn objective(
    logits: [&Tensor; 2],
    present: &[[bool; 2]],
    labels: &[u32],
    history: &[Vec<f64>; 2],
    settings: &QmfSettings,
) -> Result<QmfObjective> {
    let fused = fused_logits(logits, present, settings.temperature)?;
    let task = cross_entropies(&fused, labels)?.mean_all()?;
    let mut loss = task.clone();
    let mut sample_losses = <[Vec<f64>; 2]>::default();
    for slot in Slot::ALL {
        let m = slot.index();
        let rows = rows_with(present, slot);
        if rows.is_empty() {
            continue;
        }
        let own_labels: Vec<u32> = rows.iter().map(|row| labels[*row as usize]).collect();
        let rows = Tensor::new(rows, logits[m].device())?;
        let own = logits[m].index_select(&rows, 0)?;
        let losses = cross_entropies(&own, &own_labels)?;
        let weights = fusion_weight(&own, settings.temperature)?;
        let ranking = ranking_loss(&weights, &history[m])?;
        loss = ((loss + losses.mean_all()?)? + (ranking * settings.lambda)?)?;
        sample_losses[m] = losses.detach().to_dtype(DType::F64)?.to_vec1()?;
    }
    Ok(QmfObjective {
        loss,
        task,
        logits: fused,
        sample_losses,
    })
}

/// The unimodal losses of a batch, for the history.
pub struct SampleLosses {
    /// For each modality the id and the loss of the samples that have it.
    losses: [Vec<(String, f64)>; 2],
}

impl SampleLosses {
    /// Joins the losses of an objective with the samples' ids.
    pub fn new(
        ids: &[String],
        present: &[[bool; 2]],
        objective: &QmfObjective,
    ) -> Result<SampleLosses> {
        let of = |slot: Slot| {
            let rows = rows_with(present, slot).into_iter();
            let ids = rows.map(|row| ids[row as usize].clone());
            let losses = objective.sample_losses[slot.index()].iter().copied();
            ids.zip(losses).collect()
        };
        Ok(SampleLosses {
            losses: Slot::ALL.map(of),
        })
    }
}

/// The sum of each training sample's unimodal losses so far, per modality.
pub struct LossHistory {
    /// The place of each sample.
    places: HashMap<String, usize>,
    /// Which modalities the model gets of each sample.
    present: Vec<[bool; 2]>,
    /// For each modality the sum of each sample's losses, 0 before its first step.
    sums: [Vec<f64>; 2],
}

impl LossHistory {
    /// Returns an empty history of the training samples.
    pub fn new(ids: &[String], present: &[[bool; 2]]) -> LossHistory {
        let places = ids.iter().enumerate();
        LossHistory {
            places: places.map(|(i, id)| (id.clone(), i)).collect(),
            present: present.to_vec(),
            sums: [vec![0.0; ids.len()], vec![0.0; ids.len()]],
        }
    }

    /// Returns for each modality the history of those samples of a batch that have it, scaled to
    /// [0, 1] by the least and the largest of all training samples that have it, as the published
    /// code does. It is 0 as long as all are equal, and for a sample of no training split.
    pub fn of_batch(&self, ids: &[String], present: &[[bool; 2]]) -> [Vec<f64>; 2] {
        Slot::ALL.map(|slot| {
            let m = slot.index();
            let known = self.sums[m].iter().zip(&self.present);
            let known = known.filter(|(_, has)| has[m]).map(|(sum, _)| *sum);
            let (least, largest) = known.fold((f64::INFINITY, 0.0f64), |(low, high), sum| {
                (low.min(sum), high.max(sum))
            });
            let scaled = |row: u32| match self.places.get(&ids[row as usize]) {
                Some(place) if largest > least => {
                    (self.sums[m][*place] - least) / (largest - least)
                }
                _ => 0.0,
            };
            rows_with(present, slot).into_iter().map(scaled).collect()
        })
    }

    /// Adds the losses of a step.
    pub fn add(&mut self, step: &SampleLosses) {
        for (sums, losses) in self.sums.iter_mut().zip(&step.losses) {
            for (id, loss) in losses {
                if let Some(place) = self.places.get(id) {
                    sums[*place] += loss;
                }
            }
        }
    }

    /// Returns the sums as tensors of f64, in the order of the training samples.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let named = Slot::ALL.map(|slot| {
            let sums = &self.sums[slot.index()][..];
            Ok((tensor_name(slot), Tensor::new(sums, &Device::Cpu)?))
        });
        named.into_iter().collect()
    }

    /// Takes over the values of [`LossHistory::tensors`].
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for slot in Slot::ALL {
            let sums = &mut self.sums[slot.index()];
            *sums = named(tensors, &tensor_name(slot), &[sums.len()])?.to_vec1()?;
        }
        Ok(())
    }
}

/// The name of a modality's history in a checkpoint.
fn tensor_name(slot: Slot) -> String {
    format!("loss_history.m{}", slot.index() + 1)
}
