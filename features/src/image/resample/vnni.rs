//! The two passes of [`super::Pass`] in AVX-512 with byte dot products (VNNI): the same integers, ten times as fast as what
//! the compiler makes of the plain loops, which multiply 32-bit numbers one weight at a time.
//!
//! A weight of 24 bits is three signed digits of 8: w = 65536 a + 256 b + c. One instruction multiplies four bytes of the
//! picture with four such digits and adds them up, so a sum takes three of them for every four source pixels. All sums
//! are exact modulo 2^32, and the plain loops never leave 32 bits.
//!
//! `unsafe` is the loads and stores, each through a reference to as many bytes as it touches, and a call by the
//! processor's abilities.

use std::arch::x86_64::*;

use super::{Axis, BITS, HALF, Pass};

/// Source pixels per dot product.
const TAPS: usize = 4;
/// Rows that the first pass takes at once, so that weights are loaded once for all of them.
const ROWS: usize = 4;
/// Result pixels that the first pass makes at once: one in each 128 bits of a vector.
const PIXELS: usize = 4;

/// Whether this processor can.
pub(super) fn is_available() -> bool {
    crate::cpu::has_avx512() && is_x86_feature_detected!("avx512vnni")
}

/// Buffers that are kept from picture to picture.
#[derive(Default)]
pub(super) struct Scratch {
    columns: Blocks,
    /// [`ROWS`] rows of the picture, each followed by what a load may touch beyond it.
    rows: Vec<u8>,
    /// What the second pass multiplies four rows with.
    fours: Vec<Four>,
}

/// Four weights, by digit.
type Four = [i32; 3];

/// What the first pass needs of [`PIXELS`] result pixels at a time.
#[derive(Default)]
struct Blocks {
    /// Per block, where in a row its pixels' windows begin, in bytes.
    starts: Vec<[usize; PIXELS]>,
    /// Per block, where [`TAPS`] source pixels of each of its pixels lie in what begins with the first one's.
    places: Vec<[u8; 64]>,
    /// Whether these places are all within 64 bytes.
    are_near: bool,
    /// Per block and group of [`TAPS`] weights: the three digits, as they are laid against the picture.
    weights: Vec<[[i8; 64]; 3]>,
    groups: usize,
}

/// The digits of a weight: a, b, c.
fn digits(weight: i32) -> [i8; 3] {
    let c = weight as i8;
    let rest = (weight - i32::from(c)) >> 8;
    let b = rest as i8;
    [((rest - i32::from(b)) >> 8) as i8, b, c]
}

/// The digits of four weights, by digit; 0 for those that are not there.
fn group(weights: &[i32], number: usize) -> [[i8; TAPS]; 3] {
    let mut out = [[0; TAPS]; 3];
    for (tap, weight) in weights.iter().skip(number * TAPS).take(TAPS).enumerate() {
        for (out, digit) in out.iter_mut().zip(digits(*weight)) {
            out[tap] = digit;
        }
    }
    out
}

fn groups(axis: &Axis) -> usize {
    let longest = axis.windows.iter().map(|(_, count)| *count).max();
    longest.unwrap_or(0).div_ceil(TAPS)
}

impl Blocks {
    fn fill(&mut self, axis: &Axis) {
        self.groups = groups(axis);
        self.starts.clear();
        self.places.clear();
        self.weights.clear();
        self.are_near = true;
        let windows: Vec<(usize, &[i32])> = axis.windows().collect();
        for block in windows.chunks(PIXELS) {
            let mut starts = [0; PIXELS];
            // Pixels that are not there look where the last one does.
            let windows = block.iter().chain(block.last().into_iter().cycle());
            for (start, (first, _)) in starts.iter_mut().zip(windows) {
                *start = 3 * first;
            }
            self.starts.push(starts);
            let ahead = starts.map(|start| start - starts[0]);
            self.are_near &= ahead[PIXELS - 1] + 3 * TAPS <= 64;
            self.places.push(std::array::from_fn(|i| {
                // Reds, greens, blues and nothing, of which the weights' sums are not used.
                let (pixel, channel, tap) = (i / 16, i / 4 % 4 % 3, i % 4);
                (ahead[pixel] + 3 * tap + channel) as u8
            }));
            for number in 0..self.groups {
                let mut weights = [[0; 64]; 3];
                for (pixel, (_, own)) in block.iter().enumerate() {
                    for (weights, own) in weights.iter_mut().zip(group(own, number)) {
                        // The same for red, green, blue and nothing.
                        let place = &mut weights[16 * pixel..16 * (pixel + 1)];
                        place.copy_from_slice([own; 4].as_flattened());
                    }
                }
                self.weights.push(weights);
            }
        }
    }
}

