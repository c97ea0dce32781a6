//! What a GPU machine runs, as far as it can be tested without a GPU: the GPU check on the CPU with
//! small encoders, the choice of the build, the messages about a missing GPU; and the precisions of
//! a CPU.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    CremaD, EXIT_DONE, EXIT_USAGE, binary, command, json_lines, names, run, temp, workspace,
};
use util::skip::{Missing, skip};

/// Runs the GPU check on the CPU with small encoders. Returns whether its exit code was 0, the
/// summary, the table and what it printed; `None` if there is no Python. `peers` is a Python with
/// PyTorch; without it the peers are skipped.
fn gpu_check(
    train: &Path,
    data: &CremaD,
    peers: Option<&Path>,
    flags: &[&str],
) -> Option<(bool, Value, String, String)> {
    let python = peers.unwrap_or(Path::new("python3"));
    if Command::new(python).arg("--version").output().is_err() {
        skip(Missing::Platform, "no python3");
        return None;
    }
    let folder = temp();
    let (shards, out) = (folder.path().join("shards"), folder.path().join("out"));
    fs::create_dir(&shards).unwrap();
    std::os::unix::fs::symlink(data.shards(), shards.join("crema-d")).unwrap();
    let mut check = Command::new(python);
    check.arg(workspace().join("tests/gpu/gpu_check.py"));
    check.args(["--device", "cpu", "--tiny"]).args(flags);
    check.arg("--train").arg(train);
    check.arg("--shards").arg(&shards).arg("--out").arg(&out);
    check.env("U2A_PYTHON", peers.unwrap_or(Path::new("/nonexistent")));
    check.env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = check.output().unwrap();
    let printed = [ended.stdout, ended.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let read = |name: &str| fs::read_to_string(out.join(name)).expect(&printed);
    assert!(names(&out).len() <= 8, "{:?}", names(&out));
    // Every result has a line of its own, and the summary is made from them.
    let lines = json_lines(&out.join("results.jsonl"));
    let summary: Value = serde_json::from_str(&read("gpu-check.json")).unwrap();
    let findings = lines.iter().filter(|line| line["kind"] == "finding");
    assert_eq!(
        findings.count(),
        summary["findings"].as_array().unwrap().len()
    );
    Some((
        ended.status.success(),
        summary,
        read("gpu-check.md"),
        printed,
    ))
}

/// With a Python that has PyTorch, transformers and PEFT, also the comparison with them.
#[test]
fn gpu_check_completes_on_the_cpu() {
    let data = CremaD::new(24);
    let python = tests::python();
    let Some((success, found, table, printed)) = gpu_check(
        &binary("train"),
        &data,
        python.as_deref(),
        &["--minutes", "20"],
    ) else {
        return;
    };
    assert!(success, "{printed}");
    assert_eq!(found["findings"], serde_json::json!([]), "{printed}");
    assert_eq!(found["selftest"]["wrong"], 0);
    assert!(found["matmul_flops"]["f32"].as_f64().unwrap() > 0.0);
    let curve = &found["runs"]["crema-d"]["f32"];
    assert_eq!(curve["steps"], 20);
    assert!(curve["data_wait_share"].as_f64().unwrap() <= 1.0);
    for way in ["all kept", "inputs kept", "two at once"] {
        let gigabytes = &found["memory"][way]["peak_gb"];
        assert!(gigabytes.as_f64().unwrap() > 0.0, "{way}");
    }
    let skipped: Vec<&str> = found["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    let whos = match &skipped[..] {
        [] => &["ours", "eager", "compiled"][..],
        [first, ..] => {
            assert!(
                first.starts_with("peers: ") && python.is_none(),
                "{skipped:?}"
            );
            &["ours"]
        }
    };
    for pair in ["audio-video", "image-text"] {
        for who in whos {
            let rate = found["speed"][pair]["4"][who]["samples_per_second"].as_f64();
            assert!(
                rate.is_some_and(|rate| rate > 0.0),
                "{pair} {who}: {printed}"
            );
        }
    }
    for part in [
        "comparisons in f32",
        "crema-d, 20 steps",
        "| audio-video, batch 4 | ",
        "audio-video, batch 4, two at once",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
}

/// A program that answers with garbage, hangs, dies or reports errors: each is a finding, memory
/// that does not suffice is a result, and the check ends.
#[test]
fn gpu_check_survives_faults() {
    const FAULTY: &str = r#"#!/bin/sh
case "$*" in
doctor*) echo '{"gpu": {"gpus": []}}' ;;
selftest*)
    echo '{"case": "layer norm", "precision": "f32", "failure": "no kernel", "ok": false}'
    echo '{"case": "Gelu", "prec'
    ;;
run*) echo 'error: CUDA_ERROR_ILLEGAL_ADDRESS' >&2; exit 3 ;;
*--trace*)
    echo '{"ready": true}'
    while read -r line; do echo '{"error": "a lost context", "kind": "error"}'; done
    ;;
