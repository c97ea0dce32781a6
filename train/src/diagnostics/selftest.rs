//! `train selftest`: compares the results of a device with those of the CPU, on random weights and
//! inputs.
//!
//! The cases are independent: each comparison is reported as soon as it is known, and an error or a
//! panic in a case is reported like a wrong result and does not end the test.

use super::bench;
use anyhow::{Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use engine::has_bf16;
use engine::parity::{LayerCase, attention_cases, layer_cases, max_relative_error};
use model::encoder::StoredActivations;
use model::parity::{self, AUDIO_VIDEO, EncoderPair, IMAGE_TEXT, LOSS, step_options};
use serde::Serialize;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Largest error of a layer in f32 and in bf16, relative to the largest number of the result. A
/// rounding to bf16's 8 bits of mantissa is an error of up to 4e-3.
const LAYER_LIMITS: [f64; 2] = [1e-4, 2e-2];
/// The same for a whole training step, whose gradients are compared by their norm. With encoders of
/// 12 blocks of width 64 on the host emulator, gradients in bf16 were off by up to 3e-2.
const STEP_LIMITS: [f64; 2] = [1e-3, 1e-1];
/// Samples of a compared step: one that is complete and one that lacks each modality.
const STEP_SAMPLES: usize = 3;
/// Side of the matrices whose product is timed with small encoders.
const TINY_SIDE: usize = 256;

/// The result of a comparison, or of a case that failed before it could be compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    /// The layer, the pair of encoders, or `matrix products`.
    pub case: String,
    /// The part of the result, where a case has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The number format of the device: `f32` or `bf16`.
    pub precision: &'static str,
    /// What the result was compared with: the CPU in f32, or the device itself in f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<&'static str>,
    /// The relative error of the device; absent if it is not finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The largest error that rounding explains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The errors of the gradients of each block of an encoder, from the first on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<f64>,
    /// The floating-point operations per second, where speed was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// The error or the panic that ended the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Whether nothing is wrong.
    pub ok: bool,
}

impl Finding {
    fn compared(case: &str, precision: Precision, error: f64, limit: f64) -> Finding {
        Finding {
            case: case.to_string(),
            precision: precision.name,
            error: error.is_finite().then_some(error),
            limit: Some(limit),
            ok: error <= limit,
            ..Finding::default()
        }
    }

    /// One line for a reader.
    pub fn line(&self) -> String {
        let verdict = if self.ok { "ok" } else { "WRONG" };
        let numbers = match (&self.failure, self.limit, self.flops) {
            (Some(failure), ..) => failure.clone(),
            (_, Some(limit), _) => match self.error {
                Some(error) => format!("{error:.1e} of {limit:.0e}"),
                None => format!("not finite, of {limit:.0e}"),
            },
            (.., Some(flops)) => format!("{:.2} TFLOP/s", flops / 1e12),
            _ => String::new(),
        };
        let mut name = self.case.clone();
        if let Some(part) = &self.part {
            name += &format!(": {part}");
        }
        if let Some(against) = self.against {
            name += &format!(" (against {against})");
        }
        if let Some(worst) = self.worst_block() {
            name += &format!(", worst in block {worst}");
        }
        format!("{verdict:<6} {:<4} {numbers}  {name}", self.precision)
    }

    fn worst_block(&self) -> Option<usize> {
        let blocks = self.blocks.iter().enumerate();
        let blocks = blocks.filter(|(_, error)| **error != 0.0);
        blocks.max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i)
    }
}

/// A number format that a device computes in.
#[derive(Clone, Copy)]
struct Precision {
    dtype: DType,
    name: &'static str,
    layer_limit: f64,
    step_limit: f64,
}

/// Returns the number formats that a device computes in, f32 first.
fn precisions(device: &Device) -> Vec<Precision> {
    let all = [(DType::F32, "f32"), (DType::BF16, "bf16")];
    let all = all.into_iter().zip(LAYER_LIMITS).zip(STEP_LIMITS);
    all.map(|(((dtype, name), layer_limit), step_limit)| Precision {
        dtype,
        name,
        layer_limit,
        step_limit,
    })
    .take(if has_bf16(device) { 2 } else { 1 })
    .collect()
}

/// Which cases are run, and how large they are.
#[derive(Clone, Debug)]
pub struct SelftestOptions {
    /// Whether the encoders of whole steps are small.
    pub tiny: bool,
    /// A part of the name of the cases to run; all of them if it is empty.
    pub only: String,
    /// The case behind which the test goes on; `None` is the beginning.
    pub after: Option<String>,
}

