//! Run folders for tests.

use crate::run_folder::{RunSummary, evaluation_file};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What is in a run folder, on audio and video of the classes `a` and `b<`.
pub struct TestRun<'a> {
    pub dataset: &'a str,
    pub multi_label: bool,
    pub seed: u64,
    /// More lines of `[settings]`.
    pub settings: &'a str,
    /// The lines of `metrics.jsonl`.
    pub metrics: &'a [Value],
    /// The evaluations, by name.
    pub evaluations: &'a [(&'a str, Value)],
}

impl Default for TestRun<'_> {
    fn default() -> Self {
        TestRun {
            dataset: "ave",
            multi_label: false,
            seed: 0,
            settings: "",
            metrics: &[],
            evaluations: &[],
        }
    }
}

impl TestRun<'_> {
    /// Writes the run into a folder of this name and reads it.
    pub fn write(&self, folder: &Path, name: &str) -> RunSummary {
        let run = folder.join(name);
        fs::create_dir(&run).unwrap();
        let TestRun {
            dataset,
            multi_label,
            seed,
            settings,
            ..
        } = self;
        let encoder = "kind = \"clip\"\nlayers = 12\nhidden = 768\n";
        let config = format!(
            "dataset = \"{dataset}\"\nshards = \"/shards/{seed}\"\n\
             modalities = [\"audio\", \"video\"]\n\
             classes = [\"a\", \"b<\"]\nmulti_label = {multi_label}\n[settings]\nseed = {seed}\n\
             {settings}\n[[encoders]]\n{encoder}[[encoders]]\n{encoder}"
        );
        fs::write(run.join("config.toml"), config).unwrap();
        let lines: String = self
            .metrics
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(run.join("metrics.jsonl"), lines).unwrap();
        for (name, evaluation) in self.evaluations {
            fs::write(run.join(evaluation_file(name)), evaluation.to_string()).unwrap();
        }
        RunSummary::read(&run).unwrap()
    }
}

/// Returns an evaluation of the test split. Accuracy and macro F1 are the mean of the scores of the
/// two classes, of which each has 10 samples.
pub fn evaluation(missing: Option<&str>, token: &str, scores: [f64; 2]) -> Value {
    let class = |name: &str, score: f64| {
        let scores = json!({"support": 10, "precision": 0.5, "recall": score, "f1": score});
        json!({"class": name, "scores": scores})
    };
    let right = scores.map(|score| (10.0 * score).round() as u64);
    let mean = (scores[0] + scores[1]) / 2.0;
    json!({
        "split": "test", "protocol": null, "missing": missing, "missing_token": token,
        "default_checkpoint": true,
        "metrics": {"accuracy": mean, "f1_macro": mean}, "chance": 0.5,
        "classes": [class("a", scores[0]), class("b<", scores[1])],
        "confusion": [[right[0], 10 - right[0]], [10 - right[1], right[1]]],
    })
}

/// Returns an evaluation under a mask with this accuracy.
pub fn masked(protocol: &str, rate: f64, accuracy: f64) -> Value {
    let mut json = evaluation(None, "mask", [accuracy; 2]);
    json["protocol"] = protocol.into();
    json["rate"] = rate.into();
    json
}
