//! The real annotation files, whole, over stand-in media: one small real file hard-linked under every name.
//!
//! Annotations and media lie beside a checkout (`../shared`) and are no part of it; without them every test here says so
//! and passes. The ordinary tests list and check whole trees and ingest a slice of each; the ignored ones ingest
//! everything (`just test-full`; some GB in the temporary folder, which TMPDIR moves).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use tests::{DONE, LOOK, command, media, run, temp, workspace};
use util::skip::{Missing, skip};

/// Links per file: ext4 allows 65,000.
const LINKS: usize = 20_000;

/// Samples of each split in a slice.
const SLICE: usize = 4;

/// No tree may take `check` longer than this, in whatever profile, on a machine that has other things to do. It takes
/// about a second; looking up every name among all others would take an hour.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// A raw tree in the making.
struct Stage {
    folder: tempfile::TempDir,
    media: PathBuf,
    annotations: PathBuf,
    links: BTreeMap<PathBuf, usize>,
    made: BTreeSet<PathBuf>,
}

impl Stage {
    /// `None`, said aloud, where there is nothing to make it from.
    fn new(dataset: &str) -> Option<Stage> {
        let media = media();
        let annotations = workspace()
            .parent()?
            .join("shared/datasets/annotations")
            .join(dataset);
        let (Some(media), true) = (media, annotations.is_dir()) else {
            skip(
                Missing::Material,
                "no annotation files or media in ../shared beside the checkout",
            );
            return None;
        };
        Some(Stage {
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

    fn place(&mut self, name: &str) -> PathBuf {
        let path = self.raw().join(name);
        let parent = path.parent().unwrap();
        if self.made.insert(parent.to_owned()) {
            fs::create_dir_all(parent).unwrap();
        }
        path
    }

    /// Puts a link to a file under a name.
    fn link(&mut self, source: &Path, name: &str) {
        let path = self.place(name);
        let count = self.links.entry(source.to_owned()).or_default();
        let file = source.file_name().unwrap().to_str().unwrap();
        let copy = self
            .folder
            .path()
            .join(format!("{}-{file}", *count / LINKS));
        if count.is_multiple_of(LINKS) {
            // A copy of its own: the original may be on another file system, or full of links.
            fs::write(&copy, fs::read(source).unwrap()).unwrap();
        }
        *count += 1;
        fs::hard_link(copy, path).unwrap();
    }

    /// A real file of the media folder under a name.
    fn media(&mut self, file: &str, name: &str) {
        let source = self.media.join(file);
        self.link(&source, name);
    }

    /// Copies an annotation file and gives its text.
    fn annotation(&mut self, file: &str, name: &str) -> String {
        let text = fs::read_to_string(self.annotations.join(file)).unwrap();
        fs::write(self.place(name), &text).unwrap();
        text
    }
}

const CLIP: &str = "clips/00W1lcxW-WU_40.000.mp4";
/// Twelve frames, no sound.
const SHORT: &str = "clips/test_non_zero_start.mp4";
/// Four seconds.
const WAV: &str = "audio/sine_mono_s32_8000.wav";
const PICTURE: &str = "images/rgb_pytorch.jpg";

/// A dataset at full scale.
struct Case {
    dataset: &'static str,
    /// Lays the tree out, without the files of `absent`.
    build: fn(&mut Stage, &BTreeSet<&str>),
    /// Annotation rows of train, val, test.
    rows: [usize; 3],
    /// Ids of samples of which no file is there, or one of two modalities.
    absent: &'static [&'static str],
}

const CASES: [Case; 5] = [
    Case {
        dataset: "ave",
        build: |stage, absent| {
            stage.annotation("Annotations.txt", "Annotations.txt");
            let mut ids = BTreeSet::new();
            for list in ["trainSet.txt", "valSet.txt", "testSet.txt"] {
                let text = stage.annotation(list, list);
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
                stage.media(CLIP, &format!("AVE/{id}.mp4"));
            }
        },
        rows: [3_339, 402, 402],
        // One file that three rows are on.
        absent: &[
            "0f_iTO5t3hU_ukulele",
            "0f_iTO5t3hU_banjo",
            "0f_iTO5t3hU_mandolin",
        ],
    },
    Case {
        dataset: "crema-d",
        build: |stage, absent| {
            for (list, name) in [
                ("OGM-GE_train.csv", "train.csv"),
                ("OGM-GE_test.csv", "test.csv"),
            ] {
                let text = stage.annotation(list, name);
                for line in text.lines() {
                    let stem = line.split(',').next().unwrap();
                    if !absent.contains(stem) {
                        stage.media(WAV, &format!("AudioWAV/{stem}.wav"));
                        stage.media(SHORT, &format!("VideoFlash/{stem}.flv"));
                    }
                }
            }
        },
        rows: [6_698, 0, 744],
        absent: &["1001_DFA_ANG_XX"],
    },
    Case {
        dataset: "mm-imdb",
        build: |stage, absent| {
            let text = stage.annotation("split.json", "split.json");
            let splits: Value = serde_json::from_str(&text).unwrap();
            let json = stage.folder.path().join("movie.json");
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
                        stage.link(&json, &format!("dataset/{id}.json"));
                        stage.media(PICTURE, &format!("dataset/{id}.jpeg"));
                    }
                }
            }
        },
        rows: [15_552, 2_608, 7_799],
        absent: &["0106714"],
    },
    Case {
        dataset: "food-101",
        build: |stage, absent| {
            let text = stage.annotation("test_titles.csv", "texts/test_titles.csv");
            for line in text.lines() {
                let (name, class) = (
                    line.split(',').next().unwrap(),
                    line.rsplit(',').next().unwrap(),
                );
                if !absent.contains(name.strip_suffix(".jpg").unwrap()) {
                    stage.media(PICTURE, &format!("images/test/{class}/{name}"));
                }
            }
        },
        rows: [0, 0, 22_716],
        absent: &["apple_pie_175"],
    },
    Case {
        dataset: "kinetics-sound",
        build: |stage, absent| {
            for (split, list) in [
                ("train", "OGM-GE_my_train.txt"),
                ("test", "OGM-GE_my_test.txt"),
            ] {
                let text = stage.annotation(list, &format!("my_{split}.txt"));
                for line in text.lines() {
                    let clip = line.split(',').next().unwrap();
                    let start: u32 = clip[12..].split('_').next().unwrap().parse().unwrap();
                    let name = format!("{}_{start:06}_{:06}", &clip[..11], start + 10);
                    if !absent.contains(name.as_str()) {
                        stage.media(SHORT, &format!("{split}/{name}.mp4"));
                        stage.media(WAV, &format!("{split}/{name}.wav"));
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

/// Lists, checks and ingests a dataset, all of it or a slice.
fn hold(dataset: &str, limit: Option<usize>) {
    let case = CASES.iter().find(|case| case.dataset == dataset).unwrap();
    let Some(mut stage) = Stage::new(dataset) else {
        return;
    };
    let start = Instant::now();
    (case.build)(&mut stage, &case.absent.iter().copied().collect());
    let (raw, out) = (stage.raw(), stage.folder.path().join("shards"));
    eprintln!("{dataset}: laid out in {:.1?}", start.elapsed());

    let start = Instant::now();
    let checked = run(command("ingest", ["check", dataset, "--json", "--raw"]).arg(&raw));
    let took = start.elapsed();
    eprintln!("{dataset}: checked in {took:.1?}");
    assert!(took < CHECK_LIMIT);
    let checked = checked.expect(LOOK).json();
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
        .expect(DONE)
        .json();
    assert_eq!(number(&plan["samples"]), case.rows.iter().sum::<usize>());

    // Small cells: how many there are is the question.
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
    let totals = run_long(&mut ingest)["manifest"]["totals"].clone();
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
    // The files say the same as the manifest.
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
        // Food-101's titles are there where the image is not.
        let gone = if dataset == "food-101" {
            0
        } else {
            case.absent.len()
        };
        assert_eq!(sum("quarantined"), gone);
        assert_eq!(sum("incomplete"), case.absent.len() - gone);
    }
}

/// Runs a command that may take longer than other tests' commands.
fn run_long(command: &mut std::process::Command) -> Value {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(DONE));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> usize {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count")) as usize
}

macro_rules! cases {
    ($($slice:ident, $whole:ident: $dataset:literal;)*) => {$(
        #[test]
        fn $slice() {
            hold($dataset, Some(SLICE));
        }

        #[test]
        #[ignore = "minutes, and some GB: just test-full"]
        fn $whole() {
            hold($dataset, None);
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
