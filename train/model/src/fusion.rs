//! From two tokens per sample to logits: U2A's sum and the baselines' fusions, on candle's autograd.
//!
//! The head is always one linear layer; film and gated-bilinear put linear layers of their own before it. All of
//! them learn, so candle's `Linear` serves, whose backward forms the gradient of input and weight alike.

use crate::variant::Fusion;
use anyhow::{Result, bail};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{sigmoid, softmax};
use candle_nn::{Linear, Module};
use util::rng::Rng;

/// Stream of the random generator for the fusions' own layers.
const INIT_FUSION: u32 = 0x4675_7365;

impl Fusion {
    /// Width of what the head reads.
    pub fn width(self, d: usize) -> usize {
        match self {
            Fusion::Concat => 2 * d,
            _ => d,
        }
    }

    /// Names and shapes of the layers before the head.
    pub fn layers(self, d: usize) -> Vec<(&'static str, Vec<usize>)> {
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

    /// New layers before the head, uniform within 1 / sqrt d as PyTorch's Linear.
    pub fn new_layers(self, d: usize, seed: u64) -> Result<Vec<(&'static str, Tensor)>> {
        let bound = 1.0 / (d as f64).sqrt();
        let layer = |(i, (name, shape)): (usize, (&'static str, Vec<usize>))| {
            let mut rng = Rng::new(seed, &[INIT_FUSION, i as u32]);
            let n = shape.iter().product();
            let values: Vec<f32> = (0..n)
                .map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32)
                .collect();
            Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
        };
        self.layers(d).into_iter().enumerate().map(layer).collect()
    }

    /// Logits (`n x classes`) of the tokens (`n x d` each): `layers` are those of [`Fusion::layers`] in that
    /// order, and the head at the end.
    pub fn logits(self, [first, second]: &[Tensor; 2], layers: &[Linear]) -> Result<Tensor> {
        let (feature, head) = match (self, layers) {
            (Fusion::Sum, [head]) => ((first + second)?, head),
            (Fusion::Concat, [head]) => (Tensor::cat(&[first, second], 1)?, head),
            (Fusion::Film, [film, head]) => {
                let d = first.dim(1)?;
                let both = film.forward(first)?;
                let scaled = (both.narrow(1, 0, d)? * second)?;
                ((scaled + both.narrow(1, d, d)?)?, head)
            }
            (Fusion::GatedBilinear, [gate, value, head]) => {
                let gate = sigmoid(&gate.forward(first)?)?;
                ((gate * value.forward(second)?)?, head)
            }
            (_, layers) => bail!("{} layers for the fusion {self:?}", layers.len()),
        };
        Ok(head.forward(&feature)?)
    }

    /// What each token alone would score, half the bias each (Peng et al. 2022); for sum and concat.
    pub fn unimodal(self, tokens: &[Tensor; 2], head: &Linear) -> Result<[Tensor; 2]> {
        let d = tokens[0].dim(1)?;
        let weight = head.weight();
        let half = head.bias().map(|bias| bias / 2.0).transpose()?;
        let one = |m: usize| -> Result<Tensor> {
            let part = match self {
                Fusion::Sum => weight.clone(),
                Fusion::Concat => weight.narrow(1, m * d, d)?.contiguous()?,
                _ => bail!("gradient modulation needs fusion sum or concat"),
            };
            Ok(Linear::new(part, half.clone()).forward(&tokens[m])?)
        };
        Ok([one(0)?, one(1)?])
    }
}

/// Linear layers of their weights and biases in turn.
pub fn linear_layers(tensors: &[Tensor]) -> Vec<Linear> {
    let pairs = tensors.chunks_exact(2);
    pairs
        .map(|pair| Linear::new(pair[0].clone(), Some(pair[1].clone())))
        .collect()
}

/// The sum over samples of the softmax probability of the true class.
pub fn true_class_score(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let p = softmax(&logits.detach().to_dtype(DType::F64)?, D::Minus1)?;
    let targets = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    Ok(p.gather(&targets, D::Minus1)?.sum_all()?.to_scalar()?)
}
