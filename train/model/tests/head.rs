//! Everything behind the encoders with the GPU's two kernels, run on the host, against candle's
//! autograd.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::{DType, Device, Tensor};
use engine::cuda::trace;
use engine::parity::max_relative_error;
use features::Batch;
use host_emulator::emulate;
use model::encoder::config::{EncoderConfig, InputSize};
use model::encoder::{Encoder, StoredActivations};
use model::loss::LossConfig;
use model::parity::{self, AUDIO_VIDEO, CLASSES, EncoderPair, IMAGE_TEXT, LOSS, step_options};
use model::u2a::{U2a, micro_batch};
use model::variant::{Adaptation, Fusion, MissingToken, Variant};
use std::collections::BTreeMap;

/// The modalities that four samples have: all, one, the other, and every case in one batch.
const PRESENT: [[[bool; 2]; 4]; 4] = [
    [[true, true]; 4],
    [[true, false]; 4],
    [[false, true]; 4],
    [[true, true], [false, true], [true, false], [true, true]],
];

/// Encoders of one block on few tokens, so that a step is quick on the host.
fn small_encoders(pair: EncoderPair) -> ([EncoderConfig; 2], [Encoder; 2]) {
    let mut configs = parity::configs(pair, true);
    for config in &mut configs {
        config.layers = 1;
        match &mut config.input {
            InputSize::Image { size, .. } => *size = 32,
            InputSize::Mel { frames, .. } => *frames = 32,
            InputSize::Text { .. } => {}
        }
    }
    let encoders = parity::encoders(&configs, &Device::Cpu, DType::F32).unwrap();
    (configs, encoders)
}

fn model(pair: EncoderPair, encoders: &[Encoder; 2], variant: Variant) -> U2a {
    let modalities = pair.map(|(modality, _)| modality);
    U2a::builder(modalities, encoders.clone(), CLASSES)
        .variant(variant)
        .seed(5)
        .build()
        .unwrap()
}

/// Takes from a complete batch what the samples lack. With `inputs` the inputs stay, as those that
/// stand for missing ones do.
fn with_present(mut batch: Batch, present: [[bool; 2]; 4], inputs: bool) -> Batch {
    for m in [0, 1] {
        let has: Vec<usize> = (0..4).filter(|i| inputs || present[*i][m]).collect();
        batch.inputs[m] = batch.inputs[m].as_ref().unwrap().pick(&has);
    }
    batch.present = present.to_vec();
    batch
}

fn with_several_labels(mut batch: Batch) -> Batch {
    batch.labels = vec![vec![0, 27], vec![], vec![5], vec![1, 2, 3]];
    batch
}

/// Compares losses and all gradients of a batch that is computed in parts of `size` samples.
fn compare(name: &str, model: &U2a, batch: &Batch, config: &LossConfig, size: usize) {
    let options = step_options(2, StoredActivations::All);
    let step = |size| {
        micro_batch::accumulate(model, batch, [None, None], 0..4, size, &options, config)
            .unwrap()
            .unwrap()
    };
    let (want, want_losses) = step(4);
    let Some((got, losses)) = emulate(|| step(size)) else {
        return;
    };
    let error = max_relative_error(&losses, &want_losses).unwrap();
    assert!(error < 1e-5, "{name}: losses {error:e}");
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.is_some(), want.is_some(), "{name}: gradient {i}");
        let (Some(got), Some(want)) = (got, want) else {
            continue;
        };
        let error = max_relative_error(got, want).unwrap();
        assert!(error < 1e-4, "{name}: gradient {i}: {error:e}");
    }
}

/// Both pairs, every combination of missing modalities, one label and several, both fusions, the
/// alignment loss on, off and without gradient to the class tokens.
#[test]
fn losses_and_gradients_equal_autograds() {
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let (configs, encoders) = small_encoders(pair);
        let complete = parity::batch(pair, &configs, 4, false).unwrap();
        for fusion in [Fusion::Sum, Fusion::Concat] {
            let variant = Variant {
                fusion,
                ..Variant::default()
            };
            let model = model(pair, &encoders, variant);
            for present in PRESENT {
                let batch = with_present(complete.clone(), present, false);
                for multi_label in [false, true] {
                    let batch = match multi_label {
                        true => with_several_labels(batch.clone()),
                        false => batch.clone(),
                    };
                    for (align_weight, align_stop_gradient) in
                        [(0.2, false), (0.2, true), (0.0, false)]
                    {
                        let config = LossConfig {
                            align_weight,
                            align_stop_gradient,
                            multi_label,
                            missing_token: MissingToken::Mask,
                        };
                        let name = format!("{pair:?} {fusion:?} {present:?} {config:?}");
                        compare(&name, &model, &batch, &config, 4);
                    }
                }
            }
        }
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let (configs, encoders) = small_encoders(AUDIO_VIDEO);
    let batch = parity::batch(AUDIO_VIDEO, &configs, 4, false).unwrap();
    let batch = with_present(batch, PRESENT[3], false);
    let model = model(AUDIO_VIDEO, &encoders, Variant::default());
    for size in [1, 2, 3] {
        compare("one label", &model, &batch, &LOSS, size);
    }
    let config = LossConfig {
        multi_label: true,
        ..LOSS
    };
    let batch = with_several_labels(batch);
    compare("several labels", &model, &batch, &config, 3);
}

