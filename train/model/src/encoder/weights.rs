//! The weights of an encoder: from a Hugging Face folder under any of the names that the hub has
//! used, or random.

use super::config::{EncoderConfig, Kind, TensorRole, TensorSpec};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::pickle::PthTensors;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use engine::normals;
use fetch::weights::WEIGHTS_FILES;
pub use fetch::weights::{CONFIG_FILE, VOCAB_FILE};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The source of the encoders' weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightSource {
    /// A folder with one checkpoint folder per encoder, under the names of the paper's checkpoints.
    Folder(PathBuf),
    /// The folder of each encoder's checkpoint, where one has another name.
    Checkpoints(BTreeMap<Kind, PathBuf>),
    /// Random weights from this seed.
    Random(u64),
    /// The Hugging Face hub, or its cache on this machine.
    Hub,
}

impl WeightSource {
    /// Looks for the checkpoints of encoders in a folder that the user has given, and returns a
    /// source with absolute paths that stays the same when more checkpoints come into that folder.
    /// Other sources stay as they are.
    ///
    /// # Errors
    /// There are several checkpoints of a kind.
    pub fn resolved(&self, kinds: &[Kind]) -> Result<WeightSource> {
        let WeightSource::Folder(folder) = self else {
            return Ok(self.clone());
        };
        let folder = std::path::absolute(folder)?;
        let found = kinds
            .iter()
            .map(|kind| Ok((*kind, find_checkpoint(&folder, *kind)?)));
        let found: BTreeMap<Kind, PathBuf> = found.collect::<Result<_>>()?;
        let is_default = |(kind, path): (&Kind, &PathBuf)| path.ends_with(kind.folder());
        Ok(match found.iter().all(is_default) {
            true => WeightSource::Folder(folder),
            false => WeightSource::Checkpoints(found),
        })
    }

    /// Returns the folder of one encoder's checkpoint, after fetching it from the hub if need be;
    /// `None` for random weights.
    pub fn folder(&self, kind: Kind) -> Result<Option<PathBuf>> {
        match self {
            WeightSource::Folder(folder) => Ok(Some(folder.join(kind.folder()))),
            WeightSource::Checkpoints(folders) => match folders.get(&kind) {
                Some(folder) => Ok(Some(folder.clone())),
                None => bail!("the run has no folder with weights of the kind {kind:?}"),
            },
            WeightSource::Random(_) => Ok(None),
            WeightSource::Hub => {
                let fetched = kind.checkpoint().from_hub().with_context(|| {
                    format!(
                        "{}: its weights are not here; fetch them, give --weights DIR with {}/ in it, or \
                         --random-weights SEED",
                        kind.hub_name(),
                        kind.folder()
                    )
                });
                fetched.map(Some)
            }
        }
    }

    /// Returns the folder of one encoder's checkpoint if it has another name than the paper's.
    fn other_folder(&self, kind: Kind) -> Option<&Path> {
        let WeightSource::Checkpoints(folders) = self else {
            return None;
        };
        let folder = folders.get(&kind)?;
        (!folder.ends_with(kind.folder())).then_some(folder)
    }

    /// Returns what PEFT calls the base model of an adapter: the name of the paper's checkpoint on
    /// the hub, or the folder of another one.
    pub fn base_model(&self, kind: Kind) -> String {
        let other = self.other_folder(kind);
        other.map_or(kind.hub_name().into(), |folder| {
            folder.display().to_string()
        })
    }

    /// Returns the name of the folder in which a trained encoder is written: that of the checkpoint
    /// that it began with.
    pub fn folder_name(&self, kind: Kind) -> String {
        let name = self.other_folder(kind).and_then(Path::file_name);
        name.map_or(kind.folder().into(), |name| name.to_string_lossy().into())
    }
}

