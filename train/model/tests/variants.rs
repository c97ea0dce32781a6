//! The gradients of the variants against finite differences in f64, and the tensors that each
//! variant leaves alone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{encoder, flat};
use datasets::Modality;
use features::{Batch, ModalityBatch, ModalityData};
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::lora::LoraConfig;
use model::encoder::weights::Weights;
use model::encoder::{Encoder, StoredActivations};
use model::loss::LossConfig;
use model::u2a::{MicroBatch, StepOptions, U2a};
use model::variant::{Adaptation, Fusion, MissingToken, Modulation, Variant};
use util::rng::Rng;

const SAMPLES: usize = 3;
const CLASSES: usize = 4;

fn noise(n: usize, stream: u32) -> Vec<f32> {
    let mut rng = Rng::new(9, &[stream]);
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// One complete sample and one of either kind of incomplete ones.
fn batch(modalities: [Modality; 2]) -> Batch {
    let present = vec![[true, true], [false, true], [true, false]];
    let input = |m: usize| {
        let rows: Vec<usize> = (0..SAMPLES).filter(|i| present[*i][m]).collect();
        let n = rows.len();
        let data = match modalities[m] {
            Modality::Audio => ModalityData::Dense {
                values: noise(n * 64 * 128, 1),
                shape: vec![64, 128],
            },
            Modality::Video | Modality::Image => {
                let frames = if modalities[m] == Modality::Video {
                    2
                } else {
                    1
                };
                ModalityData::Dense {
                    values: noise(n * frames * 3 * 32 * 32, 2),
                    shape: vec![frames, 3, 32, 32],
                }
            }
            // The same word twice: its gradient is a sum.
            Modality::Text => ModalityData::Tokens {
                ids: vec![2, 9, 9, 17, 3, 2, 40, 3, 0, 0],
                lengths: vec![5, 3],
                max_len: 5,
            },
        };
        Some(ModalityBatch { rows, data })
    };
    Batch {
        ids: (0..SAMPLES).map(|i| i.to_string()).collect(),
        labels: vec![vec![1], vec![0], vec![3]],
        inputs: [input(0), input(1)],
        present,
        consumed: 0,
    }
}

fn weights(kind: Kind) -> Weights {
    let folder = common::golden().join("models").join(kind.folder());
    let config = EncoderConfig::read(&folder.join("config.json"), kind).unwrap();
    Weights::load(&folder, &config).unwrap()
}

/// Builds a model of the golden encoders in f64, with B of the adapters away from zero.
fn model(modalities: [Modality; 2], variant: Variant) -> U2a {
    let lora = LoraConfig {
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let encoders = modalities.map(|m| encoder(Kind::of(m), DType::F64));
    let mut model = U2a::builder(modalities, encoders, CLASSES)
        .lora(lora)
        .variant(variant)
        .weights(modalities.map(|m| weights(Kind::of(m))))
        .build()
        .unwrap();
    model.to_dtype(DType::F64).unwrap();
    let parameters = model.parameters();
    let shifted = parameters.iter().enumerate().map(|(i, p)| {
        let n = p.tensor.elem_count();
        let shift: Vec<f64> = noise(n, 100 + i as u32)
            .iter()
            .map(|v| 0.05 * f64::from(*v))
            .collect();
        (p.tensor + Tensor::from_vec(shift, p.tensor.dims(), &Device::Cpu).unwrap()).unwrap()
    });
    let shifted = shifted.collect();
    model.set_parameters(shifted).unwrap();
    model
}

const OPTIONS: StepOptions = StepOptions {
    seed: 1,
    step: 2,
    encoder_dropout: false,
    stored: StoredActivations::All,
    micro_batch: MicroBatch::FULL_BATCH,
};

fn loss(missing_token: MissingToken) -> LossConfig {
    LossConfig {
        align_weight: 0.2,
        align_stop_gradient: false,
        multi_label: false,
        missing_token,
    }
}

/// Compares each tensor's gradient along a random direction with the loss's central difference.
/// Returns the tensors without a gradient.
fn check(
    modalities: [Modality; 2],
    variant: Variant,
    missing: MissingToken,
    options: &StepOptions,
) -> Vec<String> {
    let mut model = model(modalities, variant);
    let batch = batch(modalities);
    let config = loss(missing);
    let start: Vec<Tensor> = model
        .parameters()
        .iter()
        .map(|p| p.tensor.clone())
        .collect();
    let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
    let grads = model.step(&batch, options, &config).unwrap().grads;
    assert_eq!(grads.len(), names.len());
    let mut silent = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let n = start[i].elem_count();
        let direction: Vec<f64> = noise(n, 500 + i as u32)
            .iter()
            .map(|v| f64::from(*v))
            .collect();
        let direction = Tensor::from_vec(direction, start[i].dims(), &Device::Cpu).unwrap();
        let mut at = |h: f64| {
            let mut values = start.clone();
            values[i] = (&start[i] + (&direction * h).unwrap()).unwrap();
            model.set_parameters(values).unwrap();
            model
                .step(&batch, options, &config)
                .unwrap()
                .losses()
                .unwrap()
                .loss
        };
        let h = 1e-5;
        let want = (at(h) - at(-h)) / (2.0 * h);
        let Some(grad) = &grads[i] else {
            silent.push(name.clone());
            continue;
        };
        let got: f64 = flat(grad)
            .iter()
            .zip(flat(&direction))
            .map(|(g, d)| g * d)
            .sum();
        let size = flat(grad).iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (got - want).abs() < 1e-6 * (size + 1e-3),
            "{variant:?} {name}: {got} {want}"
        );
    }
    model.set_parameters(start).unwrap();
    silent
}

