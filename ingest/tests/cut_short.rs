//! Files that hold less than their headers promise, as a download leaves them that broke off: all
//! that is there is used, and the row says what is missing. ffprobe and ffmpeg give the right
//! values.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Row, describe_dataset, ffmpeg, ingest, is_installed, media, rows, run};

/// Returns the lines that ffprobe prints of the entries of a file's packets or streams.
fn ffprobe(file: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("ffprobe");
    command
        .args(["-v", "quiet", "-of", "csv=p=0"])
        .args(arguments);
    let output = command.arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Number of video frames that ffprobe decodes.
fn frames_by_ffprobe(file: &Path, options: &[&str]) -> usize {
    let count = [
        "-count_frames",
        "-show_entries",
        "stream=codec_type,nb_read_frames",
    ];
    let lines = ffprobe(file, &[options, &count].concat());
    let video = lines.iter().find_map(|line| line.strip_prefix("video,"));
    video.unwrap().trim_end_matches(',').parse().unwrap()
}

/// Seconds of sound that ffmpeg decodes.
fn seconds_by_ffmpeg(file: &Path) -> f32 {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "quiet", "-i"]).arg(file);
    command.args(["-vn", "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]);
    command.output().unwrap().stdout.len() as f32 / 32_000.0
}

/// Ingests files of a folder with all of their frames. Returns the rows by file and the manifest.
fn ingest_files(raw: &Path, files: &[&str]) -> (BTreeMap<String, Row>, serde_json::Value) {
    ingest_frames(raw, files, "0")
}

/// Ingests files of a folder with so many of their frames.
fn ingest_frames(
    raw: &Path,
    files: &[&str],
    pool: &str,
) -> (BTreeMap<String, Row>, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<String> = files.iter().map(|file| file.replace('/', "-")).collect();
    let table = ids
        .iter()
        .zip(files)
        .map(|(id, file)| (id.as_str(), "train", *file));
    let table: Vec<_> = table.collect();
    let toml = describe_dataset(folder.path(), raw, &table);
    let out = folder.path().join("shards");
    let mut command = ingest();
    command.arg("run").arg(&toml).arg("--out").arg(&out);
    run(command.args(["--max-failures", "100%", "--frame-pool", pool])).ok();
    let manifest = fs::read(out.join("manifest.json")).unwrap();
    (rows(&out), serde_json::from_slice(&manifest).unwrap())
}

/// Returns the seconds of the sentence "cut short (header 4.0 s, found 2.2 s)" about a modality.
fn cut_short(row: &Row, modality: &str) -> Option<(f32, f32)> {
    let error = row.error.as_deref()?;
    let start = format!("{modality}: cut short (header ");
    let (header, rest) = error.split_once(&start)?.1.split_once(" s, found ")?;
    let (found, _) = rest.split_once(" s)")?;
    Some((header.parse().unwrap(), found.parse().unwrap()))
}

const VIDEO: &str = "-f lavfi -i testsrc=size=96x64:rate=25:duration=4";
const AUDIO: &str = "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=4";

/// Name, codecs and options of clips of 4 s with audio and video. The first ones promise their
/// duration.
const CLIPS: [(&str, &str, bool); 11] = [
    (
        "vp8.webm",
        "-c:v libvpx -deadline realtime -c:a libopus",
        true,
    ),
    ("h264.mkv", "-c:v libx264 -preset ultrafast -c:a aac", true),
    ("flv1.flv", "-c:v flv -c:a libmp3lame", true),
    ("mpeg4.avi", "-c:v mpeg4 -c:a libmp3lame", true),
    (
        "fast.mp4",
        "-c:v libx264 -preset ultrafast -c:a aac -movflags +faststart",
        true,
    ),
    (
        "mpeg4.mov",
        "-c:v mpeg4 -c:a pcm_s16le -movflags +faststart",
        true,
    ),
    ("wmv2.wmv", "-c:v wmv2 -c:a wmav2", true),
    // Fragments that each hold all their video before all their sound.
    (
        "dash.mp4",
        "-c:v libx264 -preset ultrafast -g 50 -c:a aac -movflags dash+global_sidx",
        true,
    ),
    ("h264.ts", "-c:v libx264 -preset ultrafast -c:a aac", false),
    ("theora.ogv", "-c:v libtheora -c:a libvorbis", false),
    ("mpeg1.mpg", "-c:v mpeg1video -c:a mp2", false),
];

/// The same of audio files.
const SOUNDS: [(&str, &str, bool); 14] = [
    ("cbr.mp3", "-c:a libmp3lame", true),
    ("vbr.mp3", "-c:a libmp3lame -q:a 4", true),
    ("pcm.wav", "", true),
    ("large.wav", "-rf64 always", true),
    ("pcm.w64", "", true),
    ("pcm.caf", "", true),
    ("pcm.aiff", "", true),
    ("pcm.au", "", true),
    ("flac.flac", "", true),
    ("wma.wma", "-c:a wmav2", true),
    // Without the header that counts its frames.
    ("bare.mp3", "-c:a libmp3lame -write_xing 0", false),
    ("adts.aac", "-c:a aac", false),
    ("ac3.ac3", "-c:a ac3", false),
    ("vorbis.ogg", "-c:a libvorbis", false),
];

/// Writes the files above, each whole and cut after 60 % of its bytes.
fn make_files(folder: &Path) {
    for (name, codecs, _) in CLIPS {
        ffmpeg(folder, &format!("{VIDEO} {AUDIO} {codecs} {name}"));
    }
    for (name, codecs, _) in SOUNDS {
        ffmpeg(folder, &format!("{AUDIO} {codecs} {name}"));
    }
    for (name, ..) in CLIPS.iter().chain(&SOUNDS) {
        cut(folder, name, 60);
    }
}

/// Writes the first bytes of a file under another name, which is returned.
fn cut(folder: &Path, name: &str, percent: usize) -> String {
    let bytes = fs::read(folder.join(name)).unwrap();
    let cut = format!("cut-{name}");
    fs::write(folder.join(&cut), &bytes[..bytes.len() * percent / 100]).unwrap();
    cut
}

#[test]
fn files_that_were_cut_short_give_what_they_hold_and_say_so() {
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path();
    make_files(raw);
    let whole: Vec<&str> = CLIPS.iter().chain(&SOUNDS).map(|one| one.0).collect();
    let (rows, manifest) = ingest_files(raw, &whole);
    assert_eq!(manifest["warnings"]["causes"], serde_json::json!({}));
    for (name, row) in &rows {
        assert!(
            cut_short(row, "audio").is_none() && cut_short(row, "video").is_none(),
            "{name}"
        );
        assert!(
            (row.audio_seconds.unwrap() - 4.0).abs() < 0.06,
            "{name}: {row:?}"
        );
    }

    let names: Vec<String> = whole.iter().map(|name| format!("cut-{name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (rows, manifest) = ingest_files(raw, &names);
    // The modalities are there.
    assert_eq!(manifest["failures"]["incomplete"], SOUNDS.len());
    assert_eq!(
        manifest["failures"]["causes"]["audio"],
        serde_json::Value::Null
    );
    for (name, _, promises) in CLIPS.iter().chain(&SOUNDS) {
        let file = raw.join(format!("cut-{name}"));
        let row = &rows[&format!("cut-{name}")];
        assert!(row.has_audio, "{name}: {:?}", row.error);
        // A decoder that meets the end inside of its last packet may or may not lose that.
        let expected = seconds_by_ffmpeg(&file);
        let seconds = row.audio_seconds.unwrap();
        assert!(
            (seconds - expected).abs() < 0.13,
            "{name}: {seconds} {expected}"
        );
        check_sentence(row, "audio", seconds, *promises);
        if row.has_video {
            let expected = frames_by_ffprobe(&file, &["-select_streams", "v:0"]);
            let found = row.frames.as_ref().unwrap().len();
            assert!(found.abs_diff(expected) <= 1, "{name}: {found} {expected}");
            check_sentence(row, "video", row.video_seconds.unwrap(), *promises);
        }
    }
}

/// Checks the sentence about a modality of a file of 4 s, of which so many were decoded.
#[track_caller]
fn check_sentence(row: &Row, modality: &str, seconds: f32, promises: bool) {
    let id = &row.id;
    match (promises, cut_short(row, modality)) {
        (true, Some((header, found))) => {
            // An mp3 counts the encoder's padding too.
            assert!((header - 4.0).abs() < 0.11, "{id}: {header}");
            assert!((found - seconds).abs() < 0.06, "{id}: {found} {seconds}");
        }
        (false, None) => {}
        (_, sentence) => panic!("{id}: {modality}: {sentence:?}: {:?}", row.error),
    }
}

/// In fragments of 4 s, the video lies before the sound, so that the cut is inside of the sound
/// while video of a later time is there.
#[test]
fn a_fragmented_mp4_that_was_cut_inside_its_sound_keeps_all_frames() {
    if !is_installed("ffmpeg") || !is_installed("ffprobe") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path();
    let inputs = format!("{VIDEO} {AUDIO}").replace("duration=4", "duration=8");
    let fragments = "-c:v libx264 -preset ultrafast -g 100 -c:a aac -movflags frag_keyframe+empty_moov+default_base_moof";
    ffmpeg(raw, &format!("{inputs} {fragments} a.mp4"));
    let bytes = fs::read(raw.join("a.mp4")).unwrap();
    // At the start of the sound of the last fragment, which is the last eighth of the file or so.
    fs::write(raw.join("cut.mp4"), &bytes[..bytes.len() * 80 / 100]).unwrap();
    // The same with a box `mehd` of 12 s, and cut in the first fragment, so that no other box tells
    // of the second one.
    let longer = with_mehd(&bytes, 12_000);
    fs::write(raw.join("mehd.mp4"), &longer[..longer.len() * 40 / 100]).unwrap();
    let (rows, _) = ingest_files(raw, &["a.mp4", "cut.mp4", "mehd.mp4"]);
    assert_eq!(rows["a.mp4"].error, None);

    let row = &rows["cut.mp4"];
    let file = raw.join("cut.mp4");
    let expected = frames_by_ffprobe(&file, &["-select_streams", "v:0"]);
    assert_eq!((row.frames.as_ref().unwrap().len(), expected), (200, 200));
    // A program that ends at the first packet behind the end does not get them.
    assert!(frames_by_ffprobe(&file, &[]) < 190);
    assert_eq!(cut_short(row, "video"), None);
    let (header, found) = cut_short(row, "audio").unwrap();
    assert!((header - 8.05).abs() < 0.1, "{header}");
    let seconds = row.audio_seconds.unwrap();
    assert!(
        seconds < 6.5 && (found - seconds).abs() < 0.06,
        "{found} {seconds}"
    );

    for modality in ["audio", "video"] {
        let (header, _) = cut_short(&rows["mehd.mp4"], modality).unwrap();
        assert_eq!(header, 12.0, "{modality}");
    }
}

/// Adds the box `mehd` (ISO/IEC 14496-12, 8.8.2), a duration in milliseconds, to a fragmented mp4
/// of ffmpeg, which counts in milliseconds.
fn with_mehd(mp4: &[u8], milliseconds: u32) -> Vec<u8> {
    let mut out = mp4.to_vec();
    let find = |name: &[u8; 4]| mp4.windows(4).position(|four| four == name).unwrap() - 4;
    let mehd = [
        &16u32.to_be_bytes()[..],
        b"mehd\0\0\0\0",
        &milliseconds.to_be_bytes(),
    ];
    for outer in [find(b"moov"), find(b"mvex")] {
        let size = u32::from_be_bytes(out[outer..outer + 4].try_into().unwrap());
        out[outer..outer + 4].copy_from_slice(&(size + 16).to_be_bytes());
    }
    let inside = find(b"mvex") + 8;
    out.splice(inside..inside, mehd.concat());
    out
}

/// Only the longest stream lasts as long as the header of a webm or flv says, also where the sound
/// alone is taken from the file.
#[test]
fn a_stream_that_is_shorter_than_its_file_was_not_cut() {
    if !is_installed("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    let short_audio = format!("{VIDEO} {}", AUDIO.replace("duration=4", "duration=2"));
    let short_video = format!("{} {AUDIO}", VIDEO.replace("duration=4", "duration=2"));
    let mut files = Vec::new();
    for (name, codecs, promises) in CLIPS.iter().filter(|clip| clip.2) {
        assert!(promises);
        for (kind, inputs) in [("audio", &short_audio), ("video", &short_video)] {
            files.push(format!("short-{kind}-{name}"));
            ffmpeg(&raw, &format!("{inputs} {codecs} short-{kind}-{name}"));
        }
    }
    files.push(cut(&raw, "short-audio-vp8.webm", 75));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let (both, _) = ingest_frames(&raw, &files, "1");
    // The sound alone of each file, beside the frames of another one.
    let row = |(i, file)| format!("{file},{},{file},short-audio-fast.mp4\n", i % 2);
    let table: String = (0..).zip(&files).map(row).collect();
    let (csv, toml) = (folder.path().join("a.csv"), folder.path().join("a.toml"));
    fs::write(csv, format!("id,class,sound,clip\n{table}")).unwrap();
    let text = format!(
        "name = \"sounds\"\ntable = \"a.csv\"\nraw = {raw:?}\n[columns]\nid = \"id\"\nlabel = \"class\"\naudio = \"sound\"\nvideo = \"clip\"\n"
    );
    fs::write(&toml, text).unwrap();
    let out = folder.path().join("shards");
    let mut command = ingest();
    command
        .args(["run", "--frame-pool", "1", "--out"])
        .arg(&out);
    run(command.arg(&toml)).ok();
    let alone = rows(&out);
    for (name, row) in &both {
        let sentences = [cut_short(row, "audio"), cut_short(row, "video")];
        if name.starts_with("cut-") {
            // The sound ends before the cut, but the header speaks of the longest stream.
            assert!(sentences.iter().all(Option::is_some), "{name}: {row:?}");
            assert!(cut_short(&alone[name], "audio").is_some(), "{name}");
        } else {
            assert_eq!(sentences, [None, None], "{name}");
            assert_eq!(alone[name].error, None, "{name}");
        }
    }
}

/// Headers of WAV streams whose length was unknown when they were written.
#[test]
fn an_unknown_length_is_no_promise() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for size in [0xffff_ffffu32, 0x7fff_f000, 0, 64_000 * 4] {
        let tone: Vec<u8> = (0..32_000u32)
            .flat_map(|i| (if i / 20 % 2 == 0 { 9000i16 } else { -9000 }).to_le_bytes())
            .collect();
        let mut wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data".to_vec();
        wav.extend(size.to_le_bytes());
        wav.extend(&tone);
        files.push(format!("{size}.wav"));
        fs::write(folder.path().join(format!("{size}.wav")), wav).unwrap();
    }
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let (rows, _) = ingest_files(folder.path(), &files);
    for (name, row) in &rows {
        assert!(
            (row.audio_seconds.unwrap() - 2.0).abs() < 0.001,
            "{name}: {row:?}"
        );
        let expected = (name == "256000.wav").then_some((8.0, 2.0));
        assert_eq!(cut_short(row, "audio"), expected, "{name}");
    }
}

/// Good clips and sounds from elsewhere: other writers, rates and edit lists.
#[test]
fn good_files_of_other_writers_were_not_cut() {
    let Some(media) = media() else { return };
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["clips", "audio", "crema-d/AudioMP3", "crema-d/VideoFlash"] {
        let entries = fs::read_dir(media.join(folder)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let names: Vec<&str> = files
        .iter()
        .map(|file| file.strip_prefix(&media).unwrap().to_str().unwrap())
        .collect();
    let (rows, manifest) = ingest_frames(&media, &names, "1");
    assert_eq!(rows.len(), names.len());
    assert_eq!(manifest["warnings"]["causes"], serde_json::json!({}));
}
