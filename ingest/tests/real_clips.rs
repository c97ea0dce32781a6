//! Real clips, described by a user's own `.toml`: rows must hold what ffprobe and ffmpeg find in
//! them.
//!
//! The expected figures of each clip are those of ffprobe (-count_frames, -show_entries stream).

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use features::image;

use common::{Row, describe_dataset, ingest, is_installed, media, rows, run};

/// What ffprobe and ffmpeg find in a clip.
struct Expected {
    file: &'static str,
    /// ffmpeg's name of the stream that av_find_best_stream selects.
    stream: &'static str,
    /// Duration of the audio in seconds, `None` without an audio stream.
    audio: Option<f32>,
    /// Number of frames that can be decoded, width and height after rotation, and seconds from the
    /// start of the first frame to the end of the last one.
    video: (usize, usize, usize, f32),
}

const CLIPS: [Expected; 12] = [
    // 303 frames of 340x256 at 30 fps, aac of 10.008 s.
    Expected {
        file: "clips/R6llTwEh07w.mp4",
        stream: "0:v:0",
        audio: Some(10.008),
        video: (303, 340, 256, 10.1),
    },
    // Longer than 1024 mel frames: its spectrogram is truncated, its duration is not.
    Expected {
        file: "clips/SOX5yA1l24A.mp4",
        stream: "0:v:0",
        audio: Some(11.06),
        video: (332, 340, 256, 11.078),
    },
    // An edit list hides 101 of 400 packets.
    Expected {
        file: "clips/KlsG1EnBEjc_000361.mp4",
        stream: "0:v:0",
        audio: Some(10.008),
        video: (299, 1280, 720, 9.977),
    },
    // No audio stream.
    Expected {
        file: "clips/mmaction2_demo_no_audio.mp4",
        stream: "0:v:0",
        audio: None,
        video: (280, 340, 256, 10.0),
    },
    // 568x320 with a display matrix of -90 degrees, presented as 320x568. Three frames.
    Expected {
        file: "clips/decord_video_90.mov",
        stream: "0:v:0",
        audio: None,
        video: (3, 320, 568, 0.1),
    },
    // Two video and two audio streams; the best ones are stream 3 (480x270, 390 frames) and 4.
    Expected {
        file: "clips/nasa_13013.mp4",
        stream: "0:3",
        audio: Some(13.056),
        video: (390, 480, 270, 13.013),
    },
    // Starts at 8.333 s; 12 frames at 30 fps.
    Expected {
        file: "clips/test_non_zero_start.mp4",
        stream: "0:v:0",
        audio: None,
        video: (12, 200, 112, 0.4),
    },
    // Packets without presentation times (avi), mp3.
    Expected {
        file: "clips/mmaction2_test.avi",
        stream: "0:v:0",
        audio: Some(6.557),
        video: (164, 320, 240, 6.56),
    },
    // CREMA-D as its publisher distributes it: VP6F and MP3 behind a data stream; the first frame at
    // 0.027 s, the times in whole milliseconds.
    Expected {
        file: "crema-d/VideoFlash/1001_DFA_HAP_XX.flv",
        stream: "0:v:0",
        audio: Some(1.907),
        video: (56, 480, 360, 1.868),
    },
    Expected {
        file: "crema-d/VideoFlash/1001_DFA_NEU_XX.flv",
        stream: "0:v:0",
        audio: Some(2.064),
        video: (61, 480, 360, 2.035),
    },
    Expected {
        file: "crema-d/VideoFlash/1001_DFA_SAD_XX.flv",
        stream: "0:v:0",
        audio: Some(2.038),
        video: (60, 480, 360, 2.002),
    },
    // 50 packets, of which one cannot be decoded. The 21 frames after it are predicted from it: see
    // WHOLE_OF_CORRUPTED.
    Expected {
        file: "damaged/decord_corrupted.mp4",
        stream: "0:v:0",
        audio: None,
        video: (49, 1280, 720, 5.0),
    },
];

