//! Files that cannot be read: each costs its modality, with the reason, whatever its size and kind;
//! only where nothing is left of many samples does the run ask for the disk.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use common::{batches, ingest, run};
use image::{Rgb, RgbImage};
use util::skip::{Missing, skip};

/// A user id without any rights, as Linux systems have it by convention.
const NOBODY: u32 = 65_534;

fn picture(path: &Path) {
    let image = RgbImage::from_pixel(32, 32, Rgb([200, 90, 20]));
    image
        .save_with_format(path, image::ImageFormat::Bmp)
        .unwrap();
}

/// Writes the description of pictures with texts. A row is (id, picture, text), and `text` the kind
/// of column: `text` or `text_file`.
fn describe(folder: &Path, text: &str, rows: &[(String, String, String)]) -> PathBuf {
    fs::create_dir_all(folder.join("raw")).unwrap();
    let mut table = "id,label,photo,words,split\n".to_owned();
    for (number, (id, photo, words)) in rows.iter().enumerate() {
        let label = ["cat", "dog"][number % 2];
        table += &format!("{id},{label},{photo},{words},train\n");
    }
    fs::write(folder.join("pets.csv"), table).unwrap();
    let toml = format!(
        "name = \"pets\"\ntable = \"pets.csv\"\nraw = \"raw\"\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\nimage = \"photo\"\n{text} = \"words\"\n"
    );
    fs::write(folder.join("pets.toml"), toml).unwrap();
    folder.join("pets.toml")
}

/// Of 120 samples with a broken picture, those with a text of their own do not count as lost.
#[test]
fn samples_of_which_something_is_left_do_not_end_a_run() {
    let cases = [
        // The text is in the table; in a file; absent.
        ("text", true, None),
        ("text_file", true, None),
        ("text", false, Some("100 samples in a row failed")),
    ];
    for (kind, has_text, error) in cases {
        let folder = tempfile::tempdir().unwrap();
        let row = |number: usize| {
            let words = match (kind, has_text) {
                (_, false) => String::new(),
                ("text", _) => format!("words of number {number}"),
                _ => "t.txt".to_owned(),
            };
            (format!("s{number:03}"), format!("p{number:03}.jpg"), words)
        };
        let rows: Vec<_> = (0..121).map(row).collect();
        let toml = describe(folder.path(), kind, &rows);
        let raw = folder.path().join("raw");
        for (_, photo, _) in &rows[..120] {
            fs::write(raw.join(photo), "<html>no picture</html>").unwrap();
        }
        picture(&raw.join("p120.jpg"));
        fs::write(raw.join("t.txt"), "some words").unwrap();
        let out = folder.path().join("out");
        let mut command = ingest();
        command
            .arg("run")
            .arg(&toml)
            .args(["--json", "--shard-rows", "50", "--out"]);
        let outcome = run(command.arg(&out));
        match error {
            Some(part) => assert!(outcome.error().contains(part), "{outcome:?}"),
            None => {
                assert_eq!(outcome.code, Some(1), "{kind}: {outcome:?}");
                let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
                let totals = &report["manifest"]["totals"]["train"];
                assert_eq!(totals["rows"], 121, "{kind}: {report}");
                assert_eq!(totals["incomplete"], 120, "{kind}: {report}");
            }
        }
    }
}

