//! `train run`: trains into a run folder, continues one, or describes the model.

mod args;
mod describe;

pub use args::RunArgs;

use super::shared::{dataset_name, stop_flag, verify_shards};
use crate::settings::RunConfig;
use crate::training::checkpoint::State;
use crate::training::data_check;
use crate::training::job::{self, Job};
use crate::training::memory;
use crate::training::trainer::Outcome;
use anyhow::{Result, bail};
use datasets::Split;
use engine::Compute;
use model::encoder::StoredActivations;
use model::variant::Modulation;
use report::CONFIG_FILE;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use util::cli::EXIT_FINDINGS;
use util::outln;

/// Runs the subcommand.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.describe {
        return describe::describe(args);
    }
    if args.workers == 0 {
        bail!("--workers 0: at least one process is needed");
    }
    let resumed = args.resume.as_deref().map(RunConfig::read).transpose()?;
    let began = resumed.as_ref().and_then(|config| config.device);
    let reproducible = match &resumed {
        Some(config) => config.settings.reproducible,
        None => args.overrides()?.reproducible.unwrap_or(false),
    };
    let mut compute = args.open_compute(began.map(|device| device.used), reproducible)?;
    if let Some(threads) = args.loader_threads {
        compute.threads = threads;
    }
    if compute.threads == 0 {
        bail!("--loader-threads 0: at least one thread is needed");
    }
    match (&args.resume, resumed) {
        (Some(run), Some(config)) => resume(args, run, config, &compute),
        _ => start(args, &compute),
    }
}

/// Begins a run.
fn start(args: &RunArgs, compute: &Compute) -> Result<ExitCode> {
    let name = dataset_name(&args.dataset)?;
    let described = args.dataset.ends_with(".toml");
    if args.shards.is_none() && !described && !datasets::names().contains(&args.dataset.as_str()) {
        // The error lists the known names.
        datasets::open(&args.dataset)?;
    }
    let shards = args.shards.clone();
    let shards = shards.unwrap_or_else(|| util::default_shards(&name));
    let out = args.out.clone().unwrap_or_else(|| {
        let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
        PathBuf::from("runs").join(format!("{name}-{time}"))
    });
    if args.worker.is_none() && out.join(CONFIG_FILE).exists() {
        bail!(
            "{}: is a run already; continue it with --resume {0}, or give another --out",
            out.display()
        );
    }
    let mut overrides = args.overrides()?;
    overrides
        .precision
        .get_or_insert(compute.default_precision());
    overrides
        .keep
        .get_or_insert(StoredActivations::default_on(&compute.device));
    let mut job = Job::new(
        &name,
        &shards,
        &overrides,
        args.weights(),
        args.tiny_encoders(),
        compute,
    )?;
    if let Some(limit) = args.memory_limit {
        limit_memory(&mut job, limit)?;
    }
    if args.dry_run {
        return print_plan(args, &job, &out);
    }
    if args.workers > 1 && job.config.settings.modulation != Modulation::None {
        bail!("gradient modulation balances whole batches; leave --workers out");
    }
    verify(args, &job)?;
    let stop = stop_flag()?;
    job.announcement = compute.announcement();
    let ended = job.start(&out, &stop, args.join_workers(compute)?)?;
    print_summary(args, &out, ended)
}

/// Continues a run.
fn resume(
    args: &RunArgs,
    run: &Path,
    mut config: RunConfig,
    compute: &Compute,
) -> Result<ExitCode> {
    let name = dataset_name(&args.dataset)?;
    if name != config.dataset {
        bail!(
            "{}: is a run on {}, not on {name}; call `train run {1} --resume {0}`",
            run.display(),
            config.dataset
        );
    }
    let mut overrides = args.overrides()?;
    let max_steps = overrides.max_steps.take();
    let given = overrides.assignments()?;
    if !given.is_empty() {
        bail!(
            "{}: a resumed run keeps its settings, {} cannot change; only --max-steps, --threads and --shards can",
            run.display(),
            given.join(", ")
        );
    }
    // Without --max-steps, a run that had a limit continues to its end.
    config.settings.max_steps = max_steps;
    let mut job = Job::reopen(config, args.shards.as_deref(), compute)?;
    if args.dry_run {
        return print_plan(args, &job, run);
    }
    // The folder is recovered before the other workers read from it.
    let _lock = match args.worker {
        None => Some(job::claim(run)?),
        Some(_) => None,
    };
    verify(args, &job)?;
    let stop = stop_flag()?;
    job.announcement = compute.announcement();
    let ended = job.resume(run, &stop, args.join_workers(compute)?)?;
    print_summary(args, run, ended)
}

