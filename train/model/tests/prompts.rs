//! Missing-aware prompts against PyTorch (golden values of `tests/golden/prompts.py`), and their
//! gradients with all dropout on against finite differences.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Measured, distance, encoder, flat, golden, golden_batch, load};
use datasets::Modality;
use engine::AdamWConfig;
use engine::parity::{max_relative_error, noise};
use features::{Batch, ImageTransform, MelTransform, TextTransform, Transforms};
use host_emulator::emulate;
use model::encoder::StoredActivations;
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::prompts::PromptConfig;
use model::loss::LossConfig;
use model::missing_inputs::Placeholders;
use model::parameter_table::parameter_table;
use model::parity;
use model::u2a::{MicroBatch, StepOptions, StepResult, U2a, micro_batch};
use model::variant::{Adaptation, MissingToken, Variant};
use std::collections::HashMap;

const AUDIO_VIDEO: [Modality; 2] = [Modality::Audio, Modality::Video];
const IMAGE_TEXT: [Modality; 2] = [Modality::Image, Modality::Text];
const LEVELS: [(&str, Adaptation); 2] = [
    ("input", Adaptation::InputPrompts),
    ("attention", Adaptation::AttentionPrompts),
];
const ALL_STORED: [StoredActivations; 3] = [
    StoredActivations::All,
    StoredActivations::Selective,
    StoredActivations::Inputs,
];

/// The golden values of one pair of modalities and one level.
struct Golden {
    modalities: [Modality; 2],
    pool: HashMap<String, Tensor>,
    values: HashMap<String, Tensor>,
    prefix: String,
    adaptation: Adaptation,
    classes: usize,
    multi_label: bool,
}

impl Golden {
    fn all() -> Vec<Golden> {
        let values = load("prompts.safetensors");
        let mut all = Vec::new();
        for (pair, modalities, classes, multi_label) in [
            ("audio-video", AUDIO_VIDEO, 6, false),
            ("image-text", IMAGE_TEXT, 5, true),
        ] {
            for (level, adaptation) in LEVELS {
                all.push(Golden {
                    modalities,
                    pool: load(&format!("u2a-{pair}.safetensors")),
                    values: values.clone(),
                    prefix: format!("{pair}.{level}"),
                    adaptation,
                    classes,
                    multi_label,
                });
            }
        }
        all
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.values[&format!("{}.{name}", self.prefix)]
    }

    /// A model with the golden initial values.
    fn model(&self, dtype: DType, layers: usize) -> U2a {
        let encoders = self.modalities.map(|m| encoder(Kind::of(m), dtype));
        let variant = Variant {
            adaptation: self.adaptation,
            prompts: PromptConfig { length: 4, layers },
            ..Variant::default()
        };
        let mut model = U2a::builder(self.modalities, encoders, self.classes)
            .variant(variant)
            .build()
            .unwrap();
        model.to_dtype(dtype).unwrap();
        if layers == 2 {
            let values = model.parameters().into_iter().map(|p| {
                let value = self.get(&format!("initial.{}", p.name));
                value.to_dtype(dtype).unwrap()
            });
            let values = values.collect();
            model.set_parameters(values).unwrap();
        }
        model
    }

    /// Samples of the pool, with empty inputs for missing modalities.
    fn batch(&self, samples: &[usize], present: &[[bool; 2]]) -> Batch {
        let vocabulary = golden()
            .join("models")
            .join(Kind::Bert.folder())
            .join("vocab.txt");
        let transforms = Transforms {
            frames: 3,
            image: ImageTransform::clip(32),
            mel: MelTransform::ast(64),
            text: Some(TextTransform::from_vocab(&vocabulary, 12).unwrap()),
        };
        let placeholders = Placeholders::new(self.modalities, &transforms).unwrap();
        let mut batch = golden_batch(&self.pool, self.modalities, samples, present);
        placeholders.fill(&mut batch, 0..samples.len());
        batch
    }

