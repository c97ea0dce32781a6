//! The methods that U2A is compared with, against PyTorch: golden values of
//! `tests/golden/methods.py`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{Measured, distance, encoder, flat, golden_batch, ids, integers, load, pairs};
use datasets::Modality;
use engine::AdamWConfig;
use features::Batch;
use model::encoder::StoredActivations;
use model::encoder::config::Kind;
use model::encoder::lora::LoraConfig;
use model::loss::LossConfig;
use model::methods::{MethodState, TrainingSplit, g_blend, pmr, qmf};
use model::u2a::{MicroBatch, StepOptions, U2a};
use model::variant::{
    Fusion, GBlendSettings, Method, MethodSettings, MissingToken, MlaSettings, PmrSettings,
    QmfSettings, Variant,
};
use std::collections::HashMap;

const AUDIO_VIDEO: [Modality; 2] = [Modality::Audio, Modality::Video];
const STEPS: usize = 3;
/// The samples of the formulas' steps, and of the encoders' pool.
const SAMPLES: usize = 9;
const POOL: usize = 8;
const CLASSES: usize = 6;
/// The gradient descent on given tokens.
const RATE: f64 = 0.3;
/// The tolerance of formulas in f64, whose golden values are stored as f32.
const FORMULA: f64 = 3e-7;

const SETTINGS: MethodSettings = MethodSettings {
    qmf: QmfSettings {
        lambda: 0.1,
        temperature: 1.5,
    },
    pmr: PmrSettings {
        alpha: 0.8,
        momentum: 0.3,
        entropy: 0.2,
        entropy_epochs: 2,
    },
    g_blend: GBlendSettings { super_epoch: 1 },
    mla: MlaSettings { lambda: 0.1 },
};
/// The samples that G-Blend holds out.
const HELD_OUT: [usize; 2] = [4, 7];

/// The class tokens of all samples at the start of a step.
struct Pool {
    tokens: [Tensor; 2],
    present: Vec<[bool; 2]>,
    labels: Vec<u32>,
}

/// One step of the formulas: its tokens, and the heads as variables.
struct Given<'a> {
    golden: &'a HashMap<String, Tensor>,
    key: String,
    tokens: [Var; 2],
    heads: Vec<(String, Var)>,
    samples: Vec<String>,
    present: Vec<[bool; 2]>,
    labels: Vec<u32>,
    pool: Pool,
}

impl Given<'_> {
    /// Returns the logits of the head `name` on the tokens `x`.
    fn logits(&self, name: &str, x: &Tensor) -> Tensor {
        let tensor = |key: &str| {
            let wanted = format!("{name}{key}");
            let found = self.heads.iter().find(|(name, _)| *name == wanted);
            found.unwrap().1.as_tensor()
        };
        let product = x.matmul(&tensor("weight").t().unwrap()).unwrap();
        product.broadcast_add(tensor("bias")).unwrap()
    }

    fn tokens(&self, m: usize) -> &Tensor {
        self.tokens[m].as_tensor()
    }

    /// Compares a value of the step with PyTorch's.
    fn check(&self, measured: &mut Measured, name: &str, got: &Tensor) {
        let far = distance(got, &self.golden[&format!("{}.{name}", self.key)]);
        measured.check(
            "formulas in f64",
            format!("{} {name}", self.key),
            far,
            FORMULA,
        );
    }
}

/// Returns each label as the only one of a sample.
fn one_each(labels: &[u32]) -> Vec<Vec<u32>> {
    labels.iter().map(|label| vec![*label]).collect()
}

