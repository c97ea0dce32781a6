//! `train predict`: labels new media files, once or as they come.

use super::{announce, say, stop_flag};
use crate::evaluation::predict::{self, Answer};
use crate::session;
use crate::settings::RunConfig;
use crate::training::checkpoint;
use anyhow::{Context, Result, bail};
use clap::Args;
use engine::{Compute, DeviceChoice};
use model::u2a::U2a;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a watched folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct PredictArgs {
    /// Run folder
    run: PathBuf,
    /// Media files; those of one name but for the ending are one sample
    files: Vec<PathBuf>,
    /// Words for every sample that has no text file
    #[arg(long)]
    text: Option<String>,
    /// Label the files of this folder and those that come later, until interrupted
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// Classes shown per sample
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// Checkpoint folder name in the run [default: best, else the newest]
    #[arg(long)]
    checkpoint: Option<String>,
    /// Threads for arithmetic and decoding [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// auto (the first GPU where build and machine have one, else the CPU), cpu, or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Machine-readable output: one list, or with --watch one line per sample
    #[arg(long)]
    json: bool,
}

/// A trained model with its configuration.
struct Predictor {
    config: RunConfig,
    model: U2a,
    threads: usize,
}

impl Predictor {
    /// Classifies the samples that the files and the text make up.
    fn predict(&self, files: &[PathBuf], text: Option<&str>) -> Result<Vec<Answer>> {
        let subjects = predict::subjects(files, text, self.config.modalities)?;
        let folder = Scratch::new()?;
        predict::predict(
            &subjects,
            &self.config,
            &self.model,
            &folder.0,
            self.threads,
        )
    }
}

/// A folder that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("u2a-predict-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("{}: cannot be made", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing more can be done about a temporary folder.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs the subcommand.
pub fn run(args: &PredictArgs) -> Result<ExitCode> {
    let config = RunConfig::read(&args.run)?;
    if args.files.is_empty() && args.text.is_none() && args.watch.is_none() {
        bail!("{}: give files, --text or --watch DIR", args.run.display());
    }
    // Before the model is built: a wrong file should not take a minute to be named.
    predict::subjects(&args.files, args.text.as_deref(), config.modalities)?;
    crate::ingest_process::program()?;
    let compute = Compute::open(args.device, args.threads)?;
    let folder = match &args.checkpoint {
        Some(name) => args.run.join(name),
        None => checkpoint::best_or_latest(&args.run)?,
    };
    let mut model = session::build_model(&config, &compute)?;
    checkpoint::read_model(&folder, &mut model)?;
    announce(&compute);
    let predictor = Predictor {
        config,
        model,
        threads: compute.threads,
    };
    let mut unread = false;
    if !args.files.is_empty() || args.text.is_some() {
        let answers = predictor.predict(&args.files, args.text.as_deref())?;
        unread = answers.iter().any(|a| a.seen.is_empty());
        if args.json && args.watch.is_none() {
            say(json!(answers))?;
        } else {
            show(&answers, args)?;
        }
    }
    if let Some(folder) = &args.watch {
        watch(folder, &predictor, args)?;
    }
    Ok(ExitCode::from(u8::from(unread)))
}

/// One line per sample.
fn show(answers: &[Answer], args: &PredictArgs) -> Result<()> {
    for answer in answers {
        if args.json {
            say(json!(answer))?;
            continue;
        }
        let name = match &answer.files[..] {
            [] => "(text)".to_string(),
            files => files
                .iter()
                .map(|f| f.display().to_string())
                .collect::<Vec<_>>()
                .join(" + "),
        };
        if answer.seen.is_empty() {
            let why = answer.problem.as_deref().unwrap_or("nothing in it");
            say(format!("{name}  cannot be read: {why}"))?;
            continue;
        }
        let seen: Vec<&str> = answer.seen.iter().map(|m| m.as_str()).collect();
        let top: Vec<String> = answer
            .probabilities
            .iter()
            .take(args.top.max(1))
            .map(|(label, p)| format!("{label} {:.1} %", 100.0 * p))
            .collect();
        let problem = answer
            .problem
            .as_ref()
            .map_or_else(String::new, |p| format!("  ({p})"));
        say(format!(
            "{name}  {}  {}{problem}",
            seen.join("+"),
            top.join(", ")
        ))?;
    }
    Ok(())
}

/// Looks at the folder until interrupted; a file is taken once its size has stayed the same between
/// two looks, and is answered once.
fn watch(folder: &Path, predictor: &Predictor, args: &PredictArgs) -> Result<()> {
    let stop = stop_flag()?;
    let mut sizes: BTreeMap<PathBuf, Option<u64>> = BTreeMap::new();
    eprintln!("watching {}; interrupt to stop", folder.display());
    while !stop.load(Ordering::Relaxed) {
        let mut ready = Vec::new();
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("{}: cannot be listed", folder.display()))?;
        let mut files: Vec<(PathBuf, u64)> = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A file may go between the two calls.
            let Ok(meta) = std::fs::metadata(entry.path()) else {
                continue;
            };
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if meta.is_file() && !hidden {
                files.push((entry.path(), meta.len()));
            }
        }
        files.sort();
        for (path, size) in files {
            match sizes.get_mut(&path) {
                Some(None) => {}
                Some(known) if *known == Some(size) && size > 0 => {
                    *known = None;
                    ready.push(path);
                }
                _ => drop(sizes.insert(path, Some(size))),
            }
        }
        // One file that is of no use must not keep the others from an answer.
        ready.retain(|file| {
            let usable = predict::subjects(
                std::slice::from_ref(file),
                None,
                predictor.config.modalities,
            );
            if let Err(error) = &usable {
                eprintln!("passed over: {error:#}");
            }
            usable.is_ok()
        });
        if !ready.is_empty() {
            match predictor.predict(&ready, args.text.as_deref()) {
                Ok(answers) => show(&answers, args)?,
                Err(error) => eprintln!("error: {error:#}"),
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
