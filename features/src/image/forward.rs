//! From pixels to the coefficients of a JPEG's blocks, bit for bit as the general encoder does: JFIF's colours, the
//! cosine transform, division by the steps. In AVX2 where there is, and then in 16 bits, two blocks side by side; a test
//! holds that against the plain loops.
//!
//! The transform is that of Loeffler, Ligtenberg and Moschytz (1989) in libjpeg's fixed point, [`super::inverse`] the
//! other way round. Division is by way of a reciprocal in 15 bits. No value leaves 16 bits: a first sum of eight samples
//! with 2 bits more has 13 bits, a second one 16.
//!
//! With AVX2 the general encoder rounds the even part of odd columns down instead of to the nearest, without AVX2 it does
//! not. Here it is as with AVX2 on every processor: the bytes that shards have had, the same wherever they are made.
//!
//! `unsafe` is loads and stores inside arrays of known size, and the calls by level.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::block::{AVX2, AVX512};
use super::block::{EVEN, ODD, PLAIN, ZIGZAG};

/// Eight rows of packed RGB: two blocks side by side.
type Lines<'a> = [&'a [u8; 48]; 8];

/// A block's coefficients by their steps, in the order of the file; bit `i` tells whether the `i`-th is not 0.
#[derive(Clone, Copy)]
pub(super) struct Quantised {
    pub values: [i16; 64],
    pub there: u64,
}

/// What coefficients are divided by, row by row.
pub(super) struct Divisors {
    /// Half the divisor or a little more.
    corrections: [i16; 64],
    /// 2^16 by the divisor, rounded in 15 bits.
    reciprocals: [i16; 64],
}

impl Divisors {
    /// Of steps in the order of the file.
    pub fn new(steps: &[u8; 64]) -> Divisors {
        let (mut corrections, mut reciprocals) = ([0; 64], [0; 64]);
        for (step, place) in steps.iter().zip(ZIGZAG) {
            // The transform's values are 8 times too large. A step of 0, which no file of ours has, would be one of 1.
            let divisor = 8 * i16::from(*step).max(1);
            // 2^15 is one too many for 16 bits; a divisor of 8 at least leaves 12.
            let by = |x: i32| (x / i32::from(divisor), x % i32::from(divisor));
            let (reciprocal, rest) = by(1 << 15);
            let (mut reciprocal, rest) = (reciprocal as i16, rest as i16);
            let mut correction = divisor / 2;
            match rest {
                0 => {}
                rest if rest <= correction => correction += 1,
                _ => reciprocal += 1,
            }
            corrections[usize::from(place)] = correction;
            reciprocals[usize::from(place)] = 2 * reciprocal;
        }
        Divisors {
            corrections,
            reciprocals,
        }
    }
}

/// Y, Cb and Cr of two blocks side by side.
type Pair = [[Quantised; 3]; 2];

/// The blocks of 8 rows of pictures of one size.
pub(super) struct Row {
    pairs: Vec<Pair>,
    blocks: usize,
}

impl Row {
    /// For so many pixels.
    pub fn new(width: usize) -> Row {
        let empty = Quantised {
            values: [0; 64],
            there: 0,
        };
        Row {
            pairs: vec![[[empty; 3]; 2]; width.div_ceil(16)],
            blocks: width.div_ceil(8),
        }
    }

    /// Y, Cb and Cr of each block.
    pub fn blocks(&self) -> &[[Quantised; 3]] {
        &self.pairs.as_flattened()[..self.blocks]
    }

    /// Of 8 rows of packed RGB; the last column goes on beyond the picture.
    pub fn fill(&mut self, lines: [&[u8]; 8], divisors: [&Divisors; 3]) {
        #[cfg(target_arch = "x86_64")]
        {
            if crate::cpu::has_avx512() {
                return self.fill_at::<AVX512>(lines, divisors);
            }
            if is_x86_feature_detected!("avx2") {
                return self.fill_at::<AVX2>(lines, divisors);
            }
        }
        self.fill_at::<PLAIN>(lines, divisors);
    }

