//! A user's own data of any one or two modalities: ingest, training, evaluation with either input
//! missing, labels for new files, and the report.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::{EXIT_DONE, command, names, run, temp};

/// The samples of the table; every sixth is of the test split.
const SAMPLES: usize = 36;
const CLASSES: usize = 3;

/// Media files, and a table `table.csv` with columns `sound`, `clip`, `front`, `back` and `words`.
/// Some cells are empty.
struct Raw {
    folder: tempfile::TempDir,
    /// For each sample, a file of each kind and the text.
    rows: Vec<[String; 5]>,
}

impl Raw {
    fn new() -> Raw {
        let folder = temp();
        let synth = |dataset: &str, samples: &str| -> PathBuf {
            let out = folder.path().join(dataset);
            let mut command = command("ingest", ["synth", dataset, "--samples", samples, "--out"]);
            run(command.arg(&out)).expect(EXIT_DONE);
            out
        };
        let clips = synth("crema-d", &SAMPLES.to_string());
        let images = files_below(&synth("mm-imdb", &(2 * SAMPLES).to_string()), "jpeg");
        let sounds = files_below(&clips, "wav");
        let videos = files_below(&clips, "flv");
        let path = |file: &Path| {
            let relative = file.strip_prefix(folder.path()).unwrap();
            relative.to_str().unwrap().to_owned()
        };
        let row = |i: usize| {
            [
                path(&sounds[i]),
                path(&videos[i]),
                path(&images[2 * i]),
                path(&images[2 * i + 1]),
                format!("the words of sample {i}, which is of class {}", i % CLASSES),
            ]
        };
        let rows: Vec<_> = (0..SAMPLES).map(row).collect();
        let mut table = "id,label,split,sound,clip,front,back,words\n".to_owned();
        for (i, cells) in rows.iter().enumerate() {
            let split = if i % 6 == 0 { "test" } else { "train" };
            let cell = |column: usize| match (i + column) % 7 {
                // A sample that lacks an input has the others.
                3 if column.is_multiple_of(2) => "",
                _ => &cells[column],
            };
            let cells: Vec<&str> = (0..5).map(cell).collect();
            let [class, cells] = [format!("class {}", i % CLASSES), cells.join("\",\"")];
            table += &format!("s{i},{class},{split},\"{cells}\"\n");
        }
        fs::write(folder.path().join("table.csv"), table).unwrap();
        Raw { folder, rows }
    }

