//! `train selftest` and `train bench`.

use super::{announce, say};
use crate::diagnostics::selftest::{self, Task};
use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use engine::Precision;
use engine::{Compute, DeviceChoice};
use model::encoder::StoredActivations;
use model::parity::{AUDIO_VIDEO, IMAGE_TEXT};
use serde_json::json;
use std::process::ExitCode;

/// Side of the product that stands in for the peak with small encoders.
const TINY_SIDE: usize = 256;

#[derive(Args)]
pub struct SelftestArgs {
    /// auto (the first GPU where build and machine have one, else the CPU), cpu, or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Small encoders: a matter of seconds
    #[arg(long)]
    tiny: bool,
    /// Machine-readable output
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
    /// Which encoders
    pair: PairName,
    /// Training steps, or scoring
    mode: Mode,
    /// Samples of a step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Samples at once [default: the whole batch]
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Steps per line of input
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// What the forward pass keeps
    #[arg(long, value_enum, default_value = "all")]
    keep: StoredActivations,
    /// auto (the first GPU where build and machine have one, else the CPU), cpu, or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// f32, tf32 or bf16
    #[arg(long)]
    precision: Option<Precision>,
    /// Threads for arithmetic [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Small encoders
    #[arg(long)]
    tiny: bool,
}

/// Holds the device against the CPU; ends with 1 where it is wrong.
pub fn selftest(args: &SelftestArgs) -> Result<ExitCode> {
    let compute = Compute::open(args.device, None)?;
    announce(&compute);
    let mut findings = selftest::layers(&compute.device)?;
    findings.extend(selftest::steps(&compute.device, args.tiny)?);
    let side = args.tiny.then_some(TINY_SIDE);
    let mut peaks = vec![(
        "f32",
        selftest::peak_flops(&compute.device, DType::F32, side)?,
    )];
    if compute.default_precision() == Precision::Bf16 {
        peaks.push((
            "bf16",
            selftest::peak_flops(&compute.device, DType::BF16, side)?,
        ));
    }
    let wrong = findings.iter().filter(|finding| !finding.holds()).count();
    if args.json {
        let peaks: serde_json::Map<_, _> = peaks
            .iter()
            .map(|(name, flops)| ((*name).to_string(), json!(flops)))
            .collect();
        say(
            json!({"device": compute.used, "findings": findings, "wrong": wrong, "matmul_flops": peaks}),
        )?;
    } else {
        for finding in &findings {
            let verdict = if finding.holds() { "ok" } else { "WRONG" };
            say(format!(
                "{verdict:<6} {:<4} {:.1e} of {:.0e}  {}",
                finding.precision, finding.error, finding.limit, finding.name
            ))?;
        }
        for (precision, flops) in peaks {
            say(format!(
                "matrix products in {precision}: {:.2} TFLOP/s",
                flops / 1e12
            ))?;
        }
        say(format!("{} comparisons, {wrong} wrong", findings.len()))?;
    }
    Ok(ExitCode::from(u8::from(wrong > 0)))
}

/// Works when told to, for `tests/bench` and the GPU check.
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    let compute = Compute::open(args.device, args.threads)?;
    let precision = args.precision.unwrap_or(compute.default_precision());
    compute.check_precision(precision)?;
    announce(&compute);
    let task = Task {
        pair: match args.pair {
            PairName::AudioVideo => AUDIO_VIDEO,
            PairName::ImageText => IMAGE_TEXT,
        },
        evaluate: args.mode == Mode::Eval,
        batch: args.batch,
        at_once: args.micro_batch.unwrap_or(args.batch),
        tiny: args.tiny,
        stored: args.keep,
        steps: args.steps,
    };
    selftest::serve(&task, &compute.device, compute.arithmetic(precision))?;
    Ok(ExitCode::SUCCESS)
}
