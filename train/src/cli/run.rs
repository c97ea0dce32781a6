//! `train run`: trains into a run folder, continues one, or describes the model.

use super::{folder_name, say, stop_flag};
use crate::session;
use crate::settings::{CONFIG_FILE, RunConfig, Settings};
use crate::training::checkpoint::State;
use crate::training::job::{self, Job};
use crate::training::memory;
use crate::training::trainer::End;
use crate::training::workers::Workers;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use datasets::{Modality, Split};
use engine::{Compute, DeviceChoice};
use features::Shards;
use model::encoder::weights::WeightSource;
use model::parameter_table::parameter_table;
use model::variant::{Adaptation, Fusion, MissingToken, Modulation};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use util::data_root;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum EncoderSize {
    Tiny,
    Base,
}

#[derive(Args)]
pub struct RunArgs {
    /// Dataset name, or the .toml that describes your own
    dataset: String,
    /// Folder of shards [default: data/shards/DATASET]
    #[arg(long)]
    shards: Option<PathBuf>,
    /// Run folder to make [default: runs/DATASET-TIME]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Run folder to continue from its newest checkpoint
    #[arg(long, conflicts_with_all = ["out", "weights", "random_weights"])]
    resume: Option<PathBuf>,
    /// Folder with clip-vit-base-patch16/, bert-base-uncased/, ast-finetuned-audioset-10-10-0.4593/ [default: the Hugging Face hub or its cache]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Random frozen weights from this seed instead of pretrained ones
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    random_weights: Option<u64>,
    /// Size of randomly initialised encoders
    #[arg(long, default_value = "base", requires = "random_weights")]
    encoders: EncoderSize,
    /// Passes over the training split
    #[arg(long)]
    epochs: Option<u64>,
    /// Stop after this many steps; 0 writes the initial checkpoint and stops
    #[arg(long)]
    max_steps: Option<u64>,
    /// Samples per step
    #[arg(long)]
    batch_size: Option<usize>,
    /// Samples at once, to save memory: a step adds up as many parts as it takes [default: the whole batch]
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Keep a step below this much memory, by keeping less and cutting the batch (11GB, 900MB, ...)
    #[arg(long, value_name = "SIZE", value_parser = memory::parse_size)]
    memory_limit: Option<u64>,
    /// Base learning rate
    #[arg(long)]
    lr: Option<f64>,
    /// Which weights of the encoders learn [default: lora]
    #[arg(long)]
    adapt: Option<Adaptation>,
    /// Use this modality alone
    #[arg(long)]
    modality: Option<Modality>,
    /// How two tokens become one feature [default: sum]
    #[arg(long)]
    fusion: Option<Fusion>,
    /// Gradient modulation of the encoders [default: none]
    #[arg(long)]
    modulation: Option<Modulation>,
    /// What stands in for a missing modality [default: mask]
    #[arg(long)]
    missing_token: Option<MissingToken>,
    /// Rank of the adapters
    #[arg(long)]
    lora_rank: Option<usize>,
    /// Dropout on the adapters' input
    #[arg(long)]
    lora_dropout: Option<f64>,
    /// Drop one modality of a whole batch now and then [default: on where the training split is complete]
    #[arg(long)]
    modality_dropout: Option<Switch>,
    /// The encoders' own dropout
    #[arg(long)]
    encoder_dropout: Option<Switch>,
    /// Weight of the alignment loss
    #[arg(long)]
    align_weight: Option<f64>,
    /// A mask file, or a protocol (missing-audio, missing-both, ...) at rate 0.7 and the run's seed
    #[arg(long, value_name = "FILE|PROTOCOL")]
    train_mask: Option<String>,
    /// File order instead of a shuffle
    #[arg(long)]
    no_shuffle: bool,
    /// Random crops, flips and frames
    #[arg(long)]
    augment: Option<Switch>,
    /// Seed of everything random
    #[arg(long)]
    seed: Option<u64>,
    /// A checkpoint every so many steps beside the one at each epoch's end
    #[arg(long)]
    checkpoint_every: Option<u64>,
    /// Any other setting, as in config.toml; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// auto (the first GPU where build and machine have one, else the CPU), cpu, or cuda:N
    #[arg(long, default_value_t, overrides_with = "device")]
    device: DeviceChoice,
    /// f32 or bf16
    #[arg(long)]
    precision: Option<String>,
    /// Processes that train together, one per GPU from the given one on, each with a part of every batch
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Which of them this is (set by the first)
    #[arg(long, hide = true)]
    worker: Option<usize>,
    /// Trust the shards: do not hold them against the hashes in their manifest first
    #[arg(long)]
    no_verify: bool,
    /// Threads for arithmetic [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Threads that decode ahead [default: as many as for arithmetic]
    #[arg(long)]
    loader_threads: Option<usize>,
    /// Print the parameter table and stop
    #[arg(long)]
    describe: bool,
    /// Print what would be done and stop
    #[arg(long)]
    dry_run: bool,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
}

