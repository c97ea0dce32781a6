//! Matrix views, and the layout of packed rows.

use super::Real;
#[cfg(target_arch = "x86_64")]
use std::any::TypeId;
use std::marker::PhantomData;

/// The layout of a packed token matrix: sequences of different lengths, one after another without
/// padding.
#[derive(Clone, Debug)]
pub struct PackedRows {
    /// The rows at which sequences begin, and the total number of rows as the last entry.
    pub offsets: Vec<usize>,
    /// The number by which the random generator knows each sequence.
    pub samples: Vec<u32>,
}

impl PackedRows {
    /// Makes the layout in which sequence `s` is rows `offsets[s]..offsets[s + 1]` and belongs to
    /// sample `samples[s]`.
    pub fn new(offsets: Vec<usize>, samples: Vec<u32>) -> PackedRows {
        PackedRows { offsets, samples }
    }

    /// Returns the total number of rows.
    pub fn len(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of sequences.
    pub fn sequences(&self) -> usize {
        self.samples.len()
    }

    /// Returns the number of rows of the longest sequence.
    pub fn longest(&self) -> usize {
        let lengths = self.offsets.windows(2).map(|ends| ends[1] - ends[0]);
        lengths.max().unwrap_or(0)
    }

    /// Returns the sample that a row belongs to, and the row's position in its sequence.
    pub fn locate(&self, row: usize) -> (u32, usize) {
        let s = self.offsets.partition_point(|o| *o <= row) - 1;
        (self.samples[s], row - self.offsets[s])
    }
}

/// A read-only matrix in a slice, with any strides.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Views the slice as a row-major `rows` x `cols` matrix that fills it.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Views the start of the slice as a `rows` x `cols` matrix with `stride` elements between
    /// rows.
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

    /// Returns the number of rows and of columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Returns `count` rows from `first` on.
    pub(super) fn rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "matrix view out of bounds");
        Mat {
            data: &self.data[first * self.row_stride..],
            rows: count,
            ..self
        }
    }

    /// Returns the transpose, without copying.
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

/// Returns whether the type is `f32`, which has kernels of its own.
#[cfg(target_arch = "x86_64")]
fn is_f32<T: Real>() -> bool {
    TypeId::of::<T>() == TypeId::of::<f32>()
}

#[cfg(target_arch = "x86_64")]
impl<'a, T: Real> Mat<'a, T> {
    /// Returns the matrix as one of `f32`, if `T` is that type.
    pub(super) fn as_f32(self) -> Option<Mat<'a, f32>> {
        is_f32::<T>().then(|| Mat {
            // SAFETY: the type is `f32`, as was just compared.
            data: unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.data.len()) },
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        })
    }
}

/// A mutable row-major matrix, see [`Mat`].
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
    /// Views the slice as a `rows` x `cols` matrix that fills it.
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

    /// Views memory as a `rows` x `cols` matrix with `stride` elements between rows.
    ///
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

    /// Returns the matrix as one of `f32`, which `T` must be.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn into_f32(self) -> MatMut<'a, f32>
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

    /// Returns the same matrix for a shorter time.
    pub(super) fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            _life: PhantomData,
            ..*self
        }
    }

    /// Cuts the matrix into blocks of `rows` x `cols`, those at the ends perhaps smaller, and
    /// returns each with its first row and column.
    pub(super) fn blocks(self, rows: usize, cols: usize) -> Vec<(usize, usize, MatMut<'a, T>)> {
        let starts = (0..self.rows).step_by(rows);
        let starts = starts.flat_map(|row| (0..self.cols).step_by(cols).map(move |col| (row, col)));
        let block = |(row, col)| MatMut {
            // `row` and `col` are of the view, so this lies inside it.
            data: self.data.wrapping_add(row * self.stride + col),
            rows: rows.min(self.rows - row),
            cols: cols.min(self.cols - col),
            ..self
        };
        starts
            .map(|start| (start.0, start.1, block(start)))
            .collect()
    }

    /// Returns row `i` as a slice.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: rows lie inside the view, which this borrow holds alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
    }
}

/// Some columns of each row of a row-major matrix.
#[derive(Clone, Copy)]
pub struct Columns<'a, T> {
    /// The matrix.
    pub data: &'a [T],
    /// The elements between its rows.
    pub stride: usize,
    /// The first of the columns.
    pub start: usize,
}

impl<'a, T> Columns<'a, T> {
    /// Returns `count` of the columns in row `row`.
    pub fn row(&self, row: usize, count: usize) -> &'a [T] {
        &self.data[row * self.stride + self.start..][..count]
    }
}

/// The threads that a function may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// All threads of the rayon pool.
    All,
    /// The calling thread alone, because it is one task among many.
    One,
}

/// The side of a product that an operand is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The operand `a`, whose lines are rows.
    Left,
    /// The operand `b`, whose lines are columns.
    Right,
}

/// Returns the rows and columns of a product that one task computes: as many panels of rows as fit
/// its cache and give all threads the same number of tasks. Columns are cut if there are too few
/// rows for that.
///
/// `panel` holds the lines of a panel of either side, and `panels` the numbers of panels of rows
/// that fit the cache.
pub(super) fn task_size(
    [rows, cols]: [usize; 2],
    panel: [usize; 2],
    panels: std::ops::RangeInclusive<usize>,
    workers: usize,
) -> (usize, usize) {
    let count = rows.div_ceil(panel[0]);
    let longest = |size: &usize| count.div_ceil(*size).div_ceil(workers) * size;
    // Of equals the first one, which is the largest because the range is reversed.
    let size = panels.rev().min_by_key(longest).unwrap_or(1);
    let tasks = count.div_ceil(size);
    let cuts = match tasks < workers {
        true => workers.div_ceil(tasks),
        false => 1,
    };
    (
        size * panel[0],
        cols.div_ceil(panel[1]).div_ceil(cuts).max(1) * panel[1],
    )
}