/// Returns the bias of the head.
fn bias(model: &U2a) -> Vec<f64> {
    let parameters = model.parameters();
    flat(parameters.iter().find(|p| p.name == "bias").unwrap().tensor)
}

const AV: [Modality; 2] = [Modality::Audio, Modality::Video];
const IT: [Modality; 2] = [Modality::Image, Modality::Text];

#[test]
fn full_fine_tuning_gradients_of_all_three_encoders() {
    let full = Variant {
        adaptation: Adaptation::Full,
        ..Variant::default()
    };
    assert_eq!(check(AV, full, MissingToken::Mask, &OPTIONS), [""; 0]);
    let selective = StepOptions {
        stored: StoredActivations::Selective,
        ..OPTIONS
    };
    assert_eq!(check(AV, full, MissingToken::Mask, &selective), [""; 0]);
    let inputs = StepOptions {
        stored: StoredActivations::Inputs,
        encoder_dropout: true,
        ..OPTIONS
    };
    // BERT's pooler is loaded and never used.
    let pooler = ["text/pooler.dense.bias", "text/pooler.dense.weight"];
    assert_eq!(check(IT, full, MissingToken::Mask, &inputs), pooler);
}

#[test]
fn fusion_gradients() {
    for fusion in [Fusion::Concat, Fusion::Film, Fusion::GatedBilinear] {
        let variant = Variant {
            fusion,
            ..Variant::default()
        };
        assert_eq!(check(AV, variant, MissingToken::Mask, &OPTIONS), [""; 0]);
    }
}

#[test]
fn head_only_and_unimodal_variants_leave_tensors_alone() {
    let head = Variant {
        adaptation: Adaptation::Head,
        ..Variant::default()
    };
    let silent = check(AV, head, MissingToken::Zeros, &OPTIONS);
    // 3 blocks, 4 layers, A and B, and the mask token; of both encoders.
    assert_eq!(silent.len(), 2 * (3 * 4 * 2 + 1));
    let video = Variant {
        adaptation: Adaptation::Full,
        modality: Some(Modality::Video.into()),
        ..Variant::default()
    };
    assert_eq!(
        check(AV, video, MissingToken::Mask, &OPTIONS),
        ["mask_token.audio"]
    );
}

#[test]
fn sample_without_the_only_modality_scores_the_bias() {
    let variant = Variant {
        modality: Some(Modality::Video.into()),
        ..Variant::default()
    };
    let model = model(AV, variant);
    let scores = model
        .score(
            &model.merged_encoders().unwrap(),
            &batch(AV),
            MissingToken::Mask,
        )
        .unwrap();
    let bias: Vec<f32> = bias(&model).iter().map(|v| *v as f32).collect();
    assert_eq!(scores.logits[2], bias);
    assert_ne!(scores.logits[1], bias);
    assert!(scores.alignment.is_empty());
}

