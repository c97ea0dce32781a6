//! Shards in five Python readers and as published, runs in transformers and PEFT, and the scripts
//! of docs/python.md.
//!
//! Needs a Python with tests/golden/requirements.txt (`U2A_PYTHON`, or `.venv` at the root as
//! `just test-python` makes it); without one the tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::{
    CommandOutput, CremaD, EXIT_DONE, command, names, python_package, run, temp, weights, workspace,
};
use util::skip::{Missing, skip};

/// The largest difference of a logit; 8e-7 was measured.
const TOLERANCE: &str = "3e-6";
/// The largest relative difference of a loss over 20 steps; 1.6e-7 was measured.
const LOSS_TOLERANCE: &str = "1e-6";

/// Runs a script of tests/python. Returns `None`, and reports the test as skipped, if there is no
/// Python for it.
fn script(name: &str, arguments: &[&Path], more: &[&str]) -> Option<CommandOutput> {
    script_with(name, arguments, more, None)
}

/// [`script`], with a folder of further Python packages.
fn script_with(
    name: &str,
    arguments: &[&Path],
    more: &[&str],
    packages: Option<&Path>,
) -> Option<CommandOutput> {
    let Some(python) = tests::python() else {
        skip(
            Missing::Platform,
            "no Python with tests/golden/requirements.txt: set U2A_PYTHON or run `just test-python`",
        );
        return None;
    };
    let mut command = Command::new(python);
    command
        .arg(workspace().join("tests/python").join(name))
        .args(arguments)
        .args(more);
    if let Some(packages) = packages {
        command.env("PYTHONPATH", packages);
    }
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("OMP_NUM_THREADS", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some(run(&mut command))
}

/// Reports as skipped what a script left out for want of a package.
fn report_skipped(output: &CommandOutput) {
    let lines = output.stdout.lines();
    for reason in lines.filter_map(|line| line.strip_prefix("skipped ")) {
        skip(Missing::Platform, reason);
    }
}

/// Shards of a synthetic CREMA-D in which every seventh clip has no video and one has nothing.
fn shards_with_gaps(folder: &Path) -> PathBuf {
    let (raw, shards) = (folder.join("raw"), folder.join("shards"));
    run(command("ingest", ["synth", "crema-d", "--samples", "24", "--out"]).arg(&raw))
        .expect(EXIT_DONE);
    for (number, name) in names(&raw.join("VideoFlash")).iter().enumerate().step_by(7) {
        std::fs::remove_file(raw.join("VideoFlash").join(name)).unwrap();
        if number == 0 {
            let stem = Path::new(name).file_stem().unwrap().to_str().unwrap();
            std::fs::remove_file(raw.join(format!("AudioWAV/{stem}.wav"))).unwrap();
            std::fs::remove_file(raw.join(format!("AudioMP3/{stem}.mp3"))).unwrap();
        }
    }
    let mut ingest = command(
        "ingest",
        ["run", "crema-d", "--max-failures", "100%", "--raw"],
    );
    run(ingest.arg(&raw).arg("--out").arg(&shards)).expect(EXIT_DONE);
    shards
}

/// Ingests a dataset whose classes are no strings to readers of YAML 1.1, unless they are quoted.
fn notes_with_odd_classes(folder: &Path) -> PathBuf {
    let classes = [
        "yes",
        "no",
        "True",
        "1:30",
        "012",
        "1_000",
        "=",
        "2020-01-01",
    ];
    let mut table = String::from("id,split,label,photo,text\n");
    for (i, class) in classes.iter().enumerate() {
        for split in ["train", "test"] {
            table += &format!("{split}{i},{split},{class},a.jpg,a text\n");
        }
    }
    std::fs::create_dir(folder).unwrap();
    let photo = workspace().join("tests/src/bin/stand-in.jpg");
    std::fs::copy(photo, folder.join("a.jpg")).unwrap();
    std::fs::write(folder.join("table.csv"), table).unwrap();
    let toml = "name = \"notes\"\ntitle = \"no\"\ntable = \"table.csv\"\n[columns]\nid = \"id\"\n\
                split = \"split\"\nlabel = \"label\"\nimage = \"photo\"\ntext = \"text\"\n";
    std::fs::write(folder.join("notes.toml"), toml).unwrap();
    let mut ingest = command("ingest", ["run"]);
    let shards = folder.join("shards");
    run(ingest
        .arg(folder.join("notes.toml"))
        .arg("--out")
        .arg(&shards))
    .expect(EXIT_DONE);
    shards
}

/// `load_dataset` on the folder gives splits, counts and pictures, `mlcroissant` finds no fault,
/// and in the folder of `--out` every Parquet file is a shard.
#[test]
fn published_shards_open_as_a_dataset() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let folder = temp();
    let shards = shards_with_gaps(folder.path());
    let (out, posters) = (folder.path().join("out"), folder.path().join("posters"));
    run(command("ingest", ["publish"]).arg(&shards)).expect(EXIT_DONE);
    run(command("ingest", ["publish"])
        .arg(&shards)
        .arg("--out")
        .arg(&out))
    .expect(EXIT_DONE);
    // One line for the clip that has nothing.
    let left_out = tests::json_lines(&out.join("failures.jsonl"));
    assert_eq!(left_out.len(), 1);
    assert!(
        left_out[0]["video_error"]
            .as_str()
            .unwrap()
            .contains("no such file")
    );
    // Several labels a sample, an image and a text.
    let raw = folder.path().join("posters-raw");
    run(command("ingest", ["synth", "mm-imdb", "--samples", "24", "--out"]).arg(&raw))
        .expect(EXIT_DONE);
    let mut ingest = command("ingest", ["run", "mm-imdb", "--raw"]);
    run(ingest.arg(&raw).arg("--out").arg(&posters)).expect(EXIT_DONE);
    run(command("ingest", ["publish"]).arg(&posters)).expect(EXIT_DONE);
    let notes = notes_with_odd_classes(&folder.path().join("notes"));
    run(command("ingest", ["publish"]).arg(&notes)).expect(EXIT_DONE);
    for (folder, more) in [
        (&shards, &[][..]),
        (&out, &["--everything"]),
        (&posters, &[]),
        (&notes, &[]),
    ] {
        let checked = script("check_published.py", &[folder], more).unwrap();
        report_skipped(&checked.expect(EXIT_DONE));
    }
}

