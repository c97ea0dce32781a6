//! `ingest check` with and without `--verify`: what a run would meet, found before it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{describe_dataset, files, ingest, is_installed, run, synth};
use serde_json::Value;

/// Writes clips below `folder`: a good one, and damaged ones of all kinds. Returns their names.
fn write_clips(folder: &Path) -> Vec<&'static str> {
    let ffmpeg = |arguments: &str, to: &str| {
        let mut command = Command::new("ffmpeg");
        command.current_dir(folder).args(["-v", "error", "-y"]);
        command.args(arguments.split_whitespace()).arg(to);
        assert!(command.status().unwrap().success(), "{command:?}");
    };
    let picture = "-f lavfi -i mandelbrot=s=352x256:r=25:end_scale=0.02";
    let sound = "-f lavfi -i sine=d=4";
    ffmpeg(
        &format!(
            "{picture} {sound} -t 4 -pix_fmt yuv420p -c:v libx264 -preset fast -g 20 -bf 0 -c:a aac"
        ),
        "good.mp4",
    );
    ffmpeg("-i good.mp4 -c copy", "good.mkv");
    ffmpeg("-i good.mp4 -c copy -movflags +faststart", "fast.mp4");
    ffmpeg("-i good.mp4 -c:a pcm_s16le -vn", "good.wav");
    ffmpeg("-i good.mp4 -c:v mpeg4 -q:v 3 -g 20 -c:a mp3", "good.avi");
    let cut = |from: &str, to: &str| {
        let bytes = fs::read(folder.join(from)).unwrap();
        fs::write(folder.join(to), &bytes[..bytes.len() * 6 / 10]).unwrap();
    };
    cut("good.mp4", "cut.mp4");
    cut("fast.mp4", "cut-fast.mp4");
    cut("good.mkv", "cut.mkv");
    cut("good.wav", "cut.wav");
    cut("good.avi", "cut.avi");
    fs::write(folder.join("page.mp4"), "<html>404</html>").unwrap();
    // The second half of the last frames, which no frame of the pool depends on: a run does not
    // decode them.
    ffmpeg("-i good.mp4 -c:v copy -an", "damaged.mp4");
    let mut bytes = fs::read(folder.join("damaged.mp4")).unwrap();
    let frame = last_packet(&folder.join("damaged.mp4"));
    bytes[frame.0 + frame.1 / 3..][..frame.1 / 2].fill(0x5a);
    fs::write(folder.join("damaged.mp4"), bytes).unwrap();
    vec![
        "good.mp4",
        "good.mkv",
        "good.wav",
        "good.avi",
        "fast.mp4",
        "cut.mp4",
        "cut-fast.mp4",
        "cut.mkv",
        "cut.wav",
        "cut.avi",
        "page.mp4",
        "damaged.mp4",
    ]
}

/// Returns position and size of the last video packet.
fn last_packet(clip: &Path) -> (usize, usize) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-of", "csv=p=0"])
        .args(["-show_entries", "packet=size,pos"])
        .arg(clip)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().rfind(|line| !line.is_empty()).unwrap();
    let mut cells = line.split(',').map(|cell| cell.trim().parse().unwrap());
    let size = cells.next().unwrap();
    (cells.next().unwrap(), size)
}

/// Runs `check` with `--json`, and returns the exit code and the report.
fn check(toml: &Path, flags: &[&str]) -> (Option<i32>, Value) {
    let outcome = run(ingest().arg("check").arg(toml).arg("--json").args(flags));
    (outcome.code, serde_json::from_str(&outcome.stdout).unwrap())
}

#[test]
fn damaged_clips_are_found_without_writing_shards() {
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    let names = write_clips(&raw);
    let rows: Vec<_> = names.iter().map(|name| (*name, "train", *name)).collect();
    let toml = describe_dataset(folder.path(), &raw, &rows);
    let before = files(folder.path());

    let (code, report) = check(&toml, &[]);
    assert_eq!(code, Some(1));
    let suspects = report["suspects"].as_array().unwrap();
    let cause = |name: &str| {
        let mut found = suspects.iter().filter(|one| one["file"] == name);
        found.next().map(|one| one["cause"].as_str().unwrap())
    };
    assert_eq!(cause("page.mp4"), Some("not a media file"));
    // The index of an mp4 is at its end.
    assert_eq!(cause("cut.mp4"), Some("not a media file"));
    for name in ["cut-fast.mp4", "cut.mkv", "cut.wav", "cut.avi"] {
        assert_eq!(cause(name), Some("cut short"), "{name}: {report}");
    }
    assert_eq!(suspects.len(), 6, "{report}");
    assert_eq!(report["decoded"], Value::Null);

    let (code, report) = check(&toml, &["--verify", "--workers", "2"]);
    assert_eq!(code, Some(1));
    assert_eq!(report["decoded"]["samples"], names.len());
    let findings = report["decoded"]["findings"].as_array().unwrap();
    let of = |name: &str, modality: &str| -> Vec<String> {
        let is_of = |one: &&Value| one["files"][0] == name && one["modality"] == modality;
        let text = |one: &Value| format!("{}: {}, {}", one["cause"], one["detail"], one["usable"]);
        findings.iter().filter(is_of).map(text).collect()
    };
    assert!(of("good.mp4", "video").is_empty() && of("good.mp4", "audio").is_empty());
    assert!(of("good.avi", "video").is_empty() && of("good.mkv", "audio").is_empty());
    assert_eq!(
        of("good.wav", "video"),
        ["\"no video stream\": \"\", false"]
    );
    for name in ["page.mp4", "cut.mp4"] {
        let found = of(name, "video");
        assert!(found.len() == 1 && found[0].ends_with("false"), "{found:?}");
    }
    let found = of("damaged.mp4", "video");
    assert!(
        found.len() == 1 && found[0].contains("partly damaged") && found[0].ends_with("true"),
        "{report}"
    );
    for (name, modality) in [
        ("cut-fast.mp4", "video"),
        ("cut.mkv", "video"),
        ("cut.avi", "video"),
        ("cut.wav", "audio"),
    ] {
        let found = of(name, modality);
        assert!(
            found.iter().any(|one| one.contains("cut short")),
            "{name}: {found:?}"
        );
    }
    assert_eq!(
        files(folder.path()).len(),
        before.len(),
        "check writes nothing"
    );

    // On a terminal, by file.
    let outcome = run(ingest().arg("check").arg(&toml).arg("--verify"));
    let line = outcome
        .stdout
        .lines()
        .find(|line| line.contains("damaged.mp4: video"));
    assert!(
        line.unwrap().contains("partly damaged, kept ("),
        "{outcome:?}"
    );
}

/// A whole tree has no findings, in either way.
#[test]
fn a_good_tree_passes() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    for flags in [&[][..], &["--verify"]] {
        let mut command = ingest();
        command
            .args(["check", "crema-d", "--json", "--raw"])
            .arg(&raw)
            .args(flags);
        let outcome = run(&mut command);
        let report: Value = serde_json::from_str(&outcome.ok().stdout).unwrap();
        assert_eq!(report["suspects"], Value::Array(Vec::new()));
        let decoded = if flags.is_empty() {
            Value::Null
        } else {
            12.into()
        };
        assert_eq!(report["decoded"]["samples"], decoded);
    }
}
