//! Matrix products by fused multiply-adds, whose sums have a fixed order.
//!
//! Element `(i, j)` of `a b` is the sum of one block of depth after the other, and within a block
//! of one fused multiply-add after the other. Neither the width of the vectors nor the split of the
//! work among threads changes that order, so every x86-64 processor with AVX2 computes the same
//! bits, on any number of threads.
//!
//! The operands are packed into panels as in the scheme of Goto and van de Geijn ("Anatomy of
//! high-performance matrix multiplication", 2008): a panel of the right operand stays in the
//! first-level cache while panels of the left one, from the second-level cache, pass by.

use super::Real;
use super::layout::{Mat, MatMut, Side, Threads, task_size};
use rayon::prelude::*;

/// The lines of a panel of the left operand, which are rows of the result. Six rows of a tile in
/// AVX2 registers, whose 16 columns take two registers each, leave four registers for operands.
const ROWS: usize = 6;
/// The lines of a panel of the right operand, which are columns of the result.
const COLS: usize = 32;
/// The columns of a tile that AVX2 keeps in its registers.
const AVX2_COLS: usize = 16;
/// The depth of a block: a panel of the right operand then takes 24 KiB of a first-level cache of
/// 32 KiB or more. It fixes the order of the sums, so another depth gives other bits.
const BLOCK_DEPTH: usize = 192;
/// The numbers of panels of the left operand that one task keeps in its second-level cache: 32
/// panels take 144 KiB.
const PANELS_PER_TASK: std::ops::RangeInclusive<usize> = 16..=32;
/// The number of multiplications from which on a product pays for waking other threads.
const MIN_PARALLEL_WORK: usize = 1 << 18;

/// The part of the result that one pass over two panels computes.
type Tile<T> = [[T; COLS]; ROWS];

/// An operand in panels, for any number of products: block of depth by block of depth, in each of
/// them panel by panel, and in a panel its lines side by side for each step of depth.
pub struct Packed<T> {
    values: Vec<T>,
    lines: usize,
    depth: usize,
    /// The lines of a panel. The last panel is filled up with zeros.
    width: usize,
}

impl<T: Real> Packed<T> {
    /// Packs an operand.
    pub fn new(mat: Mat<T>, side: Side, threads: Threads) -> Packed<T> {
        match side {
            Side::Left => Packed::of_lines::<ROWS>(mat, threads),
            Side::Right => Packed::of_lines::<COLS>(mat.t(), threads),
        }
    }

    /// Packs the rows of a matrix into panels of `W`.
    fn of_lines<const W: usize>(mat: Mat<T>, threads: Threads) -> Packed<T> {
        let (lines, depth) = (mat.rows, mat.cols);
        let mut values = vec![T::zero(); lines.next_multiple_of(W) * depth];
        let mut rest = values.as_mut_slice();
        let mut panels = Vec::with_capacity(lines.div_ceil(W) * depth.div_ceil(BLOCK_DEPTH));
        for from in (0..depth).step_by(BLOCK_DEPTH) {
            let steps = BLOCK_DEPTH.min(depth - from);
            for line in (0..lines).step_by(W) {
                let (panel, after) = rest.split_at_mut(steps * W);
                panels.push((from, line, panel));
                rest = after;
            }
        }
        let pack = |(from, line, panel): (usize, usize, &mut [T])| {
            let part = mat.rows(line, W.min(lines - line));
            pack_panel::<T, W>(part, from, panel);
        };
        match threads {
            Threads::All => panels.into_par_iter().for_each(pack),
            Threads::One => panels.into_iter().for_each(pack),
        }
        Packed {
            values,
            lines,
            depth,
            width: W,
        }
    }

    /// Returns the panels of the block of depth that begins at `from` and has `steps` steps.
    fn block(&self, from: usize, steps: usize) -> std::slice::ChunksExact<'_, T> {
        let lines = self.lines.next_multiple_of(self.width);
        self.values[from * lines..][..steps * lines].chunks_exact(steps * self.width)
    }
}

/// Copies at most `W` rows of a matrix into a panel, from column `from` on.
fn pack_panel<T: Real, const W: usize>(mat: Mat<T>, from: usize, panel: &mut [T]) {
    let (steps, _) = panel.as_chunks_mut::<W>();
    if mat.row_stride == 1 && mat.rows == W {
        for (step, to) in (from..).zip(steps) {
            to.copy_from_slice(&mat.data[step * mat.col_stride..][..W]);
        }
        return;
    }
    for line in 0..mat.rows {
        let values = &mat.data[line * mat.row_stride + from * mat.col_stride..];
        for (to, value) in steps.iter_mut().zip(values.iter().step_by(mat.col_stride)) {
            to[line] = *value;
        }
    }
}

