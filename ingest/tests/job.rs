//! Ingest as a job of a cluster: the part comes from the environment, and exit codes tell the
//! scheduler what to do. `tests/tests/slurm.rs` does the same on a real Slurm.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Outcome, assert_same, files, run, run_crema, synth};
use rustix::process::{Pid, Signal, kill_process};

const SAMPLES: usize = 16;

/// In a job: wrong usage or unusable input.
const EXIT_PERMANENT: Option<i32> = Some(42);
/// In a job: an error that may be gone when the command is repeated.
const EXIT_TEMPORARY: Option<i32> = Some(74);
/// In a job: stopped by a signal.
const EXIT_STOPPED: Option<i32> = Some(75);

/// Sets the variables of task `task` of the job array `0-(of - 1)`.
fn in_array(mut command: Command, task: usize, of: usize) -> Command {
    command
        .env("SLURM_ARRAY_TASK_ID", task.to_string())
        .env("SLURM_ARRAY_TASK_COUNT", of.to_string())
        .env("SLURM_ARRAY_TASK_MIN", "0")
        .env("SLURM_ARRAY_TASK_MAX", (of - 1).to_string());
    command
}

/// Sets the variables of pod `index` of the Indexed Job of `of` completions.
fn in_pod(mut command: Command, index: usize, of: usize) -> Command {
    command
        .env("JOB_COMPLETION_INDEX", index.to_string())
        .env("JOB_COMPLETIONS", of.to_string());
    command
}

fn error_line(outcome: &Outcome) -> &str {
    let mut lines = outcome.stderr.lines();
    lines.find(|line| line.starts_with("error: ")).unwrap()
}

#[test]
fn parts_of_a_job_make_the_bytes_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let whole = folder.path().join("whole");
    run(&mut run_crema(&raw, &whole)).ok();
    for (name, of, job) in [
        ("array", 3, in_array as fn(Command, usize, usize) -> Command),
        ("pods", 2, in_pod),
    ] {
        let out = folder.path().join(name);
        for part in (0..of).rev() {
            let outcome = run(&mut job(run_crema(&raw, &out), part, of));
            let said = format!("part {part}/{of} of the shards");
            assert!(outcome.ok().stderr.contains(&said), "{outcome:?}");
            let own = folder.path().join(format!("{name}-{part}"));
            let one = format!("{part}/{of}");
            run(run_crema(&raw, &own).args(["--part", &one])).ok();
            for path in files(&own).keys() {
                assert!(out.join(path).exists(), "{name}: no {}", path.display());
            }
        }
        // Nothing but the finishing job writes the manifest, whose task need not be alone.
        assert!(!out.join("manifest.json").exists());
        run(job(run_crema(&raw, &out), 1, of).arg("--finish")).ok();
        assert_same(&whole, &out);
        // All is done already.
        run(&mut job(run_crema(&raw, &out), 0, of)).ok();
        assert_same(&whole, &out);
    }
}

/// A single task is no part, and `--part` overrides the environment.
#[test]
fn a_single_task_is_the_whole_run() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let out = folder.path().join("out");
    run(&mut in_array(run_crema(&raw, &out), 0, 1)).ok();
    assert!(out.join("manifest.json").exists());
    let out = folder.path().join("given");
    let mut given = in_array(run_crema(&raw, &out), 1, 2);
    let outcome = run(given.args(["--part", "0/2"]));
    assert!(!outcome.ok().stderr.contains("SLURM_ARRAY_TASK_ID"));
    assert!(out.join("train-00000-of-00002.parquet").exists());
}