/// Returns the checkpoint of an encoder in a folder of checkpoints: the only one whose
/// `config.json` is of its model type, whatever its name. Where there is none, it is the one with
/// the name of the paper's checkpoint, whose files the caller then misses.
fn find_checkpoint(folder: &Path, kind: Kind) -> Result<PathBuf> {
    let default = folder.join(kind.folder());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_checkpoint =
        |path: &PathBuf| *path == default || kind.is_of_config(&path.join(CONFIG_FILE));
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_checkpoint).collect();
    found.sort();
    match &found[..] {
        [] => Ok(default),
        [only] => Ok(only.clone()),
        several => {
            let names = several.iter().filter_map(|path| path.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            bail!(
                "{}: holds several {} encoders ({}); leave one of them there, or give --weights a folder with links to those that you want",
                folder.display(),
                kind.name(),
                names.join(", ")
            )
        }
    }
}

/// The tensors of one encoder by canonical name, in f32, with the shapes of
/// [`EncoderConfig::specs`].
#[derive(Clone)]
pub struct Weights(BTreeMap<String, Tensor>);

/// The list of a checkpoint's files where its tensors are spread over several.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// The beginning of the small file that Git LFS leaves in place of a large one.
const LFS_PREFIX: &[u8] = b"version https://git-lfs";

impl Weights {
    /// Loads the weights of an encoder from a folder with the files of the hub.
    ///
    /// Tensors of other parts (CLIP's text tower, heads) are ignored. A missing tensor and one of a
    /// wrong shape are errors that name it and the file.
    pub fn load(folder: &Path, config: &EncoderConfig) -> Result<Weights> {
        let path = find(folder)?;
        let mut file = open(&path, config.kind)?;
        let mut weights = BTreeMap::new();
        for TensorSpec { name, shape, .. } in config.specs() {
            let Some((stored, dims)) = file.names.remove(&name) else {
                bail!(
                    "{}: tensor {name} is missing; this is not a whole {:?} checkpoint of {} layers, such as {}",
                    path.display(),
                    config.kind,
                    config.layers,
                    config.kind.hub_name()
                );
            };
            if dims != shape {
                bail!(
                    "{}: tensor {name} has shape {dims:?}, config.json asks for {shape:?}; \
                     take both files from one checkpoint",
                    path.display(),
                );
            }
            let tensor = file.tensors.get(shape, &stored).with_context(|| {
                format!(
                    "{}: tensor {name} cannot be read; fetch the file again",
                    path.display()
                )
            })?;
            weights.insert(name, tensor.contiguous()?);
        }
        // More layers than the config says would be dropped silently.
        if let Some(extra) = file.names.keys().find(|k| is_block_tensor(k)) {
            bail!(
                "{}: has tensor {extra}, beyond the {} layers of config.json; \
                 take both files from one checkpoint",
                path.display(),
                config.layers
            );
        }
        Ok(Weights(weights))
    }

    /// Draws random weights that pass on their input: matrices N(0, 1 / fan_in), so that frozen
    /// random layers neither shrink nor blow up their input; embeddings N(0, 1); norms at identity.
    pub fn random(seed: u64, config: &EncoderConfig) -> Result<Weights> {
        let mut weights = BTreeMap::new();
        for (i, TensorSpec { name, shape, role }) in config.specs().into_iter().enumerate() {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = match role {
                TensorRole::Scale => vec![1.0; n],
                TensorRole::Shift => vec![0.0; n],
                TensorRole::Matrix | TensorRole::Embedding => {
                    let fan_in: usize = shape[1..].iter().product();
                    let std = if role == TensorRole::Matrix {
                        1.0 / (fan_in as f64).sqrt()
                    } else {
                        1.0
                    };
                    let name = [RANDOM_WEIGHTS, config.kind as u32, i as u32];
                    normals(seed, &name, std, n)
                }
            };
            weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        Ok(Weights(weights))
    }

    /// Copies the weights to a device.
    pub fn to_device(&self, device: &Device) -> Result<Weights> {
        let copies = self.0.iter();
        let copies = copies.map(|(name, t)| Ok((name.clone(), t.to_device(device)?)));
        Ok(Weights(copies.collect::<Result<_>>()?))
    }

    /// Lists all tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Lists all tensors in the order of [`Weights::iter`], to be replaced.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.0.values_mut()
    }

