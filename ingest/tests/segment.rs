//! Several samples with one file: the file is decoded once, and with `--segment event` each sample
//! holds the part of the clip that its event is in.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use common::{Row, assert_same, ingest, rows, run, run_crema, synth};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

const BINS: usize = 128;

/// Returns the raw tree, which is written once for all tests of this file.
fn ave() -> &'static Path {
    static RAW: OnceLock<PathBuf> = OnceLock::new();
    RAW.get_or_init(|| {
        let raw = Path::new(env!("CARGO_TARGET_TMPDIR")).join("segment-ave");
        // An earlier version of the program may have written another tree.
        drop(fs::remove_dir_all(&raw));
        let mut command = ingest();
        command.args(["synth", "ave", "--samples", "24", "--seed", "3", "--out"]);
        run(command.arg(&raw)).ok();
        raw
    })
}

fn run_ave(raw: &Path, out: &Path, flags: &[&str]) -> Command {
    let mut command = ingest();
    command
        .args(["run", "ave", "--shard-rows", "5"])
        .args(flags);
    command.arg("--raw").arg(raw).arg("--out").arg(out);
    command
}

/// Returns the start and the end of each row's event, and its file.
fn events(out: &Path) -> BTreeMap<String, (f32, f32, String)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().contains("-of-") {
            continue;
        }
        for batch in common::batches(&path) {
            let text = |name: &str, row| {
                batch
                    .column_by_name(name)
                    .unwrap()
                    .as_string::<i32>()
                    .value(row)
                    .to_owned()
            };
            for row in 0..batch.num_rows() {
                let time = |name: &str| {
                    let cells = batch
                        .column_by_name(name)
                        .unwrap()
                        .as_primitive::<Float32Type>();
                    assert!(cells.is_valid(row));
                    cells.value(row)
                };
                let event = (time("event_start"), time("event_end"), text("source", row));
                found.insert(text("id", row), event);
            }
        }
    }
    found
}

#[test]
fn event_segments_hold_exactly_that_part_of_the_clip() {
    let folder = tempfile::tempdir().unwrap();
    let raw = ave();
    let at = |name: &str| folder.path().join(name);
    run(&mut run_ave(raw, &at("clip"), &["--frame-pool", "1"])).ok();
    run(&mut run_ave(
        raw,
        &at("event"),
        &["--segment", "event", "--frame-pool", "4"],
    ))
    .ok();
    // Every frame of some clips, to compare the frames of events with.
    run(&mut run_ave(
        raw,
        &at("all"),
        &["--frame-pool", "0", "--limit", "2"],
    ))
    .ok();
    let [clips, parts, all] = ["clip", "event", "all"].map(|name| rows(&at(name)));
    let events = events(&at("event"));
    assert_eq!((clips.len(), parts.len(), all.len()), (24, 24, 6));
    let (mut shorter, mut checked) = (0, 0);
    for (id, part) in &parts {
        let (start, end, _) = events[id];
        shorter += u32::from(end - start < 10.0);
        if let Some(clip) = all.get(id) {
            check_part(clip, part, start, end);
            checked += u32::from(end - start < 10.0);
        }
    }
    assert!(
        shorter >= 4 && checked >= 2,
        "{checked} of {shorter}: {events:?}"
    );

    // Rows of one file are equal as clips and different as events.
    let mut by_file: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
    for (id, (.., file)) in &events {
        by_file.entry(file).or_default().push(id);
    }
    let shared: Vec<_> = by_file.values().filter(|ids| ids.len() > 1).collect();
    assert_eq!(shared.len(), 2);
    for ids in shared {
        let pair = |rows: &BTreeMap<String, Row>| {
            let [one, two] =
                [0, 1].map(|i| (rows[ids[i]].mel.clone(), rows[ids[i]].frames.clone()));
            (one.0 == two.0, one.1 == two.1)
        };
        assert_eq!(pair(&clips), (true, true));
        assert_eq!(pair(&parts), (false, false));
    }
}

/// Checks that a part is exactly what the clip has between two times.
fn check_part(clip: &Row, part: &Row, start: f32, end: f32) {
    let id = &part.id;
    assert_eq!(
        (part.audio_seconds, part.video_seconds),
        (Some(end - start), Some(end - start)),
        "{id}"
    );
    let inside: Vec<usize> = (0..clip.times.len())
        .filter(|&i| (start..end).contains(&clip.times[i]))
        .collect();
    let chosen: Vec<usize> = (0..4)
        .map(|i| inside[(2 * i + 1) * inside.len() / 8])
        .collect();
    let (all, frames) = (clip.frames.as_ref().unwrap(), part.frames.as_ref().unwrap());
    assert_eq!(frames.len(), 4, "{id}");
    for (frame, &i) in frames.iter().zip(&chosen) {
        assert!(frame == &all[i], "{id}: not frame {i}");
    }
    assert_eq!(
        part.times,
        chosen.iter().map(|&i| clip.times[i]).collect::<Vec<_>>()
    );

    // 100 mel frames a second; each sees its own window alone, so that the part's are the clip's.
    let (whole, mel) = (clip.mel.as_ref().unwrap(), part.mel.as_ref().unwrap());
    assert_eq!(
        mel.len() / BINS,
        ((end - start) * 100.0) as usize - 2,
        "{id}"
    );
    let from = start as usize * 100 * BINS;
    let worst = mel
        .iter()
        .zip(&whole[from..])
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 0.02, "{id}: {worst}");
}

