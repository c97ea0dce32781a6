//! Files of several recordings, one behind the other, in which the times begin again.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{describe_dataset, ffmpeg, ingest, is_installed, rows, run};

/// Clips of 2 s, each kind in two versions, and their codecs.
const CLIPS: [(&str, &str); 7] = [
    (
        "a.ts",
        "-c:v libx264 -pix_fmt yuv420p -preset ultrafast -bf 2 -c:a aac",
    ),
    ("b.ts", "-c:v mpeg2video -c:a mp2"),
    (
        "a.mkv",
        "-c:v libx264 -pix_fmt yuv420p -preset ultrafast -c:a aac",
    ),
    ("a.mpg", "-c:v mpeg1video -c:a mp2"),
    ("a.mp3", "-vn -c:a libmp3lame"),
    ("a.aac", "-vn -c:a aac"),
    ("a.ogg", "-vn -c:a libvorbis"),
];

#[test]
fn joined_recordings_follow_one_another() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    let mut names = Vec::new();
    for (name, codecs) in CLIPS {
        let mut joined = Vec::new();
        for (part, picture, hertz) in [("first", "testsrc", 440), ("second", "testsrc2", 3000)] {
            let video = format!("-f lavfi -i {picture}=size=96x64:rate=25:duration=2");
            let sound = format!("-f lavfi -i sine=frequency={hertz}:sample_rate=44100:duration=2");
            ffmpeg(&raw, &format!("{video} {sound} {codecs} {part}-{name}"));
            joined.extend(fs::read(raw.join(format!("{part}-{name}"))).unwrap());
            names.push(format!("{part}-{name}"));
        }
        fs::write(raw.join(format!("joined-{name}")), joined).unwrap();
        names.push(format!("joined-{name}"));
    }
    // The clock of MPEG-TS has 33 bits and 90000 ticks a second: it begins again at 95443.7 s.
    let inputs = "-f lavfi -i testsrc=size=96x64:rate=25:duration=4 -f lavfi -i sine=duration=4";
    let codecs = "-c:v libx264 -pix_fmt yuv420p -preset ultrafast -c:a aac -output_ts_offset";
    ffmpeg(&raw, &format!("{inputs} {codecs} 95440 late.ts"));
    ffmpeg(&raw, &format!("{inputs} {codecs} 0 early.ts"));
    // Frames far apart, whose presentation falls back by seconds.
    let slow = "-f lavfi -i testsrc=size=96x64:rate=1:duration=20 -c:v libx264 -bf 3";
    ffmpeg(&raw, &format!("{slow} slow.mkv"));
    names.extend(["late.ts", "early.ts", "slow.mkv"].map(str::to_owned));

    let table: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "train", name.as_str()))
        .collect();
    let toml = describe_dataset(folder.path(), &raw, &table);
    let out = folder.path().join("out");
    let mut command = ingest();
    command.args(["run", "--frame-pool", "0", "--max-failures", "100%"]);
    run(command.arg(toml).arg("--out").arg(&out)).ok();
    let rows = rows(&out);
    for (name, _) in CLIPS {
        let [first, second, joined] =
            ["first", "second", "joined"].map(|part| &rows[&format!("{part}-{name}")]);
        let sum = first.audio_seconds.unwrap() + second.audio_seconds.unwrap();
        let seconds = joined.audio_seconds.unwrap();
        assert!((seconds - sum).abs() < 0.11, "{name}: {seconds}, not {sum}");
        if !joined.has_video {
            continue;
        }
        let (one, two) = (
            first.frames.as_ref().unwrap(),
            second.frames.as_ref().unwrap(),
        );
        let both = joined.frames.as_ref().unwrap();
        // libav marks the packets at a gap in the counters of MPEG-TS, as the join is one, and the
        // row says that their frames are damaged.
        let lost = one.len() + two.len() - both.len();
        let says = joined
            .error
            .as_deref()
            .is_some_and(|error| error.contains("damaged"));
        assert!(
            lost == 0 || lost < 6 && name.ends_with(".ts") && says,
            "{name}: {joined:?}"
        );
        assert!(both[..44] == one[..44], "{name}");
        assert!(both[both.len() - 44..] == two[two.len() - 44..], "{name}");
        let rises = joined.times.windows(2).all(|pair| pair[1] - pair[0] > 0.02);
        assert!(rises, "{name}: {:?}", joined.times);
        let sum = first.video_seconds.unwrap() + second.video_seconds.unwrap();
        assert!(
            (joined.video_seconds.unwrap() - sum).abs() < 0.01,
            "{name}: {sum}"
        );
    }
    let (late, early) = (&rows["late.ts"], &rows["early.ts"]);
    assert!(late.frames == early.frames && late.mel == early.mel);
    assert_eq!((&late.times, late.times.len()), (&early.times, 100));
    let slow = &rows["slow.mkv"].times;
    assert!(
        slow.len() == 20 && slow.windows(2).all(|pair| pair[1] - pair[0] == 1.0),
        "{slow:?}"
    );
}
