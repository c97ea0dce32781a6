//! What an encoder is: its kind and sizes, as Hugging Face's `config.json` gives them, and from
//! these the name and shape of every tensor it must have.

use anyhow::{Context, Result, anyhow, bail};
use datasets::Modality;
use engine::Activation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The three encoders of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CLIP's vision tower, for images and video frames.
    Clip,
    /// BERT, for text.
    Bert,
    /// Audio Spectrogram Transformer.
    Ast,
}

impl Kind {
    /// Which encoder serves a modality.
    pub fn of(modality: Modality) -> Kind {
        match modality {
            Modality::Audio => Kind::Ast,
            Modality::Video | Modality::Image => Kind::Clip,
            Modality::Text => Kind::Bert,
        }
    }

    /// The folder below `--weights`.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Clip => "clip-vit-base-patch16",
            Kind::Bert => "bert-base-uncased",
            Kind::Ast => "ast-finetuned-audioset-10-10-0.4593",
        }
    }

    /// The model's name on the Hugging Face hub.
    pub fn hub_name(self) -> &'static str {
        match self {
            Kind::Clip => "openai/clip-vit-base-patch16",
            Kind::Bert => "google-bert/bert-base-uncased",
            Kind::Ast => "MIT/ast-finetuned-audioset-10-10-0.4593",
        }
    }
}

/// Sizes and constants of one encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// Which architecture.
    pub kind: Kind,
    /// Width `d` of a token.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Activation of the feed-forward part.
    pub activation: Activation,
    /// Epsilon of the layer normalisations.
    pub norm_eps: f64,
    /// The encoder's own dropout on hidden states while training.
    pub hidden_dropout: f64,
    /// The encoder's own dropout on attention probabilities while training.
    pub attention_dropout: f64,
    /// What goes in.
    pub input: InputSize,
}

/// The size of an encoder's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum InputSize {
    /// RGB images, `size x size`, in square patches.
    Image {
        /// Side in pixels.
        size: usize,
        /// Side of a patch.
        patch: usize,
    },
    /// Word pieces.
    Text {
        /// Size of the vocabulary.
        vocab: usize,
        /// Longest sequence with a position embedding.
        positions: usize,
        /// Segment embeddings.
        types: usize,
    },
    /// Log-mel spectrograms `frames x bins`, in overlapping square patches.
    Mel {
        /// Frames after padding.
        frames: usize,
        /// Mel bins.
        bins: usize,
        /// Side of a patch.
        patch: usize,
        /// Step between patches along time.
        time_stride: usize,
        /// Step between patches along frequency.
        frequency_stride: usize,
    },
}

/// What a tensor is for, which decides how random weights fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix that multiplies `fan_in` inputs.
    Matrix,
    /// An embedding table or a token.
    Embedding,
    /// A scale, one by default.
    Scale,
    /// A bias or shift, zero by default.
    Shift,
}

