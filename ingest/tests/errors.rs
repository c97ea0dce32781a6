//! Wrong usage and unusable input: one clear line, code 2, and no panic.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{ingest, run, run_crema, synth};

/// Arguments, and what the line must name: the thing, and what to do.
#[track_caller]
fn refused(arguments: &[&str], words: &[&str]) {
    let outcome = run(ingest().args(arguments));
    let error = outcome.error();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
    assert!(outcome.stdout.is_empty());
}

#[test]
fn usage() {
    refused(
        &["run", "cremad"],
        &["cremad", "did you mean \"crema-d\"", ".toml"],
    );
    refused(&["run"], &["<DATASET>", "--help"]);
    refused(&["walk"], &["walk", "--help"]);
    refused(&["run", "crema-d", "--part", "3/3"], &["--part", "0/3"]);
    refused(&["run", "crema-d", "--workers", "0"], &["--workers"]);
    refused(&["run", "crema-d", "--mel-dtype", "f8"], &["f8", "f16"]);
    refused(
        &["run", "crema-d", "--max-failures", "lots"],
        &["--max-failures", "1.5%"],
    );
    refused(&["run", "nowhere/clips.toml"], &["nowhere/clips.toml"]);
    refused(
        &["mask", "nowhere/at-all", "--protocol", "missing-both"],
        &["nowhere/at-all", "no such folder"],
    );
    refused(
        &["mask", "crema-d", "--protocol", "missing-smell"],
        &["missing-smell", "missing-both"],
    );
    refused(&["synth", "imagenet"], &["imagenet", "choose one of"]);
    refused(
        &["synth", "crema-d", "--samples", "3"],
        &["--samples", "12"],
    );
}

#[test]
fn raw_folders() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = ingest();
    command.env("U2A_DATA", &data).args(["run", "crema-d"]);
    let outcome = run(&mut command);
    let raw = data.join("raw/crema-d");
    assert!(
        outcome.error().contains(raw.to_str().unwrap())
            && outcome.error().contains("no such folder")
    );

    fs::create_dir_all(&raw).unwrap();
    for program in ["run", "check"] {
        let outcome = run(ingest().env("U2A_DATA", &data).args([program, "crema-d"]));
        assert!(outcome.error().contains("holds no files"), "{outcome:?}");
    }

    // A clone without its large files.
    for (subfolder, ending) in [("AudioWAV", "wav"), ("VideoFlash", "flv")] {
        fs::create_dir_all(raw.join(subfolder)).unwrap();
        for stem in ["1001_DFA_ANG_XX", "1002_TIE_HAP_XX", "1003_IEO_SAD_HI"] {
            let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 40618\n";
            fs::write(
                raw.join(subfolder).join(format!("{stem}.{ending}")),
                pointer,
            )
            .unwrap();
        }
    }
    let outcome = run(ingest().env("U2A_DATA", &data).args(["run", "crema-d"]));
    assert!(outcome.error().contains("git lfs pull"), "{outcome:?}");
    assert!(
        !data.join("shards").exists(),
        "nothing is made before the input is known to be good"
    );
}

#[test]
fn output_folders() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let out = folder.path().join("out");
    run(&mut run_crema(&raw, &out)).ok();

    let other = run(run_crema(&raw, &out).args(["--mel-dtype", "f16"]));
    assert!(
        other.error().contains("mel_dtype \"f32\", now \"f16\"")
            && other.error().contains("--overwrite")
    );
    let limited = run(run_crema(&raw, &out).args(["--limit", "3"]));
    assert!(limited.error().contains("limit null, now 3"));

    // The raw data lose a file: the shard that was made from it is not what it would be now.
    let lost = fs::read_dir(raw.join("VideoFlash"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::remove_file(&lost).unwrap();
    let changed = run(&mut run_crema(&raw, &out));
    assert!(
        changed.error().contains("raw data has changed") && changed.error().contains("--update")
    );
    let updated = run(run_crema(&raw, &out).arg("--update"));
    assert_eq!(
        updated.code,
        Some(1),
        "a missing file is something to look at: {updated:?}"
    );
    let again = folder.path().join("again");
    assert_eq!(run(&mut run_crema(&raw, &again)).code, Some(1));
    common::assert_same(&again, &out);
    let rewritten = run(run_crema(&raw, &out).args([
        "--overwrite",
        "--mel-dtype",
        "f16",
        "--max-failures",
        "1",
    ]));
    rewritten.ok();

    // A shard that is no longer whole.
    let shard = out.join("train-00000-of-00002.parquet");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let cut = run(run_crema(&raw, &out).args(["--mel-dtype", "f16"]));
    assert!(
        cut.error().contains("train-00000-of-00002.parquet") && cut.error().contains("delete it")
    );

    // A file where a folder should be.
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(run(&mut run_crema(&raw, &file)).error().contains("file"));
    // Synth leaves what it did not make alone.
    let outcome = run(ingest().args(["synth", "crema-d", "--out"]).arg(&out));
    assert!(outcome.error().contains("choose another --out"));
}

#[test]
fn two_runs_on_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 24);
    let out = folder.path().join("out");
    let null = || std::process::Stdio::null();
    let mut first = run_crema(&raw, &out)
        .stdout(null())
        .stderr(null())
        .spawn()
        .unwrap();
    while !out.join(".ingest.lock").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = run(&mut run_crema(&raw, &out));
    let error = second.error();
    assert!(
        error.contains("another ingest") && error.contains(&format!("process {}", first.id())),
        "{error}"
    );
    assert!(first.wait().unwrap().success());
}

/// Output into a pipe that nobody reads is no failure.
#[test]
fn a_closed_pipe_is_success() {
    let mut child = ingest()
        .args(["run", "--help"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
