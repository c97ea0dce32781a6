//! Layer normalisation over the rows of a matrix, and its gradients: of the input, and (for full
//! fine-tuning only) of scale and shift.

use super::Real;
use super::parallel::build;
use super::simd::{LANES, simd, sum, total};
use rayon::prelude::*;

/// The mean and the reciprocal standard deviation of each row, saved for the backward pass.
pub type RowStats<T> = Vec<[T; 2]>;

/// Rows that one task handles, enough to outweigh the cost of starting it.
const ROWS_PER_TASK: usize = 32;

/// Returns `(x - mean) / sqrt(var + eps) * scale + shift`, row by row, and the statistics; x is
/// `n x d`.
///
/// The variance is the biased one, as in every encoder here.
pub fn layer_norm<T: Real>(x: &[T], scale: &[T], shift: &[T], eps: f64) -> (Vec<T>, RowStats<T>) {
    let d = scale.len();
    let chunk = d * ROWS_PER_TASK;
    let stats: RowStats<T> = x
        .par_chunks(chunk)
        .flat_map_iter(|x| x.chunks_exact(d).map(|x| stats_row(x, T::of(eps))))
        .collect();
    (normalize(x, scale, shift, &stats), stats)
}

/// Returns the output of [`layer_norm`] from its statistics.
pub fn normalize<T: Real>(x: &[T], scale: &[T], shift: &[T], stats: &RowStats<T>) -> Vec<T> {
    let d = scale.len();
    build(x.len(), d * ROWS_PER_TASK, |at, y| {
        let (x, stats) = (x[at..].chunks_exact(d), &stats[at / d..]);
        for ((y, stats), x) in y.chunks_exact_mut(d).zip(stats).zip(x) {
            normalize_row(x, scale, shift, *stats, y);
        }
    })
}

/// Adds the gradient of the input to `dx`, given that of the output; all `n x d`.
pub fn layer_norm_backward<T: Real>(
    dy: &[T],
    x: &[T],
    scale: &[T],
    stats: &RowStats<T>,
    dx: &mut [T],
) {
    let d = scale.len();
    let chunk = d * ROWS_PER_TASK;
    dx.par_chunks_mut(chunk)
        .zip(stats.par_chunks(ROWS_PER_TASK))
        .zip(dy.par_chunks(chunk).zip(x.par_chunks(chunk)))
        .for_each(|((dx, stats), (dy, x))| {
            let rows = dx
                .chunks_exact_mut(d)
                .zip(stats)
                .zip(dy.chunks_exact(d).zip(x.chunks_exact(d)));
            for ((dx, stats), (dy, x)) in rows {
                backward_row(dy, x, scale, *stats, dx);
            }
        });
}

/// Returns the gradients of scale and shift, summed over the rows in order.
pub fn layer_norm_weight_gradient<T: Real>(
    dy: &[T],
    x: &[T],
    d: usize,
    stats: &RowStats<T>,
) -> (Vec<T>, Vec<T>) {
    let (mut scale, mut shift) = (vec![T::zero(); d], vec![T::zero(); d]);
    for ((dy, x), stats) in dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(stats) {
        weight_gradient_row(dy, x, *stats, &mut scale, &mut shift);
    }
    (scale, shift)
}

simd! {
    fn weight_gradient_row<T: Real>(
        dy: &[T],
        x: &[T],
        stats: [T; 2],
        scale: &mut [T],
        shift: &mut [T],
    ) {
        let [mean, rstd] = stats;
        for (((dy, x), scale), shift) in dy.iter().zip(x).zip(scale).zip(shift) {
            *scale += *dy * ((*x - mean) * rstd);
            *shift += *dy;
        }
    }
}

simd! {
    fn stats_row<T: Real>(x: &[T], eps: T) -> [T; 2] {
        let n = T::of(x.len() as f64);
        let mean = sum(x, |v| v) / n;
        let var = sum(x, |v| (v - mean) * (v - mean)) / n;
        [mean, T::one() / Real::sqrt(var + eps)]
    }
}

simd! {
    fn normalize_row<T: Real>(x: &[T], scale: &[T], shift: &[T], stats: [T; 2], y: &mut [T]) {
        let [mean, rstd] = stats;
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
            *y = (*x - mean) * rstd * *w + *b;
        }
    }
}

simd! {
    fn backward_row<T: Real>(dy: &[T], x: &[T], scale: &[T], stats: [T; 2], dx: &mut [T]) {
        // With h = (x - mean) rstd and g = dy scale: dx = rstd (g - mean(g) - h mean(g h)).
        let [mean, rstd] = stats;
        let n = T::of(x.len() as f64);
        let mut g_sum = [T::zero(); LANES];
        let mut gh_sum = [T::zero(); LANES];
        for ((dy, x), w) in dy.chunks(LANES).zip(x.chunks(LANES)).zip(scale.chunks(LANES)) {
            for (lane, ((dy, x), w)) in dy.iter().zip(x).zip(w).enumerate() {
                let g = *dy * *w;
                g_sum[lane] += g;
                gh_sum[lane] += g * ((*x - mean) * rstd);
            }
        }
        let g_mean = total(&g_sum) / n;
        let gh_mean = total(&gh_sum) / n;
        for (((dx, dy), x), w) in dx.iter_mut().zip(dy).zip(x).zip(scale) {
            let h = (*x - mean) * rstd;
            *dx += rstd * (*dy * *w - g_mean - h * gh_mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;

    #[test]
    fn gradient_equals_finite_differences() {
        let (n, d) = (3, 37);
        let (x, scale, shift, c) = (noise(1, n * d), noise(2, d), noise(3, d), noise(4, n * d));
        let loss = |x: &[f64]| {
            layer_norm(x, &scale, &shift, 1e-5)
                .0
                .iter()
                .zip(&c)
                .map(|(y, c)| y * c)
                .sum::<f64>()
        };
        let stats = layer_norm(&x, &scale, &shift, 1e-5).1;
        let mut dx = vec![0.0; n * d];
        layer_norm_backward(&c, &x, &scale, &stats, &mut dx);
        for i in 0..n * d {
            let mut shifted = x.clone();
            shifted[i] += 1e-6;
            let up = loss(&shifted);
            shifted[i] -= 2e-6;
            let down = loss(&shifted);
            assert!(((up - down) / 2e-6 - dx[i]).abs() < 1e-7, "element {i}");
        }
    }

    #[test]
    fn recomputed_output_is_the_same() {
        let x: Vec<f32> = noise(5, 4 * 48).iter().map(|v| *v as f32).collect();
        let (w, b) = (vec![1.5f32; 48], vec![0.25f32; 48]);
        let (y, stats) = layer_norm(&x, &w, &b, 1e-12);
        assert_eq!(y, normalize(&x, &w, &b, &stats));
    }
}
