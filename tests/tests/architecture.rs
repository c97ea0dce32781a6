//! The arrows of dependency point one way, and `train` has no libav in it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use tests::{binary, run, workspace};

/// What each crate may depend on within the workspace: util <- datasets <- features <- {inspect, model, synth <- ingest}
/// and util <- engine <- model <- train.
const ARROWS: [(&str, &[&str]); 10] = [
    ("util", &[]),
    ("datasets", &["util"]),
    ("features", &["datasets", "util"]),
    ("synth", &["datasets", "features", "util"]),
    ("ingest", &["datasets", "features", "synth", "util"]),
    ("inspect", &["datasets", "features", "util"]),
    ("engine", &["util"]),
    ("host_emulator", &["engine", "util"]),
    ("model", &["datasets", "engine", "features", "util"]),
    (
        "train",
        &["datasets", "engine", "features", "model", "util"],
    ),
];

/// Crates that must not be in a crate's tree, by the start of their names.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    (
        "datasets",
        &[
            "ffmpeg",
            "arrow",
            "parquet",
            "polars",
            "image",
            "candle",
            "tokenizers",
        ],
    ),
    ("features", &["ffmpeg", "polars", "candle"]),
    ("synth", &["polars", "candle"]),
    ("ingest", &["polars", "candle"]),
    ("inspect", &["ffmpeg", "candle"]),
    (
        "engine",
        &["ffmpeg", "arrow", "parquet", "polars", "tokenizers"],
    ),
    ("train", &["ffmpeg", "polars"]),
];

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let version = run(Command::new(&cargo).arg("-vV")).expect(0).stdout;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("cargo names its host");
    let mut command = Command::new(&cargo);
    // Other platforms' packages have not been downloaded.
    command.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--offline",
        "--filter-platform",
        host,
    ]);
    run(command.current_dir(workspace())).expect(0).json()
}

/// Package id -> name, and package id -> ids of its dependencies (not those of its tests).
fn graph(metadata: &Value) -> (BTreeMap<String, String>, BTreeMap<String, BTreeSet<String>>) {
    let text = |value: &Value| {
        value
            .as_str()
            .expect("cargo metadata gives a string")
            .to_owned()
    };
    let list = |value: &Value| {
        value
            .as_array()
            .expect("cargo metadata gives a list")
            .clone()
    };
    let names = list(&metadata["packages"])
        .iter()
        .map(|p| (text(&p["id"]), text(&p["name"])))
        .collect();
    let edges = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let used = list(&node["deps"])
                .into_iter()
                .filter(|dep| {
                    list(&dep["dep_kinds"])
                        .iter()
                        .any(|kind| kind["kind"] != "dev")
                })
                .map(|dep| text(&dep["pkg"]))
                .collect();
            (text(&node["id"]), used)
        })
        .collect();
    (names, edges)
}

#[test]
fn arrows_point_one_way() {
    let metadata = metadata();
    let (names, edges) = graph(&metadata);
    let members: Vec<&str> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let id = |name: &str| {
        *members
            .iter()
            .find(|id| names[**id] == name)
            .expect("a crate of the workspace")
    };
    for (name, allowed) in ARROWS {
        let inside: Vec<&str> = edges[id(name)]
            .iter()
            .filter(|dep| members.contains(&dep.as_str()))
            .map(|dep| names[dep].as_str())
            .collect();
        let wrong: Vec<_> = inside.iter().filter(|dep| !allowed.contains(dep)).collect();
        assert!(
            wrong.is_empty(),
            "{name} depends on {wrong:?}, may depend on {allowed:?}"
        );
    }
    // A crate this test does not know has no place yet.
    let known: BTreeSet<&str> = ARROWS
        .iter()
        .map(|(name, _)| *name)
        .chain(["tests"])
        .collect();
    let found: BTreeSet<&str> = members.iter().map(|m| names[*m].as_str()).collect();
    assert_eq!(found, known, "a new crate needs its arrows in this test");
    let tree = |name: &str| {
        let (mut reached, mut left) = (BTreeSet::new(), vec![id(name).to_owned()]);
        while let Some(package) = left.pop() {
            if reached.insert(names[&package].as_str()) {
                left.extend(edges[&package].iter().cloned());
            }
        }
        reached
    };
    for (name, package) in [("ingest", "ffmpeg-next"), ("inspect", "polars")] {
        assert!(
            tree(name).contains(package),
            "this test cannot see what {name} brings in"
        );
    }
    for (name, forbidden) in FORBIDDEN {
        let wrong: Vec<&str> = tree(name)
            .into_iter()
            .filter(|package| forbidden.iter().any(|start| package.starts_with(start)))
            .collect();
        assert!(wrong.is_empty(), "{name} brings in {wrong:?}");
    }
}

