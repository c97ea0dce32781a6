//! Thousands of bad files, none of which may kill the parent, lose a sample, outstay its limits, or lead out of the raw
//! folder. `just test-faults` runs all of them, the ordinary tests a slice.

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
use common::{batches, figure, full, ingest, run};
use corpus::{Amount, As, Bad, Good};
use image::ImageFormat;

/// Seconds that a clip may take here; a hang would show as several times as long.
const TIMEOUT: u64 = 60;

/// MiB of address space of a worker here.
const MEMORY: u64 = 1500;

/// What must not get out of its file.
const SECRET: &str = "the-secret-outside-of-the-raw-folder";

/// Good files of every kind that the synthesiser makes, and of those that a picture may come as.
fn good(folder: &Path, wide: bool) -> Good {
    let smallest = |dataset: &str, ending: &str| {
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
                path.extension().is_some_and(|e| e == ending) && bytes.len() > 1000
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
    let picture = image::load_from_memory(&jpg).unwrap();
    let picture = picture.resize_exact(60, 40, image::imageops::FilterType::Nearest);
    let mut pictures = vec![("jpg", jpg)];
    for (ending, format) in [
        ("png", ImageFormat::Png),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
        ("webp", ImageFormat::WebP),
    ] {
        pictures.push((ending, corpus::encoded(picture.clone(), format)));
    }
    if let (true, Some(media)) = (wide, common::media()) {
        for (ending, name) in [
            ("mkv", "clips/av1_video.mkv"),
            ("avi", "clips/mmaction2_test.avi"),
            ("mov", "clips/decord_video_90.mov"),
            ("flac", "audio/test_audio.flac"),
        ] {
            if let Ok(bytes) = fs::read(media.join(name)) {
                clips.push((ending, bytes));
            }
        }
    }
    Good { clips, pictures }
}

/// The rows of a shard folder as id -> (has first, has second, error), and the ids of the failures.
type Rows = (
    BTreeMap<String, (bool, bool, Option<String>)>,
    BTreeSet<String>,
);

fn outcome(out: &Path, modalities: [&str; 2]) -> Rows {
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

/// Ingests a corpus; every file must come out as a row or a failure.
fn survive(folder: &Path, raw: &Path, files: &[(&str, As)], workers: &str) -> (Rows, PathBuf) {
    let mut all = (BTreeMap::new(), BTreeSet::new());
    let out = folder.join(format!("out-{workers}"));
    for (kinds, columns, modalities) in [
        (&[As::Clip][..], "sound,file", ["audio", "video"]),
        (&[As::Picture, As::Text], "photo,page", ["image", "text"]),
    ] {
        let name = modalities[1];
        let mut table = format!("id,part,animal,{columns}\n");
        let mut count = 0;
        for (number, (file, what)) in files.iter().enumerate() {
            if !kinds.contains(what) {
                continue;
            }
            let paths = match what {
                As::Clip => format!("{file},{file}"),
                As::Picture => format!("{file},"),
                As::Text => format!(",{file}"),
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
        let ended = run(command.arg(&toml).arg("--out").arg(&out));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let seconds = report["effort"]["longest_clip_seconds"].as_f64().unwrap();
        let mib = report["effort"]["largest_worker_mib"].as_f64().unwrap();
        figure("max longest time of one clip in s", seconds);
        figure("max largest memory of one clip in MiB", mib);
        // A file has two tasks, each of which may time out once after a first joint attempt.
        assert!(
            seconds < 3.5 * TIMEOUT as f64 && mib < MEMORY as f64,
            "{seconds} s, {mib} MiB"
        );
        let (rows, failures) = outcome(&out, modalities);
        let lost = count - rows.len() - failures.len();
        figure("sum samples lost", lost as f64);
        assert_eq!(lost, 0);
        assert!(rows.keys().all(|id| !failures.contains(id)));
        all.0.extend(rows);
        all.1.extend(failures);
    }
    for (file, what) in files {
        if let Some((one, two, error)) = all.0.get(*file) {
            let whole = match what {
                As::Clip => *one && *two,
                As::Picture => *one,
                As::Text => *two,
            };
            assert!(
                whole || error.as_deref().is_some_and(|e| e.len() > 8),
                "{file}: no reason"
            );
            assert!(!file.contains("-good-") || *one, "{file}: {error:?}");
        } else {
            assert!(all.1.contains(*file) && !file.contains("-good-"), "{file}");
        }
    }
    (all, out)
}

/// Fails where a file below the folder holds the secret, stored as it is. Shards keep text compressed; its row is
/// looked at by the caller.
fn no_secret(folder: &Path) {
    for (path, bytes) in common::files(folder) {
        let leaked = bytes
            .windows(SECRET.len())
            .any(|window| window == SECRET.as_bytes());
        assert!(!leaked, "{}", path.display());
    }
}

#[test]
fn every_bad_file_is_a_row_or_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    let secret = folder.path().join("secret.txt");
    fs::write(&secret, SECRET).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();

    let amount = match full() {
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
    let mut all: Vec<Bad> = corpus::make(&good(folder.path(), full()), amount, 8);
    let lists = corpus::playlists(&secret, &address);
    let listed: Vec<String> = lists.iter().map(|bad| bad.name.clone()).collect();
    all.extend(lists);
    if full() {
        all.push(corpus::bomb());
    }
    corpus::write(&all, &raw);
    // What is no file: a folder, a pipe that nobody writes, a link to nowhere, a device that never ends.
    fs::create_dir(raw.join("folder.mp4")).unwrap();
    let (fifo, mode) = (
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    );
    rustix::fs::mknodat(rustix::fs::CWD, raw.join("pipe.mp4"), fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("nowhere", raw.join("nowhere.mp4")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", raw.join("device.mp4")).unwrap();
    let odd = ["folder.mp4", "pipe.mp4", "nowhere.mp4", "device.mp4"];

    let mut files: Vec<(&str, As)> = all
        .iter()
        .map(|bad| (bad.name.as_str(), bad.what))
        .collect();
    files.extend(odd.map(|name| (name, As::Clip)));
    let ((rows, failures), out) = survive(folder.path(), &raw, &files, "2");
    figure("sum bad inputs tried", files.len() as f64);
    eprintln!(
        "{} files: {} rows, {} failures",
        files.len(),
        rows.len(),
        failures.len()
    );

    for name in odd.iter().copied().chain(listed.iter().map(String::as_str)) {
        assert!(failures.contains(name), "{name} came out as something");
    }
    match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => panic!("somebody reached the network: {other:?}"),
    }
    no_secret(&out);

    // Whatever libav makes of damage, it makes the same of it again.
    let differ = match full() {
        false => 0,
        true => {
            let (_, again) = survive(folder.path(), &raw, &files, "3");
            let (one, two) = (common::files(&out), common::files(&again));
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
    figure("sum bytes that differ", differ as f64);
    assert_eq!(differ, 0);
}
