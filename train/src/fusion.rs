//! From two tokens per sample to logits: U2A's sum and the baselines' fusions, on candle's autograd.
//!
//! `h` is always one linear layer; film and gated-bilinear put linear layers of their own before it.

use crate::design::Fusion;
use anyhow::{Result, bail};
use candle_core::{D, Device, Tensor};
use features::rng::Rng;

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

    /// Logits (`n x classes`) of the tokens (`n x d` each); `layers` in the order of
    /// [`Fusion::layers`].
    pub fn logits(
        self,
        [first, second]: &[Tensor; 2],
        layers: &[Tensor],
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<Tensor> {
        let feature = match (self, layers) {
            (Fusion::Sum, []) => (first + second)?,
            (Fusion::Concat, []) => Tensor::cat(&[first, second], 1)?,
            (Fusion::Film, [w, b]) => {
                let d = first.dim(1)?;
                let both = linear(first, w, b)?;
                ((both.narrow(1, 0, d)? * second)? + both.narrow(1, d, d)?)?
            }
            (Fusion::GatedBilinear, [gw, gb, vw, vb]) => {
                (sigmoid(&linear(first, gw, gb)?)? * linear(second, vw, vb)?)?
            }
            (_, layers) => bail!("{} layers for the fusion {self:?}", layers.len()),
        };
        linear(&feature, weight, bias)
    }

    /// What each token alone would score, half the bias each (Peng et al. 2022); for sum and concat.
    pub fn unimodal(
        self,
        tokens: &[Tensor; 2],
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<[Tensor; 2]> {
        let d = tokens[0].dim(1)?;
        let half = (bias / 2.0)?;
        let one = |m: usize| -> Result<Tensor> {
            let part = match self {
                Fusion::Sum => weight.clone(),
                Fusion::Concat => weight.narrow(1, m * d, d)?.contiguous()?,
                _ => bail!("gradient modulation needs fusion sum or concat"),
            };
            linear(&tokens[m], &part, &half)
        };
        Ok([one(0)?, one(1)?])
    }
}

fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?.broadcast_add(bias)?)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    // tanh saturates where exp overflows.
    Ok((((x / 2.0)?.tanh()? + 1.0)? / 2.0)?)
}

/// The sum over samples of the softmax probability of the true class.
pub fn true_class_score(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let logits = logits.detach().to_dtype(candle_core::DType::F64)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let exp = shifted.exp()?;
    let p = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
    let targets = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    Ok(p.gather(&targets, D::Minus1)?.sum_all()?.to_scalar()?)
}
