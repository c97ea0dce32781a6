//! Random numbers on all threads.

use crate::cpu::parallel;
use util::rng::Rng;

/// Numbers that one task draws. Even, since a block of the generator gives two.
const CHUNK: usize = 1 << 14;

/// Draws `len` numbers from a normal distribution of mean 0: those that [`Rng::normal`] gives one
/// after another for this seed and name, times `std`, on any number of threads.
pub fn normals(seed: u64, name: &[u32], std: f64, len: usize) -> Vec<f32> {
    parallel::build(len, CHUNK, |start, chunk| {
        let mut rng = Rng::new(seed, name).at_block((start / 2) as u32);
        chunk.fill_with(|| (std * rng.normal()) as f32);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_draw_the_numbers_of_one_generator() {
        let mut rng = Rng::new(5, &[6, 7]);
        let len = 2 * CHUNK + 3;
        let one_by_one: Vec<f32> = (0..len).map(|_| (0.3 * rng.normal()) as f32).collect();
        assert_eq!(normals(5, &[6, 7], 0.3, len), one_by_one);
    }
}