/// Zeros and empty inputs in place of mask tokens, one modality alone, and frozen encoders.
#[test]
fn variants_equal_autograds() {
    let (configs, encoders) = small_encoders(AUDIO_VIDEO);
    let complete = parity::batch(AUDIO_VIDEO, &configs, 4, false).unwrap();
    let plain = model(AUDIO_VIDEO, &encoders, Variant::default());
    for missing_token in [MissingToken::Zeros, MissingToken::Input] {
        let config = LossConfig {
            missing_token,
            ..LOSS
        };
        let inputs = missing_token == MissingToken::Input;
        let batch = with_present(complete.clone(), PRESENT[3], inputs);
        compare(&format!("{missing_token:?}"), &plain, &batch, &config, 4);
    }
    let batch = with_present(complete, PRESENT[3], false);
    let frozen = Variant {
        adaptation: Adaptation::Head,
        ..Variant::default()
    };
    let mut variants = vec![frozen];
    variants.extend(AUDIO_VIDEO.map(|(modality, _)| Variant {
        modality: Some(modality.into()),
        ..Variant::default()
    }));
    for variant in variants {
        let model = model(AUDIO_VIDEO, &encoders, variant);
        compare(&format!("{variant:?}"), &model, &batch, &LOSS, 4);
    }
}

/// Logits of some ten thousand: the loss is that of autograd, and no gradient overflows.
#[test]
fn losses_are_finite_at_any_logit() {
    let (configs, encoders) = small_encoders(AUDIO_VIDEO);
    let batch = parity::batch(AUDIO_VIDEO, &configs, 4, false).unwrap();
    let batch = with_several_labels(batch);
    let mut model = model(AUDIO_VIDEO, &encoders, Variant::default());
    let parameters = model.parameters().into_iter();
    let values = parameters.map(|p| match p.name.as_str() {
        "weight" => (p.tensor * 1e5).unwrap(),
        _ => p.tensor.clone(),
    });
    let values = values.collect();
    model.set_parameters(values).unwrap();
    for multi_label in [false, true] {
        let mut batch = batch.clone();
        if !multi_label {
            batch.labels = (0..4).map(|i| vec![i]).collect();
        }
        let config = LossConfig {
            multi_label,
            ..LOSS
        };
        let options = step_options(0, StoredActivations::All);
        let step = || model.step(&batch, &options, &config).unwrap();
        let want = step();
        let Some(got) = emulate(step) else { return };
        let largest: f32 = got
            .logits
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_vec0()
            .unwrap();
        assert!(largest > 1e4, "{largest}");
        assert!(max_relative_error(&got.losses, &want.losses).unwrap() < 1e-4);
        let finite = |t: &Tensor| {
            let numbers: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
            numbers.iter().all(|v| v.is_finite())
        };
        assert!(got.grads.iter().flatten().all(finite));
    }
}

/// Labels that do not exist are errors, not accesses beyond the classes.
#[test]
fn impossible_labels_are_refused() {
    let (configs, encoders) = small_encoders(AUDIO_VIDEO);
    let batch = parity::batch(AUDIO_VIDEO, &configs, 4, false).unwrap();
    let model = model(AUDIO_VIDEO, &encoders, Variant::default());
    for (labels, multi_label) in [
        (vec![28], false),
        (vec![], false),
        (vec![1, 2], false),
        (vec![1, 28], true),
    ] {
        let mut batch = batch.clone();
        batch.labels[2] = labels.clone();
        let config = LossConfig {
            multi_label,
            ..LOSS
        };
        let options = step_options(0, StoredActivations::All);
        let step = || model.step(&batch, &options, &config).err().unwrap();
        let Some(error) = emulate(step) else { return };
        let message = format!("{error:#}");
        assert!(message.contains(&format!("labels {labels:?}")), "{message}");
    }
}

/// Counts the kernels of a training step: those at the ends of the encoders and behind them are
/// launched once, for whole batches.
#[test]
fn a_step_launches_few_kernels_beside_the_blocks() {
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        let (configs, encoders) = small_encoders(pair);
        let batch = parity::batch(pair, &configs, 4, false).unwrap();
        let batch = with_present(batch, PRESENT[3], false);
        let model = model(pair, &encoders, Variant::default());
        let traced = emulate(|| {
            trace::start();
            let step = model.step(&batch, &step_options(0, StoredActivations::All), &LOSS);
            let traced = trace::finish().unwrap();
            step.unwrap();
            traced
        });
        let Some(traced) = traced else { return };
        let rows = traced.into_iter().map(|row| (row.name, row.count));
        let counts: BTreeMap<String, u64> = rows.collect();
        println!(
            "{pair:?}: {} launches and products: {counts:?}",
            counts.values().sum::<u64>()
        );
        let count = |kernel: &str| counts.get(kernel).copied().unwrap_or(0);
        let of_text = u64::from(pair == IMAGE_TEXT);
        for (kernel, expected) in [
            ("head_sample_f32", 1),
            ("head_sums_f32", 1),
            ("cut_patches_f32", 2 - of_text),
            ("embed_words_f32", of_text),
            ("pack_tokens_f32", 2),
            // Attention's output and its residual in the last block, attention's output again in
            // its backward pass, and the mask tokens' gradients.
            ("pick_ends_f32", 2 * 4),
            ("spread_ends_f32", 2 * 2),
            ("sum_rows_f32", 2),
        ] {
            assert_eq!(count(kernel), expected, "{pair:?} {kernel}");
        }
    }
}
