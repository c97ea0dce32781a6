//! Multi-head attention over packed sequences that never stores its scores.
//!
//! Queries are taken a tile at a time: the tile's scores against all keys are formed, normalised
//! and used at once, so memory grows with the number of tokens, not with its square. The forward
//! pass keeps one number per query and head (the logarithm of the softmax's denominator), from
//! which the backward pass forms the same probabilities again, a block of keys at a time
//! (FlashAttention's scheme, Dao 2022, without the online part: a row of scores fits the cache).

use super::Real;
use super::dropout::Dropout;
use super::layout::{Mat, MatMut, PackedRows};
use super::matmul::{Operand, multiply};
use super::parallel::{Shared, zeros};
use super::simd::{LANES, simd, sum, total};
use rayon::prelude::*;

/// Queries of a tile in the forward pass: 64 x 1215 scores of AST take 304 KiB, within a core's
/// second-level cache.
const TILE: usize = 64;

/// Queries and keys of a block in the backward pass: its scores and their gradients take 128 KiB each.
const QUERIES: usize = 128;
const KEYS: usize = 256;

/// What the backward pass needs beside the inputs and the output.
pub struct Saved<T> {
    /// `ln sum_j exp(score_ij)` of head `h`, row `i` at `h * n + i`.
    log_sum_exp: Vec<T>,
}

/// One (sequence, head) pair: the unit of parallel work.
struct Unit {
    sequence: usize,
    head: usize,
}

fn units(rows: &PackedRows, heads: usize) -> Vec<Unit> {
    (0..rows.sequences())
        .flat_map(|sequence| (0..heads).map(move |head| Unit { sequence, head }))
        .collect()
}

/// One head's part of a packed matrix: columns of `dim` for the rows of one sequence.
#[derive(Clone, Copy)]
struct Head<'a, T> {
    data: &'a [T],
    stride: usize,
    dim: usize,
}

impl<'a, T: Real> Head<'a, T> {
    /// PackedRows `from..from + len` of the sequence.
    fn rows(&self, from: usize, len: usize) -> Mat<'a, T> {
        Mat::strided(&self.data[from * self.stride..], len, self.dim, self.stride)
    }
}

/// `softmax(q k^T / sqrt(dim)) v` for each sequence and head.
///
/// `qkv` is `n x 3d`, queries, keys and values side by side, heads side by side in each; the result
/// is `n x d`. Dropout, if any, falls on the probabilities.
pub fn forward<T: Real>(
    qkv: &[T],
    d: usize,
    heads: usize,
    rows: &PackedRows,
    dropout: Option<&Dropout>,
) -> (Vec<T>, Saved<T>) {
    let (n, dim) = (rows.len(), d / heads);
    let scale = 1.0 / (dim as f64).sqrt();
    let mut out = zeros(n * d);
    let mut lse = vec![T::zero(); heads * n];
    {
        let (out, lse) = (Shared::new(&mut out), Shared::new(&mut lse));
        units(rows, heads).par_iter().for_each(|unit| {
            let (start, end) = (rows.offsets[unit.sequence], rows.offsets[unit.sequence + 1]);
            let t = end - start;
            let [q, k, v] = [0, 1, 2].map(|which| Head {
                data: &qkv[start * 3 * d + which * d + unit.head * dim..],
                stride: 3 * d,
                dim,
            });
            let (keys, values) = (
                Operand::right(k.rows(0, t).t()),
                Operand::right(v.rows(0, t)),
            );
            let mut scores = vec![T::zero(); TILE.min(t) * t];
            let mut mask = vec![T::zero(); if dropout.is_some() { t } else { 0 }];
            for from in (0..t).step_by(TILE) {
                let len = TILE.min(t - from);
                let scores = &mut scores[..len * t];
                let queries = Operand::left(q.rows(from, len));
                multiply(scale, &queries, &keys, false, MatMut::new(scores, len, t));
                // SAFETY: (sequence, head) units are distinct, so their rows of `lse` and their
                // columns of `out` are.
                let mut lse = unsafe { lse.matrix(unit.head * n + start + from, 1, len, len) };
                for (i, (row, lse)) in scores.chunks_exact_mut(t).zip(lse.row(0)).enumerate() {
                    *lse = softmax_row(row);
                    if let Some(dropout) = dropout {
                        let row_of_head = unit.head * t + from + i;
                        dropout.fill(rows.samples[unit.sequence], row_of_head, &mut mask);
                        row.iter_mut().zip(&mask).for_each(|(p, m)| *p *= *m);
                    }
                }
                // SAFETY: as above.
                let out = unsafe { out.matrix((start + from) * d + unit.head * dim, len, dim, d) };
                let weights = Operand::left(Mat::new(scores, len, t));
                multiply(1.0, &weights, &values, false, out);
            }
        });
    }
    (out, Saved { log_sum_exp: lse })
}