    /// With a `LEVEL` that the processor has.
    fn fill_at<const LEVEL: u8>(&mut self, lines: [&[u8]; 8], divisors: [&Divisors; 3]) {
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            let parts = lines.map(|line| &line[48 * i..]);
            if parts[0].len() < 48 {
                quantise::<LEVEL>(&parts.map(continued).each_ref(), divisors, pair);
            } else {
                // Just looked at.
                let lines = parts.map(|part| part.first_chunk().expect("48 bytes"));
                quantise::<LEVEL>(&lines, divisors, pair);
            }
        }
    }
}

/// Fewer than 16 pixels of a row, then the last one again.
fn continued(part: &[u8]) -> [u8; 48] {
    let mut line = [0; 48];
    let last = part.len() - 3;
    for (i, pixel) in line.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        pixel.copy_from_slice(&part[last.min(3 * i)..][..3]);
    }
    line
}

/// With a `LEVEL` that the processor has.
fn quantise<const LEVEL: u8>(lines: &Lines, divisors: [&Divisors; 3], to: &mut Pair) {
    #[cfg(target_arch = "x86_64")]
    if LEVEL != PLAIN {
        // SAFETY: the level says what the processor has.
        return unsafe {
            match LEVEL {
                AVX512 => avx2::quantise_avx512(lines, divisors, to),
                _ => avx2::quantise::<AVX2>(lines, divisors, to),
            }
        };
    }
    for (side, to) in to.iter_mut().enumerate() {
        let mut planes: [Block; 3] = [[[0; 8]; 8]; 3];
        for (row, line) in lines.iter().enumerate() {
            for (i, pixel) in line.as_chunks::<3>().0[8 * side..][..8].iter().enumerate() {
                for (plane, value) in planes.iter_mut().zip(ycc_of_rgb(pixel.map(i32::from))) {
                    plane[row][i] = value;
                }
            }
        }
        for ((plane, divisors), to) in planes.iter().zip(divisors).zip(to) {
            let rows = transposed(&one_way::<true>(&transposed(plane)));
            let block = one_way::<false>(&rows);
            let mut quotients = [0; 64];
            for (i, quotient) in quotients.iter_mut().enumerate() {
                let value = block[i / 8][i % 8];
                let sum = value.abs() + i32::from(divisors.corrections[i]);
                let size = (sum * i32::from(divisors.reciprocals[i])) >> 16;
                *quotient = (size * value.signum()) as i16;
            }
            to.order(&quotients);
        }
    }
}

/// 8 x 8 values, row by row.
type Block = [[i32; 8]; 8];

fn transposed(block: &Block) -> Block {
    std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
}

/// JFIF's colours, less 128, in 16 bits.
fn ycc_of_rgb([r, g, b]: [i32; 3]) -> [i32; 3] {
    const HALF: i32 = 0x7FFF;
    [
        ((19_595 * r + 38_470 * g + 7471 * b + HALF) >> 16) - 128,
        (-11_059 * r - 21_709 * g + 32_768 * b + HALF) >> 16,
        (32_768 * r - 27_439 * g - 5329 * b + HALF) >> 16,
    ]
}

/// Bits that a sum of products loses in the first direction, in which 2 bits more come out, and in the second.
const SHIFTS: [i32; 2] = [11, 15];

/// What is added to the even part's values of 8 columns before the 2 bits go.
const HALVES: [i16; 8] = [2, 0, 2, 0, 2, 0, 2, 0];

/// Eight one-dimensional transforms side by side, 8 times too large after both directions.
fn one_way<const FIRST: bool>(rows: &Block) -> Block {
    let shift = SHIFTS[usize::from(!FIRST)];
    let mut out: Block = [[0; 8]; 8];
    for lane in 0..8 {
        let x: [i32; 8] = std::array::from_fn(|i| rows[i][lane]);
        let sums: [i32; 4] = std::array::from_fn(|i| x[i] + x[7 - i]);
        let differences: [i32; 4] = std::array::from_fn(|i| x[i] - x[7 - i]);
        let down = |x: i32| (x + (1 << (shift - 1))) >> shift;
        let whole = |x: i32| match FIRST {
            true => x << 2,
            false => (x + i32::from(HALVES[lane])) >> 2,
        };
        let (low, high) = (sums[0] + sums[3], sums[0] - sums[3]);
        let (inner, outer) = (sums[1] + sums[2], sums[1] - sums[2]);
        out[0][lane] = whole(low + inner);
        out[4][lane] = whole(low - inner);
        for (i, [a, b]) in EVEN.iter().enumerate() {
            out[2 + 4 * i][lane] = down(a * high + b * outer);
        }
        for (i, row) in ODD.iter().enumerate() {
            out[2 * i + 1][lane] = down(row.iter().zip(differences).map(|(a, x)| a * x).sum());
        }
    }
    out
}

