//! From synthetic raw clips to an evaluated run by the two programs, with every documented file of
//! the run folder.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tests::{CremaD, EXIT_DONE, command, json_lines, names, run, tensorboard, weights};

const SAMPLES: usize = 48;

fn row_count(shard: &Path) -> usize {
    let file = std::fs::File::open(shard).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    reader.map(|batch| batch.unwrap().num_rows()).sum()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no number '{key}' in {value}"))
}

#[test]
fn crema_d_from_raw_clips_to_scores() {
    let data = CremaD::new(SAMPLES);
    let raw = data.raw();
    for folder in ["VideoFlash", "AudioWAV"] {
        assert!(raw.join(folder).is_dir(), "{:?}", names(&raw));
    }
    let checked = run(command("ingest", ["check", "crema-d", "--json", "--raw"]).arg(&raw));
    // A miniature has fewer samples than the whole dataset, which is a finding.
    assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
    checked.json();

    let shards = data.shards();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(shards.join("manifest.json")).unwrap()).unwrap();
    let mut per_split: BTreeMap<String, usize> = BTreeMap::new();
    for name in names(&shards).iter().filter(|name| name.contains("-of-")) {
        let split = name.split('-').next().unwrap();
        let entry = manifest["shards"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| {
                entry
                    .as_object()
                    .unwrap()
                    .values()
                    .any(|v| v == name.as_str())
            })
            .unwrap_or_else(|| panic!("{name} is not in the manifest"));
        let bytes = std::fs::read(shards.join(name)).unwrap();
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(entry["sha256"], digest.as_str());
        assert_eq!(number(entry, "bytes"), bytes.len() as f64);
        let rows = row_count(&shards.join(name));
        assert_eq!(number(entry, "rows"), rows as f64);
        *per_split.entry(split.to_owned()).or_default() += rows;
    }
    assert_eq!(
        per_split.values().sum::<usize>() + row_count(&shards.join("failures.parquet")),
        SAMPLES
    );
    assert!(
        per_split["train"] > per_split["test"] && per_split["test"] > 0,
        "{per_split:?}"
    );
    run(command("ingest", ["inspect", "--json"]).arg(&shards))
        .expect(EXIT_DONE)
        .json();

    let out = data.shards().with_file_name("run");
    run(command(
        "train",
        [
            "run",
            "crema-d",
            "--epochs",
            "2",
            "--batch-size",
            "8",
            "--lr",
            "1e-3",
            "--seed",
            "5",
        ],
    )
    .arg("--shards")
    .arg(&shards)
    .arg("--weights")
    .arg(weights())
    .arg("--out")
    .arg(&out))
    .expect(EXIT_DONE);
    assert_run_folder_is_complete(&out, per_split["train"], 2, 8);

    for missing in [None, Some("audio"), Some("video")] {
        let before = names(&out);
        let mut evaluate = command("train", ["eval"]);
        evaluate.arg(&out);
        if let Some(missing) = missing {
            evaluate.args(["--missing", missing]);
        }
        run(&mut evaluate).expect(EXIT_DONE);
        let new: Vec<String> = names(&out)
            .into_iter()
            .filter(|name| !before.contains(name))
            .collect();
        let result = new
            .iter()
            .find(|name| name.starts_with("eval-") && name.ends_with(".json"));
        let result = result.unwrap_or_else(|| panic!("eval --missing {missing:?} wrote {new:?}"));
        let result: Value =
            serde_json::from_slice(&std::fs::read(out.join(result)).unwrap()).unwrap();
        assert_confusion_agrees_with_accuracy(&result, per_split["test"]);
        let predictions = new
            .iter()
            .find(|name| name.starts_with("predictions-"))
            .expect("predictions");
        assert_eq!(row_count(&out.join(predictions)), per_split["test"]);
    }
}

