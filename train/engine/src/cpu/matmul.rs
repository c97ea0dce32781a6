//! Matrix products: of `f32` by the kernels of [`super::bf16`] where the processor has instructions
//! for the precision, all others by the `gemm` crate.

use super::Real;
#[cfg(target_arch = "x86_64")]
use super::bf16::{self, Kernel, Packed, Side};
#[cfg(target_arch = "x86_64")]
use super::layout::Threads;
use super::layout::{Mat, MatMut};
use super::lora::Epilogue;
use super::parallel::zeros;
use crate::precision::Precision;
use gemm::Parallelism;
use rayon::prelude::*;

/// An operand of several products, packed once if a kernel of [`super::bf16`] multiplies it.
pub enum Operand<'a, T> {
    /// A view, for the `gemm` crate.
    Plain(Mat<'a, T>),
    /// A copy in the order in which a kernel reads it.
    #[cfg(target_arch = "x86_64")]
    Packed(Packed),
}

impl<'a, T: Real> Operand<'a, T> {
    /// Prepares the first operand, `a`.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn left(mat: Mat<'a, T>, precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = pack(mat, Side::Left, precision) {
            return Operand::Packed(packed);
        }
        Operand::Plain(mat)
    }

    /// Prepares the second operand, `b`.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn right(mat: Mat<'a, T>, precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(packed) = pack(mat, Side::Right, precision) {
            return Operand::Packed(packed);
        }
        Operand::Plain(mat)
    }
}

/// Packs an operand of `f32` for the kernel that multiplies it. Returns `None` if there is none.
#[cfg(target_arch = "x86_64")]
fn pack<T: Real>(mat: Mat<T>, side: Side, precision: Precision) -> Option<Packed> {
    let (mat, kernel) = (mat.as_f32()?, kernel(precision)?);
    Some(Packed::new(mat, side, kernel, Threads::One))
}

/// Computes `c = alpha a b`, or `c += alpha a b` with `accumulate`, of prepared operands on the
/// calling thread.
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
            bf16::matmul_packed(alpha as f32, a, b, accumulate, c.into_f32());
        }
        #[cfg(target_arch = "x86_64")]
        _ => unreachable!("operands of one type and precision are prepared alike"),
    }
}

/// Returns the kernel for products of `f32` in this precision, or `None` if the `gemm` crate
/// computes them, in single precision.
///
/// The terms are those of an operand's element: three bf16 hold the 24 significant bits of an
/// `f32`, two hold 16.
#[cfg(target_arch = "x86_64")]
fn kernel(precision: Precision) -> Option<Kernel> {
    Kernel::with_terms(match precision {
        Precision::F32 => 3,
        Precision::Tf32 => 2,
        Precision::Bf16 => 1,
    })
}

/// Returns whether the processor has instructions for products in this precision. Where it has
/// none, they are computed in single precision.
pub fn is_supported(precision: Precision) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_kernel = kernel(precision).is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let has_kernel = false;
    has_kernel || precision == Precision::F32
}

/// Returns `a b`, or the sum of `a b` and the epilogue, row-major, computed on all threads.
///
/// Shapes: a `m x k`, b `k x n`, epilogue and result `m x n`.
///
/// # Panics
/// The shapes do not fit, which is a bug and never the input's fault.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
pub fn product<T: Real>(
    a: Mat<T>,
    b: Mat<T>,
    epilogue: Option<&Epilogue<T>>,
    precision: Precision,
) -> Vec<T> {
    assert_eq!(a.cols, b.rows, "product: shapes do not fit");
    let (rows, cols) = (a.rows, b.cols);
    if let Some(epilogue) = epilogue {
        assert_eq!((rows, cols), epilogue.shape(), "product: shapes do not fit");
    }
    #[cfg(target_arch = "x86_64")]
    if let Some((a, b)) = a.as_f32().zip(b.as_f32())
        && bf16::is_profitable(rows, cols, a.cols)
        && let Some(kernel) = kernel(precision)
    {
        return product_by(kernel, a, b, epilogue);
    }
    let mut made = match epilogue {
        Some(epilogue) => epilogue.to_vec(),
        None => zeros(rows * cols),
    };
    gemm_threaded(a, b, epilogue.is_some(), MatMut::new(&mut made, rows, cols));
    made
}

/// [`product`] by a kernel for `f32`, which `T` must be.
#[cfg(target_arch = "x86_64")]
fn product_by<T: Real>(
    kernel: Kernel,
    a: Mat<f32>,
    b: Mat<f32>,
    epilogue: Option<&Epilogue<T>>,
) -> Vec<T> {
    let (rows, cols) = (a.rows, b.cols);
    let mut made: Vec<T> = Vec::with_capacity(rows * cols);
    // SAFETY: there is room for all of it, which no one else knows of; it is written before it is
    // read.
    let c = unsafe { MatMut::from_raw(made.as_mut_ptr(), rows, cols, cols) };
    // Fails if `T` is not `f32`.
    let c = c.into_f32();
    let write_tile = |row: usize, col: usize, cols: usize, tile: &mut [f32]| {
        // SAFETY: `T` is `f32`, as `into_f32` has just compared.
        let tile = unsafe { std::slice::from_raw_parts_mut(tile.as_mut_ptr().cast(), tile.len()) };
        if let Some(epilogue) = epilogue {
            epilogue.write_tile(row, col, cols, tile, bf16::PANEL_LINES);
        }
    };
    let write_tile: bf16::WriteTile = &write_tile;
    bf16::matmul(a, b, epilogue.map(|_| write_tile), c, kernel);
    // SAFETY: `bf16::matmul` has written every element.
    unsafe { made.set_len(rows * cols) };
    made
}

/// The number of multiplications from which on a product pays for waking other threads.
const MIN_PARALLEL_WORK: usize = 1 << 18;

/// Computes `c = a b`, or `c += a b` with `accumulate`, by the `gemm` crate on all threads.
fn gemm_threaded<T: Real>(a: Mat<T>, b: Mat<T>, accumulate: bool, c: MatMut<T>) {
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let tasks = match c.rows * c.cols * a.cols >= MIN_PARALLEL_WORK {
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

/// Computes `c = alpha a b`, or `c += alpha a b` with `accumulate`, by the `gemm` crate on the
/// calling thread.
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
        let epilogue = Epilogue::new(&[1.0, 1.0, 1.0], 1.0, &[], &[], 2);
        let b_t = Mat::new(&b, 3, 2).t();
        let c = product(a, b_t, Some(&epilogue), Precision::F32);
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