*audio-video*)
    echo 'a warning of a library'
    echo '{"ready": true}'
    while read -r line; do
        case "$line" in *keep*) exec sleep 1000 ;; esac
        echo '{"error": "does not fit", "kind": "out of memory"}'
    done
    ;;
*image-text*) echo '{"ready": true}'; read -r line; echo 'CUDA_ERROR_OUT_OF_MEMORY' >&2; exit 2 ;;
esac
"#;
    let folder = temp();
    let faulty = folder.path().join("train");
    write_program(&faulty, FAULTY);
    let data = CremaD::new(24);
    let begun = Instant::now();
    let Some((success, found, table, printed)) = gpu_check(
        &faulty,
        &data,
        None,
        &["--minutes", "2", "--patience", "0.1"],
    ) else {
        return;
    };
    assert!(!success, "{printed}");
    assert!(begun.elapsed() < Duration::from_secs(90), "{printed}");
    let findings: Vec<&str> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    for (finding, part) in [
        ("selftest: ", "no kernel"),
        ("selftest: ", "which is no JSON"),
        (
            "run crema-d f32: ",
            "exit code 3; its last words: error: CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        ("memory: ", "no answer in 4 s"),
    ] {
        assert!(
            findings
                .iter()
                .any(|line| line.starts_with(finding) && line.contains(part)),
            "{finding}{part} in {findings:#?}"
        );
    }
    assert_eq!(findings.len(), 4, "{findings:#?}");
    for pair in ["audio-video", "image-text"] {
        assert_eq!(
            found["speed"][pair]["4"]["ours"]["error_kind"],
            "out of memory"
        );
        assert!(
            table.contains(&format!("| {pair}, batch 4 | out of memory |")),
            "{table}"
        );
    }
}

#[test]
fn missing_gpu_error_names_the_remedy() {
    for (device, part) in [
        ("cuda:0", "--device cuda:0: this "),
        ("cuda:0", "this build has no CUDA: `just build"),
        ("cuda:0", "; --device cpu does without"),
        ("gpu", "gpu is none of auto, cpu and cuda:N"),
    ] {
        run(&mut command("train", ["selftest", "--device", device])).expect_usage(&[part]);
    }
    let found = run(&mut command("train", ["doctor", "--json"])).expect(EXIT_DONE);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["gpu"]["built"], false);
}

/// A processor with AMX also trains in bf16 and tf32, one with AVX512-BF16 in bf16, with losses
/// close to those of f32; on another one the error names what is missing.
#[test]
fn cpu_precisions_train_or_name_what_is_missing() {
    let doctor = run(&mut command("train", ["doctor", "--json"])).expect(EXIT_DONE);
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
        let (output, out) = training(precision);
        output.expect(EXIT_DONE);
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
            let refused = training(precision).0.expect(EXIT_USAGE);
            let part = format!("precision {precision} needs a GPU or a processor with AMX");
            assert!(refused.stderr.contains(&part), "{}", refused.stderr);
            continue;
        }
        let found = losses(precision);
        assert_ne!(found, exact, "{precision} gives the losses of f32");
        for (found, exact) in found.iter().zip(&exact) {
            let error = (found - exact).abs() / exact;
            assert!(error < limit, "{precision}: {found} for {exact}");
        }
    }
}

