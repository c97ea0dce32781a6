//! `train bench`: measures the time of steps on random weights and inputs.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use engine::cuda::trace;
use engine::parity::noise;
use engine::{AdamW, AdamWConfig, Arithmetic};
use features::{Batch, ModalityData};
use model::encoder::config::EncoderConfig;
use model::encoder::{Encoder, StoredActivations};
use model::parity::{self, EncoderPair, LOSS, step_options};
use model::u2a::{U2a, Uploaded, micro_batch};
use model::variant::MissingToken;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Instant;

/// Sides of the square matrices of [`matmul_flops`] on a GPU and on a CPU.
const MATMUL_SIDES: [usize; 2] = [8192, 1024];
/// The products of a round of [`matmul_flops`], and how many rounds are timed.
const MATMUL_PRODUCTS: usize = 10;
const MATMUL_ROUNDS: usize = 3;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct BenchTask {
    /// The two encoders.
    pub pair: EncoderPair,
    /// Whether batches are evaluated instead of trained on.
    pub evaluate: bool,
    /// Whether the encoders are small.
    pub tiny: bool,
    /// Whether kernels and matrix products are timed one by one, which makes steps slower.
    pub trace: bool,
    /// What a line of input asks for that names nothing.
    pub request: Request,
}

/// What a line of input asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Samples per step.
    pub batch: usize,
    /// Steps. A GPU is waited for after the last one.
    pub steps: usize,
    /// Samples that are computed at once; `None` is the whole batch.
    pub micro_batch: Option<usize>,
    /// Activations that the forward pass stores.
    pub stored: StoredActivations,
}

impl Request {
    /// Parses a line of input: `go`, then a batch size and a number of steps, `micro-batch=N` and
    /// `keep=all|inputs`. What it does not name is as in `self`.
    fn parse(self, line: &str) -> Result<Request> {
        let mut request = self;
        let mut words = line.split_whitespace();
        let parse = || {
            if words.next() != Some("go") {
                return None;
            }
            let mut numbers = [&mut request.batch, &mut request.steps].into_iter();
            for word in words {
                match word.split_once('=') {
                    None => *numbers.next()? = word.parse().ok().filter(|n| *n > 0)?,
                    Some(("micro-batch", n)) => request.micro_batch = Some(n.parse().ok()?),
                    Some(("keep", way)) => {
                        request.stored = StoredActivations::from_str(way, false).ok()?;
                    }
                    Some(_) => return None,
                }
            }
            Some(())
        };
        parse().with_context(|| {
            format!("{line:?}: expected `go [BATCH [STEPS]] [micro-batch=N] [keep=all|inputs]`")
        })?;
        Ok(request)
    }
}

/// For each line of stdin, computes the steps of a [`Request`] and prints a line of JSON with their time:
///
/// - `seconds`, and `enqueue_seconds`, after which all work was handed to the device and nothing
///   but waiting was left (in training only);
/// - `items`, the samples of all these steps, `peak_mb` and the last `loss`;
/// - `trace`, if it is asked for, the rows of [`engine::cuda::trace`] for all these steps.
///
/// The batch and its copy on the device are made before the clock starts. An error, such as a batch
/// that does not fit into memory, is a result: a line with `error` and its `kind`. Returns at the
/// end of stdin.
///
/// # Errors
/// The model cannot be built, or a line of input cannot be parsed.
pub fn serve(task: &BenchTask, device: &Device, arithmetic: Arithmetic) -> Result<()> {
    let mut bench = Bench::new(task, device, arithmetic)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({"ready": true}))?;
    for line in std::io::stdin().lock().lines() {
        let request = task.request.parse(&line?)?;
        let answer = bench.run(request).unwrap_or_else(|error| {
            let message = format!("{error:#}");
            json!({"error": message, "kind": error_kind(&message), "batch": request.batch})
        });
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

/// Returns `out of memory` for the messages of the driver and of cuBLAS about that.
fn error_kind(message: &str) -> &'static str {
    let signs = ["OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED"];
    match signs.iter().any(|sign| message.contains(sign)) {
        true => "out of memory",
        false => "error",
    }
}

