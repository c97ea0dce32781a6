//! Adapters on disk, in the layout of Hugging Face PEFT: `adapter_config.json` beside
//! `adapter_model.safetensors`, loadable with `PeftModel.from_pretrained` on the same base model.
//!
//! transformers 5 renamed CLIP's and AST's modules. Both names are read; [`ModuleNames`] chooses
//! which are written.

use crate::encoder::block::ADAPTERS;
use crate::encoder::config::{ADAPTED, EncoderConfig, Kind, Part};
use crate::weights::canonical;
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use engine::Adapter;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Weights file of an adapter folder.
pub const MODEL_FILE: &str = "adapter_model.safetensors";
/// Settings file of an adapter folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// What PEFT puts before the base model's own module names.
const PREFIX: &str = "base_model.model.";

/// Whose module names are written.
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

/// Rank and scale of the adapters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Dropout on the adapters' input while training.
    pub dropout: f64,
}

impl LoraConfig {
    /// What the update is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

impl Default for LoraConfig {
    /// The paper's: rank 1, alpha 1, dropout 0.1.
    fn default() -> Self {
        LoraConfig {
            rank: 1,
            alpha: 1.0,
            dropout: 0.1,
        }
    }
}

/// The module that carries an adapter, by the name that the base model class gives it.
fn module_name(config: &EncoderConfig, layer: usize, part: Part, names: ModuleNames) -> String {
    let hub = config.block_tensor(layer, part);
    match (config.kind, names) {
        (Kind::Clip, ModuleNames::Transformers4) => format!("vision_model.{hub}"),
        (Kind::Ast, ModuleNames::Transformers5) => {
            let new = match part {
                Part::Query => "q_proj",
                Part::Key => "k_proj",
                Part::Value => "v_proj",
                // Only the adapted parts are asked for.
                _ => "o_proj",
            };
            format!("layers.{layer}.attention.{new}")
        }
        _ => hub,
    }
}

/// A pattern that matches exactly the adapted modules (a bare `dense` would match the feed-forward
/// part of BERT and AST as well).
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

/// The base model class that a Python user loads the adapter onto.
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

/// Tensor names as in `adapter_model.safetensors`: A, then B.
pub fn tensor_names(
    config: &EncoderConfig,
    layer: usize,
    part: Part,
    names: ModuleNames,
) -> [String; 2] {
    let module = module_name(config, layer, part, names);
    ["A", "B"].map(|factor| format!("{PREFIX}{module}.lora_{factor}.weight"))
}

/// Writes an adapter folder; the caller makes it durable.
pub fn write(
    folder: &Path,
    config: &EncoderConfig,
    lora: &LoraConfig,
    adapters: &[[Adapter; ADAPTERS]],
    names: ModuleNames,
) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut tensors = HashMap::new();
    for (layer, block) in adapters.iter().enumerate() {
        for (adapter, part) in block.iter().zip(ADAPTED) {
            let [a, b] = tensor_names(config, layer, part, names);
            tensors.insert(a, adapter.a.clone());
            tensors.insert(b, adapter.b.clone());
        }
    }
    let path = folder.join(MODEL_FILE);
    candle_core::safetensors::save(&tensors, &path)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    let (class, library) = base_class(config.kind);
    let json = json!({
        "peft_type": "LORA",
        "auto_mapping": {"base_model_class": class, "parent_library": library},
        "base_model_name_or_path": config.kind.hub_name(),
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
/// Errors name the file: a missing tensor, a wrong shape, settings that mean another computation
/// (DoRA, rank-stabilised scaling, other modules).
pub fn read(
    folder: &Path,
    config: &EncoderConfig,
) -> Result<(LoraConfig, Vec<[Adapter; ADAPTERS]>)> {
    let path = folder.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "{}: cannot be read; the folder is not an adapter",
            path.display()
        )
    })?;
    let json: serde_json::Value =
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
    let lora = LoraConfig {
        rank: number("r")? as usize,
        alpha: number("lora_alpha")?,
        dropout: number("lora_dropout")?,
    };
    let path = folder.join(MODEL_FILE);
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .with_context(|| format!("{}: cannot be read as safetensors", path.display()))?;
    let mut found: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, t)| {
            (
                canonical(config.kind, name.strip_prefix(PREFIX).unwrap_or(&name)),
                t,
            )
        })
        .collect();
    let mut adapters = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let mut take = |part: Part| -> Result<Adapter> {
            let module = config.block_tensor(layer, part);
            let mut factor = |which: &str, shape: (usize, usize)| -> Result<Tensor> {
                let name = format!("{module}.lora_{which}.weight");
                let t = found.remove(&name).ok_or_else(|| {
                    anyhow!("{}: adapter tensor {name} is missing", path.display())
                })?;
                if t.dims() != [shape.0, shape.1] {
                    bail!(
                        "{}: adapter tensor {name} has shape {:?}, not {shape:?}; it belongs to another encoder or rank",
                        path.display(),
                        t.dims()
                    );
                }
                Ok(t.to_dtype(DType::F32)?)
            };
            Ok(Adapter {
                a: factor("A", (lora.rank, config.hidden))?,
                b: factor("B", (config.hidden, lora.rank))?,
            })
        };
        adapters.push([
            take(Part::Query)?,
            take(Part::Key)?,
            take(Part::Value)?,
            take(Part::Out)?,
        ]);
    }
    if let Some(extra) = found.keys().next() {
        bail!(
            "{}: adapter tensor {extra} has no place in this encoder; adapters belong on query, key, value and attention output",
            path.display()
        );
    }
    Ok((lora, adapters))
}
