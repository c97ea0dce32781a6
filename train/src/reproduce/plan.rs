//! The plan of a reproduction: the rows of its page, and the runs that they need.

use super::Options;
use super::experiments::{self, eval_options, token_of};
use crate::evaluation::EvalOptions;
use crate::settings::{RunConfig, Settings};
use crate::training::checkpoint;
use anyhow::{Context, Result};
use datasets::{Info, Split};
use features::MANIFEST_FILE;
use report::artefact::{Row, Training};
use report::evaluation_file;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The number of digits of the hash in the name of a run folder.
const HASH_DIGITS: usize = 12;

/// One run of the plan.
#[derive(Serialize)]
pub struct PlannedRun {
    /// The name of the dataset.
    pub dataset: String,
    /// The method and its settings.
    pub training: Training,
    /// The seed.
    pub seed: u64,
    /// The run folder; `None` until the data exist.
    pub folder: Option<PathBuf>,
    /// Whether it is trained to the end.
    pub finished: bool,
    /// The number of training steps.
    pub steps: u64,
    /// The names of the evaluations that are still to do.
    pub evaluations: Vec<String>,
    /// The estimated seconds that training and evaluations will take.
    pub seconds: Option<f64>,
    /// The options of all its evaluations, those that are done included.
    #[serde(skip)]
    pub(super) options: Vec<EvalOptions>,
    /// What is known about the dataset.
    #[serde(skip)]
    pub(super) info: Info,
}

/// The rows of a page, and the runs that they need.
pub struct Plan {
    /// The rows of the page.
    pub rows: Vec<Row>,
    /// The runs; one that several rows need is listed once.
    pub runs: Vec<PlannedRun>,
    /// The datasets without data, each with the reason.
    pub missing: BTreeMap<String, String>,
}

impl Options {
    /// Plans the rows and their runs, and finds those that are finished.
    ///
    /// `missing` are the datasets that [`Options::prepare`] could not prepare.
    ///
    /// # Errors
    /// There is no such dataset or setting, or a file of a dataset or of a run cannot be read.
    pub fn plan(&self, mut missing: BTreeMap<String, String>) -> Result<Plan> {
        let mut rows = Vec::new();
        let mut runs: Vec<PlannedRun> = Vec::new();
        for dataset in self.datasets() {
            let opened = datasets::open(&dataset)?;
            let info = opened.info();
            let dataset_rows = experiments::rows(self.artefact, info)?;
            let shards = self.shards(&info.name);
            let has_data = match shards.local() {
                Some(path) => path.is_dir(),
                None => shards.entry(MANIFEST_FILE)?.is_some(),
            };
            if !has_data && !missing.contains_key(&info.name) {
                let reason = match self.small {
                    true => "its synthetic data are made first".to_string(),
                    false => format!("{shards}: no shards; run `ingest run {dataset}` first"),
                };
                missing.insert(info.name.clone(), reason);
            }
            for row in &dataset_rows {
                for seed in 0..self.seeds {
                    let known = runs.iter().position(|run| {
                        run.dataset == row.dataset
                            && run.training == row.training
                            && run.seed == seed
                    });
                    let index = match known {
                        Some(index) => index,
                        None => {
                            let run = self.planned_run(row, seed, has_data, info);
                            let method = row.training.method;
                            let name_run = || format!("{method} on {}", row.dataset);
                            runs.push(run.with_context(name_run)?);
                            runs.len() - 1
                        }
                    };
                    runs[index].add_evaluation(row);
                }
            }
            rows.extend(dataset_rows);
        }
        Ok(Plan {
            rows,
            runs,
            missing,
        })
    }

    /// Plans the run of a row and a seed. As long as there are no data, its steps are computed from
    /// the number of training samples that the dataset should have.
    fn planned_run(&self, row: &Row, seed: u64, has_data: bool, info: &Info) -> Result<PlannedRun> {
        let mut run = PlannedRun {
            dataset: row.dataset.clone(),
            training: row.training.clone(),
            seed,
            folder: None,
            finished: false,
            steps: 0,
            evaluations: Vec::new(),
            seconds: None,
            options: Vec::new(),
            info: info.clone(),
        };
        if has_data {
            let job = self.job(&row.dataset, &row.training, seed)?;
            let name = format!("{}-{}", row.dataset, &job.hash()?[..HASH_DIGITS]);
            let folder = self.out.join("runs").join(name);
            let samples = job.session.shards.split(Split::Train).len();
            run.steps = training_steps(samples, &job.config.settings);
            run.finished = is_finished(&folder, &job.config, run.steps)?;
            run.folder = Some(folder);
        } else {
            let overrides = self.overrides(&row.training)?;
            let settings = Settings::resolve(&row.dataset, info.modalities, &overrides)?;
            let samples = if self.small {
                self.samples
            } else {
                info.expected[0].unwrap_or(0)
            };
            run.steps = training_steps(samples, &settings);
        }
        Ok(run)
    }
}

