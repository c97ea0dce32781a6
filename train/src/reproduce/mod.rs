//! `train reproduce`: plans the runs that a table or figure of the paper needs, reuses finished ones,
//! trains the rest, and lays the results beside the paper's.
//!
//! A run lies in a folder whose name carries a hash of its settings, encoders and data: what has
//! changed is another run, what has not is never trained twice, and a stopped one goes on.

mod estimate;
mod experiments;

use experiments::eval_options;

use crate::evaluation::{self, EvalOptions};
use crate::ingest_process;
use crate::session;
use crate::settings::{CONFIG_FILE, RunConfig, Settings};
use crate::training::checkpoint;
use crate::training::job::{Job, claim};
use crate::training::trainer::End;
use crate::training::workers::Workers;
use anyhow::{Context, Result};
use datasets::{Modality, Split};
use engine::Compute;
use model::weights::WeightSource;
use report::artefact::{Artefact, Line, Training};
use report::reproduction::{self, Reproduction};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Seeds per figure, as in the paper.
pub const SEEDS: u64 = 3;
/// Samples of each synthetic dataset of the small scale.
pub const SMALL_SAMPLES: usize = 240;
/// Settings of the small scale: what a few hundred samples and small encoders need.
const SMALL_SETTINGS: [&str; 5] = [
    "epochs=12",
    "batch_size=8",
    "lr=1e-2",
    "warmup_epochs=1",
    "augment=false",
];
/// Seed of the small scale's data and of its frozen weights.
const SMALL_SEED: u64 = 0;
/// Characters of the hash in a folder's name.
const HASH_DIGITS: usize = 12;

/// What to reproduce, and with what.
pub struct Options {
    /// Which table or figure.
    pub artefact: Artefact,
    /// Instead of the paper's datasets.
    pub datasets: Vec<String>,
    /// Runs per line, seeds 0, 1, ...
    pub seeds: u64,
    /// Synthetic data and small encoders.
    pub small: bool,
    /// Samples of each synthetic dataset.
    pub samples: usize,
    /// Further settings of every run.
    pub settings: Vec<String>,
    /// The encoders' weights.
    pub weights: WeightSource,
    /// Small random encoders.
    pub tiny: bool,
    /// Folder for runs and pages.
    pub out: PathBuf,
    /// Folder of the datasets' shard folders.
    pub shards: PathBuf,
    /// What runs train on.
    pub compute: Compute,
}

/// One run of the plan.
#[derive(Serialize)]
pub struct Planned {
    /// Dataset.
    pub dataset: String,
    /// Method and settings.
    pub training: Training,
    /// Seed.
    pub seed: u64,
    /// Its folder; none while the data are not there.
    pub folder: Option<PathBuf>,
    /// Whether it is trained to the end already.
    pub finished: bool,
    /// Optimiser steps.
    pub steps: u64,
    /// Evaluations that are still to be made, by name.
    pub evaluations: Vec<String>,
    /// Estimated seconds of what is left of it.
    pub seconds: Option<f64>,
    #[serde(skip)]
    options: Vec<EvalOptions>,
}

/// A plan: the lines of the page and the runs behind them.
pub struct Plan {
    /// Lines of the page.
    pub lines: Vec<Line>,
    /// Runs, each once.
    pub runs: Vec<Planned>,
    /// Datasets that cannot be had, and why.
    pub missing: BTreeMap<String, String>,
}

impl Options {
    /// The command that does the same again.
    pub fn command(&self) -> String {
        let mut line = format!("train reproduce {}", self.artefact.name());
        for dataset in &self.datasets {
            line += &format!(" --dataset {dataset}");
        }
        if self.seeds != SEEDS {
            line += &format!(" --seeds {}", self.seeds);
        }
        if self.small {
            line += " --scale small";
            if self.samples != SMALL_SAMPLES {
                line += &format!(" --samples {}", self.samples);
            }
        }
        match &self.weights {
            WeightSource::Folder(folder) => line += &format!(" --weights {}", folder.display()),
            WeightSource::Random(seed) if !self.tiny => {
                line += &format!(" --random-weights {seed}")
            }
            WeightSource::Random(_) | WeightSource::Hub => {}
        }
        for setting in &self.settings {
            line += &format!(" --set {setting}");
        }
        line
    }

    fn datasets(&self) -> Vec<String> {
        match &self.datasets[..] {
            [] => experiments::datasets(self.artefact)
                .iter()
                .map(ToString::to_string)
                .collect(),
            given => given.to_vec(),
        }
    }

    fn shards(&self, dataset: &str) -> PathBuf {
        if self.small {
            let name = format!("{dataset}-{}", self.samples);
            return self.out.join("data").join(name).join("shards");
        }
        self.shards.join(dataset)
    }

    fn job(&self, dataset: &str, training: &Training, seed: u64) -> Result<Job> {
        let mut overrides: Vec<String> = Vec::new();
        if self.small {
            overrides.extend(SMALL_SETTINGS.map(String::from));
        }
        overrides.extend(training.settings.iter().cloned());
        overrides.extend(self.settings.iter().cloned());
        overrides.push(format!("seed={seed}"));
        Job::new(
            dataset,
            &self.shards(dataset),
            &overrides,
            self.weights.clone(),
            self.tiny,
            &self.compute,
        )
    }