/// # Safety
/// The processor [can](is_available).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run(pass: &Pass, scratch: &mut Scratch, narrowed: &mut [u8], out: &mut [u8]) {
    let Scratch {
        columns,
        rows,
        fours,
    } = scratch;
    columns.fill(pass.columns);
    let row = 3 * pass.width;
    let new_row = 3 * pass.columns.len();
    // The last pixel's window and one load.
    let padded = row + 3 * TAPS * columns.groups + 64;
    rows.clear();
    rows.resize(ROWS * padded, 0);
    let blocks = pass.source.chunks(ROWS * row);
    for (source, to) in blocks.zip(narrowed.chunks_mut(ROWS * new_row)) {
        for (source, copy) in source.chunks_exact(row).zip(rows.chunks_exact_mut(padded)) {
            copy[..row].copy_from_slice(source);
        }
        match columns.are_near && is_x86_feature_detected!("avx512vbmi") {
            // SAFETY: the processor has VBMI.
            true => unsafe { across_near(columns, rows, padded, to, new_row) },
            false => across_far(columns, rows, padded, to, new_row),
        }
    }
    for ((first, weights), to) in pass.rows.windows().zip(out.chunks_exact_mut(new_row)) {
        let rows = &narrowed[(first - pass.first_row) * new_row..];
        let four = |number: usize| {
            group(weights, number).map(|four| i32::from_le_bytes(four.map(|digit| digit as u8)))
        };
        fours.clear();
        fours.extend((0..weights.len().div_ceil(TAPS)).map(four));
        down(rows, new_row, weights.len(), fours, to);
    }
}

/// The first pass over [`ROWS`] rows; fewer come out where `to` has fewer. A block's source pixels are one load.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn across_near(blocks: &Blocks, rows: &[u8], padded: usize, to: &mut [u8], new_row: usize) {
    across(blocks, rows, padded, to, new_row, |row, number, group| {
        let bytes = &row[blocks.starts[number][0] + 3 * TAPS * group..][..64];
        let places = load_places(&blocks.places[number]);
        _mm512_permutexvar_epi8(places, load64(bytes))
    });
}

/// The same where they are farther apart, or the processor cannot.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn across_far(blocks: &Blocks, rows: &[u8], padded: usize, to: &mut [u8], new_row: usize) {
    // Four pixels' reds, greens and blues side by side.
    let gather = broadcast([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1]);
    across(blocks, rows, padded, to, new_row, |row, number, group| {
        let starts = blocks.starts[number];
        let at = |pixel: usize| load16(&row[starts[pixel] + 3 * TAPS * group..]);
        let four = _mm512_castsi128_si512(at(0));
        let four = _mm512_inserti32x4::<1>(four, at(1));
        let four = _mm512_inserti32x4::<2>(four, at(2));
        let four = _mm512_inserti32x4::<3>(four, at(3));
        _mm512_shuffle_epi8(four, gather)
    });
}

/// With the bytes of a row that a block's pixels take for a group of weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn across(
    blocks: &Blocks,
    rows: &[u8],
    padded: usize,
    to: &mut [u8],
    new_row: usize,
    bytes_of: impl Fn(&[u8], usize, usize) -> __m512i,
) {
    let pack = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    let rows: [&[u8]; ROWS] = std::array::from_fn(|row| &rows[row * padded..(row + 1) * padded]);
    let weights = blocks.weights.chunks_exact(blocks.groups);
    for (number, weights) in weights.enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 3]; ROWS];
        for (group, digits) in weights.iter().enumerate() {
            let [a, b, c] = digits;
            let digits = [load_digits(a), load_digits(b), load_digits(c)];
            for (row, sums) in rows.iter().zip(&mut sums) {
                let four = bytes_of(row, number, group);
                for (sum, digits) in sums.iter_mut().zip(digits) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, digits);
                }
            }
        }
        let place = number * PIXELS * 3;
        for (sums, to) in sums.iter().zip(to.chunks_exact_mut(new_row)) {
            let levels = _mm512_max_epi32(level(*sums), _mm512_setzero_si512());
            let bytes = _mm_shuffle_epi8(_mm512_cvtusepi32_epi8(levels), pack);
            let end = new_row.min(place + PIXELS * 3);
            store16(&mut to[place..end], bytes);
        }
    }
}

/// A row of the second pass: `rows` begins with the first of the `count` that it is made of.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn down(rows: &[u8], new_row: usize, count: usize, fours: &[Four], to: &mut [u8]) {
    for (number, to) in to.chunks_mut(64).enumerate() {
        let at = number * 64;
        let mut sums = [[_mm512_setzero_si512(); 3]; 4];
        for (group, [a, b, c]) in fours.iter().enumerate() {
            let digits = [
                _mm512_set1_epi32(*a),
                _mm512_set1_epi32(*b),
                _mm512_set1_epi32(*c),
            ];
            let row = |tap: usize| {
                let number = group * TAPS + tap;
                // One that is not there has weight 0.
                let number = if number < count { number } else { 0 };
                &rows[number * new_row + at..][..to.len()]
            };
            let (a, b) = (load64(row(0)), load64(row(1)));
            let (c, d) = (load64(row(2)), load64(row(3)));
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (more_ab, more_cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            let columns = [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(more_ab, more_cd),
                _mm512_unpackhi_epi16(more_ab, more_cd),
            ];
            for (sums, columns) in sums.iter_mut().zip(columns) {
                for (sum, digits) in sums.iter_mut().zip(digits) {
                    *sum = _mm512_dpbusd_epi32(*sum, columns, digits);
                }
            }
        }
        let [a, b, c, d] = sums;
        let low = _mm512_packs_epi32(level(a), level(b));
        let high = _mm512_packs_epi32(level(c), level(d));
        let bytes = _mm512_packus_epi16(low, high);
        store64(to, bytes);
    }
}

