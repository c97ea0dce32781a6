//! Dropout without stored masks and without state.
//!
//! Whether an element is kept is a function of (seed, step, module, sample, row, column) alone, so
//! the backward pass draws the same mask again, a resumed run draws what an undisturbed one would
//! have drawn, and neither the batch's other samples nor the number of threads matter.

use super::Real;
use super::lora::Rows;
use features::rng::philox4x32;
use rayon::prelude::*;

const ROWS_PER_TASK: usize = 32;

/// The dropout of one module in one step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability of zeroing an element, in [0, 1).
    pub rate: f64,
    /// Key of the generator: the run's seed.
    pub seed: u64,
    /// Optimiser step.
    pub step: u32,
    /// Which module of the model draws (each has its own stream).
    pub module: u32,
}

impl Dropout {
    /// Elements whose 16 random bits are below it are dropped.
    pub fn threshold(&self) -> u32 {
        (self.rate * 65536.0).round() as u32
    }

    /// Fills `mask` with 0 or `1 / (1 - rate)` for one row of one sample.
    ///
    /// Each element is decided by 16 random bits: the rate is exact to 1 / 65536.
    pub fn fill<T: Real>(&self, sample: u32, row: usize, mask: &mut [T]) {
        self.fill_part(sample, row, mask.len(), 0, mask);
    }

    /// The columns of [`Dropout::fill`] from `first` on, a multiple of 8, of a row of `width`.
    pub fn fill_part<T: Real>(
        &self,
        sample: u32,
        row: usize,
        width: usize,
        first: usize,
        mask: &mut [T],
    ) {
        let keep = T::of(1.0 / (1.0 - self.rate));
        let threshold = self.threshold();
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let start = row * width.div_ceil(8) + first / 8;
        for (block, mask) in mask.chunks_mut(8).enumerate() {
            // Rows times columns of one module stay far below 2^35, so the block number fits.
            let counter = (start + block) as u32;
            let words = philox4x32([counter, sample, self.module, self.step], key);
            for (i, m) in mask.iter_mut().enumerate() {
                let bits = (words[i / 2] >> (16 * (i % 2))) & 0xffff;
                *m = if bits < threshold { T::zero() } else { keep };
            }
        }
    }
}

impl Dropout {
    /// Drops elements of a token matrix, `d` to a row.
    pub fn apply<T: Real>(&self, x: &mut [T], d: usize, rows: &Rows) {
        x.par_chunks_mut(d * ROWS_PER_TASK)
            .enumerate()
            .for_each(|(task, x)| {
                let mut mask = vec![T::zero(); d];
                for (i, x) in x.chunks_exact_mut(d).enumerate() {
                    let (sample, position) = rows.locate(task * ROWS_PER_TASK + i);
                    self.fill(sample, position, &mut mask);
                    x.iter_mut().zip(&mask).for_each(|(x, m)| *x *= *m);
                }
            });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Seeded numbers in (-1, 1) for the kernels' tests.
    pub fn noise(seed: u64, n: usize) -> Vec<f64> {
        (0..n)
            .map(|i| {
                let word = philox4x32([i as u32, 0, 0, 0], [seed as u32, 1])[0];
                f64::from(word) / 2f64.powi(31) - 1.0
            })
            .collect()
    }

    #[test]
    fn rate_and_independence() {
        let d = Dropout {
            rate: 0.1,
            seed: 7,
            step: 3,
            module: 2,
        };
        let mut mask = vec![0f32; 768];
        let mut dropped = 0;
        for row in 0..500 {
            d.fill(1, row, &mut mask);
            dropped += mask.iter().filter(|m| **m == 0.0).count();
            assert!(
                mask.iter()
                    .all(|m| *m == 0.0 || (*m - 1.0 / 0.9).abs() < 1e-6)
            );
        }
        let rate = dropped as f64 / (500.0 * 768.0);
        assert!((rate - 0.1).abs() < 0.002, "{rate}");
        let mut other = mask.clone();
        for changed in [
            Dropout { step: 4, ..d },
            Dropout { module: 3, ..d },
            Dropout { seed: 8, ..d },
        ] {
            changed.fill(1, 499, &mut other);
            assert_ne!(mask, other);
        }
        d.fill(2, 499, &mut other);
        assert_ne!(mask, other);
        d.fill(1, 499, &mut other);
        assert_eq!(mask, other);
    }
}