/// Makes three steps of gradient descent on the heads of a method, given class tokens. `objective`
/// returns loss, task loss and logits of a step, `after_step` the state after it.
fn formulas(
    method: &str,
    mut objective: impl FnMut(usize, &Given) -> [Tensor; 3],
    mut after_step: impl FnMut(&Given) -> HashMap<String, Tensor>,
) {
    let golden = load("methods.safetensors");
    let mut measured = Measured::default();
    let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let prefix = format!("formulas.{method}.initial.");
    let mut heads: Vec<(String, Tensor)> = golden
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?.to_string(), double(t))))
        .collect();
    assert!(!heads.is_empty());
    let labels = flat(&golden["formulas.labels"]);
    for step in 0..STEPS {
        let of = |name: &str| &golden[&format!("formulas.step{step}.{name}")];
        let samples = integers(of("samples"));
        let given = Given {
            golden: &golden,
            key: format!("formulas.{method}.step{step}"),
            tokens: ["m1", "m2"]
                .map(|m| Var::from_tensor(&double(of(&format!("tokens.{m}")))).unwrap()),
            heads: heads
                .iter()
                .map(|(name, t)| (name.clone(), Var::from_tensor(t).unwrap()))
                .collect(),
            labels: samples.iter().map(|s| labels[*s] as u32).collect(),
            samples: ids(samples),
            present: pairs(of("present")),
            pool: Pool {
                tokens: ["m1", "m2"].map(|m| double(of(&format!("pool.{m}")))),
                present: pairs(of("pool.present")),
                labels: labels.iter().map(|label| *label as u32).collect(),
            },
        };
        let [loss, task, logits] = objective(step, &given);
        for (name, got) in [("loss", &loss), ("task", &task), ("logits", &logits)] {
            given.check(&mut measured, name, got);
        }
        let store = loss.backward().unwrap();
        for (m, var) in given.tokens.iter().enumerate() {
            let name = format!("grad.tokens.m{}", m + 1);
            given.check(&mut measured, &name, store.get(var).unwrap());
        }
        heads = given
            .heads
            .iter()
            .map(|(name, var)| {
                let grad = store.get(var).unwrap();
                given.check(&mut measured, &format!("grad.{name}"), grad);
                let moved = (var.as_tensor() - (grad * RATE).unwrap()).unwrap();
                (name.clone(), moved.detach())
            })
            .collect();
        for (name, tensor) in after_step(&given) {
            given.check(&mut measured, &format!("state.{name}"), &tensor);
        }
    }
}

#[test]
fn qmf_formulas_equal_pytorch() {
    use std::cell::RefCell;
    let complete = [[true, true]; SAMPLES];
    let history = RefCell::new(qmf::LossHistory::new(&ids(0..SAMPLES), &complete));
    let last = RefCell::new(None);
    formulas(
        "qmf",
        |_, given| {
            let logits = [
                given.logits("head.audio.", given.tokens(0)),
                given.logits("head.video.", given.tokens(1)),
            ];
            let logits = logits.each_ref();
            let of_batch = history.borrow().of_batch(&given.samples, &given.present);
            let (present, labels) = (&given.present, &given.labels);
            let value = qmf::objective(logits, present, labels, &of_batch, &SETTINGS.qmf).unwrap();
            let result = [value.loss.clone(), value.task.clone(), value.logits.clone()];
            let losses = qmf::SampleLosses::new(&given.samples, present, &value).unwrap();
            *last.borrow_mut() = Some(losses);
            result
        },
        |_| {
            history.borrow_mut().add(&last.take().unwrap());
            history.borrow().tensors().unwrap()
        },
    );
}

/// Adds up the losses of G-Blend's heads on samples that train and on samples that do not.
fn head_losses(
    logits: &[Tensor; 3],
    present: &[[bool; 2]],
    labels: &[u32],
    held_out: &[bool],
) -> g_blend::HeadLosses {
    let mean = |left_out: &[bool]| {
        let mut sums = g_blend::LossSums::default();
        let (logits, labels) = (logits.each_ref(), one_each(labels));
        sums.add(logits, present, &labels, left_out, false).unwrap();
        sums.means()
    };
    let trains: Vec<bool> = held_out.iter().map(|out| !out).collect();
    g_blend::HeadLosses {
        train: mean(held_out),
        held_out: mean(&trains),
    }
}

#[test]
fn g_blend_formulas_equal_pytorch() {
    use std::cell::RefCell;
    let blending = RefCell::new(g_blend::Blending::new(&ids(HELD_OUT)));
    let logits = |given: &Given, tokens: [&Tensor; 2]| {
        let both = Tensor::cat(&tokens, 1).unwrap();
        [
            given.logits("head.audio.", tokens[0]),
            given.logits("head.video.", tokens[1]),
            given.logits("head.joint.", &both),
        ]
    };
    formulas(
        "g-blend",
        |_, given| {
            let (pool, mut blending) = (&given.pool, blending.borrow_mut());
            let of_pool = logits(given, pool.tokens.each_ref());
            let out = blending.held_out(&ids(0..SAMPLES));
            let losses = head_losses(&of_pool, &pool.present, &pool.labels, &out);
            blending.begin_super_epoch(losses);
            let of_step = logits(given, [given.tokens(0), given.tokens(1)]);
            let value = g_blend::objective(
                of_step.each_ref(),
                &given.present,
                &one_each(&given.labels),
                &blending.held_out(&given.samples),
                blending.weights(),
                false,
            );
            let value = value.unwrap();
            let [_, _, joint] = of_step;
            [value.loss, value.task, joint]
        },
        |_| blending.borrow().tensors().unwrap(),
    );
}

