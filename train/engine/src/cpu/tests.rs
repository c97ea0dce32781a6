//! Compares the CPU kernels with candle's own operations, in double precision.

use super::activation::Activation;
use super::attention::Attention;
use super::layout::PackedRows;
use super::norm;
use crate::precision::Precision;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{LayerNorm, Module};
use util::rng::Rng;

const EPS: f64 = 1e-5;

fn noise(n: usize, seed: u32) -> Vec<f64> {
    let mut rng = Rng::new(7, &[seed]);
    (0..n)
        .map(|_| (f64::from(rng.bits()) / f64::from(u32::MAX) - 0.5) * 6.0)
        .collect()
}

fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

/// Asserts that the largest difference is below the tolerance.
fn assert_close(ours: &[f64], candle: &Tensor, tolerance: f64) {
    let candle: Vec<f64> = candle.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(ours.len(), candle.len());
    let off = ours.iter().zip(&candle).map(|(a, b)| (a - b).abs());
    let worst = off.fold(0.0, f64::max);
    assert!(worst < tolerance, "{worst}");
}

#[test]
fn layer_norm_equals_candles() {
    let (n, d) = (5, 48);
    let (x, scale, shift) = (noise(n * d, 1), noise(d, 2), noise(d, 3));
    let candle = candle_nn::ops::layer_norm_slow(
        &tensor(&x, &[n, d]),
        &tensor(&scale, &[d]),
        &tensor(&shift, &[d]),
        EPS as f32,
    );
    // candle takes its epsilon in single precision.
    let ours = norm::layer_norm(&x, &scale, &shift, f64::from(EPS as f32)).0;
    assert_close(&ours, &candle.unwrap(), 1e-12);
}

#[test]
fn activations_equal_candles() {
    let x = noise(1000, 4);
    let t = tensor(&x, &[1000]);
    assert_close(&Activation::Gelu.forward(&x), &t.gelu_erf().unwrap(), 1e-12);
    let quick = (&t * candle_nn::ops::sigmoid(&(&t * 1.702).unwrap()).unwrap()).unwrap();
    assert_close(&Activation::QuickGelu.forward(&x), &quick, 1e-12);
}

#[test]
fn attention_equals_candles_for_sequences_of_different_lengths() {
    let (d, heads) = (24, 3);
    let dim = d / heads;
    // One longer than a tile of queries, one of a single token.
    let lengths = [130, 1, 7];
    let n = lengths.iter().sum();
    let qkv = noise(n * 3 * d, 5);
    let rows = PackedRows::new(vec![0, 130, 131, n], vec![0, 1, 2]);
    let attention = Attention {
        d,
        heads,
        rows: &rows,
        dropout: None,
        precision: Precision::F32,
    };
    let (ours, _) = attention.forward(&qkv);
    let mut start = 0;
    let outputs = lengths.map(|t| {
        let part = |which: usize| {
            tensor(&qkv, &[n, 3 * d])
                .narrow(0, start, t)
                .and_then(|x| x.narrow(1, which * d, d))
                .and_then(|x| x.reshape((t, heads, dim)))
                .and_then(|x| x.transpose(0, 1)?.contiguous())
                .unwrap()
        };
        let scores = part(0).matmul(&part(1).t().unwrap()).unwrap();
        let scores = (scores / (dim as f64).sqrt()).unwrap();
        let out = candle_nn::ops::softmax(&scores, D::Minus1)
            .and_then(|p| p.matmul(&part(2)))
            .and_then(|x| x.transpose(0, 1)?.reshape((t, d)))
            .unwrap();
        start += t;
        out
    });
    let all = Tensor::cat(&outputs, 0).unwrap();
    assert_eq!(all.dtype(), DType::F64);
    assert_close(&ours, &all, 1e-12);
}

/// The reason why the encoders have layers of their own: candle's fused layer norm and softmax give
/// their input no gradient, without an error, and the product with a frozen matrix computes that
/// matrix's gradient, which is as much work as the input's.
#[test]
fn candles_layers_do_not_serve_frozen_encoders() {
    // Layer norm is fused in single precision only.
    let tensor = |values: &[f64], shape: &[usize]| {
        let t = tensor(values, shape);
        t.to_dtype(DType::F32).unwrap()
    };
    let x = Var::from_tensor(&tensor(&noise(12, 6), &[3, 4])).unwrap();
    let grads = |y: Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let ones = tensor(&[1.0; 4], &[4]);
    let norm = LayerNorm::new(ones.clone(), ones, EPS);
    assert!(grads(norm.forward(&x).unwrap()).get(&x).is_none());
    let softmax = candle_nn::ops::softmax_last_dim(&x).unwrap();
    assert!(grads(softmax).get(&x).is_none());
    let frozen = tensor(&noise(20, 7), &[4, 5]);
    assert!(grads(x.matmul(&frozen).unwrap()).get(&frozen).is_some());
}
