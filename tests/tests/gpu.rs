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

/// What a GPU check has left.
struct Checked {
    success: bool,
    /// `gpu-check.json`
    summary: Value,
    /// `gpu-check.md`
    table: String,
    /// What it printed.
    printed: String,
}

impl Checked {
    /// The texts of a list of the summary.
    fn texts(&self, list: &str) -> Vec<&str> {
        let list = self.summary[list].as_array().unwrap();
        list.iter().map(|text| text.as_str().unwrap()).collect()
    }

    /// The parts for which there was no time.
    fn left_out(&self) -> Vec<&str> {
        let skipped = self.texts("skipped").into_iter();
        let skipped = skipped.filter(|text| text.contains(" are needed"));
        skipped
            .map(|text| text.split(':').next().unwrap())
            .collect()
    }
}

/// A Python that does not exist, for a check without the comparison with PyTorch.
const NO_PYTHON: &str = "/nonexistent/python";

/// Returns whether there is a Python for the check itself.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        skip(Missing::Platform, "no python3");
    }
    found
}

/// Runs the GPU check with a program, on shards of CREMA-D. `peers` is the Python for PyTorch.
/// Programs beside `train` hide others of their names. Returns `None` if there is no Python for the
/// check itself.
fn gpu_check(train: &Path, data: &CremaD, peers: &Path, flags: &[&str]) -> Option<Checked> {
    if !has_python() {
        return None;
    }
    let folder = temp();
    let (shards, out) = (folder.path().join("shards"), folder.path().join("out"));
    fs::create_dir(&shards).unwrap();
    std::os::unix::fs::symlink(data.shards(), shards.join("crema-d")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let beside = train.parent().unwrap().display();
    let mut check = Command::new("python3");
    check.arg(workspace().join("tests/gpu/gpu_check.py"));
    check.args(flags).arg("--train").arg(train);
    check.arg("--shards").arg(&shards).arg("--out").arg(&out);
    check.env("U2A_PYTHON", peers);
    check.env("PYTHONDONTWRITEBYTECODE", "1");
    check.env("PATH", format!("{beside}:{path}"));
    let ended = check.output().unwrap();
    let printed = [ended.stdout, ended.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let read = |name: &str| fs::read_to_string(out.join(name)).expect(&printed);
    let checked = Checked {
        success: ended.status.success(),
        summary: serde_json::from_str(&read("gpu-check.json")).unwrap(),
        table: read("gpu-check.md"),
        printed,
    };
    assert!(names(&out).len() <= 6, "{:?}", names(&out));
    // Every result has a line of its own, and the summary is made from them.
    let lines = json_lines(&out.join("results.jsonl"));
    let findings = lines.iter().filter(|line| line["kind"] == "finding");
    assert_eq!(findings.count(), checked.texts("findings").len());
    Some(checked)
}

/// The check's own tests, of processes that are killed and of tools that fail.
#[test]
fn gpu_check_passes_its_own_tests() {
    if !has_python() {
        return;
    }
    let mut tests = Command::new("python3");
    tests.args(["-W", "ignore", "-m", "unittest", "discover"]);
    tests.arg(workspace().join("tests/gpu"));
    tests.env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = tests.output().unwrap();
    let printed = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{printed}");
}

/// With a Python that has PyTorch, transformers and PEFT, also the comparison with them.
#[test]
fn gpu_check_completes_on_the_cpu() {
    let data = CremaD::new(24);
    let python = tests::python();
    let peers = python.as_deref().unwrap_or(Path::new(NO_PYTHON));
    let flags = ["--device", "cpu", "--tiny", "--minutes", "20"];
    let Some(checked) = gpu_check(&binary("train"), &data, peers, &flags) else {
        return;
    };
    let (summary, printed) = (&checked.summary, &checked.printed);
    assert!(checked.success, "{printed}");
    assert_eq!(summary["selftest"]["wrong"], 0);
    assert!(summary["matmul_flops"]["f32"].as_f64().unwrap() > 0.0);
    let curve = &summary["runs"]["crema-d"]["f32"];
    assert_eq!(curve["steps"], 20);
    assert!(curve["data_wait_share"].as_f64().unwrap() <= 1.0);
    for way in ["all kept", "inputs kept", "two at once"] {
        let gigabytes = &summary["memory"][way]["peak_gb"];
        assert!(gigabytes.as_f64().unwrap() > 0.0, "{way}");
    }
    let whos = match &checked.texts("skipped")[..] {
        [] => &["ours", "eager", "compiled"][..],
        [only] => {
            assert!(only.starts_with("peers: ") && python.is_none(), "{only}");
            &["ours"]
        }
        more => panic!("{more:?}"),
    };
    for pair in ["audio-video", "image-text"] {
        for who in whos {
            let rate = &summary["speed"][pair]["4"][who]["samples_per_second"];
            assert!(rate.as_f64().is_some_and(|rate| rate > 0.0), "{printed}");
        }
    }
    for part in [
        "comparisons in f32",
        "crema-d, 20 steps",
        "| audio-video, batch 4 | ",
        "audio-video, batch 4, two at once",
    ] {
        assert!(checked.table.contains(part), "{part} in {}", checked.table);
    }
}

/// On a simulated GPU: every batch size is measured, the targets are held against the faster peer,
/// and where time is short what is less important is left out.
#[test]
fn gpu_check_judges_targets_and_fits_into_its_time() {
    const TRAIN: &str = r#"#!/bin/sh
case "$*" in
doctor*) echo '{"gpu": {"gpus": [{"name": "a simulated GPU", "driver": "580"}]}}' ;;
selftest*)
    echo '{"case": "norm", "precision": "bf16", "error": 0.01, "limit": 0.02, "ok": true}'
    echo '{"case": "matrix products", "precision": "bf16", "flops": 2e14, "ok": true}'
    echo '{"summary": {"wrong": 0}}'
    ;;
run*)
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"
    echo '{"task_loss": 1, "loss": 1.5}' >"$2/metrics.jsonl"
    echo '{"step": 50}'
    ;;
