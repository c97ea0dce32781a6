//! Vectors of doubles for the front end: the five operations it needs, for AVX-512, for AVX2 and for none of them.
//!
//! `unsafe` is here because the instructions exist on some processors only. A vector type of a width is named by
//! [`super::block::Engine`] alone, which runs code on it only where it has found the processor to have that width.

/// Some doubles that are worked on together.
pub(super) trait Vector: Copy {
    /// How many.
    const LANES: usize;
    /// Lane by lane.
    fn from_fn(f: impl Fn(usize) -> f64) -> Self;
    /// The same in every lane.
    fn splat(x: f64) -> Self;
    /// 0 in every lane.
    fn zero() -> Self;
    /// The lanes in order.
    fn lanes(&self) -> &[f64];
    /// Sums.
    fn add(self, other: Self) -> Self;
    /// Differences.
    fn sub(self, other: Self) -> Self;
    /// Products.
    fn mul(self, other: Self) -> Self;
}

impl Vector for f64 {
    const LANES: usize = 1;

    #[inline(always)]
    fn from_fn(f: impl Fn(usize) -> f64) -> Self {
        f(0)
    }

    #[inline(always)]
    fn splat(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn zero() -> Self {
        0.0
    }

    #[inline(always)]
    fn lanes(&self) -> &[f64] {
        std::slice::from_ref(self)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    ($name:ident, $lanes:literal, $set:ident($($lane:literal)*), $splat:ident, $add:ident, $sub:ident, $mul:ident) => {
        impl Vector for std::arch::x86_64::$name {
            const LANES: usize = $lanes;

            #[inline(always)]
            fn from_fn(f: impl Fn(usize) -> f64) -> Self {
                // By name rather than from an array: an array would go through memory.
                // SAFETY: for the processor, see the module comment.
                unsafe { std::arch::x86_64::$set($(f($lane)),*) }
            }

            #[inline(always)]
            fn splat(x: f64) -> Self {
                // SAFETY: for the processor, see the module comment.
                unsafe { std::arch::x86_64::$splat(x) }
            }

            #[inline(always)]
            fn zero() -> Self {
                // SAFETY: all bits 0 is 0.0 in every lane.
                unsafe { std::mem::zeroed() }
            }

            #[inline(always)]
            fn lanes(&self) -> &[f64] {
                // SAFETY: the type is just as many doubles, of at least their alignment.
                unsafe { &*std::ptr::from_ref(self).cast::<[f64; $lanes]>() }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: for the processor, see the module comment.
                unsafe { std::arch::x86_64::$add(self, other) }
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: for the processor, see the module comment.
                unsafe { std::arch::x86_64::$sub(self, other) }
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: for the processor, see the module comment.
                unsafe { std::arch::x86_64::$mul(self, other) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
vector!(__m512d, 8, _mm512_set_pd(7 6 5 4 3 2 1 0), _mm512_set1_pd, _mm512_add_pd, _mm512_sub_pd, _mm512_mul_pd);
#[cfg(target_arch = "x86_64")]
vector!(__m256d, 4, _mm256_set_pd(3 2 1 0), _mm256_set1_pd, _mm256_add_pd, _mm256_sub_pd, _mm256_mul_pd);
