//! Packing the operands of a product into panels, see [`super::layout`], and multiplying them.

use super::layout::{PANEL_LINES, STEP_DEPTH, Sums, TILE};
use super::{Isa, Kernel, amx, avx512};
use crate::cpu::layout::{Mat, MatMut, Side, Threads};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Returns the size in bytes of a panel of this depth.
fn panel_bytes(depth: usize, terms: usize) -> usize {
    depth.div_ceil(STEP_DEPTH) * terms * 2 * TILE
}

/// An operand packed into panels, for any number of products.
pub struct Packed {
    buffer: Buffer,
    lines: usize,
    depth: usize,
    kernel: Kernel,
}

impl Packed {
    /// Packs an operand for a kernel.
    pub fn new(mat: Mat<f32>, side: Side, kernel: Kernel, threads: Threads) -> Packed {
        assert!(kernel.isa.is_available(), "this machine has no {kernel:?}");
        let lines = match side {
            Side::Left => mat,
            Side::Right => mat.t(),
        };
        let bytes = panel_bytes(lines.cols, kernel.terms);
        let len = lines.rows.div_ceil(PANEL_LINES) * bytes;
        let mut packed = Packed {
            buffer: Buffer::take(len),
            lines: lines.rows,
            depth: lines.cols,
            kernel,
        };
        let panels = packed.buffer.bytes_mut(len);
        let pack = |(i, panel): (usize, &mut [u8])| {
            let part = lines.rows(
                i * PANEL_LINES,
                PANEL_LINES.min(lines.rows - i * PANEL_LINES),
            );
            // SAFETY: every kernel needs AVX-512, and this one was just found to be there; the
            // panel is as long as the depth asks for.
            unsafe { pack_panel(part, side, kernel.terms, panel) }
        };
        match threads {
            Threads::All => panels.par_chunks_mut(bytes).enumerate().for_each(pack),
            Threads::One => panels.chunks_mut(bytes).enumerate().for_each(pack),
        }
        packed
    }

    /// Returns the number of rows of a left operand, or of columns of a right one.
    pub fn lines(&self) -> usize {
        self.lines
    }

    fn panel(&self, i: usize) -> &[u8] {
        let bytes = panel_bytes(self.depth, self.kernel.terms);
        &self.buffer.bytes()[i * bytes..][..bytes]
    }
}

/// Writes a tile of the matrix that a product is added to: called as `(first row, first column,
/// columns, tile)`, it writes the columns of all rows of the tile, which are [`PANEL_LINES`]
/// elements apart.
pub type WriteTile<'a> = &'a (dyn Fn(usize, usize, usize, &mut [f32]) + Sync);

/// The matrix that a product is added to.
#[derive(Clone, Copy)]
pub enum Addend<'a> {
    /// Zero.
    Zero,
    /// The result's former values.
    Result,
    /// A matrix that is computed tile by tile, from this row and this column on.
    Tile(WriteTile<'a>, usize, usize),
}

/// Computes `c = addend + alpha left right` on this thread, with the columns of `right` from panel
/// `first` on.
pub fn multiply(
    alpha: f32,
    left: &Packed,
    right: &Packed,
    first: usize,
    addend: Addend,
    c: MatMut<f32>,
) {
    assert_eq!(
        (left.depth, left.kernel),
        (right.depth, right.kernel),
        "panels of another product"
    );
    assert!(left.lines >= c.rows && right.lines >= first * PANEL_LINES + c.cols);
    let kernel = left.kernel;
    let (mut sums, mut filled) = (
        Sums([0.0; PANEL_LINES * PANEL_LINES]),
        Sums([0.0; PANEL_LINES * PANEL_LINES]),
    );
    let _tiles = (kernel.isa == Isa::AmxBf16).then(amx::Tiles::configure);
    for col in (0..c.cols).step_by(PANEL_LINES) {
        let right = right.panel(first + col / PANEL_LINES);
        for row in (0..c.rows).step_by(PANEL_LINES) {
            let left = left.panel(row / PANEL_LINES);
            let (rows, cols) = (PANEL_LINES.min(c.rows - row), PANEL_LINES.min(c.cols - col));
            // SAFETY: panels are made only for a kernel that is there, and these two hold the same
            // steps; AMX's tiles are configured on this thread. The part of `c` lies inside it.
            unsafe {
                match kernel.isa {
                    Isa::Avx512Bf16 => avx512::multiply(left, right, rows, &mut sums),
                    Isa::AmxBf16 => amx::multiply(left, right, kernel.terms, &mut sums),
                }
                let c_part = c.data.add(row * c.stride + col);
                let base: Option<(*const f32, usize)> = match addend {
                    Addend::Zero => None,
                    Addend::Result => Some((c_part, c.stride)),
                    Addend::Tile(write, first_row, first_col) => {
                        let filled = &mut filled.0[..rows * PANEL_LINES];
                        write(first_row + row, first_col + col, cols, filled);
                        Some((filled.as_ptr(), PANEL_LINES))
                    }
                };
                add_sums(alpha, &sums, base, c_part, c.stride, rows, cols);
            }
        }
    }
}

