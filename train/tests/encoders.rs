//! The encoders against Hugging Face transformers and PEFT: golden values of `tests/golden`.

mod common;

use candle_core::{DType, Tensor};
use common::{distance, encoder, flat, golden, load};
use features::ModalityData;
use std::collections::HashMap;
use train::adapter::{self, ModuleNames};
use train::encoder::block::Noise;
use train::encoder::config::{ADAPTED, Kind};
use train::encoder::{Keep, Learnable};

fn input(kind: Kind, golden: &HashMap<String, Tensor>) -> (ModalityData, usize) {
    let name = key(kind);
    let t = &golden[&format!("{name}.input")];
    let n = t.dims()[0];
    let floats = || t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let ints = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<i64>().unwrap();
    let data = match kind {
        Kind::Clip => ModalityData::Pixels {
            values: floats(),
            images_per_sample: 1,
            size: t.dims()[3],
        },
        Kind::Ast => ModalityData::Mel {
            values: floats(),
            frames: t.dims()[1],
            bins: t.dims()[2],
        },
        Kind::Bert => ModalityData::Tokens {
            ids: ints(t).into_iter().map(|i| i as u32).collect(),
            lengths: ints(&golden["bert.lengths"])
                .into_iter()
                .map(|i| i as usize)
                .collect(),
            max_len: t.dims()[1],
        },
    };
    (data, n)
}

fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::Clip => "clip",
        Kind::Bert => "bert",
        Kind::Ast => "ast",
    }
}

/// Outputs, and gradients of every adapter tensor and the mask token, in both number types, with
/// the adapters beside the weights and merged into them, keeping everything or recomputing.
#[test]
fn outputs_and_gradients_equal_transformers_with_peft() {
    let golden_values = load("encoders.safetensors");
    for kind in [Kind::Clip, Kind::Ast, Kind::Bert] {
        let k = key(kind);
        for case in ["r0", "r1", "r2a4"] {
            // Golden values are computed in f64 and stored in f32; f32 tolerances: three times
            // what was measured, see docs/numerics.md.
            for (dtype, tolerance, grad_tolerance) in
                [(DType::F64, 3e-7, 3e-7), (DType::F32, 2e-5, 8e-5)]
            {
                let encoder = encoder(kind, dtype);
                let (lora, adapters) = adapter::read(
                    &golden().join(format!("adapters/{k}-{case}")),
                    encoder.config(),
                )
                .unwrap();
                let cast = |t: &Tensor| t.to_dtype(dtype).unwrap();
                let learnable = Learnable {
                    adapters: adapters
                        .iter()
                        .map(|b| {
                            b.clone().map(|a| train::ops::Adapter {
                                a: cast(&a.a),
                                b: cast(&a.b),
                            })
                        })
                        .collect(),
                    scale: lora.alpha / lora.rank as f64,
                    mask_token: cast(&golden_values[&format!("{k}.mask_token")]),
                };
                let (data, n) = input(kind, &golden_values);
                let samples: Vec<u32> = (0..n as u32).collect();
                let get = |name: &str| cast(&golden_values[&format!("{k}.{case}.{name}")]);
                for keep in [Keep::All, Keep::Inputs] {
                    let (out, tape) = encoder
                        .forward(&data, &samples, &learnable, false, &Noise::none(), keep)
                        .unwrap();
                    for (name, got) in [("cls", &out.cls), ("mt", &out.mask)] {
                        let far = distance(got, &get(name));
                        assert!(far < tolerance, "{k} {case} {dtype:?} {name}: {far:e}");
                    }
                    let c = |name: &str| cast(&golden_values[&format!("{k}.{name}")]);
                    let grads = encoder
                        .backward(tape, &c("c1"), &c("c2"), &learnable)
                        .unwrap();
                    let far = distance(&grads.mask_token, &get("grad.mask_token"));
                    assert!(
                        far < grad_tolerance,
                        "{k} {case} {dtype:?} mask token: {far:e}"
                    );
                    for (layer, block) in grads.adapters.iter().enumerate() {
                        for (grad, part) in block.iter().zip(ADAPTED) {
                            let [a, b] = adapter::tensor_names(
                                encoder.config(),
                                layer,
                                part,
                                ModuleNames::Transformers5,
                            );
                            for (name, got) in [(a, &grad.a), (b, &grad.b)] {
                                let want = get(&format!("grad.{name}"));
                                if flat(&want).iter().all(|v| *v == 0.0) {
                                    assert!(
                                        flat(got).iter().all(|v| *v == 0.0),
                                        "{k} {case} {name} is not zero"
                                    );
                                    continue;
                                }
                                let far = distance(got, &want);
                                assert!(
                                    far < grad_tolerance,
                                    "{k} {case} {dtype:?} {name}: {far:e}"
                                );
                            }
                        }
                    }
                }
                let merged = encoder.merged(&learnable).unwrap();
                let (out, _) = merged
                    .forward(
                        &data,
                        &samples,
                        &learnable,
                        true,
                        &Noise::none(),
                        Keep::Nothing,
                    )
                    .unwrap();
                let far = distance(&out.cls, &get("cls")).max(distance(&out.mask, &get("mt")));
                assert!(far < tolerance, "{k} {case} {dtype:?} merged: {far:e}");
            }
        }
    }
}