#[test]
fn pmr_formulas_equal_pytorch() {
    use std::cell::RefCell;
    let new = pmr::Prototypes::new(4, 8, DType::F64, &Device::Cpu).unwrap();
    let prototypes = RefCell::new(new);
    formulas(
        "pmr",
        |step, given| {
            let (pool, mut prototypes) = (&given.pool, prototypes.borrow_mut());
            let mut sums = pmr::ClassSums::new(4, 8);
            let tokens = pool.tokens.each_ref();
            sums.add(tokens, &pool.present, &pool.labels).unwrap();
            let momentum = SETTINGS.pmr.momentum;
            prototypes.update(&sums, step as u64, momentum).unwrap();
            let tokens = [given.tokens(0), given.tokens(1)];
            let logits = given.logits("", &Tensor::cat(&tokens, 1).unwrap());
            let (present, labels) = (&given.present, &given.labels);
            let settings = &SETTINGS.pmr;
            let value = pmr::objective(&logits, tokens, present, labels, &prototypes, settings);
            let value = value.unwrap();
            [value.loss, value.task, logits]
        },
        |_| prototypes.borrow().tensors().unwrap(),
    );
}

fn model(method: Method) -> U2a {
    let lora = LoraConfig {
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let encoders = AUDIO_VIDEO.map(|m| encoder(Kind::of(m), DType::F32));
    U2a::builder(AUDIO_VIDEO, encoders, CLASSES)
        .lora(lora)
        .variant(Variant {
            method,
            method_settings: SETTINGS,
            fusion: match method {
                Method::Pmr => Fusion::Concat,
                _ => Fusion::Sum,
            },
            ..Variant::default()
        })
        .build()
        .unwrap()
}

/// Does what the trainer does at the start of an epoch, on the pool as its only batch.
fn start_epoch(model: &mut U2a, step: usize, tokens: &[Tensor; 2], pool: &Batch) {
    let labels: Vec<u32> = pool.labels.iter().map(|labels| labels[0]).collect();
    let logits = match model.method() {
        Method::GBlend => Some(model.head_logits(tokens).unwrap()),
        _ => None,
    };
    let (classes, width) = (model.classes(), model.width());
    match model.method_state_mut() {
        MethodState::GBlend(blending) => {
            let out = blending.held_out(&pool.ids);
            let losses = head_losses(&logits.unwrap(), &pool.present, &labels, &out);
            blending.begin_super_epoch(losses);
        }
        MethodState::Pmr(prototypes) => {
            let mut sums = pmr::ClassSums::new(classes, width);
            sums.add(tokens.each_ref(), &pool.present, &labels).unwrap();
            let momentum = SETTINGS.pmr.momentum;
            prototypes.update(&sums, step as u64, momentum).unwrap();
        }
        _ => {}
    }
}

/// Three training steps through the small encoders, then an evaluation. Before each step the method
/// measures the pool as the trainer does at the start of an epoch.
fn trajectory(method: Method) {
    let name = method.as_str();
    let pool = load("u2a-audio-video.safetensors");
    let golden = load("methods.safetensors");
    let of = |key: &str| &golden[&format!("encoders.{name}.{key}")];
    let mut measured = Measured::default();
    let mut model = model(method);
    let start = model.parameters().into_iter().map(|p| {
        let own = golden.get(&format!("encoders.{name}.initial.{}", p.name));
        own.unwrap_or_else(|| &pool[&format!("initial.{}", p.name)])
            .clone()
    });
    let start = start.collect();
    model.set_parameters(start).unwrap();
    let split = TrainingSplit {
        ids: &ids(0..POOL),
        present: &[[true, true]; POOL],
        held_out: &ids(HELD_OUT),
    };
    model.start_method(&split).unwrap();
    let mut optimizer = model.optimizer(AdamWConfig::default()).unwrap();
    let config = LossConfig {
        align_weight: 0.0,
        align_stop_gradient: false,
        multi_label: false,
        missing_token: MissingToken::Zeros,
    };
    let all: Vec<usize> = (0..POOL).collect();
    for step in 0..STEPS {
        let merged = model.merged_encoders().unwrap();
        let complete = [[true, true]; POOL];
        let everything = golden_batch(&pool, AUDIO_VIDEO, &all, &complete);
        let tokens = model.class_tokens(&merged, &everything).unwrap();
        start_epoch(&mut model, step, &tokens, &everything);
        let at = |key: &str| &golden[&format!("encoders.step{step}.{key}")];
        let batch = golden_batch(
            &pool,
            AUDIO_VIDEO,
            &integers(at("samples")),
            &pairs(at("present")),
        );
        let options = StepOptions {
            seed: 0,
            step: step as u32,
            encoder_dropout: false,
            stored: StoredActivations::All,
            micro_batch: MicroBatch::FULL_BATCH,
        };
        let result = model.step(&batch, &options, &config).unwrap();
        let losses = result.losses().unwrap();
        for (what, got) in [("loss", losses.loss), ("task", losses.task)] {
            let want = flat(of(what))[step];
            let far = (got - want).abs() / want.abs();
            measured.check("loss of a step", format!("{name} {step} {what}"), far, 1e-6);
        }
        if step == 0 {
            assert!(distance(&result.logits, of("first.logits")) < 1e-5);
            for (p, grad) in model.parameters().iter().zip(&result.grads) {
                let far = distance(
                    grad.as_ref().unwrap(),
                    of(&format!("first.grad.{}", p.name)),
                );
                measured.check("first gradients", format!("{name} {}", p.name), far, 2e-5);
            }
        }
        model.update(&mut optimizer, result.grads, 0.005).unwrap();
        if let Some(update) = result.update {
            model.method_state_mut().apply(update);
        }
    }
    for p in model.parameters() {
        let far = distance(p.tensor, of(&format!("final.{}", p.name)));
        measured.check(
            "tensors after 3 steps",
            format!("{name} {}", p.name),
            far,
            1e-4,
        );
    }
    let merged = model.merged_encoders().unwrap();
    for (have, has) in [
        ("both", [true, true]),
        ("no_first", [false, true]),
        ("no_second", [true, false]),
    ] {
        let batch = golden_batch(&pool, AUDIO_VIDEO, &all, &[has; POOL]);
        let scores = model.score(&merged, &batch, MissingToken::Zeros).unwrap();
        let logits = Tensor::new(scores.logits, &Device::Cpu).unwrap();
        let far = distance(&logits, of(&format!("eval.{have}.logits")));
        measured.check("evaluation logits", format!("{name} {have}"), far, 4e-6);
        assert!(scores.alignment.is_empty());
        assert!(model.score(&merged, &batch, MissingToken::Mask).is_err());
    }
}

#[test]
fn qmf_training_equals_pytorch() {
    trajectory(Method::Qmf);
}

#[test]
fn g_blend_training_equals_pytorch() {
    trajectory(Method::GBlend);
}

#[test]
fn pmr_training_equals_pytorch() {
    trajectory(Method::Pmr);
}

/// A batch in which nobody has the first modality, and one that G-Blend holds out entirely.
#[test]
fn heads_of_modalities_that_a_batch_lacks_stay_as_they_are() {
    let pool = load("u2a-audio-video.safetensors");
    let config = LossConfig {
        align_weight: 0.0,
        align_stop_gradient: false,
        multi_label: false,
        missing_token: MissingToken::Zeros,
    };
    let options = StepOptions {
        seed: 0,
        step: 0,
        encoder_dropout: false,
        stored: StoredActivations::All,
        micro_batch: MicroBatch::FULL_BATCH,
    };
    for (method, silent) in [
        (Method::Qmf, &["head.audio.weight", "head.audio.bias"][..]),
        (Method::GBlend, &["head.audio.weight", "head.audio.bias"]),
        (Method::Pmr, &[]),
    ] {
        let mut model = model(method);
        let complete = golden_batch(&pool, AUDIO_VIDEO, &[0, 1, 2], &[[true, true]; 3]);
        let merged = model.merged_encoders().unwrap();
        let tokens = model.class_tokens(&merged, &complete).unwrap();
        start_epoch(&mut model, 0, &tokens, &complete);
        let video_only = golden_batch(&pool, AUDIO_VIDEO, &[0, 1], &[[false, true]; 2]);
        let result = model.step(&video_only, &options, &config).unwrap();
        assert!(result.losses().unwrap().loss.is_finite());
        let parameters = model.parameters();
        let without = parameters.iter().zip(&result.grads);
        let without = without.filter(|(p, g)| g.is_none() && !p.name.starts_with("audio/"));
        let without: Vec<&str> = without.map(|(p, _)| p.name.as_str()).collect();
        let wanted = [&["mask_token.audio"], silent].concat();
        assert_eq!(without, wanted, "{method:?}");
    }
    let mut blend = model(Method::GBlend);
    let split = TrainingSplit {
        held_out: &ids(HELD_OUT),
        ..TrainingSplit::default()
    };
    blend.start_method(&split).unwrap();
    let held_out = golden_batch(&pool, AUDIO_VIDEO, &HELD_OUT, &[[true, true]; 2]);
    let result = blend.step(&held_out, &options, &config).unwrap();
    assert_eq!(result.losses().unwrap().loss, 0.0);
    assert!(result.grads.iter().all(Option::is_none));
}
