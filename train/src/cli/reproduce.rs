//! `train reproduce`: the runs behind a table or figure of the paper, and its page.

use super::{announce, say, stop_flag};
use crate::logging::clock;
use crate::reproduce::{self, Options, Plan};
use anyhow::Result;
use clap::{Args, ValueEnum};
use engine::{Compute, DeviceChoice};
use model::encoder::weights::WeightSource;
use report::artefact::Artefact;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use util::data_root;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Scale {
    /// The real data and the paper's encoders
    Full,
    /// Synthetic data and small random encoders: the same plan in minutes
    Small,
}

#[derive(Args)]
pub struct ReproduceArgs {
    /// Which table or figure
    artefact: Artefact,
    /// Another dataset than the paper's; may be given several times
    #[arg(long = "dataset", value_name = "D")]
    datasets: Vec<String>,
    /// Runs per line, with seeds 0, 1, ...
    #[arg(long, default_value_t = reproduce::SEEDS, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// How big
    #[arg(long, default_value = "full")]
    scale: Scale,
    /// Samples of each synthetic dataset of the small scale
    #[arg(long, default_value_t = reproduce::SMALL_SAMPLES)]
    samples: usize,
    /// Folder for runs and pages [default: runs/reproduce, or runs/reproduce-small]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder that holds a shard folder per dataset [default: data/shards]
    #[arg(long)]
    shards: Option<PathBuf>,
    /// Folder with the encoders' checkpoints [default: the Hugging Face hub or its cache]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Random encoders of full size from this seed instead of pretrained ones
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    random_weights: Option<u64>,
    /// A setting of every run, as in config.toml; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Threads for arithmetic and decoding [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// auto (the first GPU where build and machine have one, else the CPU), cpu, or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// List the runs with an estimate of their time, and stop
    #[arg(long)]
    dry_run: bool,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &ReproduceArgs) -> Result<ExitCode> {
    let small = args.scale == Scale::Small;
    let folder = if small {
        "reproduce-small"
    } else {
        "reproduce"
    };
    let tiny = small && args.random_weights.is_none();
    let weights = match (&args.weights, args.random_weights) {
        (Some(folder), _) => WeightSource::Folder(folder.clone()),
        (None, Some(seed)) => WeightSource::Random(seed),
        (None, None) if small => WeightSource::Random(0),
        (None, None) => WeightSource::Hub,
    };
    let options = Options {
        artefact: args.artefact,
        datasets: args.datasets.clone(),
        seeds: args.seeds,
        small,
        samples: args.samples,
        settings: args.set.clone(),
        weights,
        tiny,
        out: args
            .out
            .clone()
            .unwrap_or_else(|| PathBuf::from("runs").join(folder)),
        shards: args
            .shards
            .clone()
            .unwrap_or_else(|| data_root().join("shards")),
        compute: Compute::open(args.device, args.threads)?,
    };
    if args.dry_run {
        let mut plan = options.plan(Default::default())?;
        options.estimate(&mut plan)?;
        return listed(args, &plan);
    }
    let stop = stop_flag()?;
    let missing = options.prepare();
    let mut plan = options.plan(missing)?;
    announce(&options.compute);
    let whole = options.execute(&mut plan, &stop)?;
    let paths = options.write_pages(&plan)?;
    if args.json {
        say(
            json!({"finished": whole, "files": paths, "runs": plan.runs, "missing": plan.missing}),
        )?;
    } else {
        say(std::fs::read_to_string(&paths[0])?.trim_end())?;
        say("")?;
        for path in &paths {
            say(path.display())?;
        }
    }
    if !whole {
        eprintln!("stopped by a signal; the same command goes on");
    }
    for (dataset, why) in &plan.missing {
        eprintln!("without {dataset}: {why}");
    }
    Ok(ExitCode::from(u8::from(!whole || !plan.missing.is_empty())))
}

/// The plan, line by line.
fn listed(args: &ReproduceArgs, plan: &Plan) -> Result<ExitCode> {
    // From 0: the sum of nothing is -0 otherwise.
    let seconds = plan.runs.iter().filter_map(|r| r.seconds);
    let seconds = seconds.fold(0.0, |sum, s| sum + s);
    if args.json {
        say(json!({"runs": plan.runs, "seconds": seconds, "missing": plan.missing}))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(args.artefact.title())?;
    for run in &plan.runs {
        let settings = run.training.settings.join(" ");
        let state = match (run.finished, run.evaluations.len()) {
            (true, 0) => "finished already".to_string(),
            (true, n) => format!("trained; {n} evaluations to do"),
            (false, n) => format!(
                "{} steps, {n} evaluations, {}",
                run.steps,
                time(run.seconds)
            ),
        };
        let line = format!("{} {} {settings}", run.dataset, run.training.method);
        say(format!("{} seed {}: {state}", line.trim_end(), run.seed))?;
    }
    for (dataset, why) in &plan.missing {
        say(format!("{dataset}: {why}"))?;
    }
    say(format!(
        "{} runs, about {} on this machine",
        plan.runs.len(),
        clock(seconds)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "unknown time".to_string(), clock)
}
