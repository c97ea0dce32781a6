//! The subcommands synth, check, run, inspect and mask, one after the other as a user calls them.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Outcome, assert_same, ingest, is_installed, run, run_crema, synth};
use serde_json::Value;

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn synth_writes_equal_bytes_and_real_media() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let other = tempfile::tempdir().unwrap();
    let again = synth(other.path(), 12);
    assert_same(&raw, &again);
    // A second call writes nothing. Another seed replaces the tree by another one.
    let seeded = |seed: &str| {
        run(ingest()
            .args([
                "synth",
                "crema-d",
                "--samples",
                "12",
                "--seed",
                seed,
                "--out",
            ])
            .arg(&again))
    };
    assert!(seeded("0").ok().stdout.contains("already exists"));
    assert!(seeded("1").ok().stdout.contains("written"));
    assert_ne!(common::files(&raw), common::files(&again));

    let list = fs::read_to_string(raw.join("test.csv")).unwrap();
    assert!(list.ends_with("\r\n") && list.lines().count() == 6);
    let sentences = fs::read_to_string(raw.join("SentenceFilenames.csv")).unwrap();
    assert!(
        sentences.starts_with("\"Stimulus_Number\",\"Filename\"\n1,\"")
            && !sentences.ends_with('\n')
    );
    if is_installed("ffprobe") {
        let stem = &list[..15];
        let probe = |path: &Path| {
            let mut command = Command::new("ffprobe");
            command.args(["-v", "error", "-of", "csv=p=0", "-show_entries"]);
            command
                .arg("stream=codec_name,width,height,sample_rate,channels")
                .arg(path);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let flv = probe(&raw.join(format!("VideoFlash/{stem}.flv")));
        assert!(
            flv.contains("flv1,480,360") && flv.contains("mp3,44100,1"),
            "{flv}"
        );
        assert_eq!(
            probe(&raw.join(format!("AudioWAV/{stem}.wav"))).trim(),
            "pcm_s16le,16000,1"
        );
        assert_eq!(
            probe(&raw.join(format!("AudioMP3/{stem}.mp3"))).trim(),
            "mp3,44100,1"
        );
    }
}

