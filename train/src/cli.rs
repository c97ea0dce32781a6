//! Arguments of every subcommand, and what each does with them.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use datasets::{Modality, Split};
use features::Shards;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use train::checkpoint;
use train::evaluate::{self, EvalOptions};
use train::model::{MissingToken, U2a};
use train::report;
use train::session::{self, Session};
use train::settings::{CONFIG_FILE, RunConfig, Settings, WeightSource};
use train::trainer::{End, Trainer};

/// Trains and evaluates U2A (unified unimodal adaptation) on shards made by `ingest`.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train into a run folder, or continue one
    #[command(
        after_help = "Example:\n  train run crema-d --random-weights 0 --encoders tiny --epochs 3 --out runs/first\n  train run crema-d --resume runs/first"
    )]
    Run(Box<RunArgs>),
    /// Score a run on its test split, with any modality gone
    #[command(after_help = "Example:\n  train eval runs/first --missing audio")]
    Eval(EvalArgs),
    /// Write one self-contained HTML page about runs and print their table
    #[command(after_help = "Example:\n  train report runs/first runs/second --out report.html")]
    Report(ReportArgs),
    /// Say what this machine and this build can do
    #[command(after_help = "Example:\n  train doctor")]
    Doctor(DoctorArgs),
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum EncoderSize {
    Tiny,
    Base,
}

