//! The main job on real clips of many kinds, described by a `.toml`: what comes out of each, and training on it.
//!
//! The clips lie beside a checkout (`../shared/media`) and are not part of it; without them the test says so and passes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{Array, AsArray, StructArray};
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tests::{DONE, command, media, names, run, temp, weights};

/// What the shards say of one clip.
#[derive(Debug, Default)]
struct Clip {
    mel_frames: Option<usize>,
    audio_seconds: Option<f32>,
    /// Width and height of each frame.
    frames: Option<Vec<(u16, u16)>>,
    times: Vec<f32>,
    error: Option<String>,
}

/// Width and height from a JPEG's frame header.
fn size(jpeg: &[u8]) -> (u16, u16) {
    let mut at = 2;
    loop {
        let (marker, length) = (
            jpeg[at + 1],
            usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]])),
        );
        if matches!(marker, 0xc0..=0xc2) {
            let pair = |i: usize| u16::from_be_bytes([jpeg[at + i], jpeg[at + i + 1]]);
            return (pair(7), pair(5));
        }
        at += 2 + length;
    }
}

fn read(shard: &Path, clips: &mut BTreeMap<String, Clip>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(shard).unwrap())
        .unwrap()
        .build()
        .unwrap();
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .unwrap_or_else(|| panic!("no column {name}"))
                .clone()
        };
        let (id, error) = (column("id"), column("error"));
        let (mel, frames, times) = (column("mel"), column("frames"), column("frame_times"));
        let (has_audio, has_video) = (column("has_audio"), column("has_video"));
        let seconds = column("audio_seconds");
        for row in 0..batch.num_rows() {
            let mut clip = Clip::default();
            if has_audio.as_boolean().value(row) {
                clip.mel_frames = Some(mel.as_list::<i32>().value_length(row) as usize);
                clip.audio_seconds = Some(seconds.as_primitive::<Float32Type>().value(row));
            }
            if has_video.as_boolean().value(row) {
                let pool = frames.as_list::<i32>().value(row);
                let pool: &StructArray = pool.as_struct();
                let bytes = pool
                    .column_by_name("bytes")
                    .unwrap()
                    .as_binary::<i32>()
                    .clone();
                clip.frames = Some(bytes.iter().map(|jpeg| size(jpeg.unwrap())).collect());
                let times = times.as_list::<i32>().value(row);
                clip.times = times.as_primitive::<Float32Type>().values().to_vec();
            }
            assert_eq!(mel.is_valid(row), clip.mel_frames.is_some());
            assert_eq!(frames.is_valid(row), clip.frames.is_some());
            clip.error = error
                .is_valid(row)
                .then(|| error.as_string::<i32>().value(row).to_owned());
            clips.insert(id.as_string::<i32>().value(row).to_owned(), clip);
        }
    }
}

/// id -> reason of `failures.parquet`.
fn failures(path: &Path) -> BTreeMap<String, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap())
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
        let (id, error) = (column("id"), column("error"));
        for row in 0..batch.num_rows() {
            out.insert(
                id.as_string::<i32>().value(row).to_owned(),
                error.as_string::<i32>().value(row).to_owned(),
            );
        }
    }
    out
}

