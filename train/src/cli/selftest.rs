//! `train selftest` and `train bench`.

use super::shared::{ComputeArgs, print_device};
use crate::diagnostics::bench::{self, BenchTask, Request};
use crate::diagnostics::selftest::{self, Progress, SelftestOptions};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use engine::{Compute, DeviceChoice, Precision};
use model::encoder::StoredActivations;
use model::parity::{AUDIO_VIDEO, IMAGE_TEXT};
use serde_json::json;
use std::process::ExitCode;
use util::cli::EXIT_FINDINGS;
use util::outln;

const EXAMPLES: &str = "\
Examples:
  train selftest --device cuda:0
  train selftest --device cuda:0 --only \"layer norm\" --json
  train selftest --device cpu --tiny";

/// Compare the results of a device with those of the CPU: each layer, and training steps
///
/// A result is printed as soon as it is known. An error in a case counts as a wrong result.
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
    /// Run only the cases with this text in their name, such as `attention` or `audio and video`
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
    /// Run only the cases behind this one, after a process that it has ended
    #[arg(long, value_name = "CASE")]
    after: Option<String>,
    /// Print each result as a line of JSON, and the name of each case when it begins
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
    /// Samples per step, unless a line of stdin has another number
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Samples that are computed at once [default: the whole batch]
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Steps for each line of stdin that has no number of them
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
    /// Add the time of each kernel and matrix product on a GPU to the answer
    #[arg(long)]
    trace: bool,
}

/// Runs `train selftest`. The exit code says whether the device is accurate.
pub fn run(args: &SelftestArgs) -> Result<ExitCode> {
    let compute = Compute::open(args.device, None)?;
    print_device(&compute);
    let (mut findings, mut wrong) = (0, 0);
    let mut report = |progress: Progress| -> Result<()> {
        match progress {
            Progress::Began(case) if args.json => outln!("{}", json!({"begin": case}))?,
            Progress::Began(_) => {}
            Progress::Found(finding) => {
                findings += 1;
                wrong += usize::from(!finding.ok);
                match args.json {
                    true => outln!("{}", json!(finding)),
                    false => outln!("{}", finding.line()),
                }?;
            }
        }
        Ok(())
    };
    let options = SelftestOptions {
        tiny: args.tiny,
        only: args.only.clone(),
        after: args.after.clone(),
    };
    let cases = selftest::run(&compute.device, &options, &mut report)?;
    if cases == 0 && args.after.is_none() {
        bail!(
            "--only {:?}: no case has this in its name; without --only all are run and named",
            args.only
        );
    }
    if args.json {
        let summary =
            json!({"device": compute.used, "cases": cases, "findings": findings, "wrong": wrong});
        outln!("{}", json!({"summary": summary}))?;
    } else {
        outln!("{cases} cases, {findings} results, {wrong} wrong")?;
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
        tiny: args.tiny,
        trace: args.trace,
        request: Request {
            batch: args.batch,
            steps: args.steps,
            micro_batch: args.micro_batch,
            stored: args
                .keep
                .unwrap_or_else(|| StoredActivations::default_on(&compute.device)),
        },
    };
    bench::serve(&task, &compute.device, compute.arithmetic(precision))?;
    Ok(ExitCode::SUCCESS)
}
