//! Products of single-precision matrices by panels: operands are laid out once in the order in which a
//! kernel reads them, and then multiplied panel by panel.
//!
//! A panel is 32 lines (rows of the left operand, columns of the right one), cut along its depth into
//! steps; a step is two tiles of 1 KiB, the first 16 lines and the other 16, for each piece of a number:
//!
//! | kernel | a number is | depth of a step | a tile's row, left | right |
//! |---|---|---|---|---|
//! | [`Kernel::Single`] | an f32 | 16 | 16 depths of a line | 16 lines of a depth |
//! | [`Kernel::Dots`] | a bf16 | 32 | 16 pairs of depths of a line | 16 lines of a pair |
//! | [`Kernel::Tiles`] | a sum of bf16 | 32 | the same | the same |

use super::matmul::{Mat, MatMut, Products, Threads};
use super::{tiles, vectors};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Lines of a panel.
pub const LINES: usize = 32;
/// Bytes of a tile: 16 rows of a vector.
pub const TILE: usize = 1024;
/// Panels of the left operand that one task keeps in its second-level cache.
const BLOCK_PANELS: std::ops::RangeInclusive<usize> = 3..=6;

/// What multiplies panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512's multiply-adds.
    Single,
    /// AVX-512's dot products of bf16.
    Dots,
    /// The tile unit, a number in so many bf16, one to three.
    Tiles(usize),
}

impl Kernel {
    /// The fastest of this machine that is as exact; none where the `gemm` crate is.
    pub fn of(products: Products) -> Option<Kernel> {
        let pieces = match products {
            Products::Bf16 => 1,
            Products::Bits16 => 2,
            Products::Exact => 3,
        };
        let dots = (products == Products::Bf16).then_some(Kernel::Dots);
        let kernels = [Some(Kernel::Tiles(pieces)), dots, Some(Kernel::Single)];
        kernels.into_iter().flatten().find(|k| k.available())
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        match self {
            Kernel::Single => vectors::single_available(),
            Kernel::Dots => vectors::dots_available(),
            Kernel::Tiles(_) => tiles::available(),
        }
    }

    fn pieces(self) -> usize {
        match self {
            Kernel::Single | Kernel::Dots => 1,
            Kernel::Tiles(pieces) => pieces,
        }
    }

    /// Depth of a step.
    fn depth(self) -> usize {
        match self {
            Kernel::Single => 16,
            Kernel::Dots | Kernel::Tiles(_) => 32,
        }
    }

    /// Depth of a block, so that the left operand's panels of a task fit the second-level cache: six in
    /// single precision take 576 KiB, five in three pieces 960 KiB, where cores with a tile unit have 2 MiB.
    fn block_depth(self) -> usize {
        match self {
            Kernel::Single => 768,
            Kernel::Dots | Kernel::Tiles(_) => 1024,
        }
    }

    fn steps(self, depth: usize) -> usize {
        depth.div_ceil(self.depth())
    }

    fn panel_bytes(self, depth: usize) -> usize {
        self.steps(depth) * self.pieces() * 2 * TILE
    }
}

/// Whether a product is large enough that packing pays.
pub fn worth(rows: usize, cols: usize, depth: usize) -> bool {
    rows >= 8 && cols >= 16 && depth >= 16 && rows * cols * depth >= 1 << 15
}

/// Which side of a product an operand is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `a`: a line is a row.
    Left,
    /// `b`: a line is a column.
    Right,
}

/// An operand in panels, for any number of products.
pub struct Packed {
    buffer: Buffer,
    lines: usize,
    depth: usize,
    kernel: Kernel,
}

impl Packed {
    /// Packs an operand for a kernel.
    pub fn new(mat: Mat<f32>, side: Side, kernel: Kernel, threads: Threads) -> Packed {
        assert!(kernel.available(), "this machine has no {kernel:?}");
        let lines = match side {
            Side::Left => mat,
            Side::Right => mat.t(),
        };
        let bytes = kernel.panel_bytes(lines.cols);
        let len = lines.rows.div_ceil(LINES) * bytes;
        let mut packed = Packed {
            buffer: Buffer::take(len),
            lines: lines.rows,
            depth: lines.cols,
            kernel,
        };
        let panels = packed.buffer.bytes_mut(len);
        let pack = |(i, panel): (usize, &mut [u8])| {
            let part = lines.rows(i * LINES, LINES.min(lines.rows - i * LINES));
            // SAFETY: every kernel needs AVX-512, and this one was just found to be there; the
            // panel is as long as the depth asks for.
            unsafe { pack_panel(part, side, kernel, panel) }
        };
        match threads {
            Threads::All => panels.par_chunks_mut(bytes).enumerate().for_each(pack),
            Threads::One => panels.chunks_mut(bytes).enumerate().for_each(pack),
        }
        packed
    }