/// The name, shape and role of one tensor.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Canonical name: that of the hub's file without the model's own prefix.
    pub name: String,
    /// Shape as stored.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl EncoderConfig {
    /// The paper's encoder of this kind, sizes of the published checkpoints.
    pub fn base(kind: Kind) -> EncoderConfig {
        let (activation, norm_eps, dropout, input) = match kind {
            Kind::Clip => (
                Activation::QuickGelu,
                1e-5,
                0.0,
                InputSize::Image {
                    size: 224,
                    patch: 16,
                },
            ),
            Kind::Bert => (
                Activation::Gelu,
                1e-12,
                0.1,
                InputSize::Text {
                    vocab: 30522,
                    positions: 512,
                    types: 2,
                },
            ),
            Kind::Ast => (
                Activation::Gelu,
                1e-12,
                0.0,
                InputSize::Mel {
                    frames: 1024,
                    bins: 128,
                    patch: 16,
                    time_stride: 10,
                    frequency_stride: 10,
                },
            ),
        };
        EncoderConfig {
            kind,
            hidden: 768,
            layers: 12,
            heads: 12,
            intermediate: 3072,
            activation,
            norm_eps,
            hidden_dropout: dropout,
            attention_dropout: dropout,
            input,
        }
    }

    /// The same architecture, small enough for a demonstration on two cores.
    pub fn tiny(kind: Kind) -> EncoderConfig {
        let input = match kind {
            Kind::Clip => InputSize::Image {
                size: 64,
                patch: 16,
            },
            Kind::Bert => InputSize::Text {
                vocab: 30522,
                positions: 512,
                types: 2,
            },
            Kind::Ast => InputSize::Mel {
                frames: 256,
                bins: 128,
                patch: 16,
                time_stride: 16,
                frequency_stride: 16,
            },
        };
        EncoderConfig {
            hidden: 64,
            layers: 4,
            heads: 4,
            intermediate: 256,
            input,
            ..Self::base(kind)
        }
    }

    /// Reads a `config.json` of the given kind.
    ///
    /// Absent keys take the defaults of Hugging Face's configuration classes; for CLIP the vision
    /// part of a whole model's file is taken. Errors name the file and the key.
    pub fn read(path: &Path, kind: Kind) -> Result<EncoderConfig> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "{}: cannot be read; a weights folder needs config.json and model.safetensors",
                path.display()
            )
        })?;
        let json: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}: is not JSON; fetch the file again", path.display()))?;
        Self::from_json(&json, kind).with_context(|| path.display().to_string())
    }

    fn from_json(json: &Value, kind: Kind) -> Result<EncoderConfig> {
        let model_type = json["model_type"].as_str().unwrap_or("?");
        let fits = match kind {
            Kind::Clip => matches!(model_type, "clip" | "clip_vision_model"),
            Kind::Bert => model_type == "bert",
            Kind::Ast => model_type == "audio-spectrogram-transformer",
        };
        if !fits {
            bail!(
                "is of model type {model_type:?}, not {kind:?}; put {} into this folder",
                kind.hub_name()
            );
        }
        let json = if model_type == "clip" {
            &json["vision_config"]
        } else {
            json
        };
        let size = |key: &str, default: usize| match &json[key] {
            Value::Null => Ok(default),
            v => match v.as_u64() {
                Some(n @ 1..=1_000_000) => Ok(n as usize),
                _ => Err(anyhow!("{key} is {v}, not a size")),
            },
        };
        let number = |key: &str, default: f64| match &json[key] {
            Value::Null => Ok(default),
            v => v
                .as_f64()
                .filter(|x| (0.0..1.0).contains(x))
                .ok_or_else(|| anyhow!("{key} is {v}, not in [0, 1)")),
        };
        let base = Self::base(kind);
        let activation = match json["hidden_act"].as_str() {
            None => base.activation,
            Some("gelu") => Activation::Gelu,
            Some("quick_gelu") => Activation::QuickGelu,
            Some(other) => bail!("hidden_act {other:?} is not known here (gelu, quick_gelu)"),
        };
        let input = match kind {
            Kind::Clip => InputSize::Image {
                size: size("image_size", 224)?,
                patch: size("patch_size", 32)?,
            },
            Kind::Bert => InputSize::Text {
                vocab: size("vocab_size", 30522)?,
                positions: size("max_position_embeddings", 512)?,
                types: size("type_vocab_size", 2)?,
            },
            Kind::Ast => InputSize::Mel {
                frames: size("max_length", 1024)?,
                bins: size("num_mel_bins", 128)?,
                patch: size("patch_size", 16)?,
                time_stride: size("time_stride", 10)?,
                frequency_stride: size("frequency_stride", 10)?,
            },
        };
        let (hidden_key, attention_key) = match kind {
            Kind::Clip => ("dropout", "attention_dropout"),
            _ => ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        };
        let config = EncoderConfig {
            kind,
            hidden: size("hidden_size", 768)?,
            layers: size("num_hidden_layers", 12)?,
            heads: size("num_attention_heads", 12)?,
            intermediate: size("intermediate_size", 3072)?,
            activation,
            norm_eps: number("layer_norm_eps", base.norm_eps)?,
            hidden_dropout: number(hidden_key, base.hidden_dropout)?,
            attention_dropout: number(attention_key, base.attention_dropout)?,
            input,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if !self.hidden.is_multiple_of(self.heads) {
            bail!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden,
                self.heads
            );
        }
        match self.input {
            InputSize::Image { size, patch } if patch > size || !size.is_multiple_of(patch) => {
                bail!("image_size {size} is not a multiple of patch_size {patch}")
            }
            InputSize::Mel {
                frames,
                bins,
                patch,
                ..
            } if patch > frames || patch > bins => {
                bail!("patch_size {patch} exceeds the spectrogram of {frames} x {bins}")
            }
            _ => Ok(()),
        }
    }

    /// Number of patches of one input; 0 for text, whose length varies.
    pub fn patches(&self) -> usize {
        match self.input {
            InputSize::Image { size, patch } => (size / patch).pow(2),
            InputSize::Text { .. } => 0,
            InputSize::Mel {
                frames,
                bins,
                patch,
                time_stride,
                frequency_stride,
            } => ((bins - patch) / frequency_stride + 1) * ((frames - patch) / time_stride + 1),
        }
    }

    /// Tensor name of part `what` of block `layer`, as on the hub.
    pub fn block_tensor(&self, layer: usize, what: Part) -> String {
        let (prefix, name) = match self.kind {
            Kind::Clip => (
                "encoder.layers",
                match what {
                    Part::Query => "self_attn.q_proj",
                    Part::Key => "self_attn.k_proj",
                    Part::Value => "self_attn.v_proj",
                    Part::Out => "self_attn.out_proj",
                    Part::Norm1 => "layer_norm1",
                    Part::Norm2 => "layer_norm2",
                    Part::Fc1 => "mlp.fc1",
                    Part::Fc2 => "mlp.fc2",
                },
            ),
            Kind::Bert => (
                "encoder.layer",
                match what {
                    Part::Query => "attention.self.query",
                    Part::Key => "attention.self.key",
                    Part::Value => "attention.self.value",
                    Part::Out => "attention.output.dense",
                    Part::Norm1 => "attention.output.LayerNorm",
                    Part::Norm2 => "output.LayerNorm",
                    Part::Fc1 => "intermediate.dense",
                    Part::Fc2 => "output.dense",
                },
            ),
            Kind::Ast => (
                "encoder.layer",
                match what {
                    Part::Query => "attention.attention.query",
                    Part::Key => "attention.attention.key",
                    Part::Value => "attention.attention.value",
                    Part::Out => "attention.output.dense",
                    Part::Norm1 => "layernorm_before",
                    Part::Norm2 => "layernorm_after",
                    Part::Fc1 => "intermediate.dense",
                    Part::Fc2 => "output.dense",
                },
            ),
        };
        format!("{prefix}.{layer}.{name}")
    }

    /// Every tensor of the encoder. BERT's pooler counts among them, although it is never used.
    pub fn specs(&self) -> Vec<Spec> {
        let (d, m) = (self.hidden, self.intermediate);
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[usize], role| {
            specs.push(Spec {
                name,
                shape: shape.to_vec(),
                role,
            })
        };
        match self.input {
            InputSize::Image { patch, .. } => {
                add("embeddings.class_embedding".into(), &[d], Role::Embedding);
                add(
                    "embeddings.patch_embedding.weight".into(),
                    &[d, 3, patch, patch],
                    Role::Matrix,
                );
                add(
                    "embeddings.position_embedding.weight".into(),
                    &[self.patches() + 1, d],
                    Role::Embedding,
                );
                add("pre_layrnorm.weight".into(), &[d], Role::Scale);
                add("pre_layrnorm.bias".into(), &[d], Role::Shift);
            }
            InputSize::Text {
                vocab,
                positions,
                types,
            } => {
                add(
                    "embeddings.word_embeddings.weight".into(),
                    &[vocab, d],
                    Role::Embedding,
                );
                add(
                    "embeddings.position_embeddings.weight".into(),
                    &[positions, d],
                    Role::Embedding,
                );
                add(
                    "embeddings.token_type_embeddings.weight".into(),
                    &[types, d],
                    Role::Embedding,
                );
                add("embeddings.LayerNorm.weight".into(), &[d], Role::Scale);
                add("embeddings.LayerNorm.bias".into(), &[d], Role::Shift);
            }
            InputSize::Mel { patch, .. } => {
                add("embeddings.cls_token".into(), &[1, 1, d], Role::Embedding);
                add(
                    "embeddings.distillation_token".into(),
                    &[1, 1, d],
                    Role::Embedding,
                );
                add(
                    "embeddings.position_embeddings".into(),
                    &[1, self.patches() + 2, d],
                    Role::Embedding,
                );
                add(
                    "embeddings.patch_embeddings.projection.weight".into(),
                    &[d, 1, patch, patch],
                    Role::Matrix,
                );
                add(
                    "embeddings.patch_embeddings.projection.bias".into(),
                    &[d],
                    Role::Shift,
                );
            }
        }
        for layer in 0..self.layers {
            for (part, shape) in [
                (Part::Query, [d, d]),
                (Part::Key, [d, d]),
                (Part::Value, [d, d]),
                (Part::Out, [d, d]),
                (Part::Fc1, [m, d]),
                (Part::Fc2, [d, m]),
            ] {
                let name = self.block_tensor(layer, part);
                add(format!("{name}.weight"), &shape, Role::Matrix);
                add(format!("{name}.bias"), &shape[..1], Role::Shift);
            }
            for part in [Part::Norm1, Part::Norm2] {
                let name = self.block_tensor(layer, part);
                add(format!("{name}.weight"), &[d], Role::Scale);
                add(format!("{name}.bias"), &[d], Role::Shift);
            }
        }
        match self.kind {
            Kind::Clip => {
                add("post_layernorm.weight".into(), &[d], Role::Scale);
                add("post_layernorm.bias".into(), &[d], Role::Shift);
            }
            Kind::Bert => {
                add("pooler.dense.weight".into(), &[d, d], Role::Matrix);
                add("pooler.dense.bias".into(), &[d], Role::Shift);
            }
            Kind::Ast => {
                add("layernorm.weight".into(), &[d], Role::Scale);
                add("layernorm.bias".into(), &[d], Role::Shift);
            }
        }
        specs
    }

    /// Number of frozen weights.
    pub fn parameters(&self) -> usize {
        self.specs()
            .iter()
            .map(|s| s.shape.iter().product::<usize>())
            .sum()
    }
}