/// A choice by the name that the command line gives it.
fn name<V: ValueEnum>(value: V) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |v| v.get_name().to_string())
}

impl RunArgs {
    /// Opens the device; `began` is what a run to be continued was begun on.
    fn open(&self, began: Option<DeviceChoice>) -> Result<Compute> {
        let rank = self.worker.unwrap_or(0);
        let open = |asked| Compute::open_for(asked, self.threads, rank, self.workers);
        match (self.device, began) {
            (DeviceChoice::Auto, Some(DeviceChoice::Cpu)) => Ok(Compute {
                asked: DeviceChoice::Auto,
                reason: Some("where this run began; --device moves it".to_string()),
                ..open(DeviceChoice::Cpu)?
            }),
            (DeviceChoice::Auto, Some(DeviceChoice::Cuda(_))) => {
                let compute = open(DeviceChoice::Auto)?;
                let moved = |reason| format!("{reason}; this run began on a GPU");
                Ok(Compute {
                    reason: compute.reason.map(moved),
                    ..compute
                })
            }
            _ => open(self.device),
        }
    }

    /// This process among those that train together; the first one starts the others, on the kind of device that it
    /// has itself.
    fn join(&self, compute: &Compute) -> Result<Workers> {
        match self.worker {
            None => Workers::start(self.workers, compute.used),
            Some(rank) => Workers::join(rank, self.workers),
        }
    }

    fn overrides(&self) -> Vec<String> {
        let mut all = self.set.clone();
        let on = |s: Switch| (s == Switch::On).to_string();
        let mut add =
            |key: &str, value: Option<String>| all.extend(value.map(|v| format!("{key}={v}")));
        add("epochs", self.epochs.map(|v| v.to_string()));
        add("max_steps", self.max_steps.map(|v| v.to_string()));
        add("batch_size", self.batch_size.map(|v| v.to_string()));
        add("micro_batch", self.micro_batch.map(|v| v.to_string()));
        // `{:?}` keeps a decimal point or an exponent, which TOML wants in a float.
        add("lr", self.lr.map(|v| format!("{v:?}")));
        add("adapt", self.adapt.map(name));
        add("modality", self.modality.map(|v| v.to_string()));
        add("fusion", self.fusion.map(name));
        add("modulation", self.modulation.map(name));
        add("missing_token", self.missing_token.map(name));
        add("lora_rank", self.lora_rank.map(|v| v.to_string()));
        add("lora_dropout", self.lora_dropout.map(|v| format!("{v:?}")));
        add("modality_dropout", self.modality_dropout.map(on));
        add("encoder_dropout", self.encoder_dropout.map(on));
        add("align_weight", self.align_weight.map(|v| format!("{v:?}")));
        add(
            "train_mask",
            self.train_mask.clone().map(|v| format!("{v:?}")),
        );
        add("shuffle", self.no_shuffle.then(|| "false".to_string()));
        add("augment", self.augment.map(on));
        add("seed", self.seed.map(|v| v.to_string()));
        add("precision", self.precision.clone());
        add(
            "checkpoint_every",
            self.checkpoint_every.map(|v| v.to_string()),
        );
        all
    }

