//! A run as a whole: from a dataset and settings to a configuration, and from a configuration to a
//! trained run folder.

use crate::session::{self, Session};
use crate::settings::{RunConfig, RunDevice, Settings, SettingsOverrides};
use crate::training::checkpoint::{self, State};
use crate::training::data_check;
use crate::training::lock::RunLock;
use crate::training::ranks::Ranks;
use crate::training::trainer::{Outcome, Trainer};
use anyhow::{Context, Result, bail};
use engine::Compute;
use features::{Folder, Shards};
use model::encoder::weights::WeightSource;
use report::CONFIG_FILE;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A run that can be trained.
pub struct Job {
    /// Everything that determines the run.
    pub config: RunConfig,
    /// The data of the run.
    pub session: Session,
    /// The device and the threads.
    pub compute: Compute,
    /// A line about the device, which is printed on stderr with the estimated time of the run.
    pub announcement: Option<String>,
}

/// Locks a run folder that is to be continued, and recovers it if the previous process was killed.
///
/// # Errors
/// Another process trains in the folder, or it cannot be written.
pub fn claim(run: &Path) -> Result<RunLock> {
    let lock = RunLock::acquire(run)?;
    checkpoint::recover(run)?;
    Ok(lock)
}

impl Job {
    /// A new run on the shards of dataset `name` in `folder`. With `tiny`, random encoders are
    /// small.
    ///
    /// # Errors
    /// The shards are those of another dataset, or the settings do not fit the data or the device.
    pub fn new(
        name: &str,
        folder: &Folder,
        overrides: &SettingsOverrides,
        weights: WeightSource,
        tiny: bool,
        compute: &Compute,
    ) -> Result<Job> {
        let shards = Shards::open(folder)?;
        let spec = shards.spec().clone();
        if spec.dataset != name {
            bail!(
                "{folder}: holds shards of {}, not of {name}; give the folder of {name} with --shards",
                spec.dataset
            );
        }
        let mut settings = Settings::resolve(name, spec.modalities, overrides)?;
        settings.check_data(spec.modalities, spec.multi_label)?;
        settings.check_device(compute)?;
        let weights = session::resolve_weights(spec.modalities, settings.modality, &weights)?;
        let encoders =
            session::encoder_configs(spec.modalities, settings.modality, &weights, tiny)?;
        let session = Session::new(shards, &settings, &encoders, &weights, compute)?;
        data_check::check_trainable(
            &spec.classes,
            spec.multi_label,
            spec.modalities,
            settings.modality,
            session.train_present(),
        )
        .with_context(|| folder.to_string())?;
        // The run folder says what the default came to.
        let modality_dropout = settings.uses_modality_dropout(session.train_present());
        settings.modality_dropout = Some(modality_dropout);
        let config = RunConfig {
            version: env!("CARGO_PKG_VERSION").to_string(),
            dataset: name.to_string(),
            shards: folder.absolute()?,
            fingerprint: session.shards.fingerprint().to_string(),
            modalities: spec.modalities,
            classes: spec.classes,
            multi_label: spec.multi_label,
            weights,
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

    /// An existing run, with shards from another folder if `shards` is given.
    ///
    /// # Errors
    /// The shards hold other samples than those that the run was trained on.
    pub fn reopen(config: RunConfig, shards: Option<&Folder>, compute: &Compute) -> Result<Job> {
        let folder = shards.unwrap_or(&config.shards);
        let shards = Shards::open(folder)?;
        if shards.fingerprint() != config.fingerprint {
            bail!(
                "{folder}: holds other samples than the run was trained on; give the same shards with --shards"
            );
        }
        let session = Session::from_config(shards, &config, compute)?;
        Ok(Job {
            config,
            session,
            compute: compute.clone(),
            announcement: None,
        })
    }

    /// The SHA-256 of settings, samples and encoders, in hexadecimal: two runs with the same hash
    /// are the same run. The folder of the shards and the device do not count.
    pub fn hash(&self) -> Result<String> {
        let config = RunConfig {
            shards: PathBuf::new().into(),
            device: None,
            ..self.config.clone()
        };
        Ok(util::hash::sha256(config.to_toml()?))
    }

    /// Makes a new run folder and trains, to the end or until `stop` is set. All ranks have to call
    /// it.
    ///
    /// # Errors
    /// The folder is a run already or cannot be written, or training fails.
    pub fn start(&self, out: &Path, stop: &AtomicBool, ranks: &Ranks) -> Result<(Outcome, State)> {
        let model = ranks.agree(session::build_model(&self.config, &self.compute))?;
        ranks.check_same(&self.hash()?)?;
        let lock = ranks.is_first().then(|| self.make_folder(out));
        let _lock = ranks.agree(lock.transpose())?;
        let trainer = Trainer::start(out, self.config.clone(), &self.session, model, ranks);
        self.train(ranks.agree(trainer)?, stop)
    }

    /// Makes a new run folder with its configuration.
    fn make_folder(&self, out: &Path) -> Result<RunLock> {
        std::fs::create_dir_all(out)
            .with_context(|| format!("{}: cannot be made", out.display()))?;
        let lock = RunLock::acquire(out)?;
        let path = out.join(CONFIG_FILE);
        // Another process may have started the same run, and finished it before the lock was free.
        if path.exists() {
            bail!(
                "{}: is a run already; continue it with --resume {0}, or give another --out",
                out.display()
            );
        }
        util::atomic::write(&path, self.config.to_toml()?)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        Ok(lock)
    }

    /// Continues from the newest checkpoint of a run folder that the caller has locked ([`claim`]).
    /// All ranks have to call it.
    ///
    /// # Errors
    /// The checkpoint cannot be read, or training fails.
    pub fn resume(&self, run: &Path, stop: &AtomicBool, ranks: &Ranks) -> Result<(Outcome, State)> {
        let prepared = self.config.settings.check_device(&self.compute);
        let prepared = prepared.and_then(|()| session::build_model(&self.config, &self.compute));
        let prepared = prepared.and_then(|model| Ok((model, checkpoint::list(run)?)));
        // The first rank may write a checkpoint only when all have looked for one.
        let (model, checkpoints) = ranks.agree(prepared)?;
        let config = self.config.clone();
        // A run that was killed before its initial checkpoint was complete has none.
        let trainer = match checkpoints.is_empty() {
            true => Trainer::start(run, config, &self.session, model, ranks),
            false => Trainer::resume(run, config, &self.session, model, ranks),
        };
        let trainer = ranks.agree(trainer)?;
        ranks.check_same(&format!("{} {}", self.hash()?, trainer.state().step))?;
        self.train(trainer, stop)
    }

    fn train(&self, mut trainer: Trainer, stop: &AtomicBool) -> Result<(Outcome, State)> {
        let outcome = trainer.train(stop, self.announcement.as_deref())?;
        Ok((outcome, trainer.state().clone()))
    }
}