    /// Takes a tensor out by its canonical name.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        self.0
            .remove(name)
            .ok_or_else(|| anyhow!("tensor {name} is not among the encoder's weights"))
    }
}

/// An open weights file. A tensor is read when it is asked for.
struct WeightsFile {
    /// Reads a tensor by its name in the file and converts it to f32.
    tensors: VarBuilder<'static>,
    /// For each canonical name, the name in the file and the shape.
    names: BTreeMap<String, (String, Vec<usize>)>,
}

/// Opens a weights file of either format and reads its list of tensors.
fn open(path: &Path, kind: Kind) -> Result<WeightsFile> {
    let files = match path.ends_with(INDEX_FILE) {
        true => indexed_files(path)?,
        false => vec![path.to_path_buf()],
    };
    files.iter().try_for_each(|file| check_content(file))?;
    let (format, opened) = match path.extension().is_some_and(|e| e == "bin") {
        true => ("a PyTorch file", open_pickle(path)),
        false => ("safetensors", open_safetensors(&files)),
    };
    let (tensors, mut listed) = opened.with_context(|| {
        format!(
            "{}: cannot be read as {format}; fetch it again",
            path.display()
        )
    })?;
    // Where a file holds one tensor under two names, always the same one is taken.
    listed.sort();
    let names = listed.into_iter();
    let names = names.map(|(name, shape)| (canonical_name(kind, &name), (name, shape)));
    Ok(WeightsFile {
        tensors,
        names: names.collect(),
    })
}

/// The reader of a weights file, and the names and shapes of its tensors.
type ReaderAndNames = (VarBuilder<'static>, Vec<(String, Vec<usize>)>);

fn open_pickle(path: &Path) -> candle_core::Result<ReaderAndNames> {
    let file = PthTensors::new(path, None)?;
    let infos = file.tensor_infos().iter();
    let listed = infos.map(|(name, info)| (name.clone(), info.layout.dims().to_vec()));
    let listed = listed.collect();
    Ok((reader(file), listed))
}

/// Returns the files of an index, which maps each tensor's name to one.
fn indexed_files(index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index)
        .with_context(|| format!("{}: cannot be read", index.display()))?;
    let json: Option<Value> = serde_json::from_str(&text).ok();
    let names = json
        .as_ref()
        .and_then(|json| json["weight_map"].as_object());
    let names: Option<BTreeSet<&str>> = names
        .filter(|names| !names.is_empty())
        .and_then(|names| names.values().map(Value::as_str).collect());
    let Some(names) = names else {
        bail!(
            "{}: is no index of tensors (weight_map); fetch it again",
            index.display()
        );
    };
    let files: Vec<PathBuf> = names
        .iter()
        .map(|name| index.with_file_name(name))
        .collect();
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        bail!(
            "{}: is missing, and {INDEX_FILE} beside it lists it; fetch it too",
            missing.display()
        );
    }
    Ok(files)
}

/// Refuses what is left where a download did not fetch the file itself.
fn check_content(path: &Path) -> Result<()> {
    let mut start = [0; 64];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut start));
    let read = read.with_context(|| format!("{}: cannot be read", path.display()))?;
    let start = start[..read].trim_ascii_start();
    if start.starts_with(LFS_PREFIX) {
        bail!(
            "{}: is a pointer of Git LFS, not the weights; call `git lfs pull` in its folder, or download the file",
            path.display()
        );
    }
    if start.starts_with(b"<") {
        bail!(
            "{}: is a web page, not the weights; fetch it again",
            path.display()
        );
    }
    Ok(())
}