/// `--device auto`, the default, prints one line on stderr with the chosen device and the time that
/// the run will take; a named device prints none. Standard output stays JSON.
#[test]
fn device_auto_falls_back_to_the_cpu_and_reports_it() {
    let data = CremaD::new(24);
    let folder = temp();
    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    let lines = |arguments: &[&str], flags: &[&str]| -> Vec<String> {
        let mut train = command("train", arguments);
        train.args(["--json", "--shards"]).arg(data.shards());
        let ran = run(train.args(flags)).expect(EXIT_DONE);
        serde_json::from_str::<Value>(&ran.stdout).unwrap();
        let about_device = |line: &&str| line.contains("device");
        let lines = ran.stderr.lines().filter(about_device);
        lines.map(str::to_owned).collect()
    };
    let first = [
        "run",
        "crema-d",
        "--random-weights",
        "0",
        "--encoders",
        "tiny",
    ];
    let steps = ["--batch-size", "4", "--max-steps", "6", "--out", out];
    let printed = lines(&first, &steps);
    assert_eq!(printed.len(), 1, "{printed:?}");
    assert!(printed[0].starts_with("device: cpu ("), "{printed:?}");
    assert!(printed[0].contains("this build has no CUDA"), "{printed:?}");
    assert!(printed[0].ends_with(" s for 2 more steps"), "{printed:?}");
    let config = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(
        config.contains("[device]\nasked = \"auto\"\nused = \"cpu\"\n"),
        "{config}"
    );

    let printed = lines(&["run", "crema-d", "--resume", out], &["--max-steps", "8"]);
    assert_eq!(printed.len(), 1, "{printed:?}");
    assert!(printed[0].starts_with("device: cpu ("), "{printed:?}");
    assert!(printed[0].contains("where this run began"), "{printed:?}");
    let printed = lines(&["eval", out], &[]);
    assert!(
        printed.len() == 1 && printed[0].starts_with("device: cpu ("),
        "{printed:?}"
    );
    for named in [
        lines(
            &["run", "crema-d", "--resume", out],
            &["--max-steps", "9", "--device", "cpu"],
        ),
        lines(&["eval", out], &["--device", "cpu"]),
    ] {
        assert_eq!(named, Vec::<String>::new());
    }
}

