//! Products of panels by AVX-512's dot products of pairs of bf16, which are twice as many multiplications an
//! instruction as with f32.
//!
//! Eight rows by 32 columns of sums stay in registers, while vectors of the right panel go by and each pair of
//! the left one is spread over a vector.

use super::layout::{PANEL_LINES, Sums, TILE};
use std::arch::x86_64::*;

/// Rows whose sums are in registers at a time: 16 of 32 registers.
const ROWS: usize = 8;
/// Steps that all rows go through before the next ones: 16 KiB of the right panel stay in the first-level cache.
const STEPS: usize = 8;
/// Elements of a step that are fetched ahead for each row: all of it by 32 rows.
const AHEAD: usize = STEP / PANEL_LINES;
/// Vectors of a tile, and elements of 32 bits in each.
const LANES: usize = 16;
/// Elements of 32 bits in a step of a panel.
const STEP: usize = 2 * TILE / 4;

/// Whether this processor has AVX-512's dot products of bf16.
pub fn is_available() -> bool {
    util::cpu::has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// The products of two panels of one bf16 term, the first `rows` rows of them.
///
/// # Safety
/// Both panels hold the same number of steps; [`is_available`] must have said yes.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn multiply(left: &[u8], right: &[u8], rows: usize, sums: &mut Sums) {
    assert_eq!(left.len(), right.len());
    let steps = left.len() / (2 * TILE);
    let (left, right) = (left.as_ptr().cast::<f32>(), right.as_ptr().cast::<f32>());
    let sums = sums.0.as_mut_ptr();
    if steps == 0 {
        // SAFETY: `sums` was a reference.
        return unsafe { sums.write_bytes(0, PANEL_LINES * PANEL_LINES) };
    }
    for from in (0..steps).step_by(STEPS) {
        let count = STEPS.min(steps - from);
        for row in (0..rows.min(PANEL_LINES)).step_by(ROWS) {
            let ahead = right.wrapping_add((from + STEPS) * STEP + row * AHEAD);
            // SAFETY: steps below `steps` and rows below 32 lie inside the panels and the sums.
            unsafe {
                let left = left.add(from * STEP + row * LANES);
                let right = right.add(from * STEP);
                block(
                    left,
                    right,
                    ahead,
                    count,
                    from > 0,
                    sums.add(row * PANEL_LINES),
                );
            }
        }
    }
}

/// Eight rows of products of some steps, or those added to what `sums` holds. `ahead` is this block's part of
/// the steps that come next: fetching it into the first-level cache is worth a fifth of the time.
///
/// # Safety
/// `ahead` may be anything, `left` is at the first of eight rows of a tile, `right` at a step, `sums` at eight
/// rows of 32; all steps lie within both panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn block(
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
                kept[0] = _mm512_load_ps(sums.add(i * PANEL_LINES));
                kept[1] = _mm512_load_ps(sums.add(i * PANEL_LINES + LANES));
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
                    kept[0] = dot(kept[0], spread, first);
                    kept[1] = dot(kept[1], spread, second);
                }
            }
        }
        for (i, kept) in kept.iter().enumerate() {
            _mm512_store_ps(sums.add(i * PANEL_LINES), kept[0]);
            _mm512_store_ps(sums.add(i * PANEL_LINES + LANES), kept[1]);
        }
    }
}

/// `sum + a b` in each lane, where a lane of `a` and `b` is a pair of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot(sum: __m512, a: __m512, b: __m512) -> __m512 {
    // SAFETY: both types are 64 bytes, and any bytes are a valid value of either.
    let pairs = |v: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(v) };
    _mm512_dpbf16_ps(sum, pairs(a), pairs(b))
}
