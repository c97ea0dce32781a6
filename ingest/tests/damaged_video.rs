//! Video with damage that a decoder conceals. The damaged frames are replaced by whole ones near
//! by, the damage is said, and where too little is whole the row says why it has no video.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Row, describe_dataset, ingest, is_installed, rows, run};
use features::image;
use util::rng::Rng;

/// Least PSNR of a stored frame to the same frame of the undamaged clip, in dB. The concealed frames
/// of these clips have 9 to 25.
const LEAST_PSNR: f64 = 30.0;

/// The clips: a name, the container, and the arguments of the encoder. Each has 100 frames and a
/// key frame in every 20.
const CLIPS: [(&str, &str, &str); 8] = [
    ("h264", "mp4", "-c:v libx264 -preset fast -g 20"),
    ("h264-no-b", "mov", "-c:v libx264 -preset fast -g 20 -bf 0"),
    ("h264-ts", "ts", "-c:v libx264 -preset fast -g 20"),
    ("mpeg4", "avi", "-c:v mpeg4 -g 20 -q:v 3"),
    ("mpeg4-b", "mp4", "-c:v mpeg4 -g 20 -bf 2 -q:v 3"),
    ("flv1", "flv", "-c:v flv1 -g 20 -q:v 3"),
    ("mpeg2", "mpg", "-c:v mpeg2video -g 20 -bf 2 -q:v 3"),
    ("mjpeg", "mkv", "-c:v mjpeg -q:v 3"),
];

/// What is done to a copy of a clip.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// 400 bytes are overwritten in the middle of the third key frame.
    Key,
    /// 400 bytes, or all of a smaller one, are overwritten in the first predicted frame after the
    /// third key frame.
    Predicted,
}

/// A packet of a clip: its position, its size, and whether it is a key frame.
type Packet = (usize, usize, bool);

fn ffmpeg(arguments: &str, to: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y"]);
    command.args(arguments.split_whitespace()).arg(to);
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Returns the packets of a clip's video, as ffprobe lists them.
fn packets(clip: &Path) -> Vec<Packet> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-of", "csv=p=0"])
        .args(["-show_entries", "packet=pos,size,flags"])
        .arg(clip)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let packet = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |cell: &str| cell.trim().parse().ok();
        // ffprobe prints the size before the position.
        Some((
            number(cells.get(1)?)?,
            number(cells[0])?,
            cells.get(2)?.starts_with('K'),
        ))
    };
    text.lines().filter_map(packet).collect()
}

/// Overwrites bytes with random ones.
fn overwrite(bytes: &mut [u8]) {
    let mut rng = Rng::new(5, &[]);
    bytes.fill_with(|| rng.bits() as u8);
}

/// Writes a damaged copy of a clip.
fn damage(clip: &Path, how: Damage, to: &Path) {
    let mut bytes = fs::read(clip).unwrap();
    let packets = packets(clip);
    let all_are_key = packets.iter().all(|packet| packet.2);
    let keys = (0..packets.len()).filter(|&number| packets[number].2);
    // Every frame of Motion JPEG is a key frame. The fifth of them is in the pool.
    let key = keys.clone().nth(if all_are_key { 45 } else { 2 }).unwrap();
    let (position, size, _) = match how {
        Damage::Key => packets[key],
        Damage::Predicted => packets[key + 1],
    };
    let (from, length) = match how {
        Damage::Key => (position + size / 2, 400.min(size / 2)),
        // The first bytes stay, so that it is still a frame.
        Damage::Predicted => (position + 60, 400.min(size - 80)),
    };
    overwrite(&mut bytes[from..from + length]);
    fs::write(to, bytes).unwrap();
}

