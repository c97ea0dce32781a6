//! AdamW whose state can be saved, and the paper's learning-rate schedule.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of AdamW; defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on every learnable tensor.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.02,
        }
    }
}

/// Moments of one tensor, flat.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// First moment.
    pub m: Vec<f32>,
    /// Second moment.
    pub v: Vec<f32>,
    /// Updates this tensor has had: its own count, because a step without a gradient leaves a
    /// tensor alone.
    pub steps: u64,
}

/// AdamW (Loshchilov and Hutter 2019) as PyTorch computes it.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// Settings.
    pub config: AdamWConfig,
    /// One per learnable tensor, in the model's order. On a GPU these are what the last
    /// [`AdamW::settle`] found.
    pub moments: Vec<Moments>,
    /// Both moments where a device keeps them, by tensor.
    resident: BTreeMap<usize, [Tensor; 2]>,
}

/// The numbers of one tensor's update.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// `1 - lr * weight_decay`.
    pub decay: f32,
    /// `lr / (1 - beta1^t)`.
    pub step: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
}

impl AdamW {
    /// Zero moments for tensors of the given sizes.
    pub fn new(config: AdamWConfig, sizes: impl IntoIterator<Item = usize>) -> AdamW {
        let moments = sizes
            .into_iter()
            .map(|n| Moments {
                m: vec![0.0; n],
                v: vec![0.0; n],
                steps: 0,
            })
            .collect();
        AdamW {
            config,
            moments,
            resident: BTreeMap::new(),
        }
    }

    /// Counts an update of tensor `index` and gives its numbers.
    pub fn begin(&mut self, index: usize, lr: f64) -> Rates {
        let AdamWConfig {
            beta1,
            beta2,
            weight_decay,
            ..
        } = self.config;
        let steps = &mut self.moments[index].steps;
        *steps += 1;
        Rates {
            decay: (1.0 - lr * weight_decay) as f32,
            step: (lr / (1.0 - beta1.powf(*steps as f64))) as f32,
            root_correction: (1.0 - beta2.powf(*steps as f64)).sqrt() as f32,
        }
    }

    /// The moments of tensor `index` on a device, which keeps them from now on.
    pub fn resident(&mut self, index: usize, device: &Device) -> Result<[Tensor; 2]> {
        if let Some(found) = self.resident.get(&index) {
            return Ok(found.clone());
        }
        let Moments { m, v, .. } = &self.moments[index];
        let made = [m, v].map(|t| Tensor::from_slice(t, t.len(), device));
        let [m, v] = made;
        let made = [m?, v?];
        self.resident.insert(index, made.clone());
        Ok(made)
    }

    /// Fetches the moments that a device keeps into [`AdamW::moments`].
    pub fn settle(&mut self) -> Result<()> {
        for (index, [m, v]) in &self.resident {
            let moments = &mut self.moments[*index];
            (moments.m, moments.v) = (m.to_vec1()?, v.to_vec1()?);
        }
        Ok(())
    }

    /// Updates tensor `index` in place.
    pub fn update(&mut self, index: usize, value: &mut [f32], grad: &[f32], lr: f64) -> Result<()> {
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = self.config;
        let Moments { m, .. } = &self.moments[index];
        if value.len() != m.len() || grad.len() != m.len() {
            bail!(
                "optimiser state of {} numbers for a tensor of {} with a gradient of {}",
                m.len(),
                value.len(),
                grad.len()
            );
        }
        let Rates {
            decay,
            step,
            root_correction,
        } = self.begin(index, lr);
        let Moments { m, v, .. } = &mut self.moments[index];
        let (b1, b2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        for (((p, g), m), v) in value.iter_mut().zip(grad).zip(m).zip(v) {
            *p *= decay;
            *m += b1 * (g - *m);
            *v = beta2 as f32 * *v + b2 * g * g;
            *p -= step * *m / (v.sqrt() / root_correction + eps as f32);
        }
        Ok(())
    }
}

/// The learning rate over a run: a flat warm-up, then polynomial decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Base rate.
    pub lr: f64,
    /// Epochs at `warmup_factor` times the base rate.
    pub warmup_epochs: usize,
    /// See `warmup_epochs`.
    pub warmup_factor: f64,
    /// Exponent of the decay.
    pub power: f64,
}

impl Schedule {
    /// Warm-up epochs of the paper.
    pub const WARMUP_EPOCHS: usize = 5;
    /// Warm-up factor of the paper.
    pub const WARMUP_FACTOR: f64 = 0.1;
    /// Exponent of the paper.
    pub const POWER: f64 = 0.9;

    /// The rate of step `step` (from 0) in a run of `epochs` epochs of `steps_per_epoch` steps:
    /// `lr (1 - t / T)^power` with `t` and `T` counted from the end of the warm-up.
    pub fn rate(&self, step: u64, steps_per_epoch: u64, epochs: u64) -> f64 {
        let warmup = (self.warmup_epochs as u64).min(epochs) * steps_per_epoch;
        if step < warmup {
            return self.lr * self.warmup_factor;
        }
        let total = epochs * steps_per_epoch - warmup;
        let left = 1.0 - (step - warmup) as f64 / total.max(1) as f64;
        self.lr * left.max(0.0).powf(self.power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_in_closed_form() {
        let s = Schedule {
            lr: 5e-5,
            warmup_epochs: 5,
            warmup_factor: 0.1,
            power: 0.9,
        };
        assert!((s.rate(0, 10, 100) - 5e-6).abs() < 1e-15);
        assert!((s.rate(49, 10, 100) - 5e-6).abs() < 1e-15);
        assert!((s.rate(50, 10, 100) - 5e-5).abs() < 1e-15);
        assert!((s.rate(525, 10, 100) - 5e-5 * 0.5f64.powf(0.9)).abs() < 1e-15);
        assert!(s.rate(999, 10, 100) > 0.0);
        assert!(
            (s.rate(7, 10, 3) - 5e-6).abs() < 1e-15,
            "a run shorter than the warm-up is all warm-up"
        );
    }
}
