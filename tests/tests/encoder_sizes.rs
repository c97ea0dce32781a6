//! Encoders of other sizes than the paper's, given by `--weights`: found by their model type, trained
//! alone where the two differ in width, and refused together.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{CremaD, EXIT_DONE, command, names, run, temp, weights, workspace};

const LARGE: &str = "clip-vit-large-patch14";
const AST: &str = "ast-finetuned-audioset-10-10-0.4593";

/// The small encoder that has a patch size, a width and a folder of its own.
fn large_clip() -> PathBuf {
    workspace()
        .join("tests/golden/sizes/clip-patch14")
        .join(LARGE)
}

/// A run of one epoch.
fn training(data: &CremaD, weights: &Path, out: &Path) -> Command {
    let mut train = command("train", ["run", "crema-d", "--batch-size", "4"]);
    train.args(["--epochs", "1", "--shards"]).arg(data.shards());
    train.arg("--weights").arg(weights).arg("--out").arg(out);
    train
}

#[test]
fn encoder_of_another_width_is_trained_alone_and_refused_beside_the_other() {
    let data = CremaD::new(24);
    let folder = temp();
    let (given, out) = (folder.path().join("weights"), folder.path().join("run"));
    fs::create_dir(&given).unwrap();
    symlink(large_clip(), given.join(LARGE)).unwrap();
    symlink(weights().join(AST), given.join(AST)).unwrap();

    run(&mut training(&data, &given, &out)).expect_usage(&[
        "AST of width 32",
        "CLIP of width 48",
        AST,
        LARGE,
        "--modality audio or --modality video",
    ]);
    assert!(!out.exists());

    // The other encoder is not even looked for.
    fs::remove_file(given.join(AST)).unwrap();
    let alone = ["--modality", "video"];
    run(training(&data, &given, &out).args(alone)).expect(EXIT_DONE);
    let config = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(
        config.contains("patch = 14") && config.contains(LARGE),
        "{config}"
    );
    let best = out.join("best");
    let held = names(&best);
    assert!(
        held.contains(&"video".into()) && !held.contains(&"audio".into()),
        "{held:?}"
    );
    let adapter = fs::read_to_string(best.join("video/adapter_config.json")).unwrap();
    assert!(
        adapter.contains(given.join(LARGE).to_str().unwrap()),
        "{adapter}"
    );

    // Another checkpoint beside it changes nothing for this run, and a new one has to choose.
    let base = "clip-vit-base-patch16";
    symlink(weights().join(base), given.join(base)).unwrap();
    run(command("train", ["eval"]).arg(&out)).expect(EXIT_DONE);
    let other = folder.path().join("other");
    let several = "holds several CLIP encoders (clip-vit-base-patch16, clip-vit-large-patch14)";
    run(training(&data, &given, &other).args(alone)).expect_usage(&[several]);
    fs::remove_file(given.join(base)).unwrap();

    // Full fine-tuning keeps the name, and its result is a folder for --weights.
    let full = folder.path().join("full");
    run(training(&data, &given, &full)
        .args(alone)
        .args(["--adapt", "full"]))
    .expect(EXIT_DONE);
    let trained = full.join("best/weights");
    assert_eq!(names(&trained), [LARGE]);
    run(command("train", ["eval"]).arg(&full)).expect(EXIT_DONE);
    run(command("train", ["report"]).arg(&full)).expect(EXIT_DONE);
    let page = fs::read_to_string(full.join("report.html")).unwrap();
    assert!(page.contains("audio (not used)"));
    run(training(&data, &trained, &other).args(alone)).expect(EXIT_DONE);
}
