//! Running one body with the widest vector instructions that the machine has.
//!
//! The body is compiled three times (baseline, AVX2, AVX-512) and chosen at run time. The three
//! give the same bits: Rust never fuses a multiply with an add on its own.

use super::Real;

/// Defines `fn NAME<T: Real>(args)` whose body is compiled for several instruction sets.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<T: Real>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<T: $crate::cpu::Real>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<T: $crate::cpu::Real>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
                fn avx512<T: $crate::cpu::Real>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2<T: $crate::cpu::Real>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if util::cpu::has_avx512() {
                    // SAFETY: the four features were just found on this machine.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: AVX2 was just found on this machine.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(super) use simd;

/// The number of independent partial sums of a reduction, which lets it run in vectors.
pub const LANES: usize = 16;

/// Returns the sum of `f` of all elements, in a fixed order that can run in vectors.
#[inline(always)]
pub(super) fn sum<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    for chunk in x.chunks(LANES) {
        for (lane, v) in chunk.iter().enumerate() {
            lanes[lane] += f(*v);
        }
    }
    total(&lanes)
}

/// Returns the sum of the partial sums, from the first to the last.
#[inline(always)]
pub(super) fn total<T: Real>(lanes: &[T; LANES]) -> T {
    let mut total = T::zero();
    for lane in lanes {
        total += *lane;
    }
    total
}

simd! {
    /// Returns the dot product of two vectors.
    pub(super) fn dot<T: Real>(x: &[T], y: &[T]) -> T {
        let mut lanes = [T::zero(); LANES];
        for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
            for (lane, (x, y)) in x.iter().zip(y).enumerate() {
                lanes[lane] += *x * *y;
            }
        }
        total(&lanes)
    }
}