    /// Makes the small scale's data of every dataset that can be made; gives what cannot.
    pub fn prepare(&self) -> Result<BTreeMap<String, String>> {
        let mut missing = BTreeMap::new();
        if !self.small {
            return Ok(missing);
        }
        for dataset in self.datasets() {
            let shards = self.shards(&dataset);
            if shards.join("manifest.json").is_file() {
                continue;
            }
            eprintln!("making {} synthetic samples of {dataset}", self.samples);
            let raw = shards.with_file_name("raw");
            let made = self.synthesise(&dataset, &raw).and_then(|()| {
                let arguments = [
                    "run".as_ref(),
                    dataset.as_ref(),
                    "--raw".as_ref(),
                    raw.as_os_str(),
                    "--out".as_ref(),
                    shards.as_os_str(),
                ];
                ingest_process::run(arguments)
            });
            if let Err(error) = made {
                missing.insert(dataset, format!("{error:#}"));
            }
        }
        Ok(missing)
    }

    /// A raw tree, whole under its name: a stopped one is begun anew.
    fn synthesise(&self, dataset: &str, raw: &Path) -> Result<()> {
        if raw.is_dir() {
            return Ok(());
        }
        let partial = raw.with_file_name("raw.part");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let (samples, seed) = (self.samples.to_string(), SMALL_SEED.to_string());
        let arguments: [&std::ffi::OsStr; 8] = [
            "synth".as_ref(),
            dataset.as_ref(),
            "--samples".as_ref(),
            samples.as_ref(),
            "--seed".as_ref(),
            seed.as_ref(),
            "--out".as_ref(),
            partial.as_os_str(),
        ];
        ingest_process::run(arguments)?;
        Ok(fs::rename(&partial, raw)?)
    }

    /// What is needed and what of it is there already.
    pub fn plan(&self, mut missing: BTreeMap<String, String>) -> Result<Plan> {
        let mut lines = Vec::new();
        let mut runs: Vec<Planned> = Vec::new();
        for dataset in self.datasets() {
            let opened = datasets::open(&dataset)?;
            let of_dataset = experiments::lines(self.artefact, opened.info())?;
            let [train, _, _] = opened.info().expected;
            let shards = self.shards(&opened.info().name);
            let there = shards.is_dir();
            if !there && !missing.contains_key(&dataset) {
                let why = match self.small {
                    true => "its synthetic data are made first".to_string(),
                    false => format!(
                        "{}: no shards; run `ingest run {dataset}` first",
                        shards.display()
                    ),
                };
                missing.insert(dataset.clone(), why);
            }
            for line in &of_dataset {
                for seed in 0..self.seeds {
                    let known = runs.iter().position(|r| {
                        r.dataset == line.dataset && r.training == line.training && r.seed == seed
                    });
                    let at = match known {
                        Some(at) => at,
                        None => {
                            runs.push(self.planned(line, seed, there, train)?);
                            runs.len() - 1
                        }
                    };
                    let run = &mut runs[at];
                    let options = eval_options(&line.testing, seed, token_of(&line.training));
                    let name = options.name();
                    if run.options.iter().all(|o| o.name() != name) {
                        let file = |f: &PathBuf| f.join(format!("eval-{name}.json")).is_file();
                        if !(run.finished && run.folder.as_ref().is_some_and(file)) {
                            run.evaluations.push(name);
                        }
                        run.options.push(options);
                    }
                }
            }
            lines.extend(of_dataset);
        }
        Ok(Plan {
            lines,
            runs,
            missing,
        })
    }

    fn planned(
        &self,
        line: &Line,
        seed: u64,
        there: bool,
        expected: Option<usize>,
    ) -> Result<Planned> {
        let mut planned = Planned {
            dataset: line.dataset.clone(),
            training: line.training.clone(),
            seed,
            folder: None,
            finished: false,
            steps: 0,
            evaluations: Vec::new(),
            seconds: None,
            options: Vec::new(),
        };
        let steps = |samples: usize, config: &Settings| {
            let per_epoch = (samples as u64).div_ceil(config.batch_size as u64);
            (config.epochs * per_epoch).min(config.max_steps.unwrap_or(u64::MAX))
        };
        if there {
            let job = self.job(&line.dataset, &line.training, seed)?;
            let name = format!("{}-{}", line.dataset, &job.hash()?[..HASH_DIGITS]);
            let folder = self.out.join("runs").join(name);
            let samples = job.session.shards.split(Split::Train).len();
            planned.steps = steps(samples, &job.config.settings);
            planned.finished = finished(&folder, &job.config, planned.steps)?;
            planned.folder = Some(folder);
        } else {
            let info = datasets::open(&line.dataset)?.info().clone();
            let mut overrides: Vec<String> = Vec::new();
            if self.small {
                overrides.extend(SMALL_SETTINGS.map(String::from));
            }
            overrides.extend(line.training.settings.iter().chain(&self.settings).cloned());
            let settings = Settings::resolve(&line.dataset, info.modalities, &overrides)?;
            let samples = if self.small {
                self.samples
            } else {
                expected.unwrap_or(0)
            };
            planned.steps = steps(samples, &settings);
        }
        Ok(planned)
    }

