//! LoRA adapters on disk, in the layout of Hugging Face PEFT: `adapter_config.json` beside
//! `adapter_model.safetensors`, loadable with `PeftModel.from_pretrained` on the same base model.
//!
//! transformers 5 renamed CLIP's and AST's modules. Both names are read; [`ModuleNames`] chooses
//! which are written.

use crate::encoder::config::{BlockLayer, EncoderConfig, Kind};
use crate::encoder::lora::{ADAPTED, ADAPTERS, LoraAdapters, LoraConfig};
use crate::encoder::weights::canonical_name;
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use engine::Adapter;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The file of an adapter folder that holds the adapters.
const MODEL_FILE: &str = "adapter_model.safetensors";
/// The file of an adapter folder that holds the adapters' settings.
const CONFIG_FILE: &str = "adapter_config.json";
/// The prefix that PEFT puts before the base model's module names.
const PREFIX: &str = "base_model.model.";

/// The version of transformers whose module names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum ModuleNames {
    /// transformers 5 and later.
    #[default]
    Transformers5,
    /// transformers 4.
    Transformers4,
}

/// Returns the name of an adapted layer of block number `block` in the base model class.
fn module_name(
    config: &EncoderConfig,
    block: usize,
    layer: BlockLayer,
    names: ModuleNames,
) -> String {
    let hub = config.layer_name(block, layer);
    match (config.kind, names) {
        (Kind::Clip, ModuleNames::Transformers4) => format!("vision_model.{hub}"),
        (Kind::Ast, ModuleNames::Transformers5) => {
            let new = match layer {
                BlockLayer::Query => "q_proj",
                BlockLayer::Key => "k_proj",
                BlockLayer::Value => "v_proj",
                // Only the adapted parts are asked for.
                _ => "o_proj",
            };
            format!("layers.{block}.attention.{new}")
        }
        _ => hub,
    }
}

/// Returns a pattern that matches exactly the adapted modules (a bare `dense` would match the
/// feed-forward part of BERT and AST as well).
fn target_modules(kind: Kind, names: ModuleNames) -> &'static str {
    match (kind, names) {
        (Kind::Clip, _) => r".*self_attn\.(q_proj|k_proj|v_proj|out_proj)",
        (Kind::Bert, _) => r".*attention\.(self\.(query|key|value)|output\.dense)",
        (Kind::Ast, ModuleNames::Transformers5) => r".*attention\.(q_proj|k_proj|v_proj|o_proj)",
        (Kind::Ast, ModuleNames::Transformers4) => {
            r".*attention\.(attention\.(query|key|value)|output\.dense)"
        }
    }
}

/// Returns the base model class that a Python user loads the adapter onto, and its module.
fn base_class(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Clip => ("CLIPVisionModel", "transformers.models.clip.modeling_clip"),
        Kind::Bert => ("BertModel", "transformers.models.bert.modeling_bert"),
        Kind::Ast => (
            "ASTModel",
            "transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer",
        ),
    }
}

/// Returns the names of an adapter's two tensors in `adapter_model.safetensors`: A, then B.
fn tensor_names(
    config: &EncoderConfig,
    block: usize,
    layer: BlockLayer,
    names: ModuleNames,
) -> [String; 2] {
    let module = module_name(config, block, layer, names);
    ["A", "B"].map(|factor| format!("{PREFIX}{module}.lora_{factor}.weight"))
}

/// Lists the tensors of adapters with their names in `adapter_model.safetensors`: block after
/// block, in each query, key, value and attention output, of each A and B.
pub fn named_tensors<'a, B: AsRef<[Adapter]>>(
    config: &EncoderConfig,
    blocks: &'a [B],
    names: ModuleNames,
) -> Vec<(String, &'a Tensor)> {
    let mut list = Vec::with_capacity(2 * ADAPTERS * blocks.len());
    for (block, adapters) in blocks.iter().enumerate() {
        for (adapter, layer) in adapters.as_ref().iter().zip(ADAPTED) {
            let [a, b] = tensor_names(config, block, layer, names);
            list.extend([(a, &adapter.a), (b, &adapter.b)]);
        }
    }
    list
}

