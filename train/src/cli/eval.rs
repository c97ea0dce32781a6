//! `train eval`: evaluates a run.

use super::shared::{ComputeArgs, print_device_of_run, verify_shards};
use crate::evaluation::{self, EvalOptions, Evaluator, MaskSource};
use crate::session;
use crate::settings::RunConfig;
use crate::training::checkpoint;
use crate::training::job::Job;
use anyhow::Result;
use clap::Args;
use datasets::{InputName, Split};
use features::Folder;
use model::variant::MissingToken;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use util::outln;

const EXAMPLES: &str = "\
Examples:
  train eval runs/first
  train eval runs/first --missing audio
  train eval runs/first --protocol missing-both --rate 0.5 --missing-token zeros";

/// Evaluate a run on its test split, with any modality missing
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// Run folder
    run: PathBuf,
    /// Missing-modality mask of the split: a protocol (missing-audio, missing-both, ...) or a file
    #[arg(long, value_name = "PROTOCOL|FILE")]
    protocol: Option<String>,
    /// Missing rate of the protocol
    #[arg(long, default_value_t = 0.7)]
    rate: f64,
    /// Seed of the protocol's draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A modality that is missing from every sample that has the other one: audio, video, image or
    /// text
    #[arg(long)]
    missing: Option<InputName>,
    /// Token that stands for a missing modality [default: that of the training]
    #[arg(long)]
    missing_token: Option<MissingToken>,
    /// Split: train, val or test
    #[arg(long, default_value = "test")]
    split: Split,
    /// Name of a checkpoint's folder in the run folder [default: best, else the newest]
    #[arg(long)]
    checkpoint: Option<String>,
    /// Folder of the shards or its URL, if it is not that of the training
    #[arg(long)]
    shards: Option<Folder>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Give the same numbers on every x86-64 processor with AVX2 and with any number of threads
    /// [default: as the training]
    #[arg(long)]
    reproducible: bool,
    /// Print what would be done and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &EvalArgs) -> Result<ExitCode> {
    let mut config = RunConfig::read(&args.run)?;
    let trained_in = config.settings.precision;
    let compute = args.compute.open_for_run(args.reproducible, &mut config)?;
    let job = Job::reopen(config, args.shards.as_ref(), &compute)?;
    let (config, session) = (&job.config, &job.session);
    let checkpoint = checkpoint::named_or_default(&args.run, args.checkpoint.as_deref())?;
    let mask = |source: &String| MaskSource {
        source: source.clone(),
        rate: args.rate,
        seed: args.seed,
    };
    let options = EvalOptions {
        split: args.split,
        mask: args.protocol.as_ref().map(mask),
        missing: args.missing,
        missing_token: args.missing_token.unwrap_or(config.settings.missing_token),
        checkpoint: checkpoint::other_than_default(&args.run, &checkpoint),
    };
    if args.dry_run {
        outln!(
            "would evaluate {} on the {} split and write eval-{}.json into {}",
            checkpoint.display(),
            options.split,
            options.name(),
            args.run.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    // Wrong usage is reported before the model is built and the device is printed.
    let evaluator = Evaluator::new(session, config, &options)?;
    verify_shards(session.shards.folder(), compute.threads)?;
    let mut model = session::build_model(config, &compute)?;
    checkpoint::read_model(&checkpoint, &mut model).map_err(checkpoint::with_remedy(
        &args.run,
        &checkpoint,
        false,
    ))?;
    print_device_of_run(&compute, trained_in, &config.settings);
    let evaluation = evaluator.run(&model)?;
    if let (Some(missing), 1..) = (options.missing, evaluation.kept) {
        eprintln!(
            "note: {} of {} samples keep {missing}, because they have nothing else",
            evaluation.kept, evaluation.metrics.samples
        );
    }
    let (json_path, predictions) =
        evaluation::write(&args.run, config, &options, &checkpoint, &evaluation)?;
    if args.json {
        let mut json = evaluation::to_json(config, &options, &checkpoint, &evaluation);
        json["file"] = json!(json_path);
        json["predictions"] = json!(predictions);
        outln!("{json}")?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in &evaluation.metrics.values {
        outln!("{name:<24} {value:.4}")?;
    }
    outln!(
        "{} samples, {}",
        evaluation.metrics.samples,
        json_path.display()
    )?;
    Ok(ExitCode::SUCCESS)
}
