//! The arithmetic of the encoders on the CPU, on plain slices.
//!
//! Nothing here knows of tensors, graphs or files: each function reads row-major slices and writes
//! row-major slices. Everything is generic over `f32` (training) and `f64` (gradient checks), is
//! written once, and gives the same bits on every x86-64 machine with AVX2, whatever its vector
//! width, because multiply-adds are fused in matrix products alone, and every sum has a fixed order
//! that does not depend on the number of threads. The exception is [`bf16`]: where the processor
//! has instructions for it, they compute the matrix products of `f32`, in an order of their own.
//!
//! `unsafe` is confined to [`fma`] and [`simd`] (instruction sets found at run time), [`bf16`]
//! (AVX-512 and AMX), [`matmul`] and [`layout`] (views of matrices), [`attention`] and
//! [`parallel`] (threads that write disjoint parts of one buffer).

pub(crate) mod activation;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
pub(crate) mod dropout;
pub(crate) mod fma;
pub(crate) mod layout;
pub(crate) mod lora;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod parallel;
pub(crate) mod simd;

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Sub};

/// A floating-point type that the kernels compute in: `f32`, or `f64` for gradient checks.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + MulAssign
    + Sum
    + 'static
{
    /// Returns 0.
    #[inline(always)]
    fn zero() -> Self {
        Self::of(0.0)
    }
    /// Returns 1.
    #[inline(always)]
    fn one() -> Self {
        Self::of(1.0)
    }
    /// Returns `e^self`.
    fn exp(self) -> Self;
    /// Returns the natural logarithm.
    fn ln(self) -> Self;
    /// Returns the square root.
    fn sqrt(self) -> Self;
    /// Returns the error function.
    fn erf(self) -> Self;
    /// Returns `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Returns the larger of two numbers.
    fn max(self, other: Self) -> Self;
    /// Returns the nearest value of this type.
    fn of(x: f64) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn exp(self) -> f32 {
        math::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn erf(self) -> f32 {
        math::erf(self)
    }
    #[inline(always)]
    fn mul_add(self, factor: f32, addend: f32) -> f32 {
        f32::mul_add(self, factor, addend)
    }
    #[inline(always)]
    fn max(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
}

impl Real for f64 {
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    fn erf(self) -> f64 {
        candle_core::cpu::erf::erf_f64(self)
    }
    #[inline(always)]
    fn mul_add(self, factor: f64, addend: f64) -> f64 {
        f64::mul_add(self, factor, addend)
    }
    fn max(self, other: f64) -> f64 {
        if self > other { self } else { other }
    }
    fn of(x: f64) -> f64 {
        x
    }
}

#[cfg(test)]
mod tests;
