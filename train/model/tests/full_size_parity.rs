//! The encoders at the paper's sizes against Hugging Face transformers and PEFT.
//!
//! Needs a Python with tests/golden/requirements.txt (`U2A_PYTHON`, as `just test-python` sets it)
//! and 1.5 GB of temporary space; without that Python the test is skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Device};
use common::{Measured, adapter_gradients, adapters, distance, encoder_at, input, key};
use model::encoder::config::Kind;
use model::encoder::{DropoutConfig, EncoderInput, EncoderOutput, StoredActivations};
use std::process::Command;
use util::skip::{Missing, skip};

#[test]
fn full_size_encoders_equal_transformers_with_peft() {
    let Some(python) = std::env::var_os("U2A_PYTHON") else {
        skip(
            Missing::Platform,
            "no Python with PyTorch: run `just test-python`",
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/python/full_size.py"
    );
    let status = Command::new(python)
        .arg(script)
        .arg(root)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status()
        .unwrap();
    assert!(status.success());
    let values =
        candle_core::safetensors::load(root.join("values.safetensors"), &Device::Cpu).unwrap();
    let mut measured = Measured::default();
    for kind in [Kind::Clip, Kind::Ast, Kind::Bert] {
        let k = key(kind);
        let get = |name: &str| &values[&format!("{k}.{name}")];
        let encoder = encoder_at(root, kind, DType::F32);
        let adapters = adapters(&encoder, &root.join("adapters").join(k), DType::F32);
        let (data, n) = input(kind, k, &values);
        let samples: Vec<u32> = (0..n as u32).collect();
        let read = EncoderInput {
            data: &data,
            samples: &samples,
            uploaded: None,
        };
        let (out, tape) = encoder
            .forward(
                &read,
                get("mask_token"),
                Some(&adapters),
                &DropoutConfig::OFF,
                Some(StoredActivations::Inputs),
            )
            .unwrap();
        for (name, got) in ["cls", "mt"].into_iter().zip(out.split().unwrap()) {
            let far = distance(&got, get(name));
            measured.check(&format!("{k} outputs"), name, far, 3e-6);
        }
        let gradient = EncoderOutput::join(get("c1"), get("c2")).unwrap();
        let grads = encoder.backward(tape, &gradient, &adapters).unwrap();
        let what = format!("{k} gradients");
        let far = distance(&grads.mask_token, get("grad.mask_token"));
        measured.check(&what, "mask token", far, 2.5e-4);
        for (name, got) in adapter_gradients(&encoder, &grads) {
            let far = distance(&got, get(&format!("grad.{name}")));
            measured.check(&what, &name, far, 2.5e-4);
        }
    }
}
