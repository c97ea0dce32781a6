//! Low-rank adapters of frozen linear layers: `y = W x + b + scale B A dropout(x)`.
//!
//! The rank is 1 in the paper, so the adapter is never multiplied out: `u = A dropout(x)` is a few
//! dot products per token and `B u` is added to the rows that the frozen product then accumulates
//! onto. Dropout masks are drawn again in the backward pass.

use super::Real;
use super::dropout::Dropout;
use super::layout::PackedRows;
use super::parallel::build;
use super::simd::{LANES, simd, total};
use rayon::prelude::*;

const ROWS_PER_TASK: usize = 32;

/// What a frozen product is added to: `n` rows of `bias + scale B u`.
pub struct Start<'a, T> {
    bias: &'a [T],
    scale: T,
    ups: &'a [&'a [T]],
    u: &'a [T],
    n: usize,
}

impl<'a, T: Real> Start<'a, T> {
    /// `ups` are the stacked layers' `out x rank`, side by side in a row of the result, and `u` is
    /// `n x layers*rank`; both are empty for the bias alone.
    pub fn new(bias: &'a [T], scale: T, ups: &'a [&'a [T]], u: &'a [T], n: usize) -> Start<'a, T> {
        Start {
            bias,
            scale,
            ups,
            u,
            n,
        }
    }

    /// PackedRows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.bias.len())
    }

    /// Some columns from `col` on of the rows from `row` on, into rows of `stride`.
    pub fn fill(&self, row: usize, mut col: usize, cols: usize, y: &mut [T], stride: usize) {
        let width = self.bias.len() / self.ups.len().max(1);
        let end = col + cols;
        let mut to = 0;
        while col < end {
            let (layer, at) = (col / width, col % width);
            let part = (end - col).min(width - at);
            let bias = &self.bias[col..][..part];
            match self.ups.get(layer) {
                None => {
                    let rows = y[to..].chunks_mut(stride);
                    rows.for_each(|y| y[..part].copy_from_slice(bias));
                }
                Some(up) => {
                    let (rank, u_stride) = (up.len() / width, self.u.len() / self.n);
                    let u = &self.u[row * u_stride + layer * rank..];
                    let up = &up[at * rank..][..part * rank];
                    up_rows(bias, self.scale, up, u, u_stride, &mut y[to..], stride);
                }
            }
            (col, to) = (col + part, to + part);
        }
    }

    /// All of it.
    pub fn rows(&self) -> Vec<T> {
        let out = self.bias.len();
        build(self.n * out, out * ROWS_PER_TASK, |at, y| {
            self.fill(at / out, 0, out, y, out);
        })
    }
}

simd! {
    /// `bias + scale b u` in the first columns of rows of `stride`.
    fn up_rows<T: Real>(bias: &[T], scale: T, b: &[T], u: &[T], u_stride: usize, y: &mut [T], stride: usize) {
        let rank = b.len() / bias.len();
        for (y, u) in y.chunks_mut(stride).zip(u.chunks(u_stride)) {
            let (y, u) = (&mut y[..bias.len()], &u[..rank]);
            if let [u] = u {
                let u = scale * *u;
                for ((y, bias), b) in y.iter_mut().zip(bias).zip(b) {
                    *y = *bias + u * *b;
                }
            } else {
                for ((y, bias), b) in y.iter_mut().zip(bias).zip(b.chunks_exact(rank)) {
                    let mut s = T::zero();
                    for (b, u) in b.iter().zip(u) {
                        s += *b * *u;
                    }
                    *y = *bias + scale * s;
                }
            }
        }
    }
}

