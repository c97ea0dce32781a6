//! Fusion and prediction (equation 5): from two tokens per sample to logits, by U2A's sum or by one
//! of the baselines' fusions, with candle's autograd.
//!
//! The head is always one linear layer. FiLM and the gated bilinear fusion put linear layers of
//! their own before it. All of them learn, so autograd computes the gradients of input and weight
//! alike.

use crate::init::{kaiming_bound, uniform};
use crate::pair::{Pair, Slot};
use crate::variant::Fusion;
use anyhow::{Result, bail};
use candle_core::{D, DType, Tensor};
use candle_nn::Linear;
use candle_nn::ops::{sigmoid, softmax};
use engine::layers::project;
use util::rng::Rng;

/// The stream of the random generator for new fusion layers.
const INIT_FUSION: u32 = 0x4675_7365;

impl Fusion {
    /// Returns the width of the fused feature, which the head reads.
    pub(crate) fn width(self, d: usize) -> usize {
        match self {
            Fusion::Concat => 2 * d,
            _ => d,
        }
    }

    /// Lists names and shapes of the learnable tensors before the head.
    pub(crate) fn layers(self, d: usize) -> Vec<(&'static str, Vec<usize>)> {
        match self {
            Fusion::Sum | Fusion::Concat => Vec::new(),
            // Rows 0..d give gamma, rows d..2d beta.
            Fusion::Film => vec![
                ("fusion.film.weight", vec![2 * d, d]),
                ("fusion.film.bias", vec![2 * d]),
            ],
            Fusion::GatedBilinear => vec![
                ("fusion.gate.weight", vec![d, d]),
                ("fusion.gate.bias", vec![d]),
                ("fusion.value.weight", vec![d, d]),
                ("fusion.value.bias", vec![d]),
            ],
        }
    }

    /// Draws new layers before the head, as PyTorch's `nn.Linear` does.
    pub(crate) fn new_layers(self, d: usize, seed: u64) -> Result<Vec<(&'static str, Tensor)>> {
        let layers = self.layers(d).into_iter().enumerate();
        let layers = layers.map(|(i, (name, shape))| {
            let mut rng = Rng::new(seed, &[INIT_FUSION, i as u32]);
            Ok((name, uniform(&mut rng, shape, kaiming_bound(d))?))
        });
        layers.collect()
    }

    /// Computes logits (`n x classes`) from the selected tokens (`n x d` each). `layers` are those
    /// of [`Fusion::layers`] in that order, then the head.
    pub(crate) fn logits(self, tokens: &Pair<Tensor>, layers: &[Linear]) -> Result<Tensor> {
        let Pair {
            m1: first,
            m2: second,
        } = tokens;
        let (feature, head) = match (self, layers) {
            (Fusion::Sum, [head]) => ((first + second)?, head),
            (Fusion::Concat, [head]) => (Tensor::cat(&[first, second], 1)?, head),
            (Fusion::Film, [film, head]) => {
                let d = first.dim(1)?;
                let gamma_beta = forward(film, first)?;
                let scaled = (gamma_beta.narrow(1, 0, d)? * second)?;
                ((scaled + gamma_beta.narrow(1, d, d)?)?, head)
            }
            (Fusion::GatedBilinear, [gate, value, head]) => {
                let gate = sigmoid(&forward(gate, first)?)?;
                ((gate * forward(value, second)?)?, head)
            }
            (_, layers) => bail!("{} layers for the fusion {self:?}", layers.len()),
        };
        forward(head, &feature)
    }

    /// Computes the logits of each modality's token alone, with half the bias (Peng et al. 2022).
    /// They are defined for sum and concat only.
    pub(crate) fn unimodal_logits(
        self,
        tokens: &Pair<Tensor>,
        head: &Linear,
    ) -> Result<Pair<Tensor>> {
        let d = tokens.m1.dim(1)?;
        let weight = head.weight();
        let half_bias = head.bias().map(|bias| bias / 2.0).transpose()?;
        Pair::try_from_fn(|slot: Slot| {
            let part = match self {
                Fusion::Sum => weight.clone(),
                Fusion::Concat => weight.narrow(1, slot.index() * d, d)?.contiguous()?,
                _ => bail!("gradient modulation needs fusion sum or concat"),
            };
            forward(&Linear::new(part, half_bias.clone()), &tokens[slot])
        })
    }
}

/// Returns the output of a linear layer. It is [`project`] and not candle's product, so that its
/// bits depend neither on the processor nor on the number of threads.
pub(crate) fn forward(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let y = project(x, layer.weight())?;
    Ok(match layer.bias() {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}

/// Builds linear layers from their weights and biases in turn.
pub(crate) fn linear_layers(tensors: &[Tensor]) -> Vec<Linear> {
    let pairs = tensors.chunks_exact(2);
    pairs
        .map(|pair| Linear::new(pair[0].clone(), Some(pair[1].clone())))
        .collect()
}

/// Sums the softmax probability of the true class over samples.
pub(crate) fn true_class_score(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let p = softmax(&logits.detach().to_dtype(DType::F64)?, D::Minus1)?;
    let targets = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    Ok(p.gather(&targets, D::Minus1)?.sum_all()?.to_scalar()?)
}
