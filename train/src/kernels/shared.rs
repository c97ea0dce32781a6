//! One buffer written by several threads in disjoint places.
//!
//! Heads of attention write interleaved columns of one matrix, which no safe split of a slice can
//! express. The matrix views made here carry their own bounds; what the caller owes is that no
//! two threads' views overlap.

use super::matmul::MatMut;
use std::marker::PhantomData;

/// A mutable slice that may be cut into overlapping-looking, yet disjoint, matrix views.
pub struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    _life: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is only used through `matrix`, whose caller promises disjoint views.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice for as long as views of it live.
    pub fn new(data: &'a mut [T]) -> Self {
        Shared {
            data: data.as_mut_ptr(),
            len: data.len(),
            _life: PhantomData,
        }
    }

    /// The `rows` x `cols` matrix that starts at `start` and has `stride` elements between rows.
    ///
    /// # Safety
    /// No other live view may touch any of its elements (the columns `start..start+cols` of its rows).
    pub unsafe fn matrix(
        &self,
        start: usize,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> MatMut<'a, T> {
        if rows > 0 && cols > 0 {
            assert!(
                start + (rows - 1) * stride + cols <= self.len,
                "matrix view out of bounds"
            );
        }
        // SAFETY: the last element was just checked to lie inside the slice.
        unsafe { MatMut::from_raw(self.data.wrapping_add(start), rows, cols, stride) }
    }
}
