//! Metrics against the golden values of scikit-learn from `tests/golden/metrics.py`: 100 random
//! cases of single-label and of multi-label data, with empty classes and samples without labels.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use train::evaluation::metrics::{Metrics, multi_label, single_label};

/// The largest difference. The golden values have ten digits.
const TOLERANCE: f64 = 1e-6;

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn cases(kind: &str) -> Vec<Value> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/metrics.json");
    let text = std::fs::read_to_string(golden).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn compare(kind: &str, number: usize, case: &Value, got: &Metrics) {
    for (name, want) in case["values"].as_object().unwrap() {
        let (got, want) = (got.values[name.as_str()], want.as_f64().unwrap());
        assert!(
            (got - want).abs() < TOLERANCE,
            "{kind} {number} {name}: {got} {want}"
        );
    }
    let columns = case["classes"].as_array().unwrap();
    for (c, score) in got.classes.iter().enumerate() {
        let mut values = vec![
            score.precision,
            score.recall,
            score.f1,
            score.support as f64,
        ];
        values.extend(score.average_precision);
        assert_eq!(values.len(), columns.len());
        for (got, column) in values.iter().zip(columns) {
            let want = numbers(column)[c];
            assert!(
                (got - want).abs() < TOLERANCE,
                "{kind} {number} class {c}: {got} {want}"
            );
        }
    }
}

fn logits(case: &Value) -> Vec<Vec<f32>> {
    let rows = case["logits"].as_array().unwrap();
    rows.iter()
        .map(|row| numbers(row).into_iter().map(|v| v as f32 / 4.0).collect())
        .collect()
}

#[test]
fn single_label_metrics_match_scikit_learn() {
    let all = cases("single");
    assert_eq!(all.len(), 100);
    for (i, case) in all.iter().enumerate() {
        let logits = logits(case);
        let labels: Vec<u32> = numbers(&case["labels"]).iter().map(|v| *v as u32).collect();
        let got = single_label(&logits, &labels, logits[0].len());
        compare("single", i, case, &got);
        let confusion: Vec<Vec<usize>> = serde_json::from_value(case["confusion"].clone()).unwrap();
        assert_eq!(got.confusion.unwrap(), confusion, "case {i}");
    }
}

#[test]
fn multi_label_metrics_match_scikit_learn() {
    let all = cases("multi");
    assert_eq!(all.len(), 100);
    for (i, case) in all.iter().enumerate() {
        let logits = logits(case);
        let labels: Vec<Vec<u32>> = serde_json::from_value(case["labels"].clone()).unwrap();
        compare(
            "multi",
            i,
            case,
            &multi_label(&logits, &labels, logits[0].len()),
        );
    }
}
