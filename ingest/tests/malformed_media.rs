//! Raw trees with one file of every kind of malformed or unusual media: what their rows hold. Rows
//! and failures always add up.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use common::{Outcome, files, ingest, is_installed, rows, run, run_crema, synth};
use features::image::{PixelFormat, Rgb, decode, encode_jpeg, shrink_to_jpeg};
use image::{ImageFormat, RgbImage};

/// Returns an image of 300 x 200 whose left half is dark and whose right half is bright.
fn two_tone_image() -> Rgb {
    let pixel = |i: usize| [if i % 300 < 150 { 30 } else { 220 }; 3];
    Rgb {
        width: 300,
        height: 200,
        pixels: (0..300 * 200).flat_map(pixel).collect(),
    }
}

/// The image in a format of the crate `image`.
fn encoded_as(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_raw(300, 200, two_tone_image().pixels).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The image as a JPEG of one channel.
fn gray_jpeg() -> Vec<u8> {
    let pixels: Vec<u8> = two_tone_image().pixels.chunks(3).map(|p| p[0]).collect();
    encode_jpeg(&pixels, 300, 200, PixelFormat::Gray, 95).unwrap()
}

/// The image as a CMYK JPEG, inverted as Adobe stores it.
fn cmyk_jpeg() -> Vec<u8> {
    let pixels: Vec<u8> = two_tone_image()
        .pixels
        .chunks(3)
        .flat_map(|p| [255, 255, 255, p[0]])
        .collect();
    encode_jpeg(&pixels, 300, 200, PixelFormat::Cmyk, 95).unwrap()
}

/// Adds the EXIF orientation "a quarter turn clockwise" to a JPEG.
fn with_quarter_turn(jpeg: &[u8]) -> Vec<u8> {
    let exif =
        b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

/// A GIF whose header says 20,000 x 20,000 pixels.
fn huge_gif() -> Vec<u8> {
    let mut gif = encoded_as(ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x20, 0x4e, 0x20, 0x4e]);
    gif
}

/// The expected result of an image file.
enum Expected {
    /// An image of this width and height in the shard.
    Image(usize, usize),
    /// A failure with these words in its reason.
    Failure(&'static str),
}

#[test]
fn image_files_of_every_kind_become_rows_or_failures() {
    let jpeg = shrink_to_jpeg(&two_tone_image(), 200, 95).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n".to_vec();
    let table: Vec<(&str, Option<Vec<u8>>, Expected)> = vec![
        (
            "a plain JPEG",
            Some(jpeg.clone()),
            Expected::Image(300, 200),
        ),
        ("a gray JPEG", Some(gray_jpeg()), Expected::Image(300, 200)),
        ("a CMYK JPEG", Some(cmyk_jpeg()), Expected::Image(300, 200)),
        (
            "PNG bytes",
            Some(encoded_as(ImageFormat::Png)),
            Expected::Image(300, 200),
        ),
        (
            "WebP bytes",
            Some(encoded_as(ImageFormat::WebP)),
            Expected::Image(300, 200),
        ),
        (
            "GIF bytes",
            Some(encoded_as(ImageFormat::Gif)),
            Expected::Image(300, 200),
        ),
        (
            "BMP bytes",
            Some(encoded_as(ImageFormat::Bmp)),
            Expected::Image(300, 200),
        ),
        (
            "EXIF: a quarter turn",
            Some(with_quarter_turn(&jpeg)),
            Expected::Image(200, 300),
        ),
        (
            "truncated in the middle",
            Some(jpeg[..jpeg.len() / 2].to_vec()),
            Expected::Failure("ends too early"),
        ),
        (
            "20,000 x 20,000 pixels",
            Some(huge_gif()),
            Expected::Failure("too large"),
        ),
        (
            "a page of HTML",
            Some(b"<html>404 not found</html>".to_vec()),
            Expected::Failure("cannot be decoded"),
        ),
        (
            "no bytes",
            Some(Vec::new()),
            Expected::Failure("empty file"),
        ),
        (
            "a Git LFS pointer",
            Some(pointer),
            Expected::Failure("Git LFS pointer"),
        ),
        ("no file", None, Expected::Failure("no such file")),
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
    // A sample without any modality, and one without a title, which is no failure.
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

    let found = image_rows(&out.join("train-00000-of-00001.parquet"));
    for (number, (name, _, expected)) in table.iter().enumerate() {
        let (image, text, error) = &found[&format!("apple_pie_{number}")];
        assert_eq!(
            text.as_deref(),
            Some(format!("Pie Number {number}").as_str())
        );
        match (expected, image) {
            (Expected::Image(width, height), Some(bytes)) => {
                assert_eq!(error, &None, "{name}");
                let image = decode(bytes).unwrap();
                assert_eq!((image.width, image.height), (*width, *height), "{name}");
                // The dark half is on the left, and after the quarter turn at the top.
                let at = |x: usize, y: usize| image.pixels[3 * (y * image.width + x)];
                let (x, y) = (width - 8, height - 8);
                let (dark, bright) = if width > height {
                    (at(8, y), at(x, 8))
                } else {
                    (at(x, 8), at(8, y))
                };
                assert!(
                    dark.abs_diff(30) < 8 && bright.abs_diff(220) < 8,
                    "{name}: {dark} {bright}"
                );
            }
            (Expected::Failure(reason), None) => {
                let error = error.as_deref().unwrap();
                assert!(
                    error.starts_with("image: ") && error.contains(reason),
                    "{name}: {error}"
                );
            }
            _ => panic!("{name}: {error:?}"),
        }
    }
}

/// The image, the text and the error of a row.
type ImageRow = (Option<Vec<u8>>, Option<String>, Option<String>);

/// Returns the rows of a shard by id.
fn image_rows(shard: &Path) -> BTreeMap<String, ImageRow> {
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

/// CREMA-D has three files of each recording. The next one is used if one is missing or silent, and
/// a silent one is reported as a warning.
#[test]
fn missing_or_silent_audio_files_fall_back_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let mut stems: Vec<String> = files(&raw.join("AudioWAV"))
        .into_keys()
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    stems.sort();
    let file =
        |kind: &str, ending: &str, stem: &str| raw.join(kind).join(format!("{stem}.{ending}"));
    let silence = |stem: &str| {
        let path = file("AudioWAV", "wav", stem);
        let mut bytes = fs::read(&path).unwrap();
        bytes[44..].fill(0);
        fs::write(path, bytes).unwrap();
    };
    let untouched = rows_of(&raw, &folder.path().join("before")).1;

    fs::remove_file(file("AudioWAV", "wav", &stems[0])).unwrap();
    silence(&stems[1]);
    silence(&stems[2]);
    fs::remove_file(file("AudioMP3", "mp3", &stems[2])).unwrap();
    let has_ffmpeg = is_installed("ffmpeg");
    if has_ffmpeg {
        silence(&stems[3]);
        fs::remove_file(file("AudioMP3", "mp3", &stems[3])).unwrap();
        remove_audio_stream(&file("VideoFlash", "flv", &stems[3]));
    }
    let (manifest, found) = rows_of(&raw, &folder.path().join("after"));
    assert_eq!(found.len(), 12);
    for stem in &stems[..3] {
        let (before, after) = (&untouched[stem], &found[stem]);
        assert_eq!(after.error, None);
        // Another file of the same recording was used.
        let (a, b) = (before.audio_seconds.unwrap(), after.audio_seconds.unwrap());
        assert!(
            (a - b).abs() < 0.15 && before.mel != after.mel,
            "{stem}: {a} {b}"
        );
    }
    let warnings = manifest["warnings"]["first"].as_array().unwrap();
    let details = |stem: &str| {
        let is_about = |one: &&serde_json::Value| one["id"] == stem;
        warnings
            .iter()
            .filter(is_about)
            .map(|one| one["what"]["detail"].to_string())
            .collect::<String>()
    };
    // A missing file is known from the listing, a silent one only when it is decoded.
    assert_eq!(details(&stems[0]), "");
    for (stem, used) in [
        (&stems[1], "took AudioMP3/"),
        (&stems[2], "took VideoFlash/"),
    ] {
        let details = details(stem);
        assert!(
            details.contains("silent") && details.contains(used),
            "{details}"
        );
    }
    if has_ffmpeg {
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

/// Ingests CREMA-D, and returns the manifest and the rows.
fn rows_of(raw: &Path, out: &Path) -> (serde_json::Value, BTreeMap<String, common::Row>) {
    let outcome = run(run_crema(raw, out).args(["--json", "--max-failures", "100%"]));
    (manifest(outcome.ok()), rows(out))
}

/// Removes the audio stream of a clip.
fn remove_audio_stream(clip: &Path) {
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

/// Clips of Kinetics-Sound with audio in the clip, in a file beside it, or without audio; empty,
/// truncated and missing clips.
#[test]
fn kinetics_clips_of_every_kind_become_rows_or_failures() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let synthetic = folder.path().join("synthetic");
    let mut command = ingest();
    command
        .args(["synth", "kinetics-sound", "--samples", "24", "--out"])
        .arg(&synthetic);
    run(&mut command).ok();
    let mut clips: Vec<_> = files(&synthetic.join("train"))
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
        // One second of a 200 Hz square wave at 16 kHz, after the header of a WAV file.
        let data: Vec<u8> = (0..16_000)
            .flat_map(|i| (if i / 40 % 2 == 0 { 9_000i16 } else { -9_000 }).to_le_bytes())
            .collect();
        let header = b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\x7d\0\0";
        [header, data.as_slice()].concat()
    };
    put("INSIDE_____", "mp4", &clips[0]);
    put("BESIDE_____", "mp4", &clips[0]);
    put("BESIDE_____", "wav", &tone);
    remove_audio_stream(&put("ONLYBESIDE_", "mp4", &clips[1]));
    put("ONLYBESIDE_", "wav", &tone);
    remove_audio_stream(&put("-SILENT____", "mp4", &clips[1]));
    put("CUTOFF_____", "mp4", &clips[0][..clips[0].len() / 2]);
    put("NOTHING____", "mp4", b"");
    put("NOTHINGBUT_", "mp4", b"");
    put("NOTHINGBUT_", "wav", &tone);
    // The id, the seconds of audio, whether the row has video, and words of the error.
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

/// Files that are given as clips and are none: what the reason says of each, and what to do.
#[test]
fn files_that_are_no_media_are_named_with_a_remedy() {
    let mp4_box = |kind: &[u8], size: u32| [&size.to_be_bytes()[..], kind].concat();
    let ftyp = [&mp4_box(b"ftyp", 16)[..], b"isom\0\0\0\0"].concat();
    let tar = {
        let mut bytes = b"clip.mp4".to_vec();
        bytes.resize(257, 0);
        [&bytes[..], b"ustar\x0000", &[0; 1000]].concat()
    };
    let page = b"\n<!DOCTYPE html>\n<html lang=en><head><title>404</title></head></html>".to_vec();
    let jpeg = shrink_to_jpeg(&two_tone_image(), 200, 95).unwrap();
    let sound = |magic: &[u8]| [magic, &[7; 5000]].concat();
    let cut = "cut short: its index, the moov box, is missing; fetch it again";
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "no-moov.mp4",
            [&ftyp[..], &mp4_box(b"mdat", 9000), &[7; 5000]].concat(),
            cut,
        ),
        (
            "no-moov-at-all.mp4",
            [&ftyp[..], &mp4_box(b"mdat", 5008), &[7; 5000]].concat(),
            cut,
        ),
        ("only-ftyp.m4a", ftyp.clone(), cut),
        (
            "quicktime.mov",
            [
                &mp4_box(b"wide", 8)[..],
                &mp4_box(b"mdat", 9000),
                &[7; 5000],
            ]
            .concat(),
            cut,
        ),
        (
            "half-moov.mp4",
            [&ftyp[..], &mp4_box(b"moov", 9000), &[0; 5000]].concat(),
            "cut short within its index, the moov box; fetch it again",
        ),
        (
            "page.mp4",
            page.clone(),
            "a web page, not media; fetch it again",
        ),
        ("page.wav", page, "a web page, not media; fetch it again"),
        (
            "xhtml.mp4",
            b"<?xml version=\"1.0\"?>\n<html xmlns=\"x\"><body>gone</body></html>".to_vec(),
            "a web page, not media; fetch it again",
        ),
        (
            "s3.mp4",
            b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>".to_vec(),
            "an XML document, not media; fetch it again",
        ),
        (
            "quota.mp4",
            b"{\"error\": \"quota\"}".to_vec(),
            "JSON, not media",
        ),
        (
            "denied.flv",
            b"Access denied\n".to_vec(),
            "a text, not media: \"Access denied\"; fetch it again",
        ),
        (
            "clips.mp4",
            sound(b"PK\x03\x04\x14\0\0\0"),
            "a zip archive; unpack it",
        ),
        (
            "clip.mp4",
            sound(b"\x1f\x8b\x08\0"),
            "a gzip archive; unpack it",
        ),
        (
            "rar.avi",
            sound(b"Rar!\x1a\x07\x01\0"),
            "a rar archive; unpack it",
        ),
        (
            "7z.avi",
            sound(b"7z\xbc\xaf\x27\x1c"),
            "a 7z archive; unpack it",
        ),
        ("tar.mp4", tar, "a tar archive; unpack it"),
        (
            "photo.wav",
            jpeg.clone(),
            "an image (JPEG); neither sound nor video",
        ),
        (
            "photo.mp4",
            jpeg,
            "an image (JPEG); neither sound nor video",
        ),
        (
            "drawing.mp3",
            encoded_as(ImageFormat::Png),
            "an image (PNG); neither sound nor video",
        ),
        (
            "webp.wav",
            encoded_as(ImageFormat::WebP),
            "an image (WebP); neither sound nor video",
        ),
        (
            "heic.mp4",
            [
                &mp4_box(b"ftyp", 16)[..],
                b"heic\0\0\0\0",
                &mp4_box(b"meta", 8),
            ]
            .concat(),
            "an image (HEIC)",
        ),
        (
            "paper.mp3",
            b"%PDF-1.5\n%\xe2\xe3\n".to_vec(),
            "a PDF document",
        ),
        (
            "samples.wav",
            sound(b"\x93NUMPY\x01\0"),
            "a NumPy array; write its samples as a wav file",
        ),
        (
            "list.mp4",
            b"#EXTM3U\n#EXTINF:10,\na.ts\n".to_vec(),
            "a playlist (m3u8); fetch the media that it lists",
        ),
        ("score.mp3", sound(b"MThd\0\0\0\x06"), "a MIDI score"),
        (
            "zeros.mp4",
            vec![0; 9000],
            "only zero bytes at its start; fetch it again",
        ),
        (
            "tape.mxf",
            sound(b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02"),
            "an MXF file; ffmpeg -i FILE FILE.mp4 converts it",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for (name, bytes, _) in &table {
        fs::write(folder.path().join(name), bytes).unwrap();
        rows.push((*name, "train", *name));
    }
    let toml = common::describe_dataset(folder.path(), folder.path(), &rows);
    let out = folder.path().join("out");
    let mut command = ingest();
    command.arg("run").arg(toml).arg("--out").arg(&out);
    command.args(["--max-failures", "100%", "--max-failures-in-a-row", "0"]);
    run(&mut command).ok();
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    for batch in common::batches(&out.join("failures.parquet")) {
        for row in 0..batch.num_rows() {
            let columns = batch.columns().iter();
            let cells: Vec<&str> = columns.map(|c| c.as_string::<i32>().value(row)).collect();
            reasons.insert(cells[0].to_owned(), cells.join(" | "));
        }
    }
    for (name, _, expected) in table {
        assert!(
            reasons[name].contains(expected),
            "{name}: {}",
            reasons[name]
        );
        assert!(
            reasons[name].contains("not a media file"),
            "{name}: {}",
            reasons[name]
        );
    }
}

/// Containers of speech corpora, old sound cards, camcorders and uncompressed video: read as the
/// same samples and frames in a common container.
#[test]
fn rare_containers_hold_the_same_samples_and_frames() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let convert = |arguments: &str, to: &str| {
        let mut command = Command::new("ffmpeg");
        command
            .current_dir(folder.path())
            .args(["-v", "error", "-y"]);
        command.args(arguments.split_whitespace()).arg(to);
        assert!(command.status().unwrap().success(), "{command:?}");
    };
    convert(
        "-f lavfi -i sine=f=440:r=16000:d=2 -c:a pcm_s16le",
        "tone.wav",
    );
    convert("-i tone.wav -c:a pcm_s16le", "tone.voc");
    // NIST SPHERE, as LDC's corpora have it: a header of 1024 bytes, then the samples.
    let wav = fs::read(folder.path().join("tone.wav")).unwrap();
    let data = &wav[wav.len() - 64_000..];
    let mut sphere = b"NIST_1A\n   1024\nsample_rate -i 16000\nchannel_count -i 1\n\
        sample_n_bytes -i 2\nsample_byte_format -s2 01\nsample_sig_bits -i 16\n\
        sample_count -i 32000\nsample_coding -s3 pcm\nend_head\n"
        .to_vec();
    sphere.resize(1024, b' ');
    sphere.extend(data);
    fs::write(folder.path().join("tone.sph"), sphere).unwrap();
    convert(
        "-f lavfi -i testsrc2=s=320x240:r=25:d=1 -pix_fmt yuv420p",
        "scene.y4m",
    );
    convert("-i scene.y4m -c:v ffv1", "scene.mkv");
    convert(
        "-f lavfi -i testsrc2=s=720x576:r=25:d=1 -f lavfi -i sine=f=440:r=48000:d=1 -ac 2 -target pal-dv",
        "tape.dv",
    );
    convert("-i tape.dv -c:v ffv1 -c:a pcm_s16le", "tape.mkv");
    let names = [
        "tone.wav",
        "tone.voc",
        "tone.sph",
        "scene.y4m",
        "scene.mkv",
        "tape.dv",
        "tape.mkv",
    ];
    let table: Vec<_> = names.iter().map(|name| (*name, "train", *name)).collect();
    let toml = common::describe_dataset(folder.path(), folder.path(), &table);
    let out = folder.path().join("out");
    let mut command = ingest();
    command.arg("run").arg(toml).arg("--out").arg(&out);
    run(command.args(["--max-failures", "100%"])).ok();
    let found = rows(&out);
    for (name, same) in [
        ("tone.voc", "tone.wav"),
        ("tone.sph", "tone.wav"),
        ("scene.y4m", "scene.mkv"),
        ("tape.dv", "tape.mkv"),
    ] {
        let (row, same) = (&found[name], &found[same]);
        assert!(row.mel == same.mel && row.frames == same.frames, "{name}");
        assert_eq!(
            (row.audio_seconds, row.times.len()),
            (same.audio_seconds, same.times.len())
        );
        assert_eq!(
            row.has_audio,
            !name.starts_with("scene"),
            "{name}: {:?}",
            row.error
        );
        assert_eq!(
            row.has_video,
            !name.starts_with("tone"),
            "{name}: {:?}",
            row.error
        );
    }
}
