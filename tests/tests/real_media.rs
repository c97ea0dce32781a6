//! Real clips of many kinds, described by a `.toml`, are ingested, trained on and evaluated.
//!
//! The clips lie beside a checkout (`../shared/media`) and are not part of it; without them the
//! test is skipped. The decoding of each clip is tested in `ingest`; here the trainer must handle
//! the missing modalities.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow_array::cast::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tests::{EXIT_DONE, command, json_lines, names, run, temp, weights};
use util::skip::shared;

/// The clips that have no audio stream, according to ffprobe.
const SILENT: [&str; 4] = [
    "av1_video",
    "decord_video_90",
    "mmaction2_demo_no_audio",
    "test_non_zero_start",
];

/// The columns `has_audio` and `has_video` of a Parquet file, by id.
fn available(file: &Path) -> BTreeMap<String, (bool, bool)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let mut out = BTreeMap::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .unwrap_or_else(|| panic!("no column {name}"))
                .clone()
        };
        let (id, audio, video) = (column("id"), column("has_audio"), column("has_video"));
        for row in 0..batch.num_rows() {
            let has = (audio.as_boolean().value(row), video.as_boolean().value(row));
            out.insert(id.as_string::<i32>().value(row).to_owned(), has);
        }
    }
    out
}

#[test]
fn real_clips_are_ingested_trained_on_and_scored() {
    let Some(media) = shared("media") else {
        return;
    };
    let folder = temp();
    let files: Vec<String> = names(&media.join("clips"))
        .into_iter()
        .map(|name| format!("clips/{name}"))
        .chain(["damaged/decord_corrupted.mp4".to_owned()])
        .collect();
    let mut table = "clip,file,kind,part\n".to_owned();
    for (i, file) in files.iter().enumerate() {
        let stem = Path::new(file).file_stem().unwrap().to_str().unwrap();
        table += &format!(
            "{stem},{file},{},{}\n",
            ["people", "machines"][i % 2],
            if i % 3 == 2 { "test" } else { "train" }
        );
    }
    fs::write(folder.path().join("clips.csv"), table).unwrap();
    let toml = folder.path().join("clips.toml");
    let description = format!(
        "name = \"clips\"\ntable = \"clips.csv\"\nraw = \"{}\"\n\
         [columns]\nid = \"clip\"\nlabel = \"kind\"\nvideo = \"file\"\nsplit = \"part\"\n",
        media.display()
    );
    fs::write(&toml, description).unwrap();
    let shards = folder.path().join("shards");
    let ran = run(command("ingest", ["run"])
        .arg(&toml)
        .arg("--out")
        .arg(&shards));
    // The damaged clip may be a finding; every other clip is in order.
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{ran:?}");

    let mut clips = BTreeMap::new();
    for name in names(&shards).iter().filter(|name| name.contains("-of-")) {
        clips.extend(available(&shards.join(name)));
    }
    let silent: Vec<&str> = clips
        .iter()
        .filter(|(_, (audio, _))| !audio)
        .map(|(id, _)| id.as_str())
        .collect();
    for clip in SILENT {
        assert!(
            silent.contains(&clip),
            "{clip} has no audio stream, but {clips:?}"
        );
    }
    assert!(
        clips.values().filter(|has| **has == (true, true)).count() >= 7,
        "{clips:?}"
    );

    let out = folder.path().join("run");
    run(command("train", ["run"])
        .arg(&toml)
        .args(["--epochs", "2", "--batch-size", "3", "--shards"])
        .arg(&shards)
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(&out))
    .expect(EXIT_DONE);
    let losses = json_lines(&out.join("metrics.jsonl"));
    assert!(
        losses
            .iter()
            .any(|line| line.get("loss").is_some_and(|loss| loss.as_f64().is_some()))
    );
    run(command("train", ["eval"]).arg(&out)).expect(EXIT_DONE);
    let predictions = names(&out)
        .into_iter()
        .find(|name| name.starts_with("predictions-"))
        .unwrap();
    for (id, used) in available(&out.join(predictions)) {
        assert_eq!(
            used, clips[&id],
            "{id}: the model used other modalities than the shards have"
        );
    }
}
