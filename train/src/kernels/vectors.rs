//! Products of panels by AVX-512: multiply-adds of f32, or dot products of pairs of bf16, which are twice as many
//! multiplications an instruction.
//!
//! Eight rows by 32 columns of sums stay in registers, while vectors of the right panel go by and each number
//! (or pair) of the left one is spread over a vector.

use super::panels::{LINES, Sums, TILE};
use std::arch::x86_64::*;

/// Rows whose sums are in registers at a time: 16 of 32 registers.
const ROWS: usize = 8;
/// Steps that all rows go through before the next ones: 16 KiB of the right panel stay in the first-level cache.
const STEPS: usize = 8;
/// Elements of a step that are fetched ahead for each row: all of it by 32 rows.
const AHEAD: usize = STEP / LINES;
/// Vectors of a tile, and elements of 32 bits in each.
const LANES: usize = 16;
/// Elements of 32 bits in a step of a panel.
const STEP: usize = 2 * TILE / 4;

/// Whether this machine multiplies f32 in AVX-512.
pub fn single_available() -> bool {
    features::cpu::has_avx512()
}

/// Whether this machine multiplies bf16 in AVX-512.
pub fn dots_available() -> bool {
    features::cpu::has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// The products of two panels of f32, the first rows of them.
///
/// # Safety
/// Both panels hold the same number of steps; [`single_available`] must have said yes.
#[target_feature(enable = "avx512f")]
pub unsafe fn single(left: &[u8], right: &[u8], rows: usize, sums: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe { product::<false>(left, right, rows, sums) }
}

/// The products of two panels of bf16, the first rows of them.
///
/// # Safety
/// Both panels hold the same number of steps; [`dots_available`] must have said yes.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn dots(left: &[u8], right: &[u8], rows: usize, sums: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe { product::<true>(left, right, rows, sums) }
}

/// # Safety
/// Both panels hold the same number of steps, and the caller has the instructions.
#[inline(always)]
unsafe fn product<const DOTS: bool>(left: &[u8], right: &[u8], rows: usize, sums: &mut Sums) {
    assert_eq!(left.len(), right.len());
    let steps = left.len() / (2 * TILE);
    let (left, right) = (left.as_ptr().cast::<f32>(), right.as_ptr().cast::<f32>());
    let sums = sums.0.as_mut_ptr();
    if steps == 0 {
        // SAFETY: `sums` was a reference.
        return unsafe { sums.write_bytes(0, LINES * LINES) };
    }
    for from in (0..steps).step_by(STEPS) {
        let count = STEPS.min(steps - from);
        for row in (0..rows.min(LINES)).step_by(ROWS) {
            let ahead = right.wrapping_add((from + STEPS) * STEP + row * AHEAD);
            // SAFETY: steps below `steps` and rows below 32 lie inside the panels and the sums.
            unsafe {
                let left = left.add(from * STEP + row * LANES);
                let right = right.add(from * STEP);
                block::<DOTS>(left, right, ahead, count, from > 0, sums.add(row * LINES));
            }
        }
    }
}

/// Eight rows of products of some steps, or those added to what `sums` holds. `ahead` is this block's part of the
/// steps that come next: having the first-level cache fetch it is worth a fifth of the time.
///
/// # Safety
/// `ahead` may be anything, `left` is at the first of eight rows of a tile, `right` at a step, `sums` at eight rows of 32; the caller has the
/// instructions.
#[inline(always)]
unsafe fn block<const DOTS: bool>(
    left: *const f32,
    right: *const f32,
    ahead: *const f32,
    steps: usize,
    accumulate: bool,
    sums: *mut f32,
) {
    // SAFETY: all places lie within the steps and rows that the caller vouches for; buffers and sums are aligned
    // to vectors.
    unsafe {
        let mut kept = [[_mm512_setzero_ps(); 2]; ROWS];
        if accumulate {
            for (i, kept) in kept.iter_mut().enumerate() {
                kept[0] = _mm512_load_ps(sums.add(i * LINES));
                kept[1] = _mm512_load_ps(sums.add(i * LINES + LANES));
            }
        }
        for step in 0..steps {
            let (left, right) = (left.add(step * STEP), right.add(step * STEP));
            for line in (0..ROWS * AHEAD).step_by(LANES) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(step * STEP + line).cast());
            }
            for at in 0..LANES {
                let first = _mm512_load_ps(right.add(at * LANES));
                let second = _mm512_load_ps(right.add(TILE / 4 + at * LANES));
                for (i, kept) in kept.iter_mut().enumerate() {
                    let spread = _mm512_set1_ps(*left.add(i * LANES + at));
                    kept[0] = multiply_add::<DOTS>(spread, first, kept[0]);
                    kept[1] = multiply_add::<DOTS>(spread, second, kept[1]);
                }
            }
        }
        for (i, kept) in kept.iter().enumerate() {
            _mm512_store_ps(sums.add(i * LINES), kept[0]);
            _mm512_store_ps(sums.add(i * LINES + LANES), kept[1]);
        }
    }
}

/// `a b + c` in each lane, which of `a` and `b` is an f32 or a pair of bf16.
///
/// # Safety
/// The caller has the instructions.
#[inline(always)]
unsafe fn multiply_add<const DOTS: bool>(a: __m512, b: __m512, c: __m512) -> __m512 {
    // SAFETY: the caller's promise; the vectors are 64 bytes, whatever they hold.
    unsafe {
        match DOTS {
            true => _mm512_dpbf16_ps(
                c,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            ),
            false => _mm512_fmadd_ps(a, b, c),
        }
    }
}
