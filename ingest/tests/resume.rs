//! Interrupted and divided runs: the output has the bytes of an uninterrupted run.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, run, run_crema, synth};
use rustix::process::{Pid, Signal, kill_process};

const SAMPLES: usize = 16;

fn spawn(command: &mut Command) -> Child {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Starts a run and sends it a signal after a while. Returns whether the run had ended before.
fn interrupt(command: &mut Command, after: Duration, signal: Signal) -> bool {
    let mut child = spawn(command);
    std::thread::sleep(after);
    let ended = child.try_wait().unwrap().is_some();
    if !ended {
        // The run has not been waited for, so its process id is not reused.
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    child.wait().unwrap();
    ended
}

/// Makes an uninterrupted run, and returns its duration.
fn uninterrupted(raw: &Path, out: &Path) -> Duration {
    let start = Instant::now();
    run(&mut run_crema(raw, out)).ok();
    start.elapsed()
}

#[test]
fn runs_killed_at_random_moments_resume() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let time = uninterrupted(&raw, &whole);
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}, uninterrupted {time:?}");
    let mut kills = 0;
    for (round, step) in (0..3).flat_map(|round| (0..5).map(move |step| (round, step))) {
        let share = util::rng::Rng::new(seed, &[round, step]).uniform();
        if step == 0 {
            drop(std::fs::remove_dir_all(&killed));
        }
        // Each step gets a little further. The last one is not interrupted.
        if step < 4 {
            kills += u32::from(!interrupt(
                &mut run_crema(&raw, &killed),
                time.mul_f64(0.7 * share),
                Signal::KILL,
            ));
        } else {
            run(&mut run_crema(&raw, &killed)).ok();
            assert_same(&whole, &killed);
        }
    }
    // The number of kills depends on the load of the machine. Without any, nothing was tested.
    assert!(kills > 0, "every run had ended before its signal");
}

#[test]
fn a_run_stopped_by_sigterm_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    let time = uninterrupted(&raw, &whole);
    let mut child = run_crema(&raw, &stopped)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(time.mul_f64(0.4));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let start = Instant::now();
    let status = child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(status.code(), Some(143));
    let left: Vec<_> = common::files(&stopped).into_keys().collect();
    assert!(
        left.iter()
            .all(|path| !path.to_str().unwrap().starts_with('.')),
        "{left:?}"
    );
    run(&mut run_crema(&raw, &stopped)).ok();
    assert_same(&whole, &stopped);
}

#[test]
fn output_does_not_depend_on_workers_and_parts() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let whole = folder.path().join("whole");
    uninterrupted(&raw, &whole);

    for workers in ["1", "5"] {
        let out = folder.path().join(workers);
        run(run_crema(&raw, &out).args(["--workers", workers])).ok();
        assert_same(&whole, &out);
    }

    // Two parts at the same time, both killed and repeated. The third part writes the manifest.
    let out = folder.path().join("parts");
    let part = |part: &str| {
        let mut command = run_crema(&raw, &out);
        command.args(["--part", part]);
        command
    };
    let mut killed = spawn(&mut part("1/3"));
    interrupt(&mut part("2/3"), Duration::from_millis(100), Signal::KILL);
    // The run may have ended already.
    drop(killed.kill());
    killed.wait().unwrap();
    let mut one = spawn(&mut part("1/3"));
    run(&mut part("2/3")).ok();
    assert!(one.wait().unwrap().success());
    assert!(!out.join("manifest.json").exists());
    let early = run(run_crema(&raw, &out).arg("--finish"));
    assert!(
        early.error().contains("shards are still missing"),
        "{early:?}"
    );
    run(&mut part("0/3")).ok();
    assert_same(&whole, &out);
    std::fs::remove_file(out.join("manifest.json")).unwrap();
    run(run_crema(&raw, &out).arg("--finish")).ok();
    assert_same(&whole, &out);
}

/// The printed plan is the one that a run executes.
#[test]
fn dry_run_prints_the_plan_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let out = folder.path().join("out");
    let plan = || {
        let outcome = run(run_crema(&raw, &out).args(["--dry-run", "--json"]));
        serde_json::from_str::<serde_json::Value>(&outcome.ok().stdout).unwrap()
    };
    let before = plan();
    assert!(!out.exists());
    run(&mut run_crema(&raw, &out)).ok();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(before["settings_hash"], manifest["settings_hash"]);
    let names = |shards: &serde_json::Value, samples: &str| -> Vec<(String, u64)> {
        let shards = shards.as_array().unwrap().iter();
        shards
            .map(|one| {
                (
                    one["file"].as_str().unwrap().to_owned(),
                    one[samples].as_u64().unwrap(),
                )
            })
            .collect()
    };
    assert_eq!(
        names(&before["shards"], "samples"),
        names(&manifest["shards"], "rows")
    );
    let after = plan();
    assert!(
        after["shards"]
            .as_array()
            .unwrap()
            .iter()
            .all(|shard| shard["action"] == "keep")
    );
    // A run without anything to do changes nothing.
    let files = common::files(&out);
    run(&mut run_crema(&raw, &out)).ok();
    assert_eq!(files, common::files(&out));
}
