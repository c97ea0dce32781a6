//! The command line of `fetch`: what is said beforehand, licences, wrong usage.

use tests::publisher::{Answer, Server};
use tests::{EXIT_DONE, command, run, temp};

use crate::ave::FetchError;
use crate::killing::fetch;

#[test]
fn one_line_beforehand_names_size_place_and_licence() {
    let sizes = [
        ("crema-d", "GB"),
        ("kinetics-sound", "GB"),
        ("ave", "GB"),
        ("mm-imdb", "GB"),
        ("food-101", "GB"),
    ];
    for (dataset, unit) in sizes {
        let planned = run(&mut command(
            "fetch",
            [dataset, "--dry-run", "--raw", "/nowhere/raw"],
        ));
        let planned = planned.expect(EXIT_DONE);
        assert_eq!(planned.stdout.lines().count(), 1);
        for word in [dataset, unit, "/nowhere/raw", "licence:", "://"] {
            assert!(planned.stdout.contains(word), "{word}: {}", planned.stdout);
        }
        assert_eq!(planned.stderr, "");
    }
    let json = run(&mut command("fetch", ["ave", "--dry-run", "--json"]))
        .expect(EXIT_DONE)
        .json();
    assert_eq!(json["dataset"], "ave");
}

#[test]
fn a_licence_has_to_be_accepted_before_anything_is_sent() {
    let folder = temp();
    let server = Server::start(|_| Answer::status(500));
    let raw = folder.path().join("raw");
    for (dataset, licence) in [("crema-d", "ODbL"), ("kinetics-sound", "CC BY 4.0")] {
        let mut command = command("fetch", [dataset, "--source", &server.url(""), "--raw"]);
        run(command.arg(&raw)).expect_usage(&[licence, "--accept-licence"]);
    }
    assert!(!raw.exists());
    assert_eq!(server.sent().len(), 0);
}

#[test]
fn wrong_usage_is_one_line() {
    let usage = |arguments: &[&str], words: &[&str]| {
        run(&mut command("fetch", arguments)).expect_usage(words);
    };
    usage(&["mine.toml"], &["mine.toml", "your own data"]);
    usage(&["cremad"], &["did you mean \"crema-d\""]);
    usage(
        &["ave", "--from", "kaggle"],
        &["--from kaggle", "ave has one source"],
    );
    usage(&["food-101", "--from", "mars"], &["publisher, kaggle"]);
    usage(&["ave", "--limit", "0"], &["--limit"]);
    usage(&[], &["DATASET"]);
    let folder = temp();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mut command = command("fetch", ["ave", "--source", "/nowhere", "--raw"]);
    run(command.arg(&file)).expect_usage(&["file", "--raw"]);
}

#[test]
fn a_source_without_the_file_is_named_and_the_next_one_is_tried() {
    let folder = temp();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let raw = folder.path().join("raw");
    let mut command = fetch("mm-imdb", empty.to_str().unwrap(), &raw);
    run(&mut command).expect_fetch_error(&["empty/mmimdb.tar.gz", "no such file"]);

    let synthetic = folder.path().join("synth");
    let files = crate::packing::synthesize("mm-imdb", 24, &synthetic);
    let full = folder.path().join("full");
    std::fs::create_dir(&full).unwrap();
    let archive = crate::packing::gzip(&crate::packing::tar(&files, "mmimdb/"));
    std::fs::write(full.join("mmimdb.tar.gz"), archive).unwrap();
    let mut command = fetch("mm-imdb", empty.to_str().unwrap(), &raw);
    run(command.arg("--source").arg(&full)).expect(EXIT_DONE);
    crate::packing::assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
}

#[test]
fn two_fetches_do_not_write_to_one_folder() {
    let folder = temp();
    let raw = folder.path().join("raw");
    let server = Server::start(|_| Answer {
        stall_after: Some(10),
        ..Answer::file(vec![0; 1_000])
    });
    let lock = raw.join(".fetch/lock");
    let first = || fetch("mm-imdb", &server.url(""), &raw);
    let ended = tests::kill_when(&mut first(), || {
        let is_held = std::fs::read_to_string(&lock).is_ok_and(|text| !text.is_empty());
        if is_held {
            run(&mut first()).expect_fetch_error(&["another fetch", "process"]);
        }
        is_held
    });
    assert!(!ended);
}
