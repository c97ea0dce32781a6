//! The publisher's own clips of CREMA-D (VP6F and MP3 in FLV, which no encoder of FFmpeg can make)
//! go from the raw tree to predictions. What is decoded of them is compared with ffmpeg's frames and
//! samples in `ingest`'s `real_clips`.
//!
//! The clips lie beside a checkout (`../shared/media/crema-d`); without them the test is skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tests::{EXIT_DONE, EXIT_FINDINGS, command, names, run, temp, weights};
use util::skip::shared;

/// A clip, its split, its label, and the seconds and frames of its video and the seconds of its
/// audio as ffprobe has them; the audio clips have no video.
type Clip = (
    &'static str,
    &'static str,
    &'static str,
    Option<(f32, usize)>,
    f32,
);

const CLIPS: [Clip; 6] = [
    ("1001_DFA_HAP_XX", "train", "HAP", Some((1.868, 56)), 1.907),
    ("1001_DFA_NEU_XX", "train", "NEU", Some((2.035, 61)), 2.064),
    ("1001_DFA_SAD_XX", "test", "SAD", Some((2.002, 60)), 2.038),
    ("1002_DFA_ANG_XX", "train", "ANG", None, 2.612),
    ("1002_DFA_DIS_XX", "train", "DIS", None, 2.586),
    ("1002_DFA_FEA_XX", "test", "FEA", None, 2.769),
];

/// Copies the clips into a tree as the publisher lays it out, with the split lists of OGM-GE.
fn raw_tree(media: &Path, raw: &Path) -> PathBuf {
    for folder in ["VideoFlash", "AudioMP3"] {
        fs::create_dir_all(raw.join(folder)).unwrap();
        for name in names(&media.join(folder)) {
            fs::copy(media.join(folder).join(&name), raw.join(folder).join(&name)).unwrap();
        }
    }
    for split in ["train", "test"] {
        let rows = CLIPS.iter().filter(|clip| clip.1 == split);
        let rows: String = rows
            .map(|(stem, _, code, ..)| format!("{stem},{code}\r\n"))
            .collect();
        fs::write(raw.join(format!("{split}.csv")), rows).unwrap();
    }
    raw.to_owned()
}

/// All rows of a folder of shards.
fn batches(shards: &Path) -> Vec<RecordBatch> {
    let files = names(shards)
        .into_iter()
        .filter(|name| name.contains("-of-"));
    files
        .flat_map(|name| {
            let file = fs::File::open(shards.join(name)).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            reader
                .with_batch_size(1)
                .build()
                .unwrap()
                .map(Result::unwrap)
        })
        .collect()
}

#[test]
fn publishers_clips_of_crema_d_go_from_the_raw_tree_to_predictions() {
    let Some(media) = shared("media/crema-d") else {
        return;
    };
    let folder = temp();
    let raw = raw_tree(&media, &folder.path().join("raw"));
    let checked = run(command("ingest", ["check", "crema-d", "--json", "--raw"]).arg(&raw));
    // Three clips have no video here, and none has a wav.
    let checked = checked.expect(EXIT_FINDINGS).json();
    let missing = checked["missing"].as_array().unwrap();
    let missing: Vec<&str> = missing
        .iter()
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        missing,
        [
            "there is no VideoFlash/1002_DFA_ANG_XX.flv",
            "there is no VideoFlash/1002_DFA_DIS_XX.flv",
            "there is no VideoFlash/1002_DFA_FEA_XX.flv",
        ]
    );

    let shards = folder.path().join("shards");
    let mut ingest = command(
        "ingest",
        [
            "run",
            "crema-d",
            "--max-failures",
            "3",
            "--frame-pool",
            "0",
            "--raw",
        ],
    );
    run(ingest.arg(&raw).arg("--out").arg(&shards)).expect(EXIT_DONE);
    let rows: BTreeMap<String, RecordBatch> = batches(&shards)
        .into_iter()
        .map(|row| {
            let id = row
                .column_by_name("id")
                .unwrap()
                .as_string::<i32>()
                .value(0)
                .to_owned();
            (id, row)
        })
        .collect();
    assert_eq!(rows.len(), CLIPS.len());
    for (stem, _, _, video, audio) in CLIPS {
        let row = &rows[stem];
        let seconds = |name: &str| {
            let cells = row
                .column_by_name(name)
                .unwrap()
                .as_primitive::<Float32Type>();
            (!cells.is_null(0)).then(|| cells.value(0))
        };
        let near = |found: Option<f32>, expected: f32| {
            found.is_some_and(|found| (found - expected).abs() < 0.06)
        };
        assert!(
            near(seconds("audio_seconds"), audio),
            "{stem}: {:?}",
            seconds("audio_seconds")
        );
        let frames = row.column_by_name("frames").unwrap().as_list::<i32>();
        match video {
            Some((length, count)) => {
                assert!(
                    near(seconds("video_seconds"), length),
                    "{stem}: {:?}",
                    seconds("video_seconds")
                );
                assert_eq!(frames.value(0).len(), count, "{stem}");
            }
            None => assert!(frames.is_null(0), "{stem}"),
        }
        // One mel frame for each 10 ms.
        let mel = row
            .column_by_name("mel")
            .unwrap()
            .as_list::<i32>()
            .value(0)
            .len();
        assert!(
            mel.abs_diff((audio * 100.0) as usize) <= 6,
            "{stem}: {mel} mel frames"
        );
    }

    let out = folder.path().join("run");
    let arguments = [
        "run",
        "crema-d",
        "--epochs",
        "2",
        "--batch-size",
        "2",
        "--shards",
    ];
    run(command("train", arguments)
        .arg(&shards)
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(&out))
    .expect(EXIT_DONE);
    let clips = [
        "VideoFlash/1001_DFA_SAD_XX.flv",
        "AudioMP3/1002_DFA_FEA_XX.mp3",
    ];
    let mut predict = command("train", ["predict"]);
    predict
        .arg(&out)
        .args(clips.map(|clip| raw.join(clip)))
        .arg("--json");
    let predicted = run(&mut predict).expect(EXIT_DONE);
    let predicted = predicted.json();
    let seen: Vec<&serde_json::Value> = predicted
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["seen"])
        .collect();
    let expected = [
        serde_json::json!(["audio", "video"]),
        serde_json::json!(["audio"]),
    ];
    assert_eq!(seen, expected.iter().collect::<Vec<_>>());
}
