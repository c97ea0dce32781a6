//! AdamW whose state can be saved, and the paper's learning-rate schedule.
//!
//! [`AdamW`] implements candle's trait `candle_nn::Optimizer`. candle's own AdamW does not expose
//! its moments, so that no run could be resumed with them, and counts steps once for all tensors,
//! which differs from PyTorch if a tensor had no gradient in some steps.

use crate::cuda::{self, AdamWTensor, Gpu};
use candle_core::DType;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use candle_nn::Optimizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The settings of AdamW, whose defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// The number that is added to the root of the second moment.
    pub eps: f64,
    /// The decoupled weight decay of every learnable tensor.
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

/// The optimizer state of one tensor, its numbers in the tensor's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// The first moment.
    pub m: Vec<f32>,
    /// The second moment.
    pub v: Vec<f32>,
    /// The number of updates of this tensor, which is counted for each tensor because a step
    /// without a gradient does not change it.
    pub steps: u64,
}

/// AdamW (Loshchilov and Hutter 2019) as PyTorch computes it, on f32.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    lr: f64,
    /// The learnable tensors, in the model's order.
    vars: Vec<Var>,
    /// The moments of each variable. On a GPU they are as the last [`AdamW::fetch_moments`] copied
    /// them.
    pub moments: Vec<Moments>,
    /// Both moments of the variables whose moments are on a device, by the variable's index.
    on_device: BTreeMap<usize, [Tensor; 2]>,
}

/// The factors of one tensor's update.
#[derive(Clone, Copy, Debug)]
struct UpdateFactors {
    /// `1 - lr * weight_decay`.
    decay: f32,
    /// `lr / (1 - beta1^t)`.
    step: f32,
    /// `sqrt(1 - beta2^t)`.
    root_correction: f32,
}

impl Optimizer for AdamW {
    type Config = AdamWConfig;

    /// Makes an optimizer with zero moments. The learning rate is 0 until it is set.
    fn new(vars: Vec<Var>, config: AdamWConfig) -> Result<AdamW> {
        let moments = vars.iter().map(|var| Moments {
            m: vec![0.0; var.elem_count()],
            v: vec![0.0; var.elem_count()],
            steps: 0,
        });
        Ok(AdamW {
            config,
            lr: 0.0,
            moments: moments.collect(),
            vars,
            on_device: BTreeMap::new(),
        })
    }

    /// Updates every variable that has a gradient in place; the others stay as they are.
    fn step(&mut self, grads: &GradStore) -> Result<()> {
        if let Some(var) = self.vars.first()
            && let Some(gpu) = cuda::of(var)?
        {
            return self.step_on_device(gpu, grads);
        }
        for index in 0..self.vars.len() {
            let var = self.vars[index].clone();
            let Some(grad) = grads.get(&var) else {
                continue;
            };
            let mut value: Vec<f32> = var.flatten_all()?.to_vec1()?;
            self.update(index, &mut value, &grad.flatten_all()?.to_vec1::<f32>()?)?;
            var.set(&Tensor::from_vec(value, var.shape(), var.device())?)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.lr = lr;
    }
}

impl AdamW {
    /// Returns the gradients of the variables, given in their order, as [`Optimizer::step`] reads
    /// them.
    pub fn gradients(&self, grads: Vec<Option<Tensor>>) -> GradStore {
        let mut store = GradStore::default();
        for (var, grad) in self.vars.iter().zip(grads) {
            if let Some(grad) = grad {
                store.insert(var, grad);
            }
        }
        store
    }

    /// Returns the variables as tensors that share their memory.
    pub fn values(&self) -> Vec<Tensor> {
        self.vars.iter().map(Var::as_detached_tensor).collect()
    }

