//! Methods that train in turns or in stages: a run that is stopped anywhere and resumed equals one
//! that is not, and its evaluation and predictions follow its stage.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tests::{EXIT_DONE, command, contents, json_lines, run, temp, weights};

/// A synthetic AVE, which has a validation split: its raw tree and its shards, which all tests of
/// this program share and none writes to.
fn data() -> &'static [PathBuf; 2] {
    static DATA: OnceLock<[PathBuf; 2]> = OnceLock::new();
    DATA.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("methods");
        // An earlier run of the program may have left it.
        drop(fs::remove_dir_all(&folder));
        let paths = ["raw", "shards"].map(|name| folder.join(name));
        let [raw, shards] = &paths;
        run(command("ingest", ["synth", "ave", "--samples", "32", "--out"]).arg(raw))
            .expect(EXIT_DONE);
        let mut ingest = command("ingest", ["run", "ave", "--raw"]);
        run(ingest.arg(raw).arg("--out").arg(shards)).expect(EXIT_DONE);
        paths
    })
}

fn train(out: &Path, arguments: &[&str]) -> Command {
    let mut train = command("train", ["run", "ave", "--batch-size", "4"]);
    train.args(["--epochs", "4", "--lr", "1e-3"]);
    train.args(arguments).arg("--shards").arg(&data()[1]);
    train.arg("--weights").arg(weights()).arg("--out").arg(out);
    train
}

/// The tensors of a run, by file.
fn tensors(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = contents(run).into_iter();
    let is_tensors = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
    files.filter(|(path, _)| is_tensors(path)).collect()
}

/// The losses of the steps, and the scores of the evaluations.
fn log(run: &Path) -> Vec<String> {
    let lines = json_lines(&run.join("metrics.jsonl"));
    let of = |line: &Value| {
        ["step", "loss", "task_loss", "align_loss", "lr", "metrics"]
            .map(|key| line[key].to_string())
            .join(" ")
    };
    lines.iter().map(of).collect()
}

/// The steps of an epoch.
fn steps_per_epoch(run: &Path) -> u64 {
    let lines = json_lines(&run.join("metrics.jsonl"));
    let first = lines.iter().filter(|line| line["epoch"] == 0);
    let steps = first.filter(|line| line.get("task_loss").is_some());
    steps.count() as u64
}

