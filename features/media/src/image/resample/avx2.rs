//! The two passes of [`super::Pass`] with the 16-bit multiply-adds of AVX2, and the same bytes as
//! the portable loops.
//!
//! `_mm256_madd_epi16` multiplies sixteen pairs of 16-bit numbers and adds neighbours, so it takes
//! two source pixels at a time. A weight has 24 bits. It is split into two parts of 16 bits,
//! w = 4096 high + low, and a sum takes two multiply-adds. All sums are exact modulo 2^32, and the
//! result fits 32 bits.
//!
//! `unsafe` is the call after AVX2 was detected, and the loads and stores, each through a reference
//! to as many bytes as it touches.

use std::arch::x86_64::*;

use super::{Axis, BITS, HALF, Pass};

/// The bits of the lower part of a weight.
const LOW_BITS: i32 = 12;
/// The source rows that the horizontal pass takes at once, two in each vector.
const ROWS: usize = 4;
/// The result pixels of a row that the horizontal pass writes at once.
const PIXELS: usize = 4;
/// The bytes that the vertical pass takes at once.
const CHUNK: usize = 32;
/// The bytes of a load in the horizontal pass.
const LOAD: usize = 16;

/// The weights of two adjacent source pixels, the first one in the lower 16 bits.
#[derive(Clone, Copy, Default)]
struct Pair {
    high: i32,
    low: i32,
}

impl Pair {
    /// Splits one or two weights; a missing second one is 0.
    fn new(weights: &[i32]) -> Pair {
        let part = |of: fn(i32) -> i32| {
            let second = weights.get(1).map_or(0, |weight| of(*weight));
            (second << 16) | (of(weights[0]) & 0xFFFF)
        };
        Pair {
            high: part(|weight| weight >> LOW_BITS),
            low: part(|weight| weight & ((1 << LOW_BITS) - 1)),
        }
    }
}

/// The buffers that are reused from image to image.
#[derive(Default)]
pub(super) struct Scratch {
    /// The offset in a row of each result pixel's window, in bytes.
    starts: Vec<usize>,
    /// `pairs` pairs of weights for each result pixel.
    weights: Vec<Pair>,
    /// The number of pairs that the longest window has.
    pairs: usize,
    /// Copies of [`ROWS`] rows where a load would reach beyond the image.
    rows: Vec<u8>,
    /// The weights of one row of the vertical pass.
    row_weights: Vec<Pair>,
}

impl Scratch {
    fn set_columns(&mut self, columns: &Axis) {
        let longest = columns.windows().map(|(_, weights)| weights.len()).max();
        self.pairs = longest.unwrap_or(0).div_ceil(2);
        self.starts.clear();
        self.weights.clear();
        for (first, weights) in columns.windows() {
            self.starts.push(3 * first);
            self.weights.extend(weights.chunks(2).map(Pair::new));
            self.weights
                .resize(self.starts.len() * self.pairs, Pair::default());
        }
        // Pixels beyond the row, which are not read.
        let whole = self.starts.len().next_multiple_of(PIXELS);
        self.starts.resize(whole, 0);
        self.weights.resize(whole * self.pairs, Pair::default());
    }
}

/// Fills `out` and returns true, or returns false where the processor has no AVX2. The horizontal
/// pass writes to `narrowed`, each row padded to whole chunks.
pub(super) fn run(
    pass: &Pass,
    scratch: &mut Scratch,
    narrowed: &mut Vec<u8>,
    out: &mut [u8],
) -> bool {
    if !is_x86_feature_detected!("avx2") {
        return false;
    }
    // SAFETY: the processor has AVX2.
    unsafe { run_passes(pass, scratch, narrowed, out) };
    true
}

#[target_feature(enable = "avx2")]
fn run_passes(pass: &Pass, scratch: &mut Scratch, narrowed: &mut Vec<u8>, out: &mut [u8]) {
    scratch.set_columns(pass.columns);
    let row = 3 * pass.width;
    let new_row = 3 * pass.columns.len();
    // Whole chunks, with room for the last store of the horizontal pass.
    let stride = (3 * scratch.starts.len() + LOAD).next_multiple_of(CHUNK);
    narrowed.resize((pass.source.len() / row).next_multiple_of(ROWS) * stride, 0);
    // The last byte that a load reaches, from the start of a row.
    let padded = row + 6 * scratch.pairs + LOAD;
    let mut copies = std::mem::take(&mut scratch.rows);
    let blocks = narrowed.chunks_exact_mut(ROWS * stride);
    for (block, to) in blocks.enumerate() {
        let source = &pass.source[block * ROWS * row..];
        let rows = if source.len() >= (ROWS - 1) * row + padded {
            std::array::from_fn(|i| &source[i * row..][..padded])
        } else {
            copies.clear();
            copies.resize(ROWS * padded, 0);
            for (from, to) in source
                .chunks_exact(row)
                .zip(copies.chunks_exact_mut(padded))
            {
                to[..row].copy_from_slice(from);
            }
            std::array::from_fn(|i| &copies[i * padded..][..padded])
        };
        horizontal(scratch, rows, to, stride);
    }
    scratch.rows = copies;
    for ((first, weights), to) in pass.rows.windows().zip(out.chunks_exact_mut(new_row)) {
        scratch.row_weights.clear();
        scratch.row_weights.extend(weights.chunks(2).map(Pair::new));
        let rows = &narrowed[(first - pass.first_row) * stride..][..weights.len() * stride];
        vertical(&scratch.row_weights, rows, stride, to);
    }
}

