//! Clips with several audio streams: a commentary, or what is spoken for people who do not see well,
//! is used only if there is nothing else.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;

use common::{describe_dataset, ingest, is_installed, rows, run};

/// The loudest of the 128 mel bands.
fn loudest_band(mel: &[f32]) -> usize {
    let energy = |bin: usize| mel.iter().skip(bin).step_by(128).sum::<f32>();
    let bands = 0..128;
    bands
        .max_by(|&a, &b| energy(a).total_cmp(&energy(b)))
        .unwrap()
}

#[test]
fn a_stream_that_is_marked_as_a_commentary_is_the_last_choice() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    // The dispositions of streams with tones of 500, 2000 and 5000 Hz, and the tone that is right.
    let cases = [
        ("comment.mkv", ["default+comment", "0", "0"], 2000),
        (
            "blind.mkv",
            ["default+visual_impaired", "comment", "0"],
            5000,
        ),
        (
            "deaf.mkv",
            ["hearing_impaired+default", "original", "default"],
            5000,
        ),
        ("comment.mp4", ["default+comment", "0", "0"], 2000),
        ("dubbed.ts", ["clean_effects", "visual_impaired", "0"], 5000),
        ("plain.mkv", ["0", "default", "0"], 2000),
        ("only.mkv", ["comment", "default+comment", "comment"], 2000),
    ];
    for (name, dispositions, _) in cases {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-y"]);
        let video = "testsrc=size=64x48:rate=10:duration=2";
        command.args(["-f", "lavfi", "-i", video]);
        for hertz in [500, 2000, 5000] {
            let tone = format!("sine=frequency={hertz}:sample_rate=16000:duration=2");
            command.args(["-f", "lavfi", "-i", &tone]);
        }
        for input in ["0", "1", "2", "3"] {
            command.args(["-map", input]);
        }
        command.args(["-c:v", "mpeg4", "-c:a", "aac"]);
        for (number, disposition) in dispositions.iter().enumerate() {
            command.args([&format!("-disposition:a:{number}"), *disposition]);
        }
        assert!(
            command.arg(raw.join(name)).status().unwrap().success(),
            "{name}"
        );
    }
    let table = cases.map(|(name, ..)| (name, "train", name));
    let toml = describe_dataset(folder.path(), &raw, &table);
    let out = folder.path().join("out");
    run(ingest().arg("run").arg(toml).arg("--out").arg(&out)).ok();
    let rows = rows(&out);
    for (name, _, hertz) in cases {
        let band = loudest_band(rows[name].mel.as_ref().unwrap());
        // The HTK mel scale: 128 bands between 20 and 8000 Hz.
        let scale = |hertz: f64| 1127.0 * (1.0 + hertz / 700.0).ln();
        let share = (scale(hertz.into()) - scale(20.0)) / (scale(8000.0) - scale(20.0));
        let expected = share * 129.0 - 1.0;
        assert!(
            (band as f64 - expected).abs() < 1.5,
            "{name}: {band}, not {expected}"
        );
    }
}