#[test]
fn unclear_parts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let out = folder.path().join("out");
    // --array=3,5
    let mut holes = in_array(run_crema(&raw, &out), 3, 2);
    let outcome = run(holes
        .env("SLURM_ARRAY_TASK_MIN", "3")
        .env("SLURM_ARRAY_TASK_MAX", "5"));
    assert_eq!(outcome.code, EXIT_PERMANENT, "{outcome:?}");
    assert!(error_line(&outcome).contains("--part"), "{outcome:?}");
    let outcome = run(in_array(run_crema(&raw, &out), 1, 2).arg("--overwrite"));
    assert_eq!(outcome.code, EXIT_PERMANENT, "{outcome:?}");
    assert!(error_line(&outcome).contains("remove the output folder"));
    assert!(!out.exists());
    let outcome = run(run_crema(&raw, &out).env("U2A_JOB", "yes"));
    assert!(error_line(&outcome).contains("U2A_JOB"), "{outcome:?}");
}

#[test]
fn exit_codes_of_a_job_say_whether_to_repeat_it() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let out = folder.path().join("out");
    let code_of = |command: &mut Command| run(command.env("U2A_JOB", "1")).code;
    // What no repetition helps.
    assert_eq!(
        code_of(run_crema(&raw, &out).arg("--wrong")),
        EXIT_PERMANENT
    );
    let nowhere = folder.path().join("nowhere");
    assert_eq!(code_of(&mut run_crema(&nowhere, &out)), EXIT_PERMANENT);
    // What one may help: parts that are missing, a folder in use.
    run(run_crema(&raw, &out).args(["--part", "0/2"])).ok();
    assert_eq!(
        code_of(run_crema(&raw, &out).arg("--finish")),
        EXIT_TEMPORARY
    );
    let lock = std::fs::File::create(out.join(".ingest.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(code_of(&mut run_crema(&raw, &out)), EXIT_TEMPORARY);
    let elsewhere = run(run_crema(&raw, &out).env("U2A_JOB", "0"));
    assert!(elsewhere.error().contains("is writing here"));
    drop(lock);
    run(&mut run_crema(&raw, &out)).ok();
}

/// A part that has finished with failures is done; `--finish` judges them.
#[test]
fn failures_are_judged_by_the_finishing_job() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    for entry in std::fs::read_dir(raw.join("VideoFlash")).unwrap().take(3) {
        std::fs::write(entry.unwrap().path(), "no video").unwrap();
    }
    let out = folder.path().join("out");
    for part in 0..2 {
        run(&mut in_array(run_crema(&raw, &out), part, 2)).ok();
    }
    let finish = run(run_crema(&raw, &out).arg("--finish").env("U2A_JOB", "1"));
    assert_eq!(finish.code, Some(1), "{finish:?}");
    assert!(finish.stderr.contains("3 of 16 samples"), "{finish:?}");
}

/// Temporary files of a finishing job that was killed do not stay.
#[test]
fn a_finishing_job_removes_what_a_killed_one_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let out = folder.path().join("out");
    run(&mut run_crema(&raw, &out)).ok();
    let before = files(&out);
    std::fs::write(out.join(".manifest.json.Ab12Cd.tmp"), "{").unwrap();
    std::fs::write(out.join("masks/.x.parquet.Ab12Cd.tmp"), "PAR1").unwrap();
    run(run_crema(&raw, &out).arg("--finish")).ok();
    assert_eq!(before, files(&out));
}

#[test]
fn a_signal_stops_a_part_with_a_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), SAMPLES);
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    run(&mut run_crema(&raw, &whole)).ok();
    let mut slow = in_array(run_crema(&raw, &out), 0, 2);
    let mut child = slow
        .args(["--workers", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The run catches signals once it decodes: when its first shard has begun.
    let begun = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut names = entries.map(|entry| entry.unwrap().file_name());
        names.any(|name| name.to_str().unwrap().ends_with(".tmp"))
    };
    let start = Instant::now();
    while !begun(&out) && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), EXIT_STOPPED);
    for part in 0..2 {
        run(&mut in_array(run_crema(&raw, &out), part, 2)).ok();
    }
    run(run_crema(&raw, &out).arg("--finish")).ok();
    assert_same(&whole, &out);
}
