//! A run as a whole: from data and settings to a configuration, from a configuration to a trained
//! folder, begun or continued.

use crate::session::{self, Session};
use crate::settings::{CONFIG_FILE, RunConfig, RunDevice, Settings};
use crate::training::checkpoint::{self, State};
use crate::training::lock::Lock;
use crate::training::trainer::{End, Trainer};
use crate::training::workers::Workers;
use anyhow::{Context, Result, bail};
use engine::Compute;
use features::Shards;
use model::encoder::weights::WeightSource;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A run that can be trained.
pub struct Job {
    /// Everything that makes it.
    pub config: RunConfig,
    /// Its data.
    pub session: Session,
    /// What it runs on.
    pub compute: Compute,
    /// A line for stderr that says what the run trains on. It is printed with the estimated time of the run, once
    /// that is known.
    pub announcement: Option<String>,
}

/// Claims a run folder to go on in it, and mends what a kill has left there.
///
/// # Errors
/// Somebody else trains in it; it cannot be written.
pub fn claim(run: &Path) -> Result<Lock> {
    let lock = Lock::take(run)?;
    checkpoint::recover(run)?;
    Ok(lock)
}

impl Job {
    /// A run of dataset `name` on the shards in `folder`; `tiny` is the size of random encoders.
    pub fn new(
        name: &str,
        folder: &Path,
        overrides: &[String],
        weights: WeightSource,
        tiny: bool,
        compute: &Compute,
    ) -> Result<Job> {
        let shards = Shards::open(folder)?;
        let spec = shards.spec().clone();
        if spec.dataset != name {
            bail!(
                "{}: holds shards of {}, not of {name}; give the folder of {name} with --shards",
                folder.display(),
                spec.dataset
            );
        }
        let settings = Settings::resolve(name, spec.modalities, overrides)?;
        settings.check_for(spec.modalities, spec.multi_label)?;
        settings.check_device(compute)?;
        let encoders = session::encoder_configs(spec.modalities, &weights, tiny)?;
        let mut session = Session::open(shards, &settings, &encoders, &weights, compute.threads)?;
        session.byte_budget = session::byte_budget(compute);
        let config = RunConfig {
            version: env!("CARGO_PKG_VERSION").to_string(),
            dataset: name.to_string(),
            shards: std::path::absolute(folder)?,
            fingerprint: session.shards.fingerprint().to_string(),
            modalities: spec.modalities,
            classes: spec.classes,
            multi_label: spec.multi_label,
            weights: match weights {
                WeightSource::Folder(folder) => WeightSource::Folder(std::path::absolute(folder)?),
                other => other,
            },
            train_mask_sha256: session.train_mask_sha256.clone(),
            device: Some(RunDevice {
                asked: compute.asked,
                used: compute.used,
            }),
            settings,
            encoders,
        };
        Ok(Job {
            config,
            session,
            compute: compute.clone(),
            announcement: None,
        })
    }

    /// The run in a folder with its data, which must be what it was trained on.
    pub fn reopen(config: RunConfig, moved: Option<&Path>, compute: &Compute) -> Result<Job> {
        let folder = moved.unwrap_or(&config.shards);
        let shards = Shards::open(folder)?;
        if shards.fingerprint() != config.fingerprint {
            bail!(
                "{}: holds other samples than the run was trained on; give the same shards with --shards",
                folder.display()
            );
        }
        let mut session = Session::of(shards, &config, compute.threads)?;
        session.byte_budget = session::byte_budget(compute);
        Ok(Job {
            config,
            session,
            compute: compute.clone(),
            announcement: None,
        })
    }

    /// SHA-256 over settings, data and encoders, in hex: two runs of one hash are the same run.
    /// Neither the folder of the shards nor the device enters; what the shards hold does.
    pub fn hash(&self) -> Result<String> {
        let config = RunConfig {
            shards: PathBuf::new(),
            device: None,
            ..self.config.clone()
        };
        Ok(util::hash::sha256(config.to_toml()?))
    }

    /// Makes a new run folder and trains.
    pub fn start(&self, out: &Path, stop: &AtomicBool, workers: Workers) -> Result<(End, State)> {
        let model = session::build_model(&self.config, &self.compute)?;
        let mut _lock = None;
        if workers.writes() {
            std::fs::create_dir_all(out)
                .with_context(|| format!("{}: cannot be made", out.display()))?;
            _lock = Some(Lock::take(out)?);
            let path = out.join(CONFIG_FILE);
            // Two may have been started at once, and the other one is done already.
            if path.exists() {
                bail!(
                    "{}: is a run already; continue it with --resume {0}, or give another --out",
                    out.display()
                );
            }
            util::atomic::write(&path, self.config.to_toml()?)
                .with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        let config = self.config.clone();
        let mut trainer = Trainer::start(out, config, &self.session, model, workers)?;
        let end = trainer.train(stop, self.announcement.as_deref())?;
        Ok((end, trainer.state().clone()))
    }

    /// Goes on from the newest checkpoint of the run folder, which the caller has claimed ([`claim`]).
    pub fn resume(&self, run: &Path, stop: &AtomicBool, workers: Workers) -> Result<(End, State)> {
        self.config.settings.check_device(&self.compute)?;
        let model = session::build_model(&self.config, &self.compute)?;
        let config = self.config.clone();
        // None: killed before the initial checkpoint was whole.
        let mut trainer = match checkpoint::list(run)?.is_empty() {
            true => Trainer::start(run, config, &self.session, model, workers)?,
            false => Trainer::resume(run, config, &self.session, model, workers)?,
        };
        let end = trainer.train(stop, self.announcement.as_deref())?;
        Ok((end, trainer.state().clone()))
    }
}
