//! Matrix products: of `f32` by the kernels of [`super::bf16`] where the processor has instructions
//! for the precision, all others by fused multiply-adds, see [`super::fma`].

use super::Real;
#[cfg(target_arch = "x86_64")]
use super::bf16::{self, Kernel};
use super::fma;
use super::layout::{Mat, MatMut, Side, Threads};
use super::lora::Epilogue;
use super::parallel::zeros;
use crate::precision::Precision;

/// An operand of several products, packed once in the order in which a kernel reads it.
pub enum Operand<T> {
    /// For fused multiply-adds.
    Fma(fma::Packed<T>),
    /// For a kernel of [`super::bf16`].
    #[cfg(target_arch = "x86_64")]
    Bf16(bf16::Packed),
}

impl<T: Real> Operand<T> {
    /// Packs an operand for the kernel that multiplies it.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn new(mat: Mat<T>, side: Side, precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some((mat, kernel)) = mat.as_f32().zip(kernel(precision)) {
            return Operand::Bf16(bf16::Packed::new(mat, side, kernel, Threads::One));
        }
        Operand::Fma(fma::Packed::new(mat, side, Threads::One))
    }
}

/// Computes `c = alpha a b`, or `c += alpha a b` with `accumulate`, of packed operands on the
/// calling thread.
pub fn multiply<T: Real>(
    alpha: f64,
    a: &Operand<T>,
    b: &Operand<T>,
    accumulate: bool,
    c: MatMut<T>,
) {
    match (a, b) {
        (Operand::Fma(a), Operand::Fma(b)) => fma::multiply(alpha, a, b, accumulate, c),
        #[cfg(target_arch = "x86_64")]
        (Operand::Bf16(a), Operand::Bf16(b)) => {
            bf16::matmul_packed(alpha as f32, a, b, accumulate, c.into_f32());
        }
        #[cfg(target_arch = "x86_64")]
        _ => unreachable!("operands of one type and precision are packed alike"),
    }
}

/// Returns the kernel for products of `f32` in this precision, or `None` if fused multiply-adds
/// compute them, in single precision.
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
    fma::matmul(a, b, epilogue.is_some(), MatMut::new(&mut made, rows, cols));
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
