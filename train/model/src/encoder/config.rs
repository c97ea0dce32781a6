//! The kind and sizes of an encoder, as Hugging Face's `config.json` gives them, and from these the
//! name and shape of every tensor that it must have.

use anyhow::{Context, Result, anyhow, bail};
use datasets::Modality;
use engine::Activation;
use fetch::weights::{self, Checkpoint};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The three encoders of the paper (section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Returns the kind of encoder that the paper uses for a modality (section 4.2).
    pub fn of(modality: Modality) -> Kind {
        match modality {
            Modality::Audio => Kind::Ast,
            Modality::Video | Modality::Image => Kind::Clip,
            Modality::Text => Kind::Bert,
        }
    }

    /// Returns the name of the folder in which the paper's checkpoint lies below `--weights`.
    pub fn folder(self) -> &'static str {
        self.checkpoint().folder
    }

    /// Returns the name of the checkpoint on the Hugging Face hub.
    pub fn hub_name(self) -> &'static str {
        self.checkpoint().repository
    }

    /// Returns the name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Clip => "CLIP",
            Kind::Bert => "BERT",
            Kind::Ast => "AST",
        }
    }

    /// Returns whether a file is the `config.json` of such an encoder.
    pub(crate) fn is_of_config(self, path: &Path) -> bool {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let model_type = json["model_type"].as_str();
        model_type.is_some_and(|model_type| self.has_model_type(model_type))
    }

    /// Returns whether this is the `model_type` of such an encoder in transformers.
    fn has_model_type(self, model_type: &str) -> bool {
        match self {
            Kind::Clip => matches!(model_type, "clip" | "clip_vision_model"),
            Kind::Bert => model_type == "bert",
            Kind::Ast => model_type == "audio-spectrogram-transformer",
        }
    }

    /// Returns the checkpoint on the Hugging Face hub.
    pub(crate) fn checkpoint(self) -> &'static Checkpoint {
        match self {
            Kind::Clip => &weights::CLIP,
            Kind::Bert => &weights::BERT,
            Kind::Ast => &weights::AST,
        }
    }
}

/// Sizes and constants of one encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// The architecture.
    pub kind: Kind,
    /// Width `d` of a token.
    pub hidden: usize,
    /// The number of transformer blocks.
    pub layers: usize,
    /// The number of attention heads.
    pub heads: usize,
    /// The width between the two layers of the feed-forward part.
    pub intermediate: usize,
    /// The activation between the two layers of the feed-forward part.
    pub activation: Activation,
    /// The epsilon of the layer normalizations.
    pub norm_eps: f64,
    /// The encoder's own dropout on hidden states while training.
    pub hidden_dropout: f64,
    /// The encoder's own dropout on attention probabilities while training.
    pub attention_dropout: f64,
    /// The size of one input.
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
        /// Side of a patch in pixels.
        patch: usize,
    },
    /// Word pieces.
    Text {
        /// Size of the vocabulary.
        vocab: usize,
        /// Number of position embeddings: the longest sequence.
        positions: usize,
        /// Number of segment (token type) embeddings.
        types: usize,
    },
    /// Log-mel spectrograms `frames x bins`, in overlapping square patches.
    Mel {
        /// Mel frames after padding.
        frames: usize,
        /// Mel bins.
        bins: usize,
        /// Side of a patch in frames and bins.
        patch: usize,
        /// Step between patches along time.
        time_stride: usize,
        /// Step between patches along frequency.
        frequency_stride: usize,
    },
}

/// The use of a tensor, which decides how random weights fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorRole {
    /// A matrix that multiplies `fan_in` inputs.
    Matrix,
    /// An embedding table or a special token.
    Embedding,
    /// The scale of a normalization, one by default.
    Scale,
    /// A bias, or the shift of a normalization, zero by default.
    Shift,
}

/// The name, shape and role of one tensor.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// The canonical name: that in the hub's file, without the prefix of the surrounding model.
    pub name: String,
    /// The shape in the hub's file.
    pub shape: Vec<usize>,
    /// The use of the tensor.
    pub role: TensorRole,
}

impl TensorSpec {
    fn new(name: String, shape: &[usize], role: TensorRole) -> TensorSpec {
        TensorSpec {
            name,
            shape: shape.to_vec(),
            role,
        }
    }
}

/// Lists weight (`out x in`) and bias of a linear layer.
fn linear_specs(name: &str, shape: [usize; 2]) -> [TensorSpec; 2] {
    [
        TensorSpec::new(format!("{name}.weight"), &shape, TensorRole::Matrix),
        TensorSpec::new(format!("{name}.bias"), &shape[..1], TensorRole::Shift),
    ]
}

