//! A trained encoder as a folder of its own in Hugging Face's layout (`config.json`,
//! `model.safetensors`, and the files that say how its inputs are made), which `--weights` and transformers read.
//!
//! Tensor names are those of transformers 4's `save_pretrained`, which version 5 reads as well.

use crate::encoder::config::{EncoderConfig, InputSize, Kind};
use crate::encoder::weights::{CONFIG_FILE, VOCAB_FILE, WeightSource, Weights};
use anyhow::{Context, Result};
use candle_core::Tensor;
use engine::Activation;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The files beside the weights that say how an image or a sound becomes the encoder's input, in
/// the order in which they are tried.
pub const PREPROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];
/// The file beside the weights that says how a text is cleaned.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// The file beside the weights with the whole tokenizer, vocabulary included.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The weights file of the folder.
const MODEL_FILE: &str = "model.safetensors";
/// The file that takes the place of `vocab.txt` where words were numbered by a hash.
pub const HASHED_FILE: &str = "hashed_words.txt";
const HASHED_NOTE: &str = "This encoder was trained from random weights; \
its words are numbered by a hash, not by a vocabulary.\n";

/// Returns the content of `config.json`.
fn config_json(config: &EncoderConfig) -> Value {
    let activation = match config.activation {
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    };
    let mut json = json!({
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
        "hidden_act": activation,
        "layer_norm_eps": config.norm_eps,
    });
    let (model, class) = match config.kind {
        Kind::Clip => ("clip_vision_model", "CLIPVisionModel"),
        Kind::Bert => ("bert", "BertModel"),
        Kind::Ast => ("audio-spectrogram-transformer", "ASTModel"),
    };
    json["model_type"] = json!(model);
    json["architectures"] = json!([class]);
    let (hidden, attention) = match config.kind {
        Kind::Clip => ("dropout", "attention_dropout"),
        _ => ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    };
    json[hidden] = json!(config.hidden_dropout);
    json[attention] = json!(config.attention_dropout);
    let sizes = match config.input {
        InputSize::Image { size, patch } => json!({"image_size": size, "patch_size": patch}),
        InputSize::Text {
            vocab,
            positions,
            types,
        } => {
            json!({"vocab_size": vocab, "max_position_embeddings": positions, "type_vocab_size": types})
        }
        InputSize::Mel {
            frames,
            bins,
            patch,
            time_stride,
            frequency_stride,
        } => json!({
            "max_length": frames, "num_mel_bins": bins, "patch_size": patch,
            "time_stride": time_stride, "frequency_stride": frequency_stride,
        }),
    };
    for (key, value) in sizes.as_object().into_iter().flatten() {
        json[key] = value.clone();
    }
    json
}

/// Writes the folder of a trained encoder. The files that say how its inputs are made are copied
/// from `source`, the source of the weights before training.
pub fn write(
    folder: &Path,
    config: &EncoderConfig,
    weights: &Weights,
    source: &WeightSource,
) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be created", folder.display()))?;
    let prefix = match config.kind {
        Kind::Clip => "vision_model.",
        Kind::Bert | Kind::Ast => "",
    };
    let tensors: HashMap<String, Tensor> = weights
        .iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()))
        .collect();
    let path = folder.join(MODEL_FILE);
    candle_core::safetensors::save(&tensors, &path)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    let path = folder.join(CONFIG_FILE);
    fs::write(&path, format!("{:#}\n", config_json(config)))
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    let source = source.folder(config.kind)?;
    let side_files: &[&str] = match config.kind {
        Kind::Clip | Kind::Ast => &PREPROCESSOR_FILES,
        Kind::Bert => &[VOCAB_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE],
    };
    for name in side_files {
        let Some(from) = source.as_ref().map(|folder| folder.join(name)) else {
            continue;
        };
        if from.is_file() {
            let path = folder.join(name);
            fs::copy(&from, &path)
                .with_context(|| format!("{}: cannot be written", path.display()))?;
        }
    }
    let words = [VOCAB_FILE, TOKENIZER_FILE];
    if config.kind == Kind::Bert && !words.iter().any(|name| folder.join(name).is_file()) {
        let path = folder.join(HASHED_FILE);
        fs::write(&path, HASHED_NOTE)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_folder_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [Kind::Clip, Kind::Bert, Kind::Ast] {
            let config = EncoderConfig {
                hidden_dropout: 0.25,
                ..EncoderConfig::tiny(kind)
            };
            let weights = Weights::random(3, &config).unwrap();
            let path = folder.path().join(kind.folder());
            write(&path, &config, &weights, &WeightSource::Random(3)).unwrap();
            let read = EncoderConfig::read(&path.join(CONFIG_FILE), kind).unwrap();
            assert_eq!(read, config);
            let back = Weights::load(&path, &read).unwrap();
            for ((name, a), (other, b)) in weights.iter().zip(back.iter()) {
                assert_eq!(name, other);
                let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(values(a), values(b), "{name}");
            }
            assert_eq!(path.join(HASHED_FILE).is_file(), kind == Kind::Bert);
        }
    }
    /// A trained encoder reads its inputs as it did before training.
    #[test]
    fn side_files_are_copied() {
        let weights = tempfile::tempdir().unwrap();
        for (kind, name) in [
            (Kind::Clip, "preprocessor_config.json"),
            (Kind::Ast, "processor_config.json"),
            (Kind::Bert, "vocab.txt"),
            (Kind::Bert, "tokenizer.json"),
            (Kind::Bert, "tokenizer_config.json"),
        ] {
            let source = weights.path().join(kind.folder());
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join(name), name).unwrap();
            let config = EncoderConfig::tiny(kind);
            let random = Weights::random(3, &config).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let from = WeightSource::Folder(weights.path().to_path_buf());
            write(folder.path(), &config, &random, &from).unwrap();
            let copied = fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(copied, name);
            assert!(!folder.path().join(HASHED_FILE).exists());
        }
    }
}
