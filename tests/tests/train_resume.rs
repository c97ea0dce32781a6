//! A training run that is killed many times ends with the losses and checkpoints of an undisturbed
//! run, bit for bit; so does one with another number of loader threads. Killing `ingest` is tested
//! in its own crate.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tests::{
    CremaD, EXIT_DONE, command, contents, json_lines, kill_when, names, run, temp, weights,
};

/// The number of attempts that are killed; the next one runs to the end.
const KILLS: u32 = 10;

fn training(shards: &Path, out: &Path) -> Command {
    let mut command = command(
        "train",
        [
            "run",
            "crema-d",
            "--epochs",
            "3",
            "--batch-size",
            "4",
            "--lr",
            "1e-3",
            "--seed",
            "11",
            // A checkpoint after every step, so that most kills fall near one, where a line of the
            // log could be lost.
            "--checkpoint-every",
            "1",
        ],
    );
    command
        .arg("--shards")
        .arg(shards)
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(out);
    command
}

/// The line of each step in the log, without the values that depend on the clock. Asserts that a
/// step that was run twice has the same line twice.
fn losses(run: &Path) -> BTreeMap<u64, String> {
    let mut out = BTreeMap::new();
    for line in json_lines(&run.join("metrics.jsonl")) {
        if line.get("task_loss").is_some() {
            let step = line["step"].as_u64().unwrap();
            let values = ["epoch", "loss", "task_loss", "align_loss", "lr"]
                .map(|key| line[key].to_string())
                .join(" ");
            if let Some(before) = out.insert(step, values.clone()) {
                assert_eq!(before, values, "step {step} was run twice and differs");
            }
        }
    }
    out
}

/// The names of a run's checkpoints; none if the run has no folder yet.
fn checkpoints(run: &Path) -> Vec<String> {
    let found = if run.is_dir() { names(run) } else { Vec::new() };
    found
        .into_iter()
        .filter(|name| name.starts_with("checkpoint-"))
        .collect()
}

#[test]
fn training_resumes_bit_for_bit() {
    kills_change_nothing(&CremaD::new(48), &[], KILLS);
}

/// What a method keeps from step to step is in its checkpoints.
#[test]
fn methods_resume_bit_for_bit() {
    let data = CremaD::new(24);
    for method in ["qmf", "g-blend", "pmr"] {
        let mut settings = vec!["--method", method];
        if method == "g-blend" {
            // It estimates its weights after every epoch.
            settings.extend(["--set", "g_blend_epochs=1"]);
        }
        let whole = kills_change_nothing(&data, &settings, 4);
        let state = Path::new("best/method.safetensors");
        assert!(whole.contains_key(state), "{method} has no state");
    }
}

/// Kills a run of these settings several times, lets it end, and compares it with one that nobody
/// has killed. Returns the tensor files of that.
fn kills_change_nothing(
    data: &CremaD,
    settings: &[&str],
    kills: u32,
) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = temp();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let start = Instant::now();
    run(training(&data.shards(), &whole).args(settings)).expect(EXIT_DONE);
    let took = start.elapsed();

    let attempt = || {
        if killed.join("config.toml").exists() {
            let mut command = command("train", ["run", "crema-d", "--resume"]);
            command.arg(&killed);
            command
        } else {
            let mut command = training(&data.shards(), &killed);
            command.args(settings);
            command
        }
    };
    let mut kills_done = 0;
    for i in 0..kills {
        let (start, before) = (Instant::now(), checkpoints(&killed));
        let lifetime = took.mul_f64(f64::from(i * 7 % 10 + 1) / 11.0);
        let ended = kill_when(&mut attempt(), || {
            if i % 2 == 0 {
                // At the moment at which a checkpoint appears: what belongs to it must be on disk
                // before.
                checkpoints(&killed).last() > before.last()
            } else {
                start.elapsed() > lifetime
            }
        });
        kills_done += u32::from(!ended);
    }
    run(&mut attempt()).expect(EXIT_DONE);
    // The folder that a kill between writing the last checkpoint and removing an old one leaves.
    std::fs::create_dir(killed.join("checkpoint-00000001")).unwrap();
    run(&mut attempt()).expect(EXIT_DONE);
    assert_eq!(checkpoints(&killed), checkpoints(&whole));
    assert!(
        kills_done > 0,
        "no kill reached a live process within {took:?}"
    );

    let (wanted, found) = (losses(&whole), losses(&killed));
    let lost: Vec<_> = wanted
        .keys()
        .filter(|step| !found.contains_key(step))
        .collect();
    assert!(lost.is_empty(), "metrics.jsonl has lost steps {lost:?}");
    assert_eq!(found, wanted);
    let tensors = |run: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let keep = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
        contents(run)
            .into_iter()
            .filter(|(path, _)| keep(path))
            .collect()
    };
    let (wanted, found) = (tensors(&whole), tensors(&killed));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        wanted.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in &wanted {
        assert!(found[path] == *bytes, "{} differs", path.display());
    }
    wanted
}

#[test]
fn loader_threads_do_not_change_losses() {
    let data = CremaD::new(24);
    let folder = temp();
    let losses_with = |threads: &str| {
        let out = folder.path().join(threads);
        run(training(&data.shards(), &out).args(["--loader-threads", threads])).expect(EXIT_DONE);
        losses(&out)
    };
    assert_eq!(losses_with("1"), losses_with("3"));
}

/// Micro-batches give the losses of whole batches. Several processes do so too: `mpi.rs`.
#[test]
fn micro_batches_do_not_change_losses() {
    let data = CremaD::new(24);
    let folder = temp();
    let run_with = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        run(training(&data.shards(), &out).args(flags)).expect(EXIT_DONE);
        let lines = json_lines(&out.join("metrics.jsonl"));
        let losses = lines
            .iter()
            .filter_map(|line| line["task_loss"].as_f64().zip(line["align_loss"].as_f64()));
        losses.collect::<Vec<_>>()
    };
    let whole = run_with("whole", &[]);
    assert!(whole.len() > 10 && whole.iter().any(|(_, align)| *align > 0.0));
    let parts = run_with("micro-batches", &["--micro-batch", "3"]);
    assert_eq!(parts.len(), whole.len());
    for (got, want) in parts.iter().zip(&whole) {
        let near = |a: f64, b: f64| (a - b).abs() <= 2e-5 * b.abs() + 1e-9;
        assert!(
            near(got.0, want.0) && near(got.1, want.1),
            "{got:?} for {want:?}"
        );
    }
}