fn open_safetensors(files: &[PathBuf]) -> candle_core::Result<ReaderAndNames> {
    // SAFETY: the mapping is read-only and gone when `Weights::load` returns, which copies every
    // tensor out of it. A program that cuts the file off meanwhile ends this process by a signal; one
    // that overwrites it changes numbers, and any bytes are numbers.
    let file = unsafe { MmapedSafetensors::multi(files)? };
    let tensors = file.tensors();
    let listed = tensors.iter();
    let listed = listed.map(|(name, view)| (name.clone(), view.shape().to_vec()));
    let listed = listed.collect();
    Ok((reader(file), listed))
}

fn reader(file: impl SimpleBackend + 'static) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(file), DType::F32, Device::Cpu)
}

/// The stream of the random generator for weights.
const RANDOM_WEIGHTS: u32 = 0x7765_6967;

fn find(folder: &Path) -> Result<PathBuf> {
    for file in [WEIGHTS_FILES[0], INDEX_FILE, WEIGHTS_FILES[1]] {
        let path = folder.join(file);
        if path.is_file() {
            return Ok(path);
        }
    }
    let index = folder.join("pytorch_model.bin.index.json");
    if index.is_file() {
        bail!(
            "{}: PyTorch files in several parts are not read; save the checkpoint as safetensors (`save_pretrained` of transformers does)",
            index.display()
        );
    }
    bail!(
        "{}: holds no {}; download the checkpoint there, or use --random-weights SEED",
        folder.display(),
        WEIGHTS_FILES.join(" or ")
    )
}

fn is_block_tensor(name: &str) -> bool {
    name.starts_with("encoder.layer")
}

