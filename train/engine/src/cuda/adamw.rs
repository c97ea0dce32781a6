//! AdamW.

use super::launch::Argument;
use super::{Gpu, THREADS};
use candle_core::{Device, Result, Tensor};

/// One tensor of an optimizer step, as the kernel `adamw` reads it.
#[derive(Clone, Copy)]
pub(crate) struct AdamWTensor {
    /// The addresses of the value and of the two moments.
    pub state: [u64; 3],
    /// The address of the gradient.
    pub gradient: u64,
    /// The number of elements.
    pub n: i32,
    /// `lr / (1 - beta1^t)`.
    pub step: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
    /// `1 - lr * weight_decay`.
    pub decay: f32,
}

impl AdamWTensor {
    /// The size of the kernel's struct `AdamWTensor` in words.
    const WORDS: usize = 12;

    /// Returns the bytes of the kernel's struct as little-endian words, without padding.
    fn words(&self) -> [u32; AdamWTensor::WORDS] {
        let [value, m, v] = self.state;
        let mut words = [0; AdamWTensor::WORDS];
        for (to, address) in words.chunks_exact_mut(2).zip([value, m, v, self.gradient]) {
            to.copy_from_slice(&[address as u32, (address >> 32) as u32]);
        }
        words[8] = self.n as u32;
        let factors = [self.step, self.root_correction, self.decay];
        for (to, factor) in words[9..].iter_mut().zip(factors) {
            *to = factor.to_bits();
        }
        words
    }
}

impl Gpu {
    /// Makes one AdamW update of all tensors in the table, whose values and moments it updates in
    /// place.
    pub(crate) fn adamw(
        &self,
        table: &[AdamWTensor],
        betas: [f64; 2],
        eps: f64,
        device: &Device,
    ) -> Result<()> {
        // Where no tensor has a gradient, there is nothing to allocate or to launch.
        if table.is_empty() {
            return Ok(());
        }
        let words: Vec<u32> = table.iter().flat_map(AdamWTensor::words).collect();
        let rows = Tensor::from_vec(words, (table.len(), AdamWTensor::WORDS), device)?;
        let arguments = [
            self.address(&rows)?,
            Argument::new((1.0 - betas[0]) as f32),
            Argument::new(betas[1] as f32),
            Argument::new((1.0 - betas[1]) as f32),
            Argument::new(eps as f32),
        ];
        let largest = table.iter().map(|m| m.n as usize).max().unwrap_or(0);
        let blocks = largest.div_ceil(THREADS as usize).min(1024);
        self.launch("adamw", [blocks, table.len(), 1], THREADS, 0, &arguments)
    }

    /// Returns the address of a tensor that [`Gpu::adamw`] is to read or write.
    pub(crate) fn address_of(&self, tensor: &Tensor) -> Result<u64> {
        self.0.address(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::launch::{Kernel, Launch, LinearProduct, Mark};
    use super::*;

    /// A device that must get no work.
    struct Idle;

    impl Launch for Idle {
        fn launch(
            &self,
            kernel: Kernel,
            _: [u32; 3],
            _: u32,
            _: u32,
            _: &[Argument],
        ) -> Result<()> {
            candle_core::bail!("{kernel} was launched")
        }

        fn address(&self, _: &Tensor) -> Result<u64> {
            candle_core::bail!("memory was used")
        }

        fn linear_product(&self, _: &LinearProduct) -> Result<Option<Tensor>> {
            Ok(None)
        }

        fn mark(&self) -> Result<Mark> {
            candle_core::bail!("a mark was made")
        }
    }

    #[test]
    fn an_update_without_gradients_does_nothing() {
        Gpu(&Idle)
            .adamw(&[], [0.9, 0.999], 1e-8, &Device::Cpu)
            .unwrap();
    }
}
