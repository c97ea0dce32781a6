//! Checkpoints: folders that get their final names only when every byte is on disk.
//!
//! ```text
//! RUN/checkpoint-00000120/   audio/ video/ (or image/ text/): PEFT adapters
//!                            weights/KIND/: whole encoders instead, in full fine-tuning
//!                            (weights/INPUT/KIND/ where both encoders are of one kind)
//!                            head.safetensors  optimizer.safetensors  state.json
//!                            method.safetensors: the state of a method that has one
//! RUN/best/                  the same files, of the best checkpoint so far
//! ```

use crate::settings::Settings;
use anyhow::{Context, Error, Result, anyhow, bail};
use candle_core::{Device, Tensor};
use engine::{AdamW, Moments};
use model::encoder::weights::WeightSource;
use model::encoder::weights::Weights;
use model::peft::{self, ModuleNames};
use model::pretrained;
use model::u2a::{Branch, U2a};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use util::atomic;
use util::cli::one_line;

const PREFIX: &str = "checkpoint-";
const HEAD_FILE: &str = "head.safetensors";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const METHOD_FILE: &str = "method.safetensors";
const STATE_FILE: &str = "state.json";
/// The folder of whole encoders in a checkpoint, which `--weights` takes.
const WEIGHTS_FOLDER: &str = "weights";
/// The folder of the best checkpoint.
pub const BEST: &str = "best";

/// The position of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps that are finished.
    pub step: u64,
    /// The current epoch, from 0.
    pub epoch: u64,
    /// Samples of the current epoch that have been used.
    pub consumed: u64,
    /// The best validation score so far, and its step.
    pub best: Option<(f64, u64)>,
    /// The key of the counter-based generator. With `step` it is the whole random state.
    pub seed: u64,
}

/// Writes `RUN/checkpoint-STEP` and removes the oldest checkpoints, except for the newest
/// `settings.keep_checkpoints`. `source` is where the encoders' weights come from.
///
/// # Errors
/// The checkpoint cannot be written, or an old one cannot be removed.
pub fn write(
    run: &Path,
    model: &U2a,
    optimizer: &AdamW,
    state: &State,
    settings: &Settings,
    source: &WeightSource,
) -> Result<PathBuf> {
    let path = run.join(format!("{PREFIX}{:08}", state.step));
    publish(&path, |folder| {
        for branch in model.branches() {
            let config = branch.encoder().config();
            if let Some(weights) = branch.weights() {
                let sub = weights_folder(folder, model, branch);
                let sub = sub.join(source.folder_name(config.kind));
                pretrained::write(&sub, config, weights, source)?;
            }
            if let Some(adapters) = branch.adapters() {
                let sub = folder.join(branch.input().as_str());
                let base = source.base_model(config.kind);
                peft::write(
                    &sub,
                    config,
                    &base,
                    model.lora(),
                    adapters,
                    settings.module_names,
                )?;
            }
        }
        let head: HashMap<String, Tensor> = model
            .parameters()
            .iter()
            .filter(|p| !p.name.contains('/'))
            .map(|p| (p.name.clone(), p.tensor.clone()))
            .collect();
        save(&folder.join(HEAD_FILE), &head)?;
        save(
            &folder.join(OPTIMIZER_FILE),
            &optimizer_tensors(model, optimizer)?,
        )?;
        let method = model.method_state().tensors()?;
        if !method.is_empty() {
            save(&folder.join(METHOD_FILE), &method)?;
        }
        let text = serde_json::to_string_pretty(state)? + "\n";
        fs::write(folder.join(STATE_FILE), text)?;
        Ok(())
    })?;
    prune(run, settings.keep_checkpoints)?;
    Ok(path)
}

/// The folder below which an encoder's weights lie in a checkpoint, by the name of their kind. Two
/// encoders of one kind have one each, named after their inputs.
fn weights_folder(checkpoint: &Path, model: &U2a, branch: &Branch) -> PathBuf {
    let kind = |branch: &Branch| branch.encoder().config().kind;
    let branches = model.branches();
    let same_kind = branches.iter().filter(|other| kind(other) == kind(branch));
    let folder = checkpoint.join(WEIGHTS_FOLDER);
    match same_kind.count() {
        1 => folder,
        _ => folder.join(branch.input().as_str()),
    }
}

/// The optimizer state: for each parameter the two moments (`m.NAME`, `v.NAME`) and the number of
/// its updates (`steps.NAME`).
fn optimizer_tensors(model: &U2a, optimizer: &AdamW) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for (p, moments) in model.parameters().iter().zip(&optimizer.moments) {
        let (name, shape) = (&p.name, p.tensor.dims());
        let m = Tensor::from_slice(&moments.m, shape, &Device::Cpu)?;
        let v = Tensor::from_slice(&moments.v, shape, &Device::Cpu)?;
        let steps = Tensor::from_slice(&[moments.steps as i64], 1, &Device::Cpu)?;
        tensors.insert(format!("m.{name}"), m);
        tensors.insert(format!("v.{name}"), v);
        tensors.insert(format!("steps.{name}"), steps);
    }
    Ok(tensors)
}