/// A model, and the inputs of the last request.
struct Bench<'a> {
    task: &'a BenchTask,
    device: &'a Device,
    configs: [EncoderConfig; 2],
    model: U2a,
    optimizer: AdamW,
    /// The encoders of an evaluation.
    merged: Option<[Option<Encoder>; 2]>,
    request: Option<Request>,
    inputs: Option<Inputs>,
    step: u32,
}

/// A batch and its copy on the device.
struct Inputs {
    batch: Batch,
    uploaded: [Option<Uploaded>; 2],
}

impl<'a> Bench<'a> {
    fn new(task: &'a BenchTask, device: &'a Device, arithmetic: Arithmetic) -> Result<Bench<'a>> {
        let configs = parity::configs(task.pair, task.tiny);
        let model = parity::model(task.pair, &configs, device, arithmetic)?;
        let merged = match task.evaluate {
            true => Some(model.merged_encoders()?),
            false => None,
        };
        Ok(Bench {
            task,
            device,
            configs,
            optimizer: model.optimizer(AdamWConfig::default())?,
            model,
            merged,
            request: None,
            inputs: None,
            step: 0,
        })
    }

    /// Computes the steps of a request.
    fn run(&mut self, request: Request) -> Result<Value> {
        let inputs = self.prepare(request)?;
        if self.task.trace {
            trace::start();
        }
        let start = Instant::now();
        let mut losses = None;
        for _ in 0..request.steps {
            match &self.merged {
                // Fetching the scores waits for the device.
                Some(merged) => {
                    self.model
                        .score(merged, &inputs.batch, MissingToken::Mask)?;
                }
                None => losses = Some(self.train(&inputs, request)?),
            }
        }
        let enqueued = start.elapsed().as_secs_f64();
        let loss = match losses {
            // Fetching a loss waits for all steps.
            Some(losses) => losses.to_dtype(DType::F64)?.to_vec1::<f64>()?[0],
            None => 0.0,
        };
        let mut answer = json!({
            "seconds": start.elapsed().as_secs_f64(),
            "items": request.batch * request.steps,
            "peak_mb": peak_memory(self.device)? / 1e6,
            "loss": loss,
        });
        if self.merged.is_none() {
            answer["enqueue_seconds"] = json!(enqueued);
        }
        if self.task.trace {
            answer["trace"] = json!(trace::finish()?);
        }
        self.inputs = Some(inputs);
        Ok(answer)
    }

    /// Returns the inputs of a request, after those of another batch size are freed. The peak of
    /// memory is counted anew if the request is not the last one.
    fn prepare(&mut self, request: Request) -> Result<Inputs> {
        let former = self.inputs.take();
        let inputs = former.filter(|inputs| inputs.batch.ids.len() == request.batch);
        if self.request.replace(request) != Some(request) {
            reset_peak_memory(self.device)?;
        }
        inputs.map_or_else(|| self.make_inputs(request.batch), Ok)
    }

    /// Makes a batch of complete samples and copies what is large of it to a GPU.
    fn make_inputs(&self, samples: usize) -> Result<Inputs> {
        let batch = parity::batch(self.task.pair, &self.configs, samples, false)?;
        let mut uploaded = [None, None];
        for (uploaded, input) in uploaded.iter_mut().zip(&batch.inputs) {
            if let (Some(input), false) = (input, self.device.is_cpu())
                && let ModalityData::Dense { values, .. } = &input.data
            {
                let shape = (input.rows.len(), values.len() / input.rows.len());
                *uploaded = Some(Uploaded {
                    rows: input.rows.clone(),
                    values: Tensor::from_slice(values, shape, self.device)?,
                });
            }
        }
        self.device.synchronize()?;
        Ok(Inputs { batch, uploaded })
    }

    /// Computes one training step and returns its losses.
    fn train(&mut self, inputs: &Inputs, request: Request) -> Result<Tensor> {
        let options = step_options(self.step, request.stored);
        self.step += 1;
        let summed = micro_batch::accumulate(
            &self.model,
            &inputs.batch,
            inputs.uploaded.each_ref().map(Option::as_ref),
            0..request.batch,
            request.micro_batch.unwrap_or(request.batch),
            &options,
            &LOSS,
        )?;
        let (grads, losses) = summed.context("an empty batch")?;
        self.model.update(&mut self.optimizer, grads, 1e-4)?;
        Ok(losses)
    }
}

