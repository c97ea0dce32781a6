//! Arguments of every subcommand, and what each does with them.

mod predict;
mod reproduce;
mod run;
mod selftest;

use crate::diagnostics::doctor;
use crate::evaluation::{self, EvalOptions};
use crate::session;
use crate::settings::RunConfig;
use crate::training::checkpoint;
use crate::training::job::Job;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use datasets::{Modality, Split};
#[cfg(target_arch = "x86_64")]
use engine::Isa;
use engine::{Compute, DeviceChoice};
use model::variant::MissingToken;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use util::cli::{report_error, report_usage};

/// Trains and evaluates U2A (unified unimodal adaptation) on shards made by `ingest`.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train into a run folder, or continue one
    #[command(
        after_help = "Example:\n  train run crema-d --random-weights 0 --encoders tiny --epochs 3 --out runs/first\n  train run crema-d --resume runs/first"
    )]
    Run(Box<run::RunArgs>),
    /// Score a run on its test split, with any modality gone
    #[command(after_help = "Example:\n  train eval runs/first --missing audio")]
    Eval(EvalArgs),
    /// Label new media files with a run's model, whichever modality they have
    #[command(
        after_help = "Example:\n  train predict runs/first clip.mp4 voice.wav\n  train predict runs/food photo.jpg --text 'a bowl of ramen'\n  train predict runs/first --watch incoming/ --json"
    )]
    Predict(predict::PredictArgs),
    /// Make a table or figure of the paper anew, beside the paper's own figures
    #[command(
        after_help = "Examples:\n  train reproduce table4 --dataset crema-d --dry-run\n  train reproduce figure5 --scale small"
    )]
    Reproduce(Box<reproduce::ReproduceArgs>),
    /// Write one self-contained HTML page about runs and print their table
    #[command(after_help = "Example:\n  train report runs/first runs/second --out report.html")]
    Report(ReportArgs),
    /// Say what this machine and this build can do
    #[command(after_help = "Example:\n  train doctor")]
    Doctor(DoctorArgs),
    /// Hold what a device computes against the CPU: every layer, and training steps at full size
    #[command(after_help = "Example:\n  train selftest --device cuda:0")]
    Selftest(selftest::SelftestArgs),
    /// Time steps: one line in, steps done, one line of JSON out
    #[command(hide = true)]
    Bench(selftest::BenchArgs),
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
    /// What stands in for a missing modality [default: as in training]
    #[arg(long)]
    missing_token: Option<MissingToken>,
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
    /// auto (the first GPU where build and machine have one, else the CPU), cpu, or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
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

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run_command(cli.command).unwrap_or_else(|error| report_error(&error)),
        Err(error) => report_usage(&error),
    }
}