/// Ingests clips with this number of frames, and returns the rows and the warnings by id.
fn ingest_clips(
    folder: &Path,
    clips: &[(String, PathBuf)],
    pool: &str,
) -> (BTreeMap<String, Row>, BTreeMap<String, String>) {
    let files: Vec<(&str, &str, &str)> = clips
        .iter()
        .map(|(id, path)| {
            (
                id.as_str(),
                "train",
                path.file_name().unwrap().to_str().unwrap(),
            )
        })
        .collect();
    let toml = describe_dataset(folder, folder, &files);
    let out = folder.join(format!("out-{pool}"));
    let outcome = run(ingest().arg("run").arg(&toml).arg("--out").arg(&out).args([
        "--frame-pool",
        pool,
        "--max-failures",
        "100%",
        "--overwrite",
        "--json",
    ]));
    let report: serde_json::Value = serde_json::from_str(&outcome.ok().stdout).unwrap();
    let warnings = report["manifest"]["warnings"]["first"].as_array().unwrap();
    let warning = |one: &serde_json::Value| {
        let what = &one["what"];
        let text = format!("{}: {}", what["cause"], what["detail"]).replace('"', "");
        (one["id"].as_str().unwrap().to_owned(), text)
    };
    (rows(&out), warnings.iter().map(warning).collect())
}

/// Returns the PSNR of two JPEG files of one size in dB.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let (a, b) = (image::decode(a).unwrap(), image::decode(b).unwrap());
    assert_eq!((a.width, a.height), (b.width, b.height));
    let pairs = a.pixels.iter().zip(&b.pixels);
    let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.pixels.len() as f64 / sum.max(1e-9)).log10()
}

#[test]
fn concealed_frames_are_replaced_by_whole_ones_near_by() {
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    for (name, container, encoder) in CLIPS {
        let clip = folder.path().join(format!("{name}.{container}"));
        let source =
            "-f lavfi -i mandelbrot=s=352x256:r=25:end_scale=0.02 -frames:v 100 -pix_fmt yuv420p";
        ffmpeg(&format!("{source} {encoder}"), &clip);
        for how in [Damage::Key, Damage::Predicted] {
            let id = format!("{name}-{how:?}");
            let to = folder.path().join(format!("{id}.{container}"));
            damage(&clip, how, &to);
            damaged.push((id, to));
        }
        whole.push((name.to_owned(), clip));
    }
    let (undamaged, warnings) = ingest_clips(folder.path(), &whole, "0");
    assert!(warnings.is_empty(), "{warnings:?}");
    let (pools, _) = ingest_clips(folder.path(), &whole, "10");
    let (rows, warnings) = ingest_clips(folder.path(), &damaged, "10");
    for (id, row) in &rows {
        let name = id.rsplit_once('-').unwrap().0;
        let truth = &undamaged[name];
        let frames = row.frames.as_ref().unwrap();
        assert_eq!(frames.len(), 10, "{id}");
        assert!(
            row.times.is_sorted_by(|a, b| a < b),
            "{id}: {:?}",
            row.times
        );
        // Where a frame is lost, the ones after it are counted from one less.
        let is_near = |a: &f32, b: &f32| (a - b).abs() < 0.05;
        let moved = row.times.iter().filter(|time| {
            let mut before = pools[name].times.iter();
            !before.any(|other| is_near(time, other))
        });
        let moved = moved.count();
        // Twenty frames are damaged, or a few more that were held back: two of the pool, or three.
        assert!(moved <= 3, "{id}: {:?}", row.times);
        for (frame, time) in frames.iter().zip(&row.times) {
            let same = truth
                .times
                .iter()
                .position(|other| (other - time).abs() < 0.02);
            let psnr = psnr(frame, &truth.frames.as_ref().unwrap()[same.unwrap()]);
            assert!(psnr > LEAST_PSNR, "{id}: {psnr:.1} dB at {time} s");
        }
        let warning = &warnings[id];
        let says = |word: &str| warning.contains(word);
        assert!(
            says("partly damaged") && (says(" damaged") || says("1 lost")),
            "{id}: {warning}"
        );
    }
}

