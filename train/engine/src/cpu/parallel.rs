//! One buffer written by several threads in disjoint places: fresh memory, chunk by chunk, and matrices.
//!
//! Heads of attention write interleaved columns of one matrix, which no safe split of a slice can
//! express. The matrix views made here carry their own bounds; what the caller owes is that no
//! two threads' views overlap.

use super::Real;
use super::layout::MatMut;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};

/// Elements that one task sets to zero.
const CHUNK: usize = 16 * 1024;

/// A vector whose chunks are filled by a function of (index of the chunk's first element, chunk of zeros) on
/// all threads: bringing in memory is slow work for one, and zeros just written are in the cache.
pub fn build<T: Real>(len: usize, chunk: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut made: Vec<MaybeUninit<T>> = Vec::with_capacity(len);
    // SAFETY: the elements may be uninitialised, and there is room for them.
    unsafe { made.set_len(len) };
    let parts = made.par_chunks_mut(chunk.max(1)).enumerate();
    parts.for_each(|(i, part)| {
        part.fill(MaybeUninit::new(T::zero()));
        // SAFETY: every element of this part has just been written.
        let part = unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast(), part.len()) };
        fill(i * chunk, part);
    });
    let mut made = ManuallyDrop::new(made);
    // SAFETY: a vector's own parts; all elements have been written, and `MaybeUninit<T>` lies as `T`.
    unsafe { Vec::from_raw_parts(made.as_mut_ptr().cast(), made.len(), made.capacity()) }
}

/// Zeros, written on all threads.
pub fn zeros<T: Real>(len: usize) -> Vec<T> {
    build(len, CHUNK, |_, _| ())
}

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
