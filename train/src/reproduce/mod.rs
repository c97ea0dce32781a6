//! `train reproduce`: the tables and figures of the paper.
//!
//! [`Options::plan`] finds the runs that a table or figure needs, [`Options::execute`] trains and
//! evaluates those that are not finished, and [`Options::write_pages`] writes the results beside
//! the paper's.
//!
//! The name of a run folder contains a hash of the run's settings, encoders and data. So a run with
//! any other setting is another run, a finished run is never trained twice, and a stopped one is
//! resumed.

mod estimate;
mod execute;
mod experiments;
mod plan;
mod slurm;
mod synthetic_data;

pub use execute::RunStage;
pub use plan::{Plan, PlannedRun};

use crate::settings::{Settings, SettingsOverrides};
use crate::training::job::Job;
use anyhow::{Result, bail};
use datasets::Modality;
use engine::Compute;
use features::Folder;
use model::encoder::weights::WeightSource;
use report::artefact::{Artefact, Row, Training};
use report::evaluation_file;
use report::reproduction::{Reproduction, write_hyperparameters};
use serde_json::Value;
use std::path::PathBuf;

/// The number of seeds per score, as in the paper.
pub const SEEDS: u64 = 3;
/// The number of samples of each synthetic dataset of the small scale.
pub const SMALL_SAMPLES: usize = 240;
/// The settings of the small scale, which suit a few hundred samples and small encoders.
const SMALL_SETTINGS: [&str; 5] = [
    "epochs=12",
    "batch_size=8",
    "lr=1e-2",
    "warmup_epochs=1",
    "augment=false",
];

/// What to reproduce, and how.
pub struct Options {
    /// The table or figure.
    pub artefact: Artefact,
    /// The datasets to use instead of the paper's; empty for the paper's.
    pub datasets: Vec<String>,
    /// The number of runs per row, with seeds 0, 1, ...
    pub seeds: u64,
    /// Whether to use synthetic data and small encoders.
    pub small: bool,
    /// The number of samples of each synthetic dataset.
    pub samples: usize,
    /// Further settings of all runs, each as `key=value`.
    pub settings: Vec<String>,
    /// Where the encoders' weights come from.
    pub weights: WeightSource,
    /// Whether the encoders are small and random.
    pub tiny: bool,
    /// The folder for runs and pages.
    pub out: PathBuf,
    /// The folder that holds a folder of shards for each dataset.
    pub shards: Folder,
    /// The device to train on.
    pub compute: Compute,
}

impl Options {
    /// Checks the options before anything is made.
    ///
    /// # Errors
    /// There is no such setting, or a user's own dataset is to be synthesised.
    pub fn check(&self) -> Result<()> {
        SettingsOverrides::parse(&self.settings)?;
        if self.small
            && let Some(own) = self.datasets.iter().find(|name| name.ends_with(".toml"))
        {
            bail!(
                "--dataset {own}: the small scale has synthetic data of the five datasets only ({}); leave out --scale small",
                datasets::names().join(", ")
            );
        }
        Ok(())
    }

    /// Returns the command line that these options stand for.
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
            // The command line gives a folder, not the checkpoints in it.
            WeightSource::Random(_) | WeightSource::Hub | WeightSource::Checkpoints(_) => {}
        }
        for setting in &self.settings {
            line += &format!(" --set {setting}");
        }
        line
    }

    /// Returns the datasets to use.
    fn datasets(&self) -> Vec<String> {
        match &self.datasets[..] {
            [] => experiments::datasets(self.artefact)
                .iter()
                .map(ToString::to_string)
                .collect(),
            given => given.to_vec(),
        }
    }

    /// Returns the folder of a dataset's shards.
    fn shards(&self, dataset: &str) -> Folder {
        match self.small {
            true => self.synthetic_shards(dataset).into(),
            false => self.shards.join(dataset),
        }
    }

    /// Returns the folder of a synthetic dataset's shards.
    fn synthetic_shards(&self, dataset: &str) -> PathBuf {
        let name = format!("{dataset}-{}", self.samples);
        self.out.join("data").join(name).join("shards")
    }

    /// Returns the settings of runs that are trained in this way, beside those of the dataset.
    fn overrides(&self, training: &Training) -> Result<SettingsOverrides> {
        let mut pairs: Vec<String> = Vec::new();
        if self.small {
            pairs.extend(SMALL_SETTINGS.map(String::from));
        }
        pairs.extend(training.settings.iter().chain(&self.settings).cloned());
        SettingsOverrides::parse(&pairs)
    }

    /// Returns the job that trains on a dataset with a seed.
    fn job(&self, dataset: &str, training: &Training, seed: u64) -> Result<Job> {
        let mut overrides = self.overrides(training)?;
        overrides.seed = Some(seed);
        Job::new(
            dataset,
            &self.shards(dataset),
            &overrides,
            self.weights.clone(),
            self.tiny,
            &self.compute,
        )
    }

    /// Writes the pages from the evaluations that exist, and returns their paths, the Markdown
    /// first.
    ///
    /// # Errors
    /// An evaluation is not JSON, or a page cannot be written.
    pub fn write_pages(&self, plan: &Plan) -> Result<Vec<PathBuf>> {
        let folder = self.out.join(self.artefact.name());
        if self.artefact == Artefact::Table5 {
            let defaults = |name: &str, modalities: [Modality; 2]| -> Result<Value> {
                let overrides = SettingsOverrides::default();
                let settings = Settings::resolve(name, modalities, &overrides)?;
                Ok(serde_json::to_value(settings)?)
            };
            let image_text = defaults("food-101", [Modality::Image, Modality::Text])?;
            let audio_video = defaults("ave", [Modality::Audio, Modality::Video])?;
            return write_hyperparameters(&folder, &image_text, &audio_video);
        }
        let evaluations = |row: &Row| {
            let runs = plan.runs.iter();
            let finished = runs.filter(|run| run.belongs_to(row) && run.finished);
            let file = |run: &PlannedRun| {
                let name = run.eval_options(row).name();
                Some(run.folder.as_ref()?.join(evaluation_file(&name)))
            };
            finished.filter_map(file).collect()
        };
        let reproduction = Reproduction {
            artefact: self.artefact,
            command: self.command(),
            small: self.small,
            rows: &plan.rows,
            evaluations: plan.rows.iter().map(evaluations).collect(),
            runs: serde_json::to_value(&plan.runs)?,
            missing: &plan.missing,
        };
        reproduction.write(&folder)
    }

    /// Estimates how long each run will take, from steps measured on this machine.
    ///
    /// # Errors
    /// There is no such setting, or a step fails.
    pub fn estimate(&self, plan: &mut Plan) -> Result<()> {
        estimate::estimate(self, plan)
    }
}
