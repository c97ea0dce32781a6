//! Frozen weights: from a Hugging Face folder under any of the names the hub has used, or random.

use crate::encoder::config::{EncoderConfig, Kind, Role, Spec};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::pickle::PthTensors;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use util::rng::Rng;

/// Where the frozen weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightSource {
    /// A folder with one checkpoint folder per encoder.
    Folder(PathBuf),
    /// Random weights from this seed.
    Random(u64),
    /// The Hugging Face hub, or its cache on this machine.
    Hub,
}

impl WeightSource {
    /// The folder of one encoder's checkpoint, fetched from the hub where need be; none for random
    /// weights.
    pub fn folder(&self, kind: Kind) -> Result<Option<PathBuf>> {
        match self {
            WeightSource::Folder(folder) => Ok(Some(folder.join(kind.folder()))),
            WeightSource::Random(_) => Ok(None),
            WeightSource::Hub => from_hub(kind).map(Some),
        }
    }
}

/// The tensors of one encoder, sorted by canonical name, f32, shapes as [`EncoderConfig::specs`] gives them.
#[derive(Clone)]
pub struct Weights(BTreeMap<String, Tensor>);

/// Sizes, beside the weights.
pub const CONFIG_FILE: &str = "config.json";
/// BERT's word pieces, beside the weights.
pub const VOCAB_FILE: &str = "vocab.txt";
/// File names that are looked for in a weights folder, in this order.
const FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

impl Weights {
    /// Loads the encoder of `config` from a folder as the hub has it.
    ///
    /// Tensors of other parts (CLIP's text tower, heads) are passed over; a missing or misshapen
    /// one is an error that names it and the file.
    pub fn load(folder: &Path, config: &EncoderConfig) -> Result<Weights> {
        let path = find(folder)?;
        let mut file = open(&path, config.kind)?;
        let mut weights = BTreeMap::new();
        for Spec { name, shape, .. } in config.specs() {
            let Some((stored, dims)) = file.names.remove(&name) else {
                bail!(
                    "{}: tensor {name} is missing; this is not a whole {} checkpoint of {} layers",
                    path.display(),
                    config.kind.hub_name(),
                    config.layers
                );
            };
            if dims != shape {
                bail!(
                    "{}: tensor {name} has shape {dims:?}, config.json asks for {shape:?}; take both files from one checkpoint",
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
                "{}: has tensor {extra}, beyond the {} layers of config.json; take both files from one checkpoint",
                path.display(),
                config.layers
            );
        }
        Ok(Weights(weights))
    }

    /// Random weights that pass on their input: matrices N(0, 1 / fan_in), so that frozen random
    /// layers neither shrink nor blow up what they read; embeddings N(0, 1), norms at identity.
    pub fn random(seed: u64, config: &EncoderConfig) -> Result<Weights> {
        let mut weights = BTreeMap::new();
        for (i, Spec { name, shape, role }) in config.specs().into_iter().enumerate() {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = match role {
                Role::Scale => vec![1.0; n],
                Role::Shift => vec![0.0; n],
                Role::Matrix | Role::Embedding => {
                    let fan_in: usize = shape[1..].iter().product();
                    let std = if role == Role::Matrix {
                        1.0 / (fan_in as f64).sqrt()
                    } else {
                        1.0
                    };
                    let mut rng = Rng::new(seed, &[RANDOM_WEIGHTS, config.kind as u32, i as u32]);
                    (0..n).map(|_| (std * rng.normal()) as f32).collect()
                }
            };
            weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        Ok(Weights(weights))
    }

    /// The same weights on a device.
    pub fn to_device(&self, device: &Device) -> Result<Weights> {
        let moved = self.0.iter();
        let moved = moved.map(|(name, t)| Ok((name.clone(), t.to_device(device)?)));
        Ok(Weights(moved.collect::<Result<_>>()?))
    }

    /// All tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// All tensors in the order of [`Weights::iter`], to be replaced.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.0.values_mut()
    }

    /// Takes a tensor out; every spec's name is there once.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        self.0
            .remove(name)
            .ok_or_else(|| anyhow!("tensor {name} is not among the encoder's weights"))
    }
}

/// A checkpoint's tensors, which are read when they are asked for.
struct Checkpoint {
    /// By the names in the file, converted to f32.
    tensors: VarBuilder<'static>,
    /// By canonical name: the name in the file, and the shape.
    names: BTreeMap<String, (String, Vec<usize>)>,
}

