//! Blocks of 8 x 8 values: what reading and writing JPEGs share (levels, order, constants), and what writing does with them
//! in the widest vectors of the machine.
//!
//! A compiler does not find the shuffles of a transpose, nor that an order is a permutation of vectors, so these two are
//! written out; tests hold them against the plain loops. The constant `LEVEL` says what the caller was compiled for:
//! [`PLAIN`], [`AVX2`] or [`AVX512`].

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// 8 x 8 values, row by row.
pub(super) type Block = [[i32; 8]; 8];

/// Where the coefficients of a block stand, in the order of the file.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A constant of the cosine transforms in libjpeg's fixed point: 13 bits.
pub(super) const fn fixed(x: f64) -> i32 {
    (x * 8192.0 + 0.5) as i32
}

/// No vectors.
pub(super) const PLAIN: u8 = 0;
/// AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX2: u8 = 1;
/// AVX-512 with words (F and BW), and AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX512: u8 = 2;

/// Rows become columns. With a `LEVEL` other than [`PLAIN`] the caller must be compiled for it.
#[inline(always)]
pub(super) fn transposed<const LEVEL: u8>(block: &Block) -> Block {
    #[cfg(target_arch = "x86_64")]
    if LEVEL != PLAIN {
        // SAFETY: the caller's level says that the processor has AVX2.
        return unsafe { transposed_avx2(block) };
    }
    let mut out: Block = [[0; 8]; 8];
    for (i, row) in out.iter_mut().enumerate() {
        for (j, value) in row.iter_mut().enumerate() {
            *value = block[j][i];
        }
    }
    out
}

/// The values, of 16 bits each, in the order of the file; bit `i` tells whether the `i`-th is not 0.
#[inline(always)]
pub(super) fn in_order<const LEVEL: u8>(block: &Block) -> ([i16; 64], u64) {
    #[cfg(target_arch = "x86_64")]
    if LEVEL == AVX512 {
        // SAFETY: the caller's level says that the processor has them.
        return unsafe { in_order_avx512(block) };
    }
    let (mut ordered, mut there) = ([0; 64], 0);
    for (i, (to, place)) in ordered.iter_mut().zip(ZIGZAG).enumerate() {
        *to = block.as_flattened()[usize::from(place)] as i16;
        there |= u64::from(*to != 0) << i;
    }
    (ordered, there)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn transposed_avx2(block: &Block) -> Block {
    // SAFETY: a row has the 32 bytes.
    let rows = block
        .each_ref()
        .map(|row| unsafe { _mm256_loadu_si256(row.as_ptr().cast()) });
    let pairs = |i: usize| {
        [
            _mm256_unpacklo_epi32(rows[i], rows[i + 1]),
            _mm256_unpackhi_epi32(rows[i], rows[i + 1]),
        ]
    };
    // Four rows at a time: columns 0 and 4, 1 and 5, 2 and 6, 3 and 7.
    let fours = |i: usize| {
        let ([a, b], [c, d]) = (pairs(i), pairs(i + 2));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    };
    let (upper, lower) = (fours(0), fours(4));
    let mut out: Block = [[0; 8]; 8];
    for i in 0..4 {
        let columns = [
            _mm256_permute2x128_si256::<0x20>(upper[i], lower[i]),
            _mm256_permute2x128_si256::<0x31>(upper[i], lower[i]),
        ];
        for (half, column) in columns.into_iter().enumerate() {
            // SAFETY: a row has the 32 bytes.
            unsafe { _mm256_storeu_si256(out[i + 4 * half].as_mut_ptr().cast(), column) };
        }
    }
    out
}

/// [`ZIGZAG`] in words.
#[cfg(target_arch = "x86_64")]
const ORDER: [i16; 64] = {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        order[i] = ZIGZAG[i] as i16;
        i += 1;
    }
    order
};

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn in_order_avx512(block: &Block) -> ([i16; 64], u64) {
    let mut ordered = [0; 64];
    // SAFETY: all loads and stores are of 64 bytes inside arrays of 256 and of 128.
    unsafe {
        let values = block.as_flattened().as_ptr();
        let words = |i: usize| _mm512_cvtepi32_epi16(_mm512_loadu_epi32(values.add(16 * i)));
        let joined =
            |i: usize| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(words(i)), words(i + 1));
        let (upper, lower) = (joined(0), joined(2));
        let mut there = 0;
        for half in 0..2 {
            let order = _mm512_loadu_epi16(ORDER.as_ptr().add(32 * half));
            let part = _mm512_permutex2var_epi16(upper, order, lower);
            _mm512_storeu_epi16(ordered.as_mut_ptr().add(32 * half), part);
            there |= u64::from(_mm512_test_epi16_mask(part, part)) << (32 * half);
        }
        (ordered, there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_equal_the_plain_loops() {
        let mut block: Block = [[0; 8]; 8];
        for (i, value) in block.as_flattened_mut().iter_mut().enumerate() {
            *value = if i % 3 == 0 {
                0
            } else {
                i as i32 * 500 - 16_000
            };
        }
        if is_x86_feature_detected!("avx2") {
            assert_eq!(transposed::<AVX2>(&block), transposed::<PLAIN>(&block));
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            assert_eq!(in_order::<AVX512>(&block), in_order::<PLAIN>(&block));
        }
    }
}