    /// Writes a description with these lines below `[columns]`.
    fn describe(&self, name: &str, inputs: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.toml"));
        let text = format!(
            "name = \"{name}\"\ntable = \"table.csv\"\n[columns]\nid = \"id\"\nlabel = \"label\"\n\
             split = \"split\"\n{inputs}\n"
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// The path of a file of a sample, or its text.
    fn cell(&self, sample: usize, column: usize) -> PathBuf {
        self.folder.path().join(&self.rows[sample][column])
    }
}

/// The files with this extension below a folder, in a fixed order.
fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found
}

/// Ingests a description, trains on it, evaluates with all inputs and without each of `inputs`, and
/// makes the report. Returns the run folder.
fn ingest_train_and_evaluate(raw: &Raw, name: &str, columns: &str, inputs: &[&str]) -> PathBuf {
    let toml = raw.describe(name, columns);
    let shards = raw.folder.path().join(format!("{name}-shards"));
    let out = raw.folder.path().join(format!("{name}-run"));
    // Of a single input, samples that lack it are left out and count as failures.
    let mut ingest = command("ingest", ["run", "--max-failures", "20%"]);
    run(ingest.arg(&toml).arg("--out").arg(&shards)).expect(EXIT_DONE);
    let report = run(command("ingest", ["check"]).arg(&toml)).expect(EXIT_DONE);
    for input in inputs {
        assert!(report.stdout.contains(input), "{}", report.stdout);
    }
    let arguments = "--epochs 1 --random-weights 0 --encoders tiny --batch-size 8 --shards";
    run(command("train", ["run"])
        .arg(&toml)
        .args(arguments.split_whitespace())
        .arg(&shards)
        .arg("--out")
        .arg(&out))
    .expect(EXIT_DONE);
    let evaluate = |missing: Option<&str>| -> Value {
        let mut eval = command("train", ["eval", "--json"]);
        eval.arg(&out);
        if let Some(missing) = missing {
            eval.args(["--missing", missing]);
        }
        run(&mut eval).expect(EXIT_DONE).json()
    };
    let lacking = usize::from(inputs == ["text"]);
    assert_eq!(evaluate(None)["counts"]["samples"], SAMPLES / 6 - lacking);
    match inputs {
        [_, _] => {
            for input in inputs {
                let counts = &evaluate(Some(input))["counts"];
                assert_eq!(counts["both"], 0, "{name} without {input}: {counts}");
                let predictions = out.join(format!("predictions-test-no-{input}.parquet"));
                assert!(predictions.is_file());
            }
        }
        _ => {
            let mut eval = command("train", ["eval", "--missing", inputs[0]]);
            run(eval.arg(&out)).expect_usage(&["--missing", "has nothing else"]);
        }
    }
    let page = out.join("report.html");
    run(command("train", ["report"])
        .arg(&out)
        .arg("--out")
        .arg(&page))
    .expect(EXIT_DONE);
    let html = fs::read_to_string(&page).unwrap();
    for input in inputs {
        assert!(html.contains(input), "{name}: no {input} in the report");
    }
    out
}

/// What `predict` says of files: for each sample, the inputs that the model got.
fn predict(out: &Path, files: &[PathBuf], text: Option<&str>) -> Vec<Vec<String>> {
    let mut predict = command("train", ["predict", "--json"]);
    predict.arg(out).args(files);
    if let Some(text) = text {
        predict.args(["--text", text]);
    }
    let answer = run(&mut predict).expect(EXIT_DONE).json();
    let seen = |sample: &Value| {
        let seen = sample["seen"].as_array().unwrap().iter();
        seen.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    answer.as_array().unwrap().iter().map(seen).collect()
}

/// Copies a file of a sample under another name.
fn copied(raw: &Raw, sample: usize, column: usize, name: &str) -> PathBuf {
    let path = raw.folder.path().join(name);
    fs::copy(raw.cell(sample, column), &path).unwrap();
    path
}

#[test]
fn audio_and_image() {
    let raw = Raw::new();
    let columns = "audio = \"sound\"\nimage = \"front\"";
    let out = ingest_train_and_evaluate(&raw, "audio-image", columns, &["audio", "image"]);
    let files = [copied(&raw, 0, 0, "new.wav"), copied(&raw, 0, 2, "new.jpg")];
    assert_eq!(predict(&out, &files, None), [["audio", "image"]]);
}

#[test]
fn audio_and_text() {
    let raw = Raw::new();
    let columns = "audio = \"sound\"\ntext = \"words\"";
    let out = ingest_train_and_evaluate(&raw, "audio-text", columns, &["audio", "text"]);
    let seen = predict(&out, &[raw.cell(1, 0)], Some("some words"));
    assert_eq!(seen, [["audio", "text"]]);
    // One of the test samples has no text; a clip has sound.
    let kept = run(command("train", ["eval", "--missing", "audio"]).arg(&out)).expect(EXIT_DONE);
    let note = "note: 1 of 6 samples keep audio, because they have nothing else";
    assert!(kept.stderr.contains(note), "{}", kept.stderr);
    assert_eq!(predict(&out, &[raw.cell(1, 1)], None), [["audio"]]);
}

#[test]
fn video_and_text() {
    let raw = Raw::new();
    let columns = "video = \"clip\"\ntext = \"words\"";
    let out = ingest_train_and_evaluate(&raw, "video-text", columns, &["video", "text"]);
    assert_eq!(predict(&out, &[raw.cell(2, 1)], None), [["video"]]);
}

#[test]
fn two_images() {
    let raw = Raw::new();
    let columns = "image_a = \"front\"\nimage_b = \"back\"";
    let out = ingest_train_and_evaluate(&raw, "two-images", columns, &["image_a", "image_b"]);
    let files = [
        copied(&raw, 0, 2, "new_a.jpg"),
        copied(&raw, 0, 3, "new_b.jpg"),
        copied(&raw, 1, 3, "other_b.jpg"),
    ];
    let seen = predict(&out, &files, None);
    assert_eq!(seen, [vec!["image_a", "image_b"], vec!["image_b"]]);
    // Full fine-tuning has two encoders of one kind.
    let shards = raw.folder.path().join("two-images-shards");
    let full = raw.folder.path().join("full-run");
    let arguments = "--max-steps 1 --adapt full --random-weights 0 --encoders tiny --shards";
    let mut train = command("train", ["run"]);
    train.arg(raw.folder.path().join("two-images.toml"));
    train.args(arguments.split_whitespace());
    run(train.arg(&shards).arg("--out").arg(&full)).expect(EXIT_DONE);
    let mut eval = command("train", ["eval", "--json", "--checkpoint"]);
    run(eval.arg("checkpoint-00000001").arg(&full)).expect(EXIT_DONE);
}

#[test]
fn text_alone() {
    let raw = Raw::new();
    let out = ingest_train_and_evaluate(&raw, "text-alone", "text = \"words\"", &["text"]);
    assert_eq!(predict(&out, &[], Some("some words")), [["text"]]);
}