/// The whole part of a sum.
#[target_feature(enable = "avx512f")]
fn level([a, b, c]: [__m512i; 3]) -> __m512i {
    let sum = _mm512_add_epi32(_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<8>(b));
    let sum = _mm512_add_epi32(sum, _mm512_add_epi32(c, _mm512_set1_epi32(HALF)));
    _mm512_srai_epi32::<BITS>(sum)
}

#[target_feature(enable = "avx512f")]
fn broadcast(places: [i8; 16]) -> __m512i {
    // SAFETY: 16 bytes of an array that lives.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(places.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f")]
fn load_digits(digits: &[i8; 64]) -> __m512i {
    // SAFETY: 64 bytes of an array that lives.
    unsafe { _mm512_loadu_si512(digits.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_places(places: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes of an array that lives.
    unsafe { _mm512_loadu_si512(places.as_ptr().cast()) }
}

/// The first 16 bytes.
#[target_feature(enable = "avx512f")]
fn load16(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: 16 bytes of a slice that lives.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// At most 64 bytes, then zeros.
#[target_feature(enable = "avx512f,avx512bw")]
fn load64(bytes: &[u8]) -> __m512i {
    // SAFETY: the mask leaves nothing beyond the slice.
    unsafe { _mm512_maskz_loadu_epi8(first(bytes.len()), bytes.as_ptr().cast()) }
}

/// As many bytes as fit, at most 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store16(to: &mut [u8], bytes: __m128i) {
    // SAFETY: the mask leaves nothing beyond the slice.
    unsafe { _mm_mask_storeu_epi8(to.as_mut_ptr().cast(), first(to.len()) as u16, bytes) }
}

/// As many bytes as fit, at most 64.
#[target_feature(enable = "avx512f,avx512bw")]
fn store64(to: &mut [u8], bytes: __m512i) {
    // SAFETY: the mask leaves nothing beyond the slice.
    unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), first(to.len()), bytes) }
}

/// A mask of the first `count` bytes of 64.
fn first(count: usize) -> u64 {
    u64::MAX >> (64 - count.clamp(1, 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_make_the_weight() {
        for weight in (-6_000_000..6_000_000)
            .step_by(997)
            .chain([-128, 127, 128, 32_767, 32_768])
        {
            let [a, b, c] = digits(weight).map(i32::from);
            assert_eq!(65_536 * a + 256 * b + c, weight);
        }
    }

    /// Every size, window and cut against the plain loops.
    #[test]
    fn equals_the_plain_loops() {
        if !is_available() {
            eprintln!("skipped: no AVX-512 with VNNI");
            return;
        }
        let mut scratch = Scratch::default();
        for (number, (width, height, box_of, new_width, new_height)) in [
            (480, 360, [0.0, 480.0, 0.0, 360.0], 341, 256),
            (1280, 720, [0.0, 1280.0, 0.0, 720.0], 455, 256),
            (455, 256, [33.3, 311.7, 12.5, 200.0], 224, 224),
            (3, 2, [0.0, 3.0, 0.0, 2.0], 17, 13),
            (1, 1, [0.0, 1.0, 0.0, 1.0], 5, 1),
            (700, 9, [0.0, 700.0, 0.0, 9.0], 7, 3),
            (64, 64, [0.0, 64.0, 0.0, 64.0], 64, 64),
        ]
        .into_iter()
        .enumerate()
        {
            // Mostly black and white, where the filter overshoots.
            let value = |i: usize| {
                let level = (i * i * 31 + i * 7 + number) % 523 * 2;
                level.saturating_sub(400).min(255) as u8
            };
            let source: Vec<u8> = (0..width * height * 3).map(value).collect();
            let [left, right, top, bottom] = box_of;
            let columns = Axis::new(width, [left, right], new_width, 0..new_width);
            let rows = Axis::new(height, [top, bottom], new_height, 0..new_height);
            let used = rows.reach();
            let pass = Pass {
                source: &source[used.start * width * 3..used.end * width * 3],
                width,
                columns: &columns,
                rows: &rows,
                first_row: used.start,
            };
            let mut narrowed = vec![0; used.len() * new_width * 3];
            let mut plain = vec![0; new_width * new_height * 3];
            pass.both(&mut vec![[0; 4]; width], &mut narrowed, &mut plain);
            let mut fast = vec![0; plain.len()];
            narrowed.fill(0);
            // SAFETY: it is available.
            unsafe { run(&pass, &mut scratch, &mut narrowed, &mut fast) };
            assert!(plain == fast, "{width} x {height}");
        }
    }
}