#[test]
fn each_clip_comes_out_as_a_user_expects() {
    let Some(media) = media() else {
        eprintln!("skipped: no ../shared/media beside this checkout");
        return;
    };
    let folder = temp();
    let mut table = "clip,file,kind,part\n".to_owned();
    let files: Vec<String> = names(&media.join("clips"))
        .into_iter()
        .map(|name| format!("clips/{name}"))
        .chain(["damaged/decord_corrupted.mp4".to_owned()])
        .collect();
    for (i, file) in files.iter().enumerate() {
        let stem = Path::new(file).file_stem().unwrap().to_str().unwrap();
        let part = if i % 4 == 3 { "test" } else { "train" };
        table += &format!("{stem},{file},{},{part}\n", ["people", "machines"][i % 2]);
    }
    fs::write(folder.path().join("clips.csv"), table).unwrap();
    let toml = folder.path().join("clips.toml");
    let raw = media.display();
    fs::write(
        &toml,
        format!(
            "name = \"clips\"\ntable = \"clips.csv\"\nraw = \"{raw}\"\n\
             [columns]\nid = \"clip\"\nlabel = \"kind\"\nvideo = \"file\"\nsplit = \"part\"\n"
        ),
    )
    .unwrap();
    let shards = folder.path().join("shards");
    let ran = run(command("ingest", ["run"])
        .arg(&toml)
        .arg("--out")
        .arg(&shards));
    // The damaged clip may be worth a look; everything else is in order.
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{ran:?}");

    let mut clips = BTreeMap::new();
    for name in names(&shards).iter().filter(|name| name.contains("-of-")) {
        read(&shards.join(name), &mut clips);
    }
    let failed = failures(&shards.join("failures.parquet"));
    assert_eq!(
        clips.len() + failed.len(),
        files.len(),
        "rows and failures add up: {failed:?}"
    );

    // Ordinary clips with sound, at most 10.24 s of it.
    for (clip, seconds) in [
        ("R6llTwEh07w", 10.0),
        ("SOX5yA1l24A", 10.24),
        ("00W1lcxW-WU_40.000", 10.0),
        ("mmaction2_test", 6.55),
    ] {
        let found = &clips[clip];
        assert_eq!(found.error, None, "{clip}");
        assert_eq!(found.frames.as_ref().unwrap().len(), 10, "{clip}");
        let frames = found.mel_frames.unwrap();
        let wanted = seconds * 100.0 - 2.0;
        assert!(
            (frames as f32 - wanted).abs() < 6.0 && frames <= 1024,
            "{clip}: {frames} mel frames"
        );
        assert!(
            found.times.is_sorted() && found.times[0] >= 0.0,
            "{clip}: {:?}",
            found.times
        );
    }
    // Shorter side 256, aspect kept.
    assert_eq!(
        clips["KlsG1EnBEjc_000361"].frames.as_ref().unwrap()[0],
        (455, 256)
    );
    assert_eq!(clips["R6llTwEh07w"].frames.as_ref().unwrap()[0], (340, 256));
    // A small picture is enlarged to the same.
    assert_eq!(
        clips["00W1lcxW-WU_40.000"].frames.as_ref().unwrap()[0],
        (256, 144)
    );
    // No sound: the picture alone, and nothing went wrong.
    for silent in ["mmaction2_demo_no_audio", "av1_video"] {
        let found = &clips[silent];
        assert!(
            found.mel_frames.is_none() && found.frames.is_some(),
            "{silent}: {found:?}"
        );
    }
    // Filmed upright: 568x320 with a rotation of 90 degrees; all of its three frames.
    assert_eq!(
        clips["decord_video_90"].frames.as_deref().unwrap(),
        [(256, 454); 3]
    );
    // Two video streams: the larger one, 480x270.
    assert_eq!(clips["nasa_13013"].frames.as_ref().unwrap()[0], (455, 256));
    assert!(clips["nasa_13013"].mel_frames.is_some());
    // Time stamps that start at 8.33 s: times count from the stream's own start.
    let late = &clips["test_non_zero_start"];
    assert_eq!(late.times.len(), 10);
    assert!(
        late.times[0] < 0.04 && *late.times.last().unwrap() < 0.41,
        "{:?}",
        late.times
    );
    // Sound that starts before the picture in FLV.
    assert!(clips["bbb"].mel_frames.is_some() && clips["bbb"].frames.is_some());
    // Damaged: its reason is kept, in the row or among the failures.
    let reason = failed
        .get("decord_corrupted")
        .or_else(|| clips.get("decord_corrupted")?.error.as_ref());
    assert!(
        reason.is_some_and(|reason| !reason.is_empty()),
        "{failed:?} {:?}",
        clips.get("decord_corrupted")
    );

    let out = folder.path().join("run");
    run(command("train", ["run"])
        .arg(&toml)
        .args(["--max-steps", "4", "--batch-size", "4", "--shards"])
        .arg(&shards)
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(&out))
    .expect(DONE);
    run(command("train", ["eval"]).arg(&out)).expect(DONE);
}
