//! A training step and the optimizer with the GPU's kernels, run on the host, against the CPU's
//! own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::{DType, Device, Tensor};
use engine::AdamWConfig;
use engine::parity::max_relative_error;
use features::{Batch, ModalityData};
use host_emulator::{emulate, emulate_with_linear_products, on_cpu};
use model::encoder::config::{EncoderConfig, InputSize};
use model::encoder::weights::Weights;
use model::encoder::{Encoder, StoredActivations};
use model::parity::{self, AUDIO_VIDEO, CLASSES, IMAGE_TEXT, LOSS, step_options};
use model::u2a::{StepResult, U2a, Uploaded};
use model::variant::{Adaptation, Variant};

/// The whole model: losses and all gradients of a training step, through both encoders, with every
/// case of availability in the batch.
#[test]
fn training_step_equals_the_cpus() {
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let mut configs = parity::configs(pair, true);
        configs.iter_mut().for_each(|config| config.layers = 2);
        let batch = parity::batch(pair, &configs, 3, true).unwrap();
        let model = |dtype| parity::model(pair, &configs, &Device::Cpu, dtype).unwrap();
        let step = |dtype, stored| {
            model(dtype)
                .step(&batch, &step_options(2, stored), &LOSS)
                .unwrap()
        };
        let want = step(DType::F32, StoredActivations::All);
        adamw_equals_the_cpus(&model, &batch);
        inputs_on_the_device_are_used(&model(DType::F32), &batch, &want);
        for (dtype, limit) in [(DType::F32, 1e-4), (DType::BF16, 0.08)] {
            for stored in [
                StoredActivations::All,
                StoredActivations::Selective,
                StoredActivations::Inputs,
            ] {
                let Some(got) = emulate(|| step(dtype, stored)) else {
                    return;
                };
                let error = max_relative_error(&got.losses, &want.losses).unwrap();
                assert!(error < limit / 10.0, "{pair:?} {dtype:?}: losses {error:e}");
                for (i, (got, want)) in got.grads.iter().zip(&want.grads).enumerate() {
                    let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
                    let worst = max_relative_error(got, want).unwrap();
                    assert!(worst < limit, "{pair:?} {dtype:?} gradient {i}: {worst:e}");
                }
            }
        }
    }
}

/// The kernels take patches of any side, of which a row is no multiple of eight numbers, and any
/// strides; and heads that there is no kernel for are refused before anything is computed.
#[test]
fn encoders_of_other_sizes_equal_the_cpus() {
    let [ast, clip] = parity::configs(AUDIO_VIDEO, true);
    let sizes = EncoderConfig {
        layers: 2,
        heads: 2,
        intermediate: 72,
        ..ast.clone()
    };
    let configs = [
        EncoderConfig {
            input: InputSize::Mel {
                frames: 70,
                bins: 128,
                patch: 13,
                time_stride: 9,
                frequency_stride: 16,
            },
            ..sizes.clone()
        },
        EncoderConfig {
            // Patches of 3 x 14 x 14 = 588 numbers, as ViT-L/14 has them.
            input: InputSize::Image {
                size: 42,
                patch: 14,
            },
            kind: clip.kind,
            heads: 1,
            ..sizes
        },
    ];
    let batch = parity::batch(AUDIO_VIDEO, &configs, 2, true).unwrap();
    let step = |dtype| {
        let model = parity::model(AUDIO_VIDEO, &configs, &Device::Cpu, dtype).unwrap();
        let options = step_options(2, StoredActivations::Selective);
        model.step(&batch, &options, &LOSS).unwrap()
    };
    let want = step(DType::F32);
    for (dtype, limit) in [(DType::F32, 1e-4), (DType::BF16, 0.08)] {
        for emulated in [
            emulate(|| step(dtype)),
            emulate_with_linear_products(|| step(dtype)),
        ] {
            let Some(got) = emulated else {
                return;
            };
            let error = max_relative_error(&got.losses, &want.losses).unwrap();
            assert!(error < limit / 10.0, "{dtype:?}: losses {error:e}");
            for (i, (got, want)) in got.grads.iter().zip(&want.grads).enumerate() {
                let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
                let worst = max_relative_error(got, want).unwrap();
                assert!(worst < limit, "{dtype:?} gradient {i}: {worst:e}");
            }
        }
    }
    // 64 numbers in 8 heads: 8 in each.
    let many = EncoderConfig { heads: 8, ..clip };
    let weights = Weights::random(3, &many).unwrap();
    let build = || Encoder::new(many.clone(), weights.clone(), DType::F32);
    assert!(build().is_ok());
    let refused = emulate(|| build().err().map(|e| e.to_string()));
    let refused = refused.unwrap().unwrap();
    for words in [
        "the CLIP encoder",
        "[16, 32, 64] numbers, not 8",
        "--device cpu",
    ] {
        assert!(refused.contains(words), "{refused}");
    }
}

