//! Trees with every kind of damaged or odd media, one of each: what a row comes out as. Rows and failures always add up.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use common::{Outcome, files, have, ingest, rows, run, run_crema, synth};
use features::image::{PixelFormat, Rgb, decode, encode_jpeg, shrink_to_jpeg};
use image::{ImageFormat, RgbImage};

/// A picture of 300 x 200 whose left half is dark and whose right half is bright.
fn painted() -> Rgb {
    let pixel = |i: usize| [if i % 300 < 150 { 30 } else { 220 }; 3];
    Rgb {
        width: 300,
        height: 200,
        pixels: (0..300 * 200).flat_map(pixel).collect(),
    }
}

fn in_format(format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_raw(300, 200, painted().pixels).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The painted image as a JPEG of one channel.
fn gray() -> Vec<u8> {
    let pixels: Vec<u8> = painted().pixels.chunks(3).map(|p| p[0]).collect();
    encode_jpeg(&pixels, 300, 200, PixelFormat::Gray, 95).unwrap()
}

/// Ink instead of light, inverted as Adobe stores it.
fn cmyk() -> Vec<u8> {
    let pixels: Vec<u8> = painted()
        .pixels
        .chunks(3)
        .flat_map(|p| [255, 255, 255, p[0]])
        .collect();
    encode_jpeg(&pixels, 300, 200, PixelFormat::Cmyk, 95).unwrap()
}

/// A JPEG that says: turn me a quarter clockwise.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let exif =
        b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

/// A GIF that promises 20,000 x 20,000 pixels.
fn huge() -> Vec<u8> {
    let mut gif = in_format(ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x20, 0x4e, 0x20, 0x4e]);
    gif
}