bench*)
    echo '{"ready": true}'
    trace='[{"name": "norm", "count": 8, "microseconds": 400}]'
    seconds=1
    [ "$U2A_PRODUCTS" != cublaslt ] || seconds=0.8
    while read -r go batch steps way; do
        echo "{\"seconds\": $seconds, \"enqueue_seconds\": 0.25, \"items\": $batch, \"peak_mb\": 1000, \"trace\": $trace}"
    done
    ;;
esac
"#;
    // Eager has 0.8 of our rate and does not fit at 128, compiled has 1 / 1.1.
    const PYTHON: &str = r#"#!/bin/sh
case "$*" in
-c*) echo '{"missing": [], "libraries": []}' ;;
*kernels.py*)
    while [ "$1" != --out ]; do shift; done
    echo '{"kind": "comparison", "at": 1, "key": "norm", "build": "kernels", "microseconds": 3,
        "peer": "layer_norm", "peer_microseconds": 6, "ratio": 0.5}' | tr -d '\n' >"$2"
    ;;
*--compile*)
    echo '{"ready": true}'
    while read -r go batch steps; do
        echo "{\"seconds\": 1.1, \"items\": $batch, \"peak_mb\": 2500}"
    done
    ;;
*)
    echo '{"ready": true}'
    while read -r go batch steps; do
        case $batch in
        128) echo '{"error": "CUDA out of memory", "kind": "out of memory"}' ;;
        *) echo "{\"seconds\": 1.25, \"items\": $batch, \"peak_mb\": 1900}" ;;
        esac
    done
    ;;
