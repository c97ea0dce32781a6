//! Checkpoints: whole folders that appear under their final name only when every byte is on disk.
//!
//! ```text
//! RUN/checkpoint-00000120/   audio/ video/ (or image/ text/): PEFT adapters
//!                            weights/KIND/: whole encoders, in full fine-tuning instead of adapters
//!                            head.safetensors  optimizer.safetensors  state.json
//! RUN/best/                  the same files, of the best checkpoint so far
//! ```

use crate::settings::Settings;
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{Device, Tensor};
use engine::{AdamW, Moments};
use model::encoder::weights::WeightSource;
use model::encoder::weights::Weights;
use model::peft::{self, ModuleNames};
use model::pretrained;
use model::u2a::U2a;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use util::atomic;

const PREFIX: &str = "checkpoint-";
const HEAD_FILE: &str = "head.safetensors";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";
/// Whole encoders: a folder that `--weights` takes.
pub const WEIGHTS: &str = "weights";
/// Name of the folder that holds the best checkpoint.
pub const BEST: &str = "best";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimiser steps done.
    pub step: u64,
    /// The epoch in progress, from 0.
    pub epoch: u64,
    /// Samples of that epoch consumed.
    pub consumed: u64,
    /// Best validation score so far, and its step.
    pub best: Option<(f64, u64)>,
    /// The key of the counter-based generator: with `step` it is the whole random state.
    pub seed: u64,
}

/// Writes `RUN/checkpoint-STEP` and removes the oldest beyond `settings.keep_checkpoints`.
pub fn write(
    run: &Path,
    model: &U2a,
    optimiser: &AdamW,
    state: &State,
    settings: &Settings,
    source: &WeightSource,
) -> Result<PathBuf> {
    let path = run.join(format!("{PREFIX}{:08}", state.step));
    publish(&path, |folder| {
        for branch in model.branches() {
            let config = branch.encoder().config();
            if let Some(weights) = branch.weights() {
                let sub = folder.join(WEIGHTS).join(config.kind.folder());
                pretrained::write(&sub, config, weights, source)?;
            }
            if let Some(adapters) = branch.adapters() {
                let sub = folder.join(branch.modality().as_str());
                peft::write(&sub, config, model.lora(), adapters, settings.module_names)?;
            }
        }
        let head: HashMap<String, Tensor> = model
            .parameters()
            .iter()
            .filter(|p| !p.name.contains('/'))
            .map(|p| (p.name.clone(), p.tensor.clone()))
            .collect();
        save(&folder.join(HEAD_FILE), &head)?;
        let mut tensors = HashMap::new();
        for (p, moments) in model.parameters().iter().zip(&optimiser.moments) {
            let shape = p.tensor.dims();
            tensors.insert(
                format!("m.{}", p.name),
                Tensor::from_slice(&moments.m, shape, &Device::Cpu)?,
            );
            tensors.insert(
                format!("v.{}", p.name),
                Tensor::from_slice(&moments.v, shape, &Device::Cpu)?,
            );
            tensors.insert(
                format!("steps.{}", p.name),
                Tensor::from_slice(&[moments.steps as i64], 1, &Device::Cpu)?,
            );
        }
        save(&folder.join(OPTIMIZER_FILE), &tensors)?;
        let text = serde_json::to_string_pretty(state)? + "\n";
        fs::write(folder.join(STATE_FILE), text)?;
        Ok(())
    })?;
    prune(run, settings.keep_checkpoints)?;
    Ok(path)
}

/// Removes the oldest checkpoints beyond `keep`, at least one stays. What goes loses its name
/// first: a kill leaves no half of one behind.
pub fn prune(run: &Path, keep: usize) -> Result<()> {
    let all = list(run)?;
    for (_, old) in &all[..all.len().saturating_sub(keep.max(1))] {
        let problem = || format!("{}: an old checkpoint cannot be removed", old.display());
        let aside = beside(old, "tmp");
        remove(&aside).with_context(problem)?;
        fs::rename(old, &aside).with_context(problem)?;
        remove(&aside).with_context(problem)?;
    }
    Ok(())
}

/// Makes `RUN/best` a copy of a checkpoint.
pub fn mark_best(run: &Path, checkpoint: &Path) -> Result<()> {
    publish(&run.join(BEST), |folder| copy_tree(checkpoint, folder))
}

/// Fills a folder under a temporary name, brings it to disk and renames it into place.
fn publish(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = beside(path, "tmp");
    remove(&temporary)?;
    let problem = || format!("{}: cannot be written; is the disk full?", path.display());
    fs::create_dir_all(&temporary).with_context(problem)?;
    fill(&temporary).with_context(problem)?;
    sync_tree(&temporary).with_context(problem)?;
    // A folder cannot be renamed over a full one: the old one steps aside first, and a reader that
    // comes between the two renames finds it there (see `recover`).
    let aside = beside(path, "old");
    remove(&aside)?;
    if path.exists() {
        fs::rename(path, &aside).with_context(problem)?;
    }
    fs::rename(&temporary, path).with_context(problem)?;
    atomic::sync_folder(parent).with_context(problem)?;
    remove(&aside)
}

