//! Counter-based random numbers: a pure function of seed, purpose and position.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
//! 128-bit counter and a 64-bit key into 128 random bits. No state is kept between calls, so a
//! resumed run, another number of threads or another batch size draws the same numbers for the same
//! seed, purpose and position.

/// Computes one block of Philox4x32-10.
#[inline]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [block, rest @ ..] = counter;
    philox4x32_lanes([block], rest, key)[0]
}

/// Computes [`philox4x32`] for several counters that differ in their first word, in loops that the
/// compiler can vectorize.
#[inline(always)]
pub fn philox4x32_lanes<const N: usize>(
    blocks: [u32; N],
    rest: [u32; 3],
    key: [u32; 2],
) -> [[u32; 4]; N] {
    // Multipliers and Weyl increments of the paper's table 2.
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;
    let mut c0 = blocks;
    let [mut c1, mut c2, mut c3] = rest.map(|word| [word; N]);
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        for lane in 0..N {
            let p0 = M0 * u64::from(c0[lane]);
            let p1 = M1 * u64::from(c2[lane]);
            c0[lane] = (p1 >> 32) as u32 ^ c1[lane] ^ k0;
            c1[lane] = p1 as u32;
            c2[lane] = (p0 >> 32) as u32 ^ c3[lane] ^ k1;
            c3[lane] = p0 as u32;
        }
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    std::array::from_fn(|lane| [c0[lane], c1[lane], c2[lane], c3[lane]])
}

/// A sequence of random numbers, identified by a seed and up to three more numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    name: [u32; 3],
    block: u32,
    words: [u32; 4],
    used: usize,
    spare: Option<f64>,
}

impl Rng {
    /// Starts the sequence of this seed and purpose; a missing number counts as 0.
    ///
    /// # Panics
    /// `name` has more than three numbers.
    pub fn new(seed: u64, name: &[u32]) -> Self {
        assert!(
            name.len() <= 3,
            "a sequence is named by up to three numbers"
        );
        let mut padded = [0; 3];
        padded[..name.len()].copy_from_slice(name);
        Rng {
            key: [seed as u32, (seed >> 32) as u32],
            name: padded,
            block: 0,
            words: [0; 4],
            used: 4,
            spare: None,
        }
    }

    /// Returns the sequence from a block of four words on, in which two numbers of
    /// [`Rng::normal`] are drawn. So several threads can draw parts of one sequence.
    pub fn at_block(self, block: u32) -> Self {
        Rng {
            block,
            used: 4,
            spare: None,
            ..self
        }
    }

    /// Draws 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox4x32(
                [self.block, self.name[0], self.name[1], self.name[2]],
                self.key,
            );
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Draws uniformly from `[0, 1)`, with all 53 bits of a double's significand.
    pub fn uniform(&mut self) -> f64 {
        let bits = u64::from(self.bits()) << 32 | u64::from(self.bits());
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws from the standard normal distribution, by the Box-Muller transform.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// Draws uniformly from `0..n`, without bias (Lemire's method: multiply and reject).
    ///
    /// # Panics
    /// `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "there is no number below 0");
        let reject = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.bits()) * u64::from(n);
            if product as u32 >= reject {
                return (product >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_known_answers_of_random123() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_sequence_can_be_entered_at_any_block() {
        let mut rng = Rng::new(1, &[2]);
        let whole: Vec<f64> = (0..10).map(|_| rng.normal()).collect();
        let mut rng = rng.at_block(3);
        assert_eq!(whole[6..], [(); 4].map(|()| rng.normal()));
    }

    #[test]
    fn draws_have_the_right_moments_and_ranges() {
        let mut rng = Rng::new(1, &[2]);
        let normals: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 20_000.0;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(
            mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04,
            "{mean} {variance}"
        );
        assert!((0..1000).all(|_| (0.0..1.0).contains(&rng.uniform())));
        let mut seen = [0; 7];
        (0..7000).for_each(|_| seen[rng.below(7) as usize] += 1);
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
        assert_ne!(Rng::new(1, &[2]).bits(), Rng::new(1, &[3]).bits());
    }
}
