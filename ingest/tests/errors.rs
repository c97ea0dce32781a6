//! Wrong usage and unusable input: one line of error, exit code 2, and no panic.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{ingest, run, run_crema, synth};

/// Checks that arguments are refused with a line that has these words: what is wrong and what to
/// do.
#[track_caller]
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let outcome = run(ingest().args(arguments));
    let error = outcome.error();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
    assert!(outcome.stdout.is_empty());
}

#[test]
fn wrong_arguments_are_refused() {
    assert_refused(
        &["run", "cremad"],
        &["cremad", "did you mean \"crema-d\"", ".toml"],
    );
    assert_refused(&["run"], &["<DATASET>", "--help"]);
    assert_refused(&["walk"], &["walk", "--help"]);
    assert_refused(&["run", "crema-d", "--part", "3/3"], &["--part", "0/3"]);
    assert_refused(&["run", "crema-d", "--workers", "0"], &["--workers"]);
    assert_refused(&["run", "crema-d", "--mel-dtype", "f8"], &["f8", "f16"]);
    assert_refused(
        &["run", "crema-d", "--max-failures", "lots"],
        &["--max-failures", "1.5%"],
    );
    assert_refused(&["run", "nowhere/clips.toml"], &["nowhere/clips.toml"]);
    assert_refused(
        &["mask", "nowhere/at-all", "--protocol", "missing-both"],
        &["nowhere/at-all", "no such folder"],
    );
    assert_refused(
        &["mask", "crema-d", "--protocol", "missing-smell"],
        &["missing-smell", "missing-both"],
    );
    assert_refused(&["synth", "imagenet"], &["imagenet", "choose one of"]);
    assert_refused(
        &["synth", "crema-d", "--samples", "3"],
        &["--samples", "12"],
    );
}

#[test]
fn unusable_raw_folders_are_refused() {
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

    // A clone without the files of Git LFS.
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
        "the output folder is created only for input that can be used"
    );
}

#[test]
fn output_folders_of_other_runs_are_refused() {
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

    // A file is removed from the raw data, so the shard that was made from it is stale.
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
        "a missing file changes the exit code: {updated:?}"
    );
    let second = folder.path().join("second");
    assert_eq!(run(&mut run_crema(&raw, &second)).code, Some(1));
    common::assert_same(&second, &out);
    let rewritten = run(run_crema(&raw, &out).args([
        "--overwrite",
        "--mel-dtype",
        "f16",
        "--max-failures",
        "1",
    ]));
    rewritten.ok();

    // A truncated shard.
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
    // Synth replaces no folder that it did not write.
    let outcome = run(ingest().args(["synth", "crema-d", "--out"]).arg(&out));
    assert!(outcome.error().contains("choose another --out"));
}

#[test]
fn a_second_run_on_one_folder_is_refused() {
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

/// Output into a closed pipe is no failure.
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
