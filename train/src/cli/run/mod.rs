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
use crate::training::ranks::Ranks;
use crate::training::trainer::Outcome;
use anyhow::{Result, bail};
use datasets::Split;
use engine::Compute;
use model::encoder::StoredActivations;
use report::CONFIG_FILE;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use util::{exit_code, outln};

/// Runs the subcommand.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let ranks = Ranks::join()?;
    let result = run_as(args, &ranks);
    ranks.end(result)
}

/// Runs the subcommand as one of several ranks.
fn run_as(args: &RunArgs, ranks: &Ranks) -> Result<ExitCode> {
    if args.describe {
        return match ranks.is_first() {
            true => describe::describe(args),
            false => Ok(ExitCode::SUCCESS),
        };
    }
    let resumed = args.resume.as_deref().map(RunConfig::read).transpose();
    let resumed = ranks.agree(resumed)?;
    let compute = ranks.agree(open_compute(args, ranks, resumed.as_ref()))?;
    match (&args.resume, resumed) {
        (Some(run), Some(config)) => resume(args, run, config, &compute, ranks),
        _ => start(args, &compute, ranks),
    }
}

/// Opens the device of a new run, or of one that is continued.
fn open_compute(args: &RunArgs, ranks: &Ranks, resumed: Option<&RunConfig>) -> Result<Compute> {
    let began = resumed.and_then(|config| config.device);
    let reproducible = match resumed {
        Some(config) => config.settings.reproducible,
        None => args.overrides()?.reproducible.unwrap_or(false),
    };
    let began = began.map(|device| device.used);
    let mut compute = args.open_compute(ranks, began, reproducible)?;
    if let Some(threads) = args.loader_threads {
        compute.threads = threads;
    }
    if compute.threads == 0 {
        bail!("--loader-threads 0: at least one thread is needed");
    }
    if let Some(bytes) = args.cache_size {
        store::set_cache_size(bytes);
    }
    Ok(compute)
}

/// The run folder of a run on dataset `name` that begins now, if the user has named none.
pub fn default_out(name: &str) -> PathBuf {
    let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
    PathBuf::from("runs").join(format!("{name}-{time}"))
}

/// Begins a run.
fn start(args: &RunArgs, compute: &Compute, ranks: &Ranks) -> Result<ExitCode> {
    let name = ranks.agree(dataset_name(&args.dataset))?;
    let out = args.out.clone().unwrap_or_else(|| default_out(&name));
    let job = ranks.agree(new_job(args, &name, &out, compute, ranks))?;
    if args.dry_run {
        return print_plan(args, &job, &out, ranks);
    }
    ranks.agree(verify(args, &job, ranks))?;
    let stop = stop_flag()?;
    let ended = job.start(&out, &stop, ranks)?;
    print_summary(args, &out, ended, ranks)
}

/// Makes the job of a new run into the folder `out`.
fn new_job(
    args: &RunArgs,
    name: &str,
    out: &Path,
    compute: &Compute,
    ranks: &Ranks,
) -> Result<Job> {
    let described = args.dataset.ends_with(".toml");
    if args.shards.is_none() && !described && !datasets::names().contains(&args.dataset.as_str()) {
        // The error lists the known names.
        datasets::open(&args.dataset)?;
    }
    let shards = args.shards.clone();
    let shards = shards.unwrap_or_else(|| util::default_shards(name).into());
    if out.to_string_lossy().contains("://") {
        bail!(
            "{}: a run folder lies on a disk of this machine; give a path, and copy the folder when the run is finished",
            out.display()
        );
    }
    if ranks.is_first() && out.join(CONFIG_FILE).exists() {
        bail!(
            "{}: is a run already; continue it with --resume {0}, or give another --out",
            out.display()
        );
    }
    let given = args.overrides()?;
    // Weights may be fetched before it is known what the data have.
    given.check_read(given.modality.is_some())?;
    let mut overrides = given.clone();
    overrides
        .precision
        .get_or_insert(compute.default_precision());
    overrides
        .keep
        .get_or_insert(StoredActivations::default_on(&compute.device));
    let mut job = Job::new(
        name,
        &shards,
        &overrides,
        args.weights(),
        args.tiny_encoders(),
        compute,
    )?;
    given.check_read(given.modality.is_some() || job.config.modalities.count() == 1)?;
    if let Some(limit) = args.memory_limit {
        limit_memory(&mut job, limit, ranks)?;
    }
    job.config.settings.check_batch_splitting(ranks.count())?;
    job.announcement = announcement(compute, ranks);
    Ok(job)
}

