//! The GPU's kernels against the CPU's: the same layers and the same whole training step, once with the
//! functions of [`crate::kernels`], once with the kernels of `train/cuda` run on the host.

use super::emulated::{self, emulating};
use super::*;
use crate::adapter::LoraConfig;
use crate::encoder::config::{EncoderConfig, Kind};
use crate::encoder::{Encoder, Keep};
use crate::model::{LossConfig, MissingToken, StepMode, U2a};
use crate::optim::{AdamW, AdamWConfig};
use crate::weights::Weights;
use datasets::Modality;
use features::rng::Rng;
use features::{Batch, ModalityBatch, ModalityData};

/// Normally distributed numbers.
fn noise(seed: u32, shape: (usize, usize)) -> Tensor {
    let mut rng = Rng::new(7, &[seed]);
    let numbers: Vec<f32> = (0..shape.0 * shape.1)
        .map(|_| rng.normal() as f32)
        .collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// Largest difference, relative to the largest number of `want`.
fn apart(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let numbers = |t: &Tensor| -> Vec<f32> {
        let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        t.to_vec1().unwrap()
    };
    let (got, want) = (numbers(got), numbers(want));
    let largest = want.iter().fold(1e-12f64, |m, v| m.max(f64::from(v.abs())));
    let pairs = got.iter().zip(&want);
    let worst = pairs.map(|(a, b)| f64::from((a - b).abs()) / largest);
    worst.fold(
        0.0,
        |m, v| if v.is_nan() { f64::INFINITY } else { m.max(v) },
    )
}

/// Runs a layer on the host's kernels in f32, and on the GPU's in f32 and in bf16.
fn check(name: &str, inputs: &[Tensor], layer: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) {
    let want = layer(inputs).unwrap();
    for (dtype, limit) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
        let given: Vec<Tensor> = inputs.iter().map(|t| t.to_dtype(dtype).unwrap()).collect();
        let Some(got) = emulating(|| layer(&given).unwrap()) else {
            return;
        };
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let worst = apart(got, want);
            assert!(worst < limit, "{name} in {dtype:?}, result {i}: {worst:e}");
        }
    }
}

fn single(t: Tensor) -> Tensor {
    t.to_dtype(DType::F32).unwrap()
}

/// Sequences of several tiles, of one token, of a tile's length.
fn rows() -> Rows {
    Rows::new(vec![0, 70, 71, 135], vec![3, 0, 9])
}

const DROPOUT: Dropout = Dropout {
    rate: 0.2,
    seed: 0x1_2345_6789,
    step: 5,
    module: 12,
};

#[test]
fn norm() {
    let norm = Norm {
        weight: noise(1, (1, 72)).flatten_all().unwrap(),
        bias: noise(2, (1, 72)).flatten_all().unwrap(),
        eps: 1e-5,
    };
    check(
        "norm",
        &[
            noise(3, (135, 72)),
            noise(4, (135, 72)),
            noise(5, (135, 72)),
        ],
        |t| {
            let (y, stats) = norm.forward(&t[0])?;
            let again = norm.again(&t[0], &stats)?;
            let bare = norm.backward(&t[1], &t[0], &stats, None)?;
            let plus = norm.backward(&t[1], &t[0], &stats, Some(&t[2]))?;
            let [scale, shift] = norm.weight_gradient(&t[1], &t[0], &stats)?;
            Ok(vec![y, again, bare, plus, scale, shift])
        },
    );
}

#[test]
fn activations() {
    for f in [Activation::Gelu, Activation::QuickGelu] {
        let z = (noise(1, (33, 40)) * 3.0).unwrap();
        check("activation", &[z, noise(2, (33, 40))], |t| {
            Ok(vec![
                activate(f, &t[0])?,
                activate_backward(f, &t[0], &t[1])?,
            ])
        });
    }
}

#[test]
fn dropout_draws_the_same_mask() {
    let x = Tensor::ones((135, 72), DType::F32, &Device::Cpu).unwrap();
    let layer = |x: &Tensor| dropout(x, Some(&DROPOUT), &rows()).unwrap();
    if let Some(got) = emulating(|| layer(&x)) {
        assert_eq!(apart(&got, &layer(&x)), 0.0);
    }
}