/// Writes an executable script.
fn write_program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The build, and the GPU architecture, that `scripts/build` chooses on machines that the test
/// simulates.
#[test]
fn build_script_decides_by_driver_and_toolkit() {
    let installed = ["/usr/local/cuda", "/proc/driver/nvidia"];
    if installed.iter().any(|path| Path::new(path).exists()) {
        skip(Missing::Platform, "the machine has CUDA itself");
        return;
    }
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    for name in ["build", "cuda-toolkit"] {
        let text = fs::read_to_string(workspace().join("scripts").join(name)).unwrap();
        write_program(&at("scripts").join(name), &text);
    }
    write_program(
        &at("gpus/nvidia-smi"),
        "#!/bin/sh\ncase $1 in -L) echo 'GPU 0: A100';; *) printf '9.0\\n8.0\\n';; esac\n",
    );
    write_program(&at("broken/nvidia-smi"), "#!/bin/sh\nexit 9\n");
    write_program(
        &at("toolkit/bin/nvcc"),
        "#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n",
    );
    let decide = |smi: &str, toolkit: bool, u2a_cuda: &str, flags: &[&str]| -> (String, String) {
        let path = std::env::var("PATH").unwrap();
        let mut build = Command::new(at("scripts/build"));
        build.arg("--dry-run").args(flags);
        build.env("PATH", format!("{}:{path}", at(smi).display()));
        build.env("U2A_CUDA", u2a_cuda);
        build.env_remove("CUDA_HOME").env_remove("CUDA_PATH");
        if toolkit {
            build.env("CUDA_HOME", at("toolkit"));
        }
        let ended = build.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(ended.stdout), text(ended.stderr));
        assert!(ended.status.success(), "{stderr}");
        (stdout, stderr)
    };
    const CPU: &str = "cargo build --release --bins\n";
    const GPU: &str = "cargo build --release --bins --features train/cuda\n";
    for (smi, toolkit, u2a_cuda, flags, call, part) in [
        (
            "broken",
            true,
            "",
            &[][..],
            CPU,
            "CPU (no NVIDIA driver here)",
        ),
        (
            "gpus",
            false,
            "",
            &[],
            CPU,
            "but no CUDA toolkit: `just build-cuda` fetches one",
        ),
        // The lowest compute capability of its GPUs, so that each of them can run the kernels.
        ("gpus", true, "", &[], GPU, "GPUs (sm_80, toolkit in "),
        (
            "gpus",
            true,
            "",
            &["--arch", "75"],
            GPU,
            "GPUs (sm_75, toolkit in ",
        ),
        ("gpus", true, "0", &[], CPU, "CPU (U2A_CUDA=0)"),
        ("broken", true, "1", &[], GPU, "GPUs (sm_90, toolkit in "),
        ("broken", false, "1", &[], GPU, "would fetch a CUDA toolkit"),
    ] {
        let (stdout, stderr) = decide(smi, toolkit, u2a_cuda, flags);
        let case = format!("{smi} {toolkit} {u2a_cuda:?} {flags:?}: {stderr}{stdout}");
        assert_eq!(stdout, call, "{case}");
        assert!(stderr.contains(part), "{case}");
    }
}

/// With `train/engine/cuda/driver.c` a program starts without NVIDIA's driver, and the entry points
/// return that there is no device; with a driver, calls reach it with all arguments, also those on
/// the stack.
#[test]
fn gpu_build_starts_without_a_driver() {
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("entries.h"), "ENTRY(cuInit)\nENTRY(cuLaunchKernel)\n").unwrap();
    fs::write(
        at("main.c"),
        "#include <stdio.h>\nint cuInit(int), cuLaunchKernel(int, int, int, int, int, int, int, long, void *);\n\
         int main(void) { printf(\"%d %d\", cuInit(7), cuLaunchKernel(1, 2, 3, 4, 5, 6, 7, 8, (void *)9)); }\n",
    )
    .unwrap();
    fs::write(
        at("libcuda.c"),
        "int cuInit(int a) { return a + 1; }\n\
         int cuLaunchKernel(int a, int b, int c, int d, int e, int f, int g, long h, long i)\n\
         { return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i; }\n",
    )
    .unwrap();
    let compile = |arguments: &[&str]| {
        let mut cc = Command::new("cc");
        cc.current_dir(folder.path()).args(arguments);
        assert!(cc.status().unwrap().success(), "{arguments:?}");
    };
    let driver = workspace().join("train/engine/cuda/driver.c");
    compile(&[
        "-I.",
        "-o",
        "main",
        "main.c",
        driver.to_str().unwrap(),
        "-ldl",
    ]);
    compile(&["-shared", "-fPIC", "-o", "libcuda.so.1", "libcuda.c"]);
    let printed = |libraries: &Path| {
        let mut main = Command::new(at("main"));
        let ended = main.env("LD_LIBRARY_PATH", libraries).output().unwrap();
        String::from_utf8(ended.stdout).unwrap()
    };
    let has_driver = Path::new("/proc/driver/nvidia/version").exists();
    assert!(has_driver || printed(Path::new("/nonexistent")) == "100 100");
    assert_eq!(printed(folder.path()), "8 285");
}
