//! The audio and the video of a clip have one clock. With `--segment event`, the clips here are AVE
//! clips whose streams start at different times. Each frame's grey level tells its time, and so does
//! the tone of the sound.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Row, describe_dataset, ffmpeg, ingest, is_installed, media, rows, run};
use features::image;

/// Writes 10 s of video, of which each frame's level is 40 and 20 more for each second, and 10 s of
/// sound, of which second k is a tone of 400 Hz and 400 k more.
fn make_streams(folder: &Path) {
    let level =
        "nullsrc=size=64x48:rate=25:duration=10,format=yuvj420p,geq=lum=40+20*T:cb=128:cr=128";
    let codec = "-c:v libx264 -preset ultrafast -qp 4 -bf 2 -color_range pc";
    ffmpeg(folder, &format!("-f lavfi -i {level} {codec} video.mp4"));
    let tone = "aevalsrc=0.3*sin(2*PI*(400+400*floor(t))*t):s=16000:d=10";
    ffmpeg(folder, &format!("-f lavfi -i {tone} sound.wav"));
}

/// The time that a frame shows.
fn shown_time(jpeg: &[u8]) -> f32 {
    let pixels = image::decode(jpeg).unwrap().pixels;
    let sum: u64 = pixels.iter().map(|&value| u64::from(value)).sum();
    (sum as f32 / pixels.len() as f32 - 40.0) / 20.0
}

/// The second whose tone is the loudest one in these mel frames.
fn heard_second(mel: &[f32]) -> f32 {
    let energy = |bin: usize| mel.iter().skip(bin).step_by(128).sum::<f32>();
    let loudest = (0..128)
        .max_by(|&a, &b| energy(a).total_cmp(&energy(b)))
        .unwrap();
    // The HTK mel scale: 128 bands between 20 and 8000 Hz.
    let scale = |hertz: f32| 1127.0 * (1.0 + hertz / 700.0).ln();
    let middle = scale(20.0) + (loudest + 1) as f32 * (scale(8000.0) - scale(20.0)) / 129.0;
    (700.0 * ((middle / 1127.0).exp() - 1.0) - 400.0) / 400.0
}

/// Clips by the delay of sound and video in seconds, and the options of their container. All but
/// the last have their event from 3 to 6 s.
const CLIPS: [(f32, f32, &str); 10] = [
    (0.0, 2.0, "-c:a aac -f mp4"),
    (0.0, 2.0, "-c:a aac -f mpegts"),
    (0.0, 2.0, "-c:a libmp3lame -ar 22050 -f flv"),
    (0.0, 2.0, "-c:a libopus -f matroska"),
    (2.0, 0.0, "-c:a aac -f mp4"),
    (2.0, 0.0, "-c:a aac -f mpegts"),
    (2.0, 0.0, "-c:a libvorbis -f matroska"),
    (
        0.5,
        1.5,
        "-c:a aac -f mp4 -movflags frag_keyframe+empty_moov",
    ),
    (0.0, 0.0, "-c:a aac -f mp4"),
    (0.0, 2.0, "-c:a pcm_s16le -f mov"),
];

#[test]
fn an_event_is_the_same_part_of_the_clip_in_sound_and_video() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_streams(folder.path());
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    let ids = make_ave(folder.path(), &raw);
    for (id, (sound, video, container)) in ids.iter().zip(CLIPS) {
        let inputs = format!("-itsoffset {video} -i video.mp4 -itsoffset {sound} -i sound.wav");
        let clip = raw.join(format!("AVE/{id}.mp4"));
        let clip = clip.to_str().unwrap();
        let maps = "-map 0:v -map 1:a -c:v copy";
        ffmpeg(
            folder.path(),
            &format!("{inputs} {maps} {container} {clip}"),
        );
    }
    let mut command = ingest();
    command.args(["run", "ave", "--segment", "event", "--frame-pool", "4"]);
    command.args(["--max-failures", "100%", "--raw"]).arg(&raw);
    run(command.arg("--out").arg(&out)).ok();
    let rows = rows(&out);
    // The id of a row is that of the clip with the class.
    let row_of = |id: &String| rows.iter().find(|(row, _)| row.starts_with(id)).unwrap().1;
    let last = CLIPS.len() - 1;
    for (id, clip) in ids.iter().zip(CLIPS).take(last) {
        check_event(row_of(id), clip);
    }
    // An event before the first frame.
    let row = row_of(&ids[last]);
    let error = row.error.as_deref().unwrap();
    assert!(row.has_audio && !row.has_video);
    assert!(error.starts_with("video: too short (2.0"), "{error}");
    assert!(error.contains("and the event is from 0 to 1 s"), "{error}");
    assert_eq!(
        heard_second(&row.mel.as_ref().unwrap()[..80 * 128]).round(),
        0.0
    );
}

/// Writes a tree of AVE, and returns ids of clips in it. Their events are from 3 to 6 s, and that of
/// the last one is from 0 to 1 s.
fn make_ave(folder: &Path, raw: &Path) -> Vec<String> {
    let mut command = ingest();
    command.args(["synth", "ave", "--samples", "24", "--seed", "3", "--out"]);
    run(command.arg(raw)).ok();
    let list = fs::read_to_string(raw.join("trainSet.txt")).unwrap();
    let mut ids: Vec<String> = list
        .lines()
        .map(|line| line.split('&').nth(1).unwrap().to_owned())
        .collect();
    // Each clip is to have one row.
    let all = fs::read_to_string(raw.join("Annotations.txt")).unwrap();
    ids.retain(|id| all.matches(&format!("&{id}&")).count() == 1);
    ids.truncate(CLIPS.len());
    assert_eq!(
        ids.len(),
        CLIPS.len(),
        "{}: too few clips",
        folder.display()
    );
    for list in ["trainSet.txt", "Annotations.txt"] {
        let path = raw.join(list);
        let text = fs::read_to_string(&path).unwrap();
        let line = |line: &str| {
            let mut fields: Vec<&str> = line.split('&').collect();
            if let Some(number) = ids.iter().position(|id| id == fields[1]) {
                let event = if number + 1 == ids.len() {
                    ["0", "1"]
                } else {
                    ["3", "6"]
                };
                fields.splice(3..5, event);
            }
            fields.join("&") + "\n"
        };
        fs::write(&path, text.lines().map(line).collect::<String>()).unwrap();
    }
    ids
}