/// The step of the best checkpoint so far.
fn best_step(checkpoint: &Path) -> u64 {
    let state = fs::read(checkpoint.join("state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    state["best"][1].as_u64().unwrap()
}

/// Trains with a method, then again with stops after several numbers of steps: at the end of an
/// epoch, before and behind it. Returns the folder of the run without stops, and the steps of an
/// epoch.
fn stops_change_nothing(folder: &Path, arguments: &[&str]) -> (PathBuf, u64) {
    let straight = folder.join("straight");
    run(&mut train(&straight, arguments)).expect(EXIT_DONE);
    let epoch = steps_per_epoch(&straight);
    assert!(epoch > 2, "an epoch of {epoch} steps has no middle");
    let stopped = folder.join("stopped");
    let stops = [1, 2 * epoch - 1, 2 * epoch, 2 * epoch + 1, 3 * epoch];
    for (i, steps) in stops.iter().enumerate() {
        let mut part = match i {
            0 => train(&stopped, arguments),
            _ => {
                let mut resume = command("train", ["run", "ave", "--resume"]);
                resume.arg(&stopped);
                resume
            }
        };
        run(part.args(["--max-steps", &steps.to_string()])).expect(EXIT_DONE);
    }
    run(command("train", ["run", "ave", "--resume"]).arg(&stopped)).expect(EXIT_DONE);
    assert_eq!(log(&stopped), log(&straight));
    let (wanted, found) = (tensors(&straight), tensors(&stopped));
    // Each stop has added a checkpoint.
    for (path, bytes) in &wanted {
        assert!(found[path] == *bytes, "{} differs", path.display());
    }
    (straight, epoch)
}

/// The logits of the test samples: with both modalities, with the first alone and with the second
/// alone.
fn test_logits(folder: &Path, checkpoint: Option<&str>) -> [Vec<Vec<f32>>; 3] {
    [None, Some("video"), Some("audio")].map(|missing| {
        let mut eval = command("train", ["eval", "--json"]);
        eval.arg(folder);
        let mut name = "predictions-test".to_owned();
        if let Some(missing) = missing {
            eval.args(["--missing", missing]);
            name += &format!("-no-{missing}");
        }
        name += "-zeros";
        if let Some(checkpoint) = checkpoint {
            eval.args(["--checkpoint", checkpoint]);
            name += &format!("-{checkpoint}");
        }
        let evaluated = run(&mut eval).expect(EXIT_DONE).json();
        let accuracy = evaluated["metrics"]["accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy), "{evaluated}");
        logits(&folder.join(format!("{name}.parquet")))
    })
}

/// The logits in a file of predictions.
fn logits(path: &Path) -> Vec<Vec<f32>> {
    let file = fs::File::open(path).unwrap();
    let mut all = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap()
    {
        let batch = batch.unwrap();
        let logits = batch.column_by_name("logits").unwrap().as_list::<i32>();
        for row in 0..batch.num_rows() {
            let logits = logits.value(row);
            all.push(logits.as_primitive::<Float32Type>().values().to_vec());
        }
    }
    assert!(!all.is_empty());
    all
}

/// The largest value of a function of the logits with both modalities and with each alone.
fn largest(logits: &[Vec<Vec<f32>>; 3], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let [both, first, second] = logits;
    let all = both.iter().zip(first).zip(second);
    let all = all.flat_map(|((both, first), second)| both.iter().zip(first).zip(second));
    let values = all.map(|((both, first), second)| f(*both, *first, *second));
    values.fold(f32::MIN, f32::max)
}

/// The distance of a logit from the mean of the two modalities' own.
fn from_mean(both: f32, first: f32, second: f32) -> f32 {
    (both - (first + second) / 2.0).abs()
}

/// Asserts that `train predict` gives the model the audio and the video of a clip.
fn can_predict(folder: &Path) {
    let raw = &data()[0];
    let clip = contents(raw)
        .into_keys()
        .find(|path| path.extension().is_some_and(|e| e == "mp4"))
        .unwrap();
    let mut predict = command("train", ["predict", "--json"]);
    let answer = run(predict.arg(folder).arg(raw.join(clip)))
        .expect(EXIT_DONE)
        .json();
    assert_eq!(answer[0]["seen"], serde_json::json!(["audio", "video"]));
}

/// A missing modality is left out of MLA's prediction, which lies between those of the modalities.
#[test]
fn mla_resumes_bit_for_bit() {
    let folder = temp();
    let (trained, _) = stops_change_nothing(folder.path(), &["--method", "mla"]);
    let files = tensors(&trained);
    assert!(files.contains_key(Path::new("best/method.safetensors")));
    let logits = test_logits(&trained, None);
    let outside = largest(&logits, |both, a, b| {
        from_mean(both, a, b) - (a - b).abs() / 2.0
    });
    assert!(outside < 1e-5, "{outside}");
    assert!(largest(&logits, from_mean) > 1e-5, "no entropy differs");
    can_predict(&trained);
}

/// MMLoRA resumes on both sides of the switch between its stages and at it. The first stage trains
/// all weights, the second leaves them as they are; `best` is of the second.
#[test]
fn mmlora_resumes_bit_for_bit_across_its_stages() {
    let folder = temp();
    let settings = ["--method", "mmlora", "--set", "keep_checkpoints=100"];
    let (trained, epoch) = stops_change_nothing(folder.path(), &settings);
    let files = tensors(&trained);
    let of = |epochs: u64, file: &str| {
        let path = format!("checkpoint-{:08}/{file}", epochs * epoch);
        &files[Path::new(&path)]
    };
    for kind in [
        "ast-finetuned-audioset-10-10-0.4593",
        "clip-vit-base-patch16",
    ] {
        let weights = format!("weights/{kind}/model.safetensors");
        assert!(of(0, &weights) != of(1, &weights) && of(1, &weights) != of(2, &weights));
        assert!(of(2, &weights) == of(3, &weights) && of(3, &weights) == of(4, &weights));
    }
    for modality in ["audio", "video"] {
        let adapters = format!("{modality}/adapter_model.safetensors");
        assert!(of(0, &adapters) == of(2, &adapters));
        assert!(of(2, &adapters) != of(3, &adapters));
    }
    let best = best_step(&trained.join("best"));
    assert!(best > 2 * epoch, "step {best} is one of the first stage");
    can_predict(&trained);
    // A checkpoint of the first stage predicts the mean of the modalities' own heads.
    let first = format!("checkpoint-{:08}", 2 * epoch);
    assert!(largest(&test_logits(&trained, Some(&first)), from_mean) < 1e-5);
    assert!(largest(&test_logits(&trained, None), from_mean) > 1e-3);
}