/// `u = dropout(x) A^T`: writes `n x rank` into rows of `u_stride`, `rank` columns from `start`.
///
/// x is `n x d`, `a` is `rank x d`.
pub fn down<T: Real>(
    x: &[T],
    d: usize,
    a: &[T],
    dropout: Option<&Dropout>,
    rows: &PackedRows,
    u: &mut [T],
    u_stride: usize,
    start: usize,
) {
    let rank = a.len() / d;
    u.par_chunks_mut(u_stride * ROWS_PER_TASK)
        .zip(x.par_chunks(d * ROWS_PER_TASK))
        .enumerate()
        .for_each(|(task, (u, x))| {
            let mut mask = vec![T::one(); if dropout.is_some() { d } else { 0 }];
            for (i, (u, x)) in u
                .chunks_exact_mut(u_stride)
                .zip(x.chunks_exact(d))
                .enumerate()
            {
                if let Some(dropout) = dropout {
                    let (sample, position) = rows.locate(task * ROWS_PER_TASK + i);
                    dropout.fill(sample, position, &mut mask);
                }
                for (u, a) in u[start..start + rank].iter_mut().zip(a.chunks_exact(d)) {
                    *u = if dropout.is_some() {
                        dot3(x, a, &mask)
                    } else {
                        dot(x, a)
                    };
                }
            }
        });
}

simd! {
    fn dot<T: Real>(x: &[T], a: &[T]) -> T {
        let mut lanes = [T::zero(); LANES];
        for (x, a) in x.chunks(LANES).zip(a.chunks(LANES)) {
            for (lane, (x, a)) in x.iter().zip(a).enumerate() {
                lanes[lane] += *x * *a;
            }
        }
        total(&lanes)
    }
}

simd! {
    fn dot3<T: Real>(x: &[T], a: &[T], m: &[T]) -> T {
        let mut lanes = [T::zero(); LANES];
        for ((x, a), m) in x.chunks(LANES).zip(a.chunks(LANES)).zip(m.chunks(LANES)) {
            for (lane, ((x, a), m)) in x.iter().zip(a).zip(m).enumerate() {
                lanes[lane] += *x * *a * *m;
            }
        }
        total(&lanes)
    }
}

/// Gradients of one adapter.
pub struct LoraGrad<T> {
    /// `rank x d`.
    pub a: Vec<T>,
    /// `out x rank`.
    pub b: Vec<T>,
}

/// The backward of an adapter: adds its part of the input's gradient to `dx` (`n x d`).
///
/// `dy` is the gradient of the layer's output, `out` columns from `dy_start` in rows of `dy_stride`;
/// `u` as [`down`] left it. Sums over rows are formed in chunks of fixed size and added in order.
#[allow(
    clippy::too_many_arguments,
    reason = "one call per adapter; a struct would only rename them"
)]
pub fn backward<T: Real>(
    dy: &[T],
    dy_stride: usize,
    dy_start: usize,
    x: &[T],
    d: usize,
    u: &[T],
    u_stride: usize,
    u_start: usize,
    a: &[T],
    b: &[T],
    scale: T,
    dropout: Option<&Dropout>,
    rows: &PackedRows,
    dx: &mut [T],
) -> LoraGrad<T> {
    let rank = a.len() / d;
    let out = b.len() / rank;
    let partial: Vec<LoraGrad<T>> = dx
        .par_chunks_mut(d * ROWS_PER_TASK)
        .zip(x.par_chunks(d * ROWS_PER_TASK))
        .enumerate()
        .map(|(task, (dx, x))| {
            let mut grad = LoraGrad {
                a: vec![T::zero(); rank * d],
                b: vec![T::zero(); out * rank],
            };
            let mut mask = vec![T::one(); d];
            for (i, (dx, x)) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).enumerate() {
                let row = task * ROWS_PER_TASK + i;
                if let Some(dropout) = dropout {
                    let (sample, position) = rows.locate(row);
                    dropout.fill(sample, position, &mut mask);
                }
                let dy = &dy[row * dy_stride + dy_start..][..out];
                for r in 0..rank {
                    let u = scale * u[row * u_stride + u_start + r];
                    let du = scale * up_backward_row(dy, b, rank, r, u, &mut grad.b);
                    down_backward_row(
                        du,
                        &a[r * d..][..d],
                        x,
                        &mask,
                        dx,
                        &mut grad.a[r * d..][..d],
                    );
                }
            }
            grad
        })
        .collect();
    let mut grad = LoraGrad {
        a: vec![T::zero(); rank * d],
        b: vec![T::zero(); out * rank],
    };
    for part in partial {
        grad.a.iter_mut().zip(part.a).for_each(|(g, p)| *g += p);
        grad.b.iter_mut().zip(part.b).for_each(|(g, p)| *g += p);
    }
    grad
}

