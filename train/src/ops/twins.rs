//! The GPU's kernels against the CPU's, run on the host: every layer, a whole training step, the
//! optimiser.

use super::cases::{self, AUDIO_VIDEO, IMAGE_TEXT, LOSS, apart, mode, noise, rows};
use super::emulated::{self, emulating};
use super::*;
use crate::design::{Adapt, Design};
use crate::encoder::Keep;
use crate::model::{StepResult, U2a, Uploaded};
use crate::optim::AdamWConfig;
use crate::weights::Weights;
use features::{Batch, ModalityData};

#[test]
fn layers() {
    for case in cases::all().unwrap() {
        let want = case.run(&Device::Cpu, DType::F32).unwrap();
        for (dtype, limit) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
            let Some(got) = emulating(|| case.run(&Device::Cpu, dtype).unwrap()) else {
                return;
            };
            assert_eq!(got.len(), want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let worst = apart(got, want).unwrap();
                assert!(
                    worst < limit,
                    "{} in {dtype:?}, result {i}: {worst:e}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn dropout_draws_the_same_mask() {
    let x = Tensor::ones((135, 72), DType::F32, &Device::Cpu).unwrap();
    let layer = |x: &Tensor| dropout(x, Some(&cases::DROPOUT), &rows()).unwrap();
    if let Some(got) = emulating(|| layer(&x)) {
        assert_eq!(apart(&got, &layer(&x)).unwrap(), 0.0);
    }
}

/// What the kernels lack is said, not guessed at.
#[test]
fn sizes_without_a_kernel_are_refused() {
    let qkv = noise(1, (135, 3 * 48)).unwrap();
    let refused = || {
        attention_forward(&qkv, 2, &rows(), None)
            .err()
            .unwrap()
            .to_string()
    };
    if let Some(message) = emulating(refused) {
        assert!(
            message.contains("heads of [16, 32, 64] numbers, not 24"),
            "{message}"
        );
    }
    let unknown = || {
        let launcher = emulated::active().unwrap();
        launcher
            .launch("nothing", [1; 3], 32, 0, &[])
            .unwrap_err()
            .to_string()
    };
    if let Some(message) = emulating(unknown) {
        assert!(message.contains("no kernel nothing"), "{message}");
    }
}

/// The whole model: losses and all gradients of a training step, through both encoders, with every
/// case of availability in the batch.
#[test]
fn a_training_step() {
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let mut configs = cases::configs(pair, true);
        configs.iter_mut().for_each(|config| config.layers = 2);
        let batch = cases::batch(pair, &configs, 3, true).unwrap();
        let model = |dtype| cases::model(pair, &configs, &Device::Cpu, dtype).unwrap();
        let step = |dtype, keep| model(dtype).step(&batch, &mode(2, keep), &LOSS).unwrap();
        let want = step(DType::F32, Keep::All);
        optimiser_moves_alike(&model, &batch);
        uploaded_inputs_are_read(&model(DType::F32), &batch, &want);
        for (dtype, limit) in [(DType::F32, 1e-4), (DType::BF16, 0.08)] {
            for keep in [Keep::All, Keep::Inputs] {
                let Some(got) = emulating(|| step(dtype, keep)) else {
                    return;
                };
                let error = apart(&got.losses, &want.losses).unwrap();
                assert!(error < limit / 10.0, "{pair:?} {dtype:?}: losses {error:e}");
                for (i, (got, want)) in got.grads.iter().zip(&want.grads).enumerate() {
                    let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
                    let worst = apart(got, want).unwrap();
                    assert!(worst < limit, "{pair:?} {dtype:?} gradient {i}: {worst:e}");
                }
            }
        }
    }
}

/// Inputs that are on the device already are read from there, and of those the batch's samples alone.
fn uploaded_inputs_are_read(model: &U2a, batch: &Batch, want: &StepResult) {
    let mut batch = batch.clone();
    let mut upload = |m: usize| -> Option<Uploaded> {
        let input = batch.inputs[m].as_mut()?;
        let (ModalityData::Mel { values, .. } | ModalityData::Pixels { values, .. }) =
            &mut input.data
        else {
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
            .step_uploaded(&batch, uploaded, &mode(2, Keep::All), &LOSS)
            .unwrap()
    };
    if let Some(got) = emulating(step) {
        assert!(apart(&got.losses, &want.losses).unwrap() < 1e-5);
    }
}

/// Three steps of AdamW: the same parameters, and moments that are fetched back.
fn optimiser_moves_alike(model: &impl Fn(DType) -> U2a, batch: &Batch) {
    let run = || {
        let mut model = model(DType::F32);
        let mut optimiser = model.optimiser(AdamWConfig::default()).unwrap();
        let step = || model.step(batch, &mode(2, Keep::All), &LOSS).unwrap().grads;
        let grads = emulated::on_host(step);
        for lr in [1e-3, 2e-3, 5e-4] {
            model.update(&mut optimiser, grads.clone(), lr).unwrap();
        }
        optimiser.fetch_moments().unwrap();
        (model, optimiser.moments)
    };
    let (want, want_moments) = run();
    let Some((got, got_moments)) = emulating(run) else {
        return;
    };
    for (got, want) in got.parameters().iter().zip(want.parameters()) {
        assert!(
            apart(got.tensor, want.tensor).unwrap() < 1e-6,
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

/// Full fine-tuning: the step after an update sees all weights changed, also those of which layers hold copies.
#[test]
fn updates_reach_all_weights() {
    let mut configs = cases::configs(IMAGE_TEXT, true);
    configs.iter_mut().for_each(|config| config.layers = 2);
    let batch = cases::batch(IMAGE_TEXT, &configs, 3, true).unwrap();
    let weights = [0, 1].map(|m| Weights::random(3, &configs[m]).unwrap());
    let design = Design {
        adapt: Adapt::Full,
        ..Design::default()
    };
    let run = || {
        let model = cases::model(IMAGE_TEXT, &configs, &Device::Cpu, DType::F32).unwrap();
        let model = model.designed(design, weights.clone(), 5).unwrap();
        let mut model = model.on(&Device::Cpu).unwrap();
        let mut optimiser = model.optimiser(AdamWConfig::default()).unwrap();
        let losses = (0..2).map(|step| {
            let mode = mode(step, Keep::All);
            let result = emulated::on_host(|| model.step(&batch, &mode, &LOSS).unwrap());
            let loss = result.losses().unwrap().loss;
            model.update(&mut optimiser, result.grads, 1e-3).unwrap();
            loss
        });
        losses.collect::<Vec<f64>>()
    };
    let want = run();
    let Some(got) = emulating(run) else { return };
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
    }
}

/// `cargo test -p train --lib loss_curve -- --ignored --nocapture`: the table of docs/gpu.md.
#[test]
#[ignore = "a minute; prints a table"]
fn loss_curve_in_bf16() {
    const STEPS: u32 = 30;
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let mut configs = cases::configs(pair, true);
        configs.iter_mut().for_each(|config| config.layers = 2);
        let batch = cases::batch(pair, &configs, 4, true).unwrap();
        let run = |dtype| {
            let mut model = cases::model(pair, &configs, &Device::Cpu, dtype).unwrap();
            let mut optimiser = model.optimiser(AdamWConfig::default()).unwrap();
            let losses = (0..STEPS).map(|step| {
                let result = model.step(&batch, &mode(step, Keep::All), &LOSS).unwrap();
                let loss = result.losses().unwrap().loss;
                model.update(&mut optimiser, result.grads, 3e-3).unwrap();
                loss
            });
            losses.collect::<Vec<f64>>()
        };
        let single = run(DType::F32);
        let Some(half) = emulating(|| run(DType::BF16)) else {
            return;
        };
        let apart = |(a, b): (&f64, &f64)| (a - b).abs() / b;
        let worst = half.iter().zip(&single).map(apart).fold(0.0, f64::max);
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
