//! `check` tells before a run what the run will meet: missing lists, texts that cannot be decoded,
//! names that are nearly right. Both exit with 1.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Outcome, ingest, run};
use image::{Rgb, RgbImage};

/// A raw tree, and what `check` and `run` say of it.
struct Case {
    what: &'static str,
    /// The name of the dataset, or `own.toml` in the tree.
    dataset: &'static str,
    files: &'static [(&'static str, &'static [u8])],
    /// Paths of pictures.
    pictures: &'static [&'static str],
    /// What the text of `check` contains.
    checked: &'static [&'static str],
    /// What `run` says on stderr or in its table of failures' causes.
    ran: &'static [&'static str],
    /// The rows of `run`, and the exit code of both.
    rows: u64,
    code: i32,
}

const OWN: &[u8] = b"name = \"own\"\ntable = \"own.csv\"\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\nimage = \"photo\"\ntext_file = \"page\"\n";

const CASES: [Case; 7] = [
    Case {
        what: "MMBT's lists without those for training and validation",
        dataset: "food-101",
        files: &[("test.jsonl", b"{\"id\": 1, \"img\": \"images/test/waffles/waffles_3.jpg\", \"text\": \"Waffles\", \"label\": \"waffles\"}\n")],
        pictures: &["images/test/waffles/waffles_3.jpg"],
        checked: &["missing list: 2", "train.jsonl: no such file; the train split is left out", "dev.jsonl: no such file"],
        ran: &["train.jsonl: no such file; the train split is left out"],
        rows: 1,
        code: 1,
    },
    Case {
        what: "titles without those for training",
        dataset: "food-101",
        files: &[("texts/test_titles.csv", b"waffles_3.jpg,Waffles,waffles\n")],
        pictures: &["images/test/waffles/waffles_3.jpg"],
        checked: &["missing list: 1", "train_titles.csv: no such file; the train split is left out"],
        ran: &["train_titles.csv: no such file; the train split is left out"],
        rows: 1,
        code: 1,
    },
    Case {
        what: "a list of Kinetics-Sound without its partner",
        dataset: "kinetics-sound",
        files: &[("my_test.txt", b"aaaaaaaaaaa_1,10,2\n"), ("aaaaaaaaaaa_000001_000011.mp4", b"no video")],
        pictures: &[],
        checked: &["missing list: 1", "my_train.txt: no such file; the train split is left out", "test: 2594 in the paper, section 4.1; 2597 in OGM-GE's list my_test.txt"],
        ran: &["my_train.txt: no such file; the train split is left out"],
        rows: 0,
        code: 1,
    },
    Case {
        what: "texts in Latin-1, cut UTF-16, without words and in UTF-16",
        dataset: "own.toml",
        files: &[
            ("own.toml", OWN),
            ("own.csv", b"id,label,split,photo,page\na,x,train,a.jpg,latin.txt\nb,y,train,a.jpg,cut.txt\nc,x,train,a.jpg,blank.txt\nd,y,train,a.jpg,wide.txt\n"),
            ("latin.txt", b"caf\xe9 au lait"),
            ("cut.txt", b"\xff\xfea\0b"),
            ("blank.txt", b" \n\t"),
            ("wide.txt", b"\xff\xfew\0i\0d\0e\0"),
        ],
        pictures: &["a.jpg"],
        checked: &["2 x text: unknown encoding", "1 x text: empty text", "latin.txt: ", "blank.txt holds no words"],
        ran: &["unknown encoding=2", "empty text=1"],
        rows: 4,
        code: 1,
    },
    Case {
        what: "texts of Food-101's pages in Latin-1",
        dataset: "food-101",
        files: &[("texts_txt/waffles/waffles_3.txt", b"cr\xe8me"), ("texts_txt/waffles/waffles_4.txt", b"cream")],
        pictures: &["images/test/waffles/waffles_3.jpg", "images/train/waffles/waffles_4.jpg"],
        checked: &["1 x text: unknown encoding", "texts_txt/waffles/waffles_3.txt: "],
        ran: &["unknown encoding=1"],
        rows: 2,
        code: 1,
    },
    Case {
        what: "paths as Windows writes them",
        dataset: "own.toml",
        files: &[
            ("own.toml", OWN),
            ("own.csv", b"id,label,split,photo,page\na,x,train,photos\\p1.jpg,t.txt\nb,y,train,photos/p1.jpg,t.txt\n"),
            ("t.txt", b"words"),
        ],
        pictures: &["photos/p1.jpg"],
        checked: &["there is no photos\\p1.jpg; did you mean photos/p1.jpg?"],
        ran: &["no such file=1"],
        rows: 2,
        code: 1,
    },
    Case {
        what: "a movie with NaN in fields that nobody uses",
        dataset: "mm-imdb",
        files: &[
            ("split.json", b"{\"train\": [\"0000001\"], \"dev\": [\"0000002\"], \"test\": [\"0000003\"]}"),
            ("dataset/0000001.json", b"{\"genres\": [\"Drama\"], \"plot\": [\"One.\"], \"rating\": NaN, \"votes\": -Infinity}"),
            ("dataset/0000002.json", b"{\"genres\": [\"Drama\"], \"plot\": [\"NaN and more.\"], \"runtimes\": [NaN]}"),
            ("dataset/0000003.json", b"{\"genres\": [\"War\"], \"plot\": [\"Three.\"]}"),
        ],
        pictures: &["dataset/0000001.JPEG", "dataset/0000002.png", "dataset/0000003.jpeg"],
        checked: &["train                           15552        1        1        1        1"],
        ran: &[],
        rows: 3,
        code: 0,
    },
];

