//! Every dataset from nothing to a score, by the six commands that a user types: synth, check, ingest, inspect, train,
//! eval.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use tests::{DONE, Ran, command, json_lines, run, temp};

/// Samples per tree: one of most classes.
const SAMPLES: usize = 32;

const STEPS: usize = 20;

/// What a dataset should hold as a whole, train, val and test; `None` where it has no such split.
type Expected = [Option<u64>; 3];

fn chain(dataset: &str, expected: Expected, classes: usize, metric: &str) {
    let folder = temp();
    let (raw, shards, out) = (
        folder.path().join("raw"),
        folder.path().join("shards"),
        folder.path().join("run"),
    );
    let samples = SAMPLES.to_string();
    let mut synth = command(
        "ingest",
        ["synth", dataset, "--samples", &samples, "--json", "--out"],
    );
    let made = run(synth.arg(&raw)).expect(DONE).json();
    let planned: u64 = made["splits"]
        .as_object()
        .unwrap()
        .values()
        .map(number)
        .sum();
    assert_eq!(planned, SAMPLES as u64);

    // A miniature lacks nothing of what its own annotation names; what the whole dataset holds stands beside it.
    let checked = run(command("ingest", ["check", dataset, "--json", "--raw"]).arg(&raw));
    let checked = checked.expect(DONE).json();
    assert_eq!(checked["missing"], Value::Array(vec![]), "{dataset}");
    let splits = checked["splits"].as_array().unwrap();
    let found: u64 = splits.iter().map(|split| number(&split["listed"])).sum();
    assert_eq!(found, SAMPLES as u64, "{dataset}");
    for split in splits {
        let place = ["train", "val", "test"]
            .iter()
            .position(|name| split["split"] == *name)
            .unwrap();
        assert_eq!(
            split["expected"].as_u64(),
            expected[place],
            "{dataset}: {split}"
        );
    }
    assert_eq!(checked["classes"].as_array().unwrap().len(), classes);

    let mut ingest = command(
        "ingest",
        ["run", dataset, "--json", "--frame-pool", "4", "--raw"],
    );
    let ran = run(ingest.arg(&raw).arg("--out").arg(&shards))
        .expect(DONE)
        .json();
    let totals = ran["manifest"]["totals"].as_object().unwrap();
    let sum = |key: &str| -> u64 { totals.values().map(|split| number(&split[key])).sum() };
    assert_eq!(
        (sum("samples"), sum("rows"), sum("quarantined")),
        (SAMPLES as u64, SAMPLES as u64, 0)
    );
    for split in splits {
        let name = split["split"].as_str().unwrap();
        assert_eq!(totals[name]["rows"], split["listed"], "{dataset}, {name}");
    }
    let seen = run(command("ingest", ["inspect", "--json"]).arg(&shards))
        .expect(DONE)
        .json();
    assert_eq!(seen["rows"], SAMPLES);
    assert_eq!(seen["dataset"], dataset);

    let steps = STEPS.to_string();
    let arguments = [
        "run",
        dataset,
        "--encoders",
        "tiny",
        "--random-weights",
        "0",
        "--max-steps",
        &steps,
        "--shards",
    ];
    let trained: Ran = run(command("train", arguments)
        .arg(&shards)
        .arg("--out")
        .arg(&out));
    trained.expect(DONE);
    let lines = json_lines(&out.join("metrics.jsonl"));
    let losses: Vec<f64> = lines
        .iter()
        .filter_map(|line| line["task_loss"].as_f64())
        .collect();
    assert_eq!(losses.len(), STEPS, "{dataset}");
    assert!(
        losses.iter().all(|loss| loss.is_finite() && *loss > 0.0),
        "{losses:?}"
    );
    run(command("train", ["eval"]).arg(&out)).expect(DONE);
    let scores: Value =
        serde_json::from_slice(&std::fs::read(out.join("eval-test.json")).unwrap()).unwrap();
    assert_eq!(scores["main_metric"], metric, "{dataset}");
    let score = scores["metrics"][metric].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&score));
    assert_eq!(
        scores["counts"]["samples"], totals["test"]["rows"],
        "{dataset}"
    );
    assert_eq!(scores["classes"].as_array().unwrap().len(), classes);
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn food_101() {
    chain(
        "food-101",
        [Some(67_988), None, Some(22_716)],
        101,
        "accuracy",
    );
}

#[test]
fn mm_imdb() {
    chain(
        "mm-imdb",
        [Some(15_552), Some(2_608), Some(7_799)],
        23,
        "f1_macro",
    );
}

#[test]
fn kinetics_sound() {
    chain(
        "kinetics-sound",
        [Some(14_739), None, Some(2_594)],
        31,
        "accuracy",
    );
}

#[test]
fn ave() {
    chain("ave", [Some(3_339), Some(402), Some(402)], 28, "accuracy");
}

#[test]
fn crema_d() {
    chain("crema-d", [Some(6_698), None, Some(744)], 6, "accuracy");
}