/// Copies the raw tree.
fn copy_tree(to: &Path) {
    for file in common::files(ave()).keys() {
        fs::create_dir_all(to.join(file.parent().unwrap())).unwrap();
        fs::copy(ave().join(file), to.join(file)).unwrap();
    }
}

/// Returns the ids that the lists have twice.
fn repeated_ids() -> Vec<String> {
    let lists = ["train", "val", "test"]
        .map(|split| fs::read_to_string(ave().join(format!("{split}Set.txt"))).unwrap());
    let mut seen = BTreeSet::new();
    let ids = lists.iter().flat_map(|list| list.lines());
    ids.map(|line| line.split('&').nth(1).unwrap().to_owned())
        .filter(|id| !seen.insert(id.clone()))
        .collect()
}

/// One of the files with two samples can be opened but not decoded, which must not make a
/// difference either.
#[test]
fn output_does_not_depend_on_workers_and_parts() {
    let folder = tempfile::tempdir().unwrap();
    let raw = &folder.path().join("raw");
    copy_tree(raw);
    let broken = &repeated_ids()[0];
    let path = raw.join(format!("AVE/{broken}.mp4"));
    let mut bytes = fs::read(&path).unwrap();
    let inside = bytes.len() / 50..bytes.len() * 8 / 10;
    bytes[inside].fill(0xab);
    fs::write(&path, bytes).unwrap();
    let at = |name: &str| folder.path().join(name);
    let go = |name: &str, flags: &[&str]| {
        let mut command = run_ave(raw, &at(name), &["--segment", "event", "--frame-pool", "3"]);
        run(command.args(["--max-failures", "100%"]).args(flags)).ok();
    };
    go("whole", &["--workers", "1"]);
    let whole = rows(&at("whole"));
    assert_eq!(whole.len(), 22);
    assert!(whole.values().all(|row| row.error.is_none()));
    let manifest = fs::read(at("whole").join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for modality in ["audio", "video"] {
        let causes = &manifest["failures"]["causes"][modality];
        assert_eq!(causes["cannot be decoded"], 2, "{causes}");
    }
    go("many", &["--workers", "4"]);
    assert_same(&at("whole"), &at("many"));
    for part in ["2/3", "0/3", "1/3"] {
        go("parts", &["--part", part]);
    }
    assert_same(&at("whole"), &at("parts"));
    // One folder cannot hold both clips and events.
    let mixed = run(&mut run_ave(raw, &at("whole"), &["--frame-pool", "3"]));
    assert!(
        mixed.error().contains("segment \"event\", now \"clip\""),
        "{mixed:?}"
    );
}

#[test]
fn event_segments_need_an_annotation_with_events() {
    let folder = tempfile::tempdir().unwrap();
    let raw = synth(folder.path(), 12);
    let outcome = run(run_crema(&raw, &folder.path().join("out")).args(["--segment", "event"]));
    assert!(outcome.error().contains("--segment event"), "{outcome:?}");
}

/// The kernel counts how often a file is opened. A file of two samples must be opened as often as
/// any other.
#[test]
fn shared_files_are_decoded_once() {
    let folder = tempfile::tempdir().unwrap();
    // A copy, because the other tests open the files of the tree.
    let raw = &folder.path().join("raw");
    copy_tree(raw);
    for segment in ["clip", "event"] {
        let out = folder.path().join(segment);
        let watch = Watch::new(&raw.join("AVE"));
        let mut command = run_ave(raw, &out, &["--segment", segment, "--frame-pool", "3"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        let opened = watch.opened();
        assert_eq!(opened.len(), 22, "{opened:?}");
        // The clip of a worker that was killed from outside is opened again. So the files with two
        // samples are compared with the least count.
        let least = opened.values().min().unwrap();
        let shared = repeated_ids();
        assert_eq!(shared.len(), 2);
        assert!(
            shared
                .iter()
                .all(|id| opened[&format!("{id}.mp4")] == *least),
            "{segment}: {opened:?}"
        );
    }
}

/// Counts how often each file of a folder is opened.
struct Watch(OwnedFd);

impl Watch {
    fn new(folder: &Path) -> Watch {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        // The kernel merges equal events in a row. Closing events between them prevent that.
        let events = WatchFlags::OPEN | WatchFlags::CLOSE;
        inotify::add_watch(&watch, folder, events).unwrap();
        Watch(watch)
    }

    fn opened(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        let mut buffer = vec![MaybeUninit::uninit(); 1 << 16];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        loop {
            match reader.next() {
                // The folder itself is opened too when it is listed. That event has no name.
                Ok(event) if event.events().contains(ReadFlags::OPEN) => {
                    if let Some(name) = event.file_name() {
                        let name = name.to_str().unwrap().to_owned();
                        *counts.entry(name).or_default() += 1;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error, Errno::WOULDBLOCK);
                    return counts;
                }
            }
        }
    }
}