/// Runs the horizontal pass over [`ROWS`] rows of packed RGB, which have the same length.
#[target_feature(enable = "avx2")]
fn horizontal(scratch: &Scratch, rows: [&[u8]; ROWS], to: &mut [u8], stride: usize) {
    // R, G and B of two pixels side by side, widened to 16 bits.
    let gather = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
    ));
    // Four pixels without the byte that follows each.
    let drop = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
    ));
    let pairs = scratch.pairs;
    let starts = scratch.starts.as_chunks::<PIXELS>().0;
    for (number, starts) in starts.iter().enumerate() {
        let mut levels = [[_mm256_setzero_si256(); PIXELS]; ROWS / 2];
        for (pixel, start) in starts.iter().enumerate() {
            let weights = &scratch.weights[(number * PIXELS + pixel) * pairs..][..pairs];
            let window = *start..*start + 6 * pairs + LOAD - 6;
            let upper = [&rows[0][window.clone()], &rows[1][window.clone()]];
            let lower = [&rows[2][window.clone()], &rows[3][window]];
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS / 2];
            for (pair, weights) in weights.iter().enumerate() {
                let high = _mm256_set1_epi32(weights.high);
                let low = _mm256_set1_epi32(weights.low);
                for (sums, [first, second]) in sums.iter_mut().zip([upper, lower]) {
                    // SAFETY: `pair` is below `pairs`, so the 16 bytes lie in each window.
                    let both = unsafe {
                        _mm256_loadu2_m128i(
                            second.as_ptr().add(6 * pair).cast(),
                            first.as_ptr().add(6 * pair).cast(),
                        )
                    };
                    let two = _mm256_shuffle_epi8(both, gather);
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(two, high));
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(two, low));
                }
            }
            for (levels, sums) in levels.iter_mut().zip(sums) {
                levels[pixel] = level(sums);
            }
        }
        let at = number * PIXELS * 3;
        for (levels, to) in levels.iter().zip(to.chunks_exact_mut(2 * stride)) {
            let bytes = _mm256_shuffle_epi8(pack(*levels), drop);
            store16(&mut to[at..], _mm256_castsi256_si128(bytes));
            store16(&mut to[stride + at..], _mm256_extracti128_si256::<1>(bytes));
        }
    }
}

/// Computes one row of the vertical pass from `rows`, which have `stride` bytes and one weight
/// each.
#[target_feature(enable = "avx2")]
fn vertical(weights: &[Pair], rows: &[u8], stride: usize, to: &mut [u8]) {
    let zero = _mm256_setzero_si256();
    for (number, to) in to.chunks_mut(CHUNK).enumerate() {
        let at = number * CHUNK;
        assert!(at + CHUNK <= stride);
        let mut sums = [[zero; 2]; 4];
        for (rows, weights) in rows.chunks(2 * stride).zip(weights) {
            let high = _mm256_set1_epi32(weights.high);
            let low = _mm256_set1_epi32(weights.low);
            // The second row of the last pair may be missing; its weight is 0.
            let second = rows.len() - stride;
            // SAFETY: `rows` has one or two rows of `stride` bytes, and `at + 32` is at most that.
            let (a, b) = unsafe {
                (
                    _mm256_loadu_si256(rows.as_ptr().add(at).cast()),
                    _mm256_loadu_si256(rows.as_ptr().add(second + at).cast()),
                )
            };
            let (left, right) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let twos = [
                _mm256_unpacklo_epi8(left, zero),
                _mm256_unpackhi_epi8(left, zero),
                _mm256_unpacklo_epi8(right, zero),
                _mm256_unpackhi_epi8(right, zero),
            ];
            for (sums, two) in sums.iter_mut().zip(twos) {
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(two, high));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(two, low));
            }
        }
        let [a, b, c, d] = sums;
        store32(to, pack([level(a), level(b), level(c), level(d)]));
    }
}