#[test]
fn linear_layers_and_adapters() {
    let (d, width) = (40, 24);
    for (parts, rank) in [(1, 1), (3, 1), (3, 2), (1, 4)] {
        let adapters: Vec<Adapter> = (0..parts as u32)
            .map(|i| Adapter {
                a: noise(10 + i, (rank, d)),
                b: noise(20 + i, (width, rank)),
            })
            .collect();
        let adapters: Vec<&Adapter> = adapters.iter().collect();
        let out = parts * width;
        let weight = noise(3, (out, d));
        let bias = noise(4, (1, out)).flatten_all().unwrap();
        let inputs = [
            noise(1, (135, d)),
            noise(2, (135, out)),
            noise(5, (135, out)),
            weight,
        ];
        for dropped in [false, true] {
            let dropout = (0..parts as u32).map(|i| Dropout {
                module: 4 + i,
                ..DROPOUT
            });
            let adapters = Adapters {
                parts: &adapters,
                scale: 0.7,
                dropout: if dropped {
                    dropout.collect()
                } else {
                    Vec::new()
                },
            };
            check("linear", &inputs, |t| {
                let linear = Linear {
                    weight: t[3].clone(),
                    bias: bias.clone(),
                };
                let rows = rows();
                let (y, u) = linear.forward(&t[0], &rows, Some(&adapters))?;
                let drop = dropped.then_some(&DROPOUT);
                let (plus, _) = linear.forward_plus(&t[0], &rows, Some(&adapters), drop, &t[2])?;
                let (z, a) = linear.forward_activated(&t[0], &rows, Activation::Gelu)?;
                let (dx, grads) =
                    linear.backward(&t[1], &t[0], u.as_ref(), &rows, Some(&adapters))?;
                let [dw, db] =
                    Linear::weight_gradient(&single(t[1].clone()), &single(t[0].clone()))?;
                let mut all = vec![y, u.unwrap(), plus, z, a, dx, dw, db];
                all.extend(grads.into_iter().flat_map(|g| [g.a, g.b]));
                Ok(all)
            });
        }
    }
}

#[test]
fn attention() {
    for dim in [16, 32, 64] {
        let heads = 2;
        let d = heads * dim;
        let inputs = [noise(1, (135, 3 * d)), noise(2, (135, d))];
        for dropped in [None, Some(&DROPOUT)] {
            check(&format!("attention of {dim}"), &inputs, |t| {
                let rows = rows();
                let (out, saved) = attention_forward(&t[0], heads, &rows, dropped)?;
                let grad = attention_backward(&t[0], heads, &rows, dropped, &out, &saved, &t[1])?;
                Ok(vec![out, grad])
            });
        }
    }
}

/// What the kernels lack is said, not guessed at.
#[test]
fn sizes_without_a_kernel_are_refused() {
    let refused = |qkv: Tensor, heads| {
        emulating(|| {
            attention_forward(&qkv, heads, &rows(), None)
                .err()
                .unwrap()
                .to_string()
        })
    };
    if let Some(message) = refused(noise(1, (135, 3 * 48)), 2) {
        assert!(
            message.contains("heads of [16, 32, 64] numbers, not 24"),
            "{message}"
        );
    }
    if let Some(message) = emulating(|| {
        let launcher = emulated::active().unwrap();
        launcher
            .launch("nothing", [1; 3], 32, 0, &[])
            .unwrap_err()
            .to_string()
    }) {
        assert!(message.contains("no kernel nothing"), "{message}");
    }
}

