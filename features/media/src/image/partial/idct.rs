//! From the dequantized coefficients of blocks to RGB, bit for bit as libjpeg-turbo's `islow`
//! method (`jidctint.c`, `jdcolor.c`): the IDCT (ITU-T T.81, A.3.3), then JFIF's colour conversion.
//!
//! With AVX2 sixteen values at a time; a test compares that with the portable loops.
//!
//! The transform is that of Loeffler, Ligtenberg and Moschytz (1989) in libjpeg's fixed point: 13
//! bits for the constants, 2 fractional bits between columns and rows. All additions are exact, so
//! libjpeg's rotations can be multiplied out into sums of products, in any order: here each sum is
//! two products of pairs, which is one instruction.
//!
//! `unsafe` is loads and stores inside arrays of known size, and calls by processor level.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::tables::{Coefficients, storage_index};

/// Returns a constant in libjpeg's fixed point: 13 bits.
const fn fixed(x: f64) -> i32 {
    (x * 8192.0 + 0.5) as i32
}

// The constants of `jidctint.c`, where cK is cos(K pi / 16).
/// sqrt(2) c3.
const SQRT2_C3: i32 = fixed(1.175_875_602);
/// sqrt(2) (c3 - c7).
const SQRT2_C3_C7: i32 = fixed(0.899_976_223);
/// sqrt(2) (c1 + c3).
const SQRT2_C1_C3: i32 = fixed(2.562_915_447);
/// -sqrt(2) c5, as sqrt(2) c3 - sqrt(2) (c3 + c5).
const NEG_SQRT2_C5: i32 = SQRT2_C3 - fixed(1.961_570_56);
/// sqrt(2) c5, as sqrt(2) c3 - sqrt(2) (c3 - c5).
const SQRT2_C5: i32 = SQRT2_C3 - fixed(0.390_180_644);
/// sqrt(2) c6.
const SQRT2_C6: i32 = fixed(0.541_196_1);

/// The odd part of the transform: four outputs by coefficients 1, 3, 5 and 7. Up to rounding it is
/// sqrt(2) times
///
/// ```text
/// c1  c3  c5  c7
/// c3 -c7 -c1 -c5
/// c5 -c1  c7  c3
/// c7 -c5  c3 -c1
/// ```
const ODD: [[i32; 4]; 4] = [
    [
        fixed(1.501_321_11) - SQRT2_C3_C7 + SQRT2_C5,
        SQRT2_C3,
        SQRT2_C5,
        SQRT2_C3 - SQRT2_C3_C7,
    ],
    [
        SQRT2_C3,
        fixed(3.072_711_026) - SQRT2_C1_C3 + NEG_SQRT2_C5,
        SQRT2_C3 - SQRT2_C1_C3,
        NEG_SQRT2_C5,
    ],
    [
        SQRT2_C5,
        SQRT2_C3 - SQRT2_C1_C3,
        fixed(2.053_119_869) - SQRT2_C1_C3 + SQRT2_C5,
        SQRT2_C3,
    ],
    [
        SQRT2_C3 - SQRT2_C3_C7,
        NEG_SQRT2_C5,
        SQRT2_C3,
        fixed(0.298_631_336) - SQRT2_C3_C7 + NEG_SQRT2_C5,
    ],
];

/// The even part: two outputs by coefficients 2 and 6. Up to rounding it is sqrt(2) times
/// `[[c2, c6], [c6, -c2]]`.
const EVEN: [[i32; 2]; 2] = [
    [SQRT2_C6 + fixed(0.765_366_865), SQRT2_C6],
    [SQRT2_C6, SQRT2_C6 - fixed(1.847_759_065)],
];

/// The level of functions that use no vector instructions.
pub(super) const PORTABLE: u8 = 0;
/// The level of functions that are called where the processor has AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX2: u8 = 1;

/// A block of pixels: eight rows of eight packed RGB pixels.
pub(super) type RgbBlock = [[u8; 24]; 8];