/// What the self-test reports while it runs.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The case of this name begins.
    Began(String),
    /// A result of the case that has begun.
    Found(Finding),
}

/// Runs the cases and reports each of them and its findings. Returns the number of cases.
///
/// # Errors
/// `report` fails, the inputs of the layers cannot be made, or no case has the name of
/// [`SelftestOptions::after`].
pub fn run(
    device: &Device,
    options: &SelftestOptions,
    report: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<usize> {
    let mut selftest = Selftest {
        device,
        options,
        report,
        after: options.after.as_deref(),
        cases: 0,
    };
    for layer in layer_cases()?.iter().chain(&attention_cases()?) {
        selftest.layer(layer)?;
    }
    for pair in [AUDIO_VIDEO, IMAGE_TEXT] {
        selftest.step(pair)?;
    }
    selftest.products()?;
    if let Some(after) = selftest.after {
        bail!("--after {after:?}: no case has this name; without --after all are run and named");
    }
    Ok(selftest.cases)
}

struct Selftest<'a> {
    device: &'a Device,
    options: &'a SelftestOptions,
    report: &'a mut dyn FnMut(Progress) -> Result<()>,
    /// The case up to which all are passed over, until it is reached.
    after: Option<&'a str>,
    cases: usize,
}

impl Selftest<'_> {
    /// Returns whether a case is to be run, and counts and reports it.
    fn begin(&mut self, case: &str) -> Result<bool> {
        if let Some(after) = self.after {
            self.after = (case != after).then_some(after);
            return Ok(false);
        }
        let runs = case.contains(&self.options.only);
        if runs {
            self.cases += 1;
            (self.report)(Progress::Began(case.to_string()))?;
        }
        Ok(runs)
    }

    fn found(&mut self, finding: Finding) -> Result<()> {
        (self.report)(Progress::Found(finding))
    }

    /// Returns the result of a part of a case, or reports its failure.
    fn attempt<T>(
        &mut self,
        case: &str,
        precision: &'static str,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        let failure = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(done)) => return Ok(Some(done)),
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("panicked: {}", panic_message(&*panic)),
        };
        self.found(Finding {
            case: case.to_string(),
            precision,
            // The lines after the first are a backtrace.
            failure: failure.lines().next().map(str::to_string),
            ..Finding::default()
        })?;
        Ok(None)
    }

    /// Compares a layer with the CPU.
    fn layer(&mut self, case: &LayerCase) -> Result<()> {
        let (name, device) = (&case.name, self.device);
        if !self.begin(name)? {
            return Ok(());
        }
        let on_cpu = || Ok(case.run(&Device::Cpu, DType::F32)?);
        let Some(expected) = self.attempt(name, "f32", on_cpu)? else {
            return Ok(());
        };
        for precision in precisions(device) {
            let compare = || -> Result<f64> {
                let mut worst = 0.0f64;
                for (got, expected) in case.run(device, precision.dtype)?.iter().zip(&expected) {
                    worst = worst.max(max_relative_error(got, expected)?);
                }
                Ok(worst)
            };
            if let Some(error) = self.attempt(name, precision.name, compare)? {
                let limit = precision.layer_limit;
                self.found(Finding::compared(name, precision, error, limit))?;
            }
        }
        Ok(())
    }

    /// Compares a training step: in each number format with the CPU, and in bf16 also with the
    /// device's own f32, which has the same kernels around the same rounding.
    fn step(&mut self, pair: EncoderPair) -> Result<()> {
        let name = &format!("{} and {}", pair[0].0, pair[1].0);
        let (device, tiny) = (self.device, self.options.tiny);
        if !self.begin(name)? {
            return Ok(());
        }
        let on_cpu = || Step::compute(pair, tiny, &Device::Cpu, DType::F32);
        let mut references = Vec::new();
        if let Some(step) = self.attempt(name, "f32", on_cpu)? {
            references.push(("the CPU in f32", step));
        }
        for precision in precisions(device) {
            let on_device = || Step::compute(pair, tiny, device, precision.dtype);
            let Some(step) = self.attempt(name, precision.name, on_device)? else {
                continue;
            };
            for (against, reference) in &references {
                let compare = || step.compare(reference);
                let compared = self.attempt(name, precision.name, compare)?;
                for (part, error, blocks) in compared.into_iter().flatten() {
                    self.found(Finding {
                        part: Some(part),
                        against: Some(against),
                        blocks,
                        ..Finding::compared(name, precision, error, precision.step_limit)
                    })?;
                }
            }
            if precision.dtype == DType::F32 {
                references.push(("this device in f32", step));
            }
        }
        Ok(())
    }

    /// Times products of large matrices.
    fn products(&mut self) -> Result<()> {
        const NAME: &str = "matrix products";
        if !self.begin(NAME)? {
            return Ok(());
        }
        let (device, side) = (self.device, self.options.tiny.then_some(TINY_SIDE));
        for precision in precisions(device) {
            let time = || bench::matmul_flops(device, precision.dtype, side);
            if let Some(flops) = self.attempt(NAME, precision.name, time)? {
                self.found(Finding {
                    case: NAME.to_string(),
                    precision: precision.name,
                    flops: Some(flops),
                    ok: true,
                    ..Finding::default()
                })?;
            }
        }
        Ok(())
    }
}