/// Returns the canonical name for any name that a checkpoint has used for the same tensor: prefixes
/// of the surrounding model are removed, transformers 5's names become the hub's, and TensorFlow's
/// `gamma` and `beta` become `weight` and `bias`.
pub(crate) fn canonical_name(kind: Kind, name: &str) -> String {
    match kind {
        // "text_model." keeps its prefix, so the text tower never matches.
        Kind::Clip => name
            .strip_prefix("vision_model.")
            .unwrap_or(name)
            .to_string(),
        Kind::Bert => {
            let name = name.strip_prefix("bert.").unwrap_or(name);
            name.replace("LayerNorm.gamma", "LayerNorm.weight")
                .replace("LayerNorm.beta", "LayerNorm.bias")
        }
        Kind::Ast => {
            let name = name
                .strip_prefix("audio_spectrogram_transformer.")
                .unwrap_or(name);
            let Some(rest) = name.strip_prefix("layers.") else {
                return name.to_string();
            };
            let renamed = [
                ("attention.q_proj", "attention.attention.query"),
                ("attention.k_proj", "attention.attention.key"),
                ("attention.v_proj", "attention.attention.value"),
                ("attention.o_proj", "attention.output.dense"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ];
            let rest = renamed
                .iter()
                .find(|(new, _)| rest.contains(new))
                .map_or(rest.to_string(), |(new, old)| rest.replace(new, old));
            format!("encoder.layer.{rest}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_of_all_checkpoint_layouts() {
        for (kind, given, want) in [
            (
                Kind::Clip,
                "vision_model.encoder.layers.3.self_attn.q_proj.weight",
                "encoder.layers.3.self_attn.q_proj.weight",
            ),
            (
                Kind::Clip,
                "encoder.layers.3.self_attn.q_proj.weight",
                "encoder.layers.3.self_attn.q_proj.weight",
            ),
            (
                Kind::Clip,
                "text_model.encoder.layers.3.self_attn.q_proj.weight",
                "text_model.encoder.layers.3.self_attn.q_proj.weight",
            ),
            (
                Kind::Bert,
                "bert.encoder.layer.0.output.LayerNorm.gamma",
                "encoder.layer.0.output.LayerNorm.weight",
            ),
            (Kind::Bert, "cls.predictions.bias", "cls.predictions.bias"),
            (
                Kind::Ast,
                "audio_spectrogram_transformer.encoder.layer.1.attention.output.dense.bias",
                "encoder.layer.1.attention.output.dense.bias",
            ),
            (
                Kind::Ast,
                "layers.1.attention.o_proj.bias",
                "encoder.layer.1.attention.output.dense.bias",
            ),
            (
                Kind::Ast,
                "layers.11.mlp.fc2.weight",
                "encoder.layer.11.output.dense.weight",
            ),
            (
                Kind::Ast,
                "layers.0.layernorm_after.bias",
                "encoder.layer.0.layernorm_after.bias",
            ),
            (Kind::Ast, "layernorm.weight", "layernorm.weight"),
        ] {
            assert_eq!(canonical_name(kind, given), want);
        }
    }

    /// Other checkpoints have other names; two of a kind are not chosen between.
    #[test]
    fn checkpoint_is_found_by_its_model_type() {
        let weights = tempfile::tempdir().unwrap();
        let weights = weights.path();
        let add = |name: &str, model_type: &str| {
            std::fs::create_dir(weights.join(name)).unwrap();
            let json = format!("{{\"model_type\": \"{model_type}\"}}");
            std::fs::write(weights.join(name).join(CONFIG_FILE), json).unwrap();
        };
        let source = WeightSource::Folder(weights.to_path_buf());
        let resolved = |kinds: &[Kind]| source.resolved(kinds).map_err(|e| e.to_string());
        std::fs::write(weights.join("notes.txt"), "").unwrap();
        // Nothing yet: errors name the checkpoint of the paper.
        assert_eq!(resolved(&[Kind::Bert]).unwrap(), source);
        add("bert-large-uncased", "bert");
        add("clip-vit-large-patch14", "clip");
        add("gpt2", "gpt2");
        let found = resolved(&[Kind::Clip, Kind::Bert]).unwrap();
        let folder = |kind| found.folder(kind).unwrap().unwrap();
        assert_eq!(folder(Kind::Bert), weights.join("bert-large-uncased"));
        assert_eq!(folder(Kind::Clip), weights.join("clip-vit-large-patch14"));
        assert_eq!(found.folder_name(Kind::Bert), "bert-large-uncased");
        let path = weights.join("bert-large-uncased").display().to_string();
        assert_eq!(found.base_model(Kind::Bert), path);
        assert!(found.folder(Kind::Ast).is_err());
        // A run keeps what it began with.
        add("clip-vit-base-patch16", "clip");
        assert_eq!(found.resolved(&[Kind::Clip]).unwrap(), found);
        let error = resolved(&[Kind::Clip]).unwrap_err();
        let both = "(clip-vit-base-patch16, clip-vit-large-patch14)";
        assert!(error.contains(both) && !error.contains('\n'), "{error}");
        let bert = resolved(&[Kind::Bert]).unwrap();
        assert_eq!(bert.folder_name(Kind::Bert), "bert-large-uncased");
        // The names of the paper are as before.
        std::fs::remove_dir_all(weights.join("clip-vit-large-patch14")).unwrap();
        let paper = resolved(&[Kind::Clip]).unwrap();
        assert_eq!(paper, source);
        assert_eq!(paper.folder_name(Kind::Clip), "clip-vit-base-patch16");
        assert_eq!(paper.base_model(Kind::Clip), "openai/clip-vit-base-patch16");
    }

    #[test]
    fn random_weights_are_a_function_of_the_seed() {
        let config = EncoderConfig::tiny(Kind::Clip);
        let get = |seed| {
            Weights::random(seed, &config)
                .unwrap()
                .take("encoder.layers.0.mlp.fc1.weight")
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(get(1), get(1));
        assert_ne!(get(1), get(2));
        let std = (get(1).iter().map(|v| v * v).sum::<f32>() / get(1).len() as f32).sqrt();
        assert!((std * 8.0 - 1.0).abs() < 0.03, "{std}");
    }
}
