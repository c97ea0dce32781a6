//! Products of panels by AVX-512's dot products of pairs of bf16, which make twice as many
//! multiplications in an instruction as with f32.
//!
//! Eight rows by 32 columns of sums stay in registers. Vectors of the right panel are loaded one
//! after the other, and each pair of the left one is broadcast to a vector.

use super::layout::{PANEL_LINES, Sums, TILE};
use std::arch::x86_64::*;

/// Rows whose sums are in registers at a time, which takes 16 of 32 registers.
const ROWS: usize = 8;
/// Steps that are computed for all rows before the next ones, so that 16 KiB of the right panel
/// stay in the first-level cache.
const STEPS: usize = 8;
/// Elements of a step that are prefetched for each row, so that 32 rows prefetch all of it.
const PREFETCHED: usize = STEP / PANEL_LINES;
/// The vectors of a tile, and the elements of 32 bits in each.
const LANES: usize = 16;
/// Elements of 32 bits in a step of a panel.
const STEP: usize = 2 * TILE / 4;

/// Returns whether this processor has AVX-512's dot products of bf16.
pub fn is_available() -> bool {
    util::cpu::has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// Computes the first `rows` rows of the products of two panels of one bf16 term.
///
/// # Safety
/// Both panels hold the same number of steps, and [`is_available`] has returned true.
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
            let ahead = right.wrapping_add((from + STEPS) * STEP + row * PREFETCHED);
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

/// Computes eight rows of products of some steps, or adds them to the values of `sums`. `ahead` is
/// this block's part of the next steps: prefetching it into the first-level cache saves a fifth of
/// the time.
///
/// # Safety
/// `ahead` may be anything, `left` is at the first of eight rows of a tile, `right` at a step,
/// `sums` at eight rows of 32; all steps lie within both panels.
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
    // SAFETY: all addresses lie within the steps and rows that the caller vouches for; buffers and
    // sums are aligned to vectors.
    unsafe {
        let mut registers = [[_mm512_setzero_ps(); 2]; ROWS];
        if accumulate {
            for (i, sums_of_row) in registers.iter_mut().enumerate() {
                sums_of_row[0] = _mm512_load_ps(sums.add(i * PANEL_LINES));
                sums_of_row[1] = _mm512_load_ps(sums.add(i * PANEL_LINES + LANES));
            }
        }
        for step in 0..steps {
            let (left, right) = (left.add(step * STEP), right.add(step * STEP));
            for line in (0..ROWS * PREFETCHED).step_by(LANES) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(step * STEP + line).cast());
            }
            for at in 0..LANES {
                let first = _mm512_load_ps(right.add(at * LANES));
                let second = _mm512_load_ps(right.add(TILE / 4 + at * LANES));
                for (i, sums_of_row) in registers.iter_mut().enumerate() {
                    let pair = _mm512_set1_ps(*left.add(i * LANES + at));
                    sums_of_row[0] = dot(sums_of_row[0], pair, first);
                    sums_of_row[1] = dot(sums_of_row[1], pair, second);
                }
            }
        }
        for (i, sums_of_row) in registers.iter().enumerate() {
            _mm512_store_ps(sums.add(i * PANEL_LINES), sums_of_row[0]);
            _mm512_store_ps(sums.add(i * PANEL_LINES + LANES), sums_of_row[1]);
        }
    }
}

/// Returns `sum + a b` in each lane, where a lane of `a` and `b` is a pair of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot(sum: __m512, a: __m512, b: __m512) -> __m512 {
    // SAFETY: both types are 64 bytes, and any bytes are a valid value of either.
    let pairs = |v: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(v) };
    _mm512_dpbf16_ps(sum, pairs(a), pairs(b))
}