/// The fractional bits that a sum loses after the columns, and after the rows.
const SHIFTS: [i32; 2] = [11, 18];

/// Returns the pixels of blocks of Y, Cb and Cr. With a `LEVEL` other than [`PORTABLE`] the caller
/// must be compiled for it.
#[inline(always)]
pub(super) fn rgb_block<const LEVEL: u8>(blocks: &[Coefficients; 3]) -> RgbBlock {
    #[cfg(target_arch = "x86_64")]
    if LEVEL != PORTABLE {
        // SAFETY: the caller's level says that the processor has AVX2.
        return unsafe { avx2::rgb_block(blocks) };
    }
    let planes = blocks.each_ref().map(idct);
    std::array::from_fn(|row| {
        let mut pixels = [0; 24];
        for (column, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let ycc = std::array::from_fn(|component| planes[component][column][row]);
            *pixel = ycc_to_rgb(ycc).map(|value| value as u8);
        }
        pixels
    })
}

/// Returns the samples of a block, 0..=255, column by column.
fn idct(block: &Coefficients) -> [[i32; 8]; 8] {
    let mut columns = [[0; 8]; 8];
    for (c, column) in columns.iter_mut().enumerate() {
        let values = std::array::from_fn(|r| block[storage_index(r, c)].into());
        // The 16 bits that the vectors keep; valid files need no more.
        *column = idct_1d(values, SHIFTS[0]).map(|x| x.clamp(i16::MIN.into(), i16::MAX.into()));
    }
    let mut out = [[0; 8]; 8];
    for row in 0..8 {
        let values = std::array::from_fn(|c| columns[c][row]);
        for (column, value) in out.iter_mut().zip(idct_1d(values, SHIFTS[1])) {
            column[row] = (value + 128).clamp(0, 255);
        }
    }
    out
}