/// The numbers of the stored frames of `damaged/decord_corrupted.mp4`: those of the pool, and the
/// last whole ones in the place of 29, 35, 40 and 46.
const WHOLE_OF_CORRUPTED: [usize; 9] = [2, 8, 13, 19, 23, 24, 25, 26, 27];

/// Returns the numbers of the frames that are stored of a clip.
fn numbers(clip: &Expected) -> Vec<usize> {
    if clip.file.ends_with("corrupted.mp4") {
        return WHOLE_OF_CORRUPTED.to_vec();
    }
    let count = clip.video.0;
    let pool = count.min(9);
    (0..pool)
        .map(|i| (2 * i + 1) * count / (2 * pool))
        .collect()
}

#[test]
fn rows_of_real_clips_match_ffprobe_and_ffmpeg() {
    let Some(media) = media() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (0..CLIPS.len()).map(|i| format!("-clip{i}")).collect();
    let mut table: Vec<(&str, &str, &str)> = CLIPS
        .iter()
        .zip(&ids)
        .map(|(clip, id)| (id.as_str(), "train", clip.file))
        .collect();
    table.push(("image", "test", "damaged/corrupt.jpg"));
    table.push(("absent", "test", "clips/nobody.mp4"));
    let toml = describe_dataset(folder.path(), &media, &table);
    let out = folder.path().join("shards");
    let outcome = run(ingest().arg("run").arg(&toml).arg("--out").arg(&out));
    // Two samples are quarantined, which is more than the default of --max-failures.
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let rows = rows(&out);
    assert_eq!(rows.len(), CLIPS.len());
    for (clip, id) in CLIPS.iter().zip(&ids) {
        check_row(clip, &rows[id]);
    }

    let failures = common::batches(&out.join("failures.parquet"));
    let text: Vec<String> = failures
        .iter()
        .flat_map(|batch| {
            (0..batch.num_rows()).map(move |row| {
                let columns = batch.columns().iter();
                let cells = columns.map(|c| {
                    arrow_array::cast::AsArray::as_string::<i32>(c.as_ref())
                        .value(row)
                        .to_owned()
                });
                cells.collect::<Vec<_>>().join(" | ")
            })
        })
        .collect();
    assert_eq!(text.len(), 2);
    assert!(
        text.iter()
            .any(|row| row.starts_with("image | test") && row.contains("not a media file")),
        "{text:?}"
    );
    assert!(
        text.iter()
            .any(|row| row.starts_with("absent | test") && row.contains("no such file")),
        "{text:?}"
    );

    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["totals"]["train"]["rows"], CLIPS.len());
    assert_eq!(manifest["totals"]["test"]["quarantined"], 2);
    assert_eq!(
        manifest["failures"]["causes"]["audio"]["no audio stream"],
        4
    );
    assert_eq!(
        manifest["warnings"]["first"][0]["what"]["detail"],
        "49 frames decoded, 1 lost, 21 damaged"
    );

    if is_installed("ffmpeg") {
        for (clip, id) in CLIPS.iter().zip(&ids) {
            compare_frames(clip, &rows[id], &media);
        }
        let whole = rows[&ids[0]].mel.as_ref().unwrap();
        compare_mel(&media.join(CLIPS[0].file), whole, "anull", 0.05);
    }
}