esac
"#;
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    write_program(&at("train"), TRAIN);
    write_program(&at("python"), PYTHON);
    for tool in ["nvidia-smi", "compute-sanitizer", "ncu", "nvcc", "c++"] {
        write_program(&at(tool), "#!/bin/sh\necho of a simulated GPU\n");
    }
    let data = CremaD::new(24);
    let check = |minutes: &str| {
        let flags = ["--minutes", minutes];
        gpu_check(&at("train"), &data, &at("python"), &flags)
    };
    let Some(checked) = check("8") else { return };
    assert!(checked.success, "{}", checked.printed);
    assert_eq!(checked.left_out(), [""; 0]);
    let targets = checked.summary["targets"].as_array().unwrap();
    let verdict = |name: &str| {
        let mut named = targets.iter().filter(|target| target["name"] == name);
        named
            .next()
            .unwrap_or_else(|| panic!("{name} in {targets:?}"))["verdict"]
            .clone()
    };
    for pair in ["audio-video", "image-text"] {
        for (batch, speed) in [(4, "met"), (8, "met"), (32, "missed"), (128, "missed")] {
            for (what, expected) in [("samples/s", speed), ("peak memory", "met")] {
                let name = format!("{pair} {batch}: {what} of the better peer's");
                assert_eq!(verdict(&name), expected, "{name}");
            }
        }
        let eager = &checked.summary["speed"][pair]["128"]["eager"];
        assert_eq!(eager["error_kind"], "out of memory");
    }
    // 128 samples a second of 820 and of 87 GFLOP, on a GPU that gives 200 TFLOP/s.
    let share = |pair: &str| verdict(&format!("{pair} 128: share of the bf16 peak"));
    assert_eq!(
        [share("audio-video"), share("image-text")],
        ["met", "missed"]
    );
    for part in [
        "a simulated GPU, driver 580",
        "1 comparisons in bf16; nearest to its limit: norm, 1.0e-02 of 2e-02",
        "| audio-video, batch 4 | 4.0 (4.0 to 4.0) | 3.2 (3.2 to 3.2) | 3.6 (3.6 to 3.6) | 1.25 | 1.10 |",
        "| audio-video, batch 128 | 128.0 (128.0 to 128.0) | out of memory |",
        "| norm | 2 | 50.0 | 100.0 % |",
        "| norm, kernels | 3.0 | layer_norm | 6.0 | 0.50 |",
        "- image-text, batch 128, U2A_PRODUCTS=cublaslt: 160.0 (160.0 to 160.0) samples/s, 1.25 times the rate with cuBLAS",
    ] {
        assert!(checked.table.contains(part), "{part} in {}", checked.table);
    }

    let checked = check("2.9").unwrap();
    assert_eq!(checked.left_out(), ["runs", "compiled, small batches"]);
    // What was not measured early is measured later.
    let compiled = &checked.summary["speed"]["audio-video"]["4"]["compiled"];
    let rate = &compiled["samples_per_second"];
    assert!(rate.is_f64(), "{}", checked.printed);
    // A check without the self-test has not succeeded.
    let checked = check("0.4").unwrap();
    assert!(!checked.success, "{}", checked.printed);
    assert_eq!(checked.summary["speed"], serde_json::json!({}));
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
    let flags = [
        "--device",
        "cpu",
        "--tiny",
        "--minutes",
        "2",
        "--patience",
        "0.1",
    ];
    let Some(checked) = gpu_check(&faulty, &data, Path::new(NO_PYTHON), &flags) else {
        return;
    };
    assert!(!checked.success, "{}", checked.printed);
    assert!(
        begun.elapsed() < Duration::from_secs(90),
        "{}",
        checked.printed
    );
    let findings = checked.texts("findings");
    for (finding, part) in [
        ("selftest: ", "no kernel"),
        ("selftest: ", "which is no JSON"),
        (
            "run crema-d f32: ",
            "exit code 3; its last words: error: CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        ("matrix products: ", "JSONDecodeError"),
        ("trace: ", "a lost context"),
        ("memory: ", "no answer in 4 s"),
    ] {
        let is_it = |line: &&str| line.starts_with(finding) && line.contains(part);
        let is_there = findings.iter().any(is_it);
        assert!(is_there, "{finding}{part} in {findings:#?}");
    }
    assert_eq!(findings.len(), 6, "{findings:#?}");
    for pair in ["audio-video", "image-text"] {
        let ours = &checked.summary["speed"][pair]["4"]["ours"];
        assert_eq!(ours["error_kind"], "out of memory");
        let row = format!("| {pair}, batch 4 | out of memory |");
        assert!(checked.table.contains(&row), "{}", checked.table);
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

/// The build, the toolkit and the GPU architecture that `scripts/build` chooses on machines that
/// the test simulates: each has a program `nvidia-smi`, and perhaps a toolkit of some version.
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
    for (name, cuda) in [("gpus", "13.0"), ("old", "12.8")] {
        let header =
            format!("| NVIDIA-SMI 580.95.05  Driver Version: 580.95.05  CUDA Version: {cuda} |");
        write_program(
            &at(name).join("nvidia-smi"),
            &format!(
                "#!/bin/sh\ncase $1 in -L) echo 'GPU 0: A100';; '') echo '{header}';; *) printf '9.0\\n8.0\\n';; esac\n"
            ),
        );
    }
    write_program(&at("broken/nvidia-smi"), "#!/bin/sh\nexit 9\n");
    for version in ["12.8", "13.0", "13.2"] {
        write_program(
            &at(version).join("bin/nvcc"),
            &format!(
                "#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.93'\n"
            ),
        );
    }
    let decide = |smi: &str, toolkit: &str, settings: &str, flags: &[&str]| -> (String, String) {
        let path = std::env::var("PATH").unwrap();
        let mut build = Command::new(at("scripts/build"));
        build.arg("--dry-run").args(flags);
        build.env("PATH", format!("{}:{path}", at(smi).display()));
        build.env_remove("CUDA_HOME").env_remove("CUDA_PATH");
        if !toolkit.is_empty() {
            build.env("CUDA_HOME", at(toolkit));
        }
        build.env_remove("U2A_CUDA").env_remove("U2A_ANY_TOOLKIT");
        for setting in settings.split_whitespace() {
            let (name, value) = setting.split_once('=').unwrap();
            build.env(name, value);
        }
        let ended = build.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(ended.stdout), text(ended.stderr));
        assert!(ended.status.success(), "{stderr}");
        (stdout, stderr)
    };
    const CPU: &str = "cargo build --release --bins\n";
    const GPU: &str = "cargo build --release --bins --features train/cuda\n";
    const ANY: &str = "U2A_ANY_TOOLKIT=1";
    for (smi, toolkit, settings, flags, call, part) in [
        (
            "broken",
            "13.0",
            "",
            &[][..],
            CPU,
            "CPU (no NVIDIA driver here)",
        ),
        (
            "gpus",
            "",
            "",
            &[],
            CPU,
            "but no CUDA toolkit: `just build-cuda` fetches one",
        ),
        // The lowest compute capability of its GPUs, so that each of them can run the kernels.
        ("gpus", "13.0", "", &[], GPU, "GPUs (sm_80, toolkit in "),
        ("gpus", "12.8", "", &[], GPU, "GPUs (sm_80, toolkit in "),
        (
            "gpus",
            "13.0",
            "",
            &["--arch", "75"],
            GPU,
            "GPUs (sm_75, toolkit in ",
        ),
        (
            "gpus",
            "13.0",
            "",
            &["--arch", "90a"],
            GPU,
            "GPUs (sm_90a, toolkit in ",
        ),
        ("gpus", "13.0", "U2A_CUDA=0", &[], CPU, "CPU (U2A_CUDA=0)"),
        (
            "broken",
            "13.0",
            "U2A_CUDA=1",
            &[],
            GPU,
            "GPUs (sm_90, toolkit in ",
        ),
        (
            "broken",
            "",
            "U2A_CUDA=1",
            &[],
            GPU,
            "would fetch a CUDA toolkit",
        ),
        // A toolkit that is newer than the driver is passed over, unless it is asked for.
        (
            "gpus",
            "13.2",
            "",
            &[],
            CPU,
            "13.2 is CUDA 13.2, which is too new: this machine's driver runs CUDA 13.0 at most",
        ),
        (
            "broken",
            "13.2",
            "U2A_CUDA=1",
            &[],
            GPU,
            "would fetch a CUDA toolkit",
        ),
        ("gpus", "13.2", ANY, &[], GPU, "GPUs (sm_80, toolkit in "),
        (
            "old",
            "13.0",
            "",
            &[],
            CPU,
            "this machine's driver runs CUDA 12.8 at most; U2A_ANY_TOOLKIT=1 takes it",
        ),
        ("old", "12.8", "", &[], GPU, "GPUs (sm_80, toolkit in "),
    ] {
        let (stdout, stderr) = decide(smi, toolkit, settings, flags);
        let case = format!("{smi} {toolkit:?} {settings:?} {flags:?}: {stderr}{stdout}");
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
