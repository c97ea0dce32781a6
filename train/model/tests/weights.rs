//! Weights under every name and in every file format that a checkpoint comes in.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{golden, key};
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::weights::{CONFIG_FILE, Weights};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

const FILE: &str = "model.safetensors";

fn folder(kind: Kind) -> std::path::PathBuf {
    golden().join("models").join(kind.folder())
}

fn tensors(kind: Kind) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder(kind).join(FILE), &Device::Cpu).unwrap()
}

/// Every tensor that the encoder has, or the error.
fn read(folder: &Path, kind: Kind) -> Result<Vec<Vec<f32>>, String> {
    let config = EncoderConfig::read(&folder.join(CONFIG_FILE), kind).unwrap();
    let mut weights = Weights::load(folder, &config).map_err(|e| format!("{e:#}"))?;
    let specs = config.specs().into_iter();
    Ok(specs
        .map(|spec| {
            let tensor = weights.take(&spec.name).unwrap();
            assert_eq!(tensor.dims(), spec.shape);
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        })
        .collect())
}

/// Writes a checkpoint with these tensors and reads it.
fn reread(kind: Kind, tensors: &HashMap<String, Tensor>) -> Result<Vec<Vec<f32>>, String> {
    let temporary = tempfile::tempdir().unwrap();
    let config = folder(kind).join(CONFIG_FILE);
    std::fs::copy(config, temporary.path().join(CONFIG_FILE)).unwrap();
    candle_core::safetensors::save(tensors, temporary.path().join(FILE)).unwrap();
    read(temporary.path(), kind)
}

#[test]
fn names_of_transformers_4_and_5_are_read() {
    let text = std::fs::read_to_string(golden().join("models/layouts.json")).unwrap();
    let layouts: Value = serde_json::from_str(&text).unwrap();
    let mut seen = 0;
    for kind in [Kind::Clip, Kind::Ast, Kind::Bert] {
        let (hub, tensors) = (read(&folder(kind), kind).unwrap(), tensors(kind));
        for (layout, names) in layouts[key(kind)].as_object().unwrap() {
            let renamed: HashMap<String, Tensor> = names
                .as_object()
                .unwrap()
                .iter()
                .map(|(old, new)| (new.as_str().unwrap().into(), tensors[old].clone()))
                .collect();
            assert!(reread(kind, &renamed).unwrap() == hub, "{kind:?} {layout}");
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen} layouts");
}

#[test]
fn pickled_pytorch_file_is_read() {
    let temporary = tempfile::tempdir().unwrap();
    let kind = Kind::Clip;
    let file = "pytorch_model.bin";
    let from = golden().join("bin").join(kind.folder()).join(file);
    std::fs::copy(from, temporary.path().join(file)).unwrap();
    let config = folder(kind).join(CONFIG_FILE);
    std::fs::copy(config, temporary.path().join(CONFIG_FILE)).unwrap();
    assert!(read(temporary.path(), kind) == read(&folder(kind), kind));
}

#[test]
fn missing_misshapen_and_extra_tensors_are_named() {
    for (kind, name) in [
        (
            Kind::Clip,
            "vision_model.encoder.layers.1.self_attn.k_proj.weight",
        ),
        (
            Kind::Ast,
            "audio_spectrogram_transformer.embeddings.position_embeddings",
        ),
        (Kind::Bert, "bert.encoder.layer.2.output.dense.bias"),
    ] {
        let whole = tensors(kind);
        let short = &name[name.find('.').unwrap() + 1..];
        let refused = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
            let mut tensors = whole.clone();
            change(&mut tensors);
            let error = reread(kind, &tensors).unwrap_err();
            assert!(error.contains(FILE) && !error.contains('\n'), "{error}");
            error
        };
        let missing = refused(&|t| {
            t.remove(name).unwrap();
        });
        assert!(
            missing.contains(&format!("{short} is missing")),
            "{missing}"
        );
        let misshapen = refused(&|t| {
            let tensor = t[name].flatten_all().unwrap();
            t.insert(name.into(), Tensor::cat(&[&tensor, &tensor], 0).unwrap());
        });
        assert!(
            misshapen.contains(&format!("{short} has shape")),
            "{misshapen}"
        );
        let extra = name.replace(".1.", ".7.").replace(".2.", ".7.");
        if extra != name {
            let extra = refused(&|t| {
                t.insert(extra.clone(), t[name].clone());
            });
            assert!(extra.contains(".7.") && extra.contains("beyond"), "{extra}");
        }
    }
}

