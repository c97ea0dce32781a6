//! Dropout without stored masks and without state.
//!
//! Whether an element is dropped is a function of (seed, step, module, sample, row, column) alone.
//! So the backward pass draws the same mask as the forward pass, a resumed run draws the same masks
//! as an uninterrupted one, and they depend neither on the batch's other samples nor on the number
//! of threads.

use super::Real;
use super::layout::PackedRows;
use super::simd::{LANES, simd};
use rayon::prelude::*;
use util::rng::philox4x32_lanes;

/// Rows that one task handles.
const ROWS_PER_TASK: usize = 32;

/// The dropout of one module in one step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The probability that an element becomes zero, in [0, 1).
    pub rate: f64,
    /// The key of the generator: the run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// The number of the module that draws, each of which has a random stream of its own.
    pub module: u32,
}

impl Dropout {
    /// Returns the number below which the 16 random bits of an element drop it.
    pub fn threshold(&self) -> u32 {
        (self.rate * 65536.0).round() as u32
    }

    /// Fills `mask` with 0 or `1 / (1 - rate)` for one row of one sample.
    ///
    /// 16 random bits decide about each element, so the rate is exact to 1 / 65536.
    pub fn fill<T: Real>(&self, sample: u32, row: usize, mask: &mut [T]) {
        self.fill_part(sample, row, mask.len(), 0, mask);
    }

    /// Fills `mask` with the columns of [`Dropout::fill`] from `first` on, a multiple of 8, of a
    /// row of `width`.
    pub fn fill_part<T: Real>(
        &self,
        sample: u32,
        row: usize,
        width: usize,
        first: usize,
        mask: &mut [T],
    ) {
        let scale = T::of(1.0 / (1.0 - self.rate));
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        // PackedRows times columns of one module stay far below 2^35, so the block number fits.
        let counter = (row * width.div_ceil(8) + first / 8) as u32;
        let counter = [counter, sample, self.module, self.step];
        draw(counter, key, self.threshold(), scale, mask);
    }
}

simd! {
    /// Draws a mask from a block of random bits on, [`LANES`] blocks side by side.
    fn draw<T: Real>(counter: [u32; 4], key: [u32; 2], threshold: u32, scale: T, mask: &mut [T]) {
        for (group, mask) in mask.chunks_mut(8 * LANES).enumerate() {
            let first = counter[0] + (group * LANES) as u32;
            let blocks: [u32; LANES] = std::array::from_fn(|lane| first + lane as u32);
            let words = philox4x32_lanes(blocks, [counter[1], counter[2], counter[3]], key);
            let mut halves = [0u16; 8 * LANES];
            for (halves, word) in halves.chunks_exact_mut(2).zip(words.as_flattened()) {
                halves[0] = *word as u16;
                halves[1] = (*word >> 16) as u16;
            }
            for (m, bits) in mask.iter_mut().zip(halves) {
                *m = if u32::from(bits) < threshold { T::zero() } else { scale };
            }
        }
    }
}

impl Dropout {
    /// Applies the dropout to a token matrix in place, `d` elements to a row.
    pub fn apply<T: Real>(&self, x: &mut [T], d: usize, rows: &PackedRows) {
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
    use util::rng::philox4x32;

    /// Returns seeded numbers in (-1, 1) for the tests of kernels.
    pub fn noise(seed: u64, n: usize) -> Vec<f64> {
        (0..n)
            .map(|i| {
                let word = philox4x32([i as u32, 0, 0, 0], [seed as u32, 1])[0];
                f64::from(word) / 2f64.powi(31) - 1.0
            })
            .collect()
    }

    /// The masks equal those of the generator called block by block, as its paper defines it.
    #[test]
    fn masks_equal_the_scalar_generator() {
        let d = Dropout {
            rate: 0.3,
            seed: 5 << 32 | 9,
            step: 3,
            module: 2,
        };
        for width in [1, 8, 13, 128, 197, 768] {
            let mut mask = vec![0f64; width];
            d.fill(4, 6, &mut mask);
            for (i, m) in mask.iter().enumerate() {
                let block = (6 * width.div_ceil(8) + i / 8) as u32;
                let bits =
                    philox4x32([block, 4, 2, 3], [9, 5])[i % 8 / 2] >> (16 * (i % 2)) & 0xffff;
                assert_eq!(*m == 0.0, bits < d.threshold(), "element {i} of {width}");
            }
            if width > 8 {
                let mut part = vec![0f64; width - 8];
                d.fill_part(4, 6, width, 8, &mut part);
                assert_eq!(mask[8..], part);
            }
        }
    }

    #[test]
    fn masks_have_the_rate_and_depend_on_every_input() {
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
