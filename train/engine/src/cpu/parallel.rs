//! Buffers that several threads write in disjoint places: fresh memory, chunk by chunk, and
//! matrices.
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

/// Makes a vector whose chunks are filled on all threads, by a function of the index of a chunk's
/// first element and the chunk, which holds zeros.
///
/// Memory fresh from the system is slow to touch first, so that one thread alone would wait for it,
/// and zeros just written are still in the cache.
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
    // SAFETY: a vector's own parts; all elements have been written, and `MaybeUninit<T>` lies as
    // `T`.
    unsafe { Vec::from_raw_parts(made.as_mut_ptr().cast(), made.len(), made.capacity()) }
}

/// Returns zeros, written on all threads.
pub fn zeros<T: Real>(len: usize) -> Vec<T> {
    build(len, CHUNK, |_, _| ())
}

/// A mutable slice that several threads view as disjoint matrices.
pub struct DisjointViews<'a, T> {
    data: *mut T,
    len: usize,
    _life: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is only used through `matrix`, whose caller promises disjoint views.
unsafe impl<T: Send> Send for DisjointViews<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointViews<'_, T> {}

impl<'a, T> DisjointViews<'a, T> {
    /// Borrows the slice for as long as views of it live.
    pub fn new(data: &'a mut [T]) -> Self {
        DisjointViews {
            data: data.as_mut_ptr(),
            len: data.len(),
            _life: PhantomData,
        }
    }

    /// Returns the `rows` x `cols` matrix that starts at `start` and has `stride` elements between
    /// rows.
    ///
    /// # Safety
    /// No other live view may touch any of its elements (the columns `start..start+cols` of its
    /// rows).
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
