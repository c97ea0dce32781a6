//! U2A learns from real data: handwritten digits that are spoken as well. A model is better with
//! both inputs than with either one, and with its mask token than with zeros for a missing input.
//!
//! The encoders are those of tests/golden/models: random and frozen, so that all that a model knows
//! of digits is in its adapters, mask tokens and head. [`data`] makes the dataset. Both have fixed
//! seeds, and with `--reproducible` every processor computes the same accuracies from the same
//! shards. docs/method.md has the accuracies of three seeds, and what they do not show.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod data;

use std::path::{Path, PathBuf};
use std::thread;

use tests::{EXIT_DONE, command, run, temp, weights};

/// The seed of the training in the test.
const SEED: u64 = 0;
/// One thread: the models are too small to share among several.
const SETTINGS: &str = "--epochs 20 --batch-size 16 --lr 2e-2 --lora-rank 4 --set warmup_epochs=1 \
    --augment off --device cpu --threads 1 --reproducible";

/// The dataset and its shards.
struct Digits {
    folder: tempfile::TempDir,
    description: PathBuf,
}

impl Digits {
    fn new() -> Digits {
        let folder = temp();
        let description = data::write(folder.path());
        let digits = Digits {
            folder,
            description,
        };
        let mut ingest = command("ingest", ["run"]);
        ingest.arg(&digits.description).arg("--out");
        run(ingest.arg(digits.shards())).expect(EXIT_DONE);
        digits
    }

    fn shards(&self) -> PathBuf {
        self.folder.path().join("shards")
    }

    /// Trains a model with these flags besides [`SETTINGS`]. Returns its run folder.
    fn train(&self, name: &str, seed: u64, flags: &[&str]) -> PathBuf {
        let out = self.folder.path().join(format!("{name}-{seed}"));
        let mut train = command("train", ["run"]);
        train
            .arg(&self.description)
            .arg("--shards")
            .arg(self.shards());
        train.arg("--weights").arg(weights()).arg("--out").arg(&out);
        train.args(SETTINGS.split_whitespace()).args(flags);
        run(train.args(["--seed", &seed.to_string()])).expect(EXIT_DONE);
        out
    }
}

/// The accuracy of a run on the test split, in per cent.
fn accuracy(run_folder: &Path, flags: &[&str]) -> f64 {
    let mut eval = command("train", ["eval", "--json"]);
    let result = run(eval.arg(run_folder).args(flags)).expect(EXIT_DONE);
    let result = result.json();
    assert_eq!(result["counts"]["samples"], data::TEST);
    100.0 * result["metrics"]["accuracy"].as_f64().unwrap()
}

/// The accuracies of a model with both inputs, with audio only, and with images only.
type Accuracies = [f64; 3];

/// The accuracies of a model with this token in place of the missing input.
fn accuracies(run_folder: &Path, token: &str) -> Accuracies {
    let without = |input| accuracy(run_folder, &["--missing", input, "--missing-token", token]);
    let both = accuracy(run_folder, &[]);
    [both, without("image"), without("audio")]
}

/// The accuracies of a model that is trained on audio only, and of one on images only.
fn alone(digits: &Digits, seed: u64) -> [f64; 2] {
    ["audio", "image"].map(|input| {
        let out = digits.train(input, seed, &["--modality", input]);
        accuracy(&out, &[])
    })
}

/// By how many points both inputs beat either one in the same model. With the seeds 0, 1 and 2, the
/// smallest of the two differences was 13.5, 18.0 and 20.3.
const BOTH_OVER_ONE: f64 = 8.0;
/// By how many points they beat a model that is trained on one input only: 6.8, 8.5 and 10.0.
const BOTH_OVER_ALONE: f64 = 3.0;
/// By how many points the mask token beats zeros in the same model: 13.8, 4.8 and 12.5.
const MASK_OVER_ZEROS: f64 = 3.0;

#[test]
fn two_inputs_beat_one_and_the_mask_token_beats_zeros() {
    let digits = Digits::new();
    let (alone, [mask, zeros]) = thread::scope(|scope| {
        let alone = scope.spawn(|| alone(&digits, SEED));
        let out = digits.train("u2a", SEED, &[]);
        let missing = ["mask", "zeros"].map(|token| accuracies(&out, token));
        (alone.join().unwrap(), missing)
    });
    println!("mask token {mask:?}, zeros {zeros:?}, trained on one input {alone:?}");
    let both = mask[0];
    for (index, input) in ["audio", "image"].into_iter().enumerate() {
        let [alone, mask, zeros] = [alone[index], mask[1 + index], zeros[1 + index]];
        assert!(
            both >= mask + BOTH_OVER_ONE,
            "{both} % with both, {mask} % with {input}"
        );
        assert!(
            both >= alone + BOTH_OVER_ALONE,
            "{both} % with both, {alone} % of a model of {input} only"
        );
        assert!(
            mask >= zeros + MASK_OVER_ZEROS,
            "{input} only: {mask} % with the mask token, {zeros} % with zeros"
        );
    }
}

/// `cargo test -p tests --test digits -- --ignored --nocapture`: the table of docs/method.md.
#[test]
#[ignore = "minutes; prints a table"]
fn table_of_three_seeds() {
    const SEEDS: [u64; 3] = [0, 1, 2];
    let digits = Digits::new();
    // Mean and standard deviation of the three accuracies, of those that there are.
    let row = |name: &str, results: &[Accuracies]| {
        let column = |index: usize| {
            let values: Vec<f64> = results.iter().map(|result| result[index]).collect();
            if values.iter().any(|value| value.is_nan()) {
                return "-".to_owned();
            }
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares = values.iter().map(|value| (value - mean).powi(2));
            let deviation = (squares.sum::<f64>() / (values.len() - 1) as f64).sqrt();
            format!("{mean:.1} ± {deviation:.1}")
        };
        println!("| {name} | {} | {} | {} |", column(0), column(1), column(2));
    };
    // Each seed on a thread of its own.
    let of_seeds = |measure: &(dyn Fn(u64) -> Vec<Accuracies> + Sync)| {
        thread::scope(|scope| {
            let threads = SEEDS.map(|seed| scope.spawn(move || measure(seed)));
            threads.map(|thread| thread.join().unwrap())
        })
    };
    let models: [(&str, &[&str], &[&str]); 3] = [
        ("U2A", &[], &["mask", "zeros"]),
        (
            "trained with zeros",
            &["--missing-token", "zeros"],
            &["zeros"],
        ),
        (
            "no modality dropout",
            &["--modality-dropout", "off"],
            &["mask", "zeros"],
        ),
    ];
    for (number, (name, flags, tokens)) in models.into_iter().enumerate() {
        let results = of_seeds(&|seed| {
            let out = digits.train(&number.to_string(), seed, flags);
            tokens.iter().map(|token| accuracies(&out, token)).collect()
        });
        for (index, token) in tokens.iter().enumerate() {
            row(
                &format!("{name}, {token}"),
                &results.each_ref().map(|all| all[index]),
            );
        }
        if number == 0 {
            let results = of_seeds(&|seed| {
                let [audio, image] = alone(&digits, seed);
                vec![[f64::NAN, audio, image]]
            });
            row("trained on one input", &results.map(|all| all[0]));
        }
    }
}
