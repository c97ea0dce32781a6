//! Reading the golden values of `tests/golden`.
#![allow(dead_code, reason = "each test uses a part of it")]

use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;
use train::encoder::Encoder;
use train::encoder::config::{EncoderConfig, Kind};
use train::weights::Weights;

pub fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

pub fn load(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden().join(file), &Device::Cpu).unwrap()
}

pub fn encoder(kind: Kind, dtype: DType) -> Encoder {
    let folder = golden().join("models").join(kind.folder());
    let config = EncoderConfig::read(&folder.join("config.json"), kind).unwrap();
    let weights = Weights::load(&folder, &config).unwrap();
    Encoder::new(config, weights, dtype).unwrap()
}

pub fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Largest difference over largest magnitude (over 1 where all is zero).
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    let top = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    a.iter()
        .zip(&b)
        .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()))
        / if top == 0.0 { 1.0 } else { top }
}