impl PlannedRun {
    /// Whether it is trained and evaluated.
    pub fn is_done(&self) -> bool {
        self.finished && self.evaluations.is_empty()
    }

    /// Whether the run is one of those behind a row.
    pub(super) fn belongs_to(&self, row: &Row) -> bool {
        self.dataset == row.dataset && self.training == row.training
    }

    /// Returns the options that evaluate this run as a row asks for.
    pub(super) fn eval_options(&self, row: &Row) -> EvalOptions {
        eval_options(&row.testing, self.seed, token_of(&row.training))
    }

    /// Adds the evaluation of a row, unless the run has it already.
    fn add_evaluation(&mut self, row: &Row) {
        let options = self.eval_options(row);
        let name = options.name();
        if self.options.iter().all(|known| known.name() != name) {
            let exists = |f: &PathBuf| f.join(evaluation_file(&name)).is_file();
            if !(self.finished && self.folder.as_ref().is_some_and(exists)) {
                self.evaluations.push(name);
            }
            self.options.push(options);
        }
    }
}

/// Returns the number of steps that training takes.
fn training_steps(samples: usize, settings: &Settings) -> u64 {
    let per_epoch = (samples as u64).div_ceil(settings.batch_size as u64);
    (settings.epochs * per_epoch).min(settings.max_steps.unwrap_or(u64::MAX))
}

/// Returns whether the folder holds a run with this configuration, trained to its end.
fn is_finished(folder: &Path, config: &RunConfig, steps: u64) -> Result<bool> {
    if !folder.join(checkpoint::BEST).is_dir() {
        return Ok(false);
    }
    let found = RunConfig::read(folder)?;
    let same = found.settings == config.settings && found.fingerprint == config.fingerprint;
    let state = fs::read_to_string(checkpoint::latest(folder)?.join("state.json"))
        .with_context(|| format!("{}: its newest checkpoint cannot be read", folder.display()))?;
    let state: checkpoint::State = serde_json::from_str(&state)?;
    Ok(same && state.step >= steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Compute;
    use model::encoder::weights::WeightSource;
    use report::artefact::Artefact;

    /// Options for Table 4 on a user's own dataset of images and text, described in `folder`.
    fn own_data(folder: &Path, settings: &[&str]) -> Options {
        fs::write(folder.join("t.csv"), "id,kind,photo,words\n1,a,1.png,x\n").unwrap();
        let description = "name = \"mine\"\ntable = \"t.csv\"\n[columns]\nid = \"id\"\n\
                           label = \"kind\"\nimage = \"photo\"\ntext = \"words\"\n";
        let path = folder.join("described.toml");
        fs::write(&path, description).unwrap();
        Options {
            artefact: Artefact::Table4,
            datasets: vec![path.display().to_string()],
            seeds: 1,
            small: false,
            samples: 0,
            settings: settings.iter().map(ToString::to_string).collect(),
            weights: WeightSource::Random(0),
            tiny: true,
            out: folder.join("out"),
            shards: folder.join("shards").into(),
            compute: Compute::cpu(1),
        }
    }

    #[test]
    fn own_dataset_is_planned_by_the_path_of_its_description() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = own_data(folder.path(), &[]);
        options.check().unwrap();
        let mut plan = options.plan(BTreeMap::new()).unwrap();
        options.estimate(&mut plan).unwrap();
        assert_eq!(plan.runs.len(), 6);
        assert!(plan.runs.iter().all(|run| run.dataset == "mine"));
        let command = format!("ingest run {}", options.datasets[0]);
        assert!(
            plan.missing["mine"].contains(&command),
            "{:?}",
            plan.missing
        );
        options.small = true;
        let error = options.check().unwrap_err().to_string();
        assert!(error.contains("described.toml"), "{error}");
    }

    #[test]
    fn settings_that_a_row_refuses_name_its_method() {
        let folder = tempfile::tempdir().unwrap();
        let options = own_data(folder.path(), &["method=qmf"]);
        let error = options.plan(BTreeMap::new()).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.starts_with("FiLM on mine: method qmf"), "{error}");
        let unknown = own_data(folder.path(), &["epoch=2"]).check().unwrap_err();
        assert!(unknown.to_string().starts_with("--set"), "{unknown}");
    }
}