    fn panel(&self, i: usize) -> &[u8] {
        let bytes = self.kernel.panel_bytes(self.depth);
        &self.buffer.bytes()[i * bytes..][..bytes]
    }
}

/// What a product is added to: fills so many columns of rows of 32, given the first one's row and column.
pub type Fill<'a> = &'a (dyn Fn(usize, usize, usize, &mut [f32]) + Sync);

/// `c = start + a b` on all threads; every element of `c` is written, none is read before.
pub fn product(a: Mat<f32>, b: Mat<f32>, fill: Option<Fill>, mut c: MatMut<f32>, kernel: Kernel) {
    assert!(a.cols > 0, "a product without depth");
    let depth = a.cols;
    let block_depth = depth
        .div_ceil(depth.div_ceil(kernel.block_depth()))
        .next_multiple_of(kernel.depth());
    for from in (0..depth).step_by(block_depth) {
        let count = block_depth.min(depth - from);
        let (a, b) = (a.t().rows(from, count).t(), b.rows(from, count));
        let right = Packed::new(b, Side::Right, kernel, Threads::All);
        let (rows, cols) = task_size(c.rows, c.cols, rayon::current_num_threads());
        let task = |(row, col, c): (usize, usize, MatMut<f32>)| {
            let left = Packed::new(a.rows(row, c.rows), Side::Left, kernel, Threads::One);
            let onto = match fill {
                _ if from > 0 => Onto::Kept,
                Some(fill) => Onto::Filled(fill, row, col),
                None => Onto::Nothing,
            };
            multiply_from(1.0, &left, &right, col / LINES, onto, c);
        };
        let blocks = c.reborrow().blocks(rows, cols);
        blocks.into_par_iter().for_each(task);
    }
}

/// What products are added to.
#[derive(Clone, Copy)]
enum Onto<'a> {
    /// Nothing.
    Nothing,
    /// What the result holds.
    Kept,
    /// What is computed for the rows and columns from these on.
    Filled(Fill<'a>, usize, usize),
}

/// Rows and columns of `c` that one task computes: as many panels as fit the cache, so that the
/// tasks can be dealt evenly; columns are cut where there are too few rows.
fn task_size(rows: usize, cols: usize, workers: usize) -> (usize, usize) {
    let panels = rows.div_ceil(LINES);
    let longest = |size: &usize| panels.div_ceil(*size).div_ceil(workers) * size;
    // The last of equals: the larger blocks.
    let size = BLOCK_PANELS.rev().min_by_key(longest).unwrap_or(1);
    let tasks = panels.div_ceil(size);
    let cuts = match tasks < workers {
        true => workers.div_ceil(tasks),
        false => 1,
    };
    (
        size * LINES,
        cols.div_ceil(LINES).div_ceil(cuts).max(1) * LINES,
    )
}

/// `c = alpha a b`, or `c += alpha a b` with `accumulate`, of packed operands on this thread.
pub fn multiply_packed(
    alpha: f32,
    left: &Packed,
    right: &Packed,
    accumulate: bool,
    c: MatMut<f32>,
) {
    assert_eq!((left.lines, right.lines), (c.rows, c.cols));
    let onto = match accumulate {
        true => Onto::Kept,
        false => Onto::Nothing,
    };
    multiply_from(alpha, left, right, 0, onto, c);
}

/// [`multiply_packed`] with the columns of `right` that begin with panel `first`.
fn multiply_from(
    alpha: f32,
    left: &Packed,
    right: &Packed,
    first: usize,
    onto: Onto,
    c: MatMut<f32>,
) {
    assert_eq!(
        (left.depth, left.kernel),
        (right.depth, right.kernel),
        "panels of another product"
    );
    assert!(left.lines >= c.rows && right.lines >= first * LINES + c.cols);
    let kernel = left.kernel;
    let (mut sums, mut begun) = (Sums([0.0; LINES * LINES]), Sums([0.0; LINES * LINES]));
    let _unit = matches!(kernel, Kernel::Tiles(_)).then(tiles::Unit::configure);
    for col in (0..c.cols).step_by(LINES) {
        let right = right.panel(first + col / LINES);
        for row in (0..c.rows).step_by(LINES) {
            let left = left.panel(row / LINES);
            let (rows, cols) = (LINES.min(c.rows - row), LINES.min(c.cols - col));
            // SAFETY: panels are made only for a kernel that is there, and these two hold the same
            // steps; the tile unit is configured on this thread. The part of `c` lies inside it.
            unsafe {
                match kernel {
                    Kernel::Single => vectors::single(left, right, rows, &mut sums),
                    Kernel::Dots => vectors::dots(left, right, rows, &mut sums),
                    Kernel::Tiles(pieces) => tiles::product(left, right, pieces, &mut sums),
                }
                let c_part = c.data.add(row * c.stride + col);
                let onto: Option<(*const f32, usize)> = match onto {
                    Onto::Nothing => None,
                    Onto::Kept => Some((c_part, c.stride)),
                    Onto::Filled(fill, first_row, first_col) => {
                        let begun = &mut begun.0[..rows * LINES];
                        fill(first_row + row, first_col + col, cols, begun);
                        Some((begun.as_ptr(), LINES))
                    }
                };
                add_sums(alpha, &sums, onto, c_part, c.stride, rows, cols);
            }
        }
    }
}