/// Checks a row against the expected figures.
fn check_row(clip: &Expected, row: &Row) {
    let (count, width, height, seconds) = clip.video;
    let Row {
        frames,
        times,
        video_seconds,
        audio_seconds,
        mel,
        error,
        ..
    } = row;
    assert!(row.has_video, "{}: {error:?}", clip.file);
    let frames = frames.as_ref().unwrap();
    assert_eq!(frames.len(), count.min(9), "{}", clip.file);
    assert_eq!(times.len(), frames.len());
    let decoded = image::decode(&frames[0]).unwrap();
    let short = width.min(height);
    let stored = |side: usize| side * short.min(256) / short;
    assert_eq!(
        (decoded.width, decoded.height),
        (stored(width), stored(height)),
        "{}",
        clip.file
    );
    assert!(
        (video_seconds.unwrap() - seconds).abs() < 0.05,
        "{}: {video_seconds:?}",
        clip.file
    );
    // At a constant frame rate, frame i is at that share of the duration.
    for (i, (time, number)) in times.iter().zip(numbers(clip)).enumerate() {
        let expected = number as f32 * seconds / count as f32;
        assert!(
            (time - expected).abs() < 0.06,
            "{}: frame {i} at {time}, not {expected}",
            clip.file
        );
    }
    match clip.audio {
        Some(seconds) => {
            assert!(row.has_audio && error.is_none());
            assert!(
                (audio_seconds.unwrap() - seconds).abs() < 0.03,
                "{}: {audio_seconds:?}",
                clip.file
            );
            let mel_frames = mel.as_ref().unwrap().len() / 128;
            let expected = (((seconds - 0.025) / 0.01) as usize + 1).min(1024);
            assert!(
                mel_frames.abs_diff(expected) <= 3,
                "{}: {mel_frames}",
                clip.file
            );
        }
        None => {
            assert!(!row.has_audio && mel.is_none() && audio_seconds.is_none());
            let rest = error
                .as_deref()
                .unwrap()
                .strip_prefix("audio: no audio stream");
            let is_damaged = clip.file.starts_with("damaged/");
            assert_eq!(
                rest.unwrap().starts_with("; video: partly damaged"),
                is_damaged,
                "{error:?}"
            );
            assert!(is_damaged || rest == Some(""), "{}: {error:?}", clip.file);
        }
    }
}

/// Compares the stored frames with the frames of the same numbers that ffmpeg decodes, and with
/// their neighbours.
fn compare_frames(clip: &Expected, row: &Row, media: &Path) {
    let (count, width, height, _) = clip.video;
    let frames = row.frames.as_ref().unwrap();
    let numbers = numbers(clip);
    let number = |i: usize| numbers[i];
    let near = |number: usize| number.saturating_sub(1)..(number + 2).min(count);
    let wanted: BTreeSet<usize> = (0..frames.len()).flat_map(|i| near(number(i))).collect();
    let select: Vec<String> = wanted.iter().map(|n| format!("eq(n,{n})")).collect();
    let output = Command::new("ffmpeg")
        .args(["-v", "quiet", "-i"])
        .arg(media.join(clip.file))
        .args([
            "-map",
            clip.stream,
            "-vf",
            &format!("select='{}'", select.join("+")),
        ])
        .args([
            "-vsync",
            "passthrough",
            "-sws_flags",
            "bicubic+accurate_rnd+full_chroma_int",
        ])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .unwrap();
    let bytes = width * height * 3;
    assert_eq!(
        output.stdout.len(),
        wanted.len() * bytes,
        "{}: ffmpeg decodes other frames",
        clip.file
    );
    for (i, jpeg) in frames.iter().enumerate() {
        let ours = image::decode(jpeg).unwrap().pixels;
        let distance = |number: usize| {
            let position = wanted.iter().position(|&one| one == number).unwrap();
            let pixels = output.stdout[position * bytes..][..bytes].to_vec();
            let theirs = image::shrink_to_jpeg(
                &image::Rgb {
                    width,
                    height,
                    pixels,
                },
                256,
                95,
            )
            .unwrap();
            let theirs = image::decode(&theirs).unwrap().pixels;
            let sum: u64 = ours
                .iter()
                .zip(&theirs)
                .map(|(a, b)| u64::from(a.abs_diff(*b)))
                .sum();
            sum as f64 / ours.len() as f64
        };
        let number = number(i);
        let right = distance(number);
        assert!(
            right < 0.5,
            "{}: frame {number} is {right} grey levels off",
            clip.file
        );
        for other in near(number) {
            // Frames without motion may be equal. Then both numbers are right.
            assert!(
                distance(other) + 0.05 > right,
                "{}: frame {other} fits better than {number}",
                clip.file
            );
        }
    }
}

