//! Elementwise functions: activations with their derivatives, copies and sums.

use super::Real;
use super::parallel::build;
use super::simd::simd;
use serde::{Deserialize, Serialize};

/// Elements that one task handles, which fit the first-level cache.
const CHUNK: usize = 2 * 1024;

/// An activation by the name that Hugging Face's `config.json` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Phi(x)` with the exact normal distribution function (BERT, AST).
    Gelu,
    /// `x sigmoid(1.702 x)` (CLIP).
    QuickGelu,
}

impl Activation {
    /// Returns `f(z)`.
    pub fn forward<T: Real>(self, z: &[T]) -> Vec<T> {
        build(z.len(), CHUNK, |at, y| {
            let z = &z[at..][..y.len()];
            match self {
                Activation::Gelu => gelu(z, y),
                Activation::QuickGelu => quick_gelu(z, y),
            }
        })
    }

    /// Returns the gradient of the input, given that of the output: `dz = dy f'(z)`.
    pub fn backward<T: Real>(self, z: &[T], dy: &[T]) -> Vec<T> {
        build(z.len(), CHUNK, |at, dz| {
            let z = &z[at..][..dz.len()];
            dz.copy_from_slice(&dy[at..][..dz.len()]);
            match self {
                Activation::Gelu => gelu_backward(z, dz),
                Activation::QuickGelu => quick_gelu_backward(z, dz),
            }
        })
    }
}

/// Returns a copy, made on all threads.
pub fn copy<T: Real>(x: &[T]) -> Vec<T> {
    build(x.len(), CHUNK, |at, y| {
        y.copy_from_slice(&x[at..][..y.len()])
    })
}

/// Returns `a + b`.
pub fn sum<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
    build(a.len(), CHUNK, |at, sum| {
        sum.copy_from_slice(&a[at..][..sum.len()]);
        add_chunk(sum, &b[at..][..sum.len()]);
    })
}

simd! {
    fn add_chunk<T: Real>(sum: &mut [T], x: &[T]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += *x;
        }
    }
}

simd! {
    fn gelu<T: Real>(z: &[T], y: &mut [T]) {
        let (half, root_half) = (T::of(0.5), T::of(std::f64::consts::FRAC_1_SQRT_2));
        for (y, z) in y.iter_mut().zip(z) {
            *y = half * *z * (T::one() + (*z * root_half).erf());
        }
    }
}

simd! {
    fn gelu_backward<T: Real>(z: &[T], dy: &mut [T]) {
        // d/dz z Phi(z) = Phi(z) + z phi(z)
        let (half, root_half) = (T::of(0.5), T::of(std::f64::consts::FRAC_1_SQRT_2));
        const DENSITY: f64 =
            0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
        let density = T::of(DENSITY);
        for (dy, z) in dy.iter_mut().zip(z) {
            let phi = density * Real::exp(T::zero() - half * *z * *z);
            *dy *= half * (T::one() + (*z * root_half).erf()) + *z * phi;
        }
    }
}

/// The constant of quick GELU, `x sigmoid(1.702 x)`.
const QUICK_GELU_SLOPE: f64 = 1.702;

simd! {
    fn quick_gelu<T: Real>(z: &[T], y: &mut [T]) {
        let k = T::of(-QUICK_GELU_SLOPE);
        for (y, z) in y.iter_mut().zip(z) {
            *y = *z / (T::one() + Real::exp(k * *z));
        }
    }
}

simd! {
    fn quick_gelu_backward<T: Real>(z: &[T], dy: &mut [T]) {
        // With s = sigmoid(k z): d/dz z s = s (1 + k z (1 - s))
        let k = T::of(QUICK_GELU_SLOPE);
        for (dy, z) in dy.iter_mut().zip(z) {
            let s = T::one() / (T::one() + Real::exp(T::zero() - k * *z));
            *dy *= s * (T::one() + k * *z * (T::one() - s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;

    #[test]
    fn gradients_equal_finite_differences() {
        let z: Vec<f64> = noise(1, 200).iter().map(|v| v * 3.0).collect();
        for f in [Activation::Gelu, Activation::QuickGelu] {
            let dz = f.backward(&z, &vec![1.0; z.len()]);
            let up = f.forward(&z.iter().map(|v| v + 1e-6).collect::<Vec<_>>());
            let down = f.forward(&z.iter().map(|v| v - 1e-6).collect::<Vec<_>>());
            for i in 0..z.len() {
                assert!(
                    ((up[i] - down[i]) / 2e-6 - dz[i]).abs() < 1e-8,
                    "{f:?} at {}",
                    z[i]
                );
            }
        }
    }

    #[test]
    fn single_precision_is_close_to_double() {
        let z: Vec<f64> = noise(2, 1000)
            .iter()
            .map(|v| f64::from((v * 4.0) as f32))
            .collect();
        let z32: Vec<f32> = z.iter().map(|v| *v as f32).collect();
        for f in [Activation::Gelu, Activation::QuickGelu] {
            for ((a, b), z) in f.forward(&z).iter().zip(f.forward(&z32)).zip(&z) {
                assert!(
                    (a - f64::from(b)).abs() < 3e-7 * (1.0 + z.abs()),
                    "{f:?} at {z}: {a} {b}"
                );
            }
        }
    }
}
