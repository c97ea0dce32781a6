//! `train reproduce`: the runs behind a table or figure of the paper, and its page.

use super::shared::{ComputeArgs, print_device, stop_flag};
use crate::logging::format_duration;
use crate::reproduce::{self, Options, Plan};
use crate::training::ranks::Ranks;
use anyhow::Result;
use clap::{Args, ValueEnum};
use features::Folder;
use model::encoder::weights::WeightSource;
use report::artefact::Artefact;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use util::{data_root, exit_code, outln};

const EXAMPLES: &str = "\
Examples:
  train reproduce table4 --dataset crema-d --dry-run
  train reproduce figure5 --scale small";

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Scale {
    /// The real data and the paper's encoders
    Full,
    /// Synthetic data and small random encoders: the same plan in minutes
    Small,
}

/// Train what a table or figure of the paper needs, and print it beside the published numbers
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ReproduceArgs {
    /// The table or figure
    artefact: Artefact,
    /// A dataset, instead of those of the paper; may be given several times
    #[arg(long = "dataset", value_name = "D")]
    datasets: Vec<String>,
    /// Runs for each number, with seeds 0, 1, ...
    #[arg(long, default_value_t = reproduce::SEEDS, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Size of the data and the encoders
    #[arg(long, default_value = "full")]
    scale: Scale,
    /// Samples of each synthetic dataset of the small scale
    #[arg(long, default_value_t = reproduce::SMALL_SAMPLES)]
    samples: usize,
    /// Folder of the runs and the pages [default: runs/reproduce, or runs/reproduce-small]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder with a folder of shards for each dataset [default: data/shards]
    #[arg(long)]
    shards: Option<Folder>,
    /// Folder with the encoders' pretrained weights [default: the Hugging Face hub or its cache]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Random weights of full-size encoders from this seed instead of pretrained ones
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    random_weights: Option<u64>,
    /// A setting of every run, as in config.toml; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// List the runs with an estimate of their time, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
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
            .unwrap_or_else(|| data_root().join("shards").into()),
        compute: args.compute.open()?,
    };
    if args.dry_run {
        let mut plan = options.plan(Default::default())?;
        options.estimate(&mut plan)?;
        return print_runs(args, &plan);
    }
    Ranks::check_alone()?;
    let stop = stop_flag()?;
    let missing = options.prepare();
    let mut plan = options.plan(missing)?;
    print_device(&options.compute);
    let finished = options.execute(&mut plan, &stop)?;
    let paths = options.write_pages(&plan)?;
    if args.json {
        outln!(
            "{}",
            json!({"finished": finished, "files": paths, "runs": plan.runs, "missing": plan.missing})
        )?;
    } else {
        outln!("{}\n", std::fs::read_to_string(&paths[0])?.trim_end())?;
        for path in &paths {
            outln!("{}", path.display())?;
        }
    }
    if !finished {
        eprintln!("stopped by a signal; the same command continues");
    }
    for (dataset, why) in &plan.missing {
        eprintln!("without {dataset}: {why}");
    }
    Ok(match (finished, plan.missing.is_empty()) {
        (false, _) => exit_code::stopped(exit_code::FINDINGS),
        (true, false) => ExitCode::from(exit_code::FINDINGS),
        (true, true) => ExitCode::SUCCESS,
    })
}

/// Prints the runs of a plan with estimates of their time.
fn print_runs(args: &ReproduceArgs, plan: &Plan) -> Result<ExitCode> {
    // The sum starts at 0, because that of an empty iterator is -0.
    let seconds = plan.runs.iter().filter_map(|run| run.seconds);
    let seconds = seconds.fold(0.0, |sum, s| sum + s);
    if args.json {
        outln!(
            "{}",
            json!({"runs": plan.runs, "seconds": seconds, "missing": plan.missing})
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    outln!("{}", args.artefact.title())?;
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
        outln!("{} seed {}: {state}", line.trim_end(), run.seed)?;
    }
    for (dataset, why) in &plan.missing {
        outln!("{dataset}: {why}")?;
    }
    outln!(
        "{} runs, about {} on this machine",
        plan.runs.len(),
        format_duration(seconds)
    )?;
    Ok(ExitCode::SUCCESS)
}

fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "unknown time".to_string(), format_duration)
}