    fn weights(&self) -> WeightSource {
        match (&self.weights, self.random_weights) {
            (Some(folder), _) => WeightSource::Folder(folder.clone()),
            (None, Some(seed)) => WeightSource::Random(seed),
            (None, None) => WeightSource::Hub,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.describe {
        return describe(args);
    }
    if args.workers == 0 {
        bail!("--workers 0: at least one process is needed");
    }
    let rank = args.worker.unwrap_or(0);
    let resumed = args.resume.as_deref().map(RunConfig::read).transpose()?;
    let began = resumed.as_ref().and_then(|config| config.device);
    let mut compute = args.open(began.map(|device| device.used))?;
    if let Some(threads) = args.loader_threads {
        compute.threads = threads;
    }
    if compute.threads == 0 {
        bail!("--loader-threads 0: at least one thread is needed");
    }
    if let (Some(run), Some(config)) = (&args.resume, resumed) {
        return resume(args, run, config, &compute);
    }
    let name = folder_name(&args.dataset)?;
    let folder = args
        .shards
        .clone()
        .unwrap_or_else(|| data_root().join("shards").join(&name));
    if !args.dataset.ends_with(".toml")
        && !datasets::names().contains(&args.dataset.as_str())
        && args.shards.is_none()
    {
        // Says which names there are.
        datasets::open(&args.dataset)?;
    }
    let out = args.out.clone().unwrap_or_else(|| {
        PathBuf::from("runs").join(format!(
            "{name}-{}",
            chrono::Local::now().format("%Y%m%d-%H%M%S")
        ))
    });
    if rank == 0 && out.join(CONFIG_FILE).exists() {
        bail!(
            "{}: is a run already; continue it with --resume {0}, or give another --out",
            out.display()
        );
    }
    let mut overrides = args.overrides();
    if !overrides.iter().any(|o| o.starts_with("precision=")) {
        overrides.push(format!(
            "precision={}",
            compute.default_precision().as_str()
        ));
    }
    let mut job = Job::new(
        &name,
        &folder,
        &overrides,
        args.weights(),
        args.encoders == EncoderSize::Tiny,
        &compute,
    )?;
    if let Some(limit) = args.memory_limit {
        let settings = &mut job.config.settings;
        let bytes = compute.arithmetic(settings.precision).dtype.size_in_bytes() as u64;
        let (encoders, modalities) = (&job.config.encoders, job.config.modalities);
        let (way, takes) = memory::choose(encoders, modalities, settings, bytes, limit)?;
        settings.keep = way.keep;
        if way.at_once < settings.batch_size {
            settings.micro_batch = Some(way.at_once);
        }
        eprintln!(
            "a step takes about {:.1} GB: {} samples at once, {:?} kept",
            takes as f64 / 1e9,
            way.at_once,
            way.keep
        );
    }
    if args.dry_run {
        return plan(args, &job, &out);
    }
    if args.workers > 1 && job.config.settings.modulation != Modulation::None {
        bail!("gradient modulation balances whole batches; leave --workers out");
    }
    verify(args, &job, compute.threads)?;
    let stop = stop_flag()?;
    job.announcement = compute.announcement();
    let ended = job.start(&out, &stop, args.join(&compute)?)?;
    print_summary(args, &out, ended)
}

fn resume(
    args: &RunArgs,
    run: &Path,
    mut config: RunConfig,
    compute: &Compute,
) -> Result<ExitCode> {
    let name = folder_name(&args.dataset)?;
    if name != config.dataset {
        bail!(
            "{}: is a run on {}, not on {name}; call `train run {1} --resume {0}`",
            run.display(),
            config.dataset
        );
    }
    let given: Vec<String> = args
        .overrides()
        .into_iter()
        .filter(|o| !o.starts_with("max_steps="))
        .collect();
    if !given.is_empty() {
        bail!(
            "{}: a resumed run keeps its settings, {} cannot change; only --max-steps, --threads and --shards can",
            run.display(),
            given.join(", ")
        );
    }
    if args.max_steps.is_some() || config.settings.max_steps.is_some() {
        config.settings.max_steps = args.max_steps;
    }
    let mut job = Job::reopen(config, args.shards.as_deref(), compute)?;
    if args.dry_run {
        return plan(args, &job, run);
    }
    // Before the other workers look into the folder.
    let _lock = match args.worker {
        None => Some(job::claim(run)?),
        Some(_) => None,
    };
    verify(args, &job, compute.threads)?;
    let stop = stop_flag()?;
    job.announcement = compute.announcement();
    let ended = job.resume(run, &stop, args.join(compute)?)?;
    print_summary(args, run, ended)
}

/// Holds the shards against their manifest's hashes before days are spent on them.
fn verify(args: &RunArgs, job: &Job, threads: usize) -> Result<()> {
    let folder = job.session.shards.folder();
    if !args.no_verify
        && args.worker.is_none()
        && let Some(verdict) = features::verify::verify(folder, threads)?
    {
        verdict.check(folder)?;
    }
    Ok(())
}

/// Prints how training ended.
fn print_summary(args: &RunArgs, out: &Path, (end, state): (End, State)) -> Result<ExitCode> {
    if args.json {
        say(
            json!({"run": out, "step": state.step, "epoch": state.epoch, "finished": end == End::Done, "best": state.best}),
        )?;
    } else {
        let best = state
            .best
            .map(|(score, step)| format!(", best validation score {score:.4} at step {step}"))
            .unwrap_or_default();
        say(format!("{}: {} steps{best}", out.display(), state.step))?;
    }
    if end == End::Stopped {
        eprintln!(
            "stopped by a signal after step {}; continue with --resume {}",
            state.step,
            out.display()
        );
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(
    args: &RunArgs,
    Job {
        config, session, ..
    }: &Job,
    out: &Path,
) -> Result<ExitCode> {
    let samples = session.shards.split(Split::Train).len();
    let steps = (samples as u64).div_ceil(config.settings.batch_size as u64);
    let total = (steps * config.settings.epochs).min(config.settings.max_steps.unwrap_or(u64::MAX));
    if args.json {
        say(
            json!({"run": out, "train_samples": samples, "steps_per_epoch": steps, "steps": total, "config": config}),
        )?;
    } else {
        say(format!(
            "would train {total} steps ({samples} samples, {steps} steps an epoch) into {}\n",
            out.display()
        ))?;
        say(config.to_toml()?.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(args: &RunArgs) -> Result<ExitCode> {
    let (modalities, classes) = match &args.shards {
        Some(folder) => {
            let shards = Shards::open(folder)?;
            (shards.spec().modalities, shards.spec().classes.len())
        }
        None => {
            let dataset = datasets::open(&args.dataset)?;
            (dataset.info().modalities, dataset.info().classes.len())
        }
    };
    let settings = Settings::resolve(&args.dataset, modalities, &args.overrides())?;
    let encoders = session::encoder_configs(
        modalities,
        &args.weights(),
        args.encoders == EncoderSize::Tiny,
    )?;
    let table = parameter_table(
        modalities,
        &encoders,
        classes,
        settings.lora_rank,
        &settings.variant(),
    );
    let total: usize = table.iter().map(|row| row.total).sum();
    let learnable: usize = table.iter().map(|row| row.learnable).sum();
    if args.json {
        let parts: Vec<_> = table
            .iter()
            .map(|row| {
                json!({"part": row.part, "parameters": row.total, "learnable": row.learnable})
            })
            .collect();
        say(json!({"parts": parts, "parameters": total, "learnable": learnable}))?;
    } else {
        for (name, n, l) in table
            .iter()
            .map(|row| (row.part.as_str(), row.total, row.learnable))
            .chain([("total", total, learnable)])
        {
            say(format!("{name:<28} {:>13} {:>11}", grouped(n), grouped(l)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// 172159519 as 172,159,519.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