/// A batch with every availability case: both, the first alone, the second alone.
fn batch(modalities: [Modality; 2]) -> Batch {
    let input = |modality: Modality, rows: Vec<usize>| {
        let n = rows.len();
        let numbers = |count: usize| -> Vec<f32> {
            noise(40, (1, count))
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let data = match modality {
            Modality::Audio => ModalityData::Mel {
                values: numbers(n * 256 * 128),
                frames: 256,
                bins: 128,
            },
            Modality::Video | Modality::Image => {
                let images_per_sample = if modality == Modality::Video { 2 } else { 1 };
                ModalityData::Pixels {
                    values: numbers(n * images_per_sample * 3 * 64 * 64),
                    images_per_sample,
                    size: 64,
                }
            }
            Modality::Text => ModalityData::Tokens {
                ids: (0..n * 12).map(|i| 1000 + 7 * i as u32).collect(),
                lengths: (0..n).map(|i| 12 - 5 * i).collect(),
                max_len: 12,
            },
        };
        Some(ModalityBatch { rows, data })
    };
    Batch {
        ids: ["a", "b", "c"].map(String::from).to_vec(),
        labels: vec![vec![0], vec![2], vec![1]],
        present: vec![[true, true], [true, false], [false, true]],
        inputs: [
            input(modalities[0], vec![0, 1]),
            input(modalities[1], vec![0, 2]),
        ],
        consumed: 3,
    }
}

/// The whole model: losses and all gradients of a training step, through both encoders.
#[test]
fn a_training_step() {
    let pairs = [
        [(Modality::Audio, Kind::Ast), (Modality::Video, Kind::Clip)],
        [(Modality::Image, Kind::Clip), (Modality::Text, Kind::Bert)],
    ];
    for pair in pairs {
        let modalities = pair.map(|(modality, _)| modality);
        let model = |dtype: DType| {
            let encoders = pair.map(|(_, kind)| {
                let mut config = EncoderConfig::tiny(kind);
                config.layers = 2;
                let weights = Weights::random(3, &config).unwrap();
                Encoder::new(config, weights, dtype).unwrap()
            });
            let lora = LoraConfig::default();
            let mut model = U2a::new(modalities, encoders, 3, lora, 5).unwrap();
            // Away from B = 0, where half of the gradients would be.
            let values = model.parameters().into_iter().enumerate().map(|(i, p)| {
                let d = p.tensor.dims();
                let shape = (d[0], d.get(1).copied().unwrap_or(1));
                let moved = (noise(100 + i as u32, shape) * 0.05).unwrap();
                (p.tensor + moved.reshape(d).unwrap()).unwrap()
            });
            let values = values.collect();
            model.set_parameters(values).unwrap();
            model
        };
        let mode = |keep| StepMode {
            seed: 11,
            step: 2,
            encoder_dropout: true,
            keep,
            share: crate::model::share::Share::WHOLE,
        };
        let loss = LossConfig {
            align_weight: 0.2,
            align_stop_gradient: false,
            multi_label: false,
            missing_token: MissingToken::Mask,
        };
        let batch = batch(modalities);
        let step = |dtype, keep| model(dtype).step(&batch, &mode(keep), &loss).unwrap();
        optimiser_moves_alike(&model, &batch, &mode(Keep::All), &loss);
        let want = step(DType::F32, Keep::All);
        for (dtype, limit) in [(DType::F32, 1e-4), (DType::BF16, 0.08)] {
            for keep in [Keep::All, Keep::Inputs] {
                let Some(got) = emulating(|| step(dtype, keep)) else {
                    return;
                };
                let (a, b) = (got.losses().unwrap().loss, want.losses().unwrap().loss);
                let error = (a - b).abs() / b;
                assert!(
                    error < limit / 10.0,
                    "{modalities:?} {dtype:?}: loss {error:e}"
                );
                let grads = got.grads.iter().zip(&want.grads).enumerate();
                for (i, (got, want)) in grads {
                    let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
                    let worst = apart(got, want);
                    assert!(
                        worst < limit,
                        "{modalities:?} {dtype:?} gradient {i}: {worst:e}"
                    );
                }
            }
        }
    }
}

/// Three steps of AdamW: the same parameters, and moments that are fetched back.
fn optimiser_moves_alike(
    model: &impl Fn(DType) -> U2a,
    batch: &Batch,
    mode: &StepMode,
    loss: &LossConfig,
) {
    let run = || {
        let mut model = model(DType::F32);
        let sizes = model
            .parameters()
            .iter()
            .map(|p| p.tensor.elem_count())
            .collect::<Vec<_>>();
        let mut optimiser = AdamW::new(AdamWConfig::default(), sizes);
        let grads = emulated::on_host(|| model.step(batch, mode, loss).unwrap().grads);
        for lr in [1e-3, 2e-3, 5e-4] {
            model.update(&mut optimiser, grads.clone(), lr).unwrap();
        }
        optimiser.settle().unwrap();
        (model, optimiser.moments)
    };
    let (want, want_moments) = run();
    let Some((got, got_moments)) = emulating(run) else {
        return;
    };
    for (got, want) in got.parameters().iter().zip(want.parameters()) {
        assert!(apart(got.tensor, want.tensor) < 1e-6, "{}", want.name);
    }
    for (got, want) in got_moments.iter().zip(&want_moments) {
        assert_eq!(got.steps, want.steps);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs() + 1e-12;
        assert!(got.m.iter().zip(&want.m).all(near) && got.v.iter().zip(&want.v).all(near));
    }
}
