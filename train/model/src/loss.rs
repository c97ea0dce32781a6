//! The training loss (equation 7): the task loss plus the weighted alignment loss (equation 6).

use crate::pair::Pair;
use crate::token_selection::{AlignmentPair, ModalityTokens, alignment_pairs};
use crate::variant::MissingToken;
use anyhow::{Result, bail};
use candle_core::{D, Tensor};
use candle_nn::loss::{cross_entropy, mse};
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

/// The weight of the alignment loss in the paper, lambda in equation 7.
pub const ALIGN_WEIGHT: f64 = 0.2;

/// The settings of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    /// The weight of the alignment loss.
    pub align_weight: f64,
    /// Whether the alignment loss sends no gradient to the class tokens.
    pub align_stop_gradient: bool,
    /// Whether a sample has any number of classes: binary cross-entropy per class instead of
    /// cross-entropy.
    pub multi_label: bool,
    /// What stands in for the class token of a missing modality.
    pub missing_token: MissingToken,
}

/// Computes the task loss, a mean over samples: cross-entropy, or for several labels per sample
/// binary cross-entropy with a mean over classes. `logits` are `n x classes`.
pub(crate) fn task_loss(logits: &Tensor, labels: &[Vec<u32>], multi_label: bool) -> Result<Tensor> {
    if multi_label {
        return binary_cross_entropy(logits, &class_targets(logits, labels)?);
    }
    let targets = Tensor::new(only_classes(logits, labels)?, logits.device())?;
    Ok(cross_entropy(logits, &targets)?)
}

/// Computes the task loss of each sample, `n`; [`task_loss`] is their mean.
pub(crate) fn task_losses(
    logits: &Tensor,
    labels: &[Vec<u32>],
    multi_label: bool,
) -> Result<Tensor> {
    if multi_label {
        let targets = class_targets(logits, labels)?;
        return Ok(binary_cross_entropies(logits, &targets)?.mean(D::Minus1)?);
    }
    cross_entropies(logits, &only_classes(logits, labels)?)
}

/// Computes the cross-entropy of each sample, `n`, with its only class.
pub(crate) fn cross_entropies(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let targets = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    let log_p = log_softmax(logits, D::Minus1)?.gather(&targets, D::Minus1)?;
    Ok(log_p.squeeze(1)?.neg()?)
}

/// Returns the samples' only classes.
fn only_classes(logits: &Tensor, labels: &[Vec<u32>]) -> Result<Vec<u32>> {
    let classes = logits.dim(1)?;
    let only = labels.iter().map(|l| match l[..] {
        [label] if (label as usize) < classes => Ok(label),
        _ => bail!("labels {l:?} where one class below {classes} is expected"),
    });
    only.collect()
}

/// Returns the targets of binary cross-entropy: 1 for each class of a sample, else 0.
fn class_targets(logits: &Tensor, labels: &[Vec<u32>]) -> Result<Tensor> {
    let classes = logits.dim(1)?;
    let mut targets = vec![0f32; labels.len() * classes];
    for (row, labels) in labels.iter().enumerate() {
        for label in labels {
            targets[row * classes + *label as usize] = 1.0;
        }
    }
    let targets = Tensor::from_vec(targets, (labels.len(), classes), logits.device())?;
    Ok(targets.to_dtype(logits.dtype())?)
}

/// Computes the alignment loss (equation 6): the mean over the complete samples of
/// `MSE(MT_1, CLS_2) + MSE(MT_2, CLS_1)`. `None` if no sample is complete.
pub(crate) fn alignment_loss(
    present: &[[bool; 2]],
    tokens: &Pair<Option<ModalityTokens>>,
    stop_gradient: bool,
) -> Result<Option<Tensor>> {
    let Some((_, pairs)) = alignment_pairs(present, tokens)? else {
        return Ok(None);
    };
    let Pair { m1, m2 } = pairs.try_map(|AlignmentPair { mask, class }| {
        let target = if stop_gradient { class.detach() } else { class };
        mse(&mask, &target)
    })?;
    Ok(Some((m1 + m2)?))
}

/// Computes the mean binary cross-entropy of logits against 0/1 targets of the same shape, stable
/// at any logit: `max(x, 0) - x y + ln(1 + e^-|x|)`.
///
/// candle's `binary_cross_entropy_with_logit` takes the logarithm of a rounded sigmoid, which is
/// infinite or not a number at logits of 200, as the test `loss_is_finite_at_any_logit` shows.
fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Ok(binary_cross_entropies(logits, targets)?.mean_all()?)
}

/// Computes the binary cross-entropy of each logit.
fn binary_cross_entropies(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let positive = logits.relu()?;
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok(((positive - (logits * targets)?)? + soft)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use candle_nn::loss::binary_cross_entropy_with_logit;

    fn check(f: impl Fn(&Tensor) -> Tensor, x: &[f64]) {
        let shape = (2, x.len() / 2);
        let var = Var::from_vec(x.to_vec(), shape, &Device::Cpu).unwrap();
        let grads = f(var.as_tensor()).backward().unwrap();
        let got = grads
            .get(&var)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();
        for i in 0..x.len() {
            let at = |delta: f64| {
                let mut x = x.to_vec();
                x[i] += delta;
                f(&Tensor::from_vec(x, shape, &Device::Cpu).unwrap())
                    .to_scalar::<f64>()
                    .unwrap()
            };
            let want = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((want - got[i]).abs() < 1e-8, "{i}: {want} {}", got[i]);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let x = [0.3, -1.2, 2.0, 0.1, 0.7, -0.4];
        let classes = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
        check(|x| cross_entropy(x, &classes).unwrap(), &x);
        let y = Tensor::new(&[[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
        check(|x| binary_cross_entropy(x, &y).unwrap(), &x);
        check(|x| mse(x, &y).unwrap(), &x);
    }

    #[test]
    fn mean_of_the_samples_losses_is_the_task_loss() {
        let logits = [[0.3, -1.2, 2.0], [0.1, 0.7, -0.4]];
        let logits = Tensor::new(&logits, &Device::Cpu).unwrap();
        for (labels, multi_label) in [([vec![2], vec![0]], false), ([vec![], vec![0, 2]], true)] {
            let all = task_loss(&logits, &labels, multi_label).unwrap();
            let all: f64 = all.to_scalar().unwrap();
            let each = task_losses(&logits, &labels, multi_label).unwrap();
            let each: Vec<f64> = each.to_vec1().unwrap();
            assert!((all - (each[0] + each[1]) / 2.0).abs() < 1e-12);
        }
    }

    #[test]
    fn loss_is_finite_at_any_logit() {
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let finite = |loss: &Tensor, x: &Var| {
            let grads = loss.backward().unwrap();
            let grad = numbers(grads.get(x).unwrap());
            let loss = loss.to_scalar::<f32>().unwrap();
            loss.is_finite() && grad.iter().all(|g| g.is_finite())
        };
        let x = Var::new(&[[-1e4f32, 1e4, 200.0, -200.0]], &Device::Cpu).unwrap();
        for y in [[1f32, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]] {
            let y = Tensor::new(&[y], &Device::Cpu).unwrap();
            assert!(finite(&binary_cross_entropy(&x, &y).unwrap(), &x));
            // The reason for a function of our own.
            let candle = binary_cross_entropy_with_logit(&x, &y).unwrap();
            assert!(!finite(&candle, &x));
        }
        for class in [0u32, 1] {
            let class = Tensor::new(&[class], &Device::Cpu).unwrap();
            assert!(finite(&cross_entropy(&x, &class).unwrap(), &x));
        }
    }
}
