//! `train selftest` and `train bench`.

use super::shared::{ComputeArgs, print_device};
use crate::diagnostics::bench::{self, BenchTask};
use crate::diagnostics::selftest;
use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use engine::{Compute, DeviceChoice, Precision};
use model::encoder::StoredActivations;
use model::parity::{AUDIO_VIDEO, IMAGE_TEXT};
use serde_json::json;
use std::process::ExitCode;
use util::cli::EXIT_FINDINGS;
use util::outln;

/// Side of the matrices whose product is timed with `--tiny`.
const TINY_SIDE: usize = 256;

const EXAMPLES: &str = "\
Examples:
  train selftest --device cuda:0
  train selftest --device cpu --tiny";

/// Compare the results of a device with those of the CPU: each layer, and training steps
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SelftestArgs {
    /// Device: auto (the first GPU if this build and this machine have one, else the CPU), cpu or
    /// cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Small encoders, for a test that takes seconds
    #[arg(long)]
    tiny: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PairName {
    AudioVideo,
    ImageText,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Train,
    Eval,
}

#[derive(Args)]
pub struct BenchArgs {
    /// The two encoders
    pair: PairName,
    /// Training steps, or batches of an evaluation
    mode: Mode,
    /// Samples per step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Samples that are computed at once [default: the whole batch]
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Steps for each line of stdin
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Activations that the forward pass stores [default: selective on a GPU, else all]
    #[arg(long, value_enum)]
    keep: Option<StoredActivations>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Number format of the matrix products [default: bf16 on a GPU that has it, else f32]
    #[arg(long)]
    precision: Option<Precision>,
    /// Small encoders
    #[arg(long)]
    tiny: bool,
}

/// Runs `train selftest`. The exit code says whether the device is accurate.
pub fn run(args: &SelftestArgs) -> Result<ExitCode> {
    let compute = Compute::open(args.device, None)?;
    print_device(&compute);
    let mut comparisons = selftest::compare_layers(&compute.device)?;
    comparisons.extend(selftest::compare_steps(&compute.device, args.tiny)?);
    let side = args.tiny.then_some(TINY_SIDE);
    let mut peaks = vec![(
        "f32",
        bench::matmul_flops(&compute.device, DType::F32, side)?,
    )];
    if compute.default_precision() == Precision::Bf16 {
        peaks.push((
            "bf16",
            bench::matmul_flops(&compute.device, DType::BF16, side)?,
        ));
    }
    let wrong = comparisons.iter().filter(|c| !c.passes()).count();
    if args.json {
        let peaks: serde_json::Map<_, _> = peaks
            .iter()
            .map(|(name, flops)| ((*name).to_string(), json!(flops)))
            .collect();
        outln!(
            "{}",
            json!({"device": compute.used, "findings": comparisons, "wrong": wrong, "matmul_flops": peaks})
        )?;
    } else {
        for comparison in &comparisons {
            let verdict = if comparison.passes() { "ok" } else { "WRONG" };
            outln!(
                "{verdict:<6} {:<4} {:.1e} of {:.0e}  {}",
                comparison.precision,
                comparison.error,
                comparison.limit,
                comparison.name
            )?;
        }
        for (precision, flops) in peaks {
            let teraflops = flops / 1e12;
            outln!("matrix products in {precision}: {teraflops:.2} TFLOP/s")?;
        }
        outln!("{} comparisons, {wrong} wrong", comparisons.len())?;
    }
    Ok(match wrong {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_FINDINGS),
    })
}

/// Runs `train bench`, for `tests/bench` and the GPU check.
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    let compute = args.compute.open()?;
    let precision = args.precision.unwrap_or(compute.default_precision());
    compute.check_precision(precision)?;
    print_device(&compute);
    let task = BenchTask {
        pair: match args.pair {
            PairName::AudioVideo => AUDIO_VIDEO,
            PairName::ImageText => IMAGE_TEXT,
        },
        evaluate: args.mode == Mode::Eval,
        batch_size: args.batch,
        micro_batch: args.micro_batch.unwrap_or(args.batch),
        tiny: args.tiny,
        stored: args
            .keep
            .unwrap_or_else(|| StoredActivations::default_on(&compute.device)),
        steps: args.steps,
    };
    bench::serve(&task, &compute.device, compute.arithmetic(precision))?;
    Ok(ExitCode::SUCCESS)
}
