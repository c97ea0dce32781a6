//! From the coefficients of blocks to RGB, bit for bit as libjpeg-turbo's `islow` method: the inverse cosine transform,
//! then JFIF's colour conversion. With AVX2 sixteen values at a time; a test compares that with the plain loops.
//!
//! The transform is that of Loeffler, Ligtenberg and Moschytz (1989) in libjpeg's fixed point: 13 bits for the constants,
//! 2 fractional bits between columns and rows. Its sums of products are sums over the values that come in, so they can
//! be formed in any order: here each is two products of pairs, which is one instruction.
//!
//! `unsafe` is loads and stores inside arrays of known size, and calls by processor level.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Natural order of coefficients (8 * row + column) by zig-zag index (T.81 figure 5).
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A constant of the cosine transform in libjpeg's fixed point: 13 bits.
const fn fixed(x: f64) -> i32 {
    (x * 8192.0 + 0.5) as i32
}

const C: i32 = fixed(1.175_875_602);
const C1: i32 = fixed(0.899_976_223);
const C2: i32 = fixed(2.562_915_447);
const C3: i32 = C - fixed(1.961_570_56);
const C4: i32 = C - fixed(0.390_180_644);
const E: i32 = fixed(0.541_196_1);

/// The odd part of the transform, from coefficients 1, 3, 5 and 7: libjpeg's rotations (`jidctint.c`) multiplied out.
const ODD: [[i32; 4]; 4] = [
    [fixed(1.501_321_11) - C1 + C4, C, C4, C - C1],
    [C, fixed(3.072_711_026) - C2 + C3, C - C2, C3],
    [C4, C - C2, fixed(2.053_119_869) - C2 + C4, C],
    [C - C1, C3, C, fixed(0.298_631_336) - C1 + C3],
];
/// The share of coefficients 2 and 6 in the even part.
const EVEN: [[i32; 2]; 2] = [[E + fixed(0.765_366_865), E], [E, E - fixed(1.847_759_065)]];

/// A function of this level uses no vector instructions.
pub(super) const PLAIN: u8 = 0;
/// A function of this level is called where the processor has AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX2: u8 = 1;

/// The 64 coefficients of a block times their step sizes, or the step sizes: row r, column c at
/// 16 (r mod 4) + 2 c + r div 4, so that rows r and r + 4 are pairs.
pub(super) type Coefficients = [i16; 64];

/// Eight rows of eight packed RGB pixels.
pub(super) type Pixels = [[u8; 24]; 8];

/// Index into [`Coefficients`] by zig-zag index.
pub(super) const NATURAL_ORDER: [u8; 64] = {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (row, column) = (ZIGZAG[i] / 8, ZIGZAG[i] % 8);
        order[i] = 16 * (row % 4) + 2 * column + row / 4;
        i += 1;
    }
    order
};

/// Bits that a sum loses after the first direction, and after the second.
const SHIFTS: [i32; 2] = [11, 18];

/// The pixels of blocks of Y, Cb and Cr. With a `LEVEL` other than [`PLAIN`] the caller must be compiled for it.
#[inline(always)]
pub(super) fn pixels<const LEVEL: u8>(blocks: &[Coefficients; 3]) -> Pixels {
    #[cfg(target_arch = "x86_64")]
    if LEVEL != PLAIN {
        // SAFETY: the caller's level says that the processor has AVX2.
        return unsafe { avx2::pixels(blocks) };
    }
    let planes = blocks.each_ref().map(samples);
    std::array::from_fn(|row| {
        let mut line = [0; 24];
        for (i, to) in line.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let ycc = std::array::from_fn(|channel| planes[channel][i][row]);
            *to = rgb_of_ycc(ycc).map(|value| value as u8);
        }
        line
    })
}

