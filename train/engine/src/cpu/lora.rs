//! Low-rank adapters of frozen linear layers: `y = W x + b + scale B A dropout(x)`.
//!
//! The paper's rank is 1, so `B A` is never formed: `u = A dropout(x)` is a few dot products per
//! token, and `scale B u` is added to the frozen product as its [`Epilogue`]. The backward pass
//! draws the dropout masks again.

use super::Real;
use super::dropout::Dropout;
use super::layout::{Columns, PackedRows};
use super::parallel::build;
use super::simd::{LANES, dot, simd, total};
use rayon::prelude::*;

/// Rows that one task handles.
const ROWS_PER_TASK: usize = 32;

/// The sum that is added to a frozen layer's product: `n` rows of `bias + scale B u`.
pub struct Epilogue<'a, T> {
    bias: &'a [T],
    scale: T,
    ups: &'a [&'a [T]],
    u: &'a [T],
    n: usize,
}

impl<'a, T: Real> Epilogue<'a, T> {
    /// Makes the epilogue of stacked layers, whose outputs lie side by side in a row.
    ///
    /// `ups` holds the B of each layer, `out x rank`, and `u` is `n x layers*rank`; both are empty
    /// for the bias alone.
    pub fn new(
        bias: &'a [T],
        scale: T,
        ups: &'a [&'a [T]],
        u: &'a [T],
        n: usize,
    ) -> Epilogue<'a, T> {
        Epilogue {
            bias,
            scale,
            ups,
            u,
            n,
        }
    }

    /// Returns the numbers of rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.bias.len())
    }

    /// Writes `cols` columns from `col` on of the rows from `row` on into `tile`, whose rows are
    /// `stride` elements apart.
    pub fn write_tile(
        &self,
        row: usize,
        mut col: usize,
        cols: usize,
        tile: &mut [T],
        stride: usize,
    ) {
        let width = self.bias.len() / self.ups.len().max(1);
        let end = col + cols;
        let mut to = 0;
        while col < end {
            let (layer, at) = (col / width, col % width);
            let part = (end - col).min(width - at);
            let bias = &self.bias[col..][..part];
            match self.ups.get(layer) {
                None => {
                    let rows = tile[to..].chunks_mut(stride);
                    rows.for_each(|y| y[..part].copy_from_slice(bias));
                }
                Some(up) => {
                    let (rank, u_stride) = (up.len() / width, self.u.len() / self.n);
                    let u = &self.u[row * u_stride + layer * rank..];
                    let up = &up[at * rank..][..part * rank];
                    up_rows(bias, self.scale, up, u, u_stride, &mut tile[to..], stride);
                }
            }
            (col, to) = (col + part, to + part);
        }
    }

    /// Returns all rows, row-major.
    pub fn to_vec(&self) -> Vec<T> {
        let out = self.bias.len();
        build(self.n * out, out * ROWS_PER_TASK, |at, y| {
            self.write_tile(at / out, 0, out, y, out);
        })
    }
}

simd! {
    /// Writes `bias + scale b u` into the first columns of rows of `stride`.
    fn up_rows<T: Real>(
        bias: &[T],
        scale: T,
        b: &[T],
        u: &[T],
        u_stride: usize,
        y: &mut [T],
        stride: usize,
    ) {
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

/// One adapter and the token matrix that it reads.
#[derive(Clone, Copy)]
pub struct Lora<'a, T> {
    /// The factor that projects down, `rank x d`.
    pub a: &'a [T],
    /// The factor that projects up, `out x rank`.
    pub b: &'a [T],
    /// `alpha / rank`.
    pub scale: T,
    /// The layer's input, `n x d`.
    pub x: &'a [T],
    /// The width of the input.
    pub d: usize,
    /// The layout of the input's rows, by which dropout masks are drawn.
    pub rows: &'a PackedRows,
    /// The dropout of the adapter's input.
    pub dropout: Option<&'a Dropout>,
}

/// The gradients of one adapter.
pub struct LoraGradients<T> {
    /// Of `a`, `rank x d`.
    pub a: Vec<T>,
    /// Of `b`, `out x rank`.
    pub b: Vec<T>,
}

impl<T: Real> LoraGradients<T> {
    fn zeros(lora: &Lora<T>) -> Self {
        LoraGradients {
            a: vec![T::zero(); lora.a.len()],
            b: vec![T::zero(); lora.b.len()],
        }
    }
}

impl<T: Real> Lora<'_, T> {
    /// Computes `u = dropout(x) A^T`, `n x rank`, into the columns from `start` on of rows of
    /// `u_stride`.
    pub fn down(&self, u: &mut [T], u_stride: usize, start: usize) {
        let Lora { a, d, rows, .. } = *self;
        let rank = a.len() / d;
        u.par_chunks_mut(u_stride * ROWS_PER_TASK)
            .zip(self.x.par_chunks(d * ROWS_PER_TASK))
            .enumerate()
            .for_each(|(task, (u, x))| {
                let mut mask = vec![T::one(); if self.dropout.is_some() { d } else { 0 }];
                let lines = u.chunks_exact_mut(u_stride).zip(x.chunks_exact(d));
                for (i, (u, x)) in lines.enumerate() {
                    if let Some(dropout) = self.dropout {
                        let (sample, position) = rows.locate(task * ROWS_PER_TASK + i);
                        dropout.fill(sample, position, &mut mask);
                    }
                    for (u, a) in u[start..start + rank].iter_mut().zip(a.chunks_exact(d)) {
                        *u = if self.dropout.is_some() {
                            masked_dot(x, a, &mask)
                        } else {
                            dot(x, a)
                        };
                    }
                }
            });
    }

    /// Adds the adapter's part of the input's gradient to `dx`, `n x d`, and returns the gradients
    /// of its factors.
    ///
    /// `dy` is the gradient of the layer's output, `u` as [`Lora::down`] has computed it. Sums over
    /// rows are formed in chunks of fixed size and added in order, so that they do not depend on
    /// the number of threads.
    pub fn backward(&self, dy: Columns<T>, u: Columns<T>, dx: &mut [T]) -> LoraGradients<T> {
        let d = self.d;
        let partial: Vec<LoraGradients<T>> = dx
            .par_chunks_mut(d * ROWS_PER_TASK)
            .zip(self.x.par_chunks(d * ROWS_PER_TASK))
            .enumerate()
            .map(|(task, (dx, x))| self.backward_rows(task * ROWS_PER_TASK, x, dy, u, dx))
            .collect();
        let mut sum = LoraGradients::zeros(self);
        for part in partial {
            sum.a.iter_mut().zip(part.a).for_each(|(g, p)| *g += p);
            sum.b.iter_mut().zip(part.b).for_each(|(g, p)| *g += p);
        }
        sum
    }

    /// [`Lora::backward`] of the rows from `first` on, whose inputs are `x` and whose gradients
    /// `dx`.
    fn backward_rows(
        &self,
        first: usize,
        x: &[T],
        dy: Columns<T>,
        u: Columns<T>,
        dx: &mut [T],
    ) -> LoraGradients<T> {
        let Lora { a, b, scale, d, .. } = *self;
        let rank = a.len() / d;
        let mut grad = LoraGradients::zeros(self);
        let mut mask = vec![T::one(); d];
        let lines = dx.chunks_exact_mut(d).zip(x.chunks_exact(d));
        for (row, (dx, x)) in (first..).zip(lines) {
            if let Some(dropout) = self.dropout {
                let (sample, position) = self.rows.locate(row);
                dropout.fill(sample, position, &mut mask);
            }
            let (dy, u) = (dy.row(row, b.len() / rank), u.row(row, rank));
            for (r, u) in u.iter().enumerate() {
                let du = scale * up_backward_row(dy, b, rank, r, scale * *u, &mut grad.b);
                let (a, da) = (&a[r * d..][..d], &mut grad.a[r * d..][..d]);
                down_backward_row(du, a, x, &mask, dx, da);
            }
        }
        grad
    }
}