/// The encoder of a modality that is not used takes no part, whatever its width; two that are used
/// have one width.
#[test]
fn unused_encoder_may_have_another_width() {
    let wide = || {
        let config = EncoderConfig::tiny(Kind::Clip);
        let weights = Weights::random(1, &config).unwrap();
        Encoder::new(config, weights, DType::F32).unwrap()
    };
    let usual = || encoder(Kind::Clip, DType::F32);
    let build = |modality, clip| {
        U2a::builder(AV, [encoder(Kind::Ast, DType::F32), clip], CLASSES)
            .variant(Variant {
                modality,
                ..Variant::default()
            })
            .build()
    };
    let audio = Some(Modality::Audio.into());
    let batch = batch(AV);
    let results = [wide(), usual()].map(|clip| {
        let model = build(audio, clip).unwrap();
        let step = model.step(&batch, &OPTIONS, &loss(MissingToken::Mask));
        let merged = model.merged_encoders().unwrap();
        let scores = model.score(&merged, &batch, MissingToken::Mask).unwrap();
        (step.unwrap().losses().unwrap(), scores.logits)
    });
    assert_eq!(results[0], results[1]);
    let video = Some(Modality::Video.into());
    let model = build(video, wide()).unwrap();
    let weight = model.parameters().into_iter().find(|p| p.name == "weight");
    assert_eq!(weight.unwrap().tensor.dims(), [CLASSES, 64]);
    let error = build(None, wide()).err().unwrap().to_string();
    assert!(error.contains("(32 and 64)"), "{error}");
}

/// OGM scales the gradients of the stronger modality's encoder and nothing else; by which factor
/// follows from the model's scores when each modality's token stands alone.
#[test]
fn ogm_scales_the_gradients_of_one_encoder() {
    let plain = model(AV, Variant::default());
    let ogm = Variant {
        modulation: Modulation::Ogm,
        ogm_alpha: 0.4,
        ..Variant::default()
    };
    let modulated = model(AV, ogm);
    let step = |m: &U2a| {
        m.step(&batch(AV), &OPTIONS, &loss(MissingToken::Zeros))
            .unwrap()
    };
    let (a, b) = (step(&plain), step(&modulated));
    assert_eq!(a.losses().unwrap(), b.losses().unwrap());
    let ratio = |owner: &str| {
        let mut ratios = Vec::new();
        for (p, (x, y)) in plain.parameters().iter().zip(a.grads.iter().zip(&b.grads)) {
            let of = p
                .name
                .strip_prefix("mask_token.")
                .or(p.name.split('/').next());
            if of == Some(owner) {
                let (x, y) = (flat(x.as_ref().unwrap()), flat(y.as_ref().unwrap()));
                ratios.extend(
                    x.iter()
                        .zip(&y)
                        .filter(|(x, _)| x.abs() > 1e-9)
                        .map(|(x, y)| y / x),
                );
            }
        }
        let (low, high) = ratios
            .iter()
            .fold((f64::MAX, f64::MIN), |(l, h), r| (l.min(*r), h.max(*r)));
        assert!(high - low < 1e-9, "{owner}: {low} to {high}");
        low
    };
    let (audio, video) = (ratio("audio"), ratio("video"));
    assert_eq!(ratio("weight"), 1.0);
    // The complete sample alone, each modality's class token by itself: zeros for the other.
    let softmax = |has: [bool; 2]| {
        let mut one = batch(AV);
        one.present[0] = has;
        let scores = plain
            .score(&plain.merged_encoders().unwrap(), &one, MissingToken::Zeros)
            .unwrap();
        // Half the bias stays with each.
        let bias = bias(&plain);
        let logits = scores.logits[0]
            .iter()
            .zip(&bias)
            .map(|(l, b)| (f64::from(*l) - b / 2.0).exp());
        let logits: Vec<f64> = logits.collect();
        logits[1] / logits.iter().sum::<f64>()
    };
    let rho = softmax([true, false]) / softmax([false, true]);
    let factor = |rho: f64| {
        if rho > 1.0 {
            1.0 - (0.4 * rho).tanh()
        } else {
            1.0
        }
    };
    assert!((audio - factor(rho)).abs() < 1e-5, "{audio} {rho}");
    assert!((video - factor(1.0 / rho)).abs() < 1e-5, "{video} {rho}");
    assert!(audio.min(video) < 1.0);
}
