//! `ingest browse` without a browser: what it writes and prints, and its errors.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use tests::{CremaD, EXIT_DONE, EXIT_USAGE, command, names, run, temp};

/// The data that all tests of this program share and none writes to.
fn data() -> &'static CremaD {
    static DATA: OnceLock<CremaD> = OnceLock::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browse");
    DATA.get_or_init(|| CremaD::shared(&folder, 36))
}

fn browse(folder: &Path, flags: &[&str]) -> Command {
    let mut browse = command("ingest", ["browse"]);
    browse.arg(data().shards()).args(flags).current_dir(folder);
    browse
}

#[test]
fn the_same_shards_give_the_same_pages() {
    let folders = [temp(), temp()];
    let pages = folders.each_ref().map(|folder| {
        let ran = run(&mut browse(folder.path(), &["--all", "--page-size", "5"])).expect(EXIT_DONE);
        assert!(
            ran.stdout.starts_with(
                "wrote browse-crema-d.html and 8 pages in browse-crema-d: 36 of 36 rows"
            ),
            "{}",
            ran.stdout
        );
        assert_eq!(
            names(folder.path()),
            ["browse-crema-d", "browse-crema-d.html"]
        );
        tests::contents(folder.path())
    });
    assert!(pages[0] == pages[1]);
    assert_eq!(pages[0].len(), 9);
}

/// Shards behind a URL, here on a web server, are shown like those on a disk.
#[test]
fn remote_shards_give_the_same_page() {
    let folder = temp();
    let port = tests::web_server::serve(&data().shards(), true);
    let url = format!("http://127.0.0.1:{port}");
    let page = |target: &str, name: &str| {
        let mut browse = command("ingest", ["browse", target, "--out", name]);
        run(browse.current_dir(folder.path())).expect(EXIT_DONE);
        fs::read_to_string(folder.path().join(name)).unwrap()
    };
    let local = data().shards().display().to_string();
    let pages = [page(&local, "local.html"), page(&url, "remote.html")];
    assert!(pages[1].contains(&url));
    assert!(pages[0].replace(&local, "") == pages[1].replace(&url, ""));
}

#[test]
fn dry_runs_write_nothing() {
    let folder = temp();
    for flags in [&["--dry-run"][..], &["--dry-run", "--all"]] {
        let text = run(&mut browse(folder.path(), flags))
            .expect(EXIT_DONE)
            .stdout;
        assert!(
            text.starts_with("would write browse-crema-d.html"),
            "{text}"
        );
        let mut json = browse(folder.path(), flags);
        let json = run(json.arg("--json")).expect(EXIT_DONE).json();
        assert_eq!(
            (&json["written"], &json["rows"]),
            (&json!(false), &json!(36))
        );
        assert!(names(folder.path()).is_empty());
    }
}

#[test]
fn every_class_of_every_split_has_samples() {
    let folder = temp();
    let mut browse = browse(
        folder.path(),
        &["--per-class", "2", "--out", "page.html", "--json"],
    );
    let written = run(&mut browse).expect(EXIT_DONE).json();
    // Six classes, two splits.
    assert_eq!(written["samples"], json!(24));
    let html = fs::read_to_string(folder.path().join("page.html")).unwrap();
    for split in ["train", "test"] {
        for class in 0..6 {
            let card = format!("data-split=\"{split}\" data-labels=\"{class}\"");
            assert_eq!(html.matches(&card).count(), 2, "{card}");
        }
    }
    assert_eq!(written["bytes"], json!(html.len()));
    assert!(!html.contains("<audio"));
}

#[test]
fn a_file_without_sound_costs_its_own_player() {
    let folder = temp();
    let raw = folder.path().join("raw");
    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &target),
                false => drop(fs::copy(entry.path(), target).unwrap()),
            }
        }
    }
    copy(&data().raw(), &raw);
    let sounds = raw.join("AudioWAV");
    let [first, second] = [0, 1].map(|i| sounds.join(&names(&sounds)[i]));
    fs::write(&first, "no sound at all, but some bytes").unwrap();
    fs::remove_file(&second).unwrap();
    let flags = ["--all", "--json", "--raw", "raw"];
    let written = run(&mut browse(folder.path(), &flags))
        .expect(EXIT_DONE)
        .json();
    let pages = fs::read_dir(folder.path().join("browse-crema-d")).unwrap();
    let html: String = pages
        .map(|page| fs::read_to_string(page.unwrap().path()).unwrap())
        .collect();
    let reasons = html.matches("no sound: ").count() as u64;
    let heard = written["sounds"].as_u64().unwrap();
    assert_eq!(html.matches("<audio").count() as u64, heard);
    assert_eq!(reasons + heard, 36);
    // The sound of a clip is in its video too, so a missing file need not be a loss.
    assert!(reasons <= 2, "{reasons}");
    assert_eq!(
        html.matches("data:audio/mpeg;base64,").count() as u64,
        heard
    );
    let bytes = written["sound_bytes"].as_u64().unwrap();
    assert!((1_000 * heard..20_000 * heard).contains(&bytes), "{bytes}");
}

#[test]
fn unusable_shards_and_flags_are_usage_errors() {
    let folder = temp();
    let refused = |flags: &[&str], words: &[&str]| {
        run(&mut browse(folder.path(), flags)).expect_usage(words);
    };
    refused(&["--per-class", "0"], &["--per-class"]);
    refused(&["--page-size", "10"], &["--all"]);
    refused(&["--all", "--out", "page"], &["page", ".html"]);
    refused(&["--raw", "no-such-folder"], &["no-such-folder"]);
    fs::write(folder.path().join("file"), "").unwrap();
    refused(&["--out", "file/page.html"], &["file", "--out"]);
    let shards = folder.path().join("shards");
    fs::create_dir(&shards).unwrap();
    let of = |target: &str| {
        let mut browse = command("ingest", ["browse", target]);
        browse.current_dir(folder.path());
        browse
    };
    run(&mut of("shards")).expect_usage(&["shards", "no shards"]);
    run(&mut of("no/such/shards")).expect_usage(&["no/such/shards"]);
    for name in names(&data().shards())
        .iter()
        .filter(|name| name.ends_with(".parquet"))
    {
        fs::copy(data().shards().join(name), shards.join(name)).unwrap();
    }
    let failures = fs::read(shards.join("failures.parquet")).unwrap();
    fs::write(shards.join("failures.parquet"), "PAR1").unwrap();
    run(&mut of("shards")).expect_usage(&["failures.parquet"]);
    fs::write(shards.join("failures.parquet"), failures).unwrap();
    let shard = shards.join("train-00000-of-00001.parquet");
    let mut bytes = fs::read(&shard).unwrap();
    let quarter = bytes.len() / 4;
    bytes[quarter..2 * quarter].fill(0x55);
    fs::write(&shard, &bytes).unwrap();
    // Found when its samples are read, after the first line of progress.
    let damaged = run(of("shards").arg("--all")).expect(EXIT_USAGE);
    let error = damaged.stderr.lines().last().unwrap();
    assert!(
        error.starts_with("error: ") && error.contains("train-00000-of-00001.parquet"),
        "{error}"
    );
    fs::write(&shard, &bytes[..quarter]).unwrap();
    run(&mut of("shards")).expect_usage(&["train-00000-of-00001.parquet"]);
}

#[test]
fn help_has_an_example() {
    let help = run(&mut command("ingest", ["browse", "--help"]))
        .expect(EXIT_DONE)
        .stdout;
    assert!(help.contains("Examples:"), "{help}");
}