/// The parts of a block that have tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Attention's output layer.
    Out,
    /// First normalisation.
    Norm1,
    /// Second normalisation.
    Norm2,
    /// First feed-forward layer.
    Fc1,
    /// Second feed-forward layer.
    Fc2,
}

/// The parts that carry an adapter, in the order of the adapters.
pub const ADAPTED: [Part; super::block::ADAPTERS] =
    [Part::Query, Part::Key, Part::Value, Part::Out];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_totals() {
        // The paper's parameter counts (Table 2 and its text).
        assert_eq!(EncoderConfig::base(Kind::Clip).parameters(), 85_799_424);
        assert_eq!(EncoderConfig::base(Kind::Bert).parameters(), 109_482_240);
        assert_eq!(EncoderConfig::base(Kind::Ast).parameters(), 86_187_264);
        assert_eq!(EncoderConfig::base(Kind::Ast).patches(), 12 * 101);
    }

    #[test]
    fn a_clip_file_of_the_whole_model() {
        let json = serde_json::json!({"model_type": "clip", "vision_config": {"patch_size": 16, "hidden_act": "quick_gelu"}, "text_config": {}});
        assert_eq!(
            EncoderConfig::from_json(&json, Kind::Clip).unwrap(),
            EncoderConfig::base(Kind::Clip)
        );
    }

    #[test]
    fn another_architecture_is_named() {
        let json = serde_json::json!({"model_type": "gpt2"});
        let error = EncoderConfig::from_json(&json, Kind::Bert)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("gpt2") && error.contains("google-bert/bert-base-uncased"),
            "{error}"
        );
        let json =
            serde_json::json!({"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4});
        assert!(EncoderConfig::from_json(&json, Kind::Bert).is_err());
        let json = serde_json::json!({"model_type": "bert", "hidden_size": -3});
        assert!(
            EncoderConfig::from_json(&json, Kind::Bert)
                .unwrap_err()
                .to_string()
                .contains("hidden_size")
        );
    }
}