    /// Counts an update of variable `index` and returns its factors.
    fn count_update(&mut self, index: usize) -> UpdateFactors {
        let lr = self.lr;
        let AdamWConfig {
            beta1,
            beta2,
            weight_decay,
            ..
        } = self.config;
        let steps = &mut self.moments[index].steps;
        *steps += 1;
        UpdateFactors {
            decay: (1.0 - lr * weight_decay) as f32,
            step: (lr / (1.0 - beta1.powf(*steps as f64))) as f32,
            root_correction: (1.0 - beta2.powf(*steps as f64)).sqrt() as f32,
        }
    }

    /// Returns the moments of variable `index` on its device, where they stay from now on.
    fn device_moments(&mut self, index: usize) -> Result<[Tensor; 2]> {
        if let Some(found) = self.on_device.get(&index) {
            return Ok(found.clone());
        }
        let device = self.vars[index].device();
        let Moments { m, v, .. } = &self.moments[index];
        let made = [m, v].map(|t| Tensor::from_slice(t, t.len(), device));
        let [m, v] = made;
        let made = [m?, v?];
        self.on_device.insert(index, made.clone());
        Ok(made)
    }

    /// Makes a step on the variables' device, in one kernel for all of them.
    fn step_on_device(&mut self, gpu: Gpu, grads: &GradStore) -> Result<()> {
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = self.config;
        // The gradients must not be freed before the kernel is launched.
        let mut used = Vec::with_capacity(self.vars.len());
        let mut table = Vec::with_capacity(self.vars.len());
        for index in 0..self.vars.len() {
            let var = self.vars[index].clone();
            let Some(grad) = grads.get(&var) else {
                continue;
            };
            let grad = grad.to_dtype(DType::F32)?.contiguous()?;
            let rates = self.count_update(index);
            let [m, v] = self.device_moments(index)?;
            table.push(AdamWTensor {
                state: [
                    gpu.address_of(&var)?,
                    gpu.address_of(&m)?,
                    gpu.address_of(&v)?,
                ],
                gradient: gpu.address_of(&grad)?,
                n: var.elem_count() as i32,
                step: rates.step,
                root_correction: rates.root_correction,
                decay: rates.decay,
            });
            used.push(grad);
        }
        match self.vars.first() {
            Some(var) => gpu.adamw(&table, [beta1, beta2], eps, var.device()),
            None => Ok(()),
        }
    }

    /// Copies the moments that are on a device into [`AdamW::moments`].
    pub fn fetch_moments(&mut self) -> Result<()> {
        for (index, [m, v]) in &self.on_device {
            let moments = &mut self.moments[*index];
            (moments.m, moments.v) = (m.to_vec1()?, v.to_vec1()?);
        }
        Ok(())
    }

    /// Makes the AdamW update of variable `index` on the CPU (algorithm 2 of Loshchilov and Hutter 2019).
    fn update(&mut self, index: usize, value: &mut [f32], grad: &[f32]) -> Result<()> {
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = self.config;
        let Moments { m, .. } = &self.moments[index];
        if value.len() != m.len() || grad.len() != m.len() {
            bail!(
                "optimizer state of {} numbers for a tensor of {} with a gradient of {}",
                m.len(),
                value.len(),
                grad.len()
            );
        }
        let UpdateFactors {
            decay,
            step,
            root_correction,
        } = self.count_update(index);
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

/// The learning rate over a run: a constant warm-up, then polynomial decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The base rate.
    pub lr: f64,
    /// The epochs at `warmup_factor` times the base rate.
    pub warmup_epochs: usize,
    /// The factor of the base rate during the warm-up.
    pub warmup_factor: f64,
    /// The exponent of the decay.
    pub power: f64,
}

impl Schedule {
    /// The paper's warm-up epochs.
    pub const WARMUP_EPOCHS: usize = 5;
    /// The paper's warm-up factor.
    pub const WARMUP_FACTOR: f64 = 0.1;
    /// The paper's exponent.
    pub const POWER: f64 = 0.9;

    /// Returns the rate of step `step` (from 0) in a run of `epochs` epochs of `steps_per_epoch`
    /// steps: `lr (1 - t / T)^power` with `t` and `T` counted from the end of the warm-up.
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
    fn schedule_equals_its_closed_form() {
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