#[test]
fn train_does_not_load_libav() {
    let names_libav = |name: &str| {
        let bytes = std::fs::read(binary(name)).expect("a binary that was found can be read");
        [
            "libavcodec.so",
            "libavformat.so",
            "libavutil.so",
            "libswscale.so",
        ]
        .into_iter()
        .filter(|library| {
            bytes
                .windows(library.len())
                .any(|window| window == library.as_bytes())
        })
        .count()
    };
    assert!(
        names_libav("ingest") > 0,
        "this test cannot see what a binary loads"
    );
    assert_eq!(names_libav("train"), 0);
}

/// The only modules that may hold `unsafe`: system calls, mapped files, libav, libjpeg-turbo, vector
/// instructions, GPU kernels.
const UNSAFE: &[&str] = &[
    "features/src/image/partial.rs",
    "features/src/image/partial/idct.rs",
    "features/src/image/resample/avx2.rs",
    "features/src/image/turbo.rs",
    "features/src/mel.rs",
    "ingest/src/decode/libav.rs",
    "ingest/src/decode/yuv.rs",
    "train/engine/host_emulator/src/lib.rs",
    "train/engine/src/compute.rs",
    "train/engine/src/cuda.rs",
    "train/engine/src/kernels/attention.rs",
    "train/engine/src/kernels/bf16/amx.rs",
    "train/engine/src/kernels/bf16/avx512.rs",
    "train/engine/src/kernels/bf16/panel.rs",
    "train/engine/src/kernels/matmul.rs",
    "train/engine/src/kernels/shared.rs",
    "train/engine/src/kernels/simd.rs",
    "train/engine/src/layers/gpu.rs",
    "train/engine/src/upload.rs",
    "train/model/src/weights.rs",
];

/// The only modules that may ask for the time of day, which jumps: a default folder's name and TensorBoard's time stamps.
const CLOCK: [&str; 2] = ["train/src/cli/run.rs", "train/src/tensorboard.rs"];

/// Every module of the products without its tests and comments, by its path.
fn modules() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let crates = [
        "datasets",
        "datasets/util",
        "features",
        "ingest",
        "ingest/inspect",
        "ingest/synth",
        "train",
        "train/engine",
        "train/engine/host_emulator",
        "train/model",
    ];
    let mut left: Vec<_> = crates.map(|name| workspace().join(name).join("src")).into();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code: String = product
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\n");
            let name = path.strip_prefix(workspace()).unwrap();
            found.insert(name.to_str().unwrap().to_owned(), code);
        }
    }
    found
}

fn holding(words: &[&str]) -> Vec<String> {
    let holds = |code: &String| words.iter().any(|word| code.contains(word));
    let found = modules().into_iter().filter(|(_, code)| holds(code));
    found.map(|(name, _)| name).collect()
}

#[test]
fn unsafe_stays_in_its_modules() {
    assert_eq!(
        holding(&["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]),
        UNSAFE
    );
}

/// What is written and when a clip is given up depends on no clock that somebody may set.
#[test]
fn the_time_of_day_matters_nowhere() {
    let clocks = [
        "SystemTime",
        "chrono",
        "UNIX_EPOCH",
        ".modified()",
        ".created()",
    ];
    assert_eq!(holding(&clocks), CLOCK);
}