/// The gradient of `qkv` (`n x 3d`), given the output and its gradient (`n x d`).
pub fn backward<T: Real>(
    qkv: &[T],
    d: usize,
    heads: usize,
    rows: &PackedRows,
    dropout: Option<&Dropout>,
    out: &[T],
    saved: &Saved<T>,
    d_out: &[T],
) -> Vec<T> {
    let (n, dim) = (rows.len(), d / heads);
    let scale = 1.0 / (dim as f64).sqrt();
    let mut d_qkv = zeros(n * 3 * d);
    {
        let d_qkv = Shared::new(&mut d_qkv);
        units(rows, heads).par_iter().for_each(|unit| {
            let (start, end) = (rows.offsets[unit.sequence], rows.offsets[unit.sequence + 1]);
            let t = end - start;
            let column = unit.head * dim;
            let [q, k, v] = [0, 1, 2].map(|which| Head {
                data: &qkv[start * 3 * d + which * d + column..],
                stride: 3 * d,
                dim,
            });
            let [o, d_o] = [out, d_out].map(|data| Head {
                data: &data[start * d + column..],
                stride: d,
                dim,
            });
            // SAFETY: (sequence, head) units are distinct, so are the rows and columns they write;
            // within a unit the three column blocks are.
            let d_part = |which: usize, from: usize, len: usize| unsafe {
                d_qkv.matrix((start + from) * 3 * d + which * d + column, len, dim, 3 * d)
            };
            let tiles: Vec<Tile<T>> = (0..t)
                .step_by(QUERIES)
                .map(|from| {
                    let len = QUERIES.min(t - from);
                    let (q, d_o) = (q.rows(from, len), d_o.rows(from, len));
                    Tile {
                        from,
                        len,
                        q: Operand::left(q),
                        q_turned: Operand::left(q.t()),
                        d_o: Operand::left(d_o),
                        d_o_turned: Operand::left(d_o.t()),
                    }
                })
                .collect();
            // sum_j p_ij dp_ij = out_i . d_out_i, with or without dropout.
            let delta: Vec<T> = (0..t)
                .map(|i| dot(&o.data[i * d..][..dim], &d_o.data[i * d..][..dim]))
                .collect();
            let lse = &saved.log_sum_exp[unit.head * n + start..][..t];
            let room = QUERIES.min(t) * KEYS.min(t);
            let (mut p, mut dp) = (vec![T::zero(); room], vec![T::zero(); room]);
            let mut mask = vec![T::zero(); if dropout.is_some() { KEYS.min(t) } else { 0 }];
            // Gradients of keys and of values, transposed.
            let mut turned = vec![T::zero(); 2 * dim * KEYS.min(t)];
            for key in (0..t).step_by(KEYS) {
                let width = KEYS.min(t - key);
                let (k, v) = (k.rows(key, width), v.rows(key, width));
                let (k_turned, v_turned) = (Operand::right(k.t()), Operand::right(v.t()));
                let k = Operand::right(k);
                let (dk, dv) = turned[..2 * dim * width].split_at_mut(dim * width);
                for tile in &tiles {
                    let (from, len) = (tile.from, tile.len);
                    let (p, dp) = (&mut p[..len * width], &mut dp[..len * width]);
                    multiply(scale, &tile.q, &k_turned, false, MatMut::new(p, len, width));
                    multiply(
                        1.0,
                        &tile.d_o,
                        &v_turned,
                        false,
                        MatMut::new(dp, len, width),
                    );
                    let lines = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
                    for (i, (p, dp)) in (from..).zip(lines) {
                        let Some(dropout) = dropout else {
                            scores_backward_row(p, dp, lse[i], delta[i]);
                            continue;
                        };
                        let mask = &mut mask[..width];
                        let (sample, row) = (rows.samples[unit.sequence], unit.head * t + i);
                        dropout.fill_part(sample, row, t, key, mask);
                        dp.iter_mut().zip(&*mask).for_each(|(dp, m)| *dp *= *m);
                        scores_backward_row(p, dp, lse[i], delta[i]);
                        p.iter_mut().zip(&*mask).for_each(|(p, m)| *p *= *m);
                    }
                    let (p, ds) = (Mat::new(p, len, width), Mat::new(dp, len, width));
                    multiply(scale, &Operand::left(ds), &k, key > 0, d_part(0, from, len));
                    let (p, ds) = (Operand::right(p), Operand::right(ds));
                    let (dk, dv) = (MatMut::new(dk, dim, width), MatMut::new(dv, dim, width));
                    multiply(scale, &tile.q_turned, &ds, from > 0, dk);
                    multiply(1.0, &tile.d_o_turned, &p, from > 0, dv);
                }
                for (which, turned) in [(1, &*dk), (2, &*dv)] {
                    let mut to = d_part(which, key, width);
                    for i in 0..width {
                        let column = turned[i..].iter().step_by(width);
                        to.row(i)
                            .iter_mut()
                            .zip(column)
                            .for_each(|(to, v)| *to = *v);
                    }
                }
            }
        });
    }
    d_qkv
}

