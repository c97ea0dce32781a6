//! Multi-head attention over packed sequences that never stores its scores.
//!
//! Queries are taken a tile at a time: the tile's scores against all keys are formed, normalised
//! and used at once, so memory grows with the number of tokens, not with its square. The forward
//! pass saves one number per query and head (the logarithm of the softmax's denominator), from
//! which the backward pass computes the same probabilities again, a block of keys at a time
//! (FlashAttention's scheme, Dao 2022, without the online part: a row of scores fits the cache).

use super::Real;
use super::dropout::Dropout;
use super::layout::{Mat, MatMut, PackedRows, Side};
use super::matmul::{Operand, multiply};
use super::parallel::{DisjointViews, zeros};
use super::simd::{LANES, dot, simd, sum};
use crate::precision::Precision;
use rayon::prelude::*;

/// Queries of a tile in the forward pass: 64 x 1215 scores of AST take 304 KiB, within a core's
/// second-level cache.
const TILE: usize = 64;

/// Queries of a block in the backward pass, whose scores and their gradients take 128 KiB each.
const QUERIES: usize = 128;
/// Keys of a block in the backward pass.
const KEYS: usize = 256;

/// The values that attention's forward pass saves for its backward pass.
pub struct Saved<T> {
    /// `ln sum_j exp(score_ij)` of head `h`, row `i` at `h * n + i`.
    log_sum_exp: Vec<T>,
}

/// One (sequence, head) pair: the unit of parallel work.
struct Unit {
    /// The number of the sample that the sequence belongs to.
    sample: u32,
    /// The first row of the sequence.
    start: usize,
    /// The number of tokens in the sequence.
    tokens: usize,
    head: usize,
}

/// One head's part of a packed matrix: columns of `dim` for the rows of one sequence.
#[derive(Clone, Copy)]
struct Head<'a, T> {
    data: &'a [T],
    stride: usize,
    dim: usize,
}

impl<'a, T: Real> Head<'a, T> {
    /// Returns rows `from..from + len` of the sequence.
    fn rows(&self, from: usize, len: usize) -> Mat<'a, T> {
        Mat::strided(&self.data[from * self.stride..], len, self.dim, self.stride)
    }
}

/// Multi-head self-attention on one packed token matrix.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The width of a token.
    pub d: usize,
    /// The number of heads, which share the width evenly.
    pub heads: usize,
    /// The sequences.
    pub rows: &'a PackedRows,
    /// The dropout of the probabilities.
    pub dropout: Option<&'a Dropout>,
    /// The precision of products of `f32`.
    pub precision: Precision,
}