/// What becomes of a picture: its size in the shard, or words of the reason.
enum Comes {
    Out(usize, usize),
    Gone(&'static str),
}

#[test]
fn pictures_of_every_kind() {
    let jpeg = shrink_to_jpeg(&painted(), 200, 95).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n".to_vec();
    let table: Vec<(&str, Option<Vec<u8>>, Comes)> = vec![
        ("a plain JPEG", Some(jpeg.clone()), Comes::Out(384, 256)),
        ("a gray JPEG", Some(gray()), Comes::Out(384, 256)),
        ("a CMYK JPEG", Some(cmyk()), Comes::Out(384, 256)),
        (
            "PNG bytes",
            Some(in_format(ImageFormat::Png)),
            Comes::Out(384, 256),
        ),
        (
            "WebP bytes",
            Some(in_format(ImageFormat::WebP)),
            Comes::Out(384, 256),
        ),
        (
            "GIF bytes",
            Some(in_format(ImageFormat::Gif)),
            Comes::Out(384, 256),
        ),
        (
            "BMP bytes",
            Some(in_format(ImageFormat::Bmp)),
            Comes::Out(384, 256),
        ),
        (
            "EXIF: a quarter turn",
            Some(turned(&jpeg)),
            Comes::Out(256, 384),
        ),
        (
            "cut off in the middle",
            Some(jpeg[..jpeg.len() / 2].to_vec()),
            Comes::Gone("ends too early"),
        ),
        (
            "20,000 x 20,000 pixels",
            Some(huge()),
            Comes::Gone("too large"),
        ),
        (
            "a page of HTML",
            Some(b"<html>404 not found</html>".to_vec()),
            Comes::Gone("cannot be decoded"),
        ),
        ("no bytes", Some(Vec::new()), Comes::Gone("empty file")),
        (
            "a Git LFS pointer",
            Some(pointer),
            Comes::Gone("Git LFS pointer"),
        ),
        ("not there", None, Comes::Gone("no such file")),
    ];
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir_all(raw.join("images/train/apple_pie")).unwrap();
    fs::create_dir_all(raw.join("images/test/apple_pie")).unwrap();
    fs::create_dir_all(raw.join("texts")).unwrap();
    let mut titles = String::new();
    for (number, (_, bytes, _)) in table.iter().enumerate() {
        titles += &format!("apple_pie_{number}.jpg,Pie Number {number},apple_pie\n");
        if let Some(bytes) = bytes {
            fs::write(
                raw.join(format!("images/train/apple_pie/apple_pie_{number}.jpg")),
                bytes,
            )
            .unwrap();
        }
    }
    fs::write(raw.join("texts/train_titles.csv"), titles).unwrap();
    // A sample with nothing left, and one without a title, which is no failure.
    fs::write(raw.join("images/test/apple_pie/apple_pie_100.jpg"), "x").unwrap();
    fs::write(raw.join("images/test/apple_pie/apple_pie_101.jpg"), &jpeg).unwrap();
    let titles = "apple_pie_100.jpg,[],apple_pie\napple_pie_101.jpg,[],apple_pie\n";
    fs::write(raw.join("texts/test_titles.csv"), titles).unwrap();

    let out = folder.path().join("out");
    let mut command = ingest();
    command
        .args(["run", "food-101", "--json", "--raw"])
        .arg(&raw)
        .arg("--out")
        .arg(&out);
    let outcome = run(&mut command);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let totals = &manifest(&outcome)["totals"];
    assert_eq!(totals["train"]["rows"], table.len());
    assert_eq!(
        (&totals["test"]["rows"], &totals["test"]["quarantined"]),
        (&1.into(), &1.into())
    );

    let found = pictures(&out.join("train-00000-of-00001.parquet"));
    for (number, (what, _, comes)) in table.iter().enumerate() {
        let (image, text, error) = &found[&format!("apple_pie_{number}")];
        assert_eq!(
            text.as_deref(),
            Some(format!("Pie Number {number}").as_str())
        );
        match (comes, image) {
            (Comes::Out(width, height), Some(bytes)) => {
                assert_eq!(error, &None, "{what}");
                let picture = decode(bytes).unwrap();
                assert_eq!((picture.width, picture.height), (*width, *height), "{what}");
                // Dark on the left; turned clockwise, on top.
                let at = |x: usize, y: usize| picture.pixels[3 * (y * picture.width + x)];
                let (x, y) = (width - 8, height - 8);
                let (dark, bright) = if width > height {
                    (at(8, y), at(x, 8))
                } else {
                    (at(x, 8), at(8, y))
                };
                assert!(
                    dark.abs_diff(30) < 8 && bright.abs_diff(220) < 8,
                    "{what}: {dark} {bright}"
                );
            }
            (Comes::Gone(reason), None) => {
                let error = error.as_deref().unwrap();
                assert!(
                    error.starts_with("image: ") && error.contains(reason),
                    "{what}: {error}"
                );
            }
            _ => panic!("{what}: {error:?}"),
        }
    }
}

type Picture = (Option<Vec<u8>>, Option<String>, Option<String>);

/// Image, text and error of every row of a shard.
fn pictures(shard: &Path) -> BTreeMap<String, Picture> {
    let mut found = BTreeMap::new();
    for batch in common::batches(shard) {
        for row in 0..batch.num_rows() {
            let text = |name: &str| {
                let cells = batch.column_by_name(name).unwrap().as_string::<i32>();
                cells.is_valid(row).then(|| cells.value(row).to_owned())
            };
            let images = batch.column_by_name("image").unwrap().as_struct();
            let bytes = images.column(0).as_binary::<i32>();
            let image = images.is_valid(row).then(|| bytes.value(row).to_vec());
            found.insert(text("id").unwrap(), (image, text("text"), text("error")));
        }
    }
    found
}

fn manifest(outcome: &Outcome) -> serde_json::Value {
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    report["manifest"].clone()
}

/// CREMA-D's three sources of sound: the next one is taken where one is not there or blank, and that is told.
#[test]
fn sound_that_is_blank_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let mut stems: Vec<String> = files(&raw.join("AudioWAV"))
        .into_keys()
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    stems.sort();
    let place =
        |kind: &str, ending: &str, stem: &str| raw.join(kind).join(format!("{stem}.{ending}"));
    let blank = |stem: &str| {
        let path = place("AudioWAV", "wav", stem);
        let mut bytes = fs::read(&path).unwrap();
        bytes[44..].fill(0);
        fs::write(path, bytes).unwrap();
    };
    let untouched = rows_of(&raw, &folder.path().join("before")).1;

    fs::remove_file(place("AudioWAV", "wav", &stems[0])).unwrap();
    blank(&stems[1]);
    blank(&stems[2]);
    fs::remove_file(place("AudioMP3", "mp3", &stems[2])).unwrap();
    let silent = have("ffmpeg");
    if silent {
        blank(&stems[3]);
        fs::remove_file(place("AudioMP3", "mp3", &stems[3])).unwrap();
        without_sound(&place("VideoFlash", "flv", &stems[3]));
    }
    let (manifest, found) = rows_of(&raw, &folder.path().join("after"));
    assert_eq!(found.len(), 12);
    for stem in &stems[..3] {
        let (before, after) = (&untouched[stem], &found[stem]);
        assert_eq!(after.error, None);
        // Another file of the same recording.
        let (a, b) = (before.audio_seconds.unwrap(), after.audio_seconds.unwrap());
        assert!(
            (a - b).abs() < 0.15 && before.mel != after.mel,
            "{stem}: {a} {b}"
        );
    }
    let warnings = manifest["warnings"]["first"].as_array().unwrap();
    let told = |stem: &str| {
        let about = |one: &&serde_json::Value| one["id"] == stem;
        warnings
            .iter()
            .filter(about)
            .map(|one| one["what"]["detail"].to_string())
            .collect::<String>()
    };
    // A file that is not there is the listing's business, a blank one shows only when it is decoded.
    assert_eq!(told(&stems[0]), "");
    for (stem, taken) in [
        (&stems[1], "took AudioMP3/"),
        (&stems[2], "took VideoFlash/"),
    ] {
        let told = told(stem);
        assert!(told.contains("silent") && told.contains(taken), "{told}");
    }
    if silent {
        let row = &found[&stems[3]];
        assert!(!row.has_audio && row.has_video);
        let error = row.error.as_deref().unwrap();
        assert!(
            error.starts_with("audio: silent") && error.contains("no audio stream"),
            "{error}"
        );
        assert_eq!(manifest["failures"]["causes"]["audio"]["silent"], 1);
    }
}