/// Returns a mask of the lowest `n` lanes of 16.
fn lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// Computes `c = base + alpha sums` for the first rows and columns; `base`, a pointer and the
/// elements between its rows, may be `c`.
///
/// # Safety
/// `c`, with `stride` elements between rows, and `base` must be valid for `rows` x `cols`; needs
/// AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn add_sums(
    alpha: f32,
    sums: &Sums,
    base: Option<(*const f32, usize)>,
    c: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
) {
    let alpha = _mm512_set1_ps(alpha);
    for row in 0..rows {
        for half in (0..cols).step_by(16) {
            let mask = lanes(cols - half);
            // SAFETY: inside the 32 x 32 sums; lanes beyond `cols` are masked out.
            unsafe {
                let at = c.add(row * stride + half);
                let sum = _mm512_load_ps(sums.0.as_ptr().add(row * PANEL_LINES + half));
                let sum = _mm512_mul_ps(sum, alpha);
                let sum = match base {
                    Some((base, stride)) => {
                        let base = base.add(row * stride + half);
                        _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, base))
                    }
                    None => sum,
                };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}

/// Packs up to 32 lines; the rest of the panel, beyond them and beyond their depth, becomes zero.
///
/// Pair `i` of a row of bf16 consists of depths `i` and `16 + i`: any pairing is correct as long as
/// both operands use the same, and this one needs no shuffle.
///
/// # Safety
/// Needs AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn pack_panel(lines: Mat<f32>, side: Side, terms: usize, panel: &mut [u8]) {
    assert!(lines.rows <= PANEL_LINES && lines.row_stride.min(lines.col_stride) <= 1);
    assert_eq!(panel.len(), panel_bytes(lines.cols, terms));
    // Neighbours in memory belong to one line, or to one depth.
    let along_depth = lines.col_stride == 1;
    // The rows of a tile are lines on the left and pairs of depths on the right, but are loaded as
    // they lie.
    let transpose = along_depth == (side == Side::Right);
    // There are too many lines side by side for the processor's own prefetcher: without this one,
    // four fifths of the time would be waiting for memory.
    let ahead = 2 * STEP_DEPTH * lines.col_stride;
    for (step, panel) in panel.chunks_exact_mut(terms * 2 * TILE).enumerate() {
        let depth = step * STEP_DEPTH;
        let deep = STEP_DEPTH.min(lines.cols - depth);
        for half in 0..2 {
            let first = half * 16;
            let count = lines.rows.saturating_sub(first).min(16);
            // Loads half of row `i` of 16: half of 32 depths of line `i`, or depth `i` or `16 + i`
            // of 16 lines.
            let load = |i: usize, second: usize| {
                let (line, depth_at, lanes_read) = match along_depth {
                    true if i < count => (first + i, second * 16, deep.saturating_sub(second * 16)),
                    false if second * 16 + i < deep => (first, second * 16 + i, count),
                    _ => (0, 0, 0),
                };
                let from = line * lines.row_stride + (depth + depth_at) * lines.col_stride;
                let from = lines.data.as_ptr().wrapping_add(from);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(ahead).cast());
                // SAFETY: the lanes that are read are elements of the view, whose bounds were
                // checked when it was made.
                unsafe { _mm512_maskz_loadu_ps(lanes(lanes_read), from) }
            };
            let mut remainders = [(_mm512_setzero_ps(), _mm512_setzero_ps()); 16];
            for (i, remainder) in remainders.iter_mut().enumerate() {
                *remainder = (load(i, 0), load(i, 1));
            }
            for term in 0..terms {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (row, (low, high)) in rows.iter_mut().zip(&mut remainders) {
                    let (first, second) = (round_to_bf16(*low), round_to_bf16(*high));
                    *row = _mm512_or_si512(_mm512_srli_epi32::<16>(first), second);
                    // The remainder after a term is exact in single precision.
                    *low = _mm512_sub_ps(*low, _mm512_castsi512_ps(first));
                    *high = _mm512_sub_ps(*high, _mm512_castsi512_ps(second));
                }
                let rows = if transpose { transposed(&rows) } else { rows };
                let tile = &mut panel[(term * 2 + half) * TILE..][..TILE];
                for (row, to) in rows.iter().zip(tile.chunks_exact_mut(64)) {
                    // SAFETY: the chunk has the 64 bytes.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), *row) }
                }
            }
        }
    }
}