/// The 32 x 32 products of two panels, row-major.
#[repr(C, align(64))]
pub struct Sums(pub [f32; LINES * LINES]);

/// The lowest `n` lanes of 16.
fn lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// `c = onto + alpha sums` for the first rows and columns; `onto` may be `c`.
///
/// # Safety
/// `c` and `onto` must be valid for `rows` x `cols` with so many elements between rows; needs AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn add_sums(
    alpha: f32,
    sums: &Sums,
    onto: Option<(*const f32, usize)>,
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
                let sum = _mm512_load_ps(sums.0.as_ptr().add(row * LINES + half));
                let sum = _mm512_mul_ps(sum, alpha);
                let sum = match onto {
                    Some((onto, stride)) => {
                        let onto = onto.add(row * stride + half);
                        _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, onto))
                    }
                    None => sum,
                };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}

/// Packs up to 32 lines; what the panel has beyond them and beyond their depth becomes zero.
///
/// Element `i` of a row of pairs of bf16 is of depths `i` and `16 + i`: which two make a pair is free as long as
/// both operands agree, and these two need no shuffle.
///
/// # Safety
/// The panel must be as long as the kernel asks for at this depth; needs AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn pack_panel(lines: Mat<f32>, side: Side, kernel: Kernel, panel: &mut [u8]) {
    assert!(lines.rows <= LINES && lines.row_stride.min(lines.col_stride) <= 1);
    assert_eq!(panel.len(), kernel.panel_bytes(lines.cols));
    let pieces = kernel.pieces();
    // Numbers that lie together are of one line, or of one depth.
    let along_depth = lines.col_stride == 1;
    // A tile's rows are lines on the left, pairs of depths on the right; they come as they lie.
    let turned = along_depth == (side == Side::Right);
    // Too many lines side by side for the processor to see that each goes on: four fifths of the time
    // would be waiting for memory.
    let ahead = 2 * kernel.depth() * lines.col_stride;
    for (step, panel) in panel.chunks_exact_mut(pieces * 2 * TILE).enumerate() {
        let depth = step * kernel.depth();
        let deep = kernel.depth().min(lines.cols - depth);
        for half in 0..2 {
            let first = half * 16;
            let count = lines.rows.saturating_sub(first).min(16);
            // Row `i` of 16: its 32 depths of line `i`, or depths `i` and `16 + i` of 16 lines.
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
            let mut rest = [(_mm512_setzero_ps(), _mm512_setzero_ps()); 16];
            for (i, rest) in rest.iter_mut().enumerate() {
                let second = match kernel {
                    Kernel::Single => _mm512_setzero_ps(),
                    Kernel::Dots | Kernel::Tiles(_) => load(i, 1),
                };
                *rest = (load(i, 0), second);
            }
            for piece in 0..pieces {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (row, (low, high)) in rows.iter_mut().zip(&mut rest) {
                    if kernel == Kernel::Single {
                        *row = _mm512_castps_si512(*low);
                        continue;
                    }
                    let (first, second) = (rounded(*low), rounded(*high));
                    *row = _mm512_or_si512(_mm512_srli_epi32::<16>(first), second);
                    // What a piece leaves over is exact in single precision.
                    *low = _mm512_sub_ps(*low, _mm512_castsi512_ps(first));
                    *high = _mm512_sub_ps(*high, _mm512_castsi512_ps(second));
                }
                let rows = if turned { transposed(&rows) } else { rows };
                let tile = &mut panel[(piece * 2 + half) * TILE..][..TILE];
                for (row, to) in rows.iter().zip(tile.chunks_exact_mut(64)) {
                    // SAFETY: the chunk has the 64 bytes.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), *row) }
                }
            }
        }
    }
}

/// The nearest number whose lower 16 bits are zero, a bf16; of two as near, that away from zero.
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    let kept = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), kept)
}

/// The transpose of 16 x 16 elements of 32 bits.
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

/// 64 bytes, as the vectors want them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static POOL: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that goes back to its thread for the next product: fresh pages cost more than packing.
struct Buffer(Vec<Line>);