/// Returns a command for the program that runs as a user who is not root. `folder` is opened for
/// that user.
fn as_other_user(folder: &Path) -> Option<Command> {
    let program = Path::new(env!("CARGO_BIN_EXE_ingest"));
    if !rustix::process::geteuid().is_root() {
        return Some(Command::new(program));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    // The folder of the build may be closed to others.
    let copy = folder.join("ingest");
    if !copy.exists() {
        fs::copy(program, &copy).unwrap();
    }
    let mut command = Command::new(&copy);
    command.uid(NOBODY).gid(NOBODY).current_dir(folder);
    let help = Command::new(&copy)
        .uid(NOBODY)
        .gid(NOBODY)
        .arg("--help")
        .output();
    if !help.is_ok_and(|output| output.status.success()) {
        skip(
            Missing::Platform,
            "a program cannot be started as another user",
        );
        return None;
    }
    Some(command)
}

#[test]
fn files_that_cannot_be_read_are_rows_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let closed = fs::Permissions::from_mode(0o000);
    // For each picture and each text: what it is, and what its reason has to contain.
    let cases = [
        ("small", "permission denied"),
        ("large", "permission denied"),
        ("closed/inside", "permission denied"),
        ("unlisted/inside", ""),
        ("fifo", "not a regular file"),
        ("folder", "a folder"),
        ("dangling", "no such file"),
        ("looping", "symbolic links"),
        ("absent", "no such file"),
        ("good", ""),
    ];
    let row = |(name, _): &(&str, &str)| {
        let id = name.replace('/', "-");
        (id, format!("{name}.jpg"), format!("{name}.txt"))
    };
    let rows: Vec<_> = cases.iter().map(row).collect();
    let toml = describe(folder.path(), "text_file", &rows);
    for sub in ["closed", "unlisted"] {
        fs::create_dir(raw.join(sub)).unwrap();
    }
    for (name, bytes) in [
        ("small", 100),
        ("large", 5000),
        ("closed/inside", 9),
        ("unlisted/inside", 0),
        ("good", 0),
    ] {
        let (image, text) = (
            raw.join(format!("{name}.jpg")),
            raw.join(format!("{name}.txt")),
        );
        fs::write(&text, "some words\n".repeat(1 + bytes / 10)).unwrap();
        if name == "small" {
            fs::write(&image, "x".repeat(bytes)).unwrap();
        } else {
            picture(&image);
        }
        if ["small", "large"].contains(&name) {
            fs::set_permissions(&image, closed.clone()).unwrap();
            fs::set_permissions(&text, closed.clone()).unwrap();
        }
    }
    fs::set_permissions(raw.join("closed"), closed).unwrap();
    // The files of this folder can be opened, and it cannot be listed.
    fs::set_permissions(raw.join("unlisted"), fs::Permissions::from_mode(0o711)).unwrap();
    for ending in ["jpg", "txt"] {
        let path = |name: &str| raw.join(format!("{name}.{ending}"));
        let made = Command::new("mkfifo").arg(path("fifo")).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo");
        fs::create_dir(path("folder")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink(path("looping"), path("looping")).unwrap();
    }
    let Some(mut check) = as_other_user(folder.path()) else {
        return;
    };
    let report = run(check.arg("check").arg(&toml).arg("--json"));
    let mut command = as_other_user(folder.path()).unwrap();
    let out = folder.path().join("out");
    let outcome = run(command
        .arg("run")
        .arg(&toml)
        .args(["--max-failures", "100%", "--out"])
        .arg(&out));
    // The folder is removed at the end of the test.
    fs::set_permissions(raw.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(report.code, Some(1), "{report:?}");
    outcome.ok();

    let batch = &batches(&out.join("failures.parquet"))[0];
    let text = |column: &str, row: usize| {
        let cells = batch.column_by_name(column).unwrap().as_string::<i32>();
        (!cells.is_null(row)).then(|| cells.value(row).to_owned())
    };
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    let missing = report["missing"].as_array().unwrap();
    for ((id, ..), (name, reason)) in rows.iter().zip(cases) {
        let row = (0..batch.num_rows()).find(|&row| text("id", row).as_ref() == Some(id));
        if reason.is_empty() {
            assert_eq!(row, None, "{name}");
            continue;
        }
        for column in ["image_error", "text_error"] {
            let found = row.and_then(|row| text(column, row)).unwrap_or_default();
            assert!(
                found.to_lowercase().contains(reason),
                "{name}, {column}: {found:?}"
            );
        }
        // The check says the same before the run.
        assert_eq!(
            missing.iter().filter(|one| one["id"] == **id).count(),
            2,
            "{name}: {report}"
        );
    }
    assert_eq!(batch.num_rows(), cases.len() - 2);
    let rows: usize = batches(&out.join("train-00000-of-00001.parquet"))
        .iter()
        .map(|batch| batch.num_rows())
        .sum();
    assert_eq!(rows, 2);
}

/// A tree that is walked, with a folder that may not be listed: the samples in it are rows, and the
/// others are as they would be without it.
#[test]
fn a_folder_that_may_not_be_listed_costs_its_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let raw = common::synth(folder.path(), 12);
    let (wav, lost_found) = (raw.join("AudioWAV"), raw.join("lost+found"));
    fs::create_dir(&lost_found).unwrap();
    for closed in [&wav, &lost_found] {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let out = folder.path().join("out");
    let Some(mut command) = as_other_user(folder.path()) else {
        return;
    };
    let outcome = run(command
        .args([
            "run",
            "crema-d",
            "--json",
            "--max-failures",
            "100%",
            "--raw",
        ])
        .arg(&raw)
        .arg("--out")
        .arg(&out));
    let mut check = as_other_user(folder.path()).unwrap();
    let check = run(check.args(["check", "crema-d", "--raw"]).arg(&raw));
    for closed in [&wav, &lost_found] {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let report: serde_json::Value = serde_json::from_str(&outcome.ok().stdout).unwrap();
    let causes = &report["manifest"]["failures"]["causes"]["audio"];
    assert_eq!(
        causes.as_object().map(|one| one.len()),
        None,
        "the sound of the flv files is used"
    );
    assert_eq!(check.code, Some(1));
    assert!(
        check
            .stdout
            .contains("AudioWAV: this folder cannot be read (permission denied)"),
        "{check:?}"
    );
    assert!(!check.stdout.contains("lost+found"), "{check:?}");
}