/// Checks a row with the part from 3 to 6 s of a clip.
#[track_caller]
fn check_event(row: &Row, (sound, video, container): (f32, f32, &str)) {
    let case = format!("sound {sound}, video {video}, {container}: {:?}", row.error);
    assert!(row.has_audio && row.has_video, "{case}");
    // The clip starts with the stream that starts first.
    let start = sound.min(video);
    let (sound, video) = (sound - start, video - start);
    let frames = row.frames.as_ref().unwrap();
    assert_eq!(frames.len(), 4, "{case}");
    for ((frame, &time), near) in frames.iter().zip(&row.times).zip([3.38, 4.12, 4.88, 5.62]) {
        // Containers round times, and some do not know the encoder's priming samples of 0.06 s.
        let shown = shown_time(frame) + video;
        assert!((time - near).abs() < 0.1, "{case}: {time}, not {near}");
        assert!((shown - time).abs() < 0.15, "{case}: {shown} at {time}");
    }
    let mel = row.mel.as_ref().unwrap();
    assert_eq!(mel.len() / 128, 298, "{case}");
    for (second, part) in mel.chunks(100 * 128).enumerate() {
        // The middle of each second, where no other tone is.
        let part = &part[20 * 128..80 * 128];
        let expected = 3.0 + second as f32 - sound;
        let heard = heard_second(part);
        assert!(
            (heard - expected).abs() < 0.2,
            "{case}: {heard}, not {expected}"
        );
    }
    assert!((row.audio_seconds.unwrap() - 3.0).abs() < 0.001, "{case}");
    assert!((row.video_seconds.unwrap() - 3.0).abs() < 0.001, "{case}");
}

/// Without an event, everything is there as it was, with times on the clock of the clip.
#[test]
fn times_of_frames_count_from_the_start_of_the_clip() {
    let Some(media) = media() else { return };
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_streams(folder.path());
    let (sound, video) = ("-itsoffset 2 -i sound.wav", "-itsoffset 2 -i video.mp4");
    ffmpeg(
        folder.path(),
        &format!("{video} -i sound.wav -c:v copy -c:a aac late-video.ts"),
    );
    ffmpeg(
        folder.path(),
        &format!("-i video.mp4 {sound} -c:v copy -c:a aac late-sound.mkv"),
    );
    let alone = "clips/test_non_zero_start.mp4";
    let late: Vec<PathBuf> = ["late-video.ts", "late-sound.mkv"]
        .map(|name| folder.path().join(name))
        .into();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    fs::copy(media.join(alone), raw.join("alone.mp4")).unwrap();
    fs::copy(media.join("clips/bbb.flv"), raw.join("b-frames.flv")).unwrap();
    for file in &late {
        fs::rename(file, raw.join(file.file_name().unwrap())).unwrap();
    }
    let names = [
        "alone.mp4",
        "b-frames.flv",
        "late-video.ts",
        "late-sound.mkv",
    ];
    let table: Vec<_> = names.iter().map(|name| (*name, "train", *name)).collect();
    let toml = describe_dataset(folder.path(), &raw, &table);
    let out = folder.path().join("out");
    let mut command = ingest();
    command.args(["run", "--frame-pool", "0", "--max-failures", "100%"]);
    run(command.arg(toml).arg("--out").arg(&out)).ok();
    let rows = rows(&out);
    for name in names {
        let starts = starts_by_ffprobe(&raw.join(name));
        let clip = starts
            .iter()
            .map(|(_, start)| *start)
            .fold(f32::MAX, f32::min);
        let (_, video) = starts.iter().find(|(kind, _)| kind == "video").unwrap();
        let row = &rows[name];
        // What codecs and containers shift a stream by is no gap.
        let offset = Some(video - clip).filter(|offset| *offset >= 0.1);
        assert!(
            (row.times[0] - offset.unwrap_or_default()).abs() < 2e-3,
            "{name}: {starts:?} {:?}",
            row.times[0]
        );
    }
    assert_eq!(rows["alone.mp4"].times[0], 0.0);
    assert_eq!(rows["b-frames.flv"].times[0], 0.0);
    assert!((rows["late-video.ts"].times[0] - 2.0).abs() < 0.1);
    // The spectrogram begins with the first sample.
    let mel = rows["late-sound.mkv"].mel.as_ref().unwrap();
    assert_eq!(heard_second(&mel[20 * 128..80 * 128]).round(), 0.0);
    assert_eq!(rows["late-sound.mkv"].times[0], 0.0);
}

/// The kind and the start of each stream.
fn starts_by_ffprobe(file: &Path) -> Vec<(String, f32)> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "quiet", "-of", "csv=p=0"]);
    command.args(["-show_entries", "stream=codec_type,start_time"]);
    let output = command.arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let mut fields = line.split(',');
        let kind = fields.next()?.to_owned();
        Some((kind, fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