/// Returns the message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The result of a training step, on the CPU.
struct Step {
    losses: Tensor,
    /// The gradients by the names of the parameters.
    grads: Vec<(String, Tensor)>,
}

impl Step {
    fn compute(pair: EncoderPair, tiny: bool, device: &Device, dtype: DType) -> Result<Step> {
        let configs = parity::configs(pair, tiny);
        let batch = parity::batch(pair, &configs, STEP_SAMPLES, true)?;
        let model = parity::model(pair, &configs, device, dtype)?;
        let result = model.step(
            &batch,
            &step_options(1, StoredActivations::default_on(device)),
            &LOSS,
        )?;
        let grads = model.parameters().into_iter().zip(result.grads);
        let grads = grads.map(|(parameter, grad)| {
            let name = parameter.name;
            let grad = grad.ok_or_else(|| anyhow!("{name} has no gradient"))?;
            Ok((name, grad.to_device(&Device::Cpu)?))
        });
        Ok(Step {
            losses: result.losses.to_device(&Device::Cpu)?,
            grads: grads.collect::<Result<_>>()?,
        })
    }

    /// Returns the parts of the result with their errors: the losses, and the gradients of each
    /// encoder, also block by block, and of the rest.
    fn compare(&self, expected: &Step) -> Result<Vec<(String, f64, Vec<f64>)>> {
        let losses = max_relative_error(&self.losses, &expected.losses)?;
        let mut parts: BTreeMap<&str, Difference> = BTreeMap::new();
        let mut blocks: BTreeMap<(&str, usize), Difference> = BTreeMap::new();
        for ((name, got), (_, expected)) in self.grads.iter().zip(&expected.grads) {
            let one = Difference::of(got, expected)?;
            let (part, block) = place(name);
            parts.entry(part).or_default().add(&one);
            if let Some(block) = block {
                blocks.entry((part, block)).or_default().add(&one);
            }
        }
        let mut all = vec![("losses".to_string(), losses, Vec::new())];
        all.extend(parts.into_iter().map(|(part, difference)| {
            let of = blocks.iter().filter(|((name, _), _)| *name == part);
            let blocks = of.map(|(_, difference)| difference.relative());
            (
                format!("gradients of {part}"),
                difference.relative(),
                blocks.collect(),
            )
        }));
        Ok(all)
    }
}

/// Returns the part of the model that a parameter belongs to, and the number of its block. The names
/// are those of `model::u2a::Parameter`.
fn place(name: &str) -> (&str, Option<usize>) {
    let Some((modality, key)) = name.split_once('/') else {
        return match name.strip_prefix("mask_token.") {
            Some(modality) => (modality, None),
            None => ("the head", None),
        };
    };
    let number = key.split('.').find_map(|part| part.parse().ok());
    (modality, number)
}

/// The sums of squares of a difference and of what was expected.
#[derive(Default)]
struct Difference {
    difference: f64,
    expected: f64,
}

impl Difference {
    fn of(got: &Tensor, expected: &Tensor) -> Result<Difference> {
        let squares = |t: &Tensor| t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar();
        Ok(Difference {
            difference: squares(&(got.to_dtype(DType::F32)? - expected)?)?,
            expected: squares(expected)?,
        })
    }

    fn add(&mut self, other: &Difference) {
        self.difference += other.difference;
        self.expected += other.expected;
    }

