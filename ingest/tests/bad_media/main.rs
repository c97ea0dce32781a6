//! Thousands of malformed and hostile files. None may crash the parent, lose a sample, exceed the
//! limits, or reach a file outside of the raw folder. `just test-faults` runs all of them, the
//! other tests a part.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod corpus;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use common::{batches, ingest, is_full_length, report_figure, run};
use corpus::{Amount, BadFile, GoodFiles, Kind};
use image::ImageFormat;

/// Limit on the seconds of a clip in these tests. A hang would take several times as long.
const TIMEOUT: u64 = 60;

/// Limit on the address space of a worker in these tests, in MiB.
const MEMORY: u64 = 1500;

/// The contents of a file that no decoder may read.
const SECRET: &str = "the-secret-outside-of-the-raw-folder";

/// Returns one valid file of every kind that `synth` writes, and of every image format. With `all`,
/// also of other containers.
fn good_files(folder: &Path, all: bool) -> GoodFiles {
    let smallest = |dataset: &str, extension: &str| {
        let raw = folder.join(dataset);
        if !raw.exists() {
            run(ingest()
                .args(["synth", dataset, "--samples", "24", "--out"])
                .arg(&raw))
            .ok();
        }
        let mut files: Vec<Vec<u8>> = common::files(&raw)
            .into_iter()
            .filter(|(path, bytes)| {
                path.extension().is_some_and(|e| e == extension) && bytes.len() > 1000
            })
            .map(|(_, bytes)| bytes)
            .collect();
        files.sort_by_key(Vec::len);
        files.swap_remove(0)
    };
    let mut clips = vec![
        ("flv", smallest("crema-d", "flv")),
        ("wav", smallest("crema-d", "wav")),
        ("mp3", smallest("crema-d", "mp3")),
        ("mp4", smallest("ave", "mp4")),
    ];
    let jpg = smallest("food-101", "jpg");
    let image = image::load_from_memory(&jpg).unwrap();
    let image = image.resize_exact(60, 40, image::imageops::FilterType::Nearest);
    let mut images = vec![("jpg", jpg)];
    for (extension, format) in [
        ("png", ImageFormat::Png),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
        ("webp", ImageFormat::WebP),
    ] {
        images.push((extension, corpus::encoded(image.clone(), format)));
    }
    if let (true, Some(media)) = (all, common::media()) {
        for (extension, name) in [
            ("mkv", "clips/av1_video.mkv"),
            ("avi", "clips/mmaction2_test.avi"),
            ("mov", "clips/decord_video_90.mov"),
            ("flac", "audio/test_audio.flac"),
        ] {
            if let Ok(bytes) = fs::read(media.join(name)) {
                clips.push((extension, bytes));
            }
        }
    }
    GoodFiles { clips, images }
}

/// The rows of a folder of shards by id, each with whether it has the first and the second modality
/// and with its error, and the ids in the table of failures.
type Rows = (
    BTreeMap<String, (bool, bool, Option<String>)>,
    BTreeSet<String>,
);

/// Reads the shards and the table of failures in a folder.
fn read_rows(out: &Path, modalities: [&str; 2]) -> Rows {
    let (mut rows, mut failures) = (BTreeMap::new(), BTreeSet::new());
    for entry in fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".parquet") {
            continue;
        }
        for batch in batches(&path) {
            let id = batch.column_by_name("id").unwrap().as_string::<i32>();
            for row in 0..batch.num_rows() {
                let id = id.value(row).to_owned();
                if name == "failures.parquet" {
                    assert!(failures.insert(id));
                    continue;
                }
                let has = |modality: &str| {
                    batch
                        .column_by_name(&format!("has_{modality}"))
                        .unwrap()
                        .as_boolean()
                        .value(row)
                };
                let error = batch.column_by_name("error").unwrap().as_string::<i32>();
                let error = error.is_valid(row).then(|| error.value(row).to_owned());
                let [one, two] = modalities;
                assert!(rows.insert(id, (has(one), has(two), error)).is_none());
            }
        }
    }
    (rows, failures)
}