#[test]
fn each_subcommand_reads_what_the_others_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let checked = json(
        run(ingest()
            .args(["check", "crema-d", "--json", "--raw"])
            .arg(&raw))
        .ok(),
    );
    assert_eq!(checked["splits"][0]["listed"], 6);
    assert_eq!(checked["missing"], Value::Array(vec![]));

    let out = folder.path().join("out");
    let ran = json(run(run_crema(&raw, &out).arg("--json")).ok());
    assert_eq!(ran["within_budget"], true);
    assert_eq!(ran["manifest"]["totals"]["test"]["rows"], 6);
    for protocol in ["missing-audio", "missing-video", "missing-both"] {
        for seed in 0..3 {
            assert!(
                out.join(format!("masks/{protocol}-0.7-seed{seed}.parquet"))
                    .is_file()
            );
        }
    }

    let overview = json(run(ingest().args(["inspect", "--json"]).arg(&out)).ok());
    assert_eq!(overview["rows"], 12);
    assert_eq!(overview["splits"]["train"]["complete"], 6);
    assert_eq!(overview["classes"]["Happy"]["test"], 1);
    assert_eq!(overview["columns"]["mel"], "list[array[f32, 128]]");
    assert!(overview["seconds"]["audio"]["min"].as_f64().unwrap() > 1.2);
    let text = run(ingest().arg("inspect").arg(&out));
    assert!(text.ok().stdout.contains("Neutral"));

    let id = &fs::read_to_string(raw.join("test.csv")).unwrap()[..15];
    let images = folder.path().join("images");
    let mut command = ingest();
    command
        .arg("inspect")
        .arg(&out)
        .args(["--json", "--sample", id, "--out"])
        .arg(&images);
    let sample = json(run(&mut command).ok());
    assert_eq!(sample["sample"]["id"], id);
    let row = &common::rows(&out)[id];
    let frame = features::image::decode(&fs::read(images.join("frame-02.png")).unwrap()).unwrap();
    let stored = features::image::decode(&row.frames.as_ref().unwrap()[2]).unwrap();
    assert_eq!(frame.pixels, stored.pixels);
    let mel = features::image::decode(&fs::read(images.join("mel.png")).unwrap()).unwrap();
    assert_eq!(mel.width % (row.mel.as_ref().unwrap().len() / 128), 0);
    let unknown = run(ingest()
        .arg("inspect")
        .arg(&out)
        .args(["--sample", "-unknown"]));
    assert!(unknown.error().contains("-unknown"));

    let masked = json(
        run(ingest().arg("mask").arg(&out).args([
            "--protocol",
            "missing-both",
            "--rate",
            "0.5",
            "--json",
        ]))
        .ok(),
    );
    assert_eq!(masked["hidden"]["train"]["audio"], 1);
    assert_eq!(masked["hidden"]["train"]["video"], 2);
    assert!(
        run(ingest()
            .arg("inspect")
            .arg(masked["file"].as_str().unwrap()))
        .ok()
        .stdout
        .contains("has_video")
    );

    // A mask of another program, by id in any order or with one value for each sample of the split.
    let all = common::rows(&out);
    let test: Vec<&String> = all
        .iter()
        .filter(|(_, row)| row.split.as_str() == "test")
        .map(|(id, _)| id)
        .collect();
    let own = folder.path().join("own.csv");
    let lines = test
        .iter()
        .rev()
        .enumerate()
        .map(|(i, id)| format!("{id},{}\n", i % 3));
    fs::write(&own, format!("id,value\n{}", lines.collect::<String>())).unwrap();
    let import = |split: &str| {
        run(ingest()
            .arg("mask")
            .arg(&out)
            .arg("--import")
            .arg(&own)
            .args(["--split", split, "--json"]))
    };
    let imported = json(import("test").ok());
    // Of n values 0 1 2 0 1 2 ..., 2 removes the audio and 1 the video.
    let n = test.len();
    assert_eq!(imported["hidden"]["test"]["audio"], n / 3);
    assert_eq!(imported["hidden"]["test"]["video"], (n + 1) / 3);
    let path = std::path::PathBuf::from(imported["file"].as_str().unwrap());
    let mask = features::mask::Mask::read(&path).unwrap();
    let shards = features::Shards::open(&out.as_path().into()).unwrap();
    let present = mask.present(&shards, datasets::Split::Test).unwrap();
    for (id, present) in shards.split(datasets::Split::Test).ids.iter().zip(present) {
        let position = test.iter().rev().position(|one| *one == id).unwrap();
        assert_eq!(present, [position % 3 != 2, position % 3 != 1], "{id}");
    }
    assert!(import("train").error().contains("lacks sample"));
    fs::write(&own, "0\n".repeat(n + 1)).unwrap();
    assert!(
        import("test")
            .error()
            .contains(&format!("{} values", n + 1))
    );

    // A missing file is reported.
    fs::remove_file(raw.join(format!("VideoFlash/{id}.flv"))).unwrap();
    let checked = run(ingest().args(["check", "crema-d", "--raw"]).arg(&raw));
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains(id));
}

/// Mel values in f16, and all frames.
#[test]
fn settings_change_the_shards() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let (whole, half) = (folder.path().join("whole"), folder.path().join("half"));
    run(&mut run_crema(&raw, &whole)).ok();
    let mut command = ingest();
    command.args([
        "run",
        "crema-d",
        "--mel-dtype",
        "f16",
        "--frame-pool",
        "0",
        "--limit",
        "2",
    ]);
    run(command.arg("--raw").arg(&raw).arg("--out").arg(&half)).ok();
    let overview = json(run(ingest().args(["inspect", "--json"]).arg(&half)).ok());
    assert_eq!(overview["rows"], 4);
    assert_eq!(overview["columns"]["mel"], "list[array[f16, 128]]");
    let batches = common::batches(&half.join("train-00000-of-00001.parquet"));
    let frames =
        arrow_array::cast::AsArray::as_list::<i32>(batches[0].column_by_name("frames").unwrap());
    assert!(
        frames.value_length(0) > 30,
        "all frames of a clip of more than a second"
    );
}
