//! Faults during a run: decode workers that are killed or stopped, clips beyond the memory limit,
//! full disks.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, describe_dataset, ingest, is_installed, rows, run, run_crema, synth};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use util::skip::{Missing, skip};

/// Returns the process ids of the decode workers of a running ingest.
fn decode_workers(parent: &Child) -> Vec<i32> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", parent.id()))
        .into_iter()
        .flatten()
        .flatten()
    {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            list.split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
    }
    // Between fork and exec, a child is still an image of its parent, which waits for it.
    found.retain(|pid| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("decode-worker"))
    });
    found
}

/// Workers that are killed or stopped must not change the output.
#[test]
fn killed_and_stopped_workers_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 16);
    let whole = folder.path().join("whole");
    run(&mut run_crema(&raw, &whole)).ok();
    for (name, signal, times) in [
        ("killed", Signal::KILL, 3),
        ("crashed", Signal::SEGV, 2),
        ("stopped", Signal::STOP, 1),
    ] {
        let out = folder.path().join(name);
        let mut command = run_crema(&raw, &out);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        command
            .args(["--clip-timeout", "4"])
            .stdout(Stdio::null())
            .stderr(log);
        let mut parent = command.spawn().unwrap();
        let (start, mut signals) = (Instant::now(), 0);
        while signals < times
            && start.elapsed() < Duration::from_secs(20)
            && parent.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_millis(250));
            if let Some(&child) = decode_workers(&parent).first() {
                // The worker may have exited already.
                kill_process(Pid::from_raw(child).unwrap(), signal).ok();
                signals += 1;
            }
        }
        let success = parent.wait().unwrap().success();
        assert!(
            success,
            "{name}: {}",
            fs::read_to_string(folder.path().join("log")).unwrap()
        );
        assert!(signals > 0, "{name}: no worker was found");
        assert_same(&whole, &out);
    }
}

/// A worker is killed when its parent exits.
#[test]
fn workers_end_with_a_killed_parent() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 16);
    let mut command = run_crema(&raw, &folder.path().join("out"));
    let mut parent = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let mut workers = Vec::new();
    while workers.is_empty() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
        workers = decode_workers(&parent);
    }
    assert!(!workers.is_empty());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let has_ended = |pid: &i32| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z") || !state.contains("(ingest)")
    };
    let start = Instant::now();
    while !workers.iter().all(has_ended) {
        assert!(start.elapsed() < Duration::from_secs(10), "{workers:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A clip that needs more memory than a worker may have loses its video. Its audio is kept, and so
/// is the next clip.
#[test]
fn a_clip_beyond_the_memory_limit_loses_one_modality() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, size: &str| {
        let path = folder.path().join(name);
        let source = format!("color=red:s={size}:r=2:d=1");
        let status = Command::new("ffmpeg")
            .args([
                "-v", "error", "-f", "lavfi", "-i", &source, "-f", "lavfi", "-i", "sine=d=1",
            ])
            .args(["-c:v", "mjpeg", "-c:a", "mp3", "-y"])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
    };
    make("huge.avi", "8000x8000");
    make("small.avi", "64x64");
    let toml = describe_dataset(
        folder.path(),
        folder.path(),
        &[
            ("huge", "train", "huge.avi"),
            ("small", "train", "small.avi"),
        ],
    );
    let out = folder.path().join("out");
    let mut command = ingest();
    command
        .args([
            "run",
            "--worker-memory",
            "420",
            "--workers",
            "1",
            "--max-failures",
            "1",
        ])
        .arg(&toml);
    run(command.arg("--out").arg(&out)).ok();
    let rows = rows(&out);
    assert!(rows["small"].has_video && rows["small"].has_audio && rows["small"].error.is_none());
    let huge = &rows["huge"];
    assert!(huge.has_audio && !huge.has_video);
    let error = huge.error.as_deref().unwrap();
    assert!(
        error.starts_with("video: ") && !error.contains("audio:"),
        "{error}"
    );
    eprintln!("{error}");
}

#[test]
fn workers_that_cannot_start_end_the_run_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let outcome = run(run_crema(&raw, &folder.path().join("out")).args(["--worker-memory", "16"]));
    let error = outcome.error();
    assert!(error.contains("--worker-memory"), "{error}");
}

/// The kernel's limit on the file size stands in for a full disk.
#[test]
fn a_failed_write_leaves_no_partial_shard() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 16);
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    run(&mut run_crema(&raw, &whole)).ok();
    let largest = common::files(&whole)
        .into_values()
        .map(|bytes| bytes.len())
        .max()
        .unwrap();
    let mut command = run_crema(&raw, &out);
    let limit = Rlimit {
        current: Some(largest as u64 / 2),
        maximum: Some(largest as u64 / 2),
    };
    // SAFETY: setrlimit is safe to call between fork and exec.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Fsize, limit)?)) };
    let outcome = run(&mut command);
    assert!(outcome.error().contains("make room"), "{outcome:?}");
    assert_partial(&whole, &out);
    run(&mut run_crema(&raw, &out)).ok();
    assert_same(&whole, &out);
}

/// A disk that is full, if the user may mount one.
#[test]
fn a_full_disk_leaves_no_partial_shard() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 16);
    let (whole, disk) = (folder.path().join("whole"), folder.path().join("disk"));
    run(&mut run_crema(&raw, &whole)).ok();
    let size: usize = common::files(&whole)
        .into_values()
        .map(|bytes| bytes.len())
        .sum();
    fs::create_dir(&disk).unwrap();
    let options = format!("size={}k", size / 2 / 1024);
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(&disk)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        skip(Missing::Platform, "the user may not mount a tmpfs");
        return;
    }
    let out = disk.join("out");
    let outcome = std::panic::catch_unwind(|| {
        let outcome = run(&mut run_crema(&raw, &out));
        assert!(outcome.error().contains("make room"), "{outcome:?}");
        assert_partial(&whole, &out);
    });
    let unmounted = Command::new("umount").arg(&disk).status();
    assert!(unmounted.unwrap().success());
    outcome.unwrap();
}

/// Checks that a folder holds some of the files of `whole`, each with the same bytes, and no
/// others.
fn assert_partial(whole: &Path, out: &Path) {
    let whole = common::files(whole);
    let found = common::files(out);
    assert!(found.len() < whole.len());
    for (path, bytes) in found {
        assert!(
            whole.get(&path).is_some_and(|right| *right == bytes),
            "{}",
            path.display()
        );
    }
}