    /// Returns the norm of the difference, relative to the norm of what was expected.
    fn relative(&self) -> f64 {
        (self.difference / self.expected).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn errors_and_panics_are_findings_and_not_the_end() {
        let (mut found, options) = (Vec::new(), SelftestOptions::new());
        let mut report = |progress| {
            found.extend(finding(progress));
            Ok(())
        };
        let mut selftest = Selftest {
            device: &Device::Cpu,
            options: &options,
            report: &mut report,
            after: None,
            cases: 0,
        };
        let attempts: [&dyn Fn() -> Result<u32>; 4] = [
            &|| anyhow::bail!("no kernel\n   0: a backtrace"),
            &|| panic!("a bad index"),
            &|| panic!("{} of {}", 3, 2),
            &|| Ok(7),
        ];
        let results = attempts.map(|attempt| selftest.attempt("norm", "bf16", attempt).unwrap());
        assert_eq!(results, [None, None, None, Some(7)]);
        let failures = found.iter().map(|finding| finding.failure.as_deref());
        assert_eq!(
            failures.collect::<Vec<_>>(),
            [
                Some("no kernel"),
                Some("panicked: a bad index"),
                Some("panicked: 3 of 2"),
            ]
        );
        assert!(found.iter().all(|finding| !finding.ok));
        assert_eq!(found[0].line(), "WRONG  bf16 no kernel  norm");
    }

    #[test]
    fn a_case_is_reported_when_it_begins_and_the_test_goes_on_behind_one() {
        let names = |after: Option<&str>, only: &str| -> Result<Vec<String>> {
            let mut names = Vec::new();
            let mut report = |progress| {
                match progress {
                    Progress::Began(case) => names.push(case),
                    // Each finding is one of the case that has begun.
                    Progress::Found(finding) => assert_eq!(Some(&finding.case), names.last()),
                }
                Ok(())
            };
            let options = SelftestOptions {
                only: only.to_string(),
                after: after.map(str::to_string),
                ..SelftestOptions::new()
            };
            let cases = run(&Device::Cpu, &options, &mut report)?;
            assert_eq!(cases, names.len());
            Ok(names)
        };
        let all = names(None, "").unwrap();
        // The names have to be unique, or the test could not go on behind each of them.
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        let at = all.iter().position(|name| name == "QuickGelu").unwrap();
        assert_eq!(names(Some("QuickGelu"), "").unwrap(), all[at + 1..]);
        assert_eq!(names(Some("QuickGelu"), "Gelu").unwrap(), [""; 0]);
        assert_eq!(names(Some("matrix products"), "").unwrap(), [""; 0]);
        let error = names(Some("Quick"), "").unwrap_err().to_string();
        assert!(error.starts_with("--after \"Quick\": no case"), "{error}");
    }

    #[test]
    fn an_error_above_the_limit_or_not_finite_is_wrong() {
        let [precision] = precisions(&Device::Cpu)[..] else {
            panic!("a CPU computes in f32 alone")
        };
        for (error, ok, words) in [
            (1e-5, true, "1.0e-5 of 1e-4"),
            (2e-4, false, "2.0e-4 of 1e-4"),
            (f64::INFINITY, false, "not finite, of 1e-4"),
            (f64::NAN, false, "not finite, of 1e-4"),
        ] {
            let finding = Finding::compared("norm", precision, error, 1e-4);
            assert_eq!(finding.ok, ok, "{error}");
            assert!(finding.line().contains(words), "{}", finding.line());
        }
    }

    /// A gradient that is wrong in one block of one encoder is reported there and nowhere else.
    #[test]
    fn gradients_are_compared_by_encoder_and_block() {
        let options = SelftestOptions::new();
        let step = || Step::compute(IMAGE_TEXT, options.tiny, &Device::Cpu, DType::F32).unwrap();
        let (expected, mut got) = (step(), step());
        let wrong = "text/base_model.model.encoder.layer.2.attention.self.key.lora_A.weight";
        let names = got.grads.iter().map(|(name, _)| name.as_str());
        let names: Vec<&str> = names.collect();
        let at = names.iter().position(|name| *name == wrong);
        let at = at.unwrap_or_else(|| panic!("{wrong} is none of {names:?}"));
        got.grads[at].1 = (&got.grads[at].1 * 2.0).unwrap();
        for (part, error, blocks) in got.compare(&expected).unwrap() {
            assert_eq!(error > 0.0, part == "gradients of text", "{part}: {error}");
            let is_wrong = |(block, error): (usize, &f64)| (*error > 0.0).then_some(block);
            let wrong: Vec<usize> = blocks.iter().enumerate().filter_map(is_wrong).collect();
            match part.as_str() {
                "gradients of text" => assert_eq!((wrong, blocks.len()), (vec![2], 4)),
                "gradients of image" => assert_eq!((wrong, blocks.len()), (vec![], 4)),
                _ => assert!(blocks.is_empty()),
            }
        }
    }

    fn finding(progress: Progress) -> Option<Finding> {
        match progress {
            Progress::Began(_) => None,
            Progress::Found(finding) => Some(finding),
        }
    }

    impl SelftestOptions {
        fn new() -> SelftestOptions {
            SelftestOptions {
                tiny: true,
                only: String::new(),
                after: None,
            }
        }
    }
}