#[derive(Args)]
struct RunArgs {
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
    /// Base learning rate
    #[arg(long)]
    lr: Option<f64>,
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
    /// cpu, or cuda:N in a build with CUDA
    #[arg(long, default_value = "cpu")]
    device: String,
    /// f32 or bf16
    #[arg(long)]
    precision: Option<String>,
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

#[derive(Args)]
struct EvalArgs {
    /// Run folder
    run: PathBuf,
    /// Protocol (missing-audio, missing-both, ...) or mask file applied to the split
    #[arg(long, value_name = "PROTOCOL|FILE")]
    protocol: Option<String>,
    /// Missing rate of the protocol
    #[arg(long, default_value_t = 0.7)]
    rate: f64,
    /// Seed of the protocol's draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A modality gone from every sample
    #[arg(long)]
    missing: Option<Modality>,
    /// What stands in for a missing modality
    #[arg(long, default_value = "mask")]
    missing_token: MissingToken,
    /// Split to score
    #[arg(long, default_value = "test")]
    split: Split,
    /// Checkpoint folder name in the run [default: best, else the newest]
    #[arg(long)]
    checkpoint: Option<String>,
    /// Folder of shards, where it has moved since training
    #[arg(long)]
    shards: Option<PathBuf>,
    /// Threads for arithmetic and decoding [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// cpu, or cuda:N in a build with CUDA
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print what would be done and stop
    #[arg(long)]
    dry_run: bool,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ReportArgs {
    /// Run folders; several are laid side by side
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Page to write [default: report.html in the first run]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print what would be done and stop
    #[arg(long)]
    dry_run: bool,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DoctorArgs {
    /// Machine-readable output
    #[arg(long)]
    json: bool,
}

/// Runs the chosen subcommand.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run(&args),
        Command::Eval(args) => eval(&args),
        Command::Report(args) => report(&args),
        Command::Doctor(args) => doctor(&args),
    }
}

/// Prints to stdout; a closed pipe comes back as an error that `main` takes for success.
fn say(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

fn data_root() -> PathBuf {
    std::env::var_os("U2A_DATA").map_or_else(|| PathBuf::from("data"), PathBuf::from)
}

/// The name that folders carry: a dataset's own, or the stem of a `.toml`.
fn folder_name(dataset: &str) -> Result<String> {
    if dataset.ends_with(".toml") {
        return Ok(datasets::open(dataset)?.info().name.clone());
    }
    Ok(dataset.to_string())
}

fn check_device(device: &str) -> Result<()> {
    if device != "cpu" {
        bail!("--device {device}: this build has no CUDA; use --device cpu");
    }
    Ok(())
}

fn set_threads(threads: Option<usize>) -> Result<usize> {
    let threads = match threads {
        Some(0) => bail!("--threads 0: at least one thread is needed"),
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, Into::into),
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("the thread pool cannot be made")?;
    Ok(threads)
}

impl RunArgs {
    fn overrides(&self) -> Vec<String> {
        let mut all = self.set.clone();
        let on = |s: Switch| (s == Switch::On).to_string();
        let mut add =
            |key: &str, value: Option<String>| all.extend(value.map(|v| format!("{key}={v}")));
        add("epochs", self.epochs.map(|v| v.to_string()));
        add("max_steps", self.max_steps.map(|v| v.to_string()));
        add("batch_size", self.batch_size.map(|v| v.to_string()));
        // `{:?}` keeps a decimal point or an exponent, which TOML wants in a float.
        add("lr", self.lr.map(|v| format!("{v:?}")));
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

fn run(args: &RunArgs) -> Result<ExitCode> {
    check_device(&args.device)?;
    if args.describe {
        return describe(args);
    }
    let threads = set_threads(args.threads)?;
    let threads = args.loader_threads.unwrap_or(threads);
    if threads == 0 {
        bail!("--loader-threads 0: at least one thread is needed");
    }
    if let Some(run) = &args.resume {
        return resume(args, run, threads);
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
    if out.join(CONFIG_FILE).exists() {
        bail!(
            "{}: is a run already; continue it with --resume {0}, or give another --out",
            out.display()
        );
    }
    let shards = Shards::open(&folder)?;
    let spec = shards.spec().clone();
    if spec.dataset != name {
        bail!(
            "{}: holds shards of {}, not of {name}; give the folder of {name} with --shards",
            folder.display(),
            spec.dataset
        );
    }
    let settings = Settings::resolve(&name, spec.modalities, &args.overrides())?;
    let weights = args.weights();
    let encoders = session::encoder_configs(
        spec.modalities,
        &weights,
        args.encoders == EncoderSize::Tiny,
    )?;
    let session = Session::open(shards, &settings, &encoders, &weights, threads)?;
    let config = RunConfig {
        version: env!("CARGO_PKG_VERSION").to_string(),
        dataset: name.clone(),
        shards: std::path::absolute(&folder)?,
        fingerprint: session.shards.fingerprint().to_string(),
        modalities: spec.modalities,
        classes: spec.classes.clone(),
        multi_label: spec.multi_label,
        weights: match weights {
            WeightSource::Folder(folder) => WeightSource::Folder(std::path::absolute(folder)?),
            other => other,
        },
        train_mask_sha256: session.train_mask_sha256.clone(),
        settings,
        encoders,
    };
    if args.dry_run {
        return plan(args, &config, &session, &out);
    }
    let model = session::build_model(&config)?;
    std::fs::create_dir_all(&out).with_context(|| format!("{}: cannot be made", out.display()))?;
    let path = out.join(CONFIG_FILE);
    let temporary = out.join(".config.toml.tmp");
    std::fs::write(&temporary, config.to_toml()?)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    let trainer = Trainer::start(&out, config, &session, model)?;
    train(args, &out, trainer)
}

fn resume(args: &RunArgs, run: &Path, threads: usize) -> Result<ExitCode> {
    let mut config = RunConfig::read(run)?;
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
    checkpoint::recover(run)?;
    let session = open_session(&config, args.shards.as_deref(), threads)?;
    let out = run.to_path_buf();
    if args.dry_run {
        return plan(args, &config, &session, &out);
    }
    let model = session::build_model(&config)?;
    if checkpoint::list(run)?.is_empty() {
        // Killed before the initial checkpoint was whole.
        return train(args, run, Trainer::start(run, config, &session, model)?);
    }
    train(args, run, Trainer::resume(run, config, &session, model)?)
}

/// Opens a run's shards again and refuses others than it was trained on.
fn open_session(config: &RunConfig, moved: Option<&Path>, threads: usize) -> Result<Session> {
    let folder = moved.unwrap_or(&config.shards);
    let shards = Shards::open(folder)?;
    if shards.fingerprint() != config.fingerprint {
        bail!(
            "{}: holds other samples than the run was trained on; give the same shards with --shards",
            folder.display()
        );
    }
    Session::open(
        shards,
        &config.settings,
        &config.encoders,
        &config.weights,
        threads,
    )
}

fn train(args: &RunArgs, out: &Path, mut trainer: Trainer) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let end = trainer.train(&stop)?;
    let state = trainer.state();
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

fn plan(args: &RunArgs, config: &RunConfig, session: &Session, out: &Path) -> Result<ExitCode> {
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
    let table = U2a::table(modalities, &encoders, classes, settings.lora_rank);
    let total: usize = table.iter().map(|(_, n, _)| n).sum();
    let learnable: usize = table.iter().map(|(_, _, n)| n).sum();
    if args.json {
        let parts: Vec<_> = table
            .iter()
            .map(|(name, n, l)| json!({"part": name, "parameters": n, "learnable": l}))
            .collect();
        say(json!({"parts": parts, "parameters": total, "learnable": learnable}))?;
    } else {
        for (name, n, l) in table
            .iter()
            .map(|(a, b, c)| (a.as_str(), *b, *c))
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

fn eval(args: &EvalArgs) -> Result<ExitCode> {
    check_device(&args.device)?;
    let config = RunConfig::read(&args.run)?;
    checkpoint::recover(&args.run)?;
    let threads = set_threads(args.threads)?;
    let session = open_session(&config, args.shards.as_deref(), threads)?;
    let folder = match &args.checkpoint {
        Some(name) => args.run.join(name),
        None => checkpoint::best_or_latest(&args.run)?,
    };
    let options = EvalOptions {
        split: args.split,
        mask: args.protocol.clone().map(|p| (p, args.rate, args.seed)),
        missing: args.missing,
        missing_token: args.missing_token,
    };
    if args.dry_run {
        say(format!(
            "would score {} on the {} split and write eval-{}.json into {}",
            folder.display(),
            options.split,
            options.name(),
            args.run.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut model = session::build_model(&config)?;
    checkpoint::read_model(&folder, &mut model)?;
    let evaluation = evaluate::evaluate(&session, &config, &model, &options)?;
    let (json_path, predictions) =
        evaluate::write(&args.run, &config, &options, &folder, &evaluation)?;
    if args.json {
        let mut json = evaluate::to_json(&config, &options, &folder, &evaluation);
        json["file"] = json!(json_path);
        json["predictions"] = json!(predictions);
        say(json)?;
    } else {
        for (name, value) in &evaluation.metrics.values {
            say(format!("{name:<24} {value:.4}"))?;
        }
        say(format!(
            "{} samples, {}",
            evaluation.metrics.samples,
            json_path.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(args: &ReportArgs) -> Result<ExitCode> {
    let page = args
        .out
        .clone()
        .unwrap_or_else(|| args.runs[0].join("report.html"));
    let runs = args
        .runs
        .iter()
        .map(|run| report::RunSummary::read(run))
        .collect::<Result<Vec<_>>>()?;
    if args.dry_run {
        say(format!(
            "would write {} about {} runs",
            page.display(),
            runs.len()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    report::write(&page, &runs)?;
    if args.json {
        say(json!({"report": page, "table": report::table(&runs)}))?;
    } else {
        say(report::text_table(&runs))?;
        say(format!("report: {}", page.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_arch = "x86_64")]
    let vectors = if std::arch::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "portable";
    let ingest = std::env::current_exe()
        .ok()
        .and_then(|p| Some(p.parent()?.join("ingest")))
        .filter(|p| p.is_file());
    if args.json {
        say(
            json!({"version": env!("CARGO_PKG_VERSION"), "cores": cores, "vectors": vectors, "cuda": false, "ingest": ingest}),
        )?;
    } else {
        say(format!(
            "train {}\ncores     {cores}\nvectors   {vectors}",
            env!("CARGO_PKG_VERSION")
        ))?;
        say("CUDA      not in this build: --device cpu is the only one")?;
        match ingest {
            Some(path) => say(format!("ingest    {}", path.display()))?,
            None => say("ingest    not beside this program; only media decoding needs it")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
