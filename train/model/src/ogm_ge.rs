//! On-the-fly gradient modulation with generalization enhancement (OGM-GE; Peng, Wei, Deng, Wang
//! and Hu, CVPR 2022, equations 8 to 12).
//!
//! Let `s_m` be the batch's sum of the true classes' probabilities under modality m alone,
//! `rho_1 = s_1 / s_2` and `rho_2 = 1 / rho_1`. Then `k_m = 1 - tanh(alpha rho_m)` where `rho_m > 1`,
//! else 1, and the gradient of encoder m becomes `k_m g + h`, with h ~ N(0, std(g)^2) for GE.
//!
//! That paper scales SGD steps. Under AdamW, which divides by the gradient's own size, a scale that
//! changes from step to step still shifts the balance; a constant one would not.

use crate::pair::{Pair, Slot};
use crate::variant::Modulation;
use anyhow::Result;
use candle_core::Tensor;
use util::rng::Rng;

/// The factor alpha where none is set.
pub const OGM_ALPHA: f64 = 0.1;
/// The stream of the random generator for GE's noise.
const NOISE: u32 = 0x4f47_4d47;

/// Computes the coefficients `k` of both modalities from their scores `s`.
pub(crate) fn coefficients(scores: Pair<f64>, alpha: f64) -> Pair<f64> {
    let coefficient = |slot: Slot| {
        let ratio = scores[slot] / scores[slot.other()];
        if ratio > 1.0 && ratio.is_finite() {
            1.0 - (alpha * ratio).tanh()
        } else {
            1.0
        }
    };
    Pair::from(Slot::ALL.map(coefficient))
}

/// Modulates the gradient of one tensor, which `tensor` numbers to the random generator.
pub(crate) fn modulate(
    grad: &Tensor,
    coefficient: f64,
    kind: Modulation,
    (seed, step, tensor): (u64, u32, u32),
) -> Result<Tensor> {
    let scaled = (grad * coefficient)?;
    if kind != Modulation::OgmGe {
        return Ok(scaled);
    }
    let numbers: Vec<f32> = grad
        .flatten_all()?
        .to_dtype(candle_core::DType::F32)?
        .to_vec1()?;
    let n = numbers.len() as f64;
    let mean = numbers.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let spread = numbers.iter().map(|v| (f64::from(*v) - mean).powi(2));
    let std = (spread.sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    let mut rng = Rng::new(seed, &[NOISE, step, tensor]);
    let noise: Vec<f32> = numbers
        .iter()
        .map(|_| (std * rng.normal()) as f32)
        .collect();
    let noise = Tensor::from_vec(noise, grad.dims(), grad.device())?.to_dtype(grad.dtype())?;
    Ok((scaled + noise)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn only_the_stronger_modality_is_scaled_down() {
        // By hand: rho_1 = 3, k_1 = 1 - tanh(0.3).
        let coefficients = |scores| <[f64; 2]>::from(coefficients(Pair::from(scores), 0.1));
        let [k1, k2] = coefficients([1.5, 0.5]);
        assert!((k1 - (1.0 - 0.291_312_612_451_590_9)).abs() < 1e-12, "{k1}");
        assert_eq!(k2, 1.0);
        assert_eq!(coefficients([0.5, 1.5]), [1.0, k1]);
        assert_eq!(coefficients([1.0, 1.0]), [1.0, 1.0]);
        assert_eq!(coefficients([1.0, 0.0]), [1.0, 1.0]);
    }

    #[test]
    fn noise_has_the_spread_of_the_gradient_and_follows_the_seed() {
        let values: Vec<f32> = (0..4000).map(|i| (i % 7) as f32 - 3.0).collect();
        let grad = Tensor::from_vec(values.clone(), (40, 100), &Device::Cpu).unwrap();
        let run = |kind, key| -> Vec<f32> {
            let out = modulate(&grad, 0.25, kind, key).unwrap();
            out.flatten_all().unwrap().to_vec1().unwrap()
        };
        let plain = run(Modulation::Ogm, (1, 2, 3));
        assert!(plain.iter().zip(&values).all(|(a, b)| *a == b * 0.25));
        let noisy = run(Modulation::OgmGe, (1, 2, 3));
        let added: Vec<f64> = noisy
            .iter()
            .zip(&plain)
            .map(|(a, b)| f64::from(a - b))
            .collect();
        let mean = added.iter().sum::<f64>() / 4000.0;
        let std = (added.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 3999.0).sqrt();
        // -3..=3 in equal shares has standard deviation 2.
        assert!(mean.abs() < 0.15 && (std - 2.0).abs() < 0.1, "{mean} {std}");
        assert_eq!(noisy, run(Modulation::OgmGe, (1, 2, 3)));
        for key in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(noisy, run(Modulation::OgmGe, key));
        }
    }
}
