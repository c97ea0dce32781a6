//! Baselines, predictions for new files, and the reproduction of the paper's tables and figures.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tests::{CremaD, EXIT_DONE, EXIT_FINDINGS, command, kill_when, names, run, temp, weights};

/// The data that all tests of this program share and none writes to.
fn data() -> &'static CremaD {
    static DATA: OnceLock<CremaD> = OnceLock::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paper");
    DATA.get_or_init(|| CremaD::shared(&folder, 32))
}

fn train(out: &Path, arguments: &[&str]) -> Command {
    let mut train = command("train", ["run", "crema-d", "--batch-size", "4"]);
    train.args(arguments).arg("--shards").arg(data().shards());
    train.arg("--weights").arg(weights()).arg("--out").arg(out);
    train
}

/// A run with full fine-tuning, another fusion and OGM-GE that is stopped and resumed equals one
/// that is not.
#[test]
fn baseline_resumes_bit_for_bit() {
    let folder = temp();
    let settings = [
        "--epochs",
        "2",
        "--adapt",
        "full",
        "--fusion",
        "concat",
        "--modulation",
        "ogm-ge",
    ];
    let (straight, stopped) = (
        folder.path().join("straight"),
        folder.path().join("stopped"),
    );
    run(&mut train(&straight, &settings)).expect(EXIT_DONE);
    run(train(&stopped, &settings).args(["--max-steps", "3"])).expect(EXIT_DONE);
    run(command("train", ["run", "crema-d", "--resume"]).arg(&stopped)).expect(EXIT_DONE);
    let kinds = [
        "ast-finetuned-audioset-10-10-0.4593",
        "clip-vit-base-patch16",
    ];
    let mut files: Vec<String> = vec!["metrics.jsonl".into()];
    files.extend(["head", "optimizer"].map(|f| format!("best/{f}.safetensors")));
    files.extend(kinds.map(|kind| format!("best/weights/{kind}/model.safetensors")));
    for file in files {
        let read = |run: &Path| fs::read(run.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(read(&straight) == read(&stopped), "{file} differs");
    }
    // The saved weights are accepted by `--weights`.
    let again = folder.path().join("again");
    let mut reuse = command("train", ["run", "crema-d", "--max-steps", "1", "--weights"]);
    reuse
        .arg(straight.join("best/weights"))
        .arg("--shards")
        .arg(data().shards());
    run(reuse.arg("--out").arg(&again)).expect(EXIT_DONE);
}

/// Missing-aware prompts: a run that is stopped and resumed equals one that is not; it scores with
/// either modality missing, labels a file of one modality, and has no mask tokens.
#[test]
fn prompts_are_trained_resumed_evaluated_and_predict() {
    let folder = temp();
    let settings = [
        "--epochs",
        "1",
        "--adapt",
        "attention-prompts",
        "--train-mask",
        "missing-both",
        "--set",
        "prompt_length=4",
        "--set",
        "keep=inputs",
    ];
    let (straight, stopped) = (
        folder.path().join("straight"),
        folder.path().join("stopped"),
    );
    run(&mut train(&straight, &settings)).expect(EXIT_DONE);
    run(train(&stopped, &settings).args(["--max-steps", "2"])).expect(EXIT_DONE);
    run(command("train", ["run", "crema-d", "--resume"]).arg(&stopped)).expect(EXIT_DONE);
    for file in [
        "metrics.jsonl",
        "best/head.safetensors",
        "best/optimizer.safetensors",
    ] {
        let read = |run: &Path| fs::read(run.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(read(&straight) == read(&stopped), "{file} differs");
    }
    let head = fs::read(straight.join("best/head.safetensors")).unwrap();
    let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
    let tensors: BTreeMap<String, Value> = serde_json::from_slice(&head[8..8 + length]).unwrap();
    let mut names = vec!["bias".to_string()];
    for modality in ["audio", "video"] {
        for case in ["complete", "missing_first", "missing_second"] {
            let name = format!("prompts.{modality}.{case}");
            // The small encoders have three blocks.
            assert_eq!(tensors[&name]["shape"], serde_json::json!([3, 4, 32]));
            names.push(name);
        }
    }
    names.push("weight".to_string());
    assert_eq!(tensors.into_keys().collect::<Vec<_>>(), names);

    let mut scores = Vec::new();
    for missing in [&[][..], &["--missing", "audio"], &["--missing", "video"]] {
        let mut eval = command("train", ["eval", "--json"]);
        let result = run(eval.arg(&straight).args(missing))
            .expect(EXIT_DONE)
            .json();
        assert_eq!(result["missing_token"], "input");
        assert!(result["alignment"].is_null());
        scores.push(result["predictions"].clone());
    }
    let predictions = |path: &Value| fs::read(path.as_str().unwrap()).unwrap();
    assert_ne!(predictions(&scores[0]), predictions(&scores[1]));
    assert_ne!(predictions(&scores[1]), predictions(&scores[2]));
    run(command("train", ["eval", "--missing-token", "mask"]).arg(&straight))
        .expect_usage(&["no mask tokens", "zeros"]);
    let clip = fs::read_dir(data().raw().join("AudioWAV")).unwrap();
    let clip = clip.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut predict = command("train", ["predict", "--json"]);
    let answer = run(predict.arg(&straight).arg(clip))
        .expect(EXIT_DONE)
        .json();
    assert_eq!(answer[0]["seen"], serde_json::json!(["audio"]));
}

/// Tables 3 and 6 have rows for missing-aware prompts, which share their runs.
#[test]
fn prompts_are_rows_of_tables_3_and_6() {
    let folder = temp();
    let out = folder.path();
    let short = ["--set", "epochs=1"];
    for (table, rows, input) in [("table3", 3, "MAP input"), ("table6", 9, "MAP")] {
        run(reproduce(out, &[table]).args(short)).expect(EXIT_DONE);
        let page = fs::read(out.join(table).join(format!("{table}.json"))).unwrap();
        let page: Value = serde_json::from_slice(&page).unwrap();
        let lines = page["lines"].as_array().unwrap();
        for method in ["U2A", input, "MAP attn"] {
            let own = lines.iter().filter(|l| l["training"]["method"] == method);
            let own: Vec<&Value> = own.collect();
            assert_eq!(own.len(), rows, "{table} {method}");
            for line in own {
                let mean = line["mean"].as_f64().unwrap();
                assert!((0.0..=100.0).contains(&mean), "{line}");
            }
        }
        assert_eq!(
            logs(out).len(),
            9,
            "{table}: three methods, three protocols"
        );
    }
}

/// The class probabilities of every test sample, by id.
fn test_probabilities(run: &Path) -> BTreeMap<String, Vec<f64>> {
    let file = fs::File::open(run.join("predictions-test.parquet")).unwrap();
    let mut all = BTreeMap::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap()
    {
        let batch = batch.unwrap();
        let ids = batch
            .column_by_name("id")
            .unwrap()
            .as_string::<i32>()
            .clone();
        let logits = batch
            .column_by_name("logits")
            .unwrap()
            .as_list::<i32>()
            .clone();
        for row in 0..batch.num_rows() {
            let row_logits = logits.value(row);
            let exp: Vec<f64> = row_logits
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .map(|x| f64::from(*x).exp())
                .collect();
            let sum: f64 = exp.iter().sum();
            all.insert(
                ids.value(row).to_owned(),
                exp.iter().map(|e| e / sum).collect(),
            );
        }
    }
    all
}

/// `predict` gives the files of a test clip the probabilities that the clip has in the test split;
/// it labels a file with one modality, and names a file that it cannot read.
#[test]
fn predict_labels_new_files() {
    let folder = temp();
    let out = folder.path().join("run");
    run(&mut train(&out, &["--epochs", "1", "--lr", "1e-2"])).expect(EXIT_DONE);
    run(command("train", ["eval"]).arg(&out)).expect(EXIT_DONE);
    let probabilities = test_probabilities(&out);
    let (id, wanted) = probabilities.first_key_value().unwrap();
    let clip = |place: &str, ending: &str| -> PathBuf {
        let name = format!("{id}.{ending}");
        let copy = folder.path().join(&name);
        fs::copy(data().raw().join(place).join(&name), &copy).unwrap();
        copy
    };
    let (audio, video) = (clip("AudioWAV", "wav"), clip("VideoFlash", "flv"));
    let junk = folder.path().join("junk.mp4");
    fs::write(&junk, "no clip").unwrap();
    run(command("train", ["eval", "--missing", "audio"]).arg(&out)).expect(EXIT_DONE);
    run(command("train", ["report"]).arg(&out)).expect(EXIT_DONE);
    assert_page_is_self_contained(
        &fs::read_to_string(out.join("report.html")).unwrap(),
        probabilities.len(),
    );
    let predict = |files: &[&PathBuf]| {
        run(command("train", ["predict", "--json"])
            .arg(&out)
            .args(files))
    };
    let classes = ["Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad"];
    let answer = predict(&[&audio, &video]).expect(EXIT_DONE).json();
    assert_eq!(answer.as_array().unwrap().len(), 1, "one sample: {answer}");
    assert_eq!(answer[0]["seen"], serde_json::json!(["audio", "video"]));
    let of = |answer: &Value, class: &str| -> f64 {
        let all = answer["probabilities"].as_array().unwrap();
        all.iter().find(|p| p[0] == class).unwrap()[1]
            .as_f64()
            .unwrap()
    };
    let config = fs::read_to_string(out.join("config.toml")).unwrap();
    for (class, want) in classes.iter().zip(wanted) {
        assert!(config.contains(class), "{config}");
        let got = of(&answer[0], class);
        assert!((got - want).abs() < 1e-5, "{class}: {got} {want}");
    }
    let best = classes
        .iter()
        .map(|c| (of(&answer[0], c), *c))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(answer[0]["labels"], serde_json::json!([best.unwrap().1]));

    let answers = predict(&[&audio, &junk]).expect(EXIT_FINDINGS).json();
    assert_eq!(answers[0]["seen"], serde_json::json!(["audio"]));
    assert_eq!(answers[1]["seen"], serde_json::json!([]));
    assert!(answers[1]["problem"].is_string(), "{answers}");
    assert_eq!(watched(&out, &audio), serde_json::json!(["audio"]));

    run(command("train", ["predict"]).arg(&out).arg("gone.mp4")).expect_usage(&["gone.mp4"]);
    run(command("train", ["predict"]).arg(&out)).expect_usage(&["--watch"]);
    run(command("train", ["predict", "--text", "words"]).arg(&out)).expect_usage(&["no text"]);
}

/// The modalities that `predict --watch` uses of a file that appears while it runs. Asserts that an
/// interrupt ends it with exit code 0.
fn watched(model: &Path, file: &Path) -> Value {
    let inbox = temp();
    let mut watch = command("train", ["predict", "--json", "--watch"]);
    watch.arg(inbox.path()).arg(model);
    let mut child = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line names the device, the second says that it watches.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("watching")));
    fs::copy(file, inbox.path().join("new.wav")).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    run(Command::new("kill").args(["-INT", &child.id().to_string()])).expect(EXIT_DONE);
    assert!(child.wait().unwrap().success());
    serde_json::from_str::<Value>(&line).unwrap()["seen"].clone()
}