impl Buffer {
    /// Memory of at least so many bytes: the smallest there is, so that large ones stay few.
    fn take(len: usize) -> Buffer {
        let lines = len.div_ceil(64);
        let kept = POOL.with_borrow_mut(|pool| {
            let large = pool
                .iter()
                .enumerate()
                .filter(|(_, kept)| kept.len() >= lines);
            let smallest = large.min_by_key(|(_, kept)| kept.len()).map(|(i, _)| i);
            smallest.map(|i| pool.swap_remove(i))
        });
        Buffer(kept.unwrap_or_else(|| vec![Line([0; 64]); lines]))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a `Line` is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    /// The first bytes, with what they held before.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::dropout::tests::noise;

    fn single(seed: u64, n: usize) -> Vec<f32> {
        noise(seed, n).iter().map(|v| *v as f32).collect()
    }

    /// The largest error of `a b`, relative to the sum of the products' magnitudes.
    fn error([rows, cols, depth]: [usize; 3], turned: (bool, bool), kernel: Kernel) -> f64 {
        let (a, b) = (single(1, rows * depth), single(2, depth * cols));
        let left = match turned.0 {
            true => Mat::new(&a, depth, rows).t(),
            false => Mat::new(&a, rows, depth),
        };
        let right = match turned.1 {
            true => Mat::new(&b, cols, depth).t(),
            false => Mat::new(&b, depth, cols),
        };
        let start = single(3, rows * cols);
        let fill = |row: usize, col: usize, count: usize, to: &mut [f32]| {
            for (row, to) in (row..).zip(to.chunks_exact_mut(LINES)) {
                to[..count].copy_from_slice(&start[row * cols + col..][..count]);
            }
        };
        let mut c = vec![f32::NAN; rows * cols];
        product(
            left,
            right,
            Some(&fill),
            MatMut::new(&mut c, rows, cols),
            kernel,
        );
        let at = |m: &Mat<f32>, i: usize, j: usize| {
            f64::from(m.data[i * m.row_stride + j * m.col_stride])
        };
        let mut worst = 0.0f64;
        for i in 0..rows {
            for j in 0..cols {
                let products = (0..depth).map(|k| at(&left, i, k) * at(&right, k, j));
                let magnitude: f64 = products.clone().map(f64::abs).sum();
                let want = f64::from(start[i * cols + j]) + products.sum::<f64>();
                worst = worst.max((f64::from(c[i * cols + j]) - want).abs() / (1.0 + magnitude));
            }
        }
        worst
    }

    #[test]
    fn products_are_as_exact_as_their_operands() {
        let shapes = [
            [32, 32, 32],
            [1, 1, 1],
            [33, 17, 5],
            [70, 100, 65],
            [200, 31, 1100],
            [5, 300, 2100],
        ];
        let exact = f64::from(2.0 * f32::EPSILON);
        for (kernel, limit) in [
            (Kernel::Single, exact),
            (Kernel::Dots, 5e-3),
            (Kernel::Tiles(3), exact),
            (Kernel::Tiles(2), 1.2e-5),
            (Kernel::Tiles(1), 5e-3),
        ] {
            if !kernel.available() {
                eprintln!("skipped: this processor has no {kernel:?}");
                continue;
            }
            let mut worst = 0.0f64;
            for turned in [(false, false), (false, true), (true, false), (true, true)] {
                for shape in shapes {
                    let error = error(shape, turned, kernel);
                    worst = worst.max(error);
                    assert!(error < limit, "{kernel:?}, {shape:?}, {turned:?}: {error}");
                }
            }
            println!("{kernel:?}: largest error {worst:.1e}");
            // What rounds its operands to bf16 does so indeed.
            let rounds = limit == 5e-3;
            let error = error([64, 64, 64], (false, false), kernel);
            assert_eq!(error > 1e-4, rounds, "{kernel:?}: {error}");
        }
    }

    /// What is multiplied is the same, whichever unit of the processor does it.
    #[test]
    fn dots_are_tiles_of_one_piece() {
        if !Kernel::Dots.available() || !Kernel::Tiles(1).available() {
            eprintln!("skipped: this processor has not both AVX512-BF16 and AMX");
            return;
        }
        let (a, b) = (single(1, 40 * 100), single(2, 100 * 50));
        let product_by = |kernel| {
            let mut c = vec![0f32; 40 * 50];
            let (a, b) = (Mat::new(&a, 40, 100), Mat::new(&b, 100, 50));
            product(a, b, None, MatMut::new(&mut c, 40, 50), kernel);
            c
        };
        for (dots, tiles) in product_by(Kernel::Dots)
            .iter()
            .zip(product_by(Kernel::Tiles(1)))
        {
            assert!((dots - tiles).abs() < 1e-4, "{dots} {tiles}");
        }
    }
}
