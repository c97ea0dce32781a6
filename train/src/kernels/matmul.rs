//! Matrix views and the one matrix product everything uses.

use super::Real;
use gemm::Parallelism;
use std::marker::PhantomData;

/// A read-only matrix in a slice, with any strides; `t()` transposes it without copying.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A `rows` x `cols` row-major matrix that fills the slice.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A `rows` x `cols` matrix at the start of the slice with `stride` elements between rows.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        if rows > 0 && cols > 0 {
            assert!(
                (rows - 1) * stride + cols <= data.len(),
                "matrix view out of bounds"
            );
        }
        Mat {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A mutable row-major matrix; see [`Mat`].
pub struct MatMut<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    _life: PhantomData<&'a mut [T]>,
}

impl<'a, T> MatMut<'a, T> {
    /// A `rows` x `cols` matrix that fills the slice.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert!(rows * cols <= data.len(), "matrix view out of bounds");
        MatMut {
            data: data.as_mut_ptr(),
            rows,
            cols,
            stride: cols,
            _life: PhantomData,
        }
    }

    /// # Safety
    /// Every element must be valid for writing for `'a`, and no other live view may touch it.
    pub unsafe fn from_raw(data: *mut T, rows: usize, cols: usize, stride: usize) -> Self {
        MatMut {
            data,
            rows,
            cols,
            stride,
            _life: PhantomData,
        }
    }

    /// Row `i` as a slice.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: rows lie inside the view, which this borrow holds alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
    }
}

/// Whether a product may use all threads or is itself one task among many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Spread over the rayon pool.
    All,
    /// Stay on the calling thread.
    One,
}

/// `c = alpha a b`, or `c += alpha a b` with `accumulate`.
///
/// Shapes: a `m x k`, b `k x n`, c `m x n`. Panics on shapes that do not fit: a bug, never input.
pub fn matmul<T: Real>(
    alpha: f64,
    a: Mat<T>,
    b: Mat<T>,
    accumulate: bool,
    c: MatMut<T>,
    threads: Threads,
) {
    assert_eq!(
        (a.rows, a.cols, b.cols),
        (c.rows, b.rows, c.cols),
        "matmul: shapes do not fit"
    );
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    // SAFETY: all three views were checked against their slices when they were made, the shapes
    // fit, and `c` is borrowed mutably so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
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
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_strided_and_transposed_views() {
        // a: columns 1..3 of a 2x4 matrix; b: 3x2 seen transposed.
        let a: Vec<f64> = (0..8).map(f64::from).collect();
        let b: Vec<f64> = (0..6).map(|x| f64::from(x) * 0.5).collect();
        let mut c = vec![1.0; 6];
        matmul(
            2.0,
            Mat::strided(&a[1..], 2, 2, 4),
            Mat::new(&b, 3, 2).t(),
            true,
            MatMut::new(&mut c, 2, 3),
            Threads::One,
        );
        let want: Vec<f64> = (0..2)
            .flat_map(|i| (0..3).map(move |j| (i, j)))
            .map(|(i, j)| 1.0 + 2.0 * (0..2).map(|k| a[1 + i * 4 + k] * b[j * 2 + k]).sum::<f64>())
            .collect();
        assert_eq!(c, want);
    }
}