#[test]
fn scripts_of_the_python_page_run() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let folder = temp();
    let shards = shards_with_gaps(folder.path());
    run(command("ingest", ["publish"]).arg(&shards)).expect(EXIT_DONE);
    let out = folder.path().join("run");
    let mut train = command("train", ["run", "crema-d", "--epochs", "2", "--lr", "1e-2"]);
    train.arg("--shards").arg(&shards).arg("--weights");
    run(train.arg(weights()).arg("--out").arg(&out)).expect(EXIT_DONE);
    for missing in [&[][..], &["--missing", "audio"]] {
        run(command("train", ["eval"]).arg(&out).args(missing)).expect(EXIT_DONE);
    }
    let (page, weights) = (workspace().join("docs/python.md"), weights());
    let paths = [
        &page,
        Path::new("--shards"),
        &shards,
        Path::new("--run"),
        &out,
        Path::new("--weights"),
        &weights,
    ];
    python_package(folder.path());
    let checked = script_with("check_python_docs.py", &paths, &[], Some(folder.path())).unwrap();
    report_skipped(&checked.expect(EXIT_DONE));
}

#[test]
fn shards_open_in_every_reader() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let data = CremaD::new(24);
    for protocol in ["missing-both", "missing-audio"] {
        run(command(
            "ingest",
            [
                "mask",
                "--protocol",
                protocol,
                "--rate",
                "0.7",
                "--seed",
                "1",
            ],
        )
        .arg(data.shards()))
        .expect(EXIT_DONE);
    }
    script("check_shards.py", &[&data.shards()], &[])
        .unwrap()
        .expect(EXIT_DONE);
}