/// Writes an adapter folder; the caller makes it durable. `base_model` is what Python loads the
/// adapter onto: a name on the hub, or a path.
pub fn write(
    folder: &Path,
    config: &EncoderConfig,
    base_model: &str,
    lora: &LoraConfig,
    adapters: &LoraAdapters,
    names: ModuleNames,
) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let tensors: HashMap<String, Tensor> = named_tensors(config, &adapters.blocks, names)
        .into_iter()
        .map(|(name, tensor)| (name, tensor.clone()))
        .collect();
    let path = folder.join(MODEL_FILE);
    candle_core::safetensors::save(&tensors, &path)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    let (class, library) = base_class(config.kind);
    let json = json!({
        "peft_type": "LORA",
        "auto_mapping": {"base_model_class": class, "parent_library": library},
        "base_model_name_or_path": base_model,
        "revision": null,
        "task_type": null,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": target_modules(config.kind, names),
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "use_rslora": false,
        "use_dora": false,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": true,
    });
    let path = folder.join(CONFIG_FILE);
    std::fs::write(&path, format!("{json:#}\n"))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Reads an adapter folder written by this tool or by PEFT.
///
/// Errors name the file: a missing tensor, a wrong shape, or settings that mean another computation
/// (DoRA, rank-stabilized scaling, adapters on other modules).
pub fn read(folder: &Path, config: &EncoderConfig) -> Result<(LoraConfig, LoraAdapters)> {
    let lora = read_config(&folder.join(CONFIG_FILE))?;
    let mut file = AdapterFile::open(folder.join(MODEL_FILE), config.kind)?;
    let mut blocks = Vec::with_capacity(config.layers);
    for block in 0..config.layers {
        let mut take = |layer: BlockLayer| -> Result<Adapter> {
            let module = config.layer_name(block, layer);
            Ok(Adapter {
                a: file.take(&module, "A", [lora.rank, config.hidden])?,
                b: file.take(&module, "B", [config.hidden, lora.rank])?,
            })
        };
        let [query, key, value, out] = ADAPTED;
        blocks.push([take(query)?, take(key)?, take(value)?, take(out)?]);
    }
    file.check_empty()?;
    let scale = lora.scale();
    Ok((lora, LoraAdapters { blocks, scale }))
}

/// Reads `adapter_config.json`.
fn read_config(path: &Path) -> Result<LoraConfig> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{}: cannot be read; the folder is not an adapter",
            path.display()
        )
    })?;
    let json: Value =
        serde_json::from_str(&text).with_context(|| format!("{}: is not JSON", path.display()))?;
    let number = |key: &str| {
        json[key]
            .as_f64()
            .ok_or_else(|| anyhow!("{}: {key} is missing", path.display()))
    };
    for key in ["use_rslora", "use_dora", "lora_bias"] {
        if json[key].as_bool() == Some(true) {
            bail!(
                "{}: {key} is set, which this tool does not compute",
                path.display()
            );
        }
    }
    Ok(LoraConfig {
        rank: number("r")? as usize,
        alpha: number("lora_alpha")?,
        dropout: number("lora_dropout")?,
    })
}

/// The tensors of an `adapter_model.safetensors` by canonical name.
struct AdapterFile {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl AdapterFile {
    fn open(path: PathBuf, kind: Kind) -> Result<AdapterFile> {
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("{}: cannot be read as safetensors", path.display()))?;
        let tensors = tensors.into_iter().map(|(name, tensor)| {
            let module = name.strip_prefix(PREFIX).unwrap_or(&name);
            (canonical_name(kind, module), tensor)
        });
        Ok(AdapterFile {
            path,
            tensors: tensors.collect(),
        })
    }

    /// Takes factor A or B of the adapter on a module out.
    fn take(&mut self, module: &str, factor: &str, shape: [usize; 2]) -> Result<Tensor> {
        let path = self.path.display();
        let name = format!("{module}.lora_{factor}.weight");
        let Some(tensor) = self.tensors.remove(&name) else {
            bail!("{path}: adapter tensor {name} is missing");
        };
        if tensor.dims() != shape {
            bail!(
                "{path}: adapter tensor {name} has shape {:?}, not {shape:?}; \
                 it belongs to another encoder or rank",
                tensor.dims()
            );
        }
        Ok(tensor.to_dtype(DType::F32)?)
    }

    /// Fails on a tensor that has not been taken.
    fn check_empty(&self) -> Result<()> {
        if let Some(extra) = self.tensors.keys().next() {
            bail!(
                "{}: adapter tensor {extra} has no place in this encoder; \
                 adapters belong on query, key, value and attention output",
                self.path.display()
            );
        }
        Ok(())
    }
}
