//! Wrong usage and unusable input end with exit code 2 and one line that names what is wrong, never
//! with a panic.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tests::{CremaD, EXIT_DONE, command, names, run, temp, weights};
use util::skip::{Missing, skip};

/// The data that all tests of this program share and none writes to.
fn data() -> &'static CremaD {
    static DATA: OnceLock<CremaD> = OnceLock::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("usage");
    DATA.get_or_init(|| CremaD::shared(&folder, 24))
}

fn train(arguments: &[&str]) -> Command {
    let mut train = command("train", ["run", "crema-d", "--batch-size", "4"]);
    train.args(arguments);
    train
}

#[test]
fn unknown_names_and_flags_are_usage_errors() {
    let refused = |program: &str, line: &str, words: &[&str]| {
        run(&mut command(program, line.split(' '))).expect_usage(words);
    };
    for program in ["ingest", "train"] {
        refused(program, "run crema", &["crema", "crema-d"]);
        refused(program, "run no/such/own.toml", &["no/such/own.toml"]);
        refused(program, "rnu crema-d", &["rnu"]);
        refused(program, "run crema-d --epohcs 2", &["--epohcs"]);
        let mut masked = command(program, ["run", "crema-d"]);
        run(masked.env("U2A_CPU", "avx3")).expect_usage(&["U2A_CPU", "avx3", "avx512"]);
    }
    refused("train", "run crema-d --epochs many", &["--epochs", "many"]);
    let set = "run crema-d --describe --random-weights 0 --set learning_rat=1";
    refused("train", set, &["learning_rat"]);
    refused(
        "train",
        "run crema-d --random-weights 0 --device cuda:0",
        &["cuda:0"],
    );
    // Existing shards with unknown protocols and impossible rates.
    let shards = data().shards().display().to_string();
    let mask = |rest: &str, words: &[&str]| {
        run(command("ingest", ["mask", &shards]).args(rest.split(' '))).expect_usage(words);
    };
    mask(
        "--protocol missing-image --rate 0.7 --seed 1",
        &["missing-image"],
    );
    mask(
        "--protocol missing-everything --rate 0.7 --seed 1",
        &["missing-everything"],
    );
    mask("--protocol missing-audio --rate 1.5 --seed 1", &["1.5"]);
}

/// Several processes that know nothing of each other would all train into one run folder.
#[test]
fn processes_that_cannot_find_each_other_are_usage_errors() {
    let mut step = train(&["--random-weights", "0"]);
    // With the exit codes of no job.
    step.env("U2A_JOB", "0")
        .env("SLURM_PROCID", "1")
        .env("SLURM_STEP_NUM_TASKS", "2");
    run(&mut step).expect_usage(&["srun has started 2 processes", "srun --mpi=pmix"]);
    let doctor = run(&mut command("train", ["doctor", "--json"])).expect(EXIT_DONE);
    // With MPI they would look for each other.
    if doctor.json()["mpi"].is_null() {
        let mut rank = train(&["--random-weights", "0"]);
        rank.env("OMPI_COMM_WORLD_RANK", "0")
            .env("OMPI_COMM_WORLD_SIZE", "2");
        run(&mut rank).expect_usage(&["mpirun has started 2 processes", "U2A_MPI=1 just build"]);
    }
}

#[test]
fn help_has_an_example() {
    for (program, subcommands) in [
        (
            "ingest",
            &[
                "run", "synth", "check", "inspect", "mask", "browse", "publish", "cluster",
            ][..],
        ),
        ("train", &["run", "eval", "report", "cluster", "doctor"]),
    ] {
        has_example(&[program, "--help"]);
        for subcommand in subcommands {
            has_example(&[program, subcommand, "--help"]);
        }
    }
    has_example(&["fetch", "--help"]);
}

#[track_caller]
fn has_example(words: &[&str]) {
    let help = run(&mut command(words[0], &words[1..])).expect(EXIT_DONE);
    let help = help.stdout.to_lowercase();
    assert!(
        help.contains("example"),
        "{} has no example",
        words.join(" ")
    );
}

