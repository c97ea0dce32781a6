//! Matrix views, and the layout of packed rows.

use super::Real;
#[cfg(target_arch = "x86_64")]
use std::any::TypeId;
use std::marker::PhantomData;

/// Which sample and which position in it each row of a packed token matrix is.
///
/// Sequences lie one after the other; sequence `s` is rows `offsets[s]..offsets[s + 1]`.
#[derive(Clone, Debug)]
pub struct PackedRows {
    /// Row numbers where sequences begin, and the total as the last entry.
    pub offsets: Vec<usize>,
    /// What identifies each sequence to the random generator.
    pub samples: Vec<u32>,
}

impl PackedRows {
    /// Sequence `s`, named `samples[s]`, is rows `offsets[s]..offsets[s + 1]`.
    pub fn new(offsets: Vec<usize>, samples: Vec<u32>) -> PackedRows {
        PackedRows { offsets, samples }
    }

    /// Total number of rows.
    pub fn len(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.samples.len()
    }

    /// The sample and the position in it of row `row`.
    pub fn locate(&self, row: usize) -> (u32, usize) {
        let s = self.offsets.partition_point(|o| *o <= row) - 1;
        (self.samples[s], row - self.offsets[s])
    }
}

/// A read-only matrix in a slice, with any strides; `t()` transposes it without copying.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
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

    /// Some of the rows.
    pub(super) fn rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "matrix view out of bounds");
        Mat {
            data: &self.data[first * self.row_stride..],
            rows: count,
            ..self
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

/// Whether the type is `f32`, for which there are kernels of its own.
#[cfg(target_arch = "x86_64")]
fn is_f32<T: Real>() -> bool {
    TypeId::of::<T>() == TypeId::of::<f32>()
}

#[cfg(target_arch = "x86_64")]
impl<'a, T: Real> Mat<'a, T> {
    /// The matrix as one of `f32`, where it is.
    pub(super) fn single(self) -> Option<Mat<'a, f32>> {
        (is_f32::<T>()).then(|| Mat {
            // SAFETY: the type is `f32`, as was just compared.
            data: unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.data.len()) },
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        })
    }
}

/// A mutable row-major matrix; see [`Mat`].
pub struct MatMut<'a, T> {
    pub(super) data: *mut T,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
    _life: PhantomData<&'a mut [T]>,
}

// SAFETY: a view is the only one of its elements, as `&mut [T]` would be.
unsafe impl<T: Send> Send for MatMut<'_, T> {}

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

    /// The matrix as one of `f32`, which it must be.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn single(self) -> MatMut<'a, f32>
    where
        T: Real,
    {
        assert!(is_f32::<T>());
        MatMut {
            data: self.data.cast(),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            _life: PhantomData,
        }
    }

    /// The same matrix, for a shorter time.
    pub(super) fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            _life: PhantomData,
            ..*self
        }
    }

    /// Cuts the matrix into blocks of so many rows and columns, those at the ends perhaps smaller;
    /// each with its first row and column.
    pub(super) fn blocks(self, rows: usize, cols: usize) -> Vec<(usize, usize, MatMut<'a, T>)> {
        let starts = (0..self.rows).step_by(rows);
        let starts = starts.flat_map(|row| (0..self.cols).step_by(cols).map(move |col| (row, col)));
        let block = |(row, col)| MatMut {
            // Inside the view: `row` and `col` are of it.
            data: self.data.wrapping_add(row * self.stride + col),
            rows: rows.min(self.rows - row),
            cols: cols.min(self.cols - col),
            ..self
        };
        starts
            .map(|start| (start.0, start.1, block(start)))
            .collect()
    }

    /// Row `i` as a slice.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: rows lie inside the view, which this borrow holds alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
    }
}

/// Whether work may use all threads or is itself one task among many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Spread over the rayon pool.
    All,
    /// Stay on the calling thread.
    One,
}