/// Opens a file of either format and reads its list of tensors.
fn open(path: &Path, kind: Kind) -> Result<Checkpoint> {
    let (format, opened) = match path.extension().is_some_and(|e| e == "bin") {
        true => ("a PyTorch file", open_pickle(path)),
        false => ("safetensors", open_safetensors(path)),
    };
    let (tensors, mut listed) = opened.with_context(|| {
        format!(
            "{}: cannot be read as {format}; fetch it again",
            path.display()
        )
    })?;
    // Of two names for one tensor always the same is taken.
    listed.sort();
    let names = listed.into_iter();
    let names = names.map(|(name, shape)| (canonical(kind, &name), (name, shape)));
    Ok(Checkpoint {
        tensors,
        names: names.collect(),
    })
}

/// Names and shapes as a file lists them, and what reads the tensors.
type Listed = (VarBuilder<'static>, Vec<(String, Vec<usize>)>);

fn open_pickle(path: &Path) -> candle_core::Result<Listed> {
    let file = PthTensors::new(path, None)?;
    let infos = file.tensor_infos().iter();
    let listed = infos.map(|(name, info)| (name.clone(), info.layout.dims().to_vec()));
    let listed = listed.collect();
    Ok((reader(file), listed))
}

fn open_safetensors(path: &Path) -> candle_core::Result<Listed> {
    // SAFETY: the mapping is read-only and gone when `Weights::load` returns, which copies every tensor out of
    // it. A program that cuts the file off meanwhile ends this process by a signal; one that overwrites it
    // changes numbers, and any bytes are numbers.
    let file = unsafe { MmapedSafetensors::new(path)? };
    let tensors = file.tensors();
    let listed = tensors.iter();
    let listed = listed.map(|(name, view)| (name.clone(), view.shape().to_vec()));
    let listed = listed.collect();
    Ok((reader(file), listed))
}

fn reader(file: impl SimpleBackend + 'static) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(file), DType::F32, Device::Cpu)
}

/// Stream of the random generator for weights.
const RANDOM_WEIGHTS: u32 = 0x7765_6967;

fn find(folder: &Path) -> Result<PathBuf> {
    for file in FILES {
        let path = folder.join(file);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{}: holds no {}; download the checkpoint there, or use --random-weights SEED",
        folder.display(),
        FILES.join(" or ")
    )
}

/// The folder of a checkpoint in the hub's cache, fetched from the hub where it is not there yet.
pub fn from_hub(kind: Kind) -> Result<PathBuf> {
    let name = kind.hub_name().to_string();
    let cached = hf_hub::Cache::from_env().model(name.clone());
    let api = std::cell::OnceCell::new();
    let get = |file: &str| -> Result<PathBuf> {
        if let Some(path) = cached.get(file) {
            return Ok(path);
        }
        if api.get().is_none() {
            let built = hf_hub::api::sync::ApiBuilder::from_env().build()?;
            api.get_or_init(|| built.model(name.clone()));
        }
        match api.get() {
            Some(api) => Ok(api.get(file)?),
            None => bail!("no connection to the hub"),
        }
    };
    let problem = || {
        format!(
            "{name}: cannot be fetched from the Hugging Face hub; give --weights DIR with {}/ in it, or --random-weights SEED",
            kind.folder()
        )
    };
    let config = get(CONFIG_FILE).with_context(problem)?;
    // Older checkpoints have PyTorch's own format only.
    get(FILES[0])
        .or_else(|_| get(FILES[1]))
        .with_context(problem)?;
    if kind == Kind::Bert {
        get(VOCAB_FILE).with_context(problem)?;
    }
    config
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| anyhow!("{}: has no folder", config.display()))
}

fn is_block_tensor(name: &str) -> bool {
    name.starts_with("encoder.layer")
}

/// The canonical name for any name that a checkpoint has used for the same tensor: prefixes of the
/// surrounding model go, transformers 5's names become the hub's, TensorFlow's `gamma` and `beta`
/// become `weight` and `bias`.
pub fn canonical(kind: Kind, name: &str) -> String {
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
    fn names_of_all_checkpoints() {
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
            assert_eq!(canonical(kind, given), want);
        }
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