simd! {
    /// Adds `dy u` to column `r` of the gradient of B; returns `dy . B[:, r]`.
    fn up_backward_row<T: Real>(dy: &[T], b: &[T], rank: usize, r: usize, u: T, db: &mut [T]) -> T {
        let mut lanes = [T::zero(); LANES];
        if rank == 1 {
            for ((dy, b), db) in dy.chunks(LANES).zip(b.chunks(LANES)).zip(db.chunks_mut(LANES)) {
                for (lane, ((dy, b), db)) in dy.iter().zip(b).zip(db).enumerate() {
                    lanes[lane] += *dy * *b;
                    *db += *dy * u;
                }
            }
        } else {
            for (o, dy) in dy.iter().enumerate() {
                lanes[o % LANES] += *dy * b[o * rank + r];
                db[o * rank + r] += *dy * u;
            }
        }
        total(&lanes)
    }
}

simd! {
    fn down_backward_row<T: Real>(du: T, a: &[T], x: &[T], mask: &[T], dx: &mut [T], da: &mut [T]) {
        for ((((dx, da), a), x), m) in dx.iter_mut().zip(da).zip(a).zip(x).zip(mask) {
            let masked = du * *m;
            *dx += masked * *a;
            *da += masked * *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;

    /// y = scale B A dropout(x), summed against c.
    fn loss(
        x: &[f64],
        a: &[f64],
        b: &[f64],
        c: &[f64],
        d: usize,
        dropout: Option<&Dropout>,
        rows: &PackedRows,
    ) -> f64 {
        let (n, rank) = (rows.len(), a.len() / d);
        let out = b.len() / rank;
        let mut u = vec![0.0; n * rank];
        down(x, d, a, dropout, rows, &mut u, rank, 0);
        let y = Start::new(&vec![0.0; out], 0.5, &[b], &u, n).rows();
        y.iter().zip(c).map(|(y, c)| y * c).sum()
    }

    #[test]
    fn gradients_by_finite_differences() {
        let (d, out) = (20, 11);
        let rows = PackedRows::new(vec![0, 3, 40], vec![5, 9]);
        let n = rows.len();
        for rank in [1, 3] {
            for dropout in [
                None,
                Some(Dropout {
                    rate: 0.3,
                    seed: 1,
                    step: 2,
                    module: 3,
                }),
            ] {
                let (x, a, b, c) = (
                    noise(1, n * d),
                    noise(2, rank * d),
                    noise(3, out * rank),
                    noise(4, n * out),
                );
                let mut u = vec![0.0; n * rank];
                down(&x, d, &a, dropout.as_ref(), &rows, &mut u, rank, 0);
                let mut dx = vec![0.0; n * d];
                let grad = backward(
                    &c,
                    out,
                    0,
                    &x,
                    d,
                    &u,
                    rank,
                    0,
                    &a,
                    &b,
                    0.5,
                    dropout.as_ref(),
                    &rows,
                    &mut dx,
                );
                let check = |which: usize, i: usize, got: f64| {
                    let at = |delta: f64| {
                        let mut v = [x.clone(), a.clone(), b.clone()];
                        v[which][i] += delta;
                        loss(&v[0], &v[1], &v[2], &c, d, dropout.as_ref(), &rows)
                    };
                    let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!((want - got).abs() < 1e-7, "{which} {i}: {want} {got}");
                };
                (0..n * d).step_by(7).for_each(|i| check(0, i, dx[i]));
                (0..rank * d).for_each(|i| check(1, i, grad.a[i]));
                (0..out * rank).for_each(|i| check(2, i, grad.b[i]));
            }
        }
    }
}