    /// The batch of a step.
    fn step_batch(&self, step: usize) -> Batch {
        let row = |name: &str| flat(&self.get(name).get(step).unwrap());
        let samples: Vec<usize> = row("steps.samples").iter().map(|v| *v as usize).collect();
        let present: Vec<[bool; 2]> = row("steps.present")
            .chunks(2)
            .map(|has| [has[0] == 1.0, has[1] == 1.0])
            .collect();
        self.batch(&samples, &present)
    }

    fn loss(&self) -> LossConfig {
        LossConfig {
            // Without mask tokens it has no effect.
            align_weight: 0.2,
            align_stop_gradient: false,
            multi_label: self.multi_label,
            missing_token: MissingToken::Input,
        }
    }
}

fn options(stored: StoredActivations, encoder_dropout: bool) -> StepOptions {
    StepOptions {
        seed: 3,
        step: 0,
        encoder_dropout,
        stored,
        micro_batch: MicroBatch::FULL_BATCH,
    }
}

/// Compares the gradients of a step with the golden ones. A tensor without one has none here.
fn check_gradients(
    golden: &Golden,
    model: &U2a,
    step: usize,
    result: &StepResult,
    limit: f64,
    measured: &mut Measured,
) {
    for (p, grad) in model.parameters().iter().zip(&result.grads) {
        let name = format!("step{step}.grad.{}", p.name);
        let want = golden.values.get(&format!("{}.{name}", golden.prefix));
        assert_eq!(grad.is_some(), want.is_some(), "{} {name}", golden.prefix);
        if let (Some(grad), Some(want)) = (grad, want) {
            let name = format!("{} {name}", golden.prefix);
            measured.check("gradients", name, distance(grad, want), limit);
        }
    }
}

#[test]
fn three_training_steps_equal_pytorchs() {
    let mut measured = Measured::default();
    for golden in Golden::all() {
        let mut model = golden.model(DType::F32, 2);
        let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
        let [m1, m2] = golden.modalities;
        let cases = ["complete", "missing_first", "missing_second"];
        let prompts = [m1, m2].map(|m| cases.map(|case| format!("prompts.{m}.{case}")));
        assert_eq!(names[..6], prompts.concat());
        assert_eq!(names[6..], ["weight", "bias"]);
        let mut optimizer = model.optimizer(AdamWConfig::default()).unwrap();
        for (step, stored) in ALL_STORED.into_iter().enumerate() {
            let batch = golden.step_batch(step);
            let result = model
                .step(&batch, &options(stored, false), &golden.loss())
                .unwrap();
            let losses = result.losses().unwrap();
            assert_eq!((losses.align, losses.task), (0.0, losses.loss));
            let want = flat(golden.get("steps.loss"))[step];
            let far = (losses.loss - want).abs() / want;
            measured.check("losses", format!("{} {step}", golden.prefix), far, 3e-7);
            let far = distance(&result.logits, golden.get(&format!("step{step}.logits")));
            measured.check("logits", format!("{} {step}", golden.prefix), far, 3e-6);
            if step < 2 {
                check_gradients(&golden, &model, step, &result, 2e-5, &mut measured);
            }
            model.update(&mut optimizer, result.grads, 5e-3).unwrap();
        }
        for p in model.parameters() {
            let far = distance(p.tensor, golden.get(&format!("final.{}", p.name)));
            let name = format!("{} {}", golden.prefix, p.name);
            measured.check("tensors after 3 steps", name, far, 6e-6);
        }
        let merged = model.merged_encoders().unwrap();
        for (case, has) in cases
            .iter()
            .zip([[true, true], [false, true], [true, false]])
        {
            let samples: Vec<usize> = (0..8).collect();
            let batch = golden.batch(&samples, &[has; 8]);
            let scores = model.score(&merged, &batch, MissingToken::Input).unwrap();
            let logits = Tensor::new(scores.logits, &Device::Cpu).unwrap();
            let far = distance(&logits, golden.get(&format!("eval.{case}.logits")));
            let name = format!("{} {case}", golden.prefix);
            measured.check("evaluation logits", name, far, 4e-6);
            assert!(scores.alignment.is_empty());
        }
    }
}