/// Returns the floating-point operations per second of products of large square matrices, which is
/// the most that the device's matrix units give: the median of three rounds. The matrices have
/// normally distributed numbers, since a GPU multiplies equal numbers at a higher clock.
pub fn matmul_flops(device: &Device, dtype: DType, side: Option<usize>) -> Result<f64> {
    let side = side.unwrap_or(MATMUL_SIDES[usize::from(device.is_cpu())]);
    let [a, b] = [1, 2].map(|seed| -> Result<Tensor> {
        let numbers = noise(seed, (side, side))?;
        Ok(numbers.to_device(device)?.to_dtype(dtype)?)
    });
    let (a, b) = (a?, b?);
    let multiply = || -> Result<f64> {
        let start = Instant::now();
        for _ in 0..MATMUL_PRODUCTS {
            a.matmul(&b)?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    multiply()?;
    let mut seconds = Vec::new();
    for _ in 0..MATMUL_ROUNDS {
        seconds.push(multiply()?);
    }
    seconds.sort_by(f64::total_cmp);
    let operations = 2.0 * (side as f64).powi(3) * MATMUL_PRODUCTS as f64;
    Ok(operations / seconds[MATMUL_ROUNDS / 2])
}

/// Returns the most bytes that were in use at once since [`reset_peak_memory`]: of the device's
/// memory, or on the CPU of this process, since its start.
fn peak_memory(device: &Device) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return Ok(engine::cuda::driver::peak_memory(cuda)? as f64);
    }
    let _ = device;
    let peak = util::memory::peak(std::process::id());
    Ok(peak.unwrap_or_default() as f64)
}

/// Makes [`peak_memory`] forget what was in use so far on a GPU.
fn reset_peak_memory(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return Ok(engine::cuda::driver::reset_peak_memory(cuda)?);
    }
    let _ = device;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request {
        batch: 4,
        steps: 1,
        micro_batch: None,
        stored: StoredActivations::All,
    };

    #[test]
    fn a_line_of_input_names_what_differs_from_the_flags() {
        let sized = |batch, steps| Request {
            batch,
            steps,
            ..REQUEST
        };
        for (line, request) in [
            ("go", REQUEST),
            ("go 32", sized(32, 1)),
            ("go 32 6", sized(32, 6)),
            (
                "go 8 2 keep=inputs micro-batch=3",
                Request {
                    micro_batch: Some(3),
                    stored: StoredActivations::Inputs,
                    ..sized(8, 2)
                },
            ),
        ] {
            assert_eq!(REQUEST.parse(line).unwrap(), request, "{line}");
        }
        for line in [
            "",
            "32",
            "go many",
            "go 0",
            "go 1 2 3",
            "go keep=some",
            "go batch=4",
        ] {
            let error = REQUEST.parse(line).unwrap_err().to_string();
            assert!(error.contains("expected `go [BATCH"), "{error}");
        }
    }

    #[test]
    fn out_of_memory_is_a_kind_of_error_of_its_own() {
        let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        for (message, kind) in [
            (driver, "out of memory"),
            ("CublasError(CUBLAS_STATUS_ALLOC_FAILED)", "out of memory"),
            ("CUDA_ERROR_ILLEGAL_ADDRESS", "error"),
        ] {
            assert_eq!(error_kind(message), kind);
        }
    }
}
