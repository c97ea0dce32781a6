//! The complete real annotation files over stand-in media: one small real file, hard-linked under
//! every name.
//!
//! Annotations and media lie beside the checkout (`../shared`) and are not part of it; without them
//! the tests are skipped. The ordinary tests list and check whole trees and ingest a slice of each.
//! The ignored ones, which `just test-full` runs, ingest everything; they need some GB in the
//! temporary folder (`TMPDIR`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use tests::{EXIT_DONE, EXIT_FINDINGS, command, run, temp};
use util::skip::shared;

/// The number of hard links to one file; ext4 allows 65,000.
const LINKS: usize = 20_000;

/// The number of samples of each split in a slice.
const SLICE: usize = 4;

/// The longest time of `check` on one tree, in any profile and on a busy machine. It takes about a
/// second; a search of every name among all others would take an hour.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// A raw tree that is being built.
struct RawTree {
    folder: tempfile::TempDir,
    media: PathBuf,
    annotations: PathBuf,
    links: BTreeMap<PathBuf, usize>,
    made: BTreeSet<PathBuf>,
}

impl RawTree {
    /// Returns `None`, and reports the test as skipped, if the annotation or the media are missing.
    fn new(dataset: &str) -> Option<RawTree> {
        let media = shared("media")?;
        let annotations = shared(&format!("datasets/annotations/{dataset}"))?;
        Some(RawTree {
            folder: temp(),
            media,
            annotations,
            links: BTreeMap::new(),
            made: BTreeSet::new(),
        })
    }

    fn raw(&self) -> PathBuf {
        self.folder.path().join("raw")
    }

    /// The path for a file, whose folder it makes.
    fn place(&mut self, name: &str) -> PathBuf {
        let path = self.raw().join(name);
        let parent = path.parent().unwrap();
        if self.made.insert(parent.to_owned()) {
            fs::create_dir_all(parent).unwrap();
        }
        path
    }

    /// Links a file under a name of the raw tree.
    fn link(&mut self, source: &Path, name: &str) {
        let path = self.place(name);
        let count = self.links.entry(source.to_owned()).or_default();
        let file = source.file_name().unwrap().to_str().unwrap();
        let copy = self
            .folder
            .path()
            .join(format!("{}-{file}", *count / LINKS));
        if count.is_multiple_of(LINKS) {
            // A new copy: the original may be on another file system, or have all the links that it
            // may have.
            fs::write(&copy, fs::read(source).unwrap()).unwrap();
        }
        *count += 1;
        fs::hard_link(copy, path).unwrap();
    }

    /// Links a file of the media folder under a name of the raw tree.
    fn media(&mut self, file: &str, name: &str) {
        let source = self.media.join(file);
        self.link(&source, name);
    }

    /// Copies an annotation file and returns its text.
    fn annotation(&mut self, file: &str, name: &str) -> String {
        let text = fs::read_to_string(self.annotations.join(file)).unwrap();
        fs::write(self.place(name), &text).unwrap();
        text
    }
}

/// A video clip.
const CLIP: &str = "clips/00W1lcxW-WU_40.000.mp4";
/// A clip of twelve frames without audio.
const SHORT: &str = "clips/test_non_zero_start.mp4";
/// An audio file of four seconds.
const WAV: &str = "audio/sine_mono_s32_8000.wav";
/// An image.
const IMAGE: &str = "images/rgb_pytorch.jpg";

/// A dataset at full scale.
struct Case {
    dataset: &'static str,
    /// Builds the raw tree without the files of `absent`.
    build: fn(&mut RawTree, &BTreeSet<&str>),
    /// The number of annotation rows of train, val and test.
    rows: [usize; 3],
    /// The ids of samples whose files are left out, all or those of one modality.
    absent: &'static [&'static str],
}