/// Asserts that a run folder has the documented files, with the documented contents.
fn assert_run_folder_is_complete(run: &Path, samples: usize, epochs: usize, batch: usize) {
    let config: String = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("seed = 5"), "{config}");

    let lines = json_lines(&run.join("metrics.jsonl"));
    let steps: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("task_loss").is_some())
        .collect();
    let per_epoch = samples.div_ceil(batch);
    assert_eq!(steps.len(), epochs * per_epoch);
    assert!(lines.len() > steps.len(), "no evaluation in metrics.jsonl");
    for (i, line) in steps.iter().enumerate() {
        assert_eq!(number(line, "step"), (i + 1) as f64, "steps count from 1");
        let sum = number(line, "task_loss") + 0.2 * number(line, "align_loss");
        assert!((number(line, "loss") - sum).abs() < 1e-5, "{line}");
        // Both epochs are warm-up, at a tenth of the learning rate.
        assert!((number(line, "lr") - 1e-4).abs() < 1e-12, "{line}");
        assert!(line.get("epoch").is_some());
    }

    let curves = tensorboard::read(&run.join("tensorboard"));
    for (key, tag) in [("loss", "loss"), ("lr", "lr")] {
        let curve: Vec<f32> = curves
            .iter()
            .filter(|s| s.tag.rsplit('/').next() == Some(tag))
            .map(|s| s.value)
            .collect();
        let wanted: Vec<f32> = steps.iter().map(|line| number(line, key) as f32).collect();
        assert!(
            curve.len() >= wanted.len(),
            "TensorBoard has {} of {} {tag}",
            curve.len(),
            wanted.len()
        );
        assert_eq!(curve[..wanted.len()], wanted, "{tag}");
    }

    let checkpoints: Vec<String> = names(run)
        .into_iter()
        .filter(|n| n.starts_with("checkpoint-"))
        .collect();
    assert!(!checkpoints.is_empty());
    for folder in checkpoints.iter().map(String::as_str).chain(["best"]) {
        let folder = run.join(folder);
        for modality in ["audio", "video"] {
            let config: Value = serde_json::from_slice(
                &std::fs::read(folder.join(modality).join("adapter_config.json")).unwrap(),
            )
            .unwrap();
            assert_eq!(config["peft_type"], "LORA");
            assert_eq!(config["r"], 1);
            let adapter = tensors(&folder.join(modality).join("adapter_model.safetensors"));
            // The small encoders have 3 blocks with 4 adapted linear layers each, with matrices A
            // and B.
            assert_eq!(adapter.len(), 3 * 4 * 2);
            for (name, shape) in &adapter {
                let expected = if name.ends_with(".lora_A.weight") {
                    [1, 32]
                } else {
                    [32, 1]
                };
                assert!(name.starts_with("base_model.model."), "{name}");
                assert_eq!(shape, &expected, "{name}");
            }
        }
        let head = tensors(&folder.join("head.safetensors"));
        assert_eq!(
            head.keys().map(String::as_str).collect::<Vec<_>>(),
            ["bias", "mask_token.audio", "mask_token.video", "weight"]
        );
        assert_eq!(head["weight"], [6, 32]);
        let state: Value =
            serde_json::from_slice(&std::fs::read(folder.join("state.json")).unwrap()).unwrap();
        assert!(
            state.get("step").is_some() && state.get("epoch").is_some(),
            "{state}"
        );
        assert!(!tensors(&folder.join("optimizer.safetensors")).is_empty());
    }
}

/// The shapes of the tensors in a safetensors file, by name. Asserts that they fill the file.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u64>> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut end = 0;
    let mut out = BTreeMap::new();
    for (name, entry) in header.as_object().unwrap() {
        if name != "__metadata__" {
            let shape = entry["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .collect();
            end = end.max(entry["data_offsets"][1].as_u64().unwrap());
            out.insert(name.clone(), shape);
        }
    }
    assert_eq!(
        8 + length as u64 + end,
        bytes.len() as u64,
        "{}",
        path.display()
    );
    out
}

/// Asserts that the confusion matrix counts every test sample and agrees with the accuracy.
fn assert_confusion_agrees_with_accuracy(result: &Value, samples: usize) {
    let confusion = find(result, "confusion").expect("a confusion matrix");
    let counts: Vec<Vec<f64>> = confusion
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            row.as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_f64().unwrap())
                .collect()
        })
        .collect();
    let total: f64 = counts.iter().flatten().sum();
    let correct: f64 = (0..counts.len()).map(|i| counts[i][i]).sum();
    assert_eq!(total, samples as f64);
    let accuracy = find(result, "accuracy")
        .and_then(Value::as_f64)
        .expect("an accuracy");
    assert!(
        (accuracy - correct / total).abs() < 1e-6,
        "{accuracy}, but {correct} of {total} are correct"
    );
}

/// The first value of a key at any depth.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map
            .get(key)
            .or_else(|| map.values().find_map(|inner| find(inner, key))),
        Value::Array(list) => list.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}