impl Attention<'_> {
    /// Returns the width of a head.
    fn dim(&self) -> usize {
        self.d / self.heads
    }

    /// Returns the factor of the scores before the softmax.
    fn scale(&self) -> f64 {
        1.0 / (self.dim() as f64).sqrt()
    }

    /// Packs a left operand in this attention's precision.
    fn left<T: Real>(&self, mat: Mat<T>) -> Operand<T> {
        Operand::new(mat, Side::Left, self.precision)
    }

    /// Packs a right operand in this attention's precision.
    fn right<T: Real>(&self, mat: Mat<T>) -> Operand<T> {
        Operand::new(mat, Side::Right, self.precision)
    }

    fn units(&self) -> Vec<Unit> {
        let sequences = self.rows.samples.iter().zip(self.rows.offsets.windows(2));
        sequences
            .flat_map(|(sample, ends)| {
                (0..self.heads).map(|head| Unit {
                    sample: *sample,
                    start: ends[0],
                    tokens: ends[1] - ends[0],
                    head,
                })
            })
            .collect()
    }

    /// Returns the queries, keys and values of one unit.
    fn qkv<'a, T>(&self, qkv: &'a [T], unit: &Unit) -> [Head<'a, T>; 3] {
        let (d, dim) = (self.d, self.dim());
        [0, 1, 2].map(|which| Head {
            data: &qkv[unit.start * 3 * d + which * d + unit.head * dim..],
            stride: 3 * d,
            dim,
        })
    }

    /// Returns `softmax(q k^T / sqrt(dim)) v` for each sequence and head, `n x d`.
    ///
    /// `qkv` is `n x 3d`: queries, keys and values side by side, heads side by side in each.
    /// Dropout, if any, falls on the probabilities.
    pub fn forward<T: Real>(&self, qkv: &[T]) -> (Vec<T>, Saved<T>) {
        let (n, d, dim) = (self.rows.len(), self.d, self.dim());
        let mut out = zeros(n * d);
        let mut lse = vec![T::zero(); self.heads * n];
        {
            let (out, lse) = (DisjointViews::new(&mut out), DisjointViews::new(&mut lse));
            self.units().par_iter().for_each(|unit| {
                let t = unit.tokens;
                let [q, k, v] = self.qkv(qkv, unit);
                let (keys, values) = (self.right(k.rows(0, t).t()), self.right(v.rows(0, t)));
                let mut scores = vec![T::zero(); TILE.min(t) * t];
                let mut mask = vec![T::zero(); if self.dropout.is_some() { t } else { 0 }];
                for from in (0..t).step_by(TILE) {
                    let len = TILE.min(t - from);
                    let scores = &mut scores[..len * t];
                    let queries = self.left(q.rows(from, len));
                    let to = MatMut::new(scores, len, t);
                    multiply(self.scale(), &queries, &keys, false, to);
                    let (lse_at, row) = (unit.head * n + unit.start + from, unit.start + from);
                    // SAFETY: (sequence, head) units are distinct, so their rows of `lse` and their
                    // columns of `out` are.
                    let mut lse = unsafe { lse.matrix(lse_at, 1, len, len) };
                    for (i, (row, lse)) in scores.chunks_exact_mut(t).zip(lse.row(0)).enumerate() {
                        *lse = softmax_row(row);
                        if let Some(dropout) = self.dropout {
                            let row_of_head = unit.head * t + from + i;
                            dropout.fill(unit.sample, row_of_head, &mut mask);
                            row.iter_mut().zip(&mask).for_each(|(p, m)| *p *= *m);
                        }
                    }
                    // SAFETY: as above.
                    let out = unsafe { out.matrix(row * d + unit.head * dim, len, dim, d) };
                    let weights = self.left(Mat::new(scores, len, t));
                    multiply(1.0, &weights, &values, false, out);
                }
            });
        }
        (out, Saved { log_sum_exp: lse })
    }

    /// Returns the gradient of `qkv` (`n x 3d`), given the output and its gradient (`n x d`).
    pub fn backward<T: Real>(&self, qkv: &[T], out: &[T], saved: &Saved<T>, d_out: &[T]) -> Vec<T> {
        let mut d_qkv = zeros(self.rows.len() * 3 * self.d);
        {
            let d_qkv = DisjointViews::new(&mut d_qkv);
            let backward = |unit: &Unit| self.backward_unit(unit, qkv, out, saved, d_out, &d_qkv);
            self.units().par_iter().for_each(backward);
        }
        d_qkv
    }

    /// Prepares `len` queries from `from` on for the backward pass.
    fn query_tile<T: Real>(
        &self,
        from: usize,
        len: usize,
        q: Head<T>,
        d_o: Head<T>,
    ) -> QueryTile<T> {
        let (q, d_o) = (q.rows(from, len), d_o.rows(from, len));
        QueryTile {
            from,
            len,
            q: self.left(q),
            q_t: self.left(q.t()),
            d_o: self.left(d_o),
            d_o_t: self.left(d_o.t()),
        }
    }

    /// [`Attention::backward`] of one unit.
    fn backward_unit<T: Real>(
        &self,
        unit: &Unit,
        qkv: &[T],
        out: &[T],
        saved: &Saved<T>,
        d_out: &[T],
        d_qkv: &DisjointViews<T>,
    ) {
        let (d, dim, scale) = (self.d, self.dim(), self.scale());
        let (start, t, column) = (unit.start, unit.tokens, unit.head * dim);
        let [q, k, v] = self.qkv(qkv, unit);
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
        let tiles: Vec<QueryTile<T>> = (0..t)
            .step_by(QUERIES)
            .map(|from| self.query_tile(from, QUERIES.min(t - from), q, d_o))
            .collect();
        // sum_j p_ij dp_ij = out_i . d_out_i, with or without dropout.
        let delta: Vec<T> = (0..t)
            .map(|i| dot(&o.data[i * d..][..dim], &d_o.data[i * d..][..dim]))
            .collect();
        let lse = &saved.log_sum_exp[unit.head * self.rows.len() + start..][..t];
        let room = QUERIES.min(t) * KEYS.min(t);
        let (mut p, mut dp) = (vec![T::zero(); room], vec![T::zero(); room]);
        let mut mask = vec![
            T::zero();
            if self.dropout.is_some() {
                KEYS.min(t)
            } else {
                0
            }
        ];
        // The gradients of keys and of values, transposed.
        let mut dk_dv = vec![T::zero(); 2 * dim * KEYS.min(t)];
        for key in (0..t).step_by(KEYS) {
            let width = KEYS.min(t - key);
            let (k, v) = (k.rows(key, width), v.rows(key, width));
            let (k_t, v_t, k) = (self.right(k.t()), self.right(v.t()), self.right(k));
            let (dk, dv) = dk_dv[..2 * dim * width].split_at_mut(dim * width);
            for tile in &tiles {
                let (from, len) = (tile.from, tile.len);
                let (p, dp) = (&mut p[..len * width], &mut dp[..len * width]);
                let to = MatMut::new(p, len, width);
                multiply(scale, &tile.q, &k_t, false, to);
                let to = MatMut::new(dp, len, width);
                multiply(1.0, &tile.d_o, &v_t, false, to);
                let lines = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
                for (i, (p, dp)) in (from..).zip(lines) {
                    let Some(dropout) = self.dropout else {
                        scores_backward_row(p, dp, lse[i], delta[i]);
                        continue;
                    };
                    let mask = &mut mask[..width];
                    dropout.fill_part(unit.sample, unit.head * t + i, t, key, mask);
                    dp.iter_mut().zip(&*mask).for_each(|(dp, m)| *dp *= *m);
                    scores_backward_row(p, dp, lse[i], delta[i]);
                    p.iter_mut().zip(&*mask).for_each(|(p, m)| *p *= *m);
                }
                let (p, ds) = (Mat::new(p, len, width), Mat::new(dp, len, width));
                let ds_left = self.left(ds);
                multiply(scale, &ds_left, &k, key > 0, d_part(0, from, len));
                let (p, ds) = (self.right(p), self.right(ds));
                let (dk, dv) = (MatMut::new(dk, dim, width), MatMut::new(dv, dim, width));
                multiply(scale, &tile.q_t, &ds, from > 0, dk);
                multiply(1.0, &tile.d_o_t, &p, from > 0, dv);
            }
            write_transposed(dk, width, d_part(1, key, width));
            write_transposed(dv, width, d_part(2, key, width));
        }
    }
}

