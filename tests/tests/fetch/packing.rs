//! Synthetic raw trees, and archives of them as the publishers pack them.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tests::{EXIT_DONE, command, contents, run};
use zip::write::SimpleFileOptions;

/// The files of a tree, by their paths.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Makes a synthetic raw tree and returns its files.
pub fn synthesize(dataset: &str, samples: usize, folder: &Path) -> Files {
    let samples = samples.to_string();
    let arguments = [
        "synth",
        dataset,
        "--samples",
        &samples,
        "--seed",
        "5",
        "--out",
    ];
    run(command("ingest", arguments).arg(folder)).expect(EXIT_DONE);
    let files = contents(folder).into_iter();
    let files = files.map(|(path, bytes)| (path.to_str().unwrap().to_owned(), bytes));
    files.filter(|(path, _)| path != "synth.json").collect()
}

/// Packs a tar, each member below `folder`, in the given order.
pub fn tar<'a>(
    files: impl IntoIterator<Item = (&'a String, &'a Vec<u8>)>,
    folder: &str,
) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    if !folder.is_empty() {
        builder.append_data(&mut header, folder, &[][..]).unwrap();
    }
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("{folder}{path}"), &bytes[..])
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// Compresses by gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Packs a zip.
pub fn zip(files: &Files, folder: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in files {
        let options = SimpleFileOptions::default();
        writer
            .start_file(format!("{folder}{path}"), options)
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The size of the largest file in bytes.
pub fn largest(files: &Files) -> usize {
    files.values().map(Vec::len).max().unwrap()
}

/// What `ingest check` says of a tree: its exit code, and what does not depend on the place of the tree.
pub fn check(dataset: &str, raw: &Path) -> (Option<i32>, Value) {
    let checked = run(command("ingest", ["check", dataset, "--json", "--raw"]).arg(raw));
    let json = checked.json();
    let parts = ["splits", "classes", "missing", "suspects", "modalities"];
    let parts = parts.map(|part| (part.to_owned(), json[part].clone()));
    let parts: serde_json::Map<String, Value> = parts.into_iter().collect();
    (checked.status.code(), parts.into())
}

/// How many samples of each split the lists of a checked tree name.
pub fn listed(checked: &Value) -> Vec<u64> {
    let splits = checked["splits"].as_array().unwrap().iter();
    splits
        .map(|split| split["listed"].as_u64().unwrap())
        .collect()
}

/// Asserts that a fetched tree has the same result of `check` as the synthetic one, and the same files.
#[track_caller]
pub fn assert_same_tree(
    dataset: &str,
    synthetic: &Path,
    raw: &Path,
    is_fetched: impl Fn(&str) -> bool,
) {
    let (found, expected) = (check(dataset, raw), check(dataset, synthetic));
    // The whole reports are too long to read.
    assert_eq!(
        (found.0, &found.1["missing"]),
        (expected.0, &expected.1["missing"])
    );
    assert!(found.1 == expected.1, "the reports of `check` differ");
    let fetched = contents(raw);
    for (path, bytes) in contents(synthetic) {
        let name = path.to_str().unwrap();
        if name == "synth.json" || !is_fetched(name) {
            continue;
        }
        let same = fetched
            .iter()
            .any(|(place, content)| place.ends_with(&path) && *content == bytes);
        assert!(same, "{name} is missing or differs");
    }
}