/// In double precision the first step's values are those of PyTorch, as closely as these are
/// stored.
#[test]
fn gradients_in_double_precision_equal_pytorchs() {
    let mut measured = Measured::default();
    for golden in Golden::all() {
        let model = golden.model(DType::F64, 2);
        for stored in ALL_STORED {
            let batch = golden.step_batch(0);
            let result = model
                .step(&batch, &options(stored, false), &golden.loss())
                .unwrap();
            let far = distance(&result.logits, golden.get("step0.logits"));
            measured.check("logits in f64", &golden.prefix, far, 3e-7);
            check_gradients(&golden, &model, 0, &result, 3e-7, &mut measured);
        }
    }
}

/// Prompts in all blocks, so that the last block has some, with all dropout of the encoders on.
#[test]
fn gradients_equal_finite_differences() {
    for golden in Golden::all() {
        let mut model = golden.model(DType::F64, 6);
        let batch = golden.step_batch(0);
        let start: Vec<Tensor> = model
            .parameters()
            .iter()
            .map(|p| p.tensor.clone())
            .collect();
        assert_eq!(start[0].dims(), [3, 4, 32], "prompts in all three blocks");
        let names: Vec<String> = model.parameters().iter().map(|p| p.name.clone()).collect();
        let options = options(StoredActivations::Inputs, true);
        let step = |model: &U2a| model.step(&batch, &options, &golden.loss()).unwrap();
        let grads = step(&model).grads;
        for (i, name) in names.iter().enumerate() {
            let direction = noise(700 + i as u32, (start[i].elem_count(), 1)).unwrap();
            let direction = direction.reshape(start[i].dims()).unwrap();
            let direction = direction.to_dtype(DType::F64).unwrap();
            let mut at = |h: f64| {
                let mut values = start.clone();
                values[i] = (&start[i] + (&direction * h).unwrap()).unwrap();
                model.set_parameters(values).unwrap();
                step(&model).losses().unwrap().loss
            };
            // New prompts are small, and the norm of a block is steep there.
            let h = 1e-6;
            let want = (at(h) - at(-h)) / (2.0 * h);
            let grad = grads[i].as_ref().unwrap();
            let products = flat(grad).into_iter().zip(flat(&direction));
            let got: f64 = products.map(|(g, d)| g * d).sum();
            let size = flat(grad).iter().map(|g| g * g).sum::<f64>().sqrt();
            let far = (got - want).abs();
            assert!(
                far < 1e-5 * (size + 1e-3),
                "{} {name}: {got} {want}",
                golden.prefix
            );
        }
    }
}

/// Micro-batches choose the prompts by the same samples, and their gradients add up.
#[test]
fn micro_batches_add_up_to_the_batch() {
    for golden in Golden::all() {
        let model = golden.model(DType::F64, 2);
        let batch = golden.step_batch(0);
        let options = options(StoredActivations::All, true);
        let (n, loss) = (batch.ids.len(), golden.loss());
        let whole = model.step(&batch, &options, &loss).unwrap();
        let parts = micro_batch::accumulate(&model, &batch, [None, None], 0..n, 1, &options, &loss);
        let (grads, _) = parts.unwrap().unwrap();
        for (got, want) in grads.iter().zip(&whole.grads) {
            let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
            assert!(distance(got, want) < 1e-12);
        }
    }
}

