//! Products of f32 matrices by instructions that multiply bf16 and add up in f32.
//!
//! An f32 has 24 significant bits, a bf16 has 8. An operand is therefore written as a sum of one to
//! three bf16 terms, `x = x1 + x2 + x3`: three terms give single precision, two about 16 bits, one
//! is bf16 itself. The more terms, the more products: six of bf16 for one of f32 in single
//! precision.
//!
//! This module is the interface to the rest of the crate. [`panel`] packs operands in the order in
//! which the instructions read them (see [`layout`]), [`amx`] and [`avx512`] multiply two such
//! panels. [`super::fma`] computes the products that none of them does.

mod amx;
mod avx512;
mod layout;
mod panel;

use super::layout::{Mat, MatMut, Side, Threads, task_size};
pub use layout::PANEL_LINES;
use panel::{Addend, multiply};
pub use panel::{Packed, WriteTile};
use rayon::prelude::*;

/// Instructions that multiply bf16 and add up in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// The dot products of AVX-512 (`avx512_bf16`, since Cooper Lake and Zen 4).
    Avx512Bf16,
    /// The tile unit (`amx_bf16`, since Sapphire Rapids).
    AmxBf16,
}

impl Isa {
    /// Returns whether this processor has the instructions and the operating system lets this
    /// program use them.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Avx512Bf16 => avx512::is_available(),
            Isa::AmxBf16 => amx::is_available(),
        }
    }
}

/// The instructions and the precision of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    isa: Isa,
    /// The number of bf16 terms of an operand's element, one to three.
    terms: usize,
}

impl Kernel {
    /// Returns the fastest kernel of this machine that splits an f32 into `terms` bf16 terms (one
    /// to three), or `None` if [`super::fma`] is faster: with more than one term AVX-512's dot
    /// products are slower than its f32 multiply-adds.
    pub fn with_terms(terms: usize) -> Option<Kernel> {
        let isa = match terms {
            _ if Isa::AmxBf16.is_available() => Isa::AmxBf16,
            1 if Isa::Avx512Bf16.is_available() => Isa::Avx512Bf16,
            _ => return None,
        };
        Some(Kernel { isa, terms })
    }
}

/// The numbers of panels of the left operand that one task may keep in its second-level cache.
const PANELS_PER_TASK: std::ops::RangeInclusive<usize> = 3..=6;
/// The depth of a block, chosen so that the left operand's panels of a task fit the second-level
/// cache: five panels of three terms take 960 KiB, where cores with AMX have 2 MiB.
const BLOCK_DEPTH: usize = 1024;

/// Returns whether a product of `rows x depth` by `depth x cols` is large enough for packing its
/// operands to pay.
pub fn is_profitable(rows: usize, cols: usize, depth: usize) -> bool {
    rows >= 8 && cols >= 16 && depth >= 16 && rows * cols * depth >= 1 << 15
}

/// Computes `c = a b`, or the sum of `a b` and the matrix that `addend` writes, on all threads.
/// Every element of `c` is written, and none is read before.
///
/// Shapes: a `m x k` with `k > 0`, b `k x n`, c `m x n`.
///
/// # Panics
/// The shapes do not fit, which is a bug and never the input's fault.
pub fn matmul(
    a: Mat<f32>,
    b: Mat<f32>,
    addend: Option<WriteTile>,
    mut c: MatMut<f32>,
    kernel: Kernel,
) {
    assert!(a.cols > 0, "a product without depth");
    let depth = a.cols;
    let block_depth = depth
        .div_ceil(depth.div_ceil(BLOCK_DEPTH))
        .next_multiple_of(layout::STEP_DEPTH);
    for from in (0..depth).step_by(block_depth) {
        let count = block_depth.min(depth - from);
        let (a, b) = (a.t().rows(from, count).t(), b.rows(from, count));
        let right = Packed::new(b, Side::Right, kernel, Threads::All);
        let (rows, cols) = task_size(
            [c.rows, c.cols],
            [PANEL_LINES; 2],
            PANELS_PER_TASK,
            rayon::current_num_threads(),
        );
        let task = |(row, col, c): (usize, usize, MatMut<f32>)| {
            let left = Packed::new(a.rows(row, c.rows), Side::Left, kernel, Threads::One);
            let addend = match addend {
                _ if from > 0 => Addend::Result,
                Some(write) => Addend::Tile(write, row, col),
                None => Addend::Zero,
            };
            multiply(1.0, &left, &right, col / PANEL_LINES, addend, c);
        };
        let blocks = c.reborrow().blocks(rows, cols);
        blocks.into_par_iter().for_each(task);
    }
}