/// Inputs that are on the device already are read from there, and of those the batch's samples
/// alone.
fn inputs_on_the_device_are_used(model: &U2a, batch: &Batch, want: &StepResult) {
    let mut batch = batch.clone();
    let mut upload = |m: usize| -> Option<Uploaded> {
        let input = batch.inputs[m].as_mut()?;
        let ModalityData::Dense { values, .. } = &mut input.data else {
            return None;
        };
        let each = values.len() / input.rows.len();
        let mut all = vec![f32::NAN; batch.ids.len() * each];
        for (row, values) in input.rows.iter().zip(values.chunks_exact(each)) {
            all[row * each..][..each].copy_from_slice(values);
        }
        values.fill(f32::NAN);
        Some(Uploaded {
            rows: (0..batch.ids.len()).collect(),
            values: Tensor::from_vec(all, (batch.ids.len(), each), &Device::Cpu).unwrap(),
        })
    };
    let uploaded = [upload(0), upload(1)];
    let uploaded = [uploaded[0].as_ref(), uploaded[1].as_ref()];
    let step = || {
        model
            .step_uploaded(
                &batch,
                uploaded,
                &step_options(2, StoredActivations::All),
                &LOSS,
            )
            .unwrap()
    };
    if let Some(got) = emulate(step) {
        assert!(max_relative_error(&got.losses, &want.losses).unwrap() < 1e-5);
    }
}

/// Three steps of AdamW: the same parameters, and moments that are fetched back.
fn adamw_equals_the_cpus(model: &impl Fn(DType) -> U2a, batch: &Batch) {
    let run = || {
        let mut model = model(DType::F32);
        let mut optimizer = model.optimizer(AdamWConfig::default()).unwrap();
        let step = || {
            model
                .step(batch, &step_options(2, StoredActivations::All), &LOSS)
                .unwrap()
                .grads
        };
        let grads = on_cpu(step);
        for lr in [1e-3, 2e-3, 5e-4] {
            model.update(&mut optimizer, grads.clone(), lr).unwrap();
        }
        optimizer.fetch_moments().unwrap();
        (model, optimizer.moments)
    };
    let (want, want_moments) = run();
    let Some((got, got_moments)) = emulate(run) else {
        return;
    };
    for (got, want) in got.parameters().iter().zip(want.parameters()) {
        assert!(
            max_relative_error(got.tensor, want.tensor).unwrap() < 1e-6,
            "{}",
            want.name
        );
    }
    for (got, want) in got_moments.iter().zip(&want_moments) {
        assert_eq!(got.steps, want.steps);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs() + 1e-12;
        assert!(got.m.iter().zip(&want.m).all(near) && got.v.iter().zip(&want.v).all(near));
    }
}

/// Full fine-tuning: the step after an update sees all weights changed, also those of which layers
/// hold copies.
#[test]
fn updates_reach_all_weights() {
    let mut configs = parity::configs(IMAGE_TEXT, true);
    configs.iter_mut().for_each(|config| config.layers = 2);
    let batch = parity::batch(IMAGE_TEXT, &configs, 3, true).unwrap();
    let weights = [0, 1].map(|m| Weights::random(3, &configs[m]).unwrap());
    let modalities = IMAGE_TEXT.map(|(modality, _)| modality);
    let variant = Variant {
        adaptation: Adaptation::Full,
        ..Variant::default()
    };
    let run = || {
        let encoders = parity::encoders(&configs, &Device::Cpu, DType::F32).unwrap();
        let mut model = U2a::builder(modalities, encoders, CLASSES)
            .variant(variant)
            .weights(weights.clone())
            .seed(5)
            .build()
            .unwrap();
        let mut optimizer = model.optimizer(AdamWConfig::default()).unwrap();
        let losses = (0..2).map(|step| {
            let options = step_options(step, StoredActivations::All);
            let result = on_cpu(|| model.step(&batch, &options, &LOSS).unwrap());
            let loss = result.losses().unwrap().loss;
            model.update(&mut optimizer, result.grads, 1e-3).unwrap();
            loss
        });
        losses.collect::<Vec<f64>>()
    };
    let want = run();
    let Some(got) = emulate(run) else { return };
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
    }
}

/// `cargo test -p model --test parity loss_curve -- --ignored --nocapture`: the table of
/// docs/gpu.md.
#[test]
#[ignore = "a minute; prints a table"]
fn loss_curve_in_bf16() {
    const STEPS: u32 = 30;
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let mut configs = parity::configs(pair, true);
        configs.iter_mut().for_each(|config| config.layers = 2);
        let batch = parity::batch(pair, &configs, 4, true).unwrap();
        let run = |dtype| {
            let mut model = parity::model(pair, &configs, &Device::Cpu, dtype).unwrap();
            let mut optimizer = model.optimizer(AdamWConfig::default()).unwrap();
            let losses = (0..STEPS).map(|step| {
                let result = model
                    .step(&batch, &step_options(step, StoredActivations::All), &LOSS)
                    .unwrap();
                let loss = result.losses().unwrap().loss;
                model.update(&mut optimizer, result.grads, 3e-3).unwrap();
                loss
            });
            losses.collect::<Vec<f64>>()
        };
        let single = run(DType::F32);
        let Some(half) = emulate(|| run(DType::BF16)) else {
            return;
        };
        let relative = |(a, b): (&f64, &f64)| (a - b).abs() / b;
        let worst = half.iter().zip(&single).map(relative).fold(0.0, f64::max);
        for step in [0, 9, 19, 29] {
            println!(
                "{pair:?} step {}: f32 {:.4}, bf16 {:.4}",
                step + 1,
                single[step],
                half[step]
            );
        }
        println!("largest difference {:.2} %", 100.0 * worst);
        assert!(worst < 0.05 && single[29] < 0.8 * single[0]);
    }
}
