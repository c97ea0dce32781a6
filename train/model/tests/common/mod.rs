//! Reads the golden values of `tests/golden`.
#![allow(dead_code, reason = "each test uses a part of it")]

use candle_core::{DType, Device, Tensor};
use datasets::Modality;
use features::{Batch, ModalityBatch, ModalityData};
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::lora::LoraAdapters;
use model::encoder::weights::Weights;
use model::encoder::{Encoder, LoraGradients};
use model::peft::{self, ModuleNames};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};

pub fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

pub fn load(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden().join(file), &Device::Cpu).unwrap()
}

pub fn encoder(kind: Kind, dtype: DType) -> Encoder {
    encoder_at(&golden().join("models"), kind, dtype)
}

/// Loads the encoder in its folder below `root`.
pub fn encoder_at(root: &Path, kind: Kind, dtype: DType) -> Encoder {
    encoder_in(&root.join(kind.folder()), kind, dtype)
}

/// Loads the encoder in `folder`.
pub fn encoder_in(folder: &Path, kind: Kind, dtype: DType) -> Encoder {
    let config = EncoderConfig::read(&folder.join("config.json"), kind).unwrap();
    let weights = Weights::load(folder, &config).unwrap();
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

/// Returns the ids of samples of the golden pool, which are their numbers as text.
pub fn ids(samples: impl IntoIterator<Item = usize>) -> Vec<String> {
    samples.into_iter().map(|s| s.to_string()).collect()
}

/// Returns the values of a tensor of integers.
pub fn integers(t: &Tensor) -> Vec<usize> {
    flat(t).into_iter().map(|v| v as usize).collect()
}

/// Returns which modalities samples have, from a tensor `n x 2` of 0 and 1.
pub fn pairs(t: &Tensor) -> Vec<[bool; 2]> {
    let values = flat(t);
    values
        .chunks_exact(2)
        .map(|v| [v[0] == 1.0, v[1] == 1.0])
        .collect()
}

/// Returns the largest difference over the largest magnitude (over 1 where all is zero).
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    let top = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    a.iter()
        .zip(&b)
        .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()))
        / if top == 0.0 { 1.0 } else { top }
}

/// Returns the golden input of the encoder `name` and its number of sequences.
pub fn input(kind: Kind, name: &str, golden: &HashMap<String, Tensor>) -> (ModalityData, usize) {
    let t = &golden[&format!("{name}.input")];
    let n = t.dims()[0];
    let floats = || {
        let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        t.to_vec1::<f32>().unwrap()
    };
    let ints = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<i64>().unwrap();
    let data = match kind {
        Kind::Clip => ModalityData::Dense {
            values: floats(),
            shape: vec![1, 3, t.dims()[3], t.dims()[3]],
        },
        Kind::Ast => ModalityData::Dense {
            values: floats(),
            shape: vec![t.dims()[1], t.dims()[2]],
        },
        Kind::Bert => ModalityData::Tokens {
            ids: ints(t).into_iter().map(|i| i as u32).collect(),
            lengths: ints(&golden[&format!("{name}.lengths")])
                .into_iter()
                .map(|i| i as usize)
                .collect(),
            max_len: t.dims()[1],
        },
    };
    (data, n)
}

/// Returns the name of an encoder in the golden values.
pub fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::Clip => "clip",
        Kind::Bert => "bert",
        Kind::Ast => "ast",
    }
}

/// Reads a golden adapter folder.
pub fn adapters(encoder: &Encoder, folder: &Path, dtype: DType) -> LoraAdapters {
    let (_, mut adapters) = peft::read(folder, encoder.config()).unwrap();
    for adapter in adapters.blocks.iter_mut().flatten() {
        adapter.a = adapter.a.to_dtype(dtype).unwrap();
        adapter.b = adapter.b.to_dtype(dtype).unwrap();
    }
    adapters
}

/// Returns the gradient of every adapter tensor with the name that it has in PEFT's file.
pub fn adapter_gradients(encoder: &Encoder, grads: &LoraGradients) -> Vec<(String, Tensor)> {
    let names = ModuleNames::Transformers5;
    let named = peft::named_tensors(encoder.config(), &grads.adapters, names).into_iter();
    named.map(|(name, tensor)| (name, tensor.clone())).collect()
}

/// Returns a batch of samples of the pool in `u2a-*.safetensors`.
pub fn golden_batch(
    golden: &HashMap<String, Tensor>,
    modalities: [Modality; 2],
    samples: &[usize],
    present: &[[bool; 2]],
) -> Batch {
    let pool = |name: &str| &golden[&format!("pool.{name}")];
    let input = |m: usize| {
        let rows: Vec<usize> = (0..samples.len()).filter(|i| present[*i][m]).collect();
        if rows.is_empty() {
            return None;
        }
        let t = pool(modalities[m].as_str());
        let picked: Vec<u32> = rows.iter().map(|r| samples[*r] as u32).collect();
        let t = t
            .index_select(&Tensor::new(picked.clone(), &Device::Cpu).unwrap(), 0)
            .unwrap();
        let floats = || flat(&t).into_iter().map(|v| v as f32).collect();
        let dims = t.dims();
        let data = match modalities[m] {
            Modality::Audio => ModalityData::Dense {
                values: floats(),
                shape: vec![dims[1], dims[2]],
            },
            Modality::Video => ModalityData::Dense {
                values: floats(),
                shape: vec![dims[1], 3, dims[4], dims[4]],
            },
            Modality::Image => ModalityData::Dense {
                values: floats(),
                shape: vec![1, 3, dims[3], dims[3]],
            },
            Modality::Text => ModalityData::Tokens {
                ids: flat(&t).into_iter().map(|v| v as u32).collect(),
                lengths: picked
                    .iter()
                    .map(|s| flat(pool("text_lengths"))[*s as usize] as usize)
                    .collect(),
                max_len: dims[1],
            },
        };
        Some(ModalityBatch { rows, data })
    };
    let labels = pool("labels");
    let of = |sample: usize| {
        let row = flat(&labels.get(sample).unwrap());
        match labels.dims().len() {
            1 => vec![row[0] as u32],
            _ => (0..row.len() as u32)
                .filter(|c| row[*c as usize] == 1.0)
                .collect(),
        }
    };
    Batch {
        ids: samples.iter().map(ToString::to_string).collect(),
        labels: samples.iter().map(|s| of(*s)).collect(),
        present: present.to_vec(),
        inputs: [input(0), input(1)],
        consumed: 0,
    }
}

/// The largest difference of each kind, printed at the end: the figures of docs/numerics.md.
#[derive(Default)]
pub struct Measured(BTreeMap<String, (f64, f64)>);

impl Measured {
    /// Asserts that a difference stays below its tolerance.
    pub fn check(&mut self, what: &str, place: impl Display, far: f64, tolerance: f64) {
        assert!(
            far < tolerance,
            "{what}, {place}: {far:e}, allowed {tolerance:e}"
        );
        let worst = self.0.entry(what.into()).or_insert((0.0, tolerance));
        worst.0 = worst.0.max(far);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        for (what, (far, tolerance)) in &self.0 {
            println!("measured: {what}: {far:.1e}, allowed {tolerance:.0e}");
        }
    }
}