fn rows_of(raw: &Path, out: &Path) -> (serde_json::Value, BTreeMap<String, common::Row>) {
    let outcome = run(run_crema(raw, out).args(["--json", "--max-failures", "100%"]));
    (manifest(outcome.ok()), rows(out))
}

fn without_sound(clip: &Path) {
    let silent = clip.with_file_name(format!(
        "silent.{}",
        clip.extension().unwrap().to_str().unwrap()
    ));
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(clip)
        .args(["-an", "-c", "copy"])
        .arg(&silent)
        .status();
    assert!(status.unwrap().success());
    fs::rename(silent, clip).unwrap();
}

/// Kinetics-Sound: sound beside the clip or in it, clips that hold none, none at all, or only their beginning.
#[test]
fn kinetics_clips_of_every_kind() {
    if !have("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let mut command = ingest();
    command
        .args(["synth", "kinetics-sound", "--samples", "24", "--out"])
        .arg(&made);
    run(&mut command).ok();
    let mut clips: Vec<_> = files(&made.join("train"))
        .into_values()
        .filter(|bytes| !bytes.is_empty())
        .collect();
    clips.truncate(2);
    let raw = folder.path().join("raw");
    fs::create_dir_all(raw.join("train")).unwrap();
    let name = |id: &str| format!("{id}_000001_000011");
    let put = |id: &str, ending: &str, bytes: &[u8]| {
        let path = raw.join("train").join(format!("{}.{ending}", name(id)));
        fs::write(&path, bytes).unwrap();
        path
    };
    let tone: Vec<u8> = {
        // One second of a 200 Hz square wave at 16 kHz, behind the plain header of a WAV file.
        let data: Vec<u8> = (0..16_000)
            .flat_map(|i| (if i / 40 % 2 == 0 { 9_000i16 } else { -9_000 }).to_le_bytes())
            .collect();
        let header = b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\x7d\0\0";
        [header, data.as_slice()].concat()
    };
    put("INSIDE_____", "mp4", &clips[0]);
    put("BESIDE_____", "mp4", &clips[0]);
    put("BESIDE_____", "wav", &tone);
    without_sound(&put("ONLYBESIDE_", "mp4", &clips[1]));
    put("ONLYBESIDE_", "wav", &tone);
    without_sound(&put("-SILENT____", "mp4", &clips[1]));
    put("CUTOFF_____", "mp4", &clips[0][..clips[0].len() / 2]);
    put("NOTHING____", "mp4", b"");
    put("NOTHINGBUT_", "mp4", b"");
    put("NOTHINGBUT_", "wav", &tone);
    // id, seconds of sound, whether there is a picture, words of the error.
    let table = [
        ("INSIDE_____", Some(10.0), true, None),
        ("BESIDE_____", Some(1.0), true, None),
        ("ONLYBESIDE_", Some(1.0), true, None),
        ("-SILENT____", None, true, Some("audio: no audio stream")),
        ("NOTHINGBUT_", Some(1.0), false, Some("video: empty file")),
    ];
    let lost = ["CUTOFF_____", "NOTHING____", "MISSING____"];
    let ids = table.iter().map(|one| one.0).chain(lost);
    let list: String = ids.map(|id| format!("{},10,4\r\n", name(id))).collect();
    fs::write(raw.join("my_train.txt"), list).unwrap();
    fs::write(raw.join("my_test.txt"), "INSIDE_TEST_1,10,4\r\n").unwrap();
    let out = folder.path().join("out");
    let mut command = ingest();
    command
        .args(["run", "kinetics-sound", "--json", "--raw"])
        .arg(&raw)
        .arg("--out")
        .arg(&out);
    let outcome = run(&mut command);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let totals = &manifest(&outcome)["totals"]["train"];
    assert_eq!(
        (&totals["rows"], &totals["quarantined"]),
        (&table.len().into(), &lost.len().into())
    );
    let found = rows(&out);
    for (id, seconds, has_video, error) in table {
        let row = &found[&name(id)];
        assert_eq!(
            (row.has_audio, row.has_video),
            (seconds.is_some(), has_video),
            "{id}: {row:?}"
        );
        if let (Some(seconds), Some(found)) = (seconds, row.audio_seconds) {
            assert!((found - seconds).abs() < 0.1, "{id}: {found}");
        }
        match (error, &row.error) {
            (None, None) => {}
            (Some(words), Some(error)) => assert!(error.contains(words), "{id}: {error}"),
            _ => panic!("{id}: {:?}", row.error),
        }
    }
}