/// Removes the oldest checkpoints, except for the newest `keep` and at least one. A checkpoint is
/// renamed before it is removed, so that a kill leaves no incomplete one.
pub fn prune(run: &Path, keep: usize) -> Result<()> {
    let all = list(run)?;
    for (_, old) in &all[..all.len().saturating_sub(keep.max(1))] {
        let problem = || format!("{}: an old checkpoint cannot be removed", old.display());
        let aside = hidden_name(old, "tmp");
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

/// Fills a folder under a temporary name, writes it to the disk and gives it its final name.
fn publish(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = hidden_name(path, "tmp");
    remove(&temporary)?;
    let problem = || format!("{}: cannot be written; is the disk full?", path.display());
    fs::create_dir_all(&temporary).with_context(problem)?;
    fill(&temporary).with_context(problem)?;
    sync_tree(&temporary).with_context(problem)?;
    // A folder cannot be renamed to the name of one with files. The old one gets a hidden name
    // first, under which a reader finds it between the two renames (see `best_or_latest`).
    let aside = hidden_name(path, "old");
    remove(&aside)?;
    if path.exists() {
        fs::rename(path, &aside).with_context(problem)?;
    }
    fs::rename(&temporary, path).with_context(problem)?;
    atomic::sync_folder(parent).with_context(problem)?;
    remove(&aside)
}

/// The hidden name in the same folder that is used while a folder is written (`tmp`) or replaced
/// (`old`).
fn hidden_name(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// Restores a folder that `publish` was replacing when the process was killed, and removes
/// incomplete ones. To be called before a run is continued, by the process that writes to it.
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

/// Lists the checkpoints of a run with their steps, the oldest first.
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

/// The checkpoint to evaluate: `best` if there is one, else the newest. Nothing is changed, because
/// the run may still be training; `best` may have its hidden name at the moment (see `publish`).
pub fn best_or_latest(run: &Path) -> Result<PathBuf> {
    let best = run.join(BEST);
    let aside = hidden_name(&best, "old");
    match [best, aside].into_iter().find(|folder| folder.is_dir()) {
        Some(folder) => Ok(folder),
        None => latest(run),
    }
}

/// The checkpoint of this name in a run folder; without a name the one of [`best_or_latest`].
///
/// # Errors
/// There is no such checkpoint.
pub fn named_or_default(run: &Path, name: Option<&str>) -> Result<PathBuf> {
    let Some(name) = name else {
        return best_or_latest(run);
    };
    let path = run.join(name);
    if name.contains(std::path::MAIN_SEPARATOR) || !path.join(HEAD_FILE).is_file() {
        let mut names: Vec<String> = list(run)?
            .iter()
            .filter_map(|(_, path)| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.extend(run.join(BEST).is_dir().then(|| BEST.to_string()));
        bail!(
            "--checkpoint {name}: {} holds no such checkpoint; it has {}",
            run.display(),
            names.join(", ")
        );
    }
    Ok(path)
}

/// Returns a function that adds to the error of a checkpoint what to use instead. `resume` says
/// whether training was to continue from the checkpoint.
pub fn with_remedy(run: &Path, damaged: &Path, resume: bool) -> impl Fn(Error) -> Error {
    move |error| anyhow!("{}; {}", one_line(&error), remedy(run, damaged, resume))
}

/// Returns the advice of [`with_remedy`].
fn remedy(run: &Path, damaged: &Path, resume: bool) -> String {
    let others = list(run).unwrap_or_default();
    let earlier = others.iter().rev().map(|(_, path)| path);
    let earlier = earlier
        .filter(|path| *path != damaged && path.join(HEAD_FILE).is_file())
        .find_map(|path| path.file_name());
    match (earlier.map(|name| name.to_string_lossy()), resume) {
        (Some(earlier), true) => format!(
            "remove {} and --resume continues from {earlier}",
            damaged.display()
        ),
        (Some(earlier), false) => format!("--checkpoint {earlier} takes another one"),
        (None, _) => format!(
            "{} has no other checkpoint; train again into another folder",
            run.display()
        ),
    }
}

/// The name of a checkpoint if it is not the one of [`best_or_latest`].
pub fn other_than_default(run: &Path, checkpoint: &Path) -> Option<String> {
    if best_or_latest(run).is_ok_and(|default| default == checkpoint) {
        return None;
    }
    let name = checkpoint.file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// Loads all learnable parameters into the model: adapters, the encoders' weights if they learn,
/// mask tokens or prompts, fusion layers and heads; and the method's state if predictions depend on
/// it.
///
/// # Errors
/// A file cannot be read, or does not fit the model.
pub fn read_model(checkpoint: &Path, model: &mut U2a) -> Result<()> {
    let path = checkpoint.join(HEAD_FILE);
    let mut named = load(&path)?;
    for branch in model.branches() {
        let (input, config) = (branch.input(), branch.encoder().config());
        let mut add = |name: &str, tensor: &Tensor| {
            named.insert(format!("{input}/{name}"), tensor.clone());
        };
        if branch.weights().is_some() {
            let written = WeightSource::Folder(weights_folder(checkpoint, model, branch));
            let folder = written.resolved(&[config.kind])?.folder(config.kind)?;
            let folder = folder.context("random weights are in no folder")?;
            let weights = Weights::load(&folder, config)?;
            weights.iter().for_each(|(name, tensor)| add(name, tensor));
        }
        if branch.adapters().is_some() {
            let folder = checkpoint.join(input.as_str());
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
        .map(|p| tensor(&named, &p.name, p.tensor.dims(), &path))
        .collect::<Result<Vec<_>>>()?;
    model.set_parameters(values)?;
    match model.method().predicts_by_state() {
        true => read_method_state(checkpoint, model),
        false => Ok(()),
    }
}

/// Loads the optimizer state, the method's state and the position of the run. The model's method
/// has been put to the start of the run ([`U2a::start_method`]).
///
/// # Errors
/// A file cannot be read, or does not fit the model.
pub fn read_state(checkpoint: &Path, model: &mut U2a, optimizer: &mut AdamW) -> Result<State> {
    read_method_state(checkpoint, model)?;
    let path = checkpoint.join(OPTIMIZER_FILE);
    let tensors = load(&path)?;
    optimizer.moments = model
        .parameters()
        .iter()
        .map(|p| {
            let flat = |kind: &str| -> Result<Vec<f32>> {
                Ok(tensor(
                    &tensors,
                    &format!("{kind}.{}", p.name),
                    p.tensor.dims(),
                    &path,
                )?
                .flatten_all()?
                .to_vec1()?)
            };
            let steps: Vec<i64> =
                tensor(&tensors, &format!("steps.{}", p.name), &[1], &path)?.to_vec1()?;
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
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{}: is not a checkpoint's state; it is damaged",
            path.display()
        )
    })
}

fn read_method_state(checkpoint: &Path, model: &mut U2a) -> Result<()> {
    if model.method_state().tensors()?.is_empty() {
        return Ok(());
    }
    let path = checkpoint.join(METHOD_FILE);
    let restored = model.method_state_mut().restore(&load(&path)?);
    restored.with_context(|| path.display().to_string())
}

fn load(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .with_context(|| format!("{}: cannot be read; it is damaged", path.display()))
}

/// The tensor of this name and shape in a file.
fn tensor(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_checkpoints_than_the_default_have_a_name() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let add = |name: &str| {
            fs::create_dir(run.join(name)).unwrap();
            fs::write(run.join(name).join(HEAD_FILE), "").unwrap();
        };
        let name = |asked: Option<&str>| {
            let checkpoint = named_or_default(run, asked).map_err(|e| e.to_string())?;
            Ok::<_, String>(other_than_default(run, &checkpoint))
        };
        let (old, new) = ("checkpoint-00000003", "checkpoint-00000006");
        add(old);
        add(new);
        assert_eq!(name(None), Ok(None));
        assert_eq!(name(Some(new)), Ok(None));
        assert_eq!(name(Some(old)), Ok(Some(old.to_string())));
        add(BEST);
        assert_eq!(name(None), Ok(None));
        assert_eq!(name(Some(BEST)), Ok(None));
        assert_eq!(name(Some(new)), Ok(Some(new.to_string())));
        for wrong in ["checkpoint-6", "best/..", ""] {
            let error = name(Some(wrong)).unwrap_err();
            assert!(error.contains(old) && error.contains(BEST), "{error}");
        }
        // What is offered where one of them is damaged.
        let instead = |damaged: &str, resume| remedy(run, &run.join(damaged), resume);
        assert!(instead(new, true).ends_with(&format!("{new} and --resume continues from {old}")));
        assert!(instead(new, false).contains(&format!("--checkpoint {old} ")));
        assert!(instead(BEST, false).contains(&format!("--checkpoint {new} ")));
        fs::remove_dir_all(run.join(old)).unwrap();
        assert!(instead(new, true).contains("no other checkpoint"));
    }
}