/// The line about the device that is printed when training begins.
fn announcement(compute: &Compute, ranks: &Ranks) -> Option<String> {
    let line = compute.announcement()?;
    Some(match ranks.count() {
        1 => line,
        count => format!("{line} in the first of {count} ranks"),
    })
}

/// Continues a run.
fn resume(
    args: &RunArgs,
    run: &Path,
    config: RunConfig,
    compute: &Compute,
    ranks: &Ranks,
) -> Result<ExitCode> {
    let job = ranks.agree(reopen_job(args, run, config, compute, ranks))?;
    if args.dry_run {
        return print_plan(args, &job, run, ranks);
    }
    // The first rank recovers the folder before others read from it.
    let lock = ranks.is_first().then(|| job::claim(run));
    let _lock = ranks.agree(lock.transpose())?;
    ranks.agree(verify(args, &job, ranks))?;
    let stop = stop_flag()?;
    let ended = job.resume(run, &stop, ranks)?;
    print_summary(args, run, ended, ranks)
}

/// Makes the job of a run that is continued.
fn reopen_job(
    args: &RunArgs,
    run: &Path,
    mut config: RunConfig,
    compute: &Compute,
    ranks: &Ranks,
) -> Result<Job> {
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
            "{}: a resumed run keeps its settings, {} cannot change; only --max-steps, --shards, --device, --threads, --loader-threads, --cache-size and --no-verify can",
            run.display(),
            given.join(", ")
        );
    }
    // Without --max-steps, a run that had a limit continues to its end.
    config.settings.max_steps = max_steps;
    let mut job = Job::reopen(config, args.shards.as_ref(), compute)?;
    job.config.settings.check_batch_splitting(ranks.count())?;
    job.announcement = announcement(compute, ranks);
    Ok(job)
}

/// Lets steps store fewer activations and take smaller micro-batches, so that each takes at most
/// `limit` bytes.
fn limit_memory(job: &mut Job, limit: u64, ranks: &Ranks) -> Result<()> {
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
    if !ranks.is_first() {
        return Ok(());
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

/// Verifies the shards before days are spent on them, and prints what is odd about them. The first
/// rank does it for all.
fn verify(args: &RunArgs, job: &Job, ranks: &Ranks) -> Result<()> {
    if !ranks.is_first() {
        return Ok(());
    }
    let session = &job.session;
    let splits = [
        (Split::Train, session.train_present()),
        (Split::Val, &session.shards.split(Split::Val).present[..]),
    ];
    let config = &job.config;
    let settings = &config.settings;
    let prompts = settings.untrained_prompts(config.modalities, session.train_present());
    let notes = data_check::notes(config.modalities, settings.modality, &splits);
    let has = |split| !session.shards.split(split).is_empty();
    let no_test = data_check::test_split_note(has(Split::Val), has(Split::Test));
    for note in notes.into_iter().chain(prompts).chain(no_test) {
        eprintln!("{note}");
    }
    if args.no_verify {
        return Ok(());
    }
    verify_shards(session.shards.folder(), job.compute.threads)
}

/// Prints how training ended, and returns the exit code of all ranks.
fn print_summary(
    args: &RunArgs,
    out: &Path,
    (outcome, state): (Outcome, State),
    ranks: &Ranks,
) -> Result<ExitCode> {
    let code = match outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Stopped => exit_code::stopped(exit_code::FINDINGS),
    };
    if !ranks.is_first() {
        return Ok(code);
    }
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
    }
    Ok(code)
}

/// Prints what a run would do.
fn print_plan(args: &RunArgs, job: &Job, out: &Path, ranks: &Ranks) -> Result<ExitCode> {
    if !ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
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
