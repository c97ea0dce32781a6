//! With `--reproducible`, training, evaluation and prediction give the same bytes with every vector
//! instruction set that this machine has and with any number of threads.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{CremaD, EXIT_DONE, command, contents, names, run, temp, weights};
use util::skip::{Missing, skip};

/// The machine that a run pretends to have: a value of `U2A_CPU`, and a number of threads.
type Machine = (&'static str, &'static str);

fn on((cpu, threads): Machine, arguments: &[&str]) -> Command {
    let mut command = command("train", arguments);
    command
        .env("U2A_CPU", cpu)
        .args(["--threads", threads, "--reproducible"]);
    command
}

/// Trains, evaluates and labels a clip. Returns the checkpoints, the predictions of the evaluation
/// and the printed labels, by name.
fn results(data: &CremaD, clip: &Path, out: &Path, machine: Machine) -> Vec<(String, Vec<u8>)> {
    let steps = ["run", "crema-d", "--max-steps", "6", "--batch-size", "4"];
    let mut train = on(machine, &steps);
    train.args(["--seed", "5", "--shards"]).arg(data.shards());
    train.arg("--weights").arg(weights()).arg("--out").arg(out);
    run(&mut train).expect(EXIT_DONE);
    let checkpoints = names(out);
    let checkpoints = checkpoints
        .iter()
        .filter(|name| name.starts_with("checkpoint"));
    let mut results = Vec::new();
    for name in checkpoints {
        let files = contents(&out.join(name)).into_iter();
        results.extend(files.map(|(path, bytes)| (format!("{name}/{}", path.display()), bytes)));
    }
    assert!(!results.is_empty(), "no checkpoint in {}", out.display());

    let evaluation = run(on(machine, &["eval", "--json"]).arg(out))
        .expect(EXIT_DONE)
        .json();
    let predictions = PathBuf::from(evaluation["predictions"].as_str().unwrap());
    results.push((
        "predictions".to_owned(),
        std::fs::read(predictions).unwrap(),
    ));
    let metrics = evaluation["metrics"].to_string().into_bytes();
    results.push(("metrics".to_owned(), metrics));
    let labels = run(on(machine, &["predict", "--json"]).arg(out).arg(clip)).expect(EXIT_DONE);
    results.push(("labels".to_owned(), labels.stdout.into_bytes()));
    results
}

#[test]
fn every_instruction_set_and_thread_count_gives_the_same_bytes() {
    let data = CremaD::new(24);
    let clip = contents(&data.raw()).into_keys();
    let mut clip = clip.filter(|path| path.extension().is_some_and(|e| e == "flv"));
    let clip = data.raw().join(clip.next().unwrap());
    let mut machines: Vec<Machine> = vec![("avx2", "1"), ("avx2", "5")];
    if util::cpu::has_avx512() {
        machines.extend([("avx512", "1"), ("amx", "2")]);
    } else {
        skip(Missing::Platform, "the processor has no AVX-512");
    }
    let folder = temp();
    let mut first = None;
    for (number, machine) in machines.into_iter().enumerate() {
        let run = folder.path().join(number.to_string());
        let results = results(&data, &clip, &run, machine);
        let first = first.get_or_insert_with(|| results.clone());
        assert_eq!(first.len(), results.len());
        for ((name, one), (_, other)) in first.iter().zip(&results) {
            assert!(one == other, "{name} differs on {machine:?}");
        }
    }
}

#[test]
fn what_would_not_be_reproducible_is_refused() {
    let data = CremaD::new(24);
    let folder = temp();
    let mut train = on(("", "2"), &["run", "crema-d", "--precision", "bf16"]);
    train.arg("--shards").arg(data.shards());
    train.arg("--weights").arg(weights());
    train.arg("--out").arg(folder.path().join("run"));
    run(&mut train).expect_usage(&["--reproducible", "f32", "bf16"]);
    let mut train = on(("", "2"), &["run", "crema-d", "--device", "cuda:0"]);
    train.arg("--shards").arg(data.shards());
    run(&mut train).expect_usage(&["--reproducible", "--device cpu"]);
}
