//! Multimodal learning with alternating unimodal adaptation, MLA (Zhang, Yoon, Bansal and Yao,
//! "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024, section 3).
//!
//! The modalities take turns: a batch gives one update for each, of the modality's encoder and of
//! one head that all share ("alternating unimodal learning"). So that the head keeps what it has
//! learnt from the other modality, its gradient is projected by a matrix P that recursive least
//! squares makes nearly orthogonal to the features seen so far ("head gradient modification", after
//! the orthogonal weights modification of Zeng et al., Nature Machine Intelligence 2019). A
//! prediction weighs the modalities by the entropies of their predictions ("test-time dynamic
//! modality fusion").
//!
//! The published code adds a matrix where the paper's formula has a number in the denominator of
//! the update of P, divides P by its norm, and takes entropies over a batch instead of a sample;
//! these are the formulas of the paper.

use super::{availability, named};
use crate::pair::Slot;
use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{log_softmax, softmax};
use engine::layers::project;
use std::collections::HashMap;

/// The name of the projection in a checkpoint.
const PROJECTION: &str = "projection";
/// What is added to the entropy of a missing modality. Its weight is 0 in every number type.
const INFINITE_ENTROPY: f64 = 1e30;

/// The matrix P (`d x d`, symmetric) that the gradient of the shared head is multiplied by.
#[derive(Clone)]
pub struct Projection(Tensor);

impl Projection {
    /// Returns the identity, with which a run starts, for features of width `d`.
    pub fn identity(d: usize, dtype: DType, device: &Device) -> Result<Projection> {
        Ok(Projection(Tensor::eye(d, dtype, device)?))
    }

    /// Returns the matrix.
    pub fn matrix(&self) -> &Tensor {
        &self.0
    }

    /// Computes P after a pass over features whose mean is `h` (`d`), by recursive least squares:
    /// `P - k k^T / (lambda + h^T k)` with `k = P h`.
    pub fn after(&self, h: &Tensor, lambda: f64) -> Result<Projection> {
        let row = h.detach().unsqueeze(0)?;
        let k = project(&row, &self.0)?;
        let denominator = ((&row * &k)?.sum_all()? + lambda)?;
        // k k^T is symmetric to the last bit, and so is P.
        let outer = k.t()?.broadcast_mul(&k)?;
        Ok(Projection((&self.0 - outer.broadcast_div(&denominator)?)?))
    }

    /// Returns the gradient of the head's weight (`classes x d`) multiplied by P from the right.
    pub fn apply(&self, gradient: &Tensor) -> Result<Tensor> {
        Ok(project(gradient, &self.0)?)
    }

    /// Returns the matrix under its name in a checkpoint, on the CPU.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let matrix = self.0.to_device(&Device::Cpu)?;
        Ok(HashMap::from([(PROJECTION.to_string(), matrix)]))
    }

    /// Takes over the values of [`Projection::tensors`].
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let matrix = named(tensors, PROJECTION, self.0.dims())?;
        self.0 = matrix.to_device(self.0.device())?;
        Ok(())
    }
}

/// Computes the entropy of each prediction (`n x 1`) from logits (`n x classes`):
/// `-sum_k p_k ln p_k` with the softmax p.
pub fn entropy(logits: &Tensor) -> Result<Tensor> {
    let products = (softmax(logits, D::Minus1)? * log_softmax(logits, D::Minus1)?)?;
    Ok(products.sum_keepdim(D::Minus1)?.neg()?)
}

/// Computes the fused logits `sum_m w_m l_m`, where the weights of a sample are
/// `w_m = exp(max_v e_v - e_m) / sum_u exp(max_v e_v - e_u)` with the entropies e of its
/// modalities' predictions. A missing modality is left out: the rows of its logits, which have to be
/// finite, get the weight 0. Each sample has a modality.
pub fn fused_logits(logits: [&Tensor; 2], present: &[[bool; 2]]) -> Result<Tensor> {
    let [first, second] = Slot::ALL.map(|slot| -> Result<Tensor> {
        let logits = logits[slot.index()];
        let missing = (1.0 - availability(present, slot, logits)?)?;
        Ok((entropy(logits)? + (missing * INFINITE_ENTROPY)?)?)
    });
    let entropies = [first?, second?];
    // The largest entropy cancels out. With the least one in its place no exponential overflows.
    let least = entropies[0].minimum(&entropies[1])?;
    let weights = [
        (&least - &entropies[0])?.exp()?,
        (&least - &entropies[1])?.exp()?,
    ];
    let fused = (logits[0].broadcast_mul(&weights[0])? + logits[1].broadcast_mul(&weights[1])?)?;
    Ok(fused.broadcast_div(&(&weights[0] + &weights[1])?)?)
}