/// What the backward pass reads of some queries, for every block of keys.
struct Tile<'a, T> {
    from: usize,
    len: usize,
    q: Operand<'a, T>,
    q_turned: Operand<'a, T>,
    d_o: Operand<'a, T>,
    d_o_turned: Operand<'a, T>,
}

simd! {
    /// Softmax in place; returns the logarithm of the sum of exponentials.
    fn softmax_row<T: Real>(row: &mut [T]) -> T {
        let mut lanes = [row[0]; LANES];
        for chunk in row.chunks(LANES) {
            for (lane, v) in chunk.iter().enumerate() {
                lanes[lane] = Real::max(lanes[lane], *v);
            }
        }
        let mut max = lanes[0];
        for lane in lanes {
            max = Real::max(max, lane);
        }
        for v in row.iter_mut() {
            *v = Real::exp(*v - max);
        }
        let denominator = sum(row, |v| v);
        let inverse = T::one() / denominator;
        for v in row.iter_mut() {
            *v *= inverse;
        }
        max + Real::ln(denominator)
    }
}

simd! {
    /// Scores become probabilities, gradients of probabilities become gradients of scores.
    fn scores_backward_row<T: Real>(p: &mut [T], dp: &mut [T], lse: T, delta: T) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = Real::exp(*p - lse);
            *dp = *p * (*dp - delta);
        }
    }
}

