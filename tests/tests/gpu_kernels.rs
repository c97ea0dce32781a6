//! `tests/gpu/kernels.py` without a GPU: every kernel against formulas in PyTorch, on the emulator of
//! `platform.h`.
//!
//! Needs a Python with tests/golden/requirements.txt, as `python.rs` does, and a C++ compiler.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::{CommandOutput, EXIT_DONE, EXIT_FINDINGS, json_lines, python, run, temp, workspace};
use util::skip::{Missing, skip};

/// Runs kernels.py on the host. Returns its output and results, or `None`, and reports the test as
/// skipped, if there is no Python for it.
fn kernels(flags: &[&str]) -> Option<(CommandOutput, Vec<Value>)> {
    let Some(python) = python() else {
        let reason = "no Python with tests/golden/requirements.txt: set U2A_PYTHON";
        skip(Missing::Platform, reason);
        return None;
    };
    let folder = temp();
    let out = folder.path().join("kernels.jsonl");
    let mut command = Command::new(python);
    command.arg(workspace().join("tests/gpu/kernels.py"));
    command.args(["--host", "--seconds", "250", "--out"]);
    command.arg(&out).args(flags);
    command
        .env("OMP_NUM_THREADS", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = run(&mut command);
    let lines = json_lines(&out);
    Some((output, lines))
}

#[test]
fn kernels_equal_formulas_in_pytorch() {
    let Some((output, lines)) = kernels(&[]) else {
        return;
    };
    let output = output.expect(EXIT_DONE);
    let end = lines.last().unwrap();
    assert_eq!(end["kind"], "end", "{}", output.stdout);
    assert_eq!(end["not_run"], Value::Array(Vec::new()));
    let cases: Vec<&Value> = lines.iter().filter(|l| l["kind"] == "case").collect();
    assert_eq!(end["cases"], cases.len());
    for kernel in ["attention_backward_kv_bf16_64", "column_sums_f32", "adamw"] {
        let of = cases.iter().filter(|case| case["kernel"] == kernel);
        assert_ne!(of.count(), 0, "{kernel}");
    }
    let peers = lines.iter().filter(|line| line["kind"] == "peer");
    assert_ne!(peers.count(), 0);
}

/// Copies the kernels into `folder` and replaces `old` in one of their files.
fn copy_with_fault(folder: &Path, faults: &[(&str, &str, &str)]) {
    for file in fs::read_dir(workspace().join("train/engine/cuda")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        for (_, old, new) in faults.iter().filter(|(file, ..)| name == *file) {
            assert!(text.contains(old), "{name:?} has no {old}");
            text = text.replace(old, new);
        }
        fs::write(folder.join(name), text).unwrap();
    }
}

/// A wrong number, a kernel without a case and an argument that no case passes are findings, and do
/// not keep the other cases from running.
#[test]
fn faults_are_findings() {
    let folder = temp();
    copy_with_fault(
        folder.path(),
        &[
            ("numbers.h", "words[3] = drop.step", "words[3] = 0"),
            (
                "kernels.cu",
                "EXPORT(add_chunks)",
                "EXPORT(add_chunks)\nKERNEL unknown(float* x) { *x = 1.f; }\nEXPORT(unknown)",
            ),
            (
                "kernels.cu",
                "adamw(const AdamWTensor* table,",
                "adamw(const AdamWTensor* table, int more,",
            ),
        ],
    );
    let source = folder.path().join("kernels.cu");
    let mut flags = vec!["--source", source.to_str().unwrap()];
    for name in ["dropout_f32 135", "adamw", "activate_f32"] {
        flags.extend(["--only", name]);
    }
    let Some((output, lines)) = kernels(&flags) else {
        return;
    };
    let output = output.expect(EXIT_FINDINGS);
    for part in [
        "dropout_f32 135 rows, d 72: y differs by ",
        "unknown: a kernel without a case",
        "adamw tensors of 5, 1000 and 300: its case lacks the arguments ['more']",
    ] {
        let found = |line: &Value| {
            line["text"]
                .as_str()
                .is_some_and(|text| text.starts_with(part))
        };
        assert!(lines.iter().any(found), "{part} in {}", output.stdout);
    }
    let right = |line: &&Value| line["kind"] == "case" && line["kernel"] == "activate_f32";
    assert_ne!(lines.iter().filter(right).count(), 0);
}