/// Returns a page without the contents of its own scripts; the data of its figures stay.
fn without_scripts(page: &str) -> String {
    let mut parts = page.split("<script>");
    let first = parts.next().unwrap().to_owned();
    let behind = parts.map(|part| part.split_once("</script>").unwrap().1);
    first + &behind.collect::<String>()
}

/// Asserts that a page loads nothing, and that its samples show the inputs that the model was given:
/// with both modalities, and with audio missing. `samples` is the size of the test split.
fn assert_page_is_self_contained(page: &str, samples: usize) {
    let page = &without_scripts(page);
    for external in [
        "<script src",
        "http:",
        "https:",
        "url(",
        "@import",
        "<iframe",
        "onload=",
    ] {
        assert!(!page.contains(external), "{external}");
    }
    for attribute in ["src=\"", "href=\""] {
        for address in page.split(attribute).skip(1) {
            assert!(
                address.starts_with("data:"),
                "{attribute}{}",
                &address[..40.min(address.len())]
            );
        }
    }
    let (before, mistakes) = page.split_once("<h2>Mistakes</h2>").unwrap();
    assert!(before.contains("video only") && before.contains("<h2>Missing rate</h2>"));
    let (both, video_only) = mistakes.split_once("<h3>video only</h3>").unwrap();
    let video_only = video_only.split_once("<h2>").unwrap().0;
    let count = |text: &str, what: &str| text.matches(what).count();
    for (part, hidden) in [(both, 0), (video_only, 1)] {
        let shown = count(part, "<article>");
        assert!(shown > 0 && shown <= 3.min(samples), "{shown} samples");
        // Three frames each, and a spectrogram where audio is not missing.
        assert_eq!(count(part, "alt=\"Frame "), 3 * shown);
        assert_eq!(
            count(part, "data-kind=\"spectrogram\""),
            (1 - hidden) * shown
        );
        assert_eq!(count(part, "hidden from the model"), hidden * shown);
        // The wrong answer, and the true class.
        assert_eq!(count(part, "<tr class=\"wrong\">"), shown);
        assert_eq!(count(part, "<tr class=\"right\">"), shown);
    }
}