/// One damaged frame that no other is predicted from costs itself alone, although the clip has one
/// key frame only.
#[test]
fn damage_to_a_disposable_frame_does_not_spread() {
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source =
        "-f lavfi -i mandelbrot=s=352x256:r=25:end_scale=0.02 -frames:v 60 -pix_fmt yuv420p";
    let mut clips = Vec::new();
    for (name, encoder) in [
        // Every second and third packet after the key frame is one of a B-frame.
        (
            "h264",
            "-c:v libx264 -preset fast -g 100 -bf 2 -x264-params b-pyramid=none:b-adapt=0:cabac=0",
        ),
        ("mpeg4", "-c:v mpeg4 -g 100 -bf 2 -q:v 3"),
    ] {
        let clip = folder.path().join(format!("{name}.mp4"));
        ffmpeg(&format!("{source} {encoder}"), &clip);
        for number in (2..30).step_by(3) {
            let mut bytes = fs::read(&clip).unwrap();
            let (position, size, _) = packets(&clip)[number];
            overwrite(&mut bytes[position + size / 2..][..size / 2]);
            let id = format!("{name}-{number}");
            let to = folder.path().join(format!("{id}.mp4"));
            fs::write(&to, bytes).unwrap();
            clips.push((id, to));
        }
        clips.push((name.to_owned(), clip));
    }
    let (rows, warnings) = ingest_clips(folder.path(), &clips, "0");
    for name in ["h264", "mpeg4"] {
        let noticed = warnings.iter().filter(|(id, _)| id.starts_with(name));
        let noticed: Vec<_> = noticed.collect();
        // A decoder misses some damage: then the frame is stored.
        assert!(noticed.len() >= 5, "{name}: {warnings:?}");
        for (id, warning) in noticed {
            assert!(warning.contains("0 lost, 1 damaged"), "{id}: {warning}");
            let frames = rows[id].frames.as_ref().unwrap();
            assert_eq!(frames.len(), 59, "{id}");
            for (frame, time) in frames.iter().zip(&rows[id].times) {
                let truth = &rows[name];
                let same = truth.times.iter().position(|other| other == time);
                let whole = &truth.frames.as_ref().unwrap()[same.unwrap()];
                assert!(psnr(frame, whole) > LEAST_PSNR, "{id} at {time} s");
            }
        }
    }
}

/// Where most frames are damaged, the video is missing, and its reason says so.
#[test]
fn a_clip_with_more_damaged_than_whole_frames_has_no_video() {
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source =
        "-f lavfi -i mandelbrot=s=352x256:r=25:end_scale=0.02 -frames:v 60 -pix_fmt yuv420p";
    let mut clips = Vec::new();
    for (name, encoder) in [
        // One key frame, and it is damaged.
        ("h264", "-c:v libx264 -preset fast -g 100"),
        ("mpeg4", "-c:v mpeg4 -g 100 -q:v 3"),
        (
            "encrypted",
            "-c:v libx264 -preset fast -g 20 -encryption_scheme cenc-aes-ctr \
             -encryption_key 76a6c65c5ea762046bd749a2e632ccbb \
             -encryption_kid a7e61c373e219033c21091fa607bf3b8",
        ),
    ] {
        let clip = folder.path().join(format!("{name}.mp4"));
        ffmpeg(&format!("{source} {encoder}"), &clip);
        if name != "encrypted" {
            let mut bytes = fs::read(&clip).unwrap();
            let (position, size, _) = packets(&clip)[0];
            overwrite(&mut bytes[position + size / 2..][..400]);
            fs::write(&clip, bytes).unwrap();
        }
        clips.push((name.to_owned(), clip));
    }
    let tone = folder.path().join("tone.wav");
    ffmpeg("-f lavfi -i sine=d=2", &tone);
    clips.push(("tone".to_owned(), tone));
    let (rows, _) = ingest_clips(folder.path(), &clips, "10");
    // Nothing is left of these samples: they are in failures.parquet.
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["tone"]);
    let failures = common::batches(&folder.path().join("out-10/failures.parquet"));
    let text = format!("{failures:?}");
    assert!(
        text.contains("60 frames decoded, 0 lost, 60 damaged") && text.contains("encrypted"),
        "{text}"
    );
}