/// Computes `c = a b`, or `c += a b` with `accumulate`, on all threads.
///
/// Shapes: a `m x k`, b `k x n`, c `m x n`.
pub fn matmul<T: Real>(a: Mat<T>, b: Mat<T>, accumulate: bool, c: MatMut<T>) {
    if c.rows * c.cols * a.cols < MIN_PARALLEL_WORK {
        let a = Packed::new(a, Side::Left, Threads::One);
        let b = Packed::new(b, Side::Right, Threads::One);
        return multiply(1.0, &a, &b, accumulate, c);
    }
    let right = Packed::new(b, Side::Right, Threads::All);
    let workers = rayon::current_num_threads();
    let (rows, cols) = task_size([c.rows, c.cols], [ROWS, COLS], PANELS_PER_TASK, workers);
    let blocks = c.blocks(rows, cols).into_par_iter();
    blocks.for_each(|(row, col, c)| {
        let left = Packed::new(a.rows(row, c.rows), Side::Left, Threads::One);
        multiply_part(T::one(), &left, &right, col / COLS, accumulate, c);
    });
}

/// Computes `c = alpha a b`, or `c += alpha a b` with `accumulate`, of packed operands on this
/// thread.
///
/// # Panics
/// The shapes do not fit, which is a bug and never the input's fault.
pub fn multiply<T: Real>(alpha: f64, a: &Packed<T>, b: &Packed<T>, accumulate: bool, c: MatMut<T>) {
    assert_eq!(
        (a.lines, b.lines),
        (c.rows, c.cols),
        "product: shapes do not fit"
    );
    multiply_part(T::of(alpha), a, b, 0, accumulate, c);
}

/// [`multiply`] for the columns of `b` from panel `first` on, as many as `c` has.
fn multiply_part<T: Real>(
    alpha: T,
    a: &Packed<T>,
    b: &Packed<T>,
    first: usize,
    accumulate: bool,
    mut c: MatMut<T>,
) {
    assert_eq!(a.depth, b.depth, "product: shapes do not fit");
    if a.depth == 0 && !accumulate {
        (0..c.rows).for_each(|row| c.row(row).fill(T::zero()));
    }
    let compute_tile = tile_kernel::<T>();
    let mut tile = [[T::zero(); COLS]; ROWS];
    for from in (0..a.depth).step_by(BLOCK_DEPTH) {
        let steps = BLOCK_DEPTH.min(a.depth - from);
        let adds = accumulate || from > 0;
        let panels = c.cols.div_ceil(COLS);
        for (col, right) in (0..).zip(b.block(from, steps).skip(first).take(panels)) {
            let cols = COLS.min(c.cols - col * COLS);
            for (row, left) in (0..).zip(a.block(from, steps)) {
                compute_tile(left, right, &mut tile);
                for (row, sums) in (row * ROWS..c.rows).zip(&tile) {
                    let to = &mut c.row(row)[col * COLS..][..cols];
                    if adds {
                        to.iter_mut()
                            .zip(sums)
                            .for_each(|(to, sum)| *to += alpha * *sum);
                    } else {
                        to.iter_mut()
                            .zip(sums)
                            .for_each(|(to, sum)| *to = alpha * *sum);
                    }
                }
            }
        }
    }
}

/// Computes the product of a panel of the left operand and one of the right operand.
type TileKernel<T> = fn(&[T], &[T], &mut Tile<T>);

/// Returns the kernel for this machine.
fn tile_kernel<T: Real>() -> TileKernel<T> {
    #[cfg(target_arch = "x86_64")]
    {
        if util::cpu::has_avx512() {
            // SAFETY: the features were just found on this machine.
            return |left, right, tile| unsafe { tile_avx512(left, right, tile) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return |left, right, tile| unsafe { tile_avx2(left, right, tile) };
        }
    }
    tile_portable
}

/// The tile by registers of 512 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,fma")]
fn tile_avx512<T: Real>(left: &[T], right: &[T], tile: &mut Tile<T>) {
    columns::<T, COLS>(left, right, 0, tile);
}

/// The tile by registers of 256 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_avx2<T: Real>(left: &[T], right: &[T], tile: &mut Tile<T>) {
    for col in (0..COLS).step_by(AVX2_COLS) {
        columns::<T, AVX2_COLS>(left, right, col, tile);
    }
}