/// Ingests a corpus, and checks that every file is a row or a failure. Also returns the output
/// folder.
fn ingest_corpus(
    folder: &Path,
    raw: &Path,
    files: &[(&str, Kind)],
    workers: &str,
) -> (Rows, PathBuf) {
    let mut all = (BTreeMap::new(), BTreeSet::new());
    let out = folder.join(format!("out-{workers}"));
    for (kinds, columns, modalities) in [
        (&[Kind::Clip][..], "sound,file", ["audio", "video"]),
        (&[Kind::Image, Kind::Text], "photo,page", ["image", "text"]),
    ] {
        let name = modalities[1];
        let mut table = format!("id,part,animal,{columns}\n");
        let mut count = 0;
        for (number, (file, kind)) in files.iter().enumerate() {
            if !kinds.contains(kind) {
                continue;
            }
            let paths = match kind {
                Kind::Clip => format!("{file},{file}"),
                Kind::Image => format!("{file},"),
                Kind::Text => format!(",{file}"),
            };
            let class = ["cat", "dog"][number % 2];
            table += &format!("{file},train,{class},{paths}\n");
            count += 1;
        }
        fs::write(folder.join(format!("{name}.csv")), table).unwrap();
        let sources = match name {
            "video" => "audio = \"sound\"\nvideo = \"file\"",
            _ => "image = \"photo\"\ntext_file = \"page\"",
        };
        let toml = folder.join(format!("{name}.toml"));
        let text = format!(
            "name = \"bad-{name}\"\ntable = \"{name}.csv\"\nraw = {raw:?}\n[columns]\nid = \"id\"\nlabel = \"animal\"\nsplit = \"part\"\n{sources}\n"
        );
        fs::write(&toml, text).unwrap();
        let out = out.join(name);
        let mut command = ingest();
        command.args([
            "run",
            "--json",
            "--max-failures",
            "100%",
            "--max-failures-in-a-row",
            "0",
            "--frame-pool",
            "3",
        ]);
        command.args([
            "--clip-timeout",
            &TIMEOUT.to_string(),
            "--worker-memory",
            &MEMORY.to_string(),
            "--workers",
            workers,
        ]);
        let outcome = run(command.arg(&toml).arg("--out").arg(&out));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let seconds = report["effort"]["longest_clip_seconds"].as_f64().unwrap();
        let mib = report["effort"]["largest_worker_mib"].as_f64().unwrap();
        report_figure("max longest time of one clip in s", seconds);
        report_figure("max largest memory of one clip in MiB", mib);
        // A file has two tasks. Each may time out once, after both have timed out together.
        assert!(
            seconds < 3.5 * TIMEOUT as f64 && mib < MEMORY as f64,
            "{seconds} s, {mib} MiB"
        );
        let (rows, failures) = read_rows(&out, modalities);
        let lost = count - rows.len() - failures.len();
        report_figure("sum samples lost", lost as f64);
        assert_eq!(lost, 0);
        assert!(rows.keys().all(|id| !failures.contains(id)));
        all.0.extend(rows);
        all.1.extend(failures);
    }
    for (file, kind) in files {
        if let Some((one, two, error)) = all.0.get(*file) {
            let is_complete = match kind {
                Kind::Clip => *one && *two,
                Kind::Image => *one,
                Kind::Text => *two,
            };
            assert!(
                is_complete || error.as_deref().is_some_and(|e| e.len() > 8),
                "{file}: no reason"
            );
            assert!(!file.contains("-good-") || *one, "{file}: {error:?}");
        } else {
            assert!(all.1.contains(*file) && !file.contains("-good-"), "{file}");
        }
    }
    (all, out)
}

/// Fails if a file below the folder holds the secret uncompressed. Shards compress text, so the
/// caller checks the row too.
fn assert_no_secret(folder: &Path) {
    for (path, bytes) in common::files(folder) {
        let leaked = bytes
            .windows(SECRET.len())
            .any(|window| window == SECRET.as_bytes());
        assert!(!leaked, "{}", path.display());
    }
}

#[test]
fn malformed_files_become_rows_or_failures() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    let secret = folder.path().join("secret.txt");
    fs::write(&secret, SECRET).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();

    let amount = match is_full_length() {
        true => Amount {
            cuts: 60,
            flips: 300,
            every: 1,
        },
        false => Amount {
            cuts: 4,
            flips: 8,
            every: 7,
        },
    };
    let mut all: Vec<BadFile> =
        corpus::make(&good_files(folder.path(), is_full_length()), amount, 8);
    let playlists = corpus::playlists(&secret, &address);
    let playlist_names: Vec<String> = playlists.iter().map(|bad| bad.name.clone()).collect();
    all.extend(playlists);
    if is_full_length() {
        all.push(corpus::bomb());
    }
    corpus::write(&all, &raw);
    // A folder, a pipe without a writer, a broken link, and a device without an end.
    fs::create_dir(raw.join("folder.mp4")).unwrap();
    let (fifo, mode) = (
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    );
    rustix::fs::mknodat(rustix::fs::CWD, raw.join("pipe.mp4"), fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("nowhere", raw.join("nowhere.mp4")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", raw.join("device.mp4")).unwrap();
    let special = ["folder.mp4", "pipe.mp4", "nowhere.mp4", "device.mp4"];

    let mut files: Vec<(&str, Kind)> = all
        .iter()
        .map(|bad| (bad.name.as_str(), bad.kind))
        .collect();
    files.extend(special.map(|name| (name, Kind::Clip)));
    let ((rows, failures), out) = ingest_corpus(folder.path(), &raw, &files, "2");
    report_figure("sum bad inputs tried", files.len() as f64);
    eprintln!(
        "{} files: {} rows, {} failures",
        files.len(),
        rows.len(),
        failures.len()
    );

    for name in special
        .iter()
        .copied()
        .chain(playlist_names.iter().map(String::as_str))
    {
        assert!(failures.contains(name), "{name} is not a failure");
    }
    match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => panic!("a decoder reached the network: {other:?}"),
    }
    assert_no_secret(&out);

    // A second run must have equal bytes, also of damaged media.
    let differ = match is_full_length() {
        false => 0,
        true => {
            let (_, second) = ingest_corpus(folder.path(), &raw, &files, "3");
            let (one, two) = (common::files(&out), common::files(&second));
            let differ: Vec<_> = one
                .iter()
                .filter(|(path, bytes)| two.get(*path) != Some(bytes))
                .collect();
            for (path, _) in &differ {
                eprintln!("{} differs", path.display());
            }
            differ.len()
        }
    };
    report_figure("sum bytes that differ", differ as f64);
    assert_eq!(differ, 0);
}