/// Computes `c = alpha a b`, or `c += alpha a b` with `accumulate`, of packed operands on this
/// thread.
pub fn matmul_packed(alpha: f32, a: &Packed, b: &Packed, accumulate: bool, c: MatMut<f32>) {
    assert_eq!(
        (a.lines(), b.lines()),
        (c.rows, c.cols),
        "product: shapes do not fit"
    );
    let addend = match accumulate {
        true => Addend::Result,
        false => Addend::Zero,
    };
    multiply(alpha, a, b, 0, addend, c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;
    use util::skip::{Missing, skip};

    fn single(seed: u64, n: usize) -> Vec<f32> {
        noise(seed, n).iter().map(|v| *v as f32).collect()
    }

    /// Returns the largest error of `a b`, relative to the sum of the products' magnitudes.
    fn error([rows, cols, depth]: [usize; 3], transposed: (bool, bool), kernel: Kernel) -> f64 {
        let (a, b) = (single(1, rows * depth), single(2, depth * cols));
        let left = match transposed.0 {
            true => Mat::new(&a, depth, rows).t(),
            false => Mat::new(&a, rows, depth),
        };
        let right = match transposed.1 {
            true => Mat::new(&b, cols, depth).t(),
            false => Mat::new(&b, depth, cols),
        };
        let start = single(3, rows * cols);
        let write_tile = |row: usize, col: usize, count: usize, to: &mut [f32]| {
            for (row, to) in (row..).zip(to.chunks_exact_mut(PANEL_LINES)) {
                to[..count].copy_from_slice(&start[row * cols + col..][..count]);
            }
        };
        let mut c = vec![f32::NAN; rows * cols];
        matmul(
            left,
            right,
            Some(&write_tile),
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
        for (isa, terms, limit) in [
            (Isa::Avx512Bf16, 1, 5e-3),
            (Isa::AmxBf16, 3, exact),
            (Isa::AmxBf16, 2, 1.2e-5),
            (Isa::AmxBf16, 1, 5e-3),
        ] {
            if !isa.is_available() {
                skip(
                    Missing::Platform,
                    format_args!("the processor has no {isa:?}"),
                );
                continue;
            }
            let kernel = Kernel { isa, terms };
            let mut worst = 0.0f64;
            for transposed in [(false, false), (false, true), (true, false), (true, true)] {
                for shape in shapes {
                    let error = error(shape, transposed, kernel);
                    worst = worst.max(error);
                    assert!(
                        error < limit,
                        "{kernel:?}, {shape:?}, {transposed:?}: {error}"
                    );
                }
            }
            println!("{kernel:?}: largest error {worst:.1e}");
            // A kernel of one term does round its operands to bf16.
            let rounds = limit == 5e-3;
            let error = error([64, 64, 64], (false, false), kernel);
            assert_eq!(error > 1e-4, rounds, "{kernel:?}: {error}");
        }
    }

    /// Both kernels multiply the same bf16 numbers; only the order of the sums differs.
    #[test]
    fn avx512_and_amx_agree_in_bf16() {
        let [avx512, amx] = [Isa::Avx512Bf16, Isa::AmxBf16];
        if !avx512.is_available() || !amx.is_available() {
            skip(Missing::Platform, "the processor lacks AVX512-BF16 or AMX");
            return;
        }
        let (a, b) = (single(1, 40 * 100), single(2, 100 * 50));
        let matmul_by = |isa| {
            let mut c = vec![0f32; 40 * 50];
            let (a, b) = (Mat::new(&a, 40, 100), Mat::new(&b, 100, 50));
            matmul(
                a,
                b,
                None,
                MatMut::new(&mut c, 40, 50),
                Kernel { isa, terms: 1 },
            );
            c
        };
        for (x, y) in matmul_by(avx512).iter().zip(matmul_by(amx)) {
            assert!((x - y).abs() < 1e-4, "{x} {y}");
        }
    }
}