/// Compares the stored mel with the mel of what ffmpeg decodes and resamples. `down` is the filter
/// that mixes down to mono, because ffmpeg takes 0.71 of both channels by default.
fn compare_mel(file: &Path, ours: &[f32], down: &str, most: f64) {
    let output = Command::new("ffmpeg")
        .args(["-v", "quiet", "-i"])
        .arg(file)
        .args([
            "-af",
            &format!("aformat=sample_fmts=fltp,{down}"),
            "-ar",
            "16000",
            "-f",
            "f32le",
            "-",
        ])
        .output()
        .unwrap();
    let samples: Vec<f32> = output
        .stdout
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let theirs = features::MelFrontEnd::new().compute(&samples);
    let frames = (ours.len() / 128).min(theirs.frames());
    assert!(
        frames > 100 && ours.len().abs_diff(theirs.values.len()) <= 3 * 128,
        "{} {}",
        ours.len(),
        theirs.values.len()
    );
    // Above 7.4 kHz the two resamplers' filters differ by design.
    let differences = (0..frames).flat_map(|f| (0..120).map(move |b| f * 128 + b));
    let sum: f64 = differences
        .map(|i| f64::from((ours[i] - theirs.values[i]).abs()))
        .sum();
    let mean = sum / (frames * 120) as f64;
    assert!(mean < most, "{}: mean difference {mean}", file.display());
}

/// Audio files of every sample format, without video.
#[test]
fn mel_of_every_sample_format_matches_ffmpeg() {
    let Some(media) = media() else { return };
    // 24-bit, 32-bit at 8 kHz, float, stereo at 16 kHz, stereo flac at 44.1 kHz; durations from
    // ffprobe.
    let files = [
        ("audio/sine_mono_s24.wav", 4.0),
        ("audio/sine_mono_s32_8000.wav", 4.0),
        ("audio/sine_mono_f32.wav", 4.0),
        ("audio/mmaction2_test_2ch_16k.wav", 6.556_75),
        ("audio/test_audio.flac", 5.193_22),
    ];
    let folder = tempfile::tempdir().unwrap();
    let rows_of: Vec<(&str, &str, &str)> = files
        .iter()
        .map(|(file, _)| (&file[6..10], "train", *file))
        .collect();
    let names = ["a", "b", "c", "d", "e"];
    let table: Vec<_> = rows_of
        .iter()
        .zip(names)
        .map(|((_, split, file), name)| (name, *split, *file))
        .collect();
    let toml = describe_dataset(folder.path(), &media, &table);
    let out = folder.path().join("shards");
    let outcome = run(ingest()
        .arg("run")
        .arg(&toml)
        .arg("--out")
        .arg(&out)
        .args(["--max-failures", "100%"]));
    outcome.ok();
    let rows = rows(&out);
    for ((file, seconds), name) in files.iter().zip(names) {
        let row = &rows[name];
        assert_eq!(row.error.as_deref(), Some("video: no video stream"));
        assert!(
            (row.audio_seconds.unwrap() - seconds).abs() < 1e-3,
            "{file}"
        );
        if is_installed("ffmpeg") {
            // Without resampling only dither could differ, which ffmpeg does not use here.
            let most = if file.contains("flac") || file.contains("8000") {
                0.1
            } else {
                1e-3
            };
            let stereo = file.contains("2ch") || file.contains("flac");
            let down = if stereo {
                "pan=mono|c0=0.5*c0+0.5*c1"
            } else {
                "anull"
            };
            compare_mel(&media.join(file), row.mel.as_ref().unwrap(), down, most);
        }
    }
}