simd! {
    /// Returns the dot product of `x`, `a` and a mask.
    fn masked_dot<T: Real>(x: &[T], a: &[T], m: &[T]) -> T {
        let mut lanes = [T::zero(); LANES];
        for ((x, a), m) in x.chunks(LANES).zip(a.chunks(LANES)).zip(m.chunks(LANES)) {
            for (lane, ((x, a), m)) in x.iter().zip(a).zip(m).enumerate() {
                lanes[lane] += *x * *a * *m;
            }
        }
        total(&lanes)
    }
}

simd! {
    /// Adds `dy u` to column `r` of the gradient of B and returns `dy . B[:, r]`.
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
    /// Adds one row's part of the gradients of the input and of a row of A.
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

    const D: usize = 20;

    /// Makes an adapter of [input, A, B].
    fn adapter<'a>(
        [x, a, b]: &'a [Vec<f64>; 3],
        rows: &'a PackedRows,
        dropout: Option<&'a Dropout>,
    ) -> Lora<'a, f64> {
        Lora {
            a,
            b,
            scale: 0.5,
            x,
            d: D,
            rows,
            dropout,
        }
    }

    /// Returns the sum of `c` times `scale B A dropout(x)`.
    fn loss(lora: &Lora<f64>, c: &[f64]) -> f64 {
        let (n, rank) = (lora.rows.len(), lora.a.len() / D);
        let out = lora.b.len() / rank;
        let mut u = vec![0.0; n * rank];
        lora.down(&mut u, rank, 0);
        let y = Epilogue::new(&vec![0.0; out], lora.scale, &[lora.b], &u, n).to_vec();
        y.iter().zip(c).map(|(y, c)| y * c).sum()
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let out = 11;
        let rows = PackedRows::new(vec![0, 3, 40], vec![5, 9]);
        let n = rows.len();
        let dropout = Dropout {
            rate: 0.3,
            seed: 1,
            step: 2,
            module: 3,
        };
        for rank in [1, 3] {
            for dropout in [None, Some(&dropout)] {
                let values = [noise(1, n * D), noise(2, rank * D), noise(3, out * rank)];
                let c = noise(4, n * out);
                let mut u = vec![0.0; n * rank];
                adapter(&values, &rows, dropout).down(&mut u, rank, 0);
                let mut dx = vec![0.0; n * D];
                let columns = |data, stride| Columns {
                    data,
                    stride,
                    start: 0,
                };
                let (dy, u) = (columns(&c, out), columns(&u, rank));
                let grad = adapter(&values, &rows, dropout).backward(dy, u, &mut dx);
                let check = |which: usize, i: usize, got: f64| {
                    let at = |delta: f64| {
                        let mut values = values.clone();
                        values[which][i] += delta;
                        loss(&adapter(&values, &rows, dropout), &c)
                    };
                    let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!((want - got).abs() < 1e-7, "{which} {i}: {want} {got}");
                };
                (0..n * D).step_by(7).for_each(|i| check(0, i, dx[i]));
                (0..rank * D).for_each(|i| check(1, i, grad.a[i]));
                (0..out * rank).for_each(|i| check(2, i, grad.b[i]));
            }
        }
    }
}