/// Paths and claims with characters that YAML or a shell could misread reach the programs as they
/// were typed.
#[test]
fn manifests_for_kubernetes_are_valid() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let folder = temp();
    let (raw, out) = ("/data/it's \"raw\" # $HOME: {x}", "/data/a b");
    let cluster = ["cluster", "k8s", "crema-d", "--image", "registry/u2a:1"];
    let print = |program: &str, flags: &[&str]| {
        let mut command = command(program, cluster);
        command.args(["--volume", "claim: \"1\""]).args(flags);
        let path = folder.path().join(format!("{program}.yaml"));
        std::fs::write(&path, run(&mut command).expect(EXIT_DONE).stdout).unwrap();
        path
    };
    let array = print("ingest", &["--parts", "8", "--raw", raw, "--out", out]);
    let gpu = ["--gpus", "1", "--threads", "2"];
    let job = print(
        "train",
        &[&["--out", out, "--shards", raw], &gpu[..]].concat(),
    );
    let checked = script("check_manifests.py", &[&array, &job], &[]);
    let commands = checked.unwrap().expect(EXIT_DONE).json();
    let run = ["ingest", "run", "crema-d", "--raw", raw, "--out", out];
    assert_eq!(commands[0], json!([&run[..], &["--workers", "4"]].concat()));
    assert_eq!(commands[1], json!([&run[..], &["--finish"]].concat()));
    // The shell of the training would begin a run or continue one.
    let shell = commands[2][2]
        .as_str()
        .unwrap()
        .replace("exec train", "printf '%s|'");
    let printed = Command::new("sh").args(["-c", &shell]).output().unwrap();
    let words = [
        "run",
        "crema-d",
        "--shards",
        raw,
        "--threads",
        "2",
        "--out",
        out,
        "",
    ];
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), words.join("|"));
}

#[test]
fn run_loads_in_peft_and_predicts_the_same() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let data = CremaD::new(36);
    let folder = temp();
    let out = folder.path().join("run");
    run(command(
        "train",
        [
            "run",
            "crema-d",
            "--epochs",
            "3",
            "--batch-size",
            "4",
            "--lr",
            "1e-2",
            "--seed",
            "2",
        ],
    )
    .arg("--shards")
    .arg(data.shards())
    .arg("--weights")
    .arg(weights())
    .arg("--out")
    .arg(&out))
    .expect(EXIT_DONE);
    for missing in [None, Some("audio"), Some("video")] {
        let before = names(&out);
        let mut evaluate = command("train", ["eval"]);
        evaluate.arg(&out);
        let mut more = vec!["--tolerance", TOLERANCE];
        if let Some(missing) = missing {
            evaluate.args(["--missing", missing]);
            more.extend(["--missing", missing]);
        }
        run(&mut evaluate).expect(EXIT_DONE);
        let predictions = names(&out)
            .into_iter()
            .find(|name| name.starts_with("predictions-") && !before.contains(name))
            .expect("eval writes predictions");
        let (predictions, shards, weights) = (out.join(predictions), data.shards(), weights());
        let ran = script(
            "check_run.py",
            &[
                &out,
                Path::new("--predictions"),
                &predictions,
                Path::new("--shards"),
                &shards,
                Path::new("--weights"),
                &weights,
            ],
            &more,
        );
        eprintln!("{}", ran.unwrap().expect(EXIT_DONE).stdout);
    }
}

#[test]
fn training_steps_equal_pytorch() {
    if tests::python().is_none() {
        script("", &[], &[]);
        return;
    }
    let data = CremaD::new(48);
    let folder = temp();
    let (initial, out) = (folder.path().join("initial"), folder.path().join("run"));
    let same = ["--epochs", "10", "--batch-size", "8", "--lr", "1e-2"];
    for (folder, steps) in [(&initial, "0"), (&out, "20")] {
        let switches = "--no-shuffle --augment off --lora-dropout 0 --encoder-dropout off --modality-dropout off --seed 3";
        run(command("train", ["run", "crema-d", "--max-steps", steps])
            .args(same)
            .args(switches.split(' '))
            .arg("--shards")
            .arg(data.shards())
            .arg("--weights")
            .arg(weights())
            .arg("--out")
            .arg(folder))
        .expect(EXIT_DONE);
    }
    let checkpoint = names(&initial)
        .into_iter()
        .find(|name| name.starts_with("checkpoint-"))
        .unwrap();
    let (checkpoint, shards, weights) = (initial.join(checkpoint), data.shards(), weights());
    let paths = [
        &out,
        Path::new("--initial"),
        &checkpoint,
        Path::new("--shards"),
        &shards,
        Path::new("--weights"),
        &weights,
    ];
    let more = [&same[..], &["--steps", "20", "--tolerance", LOSS_TOLERANCE]].concat();
    eprintln!(
        "{}",
        script("check_train.py", &paths, &more)
            .unwrap()
            .expect(EXIT_DONE)
            .stdout
    );
}