simd! {
    fn dot<T: Real>(x: &[T], y: &[T]) -> T {
        let mut lanes = [T::zero(); LANES];
        for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
            for (lane, (x, y)) in x.iter().zip(y).enumerate() {
                lanes[lane] += *x * *y;
            }
        }
        total(&lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;

    fn plain(qkv: &[f64], d: usize, heads: usize, rows: &PackedRows) -> Vec<f64> {
        let dim = d / heads;
        let mut out = vec![0.0; rows.len() * d];
        for s in 0..rows.sequences() {
            for i in rows.offsets[s]..rows.offsets[s + 1] {
                for h in 0..heads {
                    let at = |which: usize, row: usize, k: usize| {
                        qkv[row * 3 * d + which * d + h * dim + k]
                    };
                    let weights: Vec<f64> = (rows.offsets[s]..rows.offsets[s + 1])
                        .map(|j| {
                            ((0..dim).map(|k| at(0, i, k) * at(1, j, k)).sum::<f64>()
                                / (dim as f64).sqrt())
                            .exp()
                        })
                        .collect();
                    let z: f64 = weights.iter().sum();
                    for k in 0..dim {
                        out[i * d + h * dim + k] = weights
                            .iter()
                            .enumerate()
                            .map(|(j, w)| w / z * at(2, rows.offsets[s] + j, k))
                            .sum();
                    }
                }
            }
        }
        out
    }

    #[test]
    fn forward_equals_the_textbook() {
        let (d, heads) = (12, 3);
        let rows = PackedRows::new(vec![0, 5, 5 + 2 * TILE + 3], vec![0, 1]);
        let qkv = noise(1, rows.len() * 3 * d);
        let (out, _) = forward(&qkv, d, heads, &rows, None);
        for (a, b) in out.iter().zip(plain(&qkv, d, heads, &rows)) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    /// Single precision goes another way where the machine has a tile unit.
    #[test]
    fn single_precision_is_close_to_double() {
        let (d, heads) = (128, 2);
        let rows = PackedRows::new(vec![0, 1, 38, 38 + KEYS + 45], vec![0, 1, 2]);
        let (qkv, c) = (noise(1, rows.len() * 3 * d), noise(2, rows.len() * d));
        let single = |x: &[f64]| -> Vec<f32> { x.iter().map(|v| *v as f32).collect() };
        let double = |x: &[f64]| -> Vec<f64> { x.iter().map(|v| f64::from(*v as f32)).collect() };
        let (qkv, c, qkv32, c32) = (double(&qkv), double(&c), single(&qkv), single(&c));
        let dropout = Dropout {
            rate: 0.1,
            seed: 4,
            step: 1,
            module: 2,
        };
        let mut worst = 0.0f64;
        for dropout in [None, Some(&dropout)] {
            let (out, saved) = forward(&qkv, d, heads, &rows, dropout);
            let grad = backward(&qkv, d, heads, &rows, dropout, &out, &saved, &c);
            let (out32, saved) = forward(&qkv32, d, heads, &rows, dropout);
            let grad32 = backward(&qkv32, d, heads, &rows, dropout, &out32, &saved, &c32);
            for (want, got) in out.iter().zip(&out32).chain(grad.iter().zip(&grad32)) {
                worst = worst.max((want - f64::from(*got)).abs());
                assert!((want - f64::from(*got)).abs() < 1e-6, "{want} {got}");
            }
        }
        println!("largest error {worst:.1e}");
    }

    #[test]
    fn gradient_by_finite_differences() {
        let (d, heads) = (8, 2);
        let rows = PackedRows::new(vec![0, 4, 4 + KEYS + 5], vec![3, 8]);
        let (qkv, c) = (noise(1, rows.len() * 3 * d), noise(2, rows.len() * d));
        for dropout in [
            None,
            Some(Dropout {
                rate: 0.2,
                seed: 1,
                step: 0,
                module: 0,
            }),
        ] {
            let dropout = dropout.as_ref();
            let loss = |qkv: &[f64]| {
                forward(qkv, d, heads, &rows, dropout)
                    .0
                    .iter()
                    .zip(&c)
                    .map(|(y, c)| y * c)
                    .sum::<f64>()
            };
            let (out, saved) = forward(&qkv, d, heads, &rows, dropout);
            let grad = backward(&qkv, d, heads, &rows, dropout, &out, &saved, &c);
            for i in (0..qkv.len()).step_by(5) {
                let mut moved = qkv.clone();
                moved[i] += 1e-5;
                let up = loss(&moved);
                moved[i] -= 2e-5;
                let down = loss(&moved);
                let want = (up - down) / 2e-5;
                assert!((want - grad[i]).abs() < 1e-8, "{i}: {want} {}", grad[i]);
            }
        }
    }
}