const CASES: [Case; 5] = [
    Case {
        dataset: "ave",
        build: |tree, absent| {
            tree.annotation("Annotations.txt", "Annotations.txt");
            let mut ids = BTreeSet::new();
            for list in ["trainSet.txt", "valSet.txt", "testSet.txt"] {
                let text = tree.annotation(list, list);
                ids.extend(
                    text.lines()
                        .map(|line| line.split('&').nth(1).unwrap().to_owned()),
                );
            }
            assert_eq!(ids.len(), 4_097);
            for id in ids
                .iter()
                .filter(|id| !absent.iter().any(|one| one.starts_with(*id)))
            {
                tree.media(CLIP, &format!("AVE/{id}.mp4"));
            }
        },
        rows: [3_339, 402, 402],
        // Three rows share this file.
        absent: &[
            "0f_iTO5t3hU_ukulele",
            "0f_iTO5t3hU_banjo",
            "0f_iTO5t3hU_mandolin",
        ],
    },
    Case {
        dataset: "crema-d",
        build: |tree, absent| {
            for (list, name) in [
                ("OGM-GE_train.csv", "train.csv"),
                ("OGM-GE_test.csv", "test.csv"),
            ] {
                let text = tree.annotation(list, name);
                for line in text.lines() {
                    let stem = line.split(',').next().unwrap();
                    if !absent.contains(stem) {
                        tree.media(WAV, &format!("AudioWAV/{stem}.wav"));
                        tree.media(SHORT, &format!("VideoFlash/{stem}.flv"));
                    }
                }
            }
        },
        rows: [6_698, 0, 744],
        absent: &["1001_DFA_ANG_XX"],
    },
    Case {
        dataset: "mm-imdb",
        build: |tree, absent| {
            let text = tree.annotation("split.json", "split.json");
            let splits: Value = serde_json::from_str(&text).unwrap();
            let json = tree.folder.path().join("movie.json");
            fs::write(
                &json,
                r#"{"genres": ["Drama", "News"], "plot": ["A short one.", "One that is longer."]}"#,
            )
            .unwrap();
            for ids in splits.as_object().unwrap().values() {
                for id in ids
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|id| id.as_str().unwrap())
                {
                    if !absent.contains(id) {
                        tree.link(&json, &format!("dataset/{id}.json"));
                        tree.media(IMAGE, &format!("dataset/{id}.jpeg"));
                    }
                }
            }
        },
        rows: [15_552, 2_608, 7_799],
        absent: &["0106714"],
    },
    Case {
        dataset: "food-101",
        build: |tree, absent| {
            let text = tree.annotation("test_titles.csv", "texts/test_titles.csv");
            for line in text.lines() {
                let (name, class) = (
                    line.split(',').next().unwrap(),
                    line.rsplit(',').next().unwrap(),
                );
                if !absent.contains(name.strip_suffix(".jpg").unwrap()) {
                    tree.media(IMAGE, &format!("images/test/{class}/{name}"));
                }
            }
        },
        rows: [0, 0, 22_716],
        absent: &["apple_pie_175"],
    },
    Case {
        dataset: "kinetics-sound",
        build: |tree, absent| {
            for (split, list) in [
                ("train", "OGM-GE_my_train.txt"),
                ("test", "OGM-GE_my_test.txt"),
            ] {
                let text = tree.annotation(list, &format!("my_{split}.txt"));
                for line in text.lines() {
                    let clip = line.split(',').next().unwrap();
                    let start: u32 = clip[12..].split('_').next().unwrap().parse().unwrap();
                    let name = format!("{}_{start:06}_{:06}", &clip[..11], start + 10);
                    if !absent.contains(name.as_str()) {
                        tree.media(SHORT, &format!("{split}/{name}.mp4"));
                        tree.media(WAV, &format!("{split}/{name}.wav"));
                    }
                }
            }
        },
        rows: [14_799, 0, 2_597],
        // The first is a training clip, the others are in no table of Kinetics-400.
        absent: &[
            "--4-0ihtnBU_000058_000068",
            "Q78zQuQ9oeg_000034_000044",
            "ZSnZ4DLJKAM_000070_000080",
            "r_5GkTNsM4g_000007_000017",
        ],
    },
];

