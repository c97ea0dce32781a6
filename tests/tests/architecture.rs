//! The rules of the source tree: which crate may depend on which, what no crate may bring in, where
//! `unsafe` and the clock may be used, and that the modules of a folder form no circle.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tests::modules::Modules;
use tests::{binary, run, workspace};

/// The crates of the workspace that each crate may depend on: util <- {datasets, media} <-
/// {features, synth}, media <- store <- features <- {browse, ingest, inspect, model, publish, report,
/// u2a_features},
/// page <- {browse, report}, {browse, publish, synth} <- ingest, datasets <- fetch <- model,
/// util <- engine <- model <- train and report <- train.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("util", &[]),
    ("datasets", &["util"]),
    ("fetch", &["datasets", "util"]),
    ("media", &["util"]),
    ("store", &["media", "util"]),
    ("features", &["datasets", "media", "store", "util"]),
    ("page", &["datasets", "features", "media", "store", "util"]),
    ("synth", &["datasets", "media", "util"]),
    (
        "ingest",
        &[
            "browse", "datasets", "features", "media", "page", "publish", "store", "synth", "util",
        ],
    ),
    (
        "browse",
        &["datasets", "features", "media", "page", "store", "util"],
    ),
    (
        "publish",
        &["datasets", "features", "media", "store", "util"],
    ),
    (
        "u2a_features",
        &["datasets", "features", "media", "store", "util"],
    ),
    ("inspect", &["datasets", "features", "media", "util"]),
    ("engine", &["util"]),
    ("host_emulator", &["engine", "util"]),
    (
        "model",
        &["datasets", "engine", "features", "fetch", "media", "util"],
    ),
    ("report", &["datasets", "features", "media", "page", "util"]),
    (
        "train",
        &[
            "datasets", "engine", "features", "fetch", "media", "model", "page", "report", "store",
            "util",
        ],
    ),
];

/// The packages of crates that decode no media and read no shards.
const NO_MEDIA: &[&str] = &[
    "ffmpeg",
    "arrow",
    "parquet",
    "polars",
    "image",
    "candle",
    "tokenizers",
];

/// The packages that a crate must not bring in, directly or through others, by the start of their
/// names.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("datasets", NO_MEDIA),
    ("fetch", NO_MEDIA),
    ("page", &["ffmpeg", "polars", "candle"]),
    ("browse", &["ffmpeg", "polars", "candle"]),
    ("u2a_features", &["ffmpeg", "polars", "candle"]),
    ("publish", &["ffmpeg", "polars", "candle"]),
    ("media", &["ffmpeg", "arrow", "parquet", "polars", "candle"]),
    ("store", &["ffmpeg", "polars", "candle"]),
    ("features", &["ffmpeg", "polars", "candle"]),
    ("synth", &["arrow", "parquet", "polars", "candle"]),
    ("ingest", &["polars", "candle"]),
    ("inspect", &["ffmpeg", "candle"]),
    // candle brings tokenizers.
    ("engine", &["ffmpeg", "arrow", "parquet", "polars"]),
    ("report", &["ffmpeg", "polars", "candle"]),
    ("train", &["ffmpeg", "polars"]),
];

/// What cargo knows of the workspace and its packages.
fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(read_metadata)
}