/// Lets steps store fewer activations and take smaller micro-batches, so that each takes at most
/// `limit` bytes.
fn limit_memory(job: &mut Job, limit: u64) -> Result<()> {
    let settings = &mut job.config.settings;
    let bytes = job
        .compute
        .arithmetic(settings.precision)
        .dtype
        .size_in_bytes() as u64;
    let (encoders, modalities) = (&job.config.encoders, job.config.modalities);
    let (plan, needed) = memory::fit(encoders, modalities, settings, bytes, limit)?;
    settings.keep = plan.stored;
    if plan.micro_batch < settings.batch_size {
        settings.micro_batch = Some(plan.micro_batch);
    }
    eprintln!(
        "a step takes about {:.1} GB: {} samples at once, {} stored",
        needed as f64 / 1e9,
        plan.micro_batch,
        match plan.stored {
            StoredActivations::All => "all activations",
            StoredActivations::Selective => "all activations but the feed-forward parts'",
            StoredActivations::Inputs => "only the inputs of blocks",
        }
    );
    Ok(())
}

/// Verifies the shards before days are spent on them, and prints what is odd about them. The first worker does it for all.
fn verify(args: &RunArgs, job: &Job) -> Result<()> {
    if args.worker.is_none() {
        let session = &job.session;
        let splits = [
            (Split::Train, session.train_present()),
            (Split::Val, &session.shards.split(Split::Val).present[..]),
        ];
        let config = &job.config;
        for note in data_check::notes(config.modalities, config.settings.modality, &splits) {
            eprintln!("{note}");
        }
    }
    if args.no_verify || args.worker.is_some() {
        return Ok(());
    }
    verify_shards(job.session.shards.folder(), job.compute.threads)
}

/// Prints how training ended.
fn print_summary(
    args: &RunArgs,
    out: &Path,
    (outcome, state): (Outcome, State),
) -> Result<ExitCode> {
    if args.json {
        let finished = outcome == Outcome::Finished;
        outln!(
            "{}",
            json!({"run": out, "step": state.step, "epoch": state.epoch, "finished": finished, "best": state.best})
        )?;
    } else {
        let best = state
            .best
            .map(|(score, step)| format!(", best validation score {score:.4} at step {step}"))
            .unwrap_or_default();
        outln!("{}: {} steps{best}", out.display(), state.step)?;
    }
    if outcome == Outcome::Stopped {
        eprintln!(
            "stopped by a signal after step {}; continue with --resume {}",
            state.step,
            out.display()
        );
        return Ok(ExitCode::from(EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what a run would do.
fn print_plan(args: &RunArgs, job: &Job, out: &Path) -> Result<ExitCode> {
    let config = &job.config;
    let samples = job.session.shards.split(Split::Train).len();
    let steps = (samples as u64).div_ceil(config.settings.batch_size as u64);
    let total = (steps * config.settings.epochs).min(config.settings.max_steps.unwrap_or(u64::MAX));
    if args.json {
        outln!(
            "{}",
            json!({"run": out, "train_samples": samples, "steps_per_epoch": steps, "steps": total, "config": config})
        )?;
    } else {
        outln!(
            "would train {total} steps ({samples} samples, {steps} steps an epoch) into {}\n",
            out.display()
        )?;
        outln!("{}", config.to_toml()?.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}
