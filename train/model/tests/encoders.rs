//! The encoders against Hugging Face transformers and PEFT: golden values of `tests/golden`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Tensor};
use common::{
    Measured, adapter_gradients, adapters, distance, encoder, encoder_in, flat, golden, input, key,
    load,
};
use model::encoder::config::Kind;
use model::encoder::lora::LoraAdapters;
use model::encoder::{
    DropoutConfig, Encoder, EncoderInput, EncoderOutput, StoredActivations, Tape,
};
use std::path::PathBuf;

/// Runs an encoder with adapters and without dropout.
fn forward(
    encoder: &Encoder,
    input: &EncoderInput,
    mask_token: &Tensor,
    adapters: &LoraAdapters,
    stored: StoredActivations,
) -> (EncoderOutput, Tape) {
    let dropout = &DropoutConfig::OFF;
    let ran = encoder.forward(input, mask_token, Some(adapters), dropout, Some(stored));
    ran.unwrap()
}

/// Compares the outputs and the gradients of every adapter tensor and of the mask token, in both
/// number types, with the adapters beside the weights and merged into them, with all activations
/// stored and with activation checkpointing.
#[test]
fn outputs_and_gradients_equal_transformers_with_peft() {
    let golden_values = load("encoders.safetensors");
    let mut measured = Measured::default();
    for kind in [Kind::Clip, Kind::Ast, Kind::Bert] {
        let k = key(kind);
        for case in ["r0", "r1", "r2a4"] {
            // Golden values are computed in f64 and stored in f32; f32 tolerances: three times
            // what was measured, see docs/numerics.md.
            for (dtype, tolerance, grad_tolerance) in
                [(DType::F64, 3e-7, 3e-7), (DType::F32, 2e-5, 8e-5)]
            {
                let encoder = encoder(kind, dtype);
                let folder = golden().join(format!("adapters/{k}-{case}"));
                let adapters = adapters(&encoder, &folder, dtype);
                let (data, n) = input(kind, k, &golden_values);
                let samples: Vec<u32> = (0..n as u32).collect();
                let cast = |t: &Tensor| t.to_dtype(dtype).unwrap();
                let mask_token = cast(&golden_values[&format!("{k}.mask_token")]);
                let get = |name: &str| cast(&golden_values[&format!("{k}.{case}.{name}")]);
                let read = EncoderInput {
                    data: &data,
                    samples: &samples,
                    uploaded: None,
                };
                for stored in [
                    StoredActivations::All,
                    StoredActivations::Selective,
                    StoredActivations::Inputs,
                ] {
                    let (out, tape) = forward(&encoder, &read, &mask_token, &adapters, stored);
                    for (name, got) in ["cls", "mt"].into_iter().zip(out.split().unwrap()) {
                        measured.check(
                            &format!("{dtype:?} outputs"),
                            format!("{k} {case} {name}"),
                            distance(&got, &get(name)),
                            tolerance,
                        );
                    }
                    let c = |name: &str| cast(&golden_values[&format!("{k}.{name}")]);
                    let gradient = EncoderOutput::join(&c("c1"), &c("c2")).unwrap();
                    let grads = encoder.backward(tape, &gradient, &adapters).unwrap();
                    let gradients = format!("{dtype:?} gradients");
                    measured.check(
                        &gradients,
                        format!("{k} {case} mask token"),
                        distance(&grads.mask_token, &get("grad.mask_token")),
                        grad_tolerance,
                    );
                    for (name, got) in adapter_gradients(&encoder, &grads) {
                        let want = get(&format!("grad.{name}"));
                        if flat(&want).iter().all(|v| *v == 0.0) {
                            assert!(
                                flat(&got).iter().all(|v| *v == 0.0),
                                "{k} {case} {name} is not zero"
                            );
                            continue;
                        }
                        measured.check(
                            &gradients,
                            format!("{k} {case} {name}"),
                            distance(&got, &want),
                            grad_tolerance,
                        );
                    }
                }
                let merged = encoder.merged(&adapters).unwrap();
                let (out, _) = merged
                    .forward(&read, &mask_token, None, &DropoutConfig::OFF, None)
                    .unwrap();
                let [class, mask] = out.split().unwrap();
                let far = distance(&class, &get("cls")).max(distance(&mask, &get("mt")));
                measured.check(
                    &format!("{dtype:?} outputs, merged"),
                    format!("{k} {case}"),
                    far,
                    tolerance,
                );
            }
        }
    }
}