/// Converts a pixel from YCbCr to RGB, as JFIF defines it, in libjpeg's fixed point of 16 bits. All
/// values are in 0..=255.
#[inline(always)]
fn ycc_to_rgb([y, cb, cr]: [i32; 3]) -> [i32; 3] {
    const fn fixed(x: f64) -> i32 {
        (x * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    let (cb, cr) = (cb - 128, cr - 128);
    [
        y + ((fixed(1.402) * cr + HALF) >> 16),
        y + ((HALF - fixed(0.34414) * cb - fixed(0.71414) * cr) >> 16),
        y + ((fixed(1.772) * cb + HALF) >> 16),
    ]
    .map(|value| value.clamp(0, 255))
}

/// Returns the IDCT of eight values of 16 bits; no sum exceeds 32 bits. The results lose `shift`
/// fractional bits.
fn idct_1d(x: [i32; 8], shift: i32) -> [i32; 8] {
    let [sum, difference] = [(x[0] + x[4]) << 13, (x[0] - x[4]) << 13];
    let [outer, inner] = EVEN.map(|[a, b]| a * x[2] + b * x[6]);
    let even = [
        sum + outer,
        difference + inner,
        difference - inner,
        sum - outer,
    ];
    let odd = ODD.map(|[a, b, c, d]| a * x[1] + b * x[3] + c * x[5] + d * x[7]);
    std::array::from_fn(|i| {
        let value = match i {
            0..4 => even[i] + odd[i],
            _ => even[7 - i] - odd[7 - i],
        };
        (value + (1 << (shift - 1))) >> shift
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn rgb_block(blocks: &[Coefficients; 3]) -> RgbBlock {
        let y = idct(&blocks[0]);
        let (cb, cr) = (idct(&blocks[1]), idct(&blocks[2]));
        // For each column c its pixels, four bytes each (R, G, B, 0): of rows 0 to 3, then of rows
        // 4 to 7. The same for column c + 4.
        let mut left = [_mm256_setzero_si256(); 4];
        let mut right = left;
        for c in 0..4 {
            let [r, g, b] = ycc_to_rgb(y[c], cb[c], cr[c]);
            let rg = _mm256_or_si256(r, _mm256_slli_epi16::<8>(g));
            left[c] = _mm256_unpacklo_epi16(rg, b);
            right[c] = _mm256_unpackhi_epi16(rg, b);
        }
        let (left, right) = (transpose(left), transpose(right));
        let drop_fourth = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
        ));
        let mut out: RgbBlock = [[0; 24]; 8];
        for r in 0..4 {
            // Rows r and r + 4, one in each 128-bit lane: twelve bytes of each half.
            let left = _mm256_shuffle_epi8(left[r], drop_fourth);
            let right = _mm256_shuffle_epi8(right[r], drop_fourth);
            let first = _mm256_or_si256(left, _mm256_slli_si256::<12>(right));
            let last = _mm256_srli_si256::<4>(right);
            store(
                &mut out[r],
                _mm256_castsi256_si128(first),
                _mm256_castsi256_si128(last),
            );
            let (first, last) = (
                _mm256_extracti128_si256::<1>(first),
                _mm256_extracti128_si256::<1>(last),
            );
            store(&mut out[r + 4], first, last);
        }
        out
    }

    /// Stores the first 16 bytes and the last 8 of a row.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn store(to: &mut [u8; 24], first: __m128i, last: __m128i) {
        // SAFETY: 16 bytes and 8 bytes of an array of 24.
        unsafe {
            _mm_storeu_si128(to.as_mut_ptr().cast(), first);
            _mm_storel_epi64(to.as_mut_ptr().add(16).cast(), last);
        }
    }

    /// Transposes the 4 x 4 words of 32 bits in each 128-bit lane.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn transpose([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        let (ab, more_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd, more_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(more_ab, more_cd),
            _mm256_unpackhi_epi64(more_ab, more_cd),
        ]
    }

    /// Computes [`super::ycc_to_rgb`] in 16 bits: a constant beyond them is a whole number, which
    /// is added, and a fraction.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn ycc_to_rgb(y: __m256i, cb: __m256i, cr: __m256i) -> [__m256i; 3] {
        let offset = _mm256_set1_epi16(128);
        let (cb, cr) = (_mm256_sub_epi16(cb, offset), _mm256_sub_epi16(cr, offset));
        // The upper 16 bits of a product, rounded.
        let fraction = |x: __m256i, constant: i16| {
            let constant = _mm256_set1_epi16(constant);
            let upper = _mm256_mulhi_epi16(x, constant);
            _mm256_add_epi16(
                upper,
                _mm256_srli_epi16::<15>(_mm256_mullo_epi16(x, constant)),
            )
        };
        // 1.402 is 1 + 26345 / 2^16, 1.772 is 2 - 14942 / 2^16, -0.71414 is -1 + 18734 / 2^16.
        let r = _mm256_add_epi16(_mm256_add_epi16(y, cr), fraction(cr, 26_345));
        let b = _mm256_add_epi16(
            _mm256_add_epi16(y, _mm256_slli_epi16::<1>(cb)),
            fraction(cb, -14_942),
        );
        let sum_of_pairs = |pairs: __m256i| {
            let sum = _mm256_madd_epi16(pairs, pair((-22_554, 18_734)));
            _mm256_srai_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 15)))
        };
        let low = sum_of_pairs(_mm256_unpacklo_epi16(cb, cr));
        let high = sum_of_pairs(_mm256_unpackhi_epi16(cb, cr));
        let sum = _mm256_packs_epi32(low, high);
        let g = _mm256_add_epi16(_mm256_sub_epi16(y, cr), sum);
        [clamp(r), clamp(g), clamp(b)]
    }

    /// Limits values to 0..=255.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn clamp(x: __m256i) -> __m256i {
        let low = _mm256_max_epi16(x, _mm256_setzero_si256());
        _mm256_min_epi16(low, _mm256_set1_epi16(255))
    }

    /// Repeats a pair of numbers of 16 bits.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pair((a, b): (i32, i32)) -> __m256i {
        _mm256_set1_epi32(b << 16 | a & 0xFFFF)
    }

    /// Returns the samples of a block, 0..=255: for each column c, rows 0 to 3 of columns c and
    /// c + 4, then rows 4 to 7.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn idct(block: &Coefficients) -> [__m256i; 4] {
        let rows = block.as_chunks::<16>().0;
        // SAFETY: a chunk has the 32 bytes.
        let load = |i: usize| unsafe { _mm256_loadu_si256(rows[i].as_ptr().cast()) };
        let rows = idct_1d::<{ SHIFTS[0] }>([load(0), load(1), load(2), load(3)]);
        // Row r and row r + 4, side by side.
        let joined = |r: usize| {
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(rows[r], rows[r + 4]))
        };
        let [a, b, c, d] = [joined(0), joined(1), joined(2), joined(3)];
        let (ab, more_ab) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
        let (cd, more_cd) = (_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d));
        // Columns 0 and 1, 2 and 3, 4 and 5, 6 and 7.
        let columns = [
            _mm256_unpacklo_epi32(ab, cd),
            _mm256_unpackhi_epi32(ab, cd),
            _mm256_unpacklo_epi32(more_ab, more_cd),
            _mm256_unpackhi_epi32(more_ab, more_cd),
        ];
        let columns = idct_1d::<{ SHIFTS[1] }>([
            _mm256_unpacklo_epi16(columns[0], columns[2]),
            _mm256_unpackhi_epi16(columns[0], columns[2]),
            _mm256_unpacklo_epi16(columns[1], columns[3]),
            _mm256_unpackhi_epi16(columns[1], columns[3]),
        ]);
        let offset = _mm256_set1_epi16(128);
        let samples = |c: usize| {
            clamp(_mm256_adds_epi16(
                _mm256_packs_epi32(columns[c], columns[c + 4]),
                offset,
            ))
        };
        [samples(0), samples(1), samples(2), samples(3)]
    }

    /// Computes eight IDCTs side by side. `pairs[i]` holds the values i and i + 4 of each.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn idct_1d<const SHIFT: i32>(pairs: [__m256i; 4]) -> [__m256i; 8] {
        let products = |i: usize, a: i32, b: i32| _mm256_madd_epi16(pairs[i], pair((a, b)));
        let half = _mm256_set1_epi32(1 << (SHIFT - 1));
        let mut even = [half; 4];
        for (i, [a, b]) in EVEN.into_iter().enumerate() {
            // The sum of values 0 and 4, then their difference.
            let first = _mm256_add_epi32(products(0, 1 << 13, [1 << 13, -(1 << 13)][i]), half);
            let second = products(2, a, b);
            even[i] = _mm256_add_epi32(first, second);
            even[3 - i] = _mm256_sub_epi32(first, second);
        }
        let mut out = [half; 8];
        for (i, [a, b, c, d]) in ODD.into_iter().enumerate() {
            let odd = _mm256_add_epi32(products(1, a, c), products(3, b, d));
            out[i] = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(even[i], odd));
            out[7 - i] = _mm256_srai_epi32::<SHIFT>(_mm256_sub_epi32(even[i], odd));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use util::rng::Rng;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn avx2_equals_portable_loops() {
        if !is_x86_feature_detected!("avx2") {
            util::skip::skip(util::skip::Missing::Platform, "no AVX2");
            return;
        }
        let mut rng = Rng::new(3, &[]);
        for round in 0..20_000 {
            // From few and small coefficients, as images have them, to any, as damaged files have
            // them.
            let (share, bits) = (1 + round % 64, 1 + round / 64 % 16);
            let mut blocks = [[0; 64]; 3];
            for value in blocks.as_flattened_mut() {
                let drawn = (rng.below(1 << bits) as i32 - (1 << (bits - 1))) as i16;
                *value = if rng.below(64) < share { drawn } else { 0 };
            }
            let portable = rgb_block::<PORTABLE>(&blocks);
            assert!(portable == rgb_block::<{ AVX2 }>(&blocks), "{blocks:?}");
        }
    }
}