fn read_metadata() -> Value {
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

/// The name of each package, and the ids of its dependencies without those of its tests, both by
/// the package's id.
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
fn crates_depend_only_on_allowed_crates() {
    let metadata = metadata();
    let (names, edges) = graph(metadata);
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
    for (name, allowed) in DEPENDENCIES {
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
    // Every crate has its line in this test.
    let known: BTreeSet<&str> = DEPENDENCIES
        .iter()
        .map(|(name, _)| *name)
        .chain(["readers", "tests"])
        .collect();
    let found: BTreeSet<&str> = members.iter().map(|m| names[*m].as_str()).collect();
    assert_eq!(found, known, "a new crate needs its line in DEPENDENCIES");
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
            "this test does not see what {name} brings in"
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
    /// The names of shared libraries lie near the start of a program; its code and debugging
    /// information behind them would take long to search.
    const START: u64 = 4 << 20;
    let names_libav = |name: &str| {
        let program = File::open(binary(name)).expect("a program that was found can be read");
        let mut start = Vec::new();
        program.take(START).read_to_end(&mut start).unwrap();
        let start = String::from_utf8_lossy(&start);
        let libraries = ["libavcodec", "libavformat", "libavutil", "libswscale"];
        let named = |library: &&str| start.contains(&format!("{library}.so"));
        libraries.iter().filter(|library| named(library)).count()
    };
    assert!(
        names_libav("ingest") > 0,
        "this test does not see what a program loads"
    );
    assert_eq!(names_libav("train"), 0);
}

/// The only modules that may contain `unsafe`: system calls, mapped files, libav, libjpeg-turbo,
/// vector instructions, GPU kernels, arrays that Python shares.
const UNSAFE: &[&str] = &[
    "features/media/src/image/partial.rs",
    "features/media/src/image/partial/idct.rs",
    "features/media/src/image/resample/avx2.rs",
    "features/media/src/image/turbo.rs",
    "features/media/src/mel.rs",
    "ingest/src/decode/libav.rs",
    "ingest/src/decode/yuv.rs",
    "python/src/arrays.rs",
    "train/engine/host_emulator/src/lib.rs",
    "train/engine/src/cpu/attention.rs",
    "train/engine/src/cpu/bf16/amx.rs",
    "train/engine/src/cpu/bf16/avx512.rs",
    "train/engine/src/cpu/bf16/panel.rs",
    "train/engine/src/cpu/fma.rs",
    "train/engine/src/cpu/layout.rs",
    "train/engine/src/cpu/matmul.rs",
    "train/engine/src/cpu/parallel.rs",
    "train/engine/src/cpu/simd.rs",
    "train/engine/src/cuda/cublaslt.rs",
    "train/engine/src/cuda/driver.rs",
    "train/engine/src/cuda/launch.rs",
    "train/engine/src/cuda/mod.rs",
    "train/engine/src/cuda/upload.rs",
    "train/engine/src/device.rs",
    "train/model/src/encoder/weights.rs",
];

/// The only modules that may read the wall clock, which can be set: for the age of a source file,
/// of which only depends whether it is read again, for the last use of a block in the cache of
/// shards, for the name of a default folder, for the time stamps of TensorBoard, and for a server's
/// date after which a request may be repeated.
const WALL_CLOCK: [&str; 5] = [
    "datasets/fetch/src/client.rs",
    "features/store/src/cache.rs",
    "ingest/src/contents/index.rs",
    "train/src/cli/run/mod.rs",
    "train/src/logging/tensorboard.rs",
];

/// The source folder of every crate but this one, by the crate's name.
fn source_folders() -> BTreeMap<String, PathBuf> {
    let metadata = metadata();
    let members = metadata["workspace_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let packages = packages.filter(|package| members.contains(&package["id"]));
    let folders = packages.map(|package| {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
        let name = package["name"].as_str().unwrap().to_owned();
        (name, manifest.with_file_name("src"))
    });
    folders.filter(|(name, _)| name != "tests").collect()
}

/// The code of every source file of the products, without tests and comments, by its path.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = source_folders().into_values().collect();
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

/// The paths of the source files whose code contains one of the words.
fn sources_with(words: &[&str]) -> Vec<String> {
    let has_word = |code: &String| words.iter().any(|word| code.contains(word));
    let found = sources().into_iter().filter(|(_, code)| has_word(code));
    found.map(|(name, _)| name).collect()
}

#[test]
fn unsafe_is_confined_to_listed_modules() {
    assert_eq!(
        sources_with(&["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]),
        UNSAFE
    );
}

/// Neither the output nor the time limit of a clip depends on the wall clock or on a file's times.
#[test]
fn output_does_not_depend_on_the_clock_or_mtime() {
    let clocks = [
        "SystemTime",
        "chrono",
        "UNIX_EPOCH",
        ".modified()",
        ".created()",
    ];
    assert_eq!(sources_with(&clocks), WALL_CLOCK);
}

/// [`tests::modules`] has the rule.
#[test]
fn modules_of_a_folder_form_no_circle() {
    for (name, folder) in source_folders() {
        let circles = Modules::read(&folder).circles();
        assert!(circles.is_empty(), "{name}: {circles:#?}");
    }
}
