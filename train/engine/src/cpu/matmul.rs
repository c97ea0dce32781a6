//! The one matrix product everything uses.

use super::Real;
#[cfg(target_arch = "x86_64")]
use super::bf16::{self, Kernel, Packed, Side};
#[cfg(target_arch = "x86_64")]
use super::layout::Threads;
use super::layout::{Mat, MatMut};
use super::lora::Start;
use super::parallel::zeros;
use gemm::Parallelism;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU8, Ordering};

/// An operand of several products, packed once where a kernel of [`super::bf16`] multiplies them.
pub enum Operand<'a, T> {
    /// As it is.
    Plain(Mat<'a, T>),
    /// Packed.
    #[cfg(target_arch = "x86_64")]
    Packed(Packed),
}

impl<'a, T: Real> Operand<'a, T> {
    /// The first operand, `a`.
    pub fn left(mat: Mat<'a, T>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = packed(mat, Side::Left) {
            return Operand::Packed(packed);
        }
        Operand::Plain(mat)
    }

    /// The second operand, `b`.
    pub fn right(mat: Mat<'a, T>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = packed(mat, Side::Right) {
            return Operand::Packed(packed);
        }
        Operand::Plain(mat)
    }
}

/// An operand of `f32` packed for the kernel that multiplies it, where there is one.
#[cfg(target_arch = "x86_64")]
fn packed<T: Real>(mat: Mat<T>, side: Side) -> Option<Packed> {
    let (mat, kernel) = (mat.single()?, kernel(precision())?);
    Some(Packed::new(mat, side, kernel, Threads::One))
}

/// `c = alpha a b`, or `c += alpha a b` with `accumulate`, of prepared operands, on the calling thread.
pub fn multiply<T: Real>(
    alpha: f64,
    a: &Operand<T>,
    b: &Operand<T>,
    accumulate: bool,
    c: MatMut<T>,
) {
    match (a, b) {
        (Operand::Plain(a), Operand::Plain(b)) => gemm(alpha, *a, *b, accumulate, c),
        #[cfg(target_arch = "x86_64")]
        (Operand::Packed(a), Operand::Packed(b)) => {
            bf16::matmul_packed(alpha as f32, a, b, accumulate, c.single());
        }
        #[cfg(target_arch = "x86_64")]
        _ => unreachable!("operands of one type are prepared alike"),
    }
}

/// Significant bits of the operands of products of `f32`; sums are always in single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// 24 bits: single precision.
    F32,
    /// 16 bits: two bf16 terms for each operand.
    Split16,
    /// 8 bits: bf16.
    Bf16,
}

/// The precision of all products of `f32`: a [`MatmulPrecision`] by its number.
static PRECISION: AtomicU8 = AtomicU8::new(MatmulPrecision::F32 as u8);

#[cfg(target_arch = "x86_64")]
fn precision() -> MatmulPrecision {
    let all = [
        MatmulPrecision::F32,
        MatmulPrecision::Split16,
        MatmulPrecision::Bf16,
    ];
    all[usize::from(PRECISION.load(Ordering::Relaxed))]
}

/// The kernel for products of this precision; `None` where the `gemm` crate computes them, in `f32`.
#[cfg(target_arch = "x86_64")]
fn kernel(precision: MatmulPrecision) -> Option<Kernel> {
    Kernel::with_terms(match precision {
        MatmulPrecision::F32 => 3,
        MatmulPrecision::Split16 => 2,
        MatmulPrecision::Bf16 => 1,
    })
}

/// Sets the precision of all products of `f32` from now on. `false` where the processor has no instructions for
/// it: products are then computed in `f32`.
pub fn set_precision(precision: MatmulPrecision) -> bool {
    PRECISION.store(precision as u8, Ordering::Relaxed);
    #[cfg(target_arch = "x86_64")]
    let supported = kernel(precision).is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let supported = false;
    supported || precision == MatmulPrecision::F32
}