/// The samples of a block, 0..=255, column by column.
fn samples(block: &Coefficients) -> [[i32; 8]; 8] {
    let mut columns = [[0; 8]; 8];
    for (c, column) in columns.iter_mut().enumerate() {
        let values = std::array::from_fn(|r| block[16 * (r % 4) + 2 * c + r / 4].into());
        // As many bits as the vectors keep; valid files need no more.
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

/// JFIF's colours in the 16-bit fixed point that libjpeg has. All values in 0..=255.
#[inline(always)]
fn rgb_of_ycc([y, cb, cr]: [i32; 3]) -> [i32; 3] {
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

/// One transform of eight values of 16 bits; no sum leaves 32.
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
    pub(super) fn pixels(blocks: &[Coefficients; 3]) -> Pixels {
        let y = samples(&blocks[0]);
        let (cb, cr) = (samples(&blocks[1]), samples(&blocks[2]));
        // Per column c: its pixels' four bytes, of rows 0 to 3 and of 4 to 7; and those of column c + 4.
        let mut left = [_mm256_setzero_si256(); 4];
        let mut right = left;
        for c in 0..4 {
            let [r, g, b] = colours(y[c], cb[c], cr[c]);
            let rg = _mm256_or_si256(r, _mm256_slli_epi16::<8>(g));
            left[c] = _mm256_unpacklo_epi16(rg, b);
            right[c] = _mm256_unpackhi_epi16(rg, b);
        }
        let (left, right) = (four_by_four(left), four_by_four(right));
        let three = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
        ));
        let mut out: Pixels = [[0; 24]; 8];
        for r in 0..4 {
            // Rows r and r + 4, twelve bytes of each half.
            let left = _mm256_shuffle_epi8(left[r], three);
            let right = _mm256_shuffle_epi8(right[r], three);
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

    /// The first 16 bytes and the last 8.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn store(to: &mut [u8; 24], first: __m128i, last: __m128i) {
        // SAFETY: 16 bytes and 8 bytes of an array of 24.
        unsafe {
            _mm_storeu_si128(to.as_mut_ptr().cast(), first);
            _mm_storel_epi64(to.as_mut_ptr().add(16).cast(), last);
        }
    }

    /// In each half, four rows of four words of 32 bits become columns.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn four_by_four([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        let (ab, more_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd, more_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(more_ab, more_cd),
            _mm256_unpackhi_epi64(more_ab, more_cd),
        ]
    }

    /// [`rgb_of_ycc`] in 16 bits: what a constant has beyond 16 is added as a whole.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn colours(y: __m256i, cb: __m256i, cr: __m256i) -> [__m256i; 3] {
        let middle = _mm256_set1_epi16(128);
        let (cb, cr) = (_mm256_sub_epi16(cb, middle), _mm256_sub_epi16(cr, middle));
        // The upper 16 bits of a product, rounded.
        let part = |x: __m256i, constant: i16| {
            let constant = _mm256_set1_epi16(constant);
            let upper = _mm256_mulhi_epi16(x, constant);
            _mm256_add_epi16(
                upper,
                _mm256_srli_epi16::<15>(_mm256_mullo_epi16(x, constant)),
            )
        };
        // 1.402 is 1 + 26345 / 2^16, 1.772 is 2 - 14942 / 2^16, -0.71414 is -1 + 18734 / 2^16.
        let r = _mm256_add_epi16(_mm256_add_epi16(y, cr), part(cr, 26_345));
        let b = _mm256_add_epi16(
            _mm256_add_epi16(y, _mm256_slli_epi16::<1>(cb)),
            part(cb, -14_942),
        );
        let both = |pairs: __m256i| {
            let sum = _mm256_madd_epi16(pairs, pair((-22_554, 18_734)));
            _mm256_srai_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 15)))
        };
        let low = both(_mm256_unpacklo_epi16(cb, cr));
        let part = _mm256_packs_epi32(low, both(_mm256_unpackhi_epi16(cb, cr)));
        let g = _mm256_add_epi16(_mm256_sub_epi16(y, cr), part);
        [byte(r), byte(g), byte(b)]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn byte(x: __m256i) -> __m256i {
        let low = _mm256_max_epi16(x, _mm256_setzero_si256());
        _mm256_min_epi16(low, _mm256_set1_epi16(255))
    }

    /// Two numbers of 16 bits, again and again.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pair((a, b): (i32, i32)) -> __m256i {
        _mm256_set1_epi32(b << 16 | a & 0xFFFF)
    }

    /// The samples of a block, 0..=255: per column c, rows 0 to 3 of columns c and c + 4, then rows 4 to 7.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn samples(block: &Coefficients) -> [__m256i; 4] {
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
        let middle = _mm256_set1_epi16(128);
        let level = |c: usize| {
            byte(_mm256_adds_epi16(
                _mm256_packs_epi32(columns[c], columns[c + 4]),
                middle,
            ))
        };
        [level(0), level(1), level(2), level(3)]
    }

    /// Eight transforms side by side, of pairs of values i and i + 4.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn idct_1d<const SHIFT: i32>(pairs: [__m256i; 4]) -> [__m256i; 8] {
        let times = |i: usize, a: i32, b: i32| _mm256_madd_epi16(pairs[i], pair((a, b)));
        let half = _mm256_set1_epi32(1 << (SHIFT - 1));
        let mut even = [half; 4];
        for (i, [a, b]) in EVEN.into_iter().enumerate() {
            // The sum of values 0 and 4, then their difference.
            let first = _mm256_add_epi32(times(0, 1 << 13, [1 << 13, -(1 << 13)][i]), half);
            let second = times(2, a, b);
            even[i] = _mm256_add_epi32(first, second);
            even[3 - i] = _mm256_sub_epi32(first, second);
        }
        let mut out = [half; 8];
        for (i, [a, b, c, d]) in ODD.into_iter().enumerate() {
            let odd = _mm256_add_epi32(times(1, a, c), times(3, b, d));
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
    fn vectors_equal_the_plain_loops() {
        if !is_x86_feature_detected!("avx2") {
            util::skip::skip(util::skip::Missing::Platform, "no AVX2");
            return;
        }
        let mut rng = Rng::new(3, &[]);
        for round in 0..20_000 {
            // Few and small ones, as images have them, up to any, as damaged files have them.
            let (share, bits) = (1 + round % 64, 1 + round / 64 % 16);
            let mut blocks = [[0; 64]; 3];
            for value in blocks.as_flattened_mut() {
                let drawn = (rng.below(1 << bits) as i32 - (1 << (bits - 1))) as i16;
                *value = if rng.below(64) < share { drawn } else { 0 };
            }
            let plain = pixels::<PLAIN>(&blocks);
            assert!(plain == pixels::<{ AVX2 }>(&blocks), "{blocks:?}");
        }
    }
}
