//! What a GPU machine is to run, as far as it goes without one: the GPU check to its end on the CPU with small encoders,
//! the bundle's parts, what is said where there is no GPU; the number types that a CPU has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::{CremaD, DONE, USAGE, binary, command, json_lines, run, temp, workspace};
use util::skip::{Missing, skip};

#[test]
fn the_gpu_check_runs_to_its_end_without_a_gpu() {
    if Command::new("python3").arg("--version").output().is_err() {
        skip(Missing::Platform, "no python3");
        return;
    }
    let data = CremaD::new(24);
    let folder = temp();
    let (shards, out) = (folder.path().join("shards"), folder.path().join("out"));
    fs::create_dir(&shards).unwrap();
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
        serde_json::from_slice(&fs::read(out.join("gpu-check.json")).unwrap()).unwrap();
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
    let table = fs::read_to_string(out.join("gpu-check.md")).unwrap();
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
        ("cuda:0", "--device cuda:0: this "),
        ("cuda:0", "this build has no CUDA: `just build"),
        ("cuda:0", "; --device cpu does without"),
        ("gpu", "gpu is none of auto, cpu and cuda:N"),
    ] {
        run(&mut command("train", ["selftest", "--device", device])).expect_usage(&[part]);
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

/// `--device auto`, the default, says on stderr in one line what it came to and how long the run takes; a device that was
/// named needs no line. Standard output stays JSON.
#[test]
fn auto_falls_back_to_the_cpu_and_says_so() {
    let data = CremaD::new(24);
    let folder = temp();
    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    let lines = |arguments: &[&str], flags: &[&str]| -> Vec<String> {
        let mut train = command("train", arguments);
        train.args(["--json", "--shards"]).arg(data.shards());
        let ran = run(train.args(flags)).expect(DONE);
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
    let said = lines(&first, &steps);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("device: cpu ("), "{said:?}");
    assert!(said[0].contains("this build has no CUDA"), "{said:?}");
    assert!(said[0].ends_with(" s for 2 more steps"), "{said:?}");
    let config = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(
        config.contains("[device]\nasked = \"auto\"\nused = \"cpu\"\n"),
        "{config}"
    );

    let said = lines(&["run", "crema-d", "--resume", out], &["--max-steps", "8"]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("device: cpu ("), "{said:?}");
    assert!(said[0].contains("where this run began"), "{said:?}");
    let said = lines(&["eval", out], &[]);
    assert!(
        said.len() == 1 && said[0].starts_with("device: cpu ("),
        "{said:?}"
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

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `scripts/build` on machines that are made up: which build it decides on, and for which GPU.
#[test]
fn the_build_looks_for_driver_and_toolkit() {
    let installed = ["/usr/local/cuda", "/proc/driver/nvidia"];
    if installed.iter().any(|path| Path::new(path).exists()) {
        skip(Missing::Platform, "the machine has CUDA itself");
        return;
    }
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    for name in ["build", "cuda-toolkit"] {
        let text = fs::read_to_string(workspace().join("scripts").join(name)).unwrap();
        program(&at("scripts").join(name), &text);
    }
    program(
        &at("gpus/nvidia-smi"),
        "#!/bin/sh\ncase $1 in -L) echo 'GPU 0: A100';; *) printf '9.0\\n8.0\\n';; esac\n",
    );
    program(&at("broken/nvidia-smi"), "#!/bin/sh\nexit 9\n");
    program(
        &at("toolkit/bin/nvcc"),
        "#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n",
    );
    let decide = |smi: &str, toolkit: bool, by_hand: &str, flags: &[&str]| -> (String, String) {
        let path = std::env::var("PATH").unwrap();
        let mut build = Command::new(at("scripts/build"));
        build.arg("--dry-run").args(flags);
        build.env("PATH", format!("{}:{path}", at(smi).display()));
        build.env("U2A_CUDA", by_hand);
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
    for (smi, toolkit, by_hand, flags, call, part) in [
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
        // The least of its GPUs, so that each of them can run the kernels.
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
        let (stdout, stderr) = decide(smi, toolkit, by_hand, flags);
        let case = format!("{smi} {toolkit} {by_hand:?} {flags:?}: {stderr}{stdout}");
        assert_eq!(stdout, call, "{case}");
        assert!(stderr.contains(part), "{case}");
    }
}

/// `train/engine/cuda/driver.c`: a program starts without NVIDIA's driver, whose entry points then say that there is no device;
/// where there is a driver, calls reach it with all their arguments, those on the stack too.
#[test]
fn a_build_for_gpus_starts_without_a_driver() {
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