/// Rewrites a shard with another value of one key of its schema metadata.
fn set_metadata(shard: &Path, key: &str, value: &str) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(shard).unwrap()).unwrap();
    let mut metadata = reader.schema().metadata().clone();
    assert!(
        metadata.insert(key.to_owned(), value.to_owned()).is_some(),
        "a shard has no key {key}"
    );
    let schema = Arc::new(Schema::new_with_metadata(
        reader.schema().fields().clone(),
        metadata,
    ));
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(shard).unwrap(), schema.clone(), None).unwrap();
    for batch in batches {
        writer
            .write(&RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).unwrap())
            .unwrap();
    }
    writer.close().unwrap();
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        if from.join(&name).is_dir() {
            copy(&from.join(&name), &to.join(&name));
        } else {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

#[test]
fn unreadable_shards_are_usage_errors() {
    let folder = temp();
    let train_on = |shards: &Path| {
        run(train(&["--max-steps", "1"])
            .arg("--shards")
            .arg(shards)
            .arg("--weights")
            .arg(weights())
            .arg("--out")
            .arg(folder.path().join("run")))
    };
    train_on(&folder.path().join("nothing-here")).expect_usage(&["nothing-here", "ingest"]);

    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    train_on(&empty).expect_usage(&["empty"]);

    let other = folder.path().join("other-version");
    copy(&data().shards(), &other);
    let shard = names(&other)
        .into_iter()
        .find(|name| name.starts_with("train-"))
        .unwrap();
    set_metadata(&other.join(&shard), "u2a.schema_version", "77");
    train_on(&other).expect_usage(&[&shard, "77", "ingest"]);

    let cut = folder.path().join("cut");
    copy(&data().shards(), &cut);
    let bytes = fs::read(cut.join(&shard)).unwrap();
    fs::write(cut.join(&shard), &bytes[..bytes.len() / 2]).unwrap();
    train_on(&cut).expect_usage(&[&shard]);
    run(command("ingest", ["inspect"]).arg(&cut)).expect_usage(&[&shard]);
}

#[test]
fn mismatched_weights_are_usage_errors() {
    let folder = temp();
    let with = |weights: &Path| {
        run(train(&["--max-steps", "1"])
            .arg("--shards")
            .arg(data().shards())
            .arg("--weights")
            .arg(weights)
            .arg("--out")
            .arg(folder.path().join("run")))
    };
    with(&folder.path().join("nothing-here")).expect_usage(&["nothing-here"]);

    // Another architecture under the expected name.
    let swapped = folder.path().join("swapped");
    copy(&weights(), &swapped);
    fs::remove_dir_all(swapped.join("ast-finetuned-audioset-10-10-0.4593")).unwrap();
    copy(
        &weights().join("bert-base-uncased"),
        &swapped.join("ast-finetuned-audioset-10-10-0.4593"),
    );
    with(&swapped).expect_usage(&["ast-finetuned-audioset-10-10-0.4593"]);

    // A config.json with other sizes than the tensors.
    let misshapen = folder.path().join("misshapen");
    copy(&weights(), &misshapen);
    let config = misshapen.join("clip-vit-base-patch16/config.json");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("\"intermediate_size\": 64", "\"intermediate_size\": 96");
    fs::write(&config, text).unwrap();
    with(&misshapen).expect_usage(&["clip-vit-base-patch16", "mlp.fc1"]);

    let cut = folder.path().join("cut");
    copy(&weights(), &cut);
    let file = cut.join("clip-vit-base-patch16/model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1000]).unwrap();
    with(&cut).expect_usage(&["clip-vit-base-patch16/model.safetensors"]);

    let half = folder.path().join("half");
    copy(&weights(), &half);
    fs::remove_file(half.join("clip-vit-base-patch16/model.safetensors")).unwrap();
    with(&half).expect_usage(&["clip-vit-base-patch16"]);
}

#[test]
fn invalid_run_folders_are_usage_errors() {
    let folder = temp();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for path in [&empty, &folder.path().join("nothing-here")] {
        let name = path.file_name().unwrap().to_str().unwrap();
        run(command("train", ["eval"]).arg(path)).expect_usage(&[name]);
        run(command("train", ["run", "crema-d", "--resume"]).arg(path)).expect_usage(&[name]);
        run(command("train", ["report"]).arg(path)).expect_usage(&[name]);
    }
    let out = folder.path().join("run");
    run(train(&["--max-steps", "1"])
        .arg("--shards")
        .arg(data().shards())
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(&out))
    .expect(EXIT_DONE);
    run(command("train", ["eval", "--missing", "image"]).arg(&out)).expect_usage(&["image"]);
    run(command("train", ["eval", "--protocol", "missing-everything"]).arg(&out))
        .expect_usage(&["missing-everything"]);
    // An existing run is not overwritten.
    run(train(&["--max-steps", "1"])
        .arg("--shards")
        .arg(data().shards())
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(&out))
    .expect_usage(&["--resume"]);
}

/// Wraps a command so that it has a file system of one megabyte at `folder`. Returns `None` if none
/// can be mounted.
fn with_full_disk(folder: &Path, command: &Command) -> Option<Command> {
    let mounted = format!("mount -t tmpfs -o size=1m tmpfs {}", folder.display());
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--map-root-user", "sh", "-c", &mounted]);
    if !probe.output().is_ok_and(|out| out.status.success()) {
        return None;
    }
    let mut full = Command::new("unshare");
    full.args([
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &format!("{mounted} && exec \"$@\""),
    ])
    .arg("sh");
    full.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => full.env(key, value),
            None => full.env_remove(key),
        };
    }
    Some(full)
}

#[test]
fn full_disk_during_training_is_one_error_line() {
    let folder = temp();
    let out = folder.path().join("disk");
    fs::create_dir(&out).unwrap();
    let mut training = train(&[
        "--epochs",
        "50",
        "--checkpoint-every",
        "1",
        "--set",
        "keep_checkpoints=1000",
        // With a named device, stderr has no line about the choice, and the error is its only
        // line.
        "--device",
        "cpu",
    ]);
    training
        .arg("--shards")
        .arg(data().shards())
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(out.join("run"));
    let Some(mut training) = with_full_disk(&out, &training) else {
        skip(Missing::Platform, "no small file system can be mounted");
        return;
    };
    run(&mut training).expect_usage(&["No space left"]);
}

#[test]
fn closed_stdout_is_not_an_error() {
    let shards = data().shards().display().to_string();
    let table = [
        "run",
        "crema-d",
        "--describe",
        "--random-weights",
        "0",
        "--shards",
        &shards,
    ];
    for (program, arguments) in [
        ("ingest", vec!["inspect", &shards]),
        ("train", table.to_vec()),
    ] {
        let mut child = command(program, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{program} {arguments:?}: {stderr}");
    }
}
