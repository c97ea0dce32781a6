//! A run on images and texts: its best checkpoint under a mask, and labels for new files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use serde_json::Value;
use tests::{EXIT_DONE, command, json_lines, run, temp};

/// Exit code where something needs attention.
const EXIT_FINDINGS: i32 = 1;

fn synthesise(raw: &Path, shards: &Path) {
    run(command("ingest", ["synth", "mm-imdb", "--samples", "60", "--out"]).arg(raw))
        .expect(EXIT_DONE);
    let mut ingest = command("ingest", ["run", "mm-imdb", "--raw"]);
    run(ingest.arg(raw).arg("--out").arg(shards)).expect(EXIT_DONE);
}

fn train(shards: &Path, out: &Path, mask: [&str; 2]) {
    let [protocol, rate] = mask;
    let arguments = "run mm-imdb --epochs 2 --lr 1e-2 --seed 11 --random-weights 0 \
                     --encoders tiny --set text_length=40 --train-mask";
    run(command("train", arguments.split_whitespace())
        .args([protocol, "--set"])
        .arg(format!("train_mask_rate={rate}"))
        .arg("--shards")
        .arg(shards)
        .arg("--out")
        .arg(out))
    .expect(EXIT_DONE);
}

/// The score that chooses the best checkpoint is that of validation data under the mask of the
/// training: the same as `eval` computes with that mask. A mask that hides nothing leaves modality
/// dropout on.
#[test]
fn best_checkpoint_is_chosen_under_the_mask_of_the_training() {
    let folder = temp();
    let (raw, shards) = (folder.path().join("raw"), folder.path().join("shards"));
    synthesise(&raw, &shards);
    for (protocol, rate, dropout) in [
        ("missing-text", "1", false),
        ("missing-both", "0.7", false),
        ("missing-image", "0", true),
    ] {
        let out = folder.path().join(protocol);
        train(&shards, &out, [protocol, rate]);
        let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
        assert!(config.contains(&format!("modality_dropout = {dropout}\n")));
        let score = |line: &Value| line["metrics"]["f1_macro"].as_f64().unwrap();
        let log = json_lines(&out.join("metrics.jsonl"));
        let best = log.iter().filter(|line| line["split"] == "val");
        let best = best.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        let evaluate = |mask: &[&str]| -> Value {
            let mut eval = command("train", ["eval", "--json", "--split", "val"]);
            run(eval.arg(&out).args(mask)).expect(EXIT_DONE).json()
        };
        let masked = evaluate(&["--protocol", protocol, "--rate", rate, "--seed", "11"]);
        assert_eq!(best["metrics"], masked["metrics"], "{protocol}");
        // Without the mask, the score is another one, unless the mask hides nothing.
        let plain = evaluate(&[]);
        assert_eq!(
            best["metrics"] == plain["metrics"],
            rate == "0",
            "{protocol}"
        );
    }
}

/// No bad file keeps the others from being labelled.
#[test]
fn every_good_file_is_labelled() {
    let folder = temp();
    let (raw, shards) = (folder.path().join("raw"), folder.path().join("shards"));
    let out = folder.path().join("run");
    synthesise(&raw, &shards);
    train(&shards, &out, ["missing-both", "0.7"]);

    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    // More than the failures in a row that end an ingest.
    let mut files: Vec<_> = (0..101)
        .map(|i| file(&format!("bad{i}.jpg"), b"no picture"))
        .collect();
    files.push(file("latin.txt", b"caf\xE9"));
    files.push(folder.path().join("gone.jpg"));
    files.push(file(
        "Dr. Smith, take 2",
        b"GIF89a\x01\0\x01\0\x80\0\0\xFF\xFF\xFF\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    ));
    files.push(file("good.txt", b"a film about a dog"));
    let answer = run(command("train", ["predict", "--json"])
        .arg(&out)
        .args(&files))
    .expect(EXIT_FINDINGS)
    .json();
    let answers = answer.as_array().unwrap();
    assert_eq!(answers.len(), files.len());
    for (answer, file) in answers.iter().zip(&files) {
        assert_eq!(answer["files"][0], *file.to_str().unwrap());
        let seen = answer["seen"].as_array().unwrap();
        let is_good = file.ends_with("good.txt") || file.ends_with("Dr. Smith, take 2");
        assert_eq!(!seen.is_empty(), is_good, "{answer}");
        let problem = answer["problem"].as_str().unwrap_or_default();
        assert_eq!(problem.is_empty(), is_good, "{answer}");
        assert!(!problem.contains("u2a-predict") && !problem.contains("sample-"));
    }
    let mut empty = command("train", ["predict", "--text", ""]);
    run(empty.arg(&out)).expect_usage(&["--text", "empty"]);
}