fn write(raw: &Path, case: &Case) {
    let path = |file: &str| {
        let path = raw.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (file, bytes) in case.files {
        fs::write(path(file), bytes).unwrap();
    }
    for file in case.pictures {
        let image = RgbImage::from_pixel(32, 32, Rgb([200, 90, 20]));
        image
            .save_with_format(path(file), image::ImageFormat::Bmp)
            .unwrap();
    }
}

/// The causes of failures in the JSON of a run, as `cause=count`.
fn causes(outcome: &Outcome) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let modalities = report["manifest"]["failures"]["causes"]
        .as_object()
        .unwrap();
    let counts = modalities
        .values()
        .flat_map(|causes| causes.as_object().unwrap());
    counts
        .map(|(cause, count)| format!("{cause}={count}"))
        .collect()
}

#[test]
fn check_says_what_a_run_will_meet() {
    for case in CASES {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("raw");
        write(&raw, &case);
        let dataset = match case.dataset {
            "own.toml" => raw.join("own.toml").to_str().unwrap().to_owned(),
            name => name.to_owned(),
        };
        let checked = run(ingest().args(["check", &dataset, "--raw"]).arg(&raw));
        assert_eq!(checked.code, Some(case.code), "{}: {checked:?}", case.what);
        for part in case.checked {
            assert!(
                checked.stdout.contains(part),
                "{}, {part}: {}",
                case.what,
                checked.stdout
            );
        }
        let mut command = ingest();
        command
            .args(["run", &dataset, "--json", "--max-failures", "0", "--raw"])
            .arg(&raw);
        let ran = run(command.arg("--out").arg(folder.path().join("out")));
        assert_eq!(ran.code, Some(case.code), "{}: {ran:?}", case.what);
        let causes = causes(&ran);
        for part in case.ran {
            let is_cause = causes.iter().any(|cause| cause == part);
            assert!(
                is_cause || ran.stderr.contains(part),
                "{}, {part}: {ran:?}",
                case.what
            );
        }
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let totals = report["manifest"]["totals"].as_object().unwrap();
        let rows: u64 = totals
            .values()
            .map(|split| split["rows"].as_u64().unwrap())
            .sum();
        assert_eq!(rows, case.rows, "{}: {ran:?}", case.what);
    }
}