/// Rounds each number to the nearest bf16, whose lower 16 bits are zero, and ties away from zero.
#[target_feature(enable = "avx512f")]
fn round_to_bf16(x: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper)
}

/// Returns the transpose of 16 x 16 elements of 32 bits.
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut a = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Columns 4 q + i of four rows in each quarter q.
    let mut b = a;
    for i in 0..4 {
        let [p, q, r, s] = [a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]];
        b[4 * i] = _mm512_unpacklo_epi64(p, r);
        b[4 * i + 1] = _mm512_unpackhi_epi64(p, r);
        b[4 * i + 2] = _mm512_unpacklo_epi64(q, s);
        b[4 * i + 3] = _mm512_unpackhi_epi64(q, s);
    }
    let mut out = a;
    for i in 0..4 {
        let (p, q) = (
            _mm512_shuffle_i32x4::<0x88>(b[i], b[4 + i]),
            _mm512_shuffle_i32x4::<0x88>(b[8 + i], b[12 + i]),
        );
        let (r, s) = (
            _mm512_shuffle_i32x4::<0xdd>(b[i], b[4 + i]),
            _mm512_shuffle_i32x4::<0xdd>(b[8 + i], b[12 + i]),
        );
        out[i] = _mm512_shuffle_i32x4::<0x88>(p, q);
        out[8 + i] = _mm512_shuffle_i32x4::<0xdd>(p, q);
        out[4 + i] = _mm512_shuffle_i32x4::<0x88>(r, s);
        out[12 + i] = _mm512_shuffle_i32x4::<0xdd>(r, s);
    }
    out
}

/// 64 bytes with the alignment of a vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static POOL: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that returns to a pool of its thread for the next product, because fresh pages cost more
/// than packing.
struct Buffer(Vec<Line>);

impl Buffer {
    /// Takes the smallest buffer of at least `len` bytes from the pool, so that large ones stay
    /// few, or allocates one.
    fn take(len: usize) -> Buffer {
        let lines = len.div_ceil(64);
        let found = POOL.with_borrow_mut(|pool| {
            let large = pool
                .iter()
                .enumerate()
                .filter(|(_, buffer)| buffer.len() >= lines);
            let smallest = large.min_by_key(|(_, buffer)| buffer.len()).map(|(i, _)| i);
            smallest.map(|i| pool.swap_remove(i))
        });
        Buffer(found.unwrap_or_else(|| vec![Line([0; 64]); lines]))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a `Line` is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    /// Returns the first `len` bytes, which hold their former values.
    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.0.len() * 64);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0);
        POOL.with_borrow_mut(|pool| pool.push(lines));
    }
}
