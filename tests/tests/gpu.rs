//! What a GPU machine is to run, as far as it goes without one: the GPU check to its end on the CPU with small encoders,
//! the bundle's parts, what is said where there is no GPU; the number types that a CPU has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use serde_json::Value;
use tests::{CremaD, DONE, USAGE, binary, command, json_lines, run, temp, workspace};

#[test]
fn the_gpu_check_runs_to_its_end_without_a_gpu() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let data = CremaD::new(24);
    let folder = temp();
    let (shards, out) = (folder.path().join("shards"), folder.path().join("out"));
    std::fs::create_dir(&shards).unwrap();
    std::os::unix::fs::symlink(data.shards(), shards.join("crema-d")).unwrap();
    let mut check = Command::new("python3");
    check.arg(workspace().join("tests/gpu/gpu_check.py"));
    check.arg("--train").arg(binary("train"));
    check.arg("--shards").arg(&shards).arg("--out").arg(&out);
    check.args(["--device", "cpu", "--tiny"]);
    let ended = check.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    let found: Value =
        serde_json::from_slice(&std::fs::read(out.join("gpu-check.json")).unwrap()).unwrap();
    assert_eq!(found["failed"].as_array().unwrap().len(), 0, "{said}");
    assert_eq!(found["skipped"].as_array().unwrap().len(), 0, "{said}");
    assert_eq!(found["selftest"]["wrong"], 0);
    let curves = &found["runs"]["crema-d"]["f32"];
    assert_eq!(curves["steps"], 50);
    assert!(curves["data_wait_share"].as_f64().unwrap() <= 1.0);
    assert!(found["memory"]["all kept"].as_f64().unwrap() > 0.0);
    assert!(
        found["steps image-text 4"]["ours"]["samples_per_second"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    let table = std::fs::read_to_string(out.join("gpu-check.md")).unwrap();
    for part in [
        "comparisons with the CPU in f32",
        "crema-d, 50 steps",
        "| audio-video, batch 4 | ours |",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
}

#[test]
fn without_a_gpu_the_way_out_is_said() {
    for (device, part) in [
        (
            "cuda:0",
            "this build has no CUDA; use --device cpu, or build with `just build-cuda`",
        ),
        ("gpu", "--device gpu: is neither cpu nor cuda nor cuda:N"),
    ] {
        let said = run(&mut command("train", ["selftest", "--device", device])).expect(USAGE);
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    let found = run(&mut command("train", ["doctor", "--json"])).expect(DONE);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["gpu"]["built"], false);
}

/// A processor with AMX trains in bf16 and tf32 too, one whose AVX-512 has bf16 in that, with losses near those of f32;
/// another one says what is missing.
#[test]
fn precisions_on_the_cpu() {
    let doctor = run(&mut command("train", ["doctor", "--json"])).expect(DONE);
    let doctor: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let vectors = doctor["vectors"].as_str().unwrap();
    let has = |precision: &str| {
        vectors.contains("AMX") || precision == "bf16" && vectors.contains("bf16")
    };
    let data = CremaD::new(24);
    let folder = temp();
    let training = |precision: &str| {
        let out = folder.path().join(precision);
        let mut training = command("train", ["run", "crema-d", "--random-weights", "0"]);
        training.args(["--encoders", "tiny", "--max-steps", "12", "--lr", "1e-3"]);
        training.arg("--shards").arg(data.shards());
        training.arg("--out").arg(&out);
        (run(training.args(["--precision", precision])), out)
    };
    let losses = |precision: &str| -> Vec<f64> {
        let (said, out) = training(precision);
        said.expect(DONE);
        let lines = json_lines(&out.join("metrics.jsonl"));
        lines
            .iter()
            .filter_map(|line| line["task_loss"].as_f64())
            .collect()
    };
    let exact = losses("f32");
    assert!(exact.len() >= 12);
    for (precision, limit) in [("tf32", 2e-4), ("bf16", 2e-2)] {
        if !has(precision) {
            let said = training(precision).0.expect(USAGE);
            let part = format!("precision {precision} needs a GPU or a processor with AMX");
            assert!(said.stderr.contains(&part), "{}", said.stderr);
            continue;
        }
        let found = losses(precision);
        assert_ne!(found, exact, "{precision} is f32");
        for (found, exact) in found.iter().zip(&exact) {
            let off = (found - exact).abs() / exact;
            assert!(off < limit, "{precision}: {found} for {exact}");
        }
    }
}