/// The kernels of a GPU, run on the host, against the CPU's.
#[test]
fn training_step_on_a_gpu_equals_the_cpus() {
    for pair in [parity::AUDIO_VIDEO, parity::IMAGE_TEXT] {
        let mut configs = parity::configs(pair, true);
        configs.iter_mut().for_each(|config| config.layers = 2);
        let mut batch = parity::batch(pair, &configs, 3, false).unwrap();
        // All inputs stay, as if they were those of missing modalities.
        batch.present = vec![[true, true], [false, true], [true, false]];
        let loss = LossConfig {
            missing_token: MissingToken::Input,
            ..parity::LOSS
        };
        for (level, adaptation) in LEVELS {
            let variant = Variant {
                adaptation,
                ..Variant::default()
            };
            let step = |dtype, stored| {
                let encoders = parity::encoders(&configs, &Device::Cpu, dtype).unwrap();
                let modalities = pair.map(|(modality, _)| modality);
                let builder = U2a::builder(modalities, encoders, parity::CLASSES);
                let model = builder.variant(variant).build().unwrap();
                model.step(&batch, &options(stored, true), &loss).unwrap()
            };
            let want = step(DType::F32, StoredActivations::All);
            for (dtype, stored, limit) in [
                (DType::F32, StoredActivations::Inputs, 1e-4),
                (DType::BF16, StoredActivations::Selective, 0.08),
            ] {
                let Some(got) = emulate(|| step(dtype, stored)) else {
                    return;
                };
                let what = format!("{pair:?} {level} {dtype:?}");
                let error = max_relative_error(&got.losses, &want.losses).unwrap();
                assert!(error < limit / 10.0, "{what}: losses {error:e}");
                for (i, (got, want)) in got.grads.iter().zip(&want.grads).enumerate() {
                    let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
                    let error = max_relative_error(got, want).unwrap();
                    assert!(error < limit, "{what} gradient {i}: {error:e}");
                }
            }
        }
    }
}

/// What prompts cannot do is refused with the reason.
#[test]
fn impossible_prompts_are_refused() {
    let build = |variant: Variant| {
        let encoders = IMAGE_TEXT.map(|m| encoder(Kind::of(m), DType::F32));
        let built = U2a::builder(IMAGE_TEXT, encoders, 3)
            .variant(variant)
            .build();
        built.err().map(|error| error.to_string())
    };
    let prompts = Variant {
        adaptation: Adaptation::AttentionPrompts,
        ..Variant::default()
    };
    assert_eq!(build(prompts), None);
    let odd = PromptConfig {
        length: 5,
        layers: 2,
    };
    let error = build(Variant {
        prompts: odd,
        ..prompts
    });
    assert!(error.unwrap().contains("5 prompts"));
    let error = build(Variant {
        modality: Some(Modality::Text.into()),
        ..prompts
    });
    assert!(error.unwrap().contains("two modalities"));

    let golden = &Golden::all()[2];
    let (model, batch) = (golden.model(DType::F32, 2), golden.step_batch(0));
    let mask = LossConfig {
        missing_token: MissingToken::Mask,
        ..golden.loss()
    };
    let error = model
        .step(&batch, &options(StoredActivations::All, false), &mask)
        .err()
        .unwrap();
    assert!(error.to_string().contains("no mask token"), "{error}");
}

/// The table's numbers are those of a model, and by hand: 6 blocks of 16 prompts of width 768, for
/// three cases in two encoders.
#[test]
fn parameters_are_counted() {
    for (_, adaptation) in LEVELS {
        let variant = Variant {
            adaptation,
            ..Variant::default()
        };
        let learnable = |configs: &[EncoderConfig; 2]| -> usize {
            let table = parameter_table(IMAGE_TEXT, configs, 101, 1, &variant);
            table.iter().map(|row| row.learnable).sum()
        };
        let base = [Kind::Clip, Kind::Bert].map(EncoderConfig::base);
        assert_eq!(
            learnable(&base),
            2 * 3 * 6 * 16 * 768 + 101 * 768 + 101,
            "{adaptation:?}"
        );
        let encoders = IMAGE_TEXT.map(|m| encoder(Kind::of(m), DType::F32));
        let configs = encoders.each_ref().map(|encoder| encoder.config().clone());
        let model = U2a::builder(IMAGE_TEXT, encoders, 101)
            .variant(variant)
            .build()
            .unwrap();
        let parameters = model.parameters();
        let own: usize = parameters.iter().map(|p| p.tensor.elem_count()).sum();
        assert_eq!(own, learnable(&configs), "{adaptation:?}");
    }
}