/// A file that was cut off is an error that names it, wherever the cut is.
#[test]
fn truncated_files_are_named() {
    let kind = Kind::Clip;
    let bin = "pytorch_model.bin";
    for (from, file) in [
        (folder(kind), FILE),
        (golden().join("bin").join(kind.folder()), bin),
    ] {
        let whole = std::fs::read(from.join(file)).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let config = folder(kind).join(CONFIG_FILE);
        std::fs::copy(config, temporary.path().join(CONFIG_FILE)).unwrap();
        for end in [0, 1, 8, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(temporary.path().join(file), &whole[..end]).unwrap();
            let error = read(temporary.path(), kind).unwrap_err();
            let named = error.contains(file) && error.contains("fetch it again");
            assert!(named && !error.contains('\n'), "{end} bytes: {error}");
        }
    }
}

/// Checkpoints in half precision are read as f32.
#[test]
fn half_precision_is_read_as_f32() {
    let kind = Kind::Bert;
    let cast = |dtype| -> HashMap<String, Tensor> {
        let cast = |t: &Tensor| t.to_dtype(dtype).unwrap();
        tensors(kind)
            .iter()
            .map(|(n, t)| (n.clone(), cast(t)))
            .collect()
    };
    let single = reread(kind, &cast(DType::F32)).unwrap();
    for (dtype, limit) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let half = reread(kind, &cast(dtype)).unwrap();
        let pairs = || single.iter().flatten().zip(half.iter().flatten());
        assert!(pairs().all(|(a, b)| (a - b).abs() <= limit * a.abs().max(1e-3)));
        assert!(pairs().any(|(a, b)| a != b));
    }
}

/// Writes the tensors as `parts` files beside their index.
fn write_parts(folder: &Path, kind: Kind, parts: usize) {
    let whole = tensors(kind);
    let mut names: Vec<&String> = whole.keys().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for part in 0..parts {
        let file = format!("model-{:05}-of-{parts:05}.safetensors", part + 1);
        let own: HashMap<String, Tensor> = names
            .iter()
            .skip(part)
            .step_by(parts)
            .map(|name| ((*name).clone(), whole[*name].clone()))
            .collect();
        map.extend(own.keys().map(|name| (name.clone(), file.clone().into())));
        candle_core::safetensors::save(&own, folder.join(file)).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    let config = self::folder(kind).join(CONFIG_FILE);
    std::fs::copy(config, folder.join(CONFIG_FILE)).unwrap();
}

#[test]
fn safetensors_in_parts_are_read_by_their_index() {
    for (kind, parts) in [(Kind::Clip, 1), (Kind::Bert, 2), (Kind::Ast, 5)] {
        let temporary = tempfile::tempdir().unwrap();
        write_parts(temporary.path(), kind, parts);
        let whole = read(&folder(kind), kind).unwrap();
        assert!(read(temporary.path(), kind).unwrap() == whole, "{kind:?}");
        let part = format!("model-{parts:05}-of-{parts:05}.safetensors");
        std::fs::remove_file(temporary.path().join(&part)).unwrap();
        let error = read(temporary.path(), kind).unwrap_err();
        assert!(
            error.contains(&part) && error.contains("is missing"),
            "{error}"
        );
    }
}

/// What downloads leave in place of the weights.
#[test]
fn files_that_are_no_weights_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n";
    let kind = Kind::Bert;
    for (file, content, problem) in [
        (FILE, pointer, "a pointer of Git LFS"),
        ("pytorch_model.bin", pointer, "a pointer of Git LFS"),
        (FILE, "\n<!DOCTYPE html><html>", "a web page"),
        (
            "model.safetensors.index.json",
            pointer,
            "no index of tensors",
        ),
        (
            "model.safetensors.index.json",
            "{\"weight_map\": {}}",
            "no index of tensors",
        ),
        ("pytorch_model.bin.index.json", "{}", "in several parts"),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let config = folder(kind).join(CONFIG_FILE);
        std::fs::copy(config, temporary.path().join(CONFIG_FILE)).unwrap();
        std::fs::write(temporary.path().join(file), content).unwrap();
        let error = read(temporary.path(), kind).unwrap_err();
        let named = error.contains(file) && error.contains(problem);
        assert!(named && !error.contains('\n'), "{file}: {error}");
    }
    // One of several parts.
    let temporary = tempfile::tempdir().unwrap();
    write_parts(temporary.path(), kind, 2);
    let part = "model-00002-of-00002.safetensors";
    std::fs::write(temporary.path().join(part), pointer).unwrap();
    let error = read(temporary.path(), kind).unwrap_err();
    assert!(error.contains(part) && error.contains("Git LFS"), "{error}");
}
