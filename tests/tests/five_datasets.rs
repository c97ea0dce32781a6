//! Every dataset from a synthetic raw tree to a score, by the commands synth, check, run, inspect,
//! train and eval.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use tests::{EXIT_DONE, command, json_lines, run, temp};

/// The number of samples of a raw tree.
const SAMPLES: usize = 32;

/// The number of training steps.
const STEPS: usize = 20;

/// The sizes of the splits train, val and test of the whole dataset; `None` for a split that it
/// lacks.
type Expected = [Option<u64>; 3];

/// Runs all commands on one dataset and checks the counts after each.
fn from_raw_tree_to_scores(dataset: &str, expected: Expected, classes: usize, metric: &str) {
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
    let synthesised = run(synth.arg(&raw)).expect(EXIT_DONE).json();
    let planned: u64 = synthesised["splits"]
        .as_object()
        .unwrap()
        .values()
        .map(number)
        .sum();
    assert_eq!(planned, SAMPLES as u64);

    // A miniature lacks nothing of its own annotation; the report has the sizes of the whole
    // dataset as well.
    let checked = run(command("ingest", ["check", dataset, "--json", "--raw"]).arg(&raw));
    let checked = checked.expect(EXIT_DONE).json();
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
        .expect(EXIT_DONE)
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
    let inspected = run(command("ingest", ["inspect", "--json"]).arg(&shards))
        .expect(EXIT_DONE)
        .json();
    assert_eq!(inspected["rows"], SAMPLES);
    assert_eq!(inspected["dataset"], dataset);

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
    run(command("train", arguments)
        .arg(&shards)
        .arg("--out")
        .arg(&out))
    .expect(EXIT_DONE);
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
    run(command("train", ["eval"]).arg(&out)).expect(EXIT_DONE);
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
        .unwrap_or_else(|| panic!("{value} is not a count"))
}

#[test]
fn food_101() {
    from_raw_tree_to_scores(
        "food-101",
        [Some(67_988), None, Some(22_716)],
        101,
        "accuracy",
    );
}

#[test]
fn mm_imdb() {
    from_raw_tree_to_scores(
        "mm-imdb",
        [Some(15_552), Some(2_608), Some(7_799)],
        23,
        "f1_macro",
    );
}

#[test]
fn kinetics_sound() {
    from_raw_tree_to_scores(
        "kinetics-sound",
        [Some(14_739), None, Some(2_594)],
        31,
        "accuracy",
    );
}

#[test]
fn ave() {
    from_raw_tree_to_scores("ave", [Some(3_339), Some(402), Some(402)], 28, "accuracy");
}

#[test]
fn crema_d() {
    from_raw_tree_to_scores("crema-d", [Some(6_698), None, Some(744)], 6, "accuracy");
}