/// Checks and ingests a dataset, whole or the first `limit` samples of each split.
fn check_and_ingest(dataset: &str, limit: Option<usize>) {
    let case = CASES.iter().find(|case| case.dataset == dataset).unwrap();
    let Some(mut tree) = RawTree::new(dataset) else {
        return;
    };
    let start = Instant::now();
    (case.build)(&mut tree, &case.absent.iter().copied().collect());
    let (raw, out) = (tree.raw(), tree.folder.path().join("shards"));
    eprintln!("{dataset}: built in {:.1?}", start.elapsed());

    let start = Instant::now();
    let checked = run(command("ingest", ["check", dataset, "--json", "--raw"]).arg(&raw));
    let took = start.elapsed();
    eprintln!("{dataset}: checked in {took:.1?}");
    assert!(took < CHECK_LIMIT);
    let checked = checked.expect(EXIT_FINDINGS).json();
    let listed = |name: &str| {
        let splits = checked["splits"].as_array().unwrap().iter();
        splits
            .filter(|split| split["split"] == name)
            .map(|split| number(&split["listed"]))
            .sum::<usize>()
    };
    let splits = ["train", "val", "test"];
    assert_eq!(splits.map(listed), case.rows, "{dataset}");
    let missing = checked["missing"].as_array().unwrap().iter();
    let missing: BTreeSet<&str> = missing.map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(missing, case.absent.iter().copied().collect(), "{dataset}");

    let mut plan = command("ingest", ["run", dataset, "--dry-run", "--json", "--raw"]);
    let plan = run(plan.arg(&raw).arg("--out").arg(&out))
        .expect(EXIT_DONE)
        .json();
    assert_eq!(number(&plan["samples"]), case.rows.iter().sum::<usize>());

    // Small cells, since only their number is tested.
    let flags = [
        "--frame-pool",
        "1",
        "--mel-dtype",
        "f16",
        "--max-failures",
        "100%",
        "--json",
    ];
    let mut ingest = command("ingest", ["run", dataset]);
    ingest
        .args(flags)
        .arg("--raw")
        .arg(&raw)
        .arg("--out")
        .arg(&out);
    if let Some(limit) = limit {
        ingest.args(["--limit", &limit.to_string()]);
    }
    let start = Instant::now();
    // Nobody publishes Food-101's training titles by themselves, so that list is missing.
    let code = if dataset == "food-101" {
        EXIT_FINDINGS
    } else {
        EXIT_DONE
    };
    let totals = run_long(&mut ingest, code)["manifest"]["totals"].clone();
    eprintln!("{dataset}: ingested in {:.1?}", start.elapsed());
    let of = |name: &str, key: &str| totals.get(name).map_or(0, |split| number(&split[key]));
    let wanted = case.rows.map(|rows| rows.min(limit.unwrap_or(rows)));
    assert_eq!(splits.map(|name| of(name, "samples")), wanted, "{dataset}");
    let sum = |key: &str| splits.iter().map(|name| of(name, key)).sum::<usize>();
    assert_eq!(
        sum("rows") + sum("quarantined"),
        wanted.iter().sum::<usize>(),
        "{dataset}"
    );
    // The files have the row counts of the manifest.
    let count = |path: PathBuf| {
        let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
        reader.metadata().file_metadata().num_rows() as usize
    };
    let shards = tests::names(&out)
        .into_iter()
        .filter(|name| name.contains("-of-"));
    assert_eq!(
        shards.map(|name| count(out.join(name))).sum::<usize>(),
        sum("rows")
    );
    assert_eq!(count(out.join("failures.parquet")), sum("quarantined"));
    if limit.is_none() {
        // Food-101 has the title of a missing image, so that its sample is incomplete and not
        // quarantined.
        let quarantined = if dataset == "food-101" {
            0
        } else {
            case.absent.len()
        };
        assert_eq!(sum("quarantined"), quarantined);
        assert_eq!(sum("incomplete"), case.absent.len() - quarantined);
    }
}

/// Runs a command that may take longer than other tests' commands.
fn run_long(command: &mut std::process::Command, code: i32) -> Value {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(code));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> usize {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is not a count")) as usize
}

macro_rules! cases {
    ($($slice:ident, $whole:ident: $dataset:literal;)*) => {$(
        #[test]
        fn $slice() {
            check_and_ingest($dataset, Some(SLICE));
        }

        #[test]
        #[ignore = "minutes, and some GB: just test-full"]
        fn $whole() {
            check_and_ingest($dataset, None);
        }
    )*};
}

cases! {
    ave, ave_in_full: "ave";
    crema_d, crema_d_in_full: "crema-d";
    mm_imdb, mm_imdb_in_full: "mm-imdb";
    food_101, food_101_in_full: "food-101";
    kinetics_sound, kinetics_sound_in_full: "kinetics-sound";
}
