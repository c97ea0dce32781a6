//! `ingest synth`: the same bytes each time, real containers and codecs, and the publishers'
//! annotation grammar.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_same, ingest, is_installed, run};

const SAMPLES: &str = "24";

fn synth(dataset: &str, out: &Path) {
    let mut command = ingest();
    command.args(["synth", dataset, "--samples", SAMPLES, "--out"]);
    run(command.arg(out)).ok();
}

/// Returns the files of a folder with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = common::files(folder)
        .into_keys()
        .map(|file| folder.join(file))
        .filter(|file| file.extension().is_some_and(|one| one == extension))
        .collect();
    found.sort();
    found
}

/// Returns what ffprobe prints about the container and the streams: names, sizes, rates, seconds.
fn probe(file: &Path) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0", "-show_entries"])
        .arg("format=format_name,duration:stream=codec_name,width,height,sample_rate,channels")
        .arg(file)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn equal_seeds_give_equal_trees() {
    let folder = tempfile::tempdir().unwrap();
    for dataset in ["food-101", "mm-imdb", "ave"] {
        let (first, second) = (folder.path().join(dataset), folder.path().join("second"));
        synth(dataset, &first);
        synth(dataset, &second);
        assert_same(&first, &second);
    }
}

#[test]
fn clips_are_h264_and_aac_in_mp4() {
    let folder = tempfile::tempdir().unwrap();
    let trees = [
        ("ave", "AVE", "h264,256,144"),
        ("kinetics-sound", "train", "h264,320,240"),
    ];
    for (dataset, clips, video) in trees {
        let raw = folder.path().join(dataset);
        synth(dataset, &raw);
        let clips: Vec<PathBuf> = files(&raw.join(clips), "mp4")
            .into_iter()
            .filter(|file| fs::metadata(file).unwrap().len() > 0)
            .collect();
        assert!(clips.len() > 12, "{dataset}: {}", clips.len());
        if is_installed("ffprobe") {
            let probed = probe(&clips[0]);
            for part in [video, "aac,22050,1", "mp4", "10.0"] {
                assert!(
                    probed.contains(part),
                    "{dataset}: {part} is not in {probed}"
                );
            }
        }
    }
    let raw = folder.path().join("ave");
    let rows = |list: &str| fs::read_to_string(raw.join(list)).unwrap();
    assert!(rows("Annotations.txt").starts_with("Category&VideoID&Quality&StartTime&EndTime\n"));
    assert!(!rows("trainSet.txt").contains("StartTime") && rows("trainSet.txt").contains("&good&"));
    // Two pairs of rows share a file.
    let all: usize = ["train", "val", "test"]
        .map(|split| rows(&format!("{split}Set.txt")).lines().count())
        .iter()
        .sum();
    assert_eq!((all, files(&raw.join("AVE"), "mp4").len()), (24, 22));
    let rows = fs::read_to_string(folder.path().join("kinetics-sound/my_test.txt")).unwrap();
    let row = rows.strip_suffix("\r\n").unwrap().lines().next().unwrap();
    let (clip, rest) = row.split_once(",10,").unwrap();
    assert!(clip[12..].parse::<u32>().is_ok() && rest.parse::<u32>().is_ok());
}

#[test]
fn image_paths_follow_the_annotation() {
    let folder = tempfile::tempdir().unwrap();
    let food = folder.path().join("food-101");
    synth("food-101", &food);
    for split in ["train", "test"] {
        let titles = fs::read_to_string(food.join(format!("texts/{split}_titles.csv"))).unwrap();
        for line in titles.lines() {
            let (name, class) = (
                line.split(',').next().unwrap(),
                line.rsplit(',').next().unwrap(),
            );
            let name = name.replace(".txt", ".jpg");
            let image = food.join(format!("images/{split}/{class}/{name}"));
            let bytes = fs::read(&image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
            assert!(features::image::decode(&bytes).is_ok());
        }
    }
    let movies = folder.path().join("mm-imdb");
    synth("mm-imdb", &movies);
    let split: serde_json::Value =
        serde_json::from_slice(&fs::read(movies.join("split.json")).unwrap()).unwrap();
    let ids = ["train", "dev", "test"].map(|name| split[name].as_array().unwrap().clone());
    let ids: Vec<String> = ids
        .concat()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 24);
    for id in ids {
        assert!(id.len() == 7 && movies.join(format!("dataset/{id}.jpeg")).is_file());
        let text = fs::read_to_string(movies.join(format!("dataset/{id}.json"))).unwrap();
        let movie: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(text.is_ascii() && movie["plot"].is_array() && movie["genres"].is_array());
    }
}