/// Lists scale and shift of a layer normalization of width `d`.
fn norm_specs(name: &str, d: usize) -> [TensorSpec; 2] {
    [
        TensorSpec::new(format!("{name}.weight"), &[d], TensorRole::Scale),
        TensorSpec::new(format!("{name}.bias"), &[d], TensorRole::Shift),
    ]
}

impl EncoderConfig {
    /// Returns the sizes of the published checkpoint that the paper uses.
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

    /// Returns sizes of the same architecture that are small enough to train on two cores.
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

    /// Reads the `config.json` of an encoder of the given kind.
    ///
    /// Absent keys take the defaults of Hugging Face's configuration classes. Of a whole CLIP
    /// model, the vision part is taken. Errors name the file and the key.
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
        if !kind.has_model_type(model_type) {
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
        // Architectures that this program does not compute are refused: they would load, and give
        // wrong numbers.
        let only = |key: &str, known: Value| match &json[key] {
            Value::Null => Ok(()),
            v if *v == known => Ok(()),
            v => Err(anyhow!(
                "{key} is {v}; only {known} is computed here, take {}",
                kind.hub_name()
            )),
        };
        match kind {
            Kind::Clip => only("num_channels", 3.into())?,
            Kind::Bert => {
                only("position_embedding_type", "absolute".into())?;
                only("is_decoder", false.into())?;
            }
            Kind::Ast => only("qkv_bias", true.into())?,
        }
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

    /// Refuses sizes for which a GPU has no kernels.
    pub fn check_gpu(&self) -> Result<()> {
        engine::cuda::check_sizes(self.hidden, self.heads, self.intermediate)
            .map_err(|e| anyhow!("the {} encoder: {e}; add --device cpu", self.kind.name()))
    }

    /// Returns the number of patches of one input; 0 for text, whose length varies.
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

    /// Returns the canonical name of a layer of block number `block`, to which `.weight` or `.bias`
    /// is to be appended.
    pub(crate) fn layer_name(&self, block: usize, layer: BlockLayer) -> String {
        let (prefix, name) = match self.kind {
            Kind::Clip => (
                "encoder.layers",
                match layer {
                    BlockLayer::Query => "self_attn.q_proj",
                    BlockLayer::Key => "self_attn.k_proj",
                    BlockLayer::Value => "self_attn.v_proj",
                    BlockLayer::Out => "self_attn.out_proj",
                    BlockLayer::Norm1 => "layer_norm1",
                    BlockLayer::Norm2 => "layer_norm2",
                    BlockLayer::Fc1 => "mlp.fc1",
                    BlockLayer::Fc2 => "mlp.fc2",
                },
            ),
            Kind::Bert => (
                "encoder.layer",
                match layer {
                    BlockLayer::Query => "attention.self.query",
                    BlockLayer::Key => "attention.self.key",
                    BlockLayer::Value => "attention.self.value",
                    BlockLayer::Out => "attention.output.dense",
                    BlockLayer::Norm1 => "attention.output.LayerNorm",
                    BlockLayer::Norm2 => "output.LayerNorm",
                    BlockLayer::Fc1 => "intermediate.dense",
                    BlockLayer::Fc2 => "output.dense",
                },
            ),
            Kind::Ast => (
                "encoder.layer",
                match layer {
                    BlockLayer::Query => "attention.attention.query",
                    BlockLayer::Key => "attention.attention.key",
                    BlockLayer::Value => "attention.attention.value",
                    BlockLayer::Out => "attention.output.dense",
                    BlockLayer::Norm1 => "layernorm_before",
                    BlockLayer::Norm2 => "layernorm_after",
                    BlockLayer::Fc1 => "intermediate.dense",
                    BlockLayer::Fc2 => "output.dense",
                },
            ),
        };
        format!("{prefix}.{block}.{name}")
    }

    /// Lists every tensor of the encoder. BERT's pooler is among them, although it is never used.
    ///
    /// The order is part of [`super::weights::Weights::random`]: it numbers the tensors.
    pub fn specs(&self) -> Vec<TensorSpec> {
        let mut specs = self.embedding_specs();
        for layer in 0..self.layers {
            self.add_block_specs(layer, &mut specs);
        }
        let d = self.hidden;
        match self.kind {
            Kind::Clip => specs.extend(norm_specs("post_layernorm", d)),
            Kind::Bert => specs.extend(linear_specs("pooler.dense", [d, d])),
            Kind::Ast => specs.extend(norm_specs("layernorm", d)),
        }
        specs
    }

    /// Lists the tensors below the first block, CLIP's norm before it included.
    fn embedding_specs(&self) -> Vec<TensorSpec> {
        use TensorRole::{Embedding, Matrix, Shift};
        let d = self.hidden;
        let named = |name: &str, shape: &[usize], role| {
            TensorSpec::new(format!("embeddings.{name}"), shape, role)
        };
        match self.input {
            InputSize::Image { patch, .. } => {
                let positions = [self.patches() + 1, d];
                let mut specs = vec![
                    named("class_embedding", &[d], Embedding),
                    named("patch_embedding.weight", &[d, 3, patch, patch], Matrix),
                    named("position_embedding.weight", &positions, Embedding),
                ];
                specs.extend(norm_specs("pre_layrnorm", d));
                specs
            }
            InputSize::Text {
                vocab,
                positions,
                types,
            } => {
                let mut specs = vec![
                    named("word_embeddings.weight", &[vocab, d], Embedding),
                    named("position_embeddings.weight", &[positions, d], Embedding),
                    named("token_type_embeddings.weight", &[types, d], Embedding),
                ];
                specs.extend(norm_specs("embeddings.LayerNorm", d));
                specs
            }
            InputSize::Mel { patch, .. } => {
                let positions = [1, self.patches() + 2, d];
                let projection = [d, 1, patch, patch];
                vec![
                    named("cls_token", &[1, 1, d], Embedding),
                    named("distillation_token", &[1, 1, d], Embedding),
                    named("position_embeddings", &positions, Embedding),
                    named("patch_embeddings.projection.weight", &projection, Matrix),
                    named("patch_embeddings.projection.bias", &[d], Shift),
                ]
            }
        }
    }

    fn add_block_specs(&self, layer: usize, specs: &mut Vec<TensorSpec>) {
        let (d, m) = (self.hidden, self.intermediate);
        for (part, shape) in [
            (BlockLayer::Query, [d, d]),
            (BlockLayer::Key, [d, d]),
            (BlockLayer::Value, [d, d]),
            (BlockLayer::Out, [d, d]),
            (BlockLayer::Fc1, [m, d]),
            (BlockLayer::Fc2, [d, m]),
        ] {
            specs.extend(linear_specs(&self.layer_name(layer, part), shape));
        }
        for part in [BlockLayer::Norm1, BlockLayer::Norm2] {
            specs.extend(norm_specs(&self.layer_name(layer, part), d));
        }
    }

    /// Returns the number of the encoder's weights.
    pub fn parameters(&self) -> usize {
        self.specs()
            .iter()
            .map(|s| s.shape.iter().product::<usize>())
            .sum()
    }
}

/// The layers of a block that have weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockLayer {
    /// The query projection.
    Query,
    /// The key projection.
    Key,
    /// The value projection.
    Value,
    /// The output layer of attention.
    Out,
    /// The normalization before attention; in BERT after it.
    Norm1,
    /// The normalization before the feed-forward part; in BERT after it.
    Norm2,
    /// The first layer of the feed-forward part.
    Fc1,
    /// The second layer of the feed-forward part.
    Fc2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_equal_the_papers() {
        // They add up to the totals of the paper's Tables 1 and 2.
        assert_eq!(EncoderConfig::base(Kind::Clip).parameters(), 85_799_424);
        assert_eq!(EncoderConfig::base(Kind::Bert).parameters(), 109_482_240);
        assert_eq!(EncoderConfig::base(Kind::Ast).parameters(), 86_187_264);
        assert_eq!(EncoderConfig::base(Kind::Ast).patches(), 12 * 101);
    }