/// The hidden name beside `path` that a folder has on its way in (`tmp`) or out (`old`).
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// Puts back a folder that [`publish`] had set aside when the process was killed, and removes
/// half-written ones. For the process that is going to write to the run, before it reads.
pub fn recover(run: &Path) -> Result<()> {
    for entry in fs::read_dir(run)
        .with_context(|| format!("{}: cannot be listed; is it a run folder?", run.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(final_name) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".old")) {
            let target = run.join(final_name);
            if target.exists() {
                remove(&entry.path())?;
            } else {
                fs::rename(entry.path(), target)?;
            }
        }
    }
    atomic::remove_temporaries(run, |_| true)
        .with_context(|| format!("{}: cannot be written", run.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    Ok(atomic::sync_folder(folder)?)
}

fn save(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<()> {
    candle_core::safetensors::save(tensors, path)
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// All checkpoints of a run by step, oldest first.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(run)
        .with_context(|| format!("{}: cannot be listed; is it a run folder?", run.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix(PREFIX).and_then(|s| s.parse().ok()) {
            all.push((step, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// The newest checkpoint of a run.
pub fn latest(run: &Path) -> Result<PathBuf> {
    let all = list(run)?;
    all.last().map(|(_, p)| p.clone()).ok_or_else(|| {
        anyhow!(
            "{}: holds no checkpoint; start the run again without --resume",
            run.display()
        )
    })
}

/// The checkpoint to evaluate: `best` where there is one, else the newest. Changes nothing: the
/// run may still be training, and `best` just be set aside (see [`publish`]).
pub fn best_or_latest(run: &Path) -> Result<PathBuf> {
    let best = run.join(BEST);
    let aside = beside(&best, "old");
    match [best, aside].into_iter().find(|folder| folder.is_dir()) {
        Some(folder) => Ok(folder),
        None => latest(run),
    }
}

/// Loads everything that learns into the model: adapters or encoder weights, mask tokens, fusion layers
/// and head.
pub fn read_model(checkpoint: &Path, model: &mut U2a) -> Result<()> {
    let path = checkpoint.join(HEAD_FILE);
    let mut named = load(&path)?;
    for branch in model.branches() {
        let (modality, config) = (branch.modality(), branch.encoder().config());
        let mut add = |name: &str, tensor: &Tensor| {
            named.insert(format!("{modality}/{name}"), tensor.clone());
        };
        if branch.weights().is_some() {
            let folder = checkpoint.join(WEIGHTS).join(config.kind.folder());
            let weights = Weights::load(&folder, config)?;
            weights.iter().for_each(|(name, tensor)| add(name, tensor));
        }
        if branch.adapters().is_some() {
            let folder = checkpoint.join(modality.as_str());
            let (lora, adapters) = peft::read(&folder, config)?;
            let expected = model.lora();
            if (lora.rank, lora.alpha) != (expected.rank, expected.alpha) {
                bail!(
                    "{}: adapters of rank {} and alpha {}, the run has {} and {}",
                    folder.display(),
                    lora.rank,
                    lora.alpha,
                    expected.rank,
                    expected.alpha
                );
            }
            let names = ModuleNames::default();
            let tensors = peft::named_tensors(config, &adapters.blocks, names).into_iter();
            tensors.for_each(|(name, tensor)| add(&name, tensor));
        }
    }
    let values = model
        .parameters()
        .iter()
        .map(|p| take(&named, &p.name, p.tensor.dims(), &path))
        .collect::<Result<Vec<_>>>()?;
    model.set_parameters(values)
}

/// Loads the optimiser's state and the run's position.
pub fn read_state(checkpoint: &Path, model: &U2a, optimiser: &mut AdamW) -> Result<State> {
    let path = checkpoint.join(OPTIMIZER_FILE);
    let tensors = load(&path)?;
    optimiser.moments = model
        .parameters()
        .iter()
        .map(|p| {
            let flat = |kind: &str| -> Result<Vec<f32>> {
                Ok(take(
                    &tensors,
                    &format!("{kind}.{}", p.name),
                    p.tensor.dims(),
                    &path,
                )?
                .flatten_all()?
                .to_vec1()?)
            };
            let steps: Vec<i64> =
                take(&tensors, &format!("steps.{}", p.name), &[1], &path)?.to_vec1()?;
            Ok(Moments {
                m: flat("m")?,
                v: flat("v")?,
                steps: steps[0] as u64,
            })
        })
        .collect::<Result<_>>()?;
    let path = checkpoint.join(STATE_FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: is not a checkpoint's state; remove this checkpoint and resume from an earlier one", path.display()))
}

fn load(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu).with_context(|| {
        format!(
            "{}: cannot be read; remove this checkpoint and resume from an earlier one",
            path.display()
        )
    })
}

fn take(
    tensors: &HashMap<String, Tensor>,
    name: &str,
    shape: &[usize],
    path: &Path,
) -> Result<Tensor> {
    let t = tensors
        .get(name)
        .ok_or_else(|| anyhow!("{}: tensor {name} is missing", path.display()))?;
    if t.dims() != shape {
        bail!(
            "{}: tensor {name} has shape {:?}, the run has {shape:?}",
            path.display(),
            t.dims()
        );
    }
    Ok(t.clone())
}