/// The tile by what the target always has. An x86-64 processor without AVX2 has no fused
/// multiply-add and calls a function of the same result, which is slow.
fn tile_portable<T: Real>(left: &[T], right: &[T], tile: &mut Tile<T>) {
    for col in (0..COLS).step_by(4) {
        columns::<T, 4>(left, right, col, tile);
    }
}

/// Computes `C` columns of a tile from column `col` on. The sums stay in registers, because the
/// compiler unrolls both inner loops.
#[inline(always)]
fn columns<T: Real, const C: usize>(left: &[T], right: &[T], col: usize, tile: &mut Tile<T>) {
    let mut sums = [[T::zero(); C]; ROWS];
    let (left, _) = left.as_chunks::<ROWS>();
    let (right, _) = right.as_chunks::<COLS>();
    for (a, b) in left.iter().zip(right) {
        let Some(b) = b[col..].first_chunk::<C>() else {
            return;
        };
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    for (to, sums) in tile.iter_mut().zip(sums) {
        to[col..][..C].copy_from_slice(&sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;

    fn single(seed: u64, n: usize) -> Vec<f32> {
        noise(seed, n).iter().map(|v| *v as f32).collect()
    }

    /// The product as the module's first paragraph defines it, one element after the other.
    fn by_definition(a: &Mat<f32>, b: &Mat<f32>, start: f32, row: usize, col: usize) -> f32 {
        let at = |m: &Mat<f32>, i: usize, j: usize| m.data[i * m.row_stride + j * m.col_stride];
        let mut result = start;
        for from in (0..a.cols).step_by(BLOCK_DEPTH) {
            let mut sum = 0f32;
            for k in from..a.cols.min(from + BLOCK_DEPTH) {
                sum = at(a, row, k).mul_add(at(b, k, col), sum);
            }
            result += sum;
        }
        result
    }

    const SHAPES: [[usize; 3]; 7] = [
        [1, 1, 1],
        [6, 32, 192],
        [7, 33, 193],
        [5, 300, 20],
        [200, 31, 400],
        [64, 64, 1215],
        [400, 70, 65],
    ];

    #[test]
    fn every_layout_and_thread_count_gives_the_defined_bits() {
        for [rows, cols, depth] in SHAPES {
            let (a, b) = (single(1, rows * depth), single(2, depth * cols));
            let start = single(3, rows * cols);
            for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)]
            {
                let left = match a_turned {
                    true => Mat::new(&a, depth, rows).t(),
                    false => Mat::new(&a, rows, depth),
                };
                let right = match b_turned {
                    true => Mat::new(&b, cols, depth).t(),
                    false => Mat::new(&b, depth, cols),
                };
                let want: Vec<f32> = (0..rows * cols)
                    .map(|i| by_definition(&left, &right, start[i], i / cols, i % cols))
                    .collect();
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap();
                    let mut c = start.clone();
                    pool.install(|| matmul(left, right, true, MatMut::new(&mut c, rows, cols)));
                    assert!(c == want, "{rows} x {cols} x {depth}, {threads} threads");
                }
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let (left, right) = (single(1, ROWS * 100), single(2, COLS * 100));
        let of = |kernel: TileKernel<f32>| {
            let mut tile = [[f32::NAN; COLS]; ROWS];
            kernel(&left, &right, &mut tile);
            tile
        };
        let want = of(tile_portable);
        assert!(of(tile_kernel()) == want);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just found on this machine.
            assert!(of(|left, right, tile| unsafe { tile_avx2(left, right, tile) }) == want);
        }
    }

    #[test]
    fn packed_operands_multiply_with_a_factor_and_overwrite() {
        let (a, b) = (noise(1, 7 * 5), noise(2, 5 * 40));
        let left = Packed::new(Mat::new(&a, 7, 5), Side::Left, Threads::One);
        let right = Packed::new(Mat::new(&b, 5, 40), Side::Right, Threads::One);
        let mut c = vec![f64::NAN; 7 * 40];
        multiply(0.5, &left, &right, false, MatMut::new(&mut c, 7, 40));
        for (i, got) in c.iter().enumerate() {
            let products = (0..5).map(|k| a[i / 40 * 5 + k] * b[k * 40 + i % 40]);
            let want = 0.5 * products.sum::<f64>();
            assert!((got - want).abs() < 1e-12, "{i}: {got} {want}");
        }
        let none = Packed::new(Mat::new(&[], 7, 0), Side::Left, Threads::One);
        let nothing = Packed::new(Mat::new(&[], 0, 40), Side::Right, Threads::One);
        multiply(1.0, &none, &nothing, false, MatMut::new(&mut c, 7, 40));
        assert!(c.iter().all(|v| *v == 0.0));
    }
}