fn reproduce(out: &Path, arguments: &[&str]) -> Command {
    let mut command = command("train", ["reproduce"]);
    command.args(arguments);
    command.args([
        "--scale",
        "small",
        "--samples",
        "32",
        "--seeds",
        "1",
        "--dataset",
        "crema-d",
        "--out",
    ]);
    command.arg(out);
    command
}

/// The bytes of the log of every run that has one, by the run's name.
fn logs(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let runs = out.join("runs");
    let read = |name: String| {
        let log = fs::read(runs.join(&name).join("metrics.jsonl")).ok()?;
        Some((name, log))
    };
    names(&runs).into_iter().filter_map(read).collect()
}

/// A reproduction that is killed in its second run and started again repeats no finished run; other
/// settings are other runs.
#[test]
fn killed_reproduction_repeats_no_finished_run() {
    let folder = temp();
    let out = folder.path();
    let short = ["table4", "--set", "epochs=2"];
    let runs = out.join("runs");
    let two = || runs.is_dir() && names(&runs).len() == 2;
    assert!(
        !kill_when(&mut reproduce(out, &short), two),
        "it ended before it could be killed"
    );
    let first = logs(out);
    let ran = run(&mut reproduce(out, &short)).expect(EXIT_DONE);
    assert_eq!(
        ran.stderr.matches("finished already").count(),
        1,
        "{}",
        ran.stderr
    );
    let after = logs(out);
    assert_eq!(after.len(), 6, "U2A and five other methods");
    // The first run was finished when the second began.
    let same = first
        .iter()
        .filter(|(name, log)| after[*name] == **log)
        .count();
    assert!(same >= 1, "the finished run was trained again");

    let page = fs::read_to_string(out.join("table4/table4.md")).unwrap();
    assert!(
        page.contains("SMALL SCALE") && page.contains("76.21"),
        "{page}"
    );
    assert!(
        page.contains("The paper's figures of FiLM, BiGated, OGM-GE, QMF, MLA come from"),
        "{page}"
    );
    let table: Value =
        serde_json::from_slice(&fs::read(out.join("table4/table4.json")).unwrap()).unwrap();
    let lines = table["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 6 * 3);
    for line in lines {
        let mean = line["mean"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&mean) && line["values"].as_array().unwrap().len() == 1);
    }
    let csv = fs::read_to_string(out.join("table4/table4.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 18);

    // A figure of the same runs needs no training.
    let ran = run(&mut reproduce(out, &["figure4", "--set", "epochs=2"])).expect(EXIT_DONE);
    assert!(ran.stderr.contains("finished already"), "{}", ran.stderr);
    run(&mut reproduce(out, &["figure3", "--set", "epochs=2"])).expect(EXIT_DONE);
    run(&mut reproduce(out, &["figure2", "--set", "epochs=2"])).expect(EXIT_DONE);
    assert_eq!(logs(out), after, "a finished run was trained again");
    for (figure, file) in [
        ("figure2", ""),
        ("figure3", "-a"),
        ("figure3", "-b"),
        ("figure4", ""),
    ] {
        let svg = fs::read_to_string(out.join(figure).join(format!("{figure}-crema-d{file}.svg")))
            .unwrap();
        assert!(
            svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"),
            "{svg}"
        );
        assert!(
            svg.contains("xmlns=\"http://www.w3.org/2000/svg\""),
            "{svg}"
        );
        assert!(svg.contains("<circle"), "{figure} has no point");
    }

    // Table 2 has three methods more than Table 4.
    run(&mut reproduce(out, &["table2", "--set", "epochs=2"])).expect(EXIT_DONE);
    assert_eq!(logs(out).len(), 9);
    let page = fs::read_to_string(out.join("table2/table2.md")).unwrap();
    for method in [
        "U2A", "G-Blend", "FiLM", "BiGated", "OGM-GE", "QMF", "PMR", "MLA", "MMLoRA",
    ] {
        let row = page
            .lines()
            .find(|line| line.contains(&format!("| {method} |")));
        // The score, and the number of seeds.
        let row = row.unwrap_or_else(|| panic!("no row of {method}: {page}"));
        assert!(
            !row.contains("| accuracy | - |") && row.contains("| 1 |"),
            "{row}"
        );
    }

    // Six classes, two directions.
    let distances = fs::read_to_string(out.join("figure4/figure4-classes.csv")).unwrap();
    assert_eq!(distances.lines().count(), 1 + 6 * 2, "{distances}");

    // Other settings are another run.
    let planned = |arguments: &[&str]| {
        run(reproduce(out, arguments).args(["--dry-run", "--json"]))
            .expect(EXIT_DONE)
            .json()
    };
    assert!(
        planned(&short)["runs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["finished"] == true)
    );
    let other = planned(&["table4", "--set", "epochs=3"]);
    for run in other["runs"].as_array().unwrap() {
        assert_eq!(run["finished"], false, "{run}");
        assert!(run["seconds"].as_f64().unwrap() > 0.0);
    }
}

/// The plan of every table and figure is printed without data, with the paper's number of runs.
#[test]
fn every_reproduction_plan_prints() {
    for (what, runs) in [
        ("table1", 15),
        ("table2", 81),
        ("table3", 54),
        ("table4", 54),
        ("table5", 0),
        ("table6", 54),
        ("figure2", 6),
        ("figure3", 3),
        ("figure4", 3),
        ("figure5", 3),
        ("figure6", 3),
        ("ablation", 18),
    ] {
        let mut plan = command(
            "train",
            ["reproduce", what, "--dry-run", "--json", "--weights"],
        );
        let plan = run(plan.arg(weights())).expect(EXIT_DONE).json();
        assert_eq!(plan["runs"].as_array().unwrap().len(), runs, "{what}");
        if what == "table1" {
            // 67,988 samples, batches of 8, 10 epochs.
            assert_eq!(plan["runs"][0]["steps"], 84_990);
        }
    }
}