    #[test]
    fn vision_config_is_read_from_a_full_clip_config() {
        let json = serde_json::json!({
            "model_type": "clip",
            "vision_config": {"patch_size": 16, "hidden_act": "quick_gelu"},
            "text_config": {},
        });
        assert_eq!(
            EncoderConfig::from_json(&json, Kind::Clip).unwrap(),
            EncoderConfig::base(Kind::Clip)
        );
    }

    #[test]
    fn keys_of_other_architectures_are_refused() {
        for (kind, model_type, key, value) in [
            (
                Kind::Bert,
                "bert",
                "position_embedding_type",
                serde_json::json!("relative_key"),
            ),
            (Kind::Bert, "bert", "is_decoder", true.into()),
            (Kind::Clip, "clip_vision_model", "num_channels", 1.into()),
            (
                Kind::Ast,
                "audio-spectrogram-transformer",
                "qkv_bias",
                false.into(),
            ),
        ] {
            let mut json = serde_json::json!({"model_type": model_type});
            assert!(EncoderConfig::from_json(&json, kind).is_ok());
            json[key] = value.clone();
            let error = EncoderConfig::from_json(&json, kind).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(&format!("{key} is {value}")), "{error}");
        }
    }

    #[test]
    fn wrong_architectures_and_sizes_are_named() {
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