fn run_command(command: Command) -> Result<ExitCode> {
    util::cpu::check()?;
    match command {
        Command::Run(args) => run::run(&args),
        Command::Eval(args) => eval(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Reproduce(args) => reproduce::run(&args),
        Command::Report(args) => report(&args),
        Command::Doctor(args) => diagnose(&args),
        Command::Selftest(args) => selftest::selftest(&args),
        Command::Bench(args) => selftest::bench(&args),
    }
}

/// Prints to stdout; a closed pipe comes back as an error that `main` takes for success.
fn say(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Says on stderr what `--device auto` came to.
fn announce(compute: &Compute) {
    if let Some(line) = compute.announcement() {
        eprintln!("{line}");
    }
}

/// The name that folders carry: a dataset's own, or the stem of a `.toml`.
fn folder_name(dataset: &str) -> Result<String> {
    if dataset.ends_with(".toml") {
        return Ok(datasets::open(dataset)?.info().name.clone());
    }
    Ok(dataset.to_string())
}

/// Set by the first SIGINT or SIGTERM.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

fn eval(args: &EvalArgs) -> Result<ExitCode> {
    let config = RunConfig::read(&args.run)?;
    let compute = Compute::open(args.device, args.threads)?;
    let Job {
        config, session, ..
    } = Job::reopen(config, args.shards.as_deref(), &compute)?;
    let folder = match &args.checkpoint {
        Some(name) => args.run.join(name),
        None => checkpoint::best_or_latest(&args.run)?,
    };
    let options = EvalOptions {
        split: args.split,
        mask: args.protocol.clone().map(|p| (p, args.rate, args.seed)),
        missing: args.missing,
        missing_token: args.missing_token.unwrap_or(config.settings.missing_token),
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
    // Wrong usage is told before the model is built and the device is announced.
    evaluation::shown_modalities(&session, &config, &options)?;
    let shards = session.shards.folder();
    if let Some(verdict) = features::verify::verify(shards, compute.threads)? {
        verdict.check(shards)?;
    }
    let mut model = session::build_model(&config, &compute)?;
    checkpoint::read_model(&folder, &mut model)?;
    announce(&compute);
    let evaluation = evaluation::evaluate(&session, &config, &model, &options)?;
    let (json_path, predictions) =
        evaluation::write(&args.run, &config, &options, &folder, &evaluation)?;
    if args.json {
        let mut json = evaluation::to_json(&config, &options, &folder, &evaluation);
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
        .map(|run| {
            // A configuration that training would refuse is refused here as well.
            RunConfig::read(run)?;
            report::RunSummary::read(run)
        })
        .collect::<Result<Vec<_>>>()?;
    if args.dry_run {
        say(format!(
            "would write {} about {} runs",
            page.display(),
            runs.len()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    report::write_page(&page, &runs)?;
    if args.json {
        say(json!({"report": page, "table": report::score_table(&runs)}))?;
    } else {
        say(report::text_table(&runs))?;
        say(format!("report: {}", page.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the sandbox of `ingest`'s decoders lacks on this kernel, as sentences. `None` if `ingest` cannot be asked.
fn sandbox_gaps() -> Option<Vec<String>> {
    let probe = [
        "decode-worker",
        "--memory-mib",
        "4096",
        "--cpu-seconds",
        "10",
        "--probe",
    ];
    let found: serde_json::Value =
        serde_json::from_str(&crate::ingest_process::run(probe).ok()?).ok()?;
    let gaps = found["sandbox_gaps"].as_array()?.iter();
    gaps.map(|gap| gap.as_str().map(str::to_owned)).collect()
}

fn diagnose(args: &DoctorArgs) -> Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_arch = "x86_64")]
    let vectors = if Isa::AmxBf16.is_available() {
        "AVX-512 and AMX"
    } else if Isa::Avx512Bf16.is_available() {
        "AVX-512 with bf16"
    } else if util::cpu::has_avx512() {
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
    let gpus = doctor::probe();
    let sandbox_gaps = ingest.as_ref().and_then(|_| sandbox_gaps());
    if args.json {
        say(
            json!({"version": env!("CARGO_PKG_VERSION"), "cores": cores, "vectors": vectors, "cuda": gpus.built, "gpu": gpus, "to_do": gpus.advice(), "ingest": ingest, "decoder_sandbox_gaps": sandbox_gaps}),
        )?;
    } else {
        say(format!(
            "train {}\ncores     {cores}\nvectors   {vectors}",
            env!("CARGO_PKG_VERSION")
        ))?;
        say(match gpus.built {
            true => "CUDA      in this build",
            false => "CUDA      not in this build: it computes on the CPU",
        })?;
        for line in gpus.lines() {
            say(line)?;
        }
        match sandbox_gaps.as_deref() {
            Some([]) => say("sandbox   decoders are confined by landlock and seccomp")?,
            Some(gaps) => say(format!("sandbox   {}", gaps.join("; ")))?,
            None => {}
        }
        match ingest {
            Some(path) => say(format!("ingest    {}", path.display()))?,
            None => say("ingest    not beside this program; only media decoding needs it")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
