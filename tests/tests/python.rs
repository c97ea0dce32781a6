//! Shards in five Python readers, and runs in transformers and PEFT.
//!
//! Needs a Python with tests/golden/requirements.txt (`U2A_PYTHON`, or `.venv` at the root as
//! `just test-python` makes it); without one the tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use tests::{CommandOutput, CremaD, EXIT_DONE, command, names, run, temp, weights, workspace};
use util::skip::{Missing, skip};

/// The largest difference of a logit; 8e-7 was measured.
const TOLERANCE: &str = "3e-6";
/// The largest relative difference of a loss over 20 steps; 1.6e-7 was measured.
const LOSS_TOLERANCE: &str = "1e-6";

/// Runs a script of tests/python. Returns `None`, and reports the test as skipped, if there is no
/// Python for it.
fn script(name: &str, arguments: &[&Path], more: &[&str]) -> Option<CommandOutput> {
    let Some(python) = tests::python() else {
        skip(
            Missing::Platform,
            "no Python with tests/golden/requirements.txt: set U2A_PYTHON or run `just test-python`",
        );
        return None;
    };
    let mut command = Command::new(python);
    command
        .arg(workspace().join("tests/python").join(name))
        .args(arguments)
        .args(more);
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("OMP_NUM_THREADS", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some(run(&mut command))
}

#[test]
fn shards_open_in_every_reader() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let data = CremaD::new(24);
    for protocol in ["missing-both", "missing-audio"] {
        run(command(
            "ingest",
            [
                "mask",
                "--protocol",
                protocol,
                "--rate",
                "0.7",
                "--seed",
                "1",
            ],
        )
        .arg(data.shards()))
        .expect(EXIT_DONE);
    }
    script("check_shards.py", &[&data.shards()], &[])
        .unwrap()
        .expect(EXIT_DONE);
}

#[test]
fn run_loads_in_peft_and_predicts_the_same() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let data = CremaD::new(36);
    let folder = temp();
    let out = folder.path().join("run");
    run(command(
        "train",
        [
            "run",
            "crema-d",
            "--epochs",
            "3",
            "--batch-size",
            "4",
            "--lr",
            "1e-2",
            "--seed",
            "2",
        ],
    )
    .arg("--shards")
    .arg(data.shards())
    .arg("--weights")
    .arg(weights())
    .arg("--out")
    .arg(&out))
    .expect(EXIT_DONE);
    for missing in [None, Some("audio"), Some("video")] {
        let before = names(&out);
        let mut evaluate = command("train", ["eval"]);
        evaluate.arg(&out);
        let mut more = vec!["--tolerance", TOLERANCE];
        if let Some(missing) = missing {
            evaluate.args(["--missing", missing]);
            more.extend(["--missing", missing]);
        }
        run(&mut evaluate).expect(EXIT_DONE);
        let predictions = names(&out)
            .into_iter()
            .find(|name| name.starts_with("predictions-") && !before.contains(name))
            .expect("eval writes predictions");
        let (predictions, shards, weights) = (out.join(predictions), data.shards(), weights());
        let ran = script(
            "check_run.py",
            &[
                &out,
                Path::new("--predictions"),
                &predictions,
                Path::new("--shards"),
                &shards,
                Path::new("--weights"),
                &weights,
            ],
            &more,
        );
        eprintln!("{}", ran.unwrap().expect(EXIT_DONE).stdout);
    }
}

#[test]
fn training_steps_equal_pytorch() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let data = CremaD::new(48);
    let folder = temp();
    let (initial, out) = (folder.path().join("initial"), folder.path().join("run"));
    let same = ["--epochs", "10", "--batch-size", "8", "--lr", "1e-2"];
    for (folder, steps) in [(&initial, "0"), (&out, "20")] {
        let switches = "--no-shuffle --augment off --lora-dropout 0 --encoder-dropout off --modality-dropout off --seed 3";
        run(command("train", ["run", "crema-d", "--max-steps", steps])
            .args(same)
            .args(switches.split(' '))
            .arg("--shards")
            .arg(data.shards())
            .arg("--weights")
            .arg(weights())
            .arg("--out")
            .arg(folder))
        .expect(EXIT_DONE);
    }
    let checkpoint = names(&initial)
        .into_iter()
        .find(|name| name.starts_with("checkpoint-"))
        .unwrap();
    let (checkpoint, shards, weights) = (initial.join(checkpoint), data.shards(), weights());
    let paths = [
        &out,
        Path::new("--initial"),
        &checkpoint,
        Path::new("--shards"),
        &shards,
        Path::new("--weights"),
        &weights,
    ];
    let more = [&same[..], &["--steps", "20", "--tolerance", LOSS_TOLERANCE]].concat();
    eprintln!(
        "{}",
        script("check_train.py", &paths, &more)
            .unwrap()
            .expect(EXIT_DONE)
            .stdout
    );
}
