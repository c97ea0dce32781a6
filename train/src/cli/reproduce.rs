//! `train reproduce`: the runs behind a table or figure of the paper, and its page.

use super::shared::{ComputeArgs, print_device, stop_flag};
use crate::logging::format_duration;
use crate::reproduce::{self, Options, Plan, PlannedRun, RunStage};
use crate::training::ranks::Ranks;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use features::Folder;
use model::encoder::weights::WeightSource;
use report::artefact::Artefact;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use util::cluster::slurm::{self, SlurmOptions};
use util::cluster::{self, Keep};
use util::{data_root, exit_code, outln};

const EXAMPLES: &str = "\
Examples:
  train reproduce table4 --dataset crema-d --dry-run
  train reproduce figure5 --scale small
  train reproduce table2 --cluster slurm --sbatch=--partition=gpu --sbatch=--gres=gpu:1";

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Scale {
    /// The real data and the paper's encoders
    Full,
    /// Synthetic data and small random encoders: the same plan in minutes
    Small,
}

/// An engine that runs jobs.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Cluster {
    /// Slurm, through `sbatch` on this machine
    Slurm,
}

/// A part of the work, as one job of a cluster does it.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Stage {
    /// Train the run --run
    Train,
    /// Evaluate the run --run
    Eval,
    /// Write the page from the runs that are finished
    Page,
}

/// Train what a table or figure of the paper needs, and print it beside the published numbers
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ReproduceArgs {
    /// The table or figure
    artefact: Artefact,
    /// A dataset, by its name or by the .toml file that describes your own, instead of those of the
    /// paper; may be given several times
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
    /// Submit the work as jobs to this engine and stop: a job for each run, then the page
    #[arg(long, value_enum, conflicts_with_all = ["stage", "dry_run"])]
    cluster: Option<Cluster>,
    #[command(flatten)]
    slurm: SlurmOptions,
    /// Do one part of the work, as the jobs of --cluster do
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// Number of the run for --stage, from 0 in the order of --dry-run
    #[arg(long, value_name = "N", requires = "stage")]
    run: Option<usize>,
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
    options.check()?;
    if args.dry_run {
        let mut plan = options.plan(Default::default())?;
        options.estimate(&mut plan)?;
        return print_runs(args, &plan);
    }
    Ranks::check_alone()?;
    match args.stage {
        Some(stage) => run_stage(args, &options, stage),
        None if args.cluster.is_some() => submit(args, &options),
        None => run_all(args, &options),
    }
}

/// Trains and evaluates everything in this process, and writes the page.
fn run_all(args: &ReproduceArgs, options: &Options) -> Result<ExitCode> {
    let stop = stop_flag()?;
    let missing = options.prepare();
    let mut plan = options.plan(missing)?;
    print_device(&options.compute);
    let finished = options.execute(&mut plan, &stop)?;
    let code = write_page(args, options, &plan, finished)?;
    if finished {
        return Ok(code);
    }
    eprintln!("stopped by a signal; the same command continues");
    Ok(exit_code::stopped(exit_code::FINDINGS))
}

/// Submits what is still to do as jobs of Slurm. The data of the small scale are made here, so that
/// the jobs find them.
fn submit(args: &ReproduceArgs, options: &Options) -> Result<ExitCode> {
    let missing = options.prepare();
    let plan = options.plan(missing)?;
    let runs = plan.runs.iter();
    if runs
        .clone()
        .all(|run| run.folder.is_none() || run.is_done())
    {
        let finished = runs.clone().all(PlannedRun::is_done);
        return write_page(args, options, &plan, finished);
    }
    let submission = options.submit_to_slurm(&plan, &job_script(args)?)?;
    if args.json {
        outln!("{}", json!({"jobs": submission, "missing": plan.missing}))?;
    } else {
        if let Some(train) = &submission.train {
            outln!("job {}: trains {} runs", train.id, train.runs.len())?;
        }
        for array in &submission.evaluate {
            outln!("job {}: evaluates {} runs", array.id, array.runs.len())?;
        }
        let page = options.out.join(options.artefact.name());
        outln!(
            "job {}: writes the page in {}",
            submission.page,
            page.display()
        )?;
    }
    warn_of_missing(&plan);
    Ok(match plan.missing.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(exit_code::FINDINGS),
    })
}

/// The script of all jobs: this command line, with the stage and the run instead of `--cluster`.
fn job_script(args: &ReproduceArgs) -> Result<String> {
    let program = std::env::current_exe()?;
    let program = program.to_str();
    let program = program.context("the path of this program is not UTF-8; move it")?;
    let typed = cluster::typed_words(2)?;
    let mut left_out = cluster::flags::<SlurmOptions>();
    left_out.push("cluster".to_owned());
    let definition = cluster::definition::<ReproduceArgs>();
    let mut words = vec![program.to_owned(), "reproduce".to_owned()];
    words.extend(cluster::select(
        &typed,
        &definition,
        Keep::AllBut(&left_out),
    ));
    if !args.compute.has_threads() {
        words.extend(["--threads".to_owned(), args.slurm.cpus.to_string()]);
    }
    let command = cluster::command_line(&words);
    let body = format!(
        "case $1 in\n\
         page) attempt {command} --stage page ;;\n\
         *) attempt {command} --stage \"$1\" --run \"$SLURM_ARRAY_TASK_ID\" ;;\n\
         esac"
    );
    let name = args.artefact.name();
    slurm::job(&args.slurm, &name, &format!("Reproduces {name}"), body)
}

/// Does what one job of a cluster does. The data exist already, since [`submit`] has made them.
fn run_stage(args: &ReproduceArgs, options: &Options, stage: Stage) -> Result<ExitCode> {
    let mut plan = options.plan(Default::default())?;
    let stage = match stage {
        Stage::Train => RunStage::Train,
        Stage::Eval => RunStage::Evaluate,
        Stage::Page => {
            let finished = plan.runs.iter().all(PlannedRun::is_done);
            return write_page(args, options, &plan, finished);
        }
    };
    let number = args
        .run
        .context("--stage train and --stage eval need the number of a run: give --run")?;
    let stop = stop_flag()?;
    print_device(&options.compute);
    match options.execute_run(&mut plan, number, &[stage], &stop)? {
        true => Ok(ExitCode::SUCCESS),
        false => {
            eprintln!("stopped by a signal; the same command continues");
            Ok(exit_code::stopped(exit_code::FINDINGS))
        }
    }
}

/// Writes the page from the evaluations that exist, and prints it. `finished` says whether these
/// are all.
fn write_page(
    args: &ReproduceArgs,
    options: &Options,
    plan: &Plan,
    finished: bool,
) -> Result<ExitCode> {
    let paths = options.write_pages(plan)?;
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
    warn_of_missing(plan);
    Ok(match finished && plan.missing.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(exit_code::FINDINGS),
    })
}

fn warn_of_missing(plan: &Plan) {
    for (dataset, why) in &plan.missing {
        eprintln!("without {dataset}: {why}");
    }
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