/// The encoders of other sizes: name, kind, and the number of patches of an input.
const OTHER_SIZES: [(&str, Kind, usize); 5] = [
    // 42 pixels in patches of 14, as those of ViT-L/14.
    ("clip-patch14", Kind::Clip, 3 * 3),
    // As many patches as ViT-B/32 has; a head of 80 numbers, as ViT-H/14.
    ("clip-heads80", Kind::Clip, 7 * 7),
    ("bert", Kind::Bert, 0),
    // (128 - 16) / 16 + 1 patches along frequency, (70 - 16) / 9 + 1 along time.
    ("ast", Kind::Ast, 8 * 7),
    // (128 - 12) / 11 + 1 and (50 - 12) / 7 + 1.
    ("ast-patch12", Kind::Ast, 11 * 6),
];

/// The folder of an encoder below `tests/golden/sizes`.
fn folder_of_size(name: &str) -> PathBuf {
    let parent = golden().join("sizes").join(name);
    let mut folders = std::fs::read_dir(parent).unwrap();
    folders.next().unwrap().unwrap().path()
}

/// Sizes are read from `config.json`, and what is computed with them equals transformers and PEFT:
/// class token, mask token, and the gradients of adapters and mask token.
#[test]
fn encoders_of_other_sizes_equal_transformers_with_peft() {
    let values = load("encoder_sizes.safetensors");
    let mut measured = Measured::default();
    for (name, kind, patches) in OTHER_SIZES {
        for (dtype, tolerance, grad_tolerance) in
            [(DType::F64, 3e-7, 3e-7), (DType::F32, 1e-4, 1e-4)]
        {
            let encoder = encoder_in(&folder_of_size(name), kind, dtype);
            assert_eq!(encoder.config().patches(), patches, "{name}");
            let adapters = adapters(&encoder, &golden().join("adapters").join(name), dtype);
            let (data, n) = input(kind, name, &values);
            let get = |part: &str| values[&format!("{name}.{part}")].to_dtype(dtype).unwrap();
            let samples: Vec<u32> = (0..n as u32).collect();
            let read = EncoderInput {
                data: &data,
                samples: &samples,
                uploaded: None,
            };
            let mask_token = get("mask_token");
            for stored in [StoredActivations::All, StoredActivations::Inputs] {
                let (out, tape) = forward(&encoder, &read, &mask_token, &adapters, stored);
                let mut check = |what: &str, got: &Tensor, want: &str, tolerance| {
                    let (kind, place) = (format!("{dtype:?} {what}"), format!("{name} {want}"));
                    measured.check(&kind, place, distance(got, &get(want)), tolerance);
                };
                for (part, got) in ["cls", "mt"].into_iter().zip(out.split().unwrap()) {
                    check("outputs", &got, part, tolerance);
                }
                let gradient = EncoderOutput::join(&get("c1"), &get("c2")).unwrap();
                let grads = encoder.backward(tape, &gradient, &adapters).unwrap();
                let of_adapters = adapter_gradients(&encoder, &grads);
                let of_mask_token = ("mask_token".to_string(), grads.mask_token.clone());
                for (part, got) in of_adapters.into_iter().chain([of_mask_token]) {
                    check("gradients", &got, &format!("grad.{part}"), grad_tolerance);
                }
            }
        }
    }
}