/// Returns the whole part of each sum, given as its high and low parts.
#[target_feature(enable = "avx2")]
fn level([high, low]: [__m256i; 2]) -> __m256i {
    let sum = _mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(high), low);
    _mm256_srai_epi32::<{ BITS as i32 }>(_mm256_add_epi32(sum, _mm256_set1_epi32(HALF)))
}

/// Converts levels to bytes, limited to 0..=255: the lower halves of four vectors, then their upper
/// ones.
#[target_feature(enable = "avx2")]
fn pack([a, b, c, d]: [__m256i; 4]) -> __m256i {
    _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d))
}

/// Stores 16 bytes at the start of a slice.
#[target_feature(enable = "avx2")]
fn store16(to: &mut [u8], bytes: __m128i) {
    let to = &mut to[..16];
    // SAFETY: the slice has 16 bytes.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), bytes) }
}

/// Stores as many bytes as fit, at most 32.
#[target_feature(enable = "avx2")]
fn store32(to: &mut [u8], bytes: __m256i) {
    if let Some(to) = to.first_chunk_mut::<CHUNK>() {
        // SAFETY: the array has 32 bytes.
        return unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes) };
    }
    let mut all = [0; CHUNK];
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), bytes) };
    to.copy_from_slice(&all[..to.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use util::rng::Rng;

    #[test]
    fn split_weights_add_up() {
        for weight in (-6_000_000..6_000_000)
            .step_by(997)
            .chain([-1, 0, 4095, 4096])
        {
            let Pair { high, low } = Pair::new(&[0, weight]);
            assert_eq!((high >> 16 << LOW_BITS) + (low >> 16), weight);
            let Pair { high, low } = Pair::new(&[weight]);
            assert_eq!((i32::from(high as i16) << LOW_BITS) + low, weight);
        }
    }

    /// Compares both passes with the portable loops.
    fn compare(rng: &mut Rng, [width, height]: [usize; 2], view: [f32; 4], new: [usize; 2]) {
        // Mostly noise, then mostly black and white, where the filter overshoots.
        for share in [16, 240] {
            let mut value = || {
                let drawn = rng.below(256) as u8;
                match rng.below(256) < share {
                    true => 255 * (drawn & 1),
                    false => drawn,
                }
            };
            let source: Vec<u8> = (0..width * height * 3).map(|_| value()).collect();
            let [left, right, top, bottom] = view;
            let [new_width, new_height] = new;
            let columns = Axis::new(width, [left, right], new_width, 0..new_width);
            let rows = Axis::new(height, [top, bottom], new_height, 0..new_height);
            let used = rows.source();
            let pass = Pass {
                source: &source[used.start * width * 3..used.end * width * 3],
                width,
                columns: &columns,
                rows: &rows,
                first_row: used.start,
            };
            let mut portable = vec![0; new_width * new_height * 3];
            let mut fast = portable.clone();
            pass.run(&mut Vec::new(), &mut Vec::new(), &mut portable);
            assert!(run(
                &pass,
                &mut Scratch::default(),
                &mut Vec::new(),
                &mut fast
            ));
            assert!(portable == fast, "{width} x {height}, {view:?} to {new:?}");
        }
    }

    #[test]
    fn avx2_equals_portable_loops() {
        if !is_x86_feature_detected!("avx2") {
            util::skip::skip(util::skip::Missing::Platform, "no AVX2");
            return;
        }
        let mut rng = Rng::new(17, &[]);
        for (size, view, new) in [
            ([480, 360], [0.0, 480.0, 0.0, 360.0], [341, 256]),
            ([1280, 720], [0.0, 1280.0, 0.0, 720.0], [455, 256]),
            ([455, 256], [33.3, 311.7, 12.5, 200.0], [224, 224]),
            ([3, 2], [0.0, 3.0, 0.0, 2.0], [17, 13]),
            ([1, 1], [0.0, 1.0, 0.0, 1.0], [5, 1]),
            ([700, 9], [0.0, 700.0, 0.0, 9.0], [7, 3]),
            ([64, 64], [0.0, 64.0, 0.0, 64.0], [64, 64]),
        ] {
            compare(&mut rng, size, view, new);
        }
        for _ in 0..60 {
            let mut side = || 1 + rng.below(150) as usize;
            let (size, new) = ([side(), side()], [side(), side()]);
            let mut part = |side: usize| {
                let start = rng.uniform() * side as f64;
                let end = start + rng.uniform() * (side as f64 - start);
                // At least a hundredth of a pixel.
                [
                    start as f32,
                    (end as f32).max(start as f32 + 0.01).min(side as f32),
                ]
            };
            let ([left, right], [top, bottom]) = (part(size[0]), part(size[1]));
            compare(&mut rng, size, [left, right, top, bottom], new);
        }
    }
}