impl Quantised {
    /// From row by row to the order of the file.
    fn order(&mut self, values: &[i16; 64]) {
        self.there = 0;
        for (i, (to, place)) in self.values.iter_mut().zip(ZIGZAG).enumerate() {
            *to = values[usize::from(place)];
            self.there |= u64::from(*to != 0) << i;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;

    /// The same with more registers, and the order by two permutations.
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub(super) fn quantise_avx512(lines: &Lines, divisors: [&Divisors; 3], to: &mut Pair) {
        quantise::<AVX512>(lines, divisors, to);
    }

    /// In each half of a vector of 16 numbers there is a row of one of the blocks.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn quantise<const LEVEL: u8>(
        lines: &Lines,
        divisors: [&Divisors; 3],
        [first, second]: &mut Pair,
    ) {
        let mut planes = [[_mm256_setzero_si256(); 8]; 3];
        for (row, line) in lines.iter().enumerate() {
            let [y, cb, cr] = colours(line);
            planes[0][row] = y;
            planes[1][row] = cb;
            planes[2][row] = cr;
        }
        for i in 0..3 {
            let rows = one_way::<true, { SHIFTS[0] }>(transposed(planes[i]));
            let rows = one_way::<false, { SHIFTS[1] }>(transposed(rows));
            let rows = quotients(rows, divisors[i]);
            let to = [&mut first[i], &mut second[i]];
            match LEVEL {
                // SAFETY: the level says that the processor has them.
                AVX512 => unsafe { order_avx512(rows, to) },
                _ => order(rows, to),
            }
        }
    }

    /// [`ycc_of_rgb`] of sixteen pixels.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn colours(line: &[u8; 48]) -> [__m256i; 3] {
        // SAFETY: 16 bytes from 32 at most on, of 48.
        let load = |at: usize| unsafe { _mm_loadu_si128(line.as_ptr().add(at).cast()) };
        // Pixels 0 to 3 and 8 to 11; 4 to 7 and 12 to 15, of which the last begin 4 bytes late.
        let first = _mm256_set_m128i(load(24), load(0));
        let second = _mm256_set_m128i(load(32), load(12));
        let red_green = _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1);
        let green_blue = _mm_setr_epi8(1, -1, 2, -1, 4, -1, 5, -1, 7, -1, 8, -1, 10, -1, 11, -1);
        let late = |order: __m128i| _mm256_set_m128i(_mm_add_epi8(order, _mm_set1_epi16(4)), order);
        let pairs = |order: __m128i| {
            [
                _mm256_shuffle_epi8(first, _mm256_broadcastsi128_si256(order)),
                _mm256_shuffle_epi8(second, late(order)),
            ]
        };
        let (rg, gb) = (pairs(red_green), pairs(green_blue));
        // The second one's constants are negative: 32,768 is one too many for 16 bits, -32,768 is not.
        let plane = |plus: ([__m256i; 2], i32, i32), minus: ([__m256i; 2], i32, i32), middle| {
            let half = _mm256_set1_epi32(0x7FFF - (middle << 16));
            let value = |i: usize| {
                let times = |(pixels, a, b): ([__m256i; 2], i32, i32)| {
                    _mm256_madd_epi16(pixels[i], pair(a, b))
                };
                let sum = _mm256_sub_epi32(_mm256_add_epi32(times(plus), half), times(minus));
                _mm256_srai_epi32::<16>(sum)
            };
            _mm256_packs_epi32(value(0), value(1))
        };
        [
            // 38,470 is twice 19,235.
            plane((rg, 19_595, 19_235), (gb, -19_235, -7471), 128),
            plane((rg, -11_059, -21_709), (gb, 0, -32_768), 0),
            plane((gb, -27_439, -5329), (rg, -32_768, 0), 0),
        ]
    }

    /// Two numbers of 16 bits, again and again.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pair(a: i32, b: i32) -> __m256i {
        _mm256_set1_epi32(b << 16 | a & 0xFFFF)
    }

    /// In each half, rows become columns.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn transposed(rows: [__m256i; 8]) -> [__m256i; 8] {
        let pairs = |i: usize| {
            [
                _mm256_unpacklo_epi16(rows[i], rows[i + 1]),
                _mm256_unpackhi_epi16(rows[i], rows[i + 1]),
            ]
        };
        // Of four rows: columns 0 and 1, 2 and 3, 4 and 5, 6 and 7.
        let fours = |i: usize| {
            let ([a, b], [c, d]) = (pairs(i), pairs(i + 2));
            [
                _mm256_unpacklo_epi32(a, c),
                _mm256_unpackhi_epi32(a, c),
                _mm256_unpacklo_epi32(b, d),
                _mm256_unpackhi_epi32(b, d),
            ]
        };
        let (upper, lower) = (fours(0), fours(4));
        let mut columns = rows;
        for i in 0..4 {
            columns[2 * i] = _mm256_unpacklo_epi64(upper[i], lower[i]);
            columns[2 * i + 1] = _mm256_unpackhi_epi64(upper[i], lower[i]);
        }
        columns
    }

    /// Sixteen one-dimensional transforms side by side.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn one_way<const FIRST: bool, const SHIFT: i32>(x: [__m256i; 8]) -> [__m256i; 8] {
        let sum = |i: usize| _mm256_add_epi16(x[i], x[7 - i]);
        let difference = |i: usize| _mm256_sub_epi16(x[i], x[7 - i]);
        // SAFETY: the 16 bytes.
        let halves = unsafe { _mm_loadu_si128(HALVES.as_ptr().cast()) };
        let halves = _mm256_broadcastsi128_si256(halves);
        let whole = |x: __m256i| match FIRST {
            true => _mm256_slli_epi16::<2>(x),
            false => _mm256_srai_epi16::<2>(_mm256_add_epi16(x, halves)),
        };
        let pairs =
            |a: __m256i, b: __m256i| [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
        let half = _mm256_set1_epi32(1 << (SHIFT - 1));
        let down = |sum: __m256i| _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(sum, half));

        let mut out = x;
        let (low, high) = (
            _mm256_add_epi16(sum(0), sum(3)),
            _mm256_sub_epi16(sum(0), sum(3)),
        );
        let (inner, outer) = (
            _mm256_add_epi16(sum(1), sum(2)),
            _mm256_sub_epi16(sum(1), sum(2)),
        );
        out[0] = whole(_mm256_add_epi16(low, inner));
        out[4] = whole(_mm256_sub_epi16(low, inner));
        let even = pairs(high, outer);
        for (i, [a, b]) in EVEN.into_iter().enumerate() {
            let value = |part: usize| down(_mm256_madd_epi16(even[part], pair(a, b)));
            out[2 + 4 * i] = _mm256_packs_epi32(value(0), value(1));
        }
        let first = pairs(difference(0), difference(1));
        let second = pairs(difference(2), difference(3));
        for (i, [a, b, c, d]) in ODD.into_iter().enumerate() {
            let value = |part: usize| {
                down(_mm256_add_epi32(
                    _mm256_madd_epi16(first[part], pair(a, b)),
                    _mm256_madd_epi16(second[part], pair(c, d)),
                ))
            };
            out[2 * i + 1] = _mm256_packs_epi32(value(0), value(1));
        }
        out
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn quotients(mut rows: [__m256i; 8], divisors: &Divisors) -> [__m256i; 8] {
        // Of both blocks' rows.
        let load = |of: &[i16; 64], i: usize| {
            let row = &of.as_chunks::<8>().0[i];
            // SAFETY: a chunk has the 16 bytes.
            _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
        };
        for (i, row) in rows.iter_mut().enumerate() {
            let sum = _mm256_add_epi16(_mm256_abs_epi16(*row), load(&divisors.corrections, i));
            let size = _mm256_mulhi_epi16(sum, load(&divisors.reciprocals, i));
            *row = _mm256_sign_epi16(size, *row);
        }
        rows
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn order(rows: [__m256i; 8], to: [&mut Quantised; 2]) {
        let mut blocks = [[0; 64]; 2];
        for (i, row) in rows.into_iter().enumerate() {
            let halves = [
                _mm256_castsi256_si128(row),
                _mm256_extracti128_si256::<1>(row),
            ];
            for (block, half) in blocks.iter_mut().zip(halves) {
                let to = &mut block.as_chunks_mut::<8>().0[i];
                // SAFETY: a chunk has the 16 bytes.
                unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), half) };
            }
        }
        for (block, to) in blocks.iter().zip(to) {
            to.order(block);
        }
    }

    /// [`ZIGZAG`] in words.
    const ORDER: [[i16; 32]; 2] = {
        let mut order = [[0; 32]; 2];
        let mut i = 0;
        while i < 64 {
            order[i / 32][i % 32] = ZIGZAG[i] as i16;
            i += 1;
        }
        order
    };

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn order_avx512(rows: [__m256i; 8], [first, second]: [&mut Quantised; 2]) {
        // Two rows of the first block, of the second one.
        let left = |i: usize| _mm256_permute2x128_si256::<0x20>(rows[i], rows[i + 1]);
        let right = |i: usize| _mm256_permute2x128_si256::<0x31>(rows[i], rows[i + 1]);
        let joined = |a: __m256i, b: __m256i| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
        let order = |upper: __m512i, lower: __m512i, to: &mut Quantised| {
            to.there = 0;
            let halves = to.values.as_chunks_mut::<32>().0;
            for (i, (to_half, order)) in halves.iter_mut().zip(&ORDER).enumerate() {
                // SAFETY: the 64 bytes of arrays of 32 numbers.
                unsafe {
                    let order = _mm512_loadu_epi16(order.as_ptr());
                    let part = _mm512_permutex2var_epi16(upper, order, lower);
                    _mm512_storeu_epi16(to_half.as_mut_ptr(), part);
                    to.there |= u64::from(_mm512_test_epi16_mask(part, part)) << (32 * i);
                }
            }
        };
        order(joined(left(0), left(2)), joined(left(4), left(6)), first);
        order(
            joined(right(0), right(2)),
            joined(right(4), right(6)),
            second,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_equal_the_plain_loops() {
        let wide = crate::cpu::has_avx512();
        if !is_x86_feature_detected!("avx2") {
            eprintln!("skipped: no AVX2");
            return;
        }
        let mut rng = Rng::new(5, &[]);
        for round in 0..5000 {
            // From noise to colours at their ends, which are what comes nearest to 16 bits.
            let ends = rng.below(256);
            let mut lines = [[0; 48]; 8];
            for value in lines.as_flattened_mut() {
                let drawn = rng.below(256) as u8;
                *value = match rng.below(256) < ends {
                    true => drawn,
                    false => 255 * (drawn & 1),
                };
            }
            if round < 64 {
                // One frequency at its largest, the sign of its cosine.
                let (u, v) = (f64::from(round / 8), f64::from(round % 8));
                for (row, line) in lines.iter_mut().enumerate() {
                    for (i, value) in line.iter_mut().enumerate() {
                        let cosine = |place: usize, of: f64| {
                            ((2 * place + 1) as f64 * of * std::f64::consts::PI / 16.0).cos()
                        };
                        let positive = cosine(row, v) * cosine(i / 3, u) >= 0.0;
                        *value = if positive != (i / 24 == 1) { 255 } else { 0 };
                    }
                }
            }
            let steps: [u8; 64] = std::array::from_fn(|_| match round % 3 {
                0 => 1,
                _ => 1 + rng.below(255) as u8,
            });
            let divisors = Divisors::new(&steps);
            let (lines, divisors) = (lines.each_ref(), [&divisors; 3]);
            let made = |quantise: fn(&Lines, [&Divisors; 3], &mut Pair)| {
                let mut row = Row::new(16);
                quantise(&lines, divisors, &mut row.pairs[0]);
                row.pairs[0]
            };
            let plain = made(quantise::<PLAIN>);
            let mut others = vec![made(quantise::<AVX2>)];
            if wide {
                others.push(made(quantise::<AVX512>));
            }
            for other in others {
                for (plain, other) in plain.as_flattened().iter().zip(other.as_flattened()) {
                    assert_eq!(plain.values, other.values, "round {round}");
                    assert_eq!(plain.there, other.there);
                }
            }
        }
    }
}