    /// Writes the pages from the evaluations that exist, and returns their paths, the Markdown first.
    pub fn write_pages(&self, plan: &Plan) -> Result<Vec<PathBuf>> {
        let folder = self.out.join(self.artefact.name());
        if self.artefact == Artefact::Table5 {
            let defaults = |name: &str, modalities| -> Result<Value> {
                let settings = Settings::resolve(name, modalities, &[])?;
                Ok(serde_json::to_value(settings)?)
            };
            let image_text = defaults("food-101", [Modality::Image, Modality::Text])?;
            let audio_video = defaults("ave", [Modality::Audio, Modality::Video])?;
            return reproduction::write_hyperparameters(&folder, &image_text, &audio_video);
        }
        let evaluations = |line: &Line| {
            let of_line = |run: &&Planned| {
                run.dataset == line.dataset && run.training == line.training && run.finished
            };
            let file = |run: &Planned| {
                let options = eval_options(&line.testing, run.seed, token_of(&line.training));
                let name = format!("eval-{}.json", options.name());
                Some(run.folder.as_ref()?.join(name))
            };
            plan.runs.iter().filter(of_line).filter_map(file).collect()
        };
        let reproduction = Reproduction {
            artefact: self.artefact,
            command: self.command(),
            small: self.small,
            lines: &plan.lines,
            evaluations: plan.lines.iter().map(evaluations).collect(),
            runs: serde_json::to_value(&plan.runs)?,
            missing: &plan.missing,
        };
        reproduction.write(&folder)
    }

    /// Fills in how long each run still takes, from steps measured on this machine.
    pub fn estimate(&self, plan: &mut Plan) -> Result<()> {
        estimate::fill(self, plan)
    }

    /// Trains and tests what is not there yet. False: a signal stopped it.
    pub fn execute(&self, plan: &mut Plan, stop: &AtomicBool) -> Result<bool> {
        let total = plan.runs.len();
        for (i, run) in plan.runs.iter_mut().enumerate() {
            let Some(folder) = run.folder.clone() else {
                continue;
            };
            let method = run.training.method;
            let mut title = format!("{method} on {}, seed {}", run.dataset, run.seed);
            for setting in run
                .training
                .settings
                .iter()
                .filter(|s| s.starts_with("train_mask="))
            {
                title += &format!(", {setting}");
            }
            if run.finished && run.evaluations.is_empty() {
                eprintln!("run {} of {total}: {title}: there already", i + 1);
                continue;
            }
            let left = match run.finished {
                true => format!("{} tests", run.evaluations.len()),
                false => format!("{} steps", run.steps),
            };
            eprintln!("run {} of {total}: {title}: {left}", i + 1);
            let job = self.job(&run.dataset, &run.training, run.seed)?;
            if !run.finished {
                let (end, _) = if folder.join(CONFIG_FILE).is_file() {
                    let _lock = claim(&folder)?;
                    job.resume(&folder, stop, Workers::alone())?
                } else {
                    job.start(&folder, stop, Workers::alone())?
                };
                if end == End::Stopped {
                    return Ok(false);
                }
                run.finished = true;
            }
            let best = checkpoint::best_or_latest(&folder)?;
            let mut model = session::build_model(&job.config, &job.compute)?;
            checkpoint::read_model(&best, &mut model)?;
            for options in &run.options {
                let name = options.name();
                if !run.evaluations.contains(&name) {
                    continue;
                }
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let scored = evaluation::evaluate(&job.session, &job.config, &model, options)?;
                evaluation::write(&folder, &job.config, options, &best, &scored)?;
                run.evaluations.retain(|left| *left != name);
            }
        }
        Ok(true)
    }
}

/// What stands in for a missing modality while training so.
fn token_of(training: &Training) -> model::u2a::MissingToken {
    use model::u2a::MissingToken;
    let value = |s: &String| s.strip_prefix("missing_token=").map(str::to_string);
    match training.settings.iter().find_map(value).as_deref() {
        Some("zeros") => MissingToken::Zeros,
        Some("input") => MissingToken::Input,
        _ => MissingToken::Mask,
    }
}

/// Whether the folder holds this very run, trained to its end.
fn finished(folder: &Path, config: &RunConfig, steps: u64) -> Result<bool> {
    if !folder.join(checkpoint::BEST).is_dir() {
        return Ok(false);
    }
    let there = RunConfig::read(folder)?;
    let same = there.settings == config.settings && there.fingerprint == config.fingerprint;
    let state = fs::read_to_string(checkpoint::latest(folder)?.join("state.json"))
        .with_context(|| format!("{}: its newest checkpoint cannot be read", folder.display()))?;
    let state: checkpoint::State = serde_json::from_str(&state)?;
    Ok(same && state.step >= steps)
}