/// `a b`, or `a b` added to `start`, row-major, on all threads.
///
/// Shapes: a `m x k`, b `k x n`, start and result `m x n`. Panics on shapes that do not fit: a bug, never input.
pub fn product<T: Real>(a: Mat<T>, b: Mat<T>, start: Option<&Start<T>>) -> Vec<T> {
    assert_eq!(a.cols, b.rows, "product: shapes do not fit");
    let (rows, cols) = (a.rows, b.cols);
    if let Some(start) = start {
        assert_eq!((rows, cols), start.shape(), "product: shapes do not fit");
    }
    #[cfg(target_arch = "x86_64")]
    if let Some((a, b)) = a.single().zip(b.single())
        && bf16::is_profitable(rows, cols, a.cols)
        && let Some(kernel) = kernel(precision())
    {
        let mut made: Vec<T> = Vec::with_capacity(rows * cols);
        // SAFETY: there is room for all of it, which no one else knows of; it is written before it is read.
        let c = unsafe { MatMut::from_raw(made.as_mut_ptr(), rows, cols, cols) };
        let fill = |row: usize, col: usize, cols: usize, to: &mut [f32]| {
            // SAFETY: `T` is `f32`: `a` is of both.
            let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len()) };
            if let Some(start) = start {
                start.fill(row, col, cols, to, bf16::PANEL_LINES);
            }
        };
        let fill: bf16::Fill = &fill;
        bf16::matmul(a, b, start.map(|_| fill), c.single(), kernel);
        // SAFETY: `bf16::matmul` has written every element.
        unsafe { made.set_len(rows * cols) };
        return made;
    }
    let mut made = match start {
        Some(start) => start.rows(),
        None => zeros(rows * cols),
    };
    gemm_threaded(a, b, start.is_some(), MatMut::new(&mut made, rows, cols));
    made
}

/// Multiplications that are worth waking other threads for.
const WORTH_SHARING: usize = 1 << 18;

/// `c = a b`, or `c += a b` with `accumulate`, by the `gemm` crate on all threads.
fn gemm_threaded<T: Real>(a: Mat<T>, b: Mat<T>, accumulate: bool, c: MatMut<T>) {
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let tasks = match c.rows * c.cols * a.cols >= WORTH_SHARING {
        true => rayon::current_num_threads().min(c.rows.max(c.cols)),
        false => 1,
    };
    if tasks == 1 {
        return gemm(1.0, a, b, accumulate, c);
    }
    // Each thread has a part of its own and waits for nobody: the library's own threads meet after
    // every block of the product. The longer side is cut, so that the shorter one, which each
    // thread packs for itself, is packed again as seldom as can be.
    let (rows, cols) = if c.rows >= c.cols {
        (c.rows.div_ceil(tasks), c.cols)
    } else {
        (c.rows, c.cols.div_ceil(tasks))
    };
    let parts = c.blocks(rows, cols).into_par_iter();
    parts.for_each(|(row, col, c)| {
        let (a, b) = (a.rows(row, c.rows), b.t().rows(col, c.cols).t());
        gemm(1.0, a, b, accumulate, c);
    });
}

/// `c = alpha a b`, or `c += alpha a b` with `accumulate`, by the `gemm` crate on the calling thread.
fn gemm<T: Real>(alpha: f64, a: Mat<T>, b: Mat<T>, accumulate: bool, c: MatMut<T>) {
    // SAFETY: all three views were checked against their slices when they were made, the shapes
    // fit, and `c` is borrowed mutably so it overlaps neither `a` nor `b`.
    unsafe {
        ::gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data,
            1,
            c.stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::of(1.0),
            T::of(alpha),
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_strided_and_transposed_views() {
        // a: columns 1..3 of a 2x4 matrix; b: 3x2 seen transposed.
        let numbers: Vec<f64> = (0..8).map(f64::from).collect();
        let b: Vec<f64> = (0..6).map(|x| f64::from(x) * 0.5).collect();
        let a = Mat::strided(&numbers[1..], 2, 2, 4);
        let start = Start::new(&[1.0, 1.0, 1.0], 1.0, &[], &[], 2);
        let c = product(a, Mat::new(&b, 3, 2).t(), Some(&start));
        let want: Vec<f64> = (0..2)
            .flat_map(|i| (0..3).map(move |j| (i, j)))
            .map(|(i, j)| {
                1.0 + (0..2)
                    .map(|k| numbers[1 + i * 4 + k] * b[j * 2 + k])
                    .sum::<f64>()
            })
            .collect();
        assert_eq!(c, want);
    }
}