/// Writes the transpose of a row-major matrix of `width` columns.
fn write_transposed<T: Real>(from: &[T], width: usize, mut to: MatMut<T>) {
    for i in 0..width {
        let column = from[i..].iter().step_by(width);
        let row = to.row(i).iter_mut();
        row.zip(column).for_each(|(to, v)| *to = *v);
    }
}

/// Some queries and the gradients of their outputs, as the backward pass multiplies them with every
/// block of keys.
struct QueryTile<T> {
    from: usize,
    len: usize,
    q: Operand<T>,
    q_t: Operand<T>,
    d_o: Operand<T>,
    d_o_t: Operand<T>,
}

simd! {
    /// Turns a row of scores into its softmax and returns the logarithm of the sum of exponentials.
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
    /// Turns scores into probabilities, and gradients of probabilities into gradients of scores.
    fn scores_backward_row<T: Real>(p: &mut [T], dp: &mut [T], lse: T, delta: T) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = Real::exp(*p - lse);
            *dp = *p * (*dp - delta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::tests::noise;

    fn attention<'a>(
        d: usize,
        heads: usize,
        rows: &'a PackedRows,
        dropout: Option<&'a Dropout>,
    ) -> Attention<'a> {
        Attention {
            d,
            heads,
            rows,
            dropout,
            precision: Precision::F32,
        }
    }

    /// Attention as its definition has it, one score after the other.
    fn by_definition(qkv: &[f64], d: usize, heads: usize, rows: &PackedRows) -> Vec<f64> {
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
    fn forward_equals_the_definition() {
        // Heads of 4 numbers, of 20, and of 80 as CLIP ViT-H/14 has them.
        for (d, heads) in [(12, 3), (40, 2), (160, 2)] {
            let rows = PackedRows::new(vec![0, 5, 5 + 2 * TILE + 3], vec![0, 1]);
            let qkv = noise(1, rows.len() * 3 * d);
            let (out, _) = attention(d, heads, &rows, None).forward(&qkv);
            for (a, b) in out.iter().zip(by_definition(&qkv, d, heads, &rows)) {
                assert!((a - b).abs() < 1e-12, "{d} in {heads} heads");
            }
        }
    }

    /// The products of single precision are AMX's on a machine that has it.
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
            let attention = attention(d, heads, &rows, dropout);
            let (out, saved) = attention.forward(&qkv);
            let grad = attention.backward(&qkv, &out, &saved, &c);
            let (out32, saved) = attention.forward(&qkv32);
            let grad32 = attention.backward(&qkv32, &out32, &saved, &c32);
            for (want, got) in out.iter().zip(&out32).chain(grad.iter().zip(&grad32)) {
                worst = worst.max((want - f64::from(*got)).abs());
                assert!((want - f64::from(*got)).abs() < 1e-6, "{want} {got}");
            }
        }
        println!("largest error {worst:.1e}");
    }

    #[test]
    fn gradient_equals_finite_differences() {
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
            let attention = attention(d, heads, &rows, dropout.as_ref());
            let loss = |qkv: &[f64]| {
                let (out, _) = attention.forward(qkv);
                out.iter().zip(&c).map(|(y, c)| y * c).sum::<f64>()
            };
            let (out, saved) = attention.forward(&qkv);
            let grad = attention.backward(&qkv, &out, &saved, &c);
            for i in (0..qkv.len()).step_by(5) {
                let mut shifted = qkv.clone();
                shifted[i] += 1e-5;
                let up = loss(&shifted);
                shifted[i] -= 2e-5;
                let down = loss(&shifted);
                let want = (up - down) / 2e-5;
                assert!((want - grad[i]).abs() < 1e-8, "{i}: {want} {}", grad[i]);
            }
        }
    }
}
