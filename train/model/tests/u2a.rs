//! Twenty training steps against U2A written in PyTorch: golden values of `tests/golden/u2a.py`.
//!
//! Every batch mixes samples with both modalities and with either one alone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Measured, distance, encoder, flat, golden_batch, load};
use datasets::Modality;
use engine::{AdamWConfig, Schedule};
use model::encoder::StoredActivations;
use model::encoder::config::Kind;
use model::encoder::lora::LoraConfig;
use model::loss::LossConfig;
use model::u2a::{MicroBatch, StepOptions, U2a};
use model::variant::MissingToken;
use std::collections::HashMap;

fn parameters(golden: &HashMap<String, Tensor>, stage: &str, model: &U2a) -> Vec<Tensor> {
    model
        .parameters()
        .iter()
        .map(|p| {
            golden[&format!("{stage}.{}", p.name)]
                .to_dtype(p.tensor.dtype())
                .unwrap()
        })
        .collect()
}

fn trajectory(name: &str, modalities: [Modality; 2], classes: usize, multi_label: bool) {
    let golden = load(&format!("u2a-{name}.safetensors"));
    let encoders = modalities.map(|m| encoder(Kind::of(m), DType::F32));
    let lora = LoraConfig {
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let mut measured = Measured::default();
    let mut model = U2a::builder(modalities, encoders, classes)
        .lora(lora)
        .build()
        .unwrap();
    let start = parameters(&golden, "initial", &model);
    model.set_parameters(start).unwrap();
    let mut optimizer = model.optimizer(AdamWConfig::default()).unwrap();
    let schedule = Schedule {
        lr: 0.005,
        warmup_epochs: 5,
        warmup_factor: 0.1,
        power: 0.9,
    };
    let config = LossConfig {
        align_weight: 0.2,
        align_stop_gradient: false,
        multi_label,
        missing_token: MissingToken::Mask,
    };
    let (samples, present) = (&golden["steps.samples"], flat(&golden["steps.present"]));
    let curve = |name: &str| flat(&golden[&format!("steps.{name}")]);
    for step in 0..20 {
        let ids: Vec<usize> = flat(&samples.get(step).unwrap())
            .into_iter()
            .map(|v| v as usize)
            .collect();
        let has: Vec<[bool; 2]> = (0..4)
            .map(|i| [0, 1].map(|m| present[(step * 4 + i) * 2 + m] == 1.0))
            .collect();
        let batch = golden_batch(&golden, modalities, &ids, &has);
        let options = StepOptions {
            seed: 0,
            step: step as u32,
            encoder_dropout: false,
            stored: match step % 3 {
                0 => StoredActivations::All,
                1 => StoredActivations::Selective,
                _ => StoredActivations::Inputs,
            },
            micro_batch: MicroBatch::FULL_BATCH,
        };
        let result = model.step(&batch, &options, &config).unwrap();
        let losses = result.losses().unwrap();
        for (name, got) in [
            ("loss", losses.loss),
            ("task_loss", losses.task),
            ("align_loss", losses.align),
        ] {
            let want = curve(name)[step];
            // The contract's promise is 1e-4 on the loss; three times what was measured.
            let far = (got - want).abs() / want.abs().max(1e-30);
            measured.check("loss of a step", format!("{step} {name}"), far, 1e-6);
        }
        let rate = schedule.rate(step as u64, 2, 10);
        assert!(
            (rate - curve("lr")[step]).abs() < 1e-9,
            "step {step}: rate {rate}"
        );
        if step == 0 {
            assert!(distance(&result.logits, &golden["first.logits"]) < 3e-6);
            for (p, grad) in model.parameters().iter().zip(&result.grads) {
                let far = distance(
                    grad.as_ref().unwrap(),
                    &golden[&format!("first.grad.{}", p.name)],
                );
                measured.check("first gradients", &p.name, far, 3e-5);
            }
        }
        model.update(&mut optimizer, result.grads, rate).unwrap();
        if let Some(stage) = [(0, "after1"), (3, "after4"), (19, "final")]
            .iter()
            .find(|(at, _)| *at == step)
            .map(|(_, stage)| stage)
        {
            for p in model.parameters() {
                let far = distance(p.tensor, &golden[&format!("{stage}.{}", p.name)]);
                measured.check(
                    "tensors after 1, 4, 20 steps",
                    format!("{stage} {}", p.name),
                    far,
                    4e-5,
                );
            }
        }
    }
    let merged = model.merged_encoders().unwrap();
    let all: Vec<usize> = (0..8).collect();
    for (name, has) in [
        ("both", [true, true]),
        ("no_first", [false, true]),
        ("no_second", [true, false]),
    ] {
        let scores = model
            .score(
                &merged,
                &golden_batch(&golden, modalities, &all, &[has; 8]),
                MissingToken::Mask,
            )
            .unwrap();
        let logits = Tensor::new(scores.logits, &Device::Cpu).unwrap();
        let far = distance(&logits, &golden[&format!("eval.{name}.logits")]);
        measured.check("evaluation logits", name, far, 3e-6);
        assert_eq!(scores.alignment.len(), if name == "both" { 8 } else { 0 });
    }
}

#[test]
fn audio_video_training_equals_pytorch() {
    trajectory("audio-video", [Modality::Audio, Modality::Video], 6, false);
}

#[test]
fn image_text_multi_label_training_equals_pytorch() {
    trajectory("image-text", [Modality::Image, Modality::Text], 5, true);
}
