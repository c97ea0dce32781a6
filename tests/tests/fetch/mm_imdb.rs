//! MM-IMDb: a tar.gz of 1,000 members, unpacked while it is fetched.

use std::sync::Arc;
use std::time::Duration;

use tests::publisher::{Answer, Server};
use tests::temp;

use crate::ave::FetchError;
use crate::killing::{Records, Requests, assert_no_byte_twice, fetch, kill_repeatedly, repeated};
use crate::packing::{assert_same_tree, gzip, largest, synthesize, tar};

/// The archive's record, and its path on the server.
const RECORD: (&str, &str) = ("mmimdb.tar.gz", "/mmimdb.tar.gz");

/// A server of the archive that breaks connections and is busy now and then.
fn serve(archive: Vec<u8>, requests: &Requests, bytes_per_ms: usize) -> Server {
    let archive = Arc::new(archive);
    let requests = requests.clone();
    Server::start(move |request| {
        requests.count(request);
        if request.path != "/mmimdb.tar.gz" {
            return Answer::status(404);
        }
        match request.earlier {
            1 => Answer::status(429).header("Retry-After", "0"),
            5 => Answer::status(503),
            earlier => Answer {
                bytes_per_ms: Some(bytes_per_ms),
                // Every third connection dies somewhere.
                cut_after: (earlier % 3 == 0).then_some(earlier * 7_919 % 100_000 + 20_000),
                ..Answer::shared(archive.clone()).header("ETag", "\"v1\"")
            },
        }
    })
}

#[test]
fn a_tar_gz_of_a_thousand_members_goes_on_after_every_kill() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("mm-imdb", 500, &synthetic);
    assert!(files.len() > 1_000, "{}", files.len());
    let archive = gzip(&tar(&files, "mmimdb/"));
    let size = archive.len();
    let requests = Requests::default();
    let server = serve(archive, &requests, size / 5_000);
    let mut records = Records::watch(&server, &raw, &[RECORD]);
    let start = || fetch("mm-imdb", &server.url(""), &raw);
    let (killed, _) = kill_repeatedly(&requests, Duration::from_millis(800), start, || {
        records.note();
    });
    assert_eq!(killed, crate::killing::KILLS);
    assert!(records.assert_exact() > 5);
    assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
    assert_no_byte_twice(
        &server,
        "/mmimdb.tar.gz",
        size,
        repeated(size, largest(&files)),
    );
    // Once more there is nothing to do.
    let before = server.sent().len();
    let again = tests::run(&mut fetch("mm-imdb", &server.url(""), &raw))
        .expect(0)
        .json();
    assert_eq!(again["files"], files.len());
    assert_eq!(server.sent().len(), before);
}

#[test]
fn a_plain_tar_goes_on_at_its_last_member() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("mm-imdb", 160, &synthetic);
    let archive = tar(&files, "mmimdb/");
    let size = archive.len();
    let requests = Requests::default();
    let server = serve(archive, &requests, size / 3_000);
    let mut records = Records::watch(&server, &raw, &[RECORD]);
    let start = || fetch("mm-imdb", &server.url(""), &raw);
    let (killed, _) = kill_repeatedly(&requests, Duration::from_millis(500), start, || {
        records.note();
    });
    assert!(killed > 5, "{killed}");
    assert!(records.assert_exact() > 3);
    assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
    assert_no_byte_twice(
        &server,
        "/mmimdb.tar.gz",
        size,
        repeated(size, largest(&files)),
    );
}

#[test]
fn changed_archive_is_fetched_from_its_beginning() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("mm-imdb", 24, &synthetic);
    let first = Arc::new(gzip(&tar(&files, "mmimdb/")));
    // The second version has the films under other names of folders.
    let second = Arc::new(gzip(&tar(&files, "other/")));
    let size = first.len();
    let server = Server::start(move |request| match request.earlier {
        0 => Answer {
            stall_after: Some(size / 2),
            ..Answer::shared(first.clone()).header("ETag", "\"v1\"")
        },
        _ => Answer::shared(second.clone()).header("ETag", "\"v2\""),
    });
    let begin = std::time::Instant::now();
    let record = raw.join(".fetch/mmimdb.tar.gz.json");
    let ended = tests::kill_when(&mut fetch("mm-imdb", &server.url(""), &raw), || {
        record.is_file() && begin.elapsed() > Duration::from_secs(2)
    });
    assert!(!ended);
    tests::run(&mut fetch("mm-imdb", &server.url(""), &raw)).expect(0);
    assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
    let old = std::fs::read_dir(raw.join("mmimdb/dataset"));
    assert!(!old.is_ok_and(|mut entries| entries.next().is_some()));
}

#[test]
fn limited_fetch_stops_early_with_a_complete_tree() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("mm-imdb", 100, &synthetic);
    let is_split = |(path, _): &(&String, &Vec<u8>)| *path == "split.json";
    let ordered = files.iter().filter(is_split);
    let ordered = ordered.chain(files.iter().filter(|file| !is_split(file)));
    let archive = gzip(&tar(ordered, "mmimdb/"));
    let size = archive.len();
    let requests = Requests::default();
    let server = serve(archive, &requests, size / 1_500);
    let mut command = fetch("mm-imdb", &server.url(""), &raw);
    tests::run(command.args(["--limit", "10"])).expect(0);
    let (code, checked) = crate::packing::check("mm-imdb", &raw);
    assert_eq!(checked["missing"], serde_json::json!([]));
    let splits = checked["splits"].as_array().unwrap();
    let listed: u64 = splits
        .iter()
        .map(|split| split["listed"].as_u64().unwrap())
        .sum();
    assert_eq!(listed, 10);
    // A split of which the ten films have none is named.
    assert!(code.is_some_and(|code| code < 2), "{code:?}");
    assert!(server.bytes_of("/mmimdb.tar.gz") < size / 2);
}

#[test]
fn interrupted_archive_is_not_restarted_at_another_source() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("mm-imdb", 40, &synthetic);
    let archive = Arc::new(gzip(&tar(&files, "mmimdb/")));
    let size = archive.len();
    let server = Server::start(
        move |request| match (request.path.as_str(), request.earlier) {
            ("/a/mmimdb.tar.gz", 0) => Answer {
                stall_after: Some(size / 2),
                ..Answer::shared(archive.clone())
            },
            // For a while it has nothing.
            ("/a/mmimdb.tar.gz", 1) => Answer::status(404),
            _ => Answer::shared(archive.clone()),
        },
    );
    let start = || {
        let mut command = fetch("mm-imdb", &server.url("/a"), &raw);
        command.args(["--source", &server.url("/b")]);
        command
    };
    let record = raw.join(".fetch/mmimdb.tar.gz.json");
    let begin = std::time::Instant::now();
    let ended = tests::kill_when(&mut start(), || {
        record.is_file() && begin.elapsed() > Duration::from_secs(2)
    });
    assert!(!ended);
    tests::run(&mut start()).expect_fetch_error(&["/a/mmimdb.tar.gz", "404"]);
    assert!(record.is_file(), "what was fetched is kept");
    tests::run(&mut start()).expect(0);
    assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
    assert_eq!(server.bytes_of("/b/mmimdb.tar.gz"), 0);
    let last = server.sent().pop().unwrap();
    assert!(last.start > size / 4, "{}", last.start);
}

#[test]
fn an_archive_without_split_file_is_fetched_again() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("mm-imdb", 24, &synthetic);
    let films = files.iter().filter(|(path, _)| *path != "split.json");
    let (incomplete, whole) = (
        Arc::new(gzip(&tar(films, "mmimdb/"))),
        Arc::new(gzip(&tar(&files, "mmimdb/"))),
    );
    let server = Server::start(move |request| match request.earlier {
        0 => Answer::file(""),
        1 => Answer::shared(incomplete.clone()),
        _ => Answer::shared(whole.clone()),
    });
    let start = || fetch("mm-imdb", &server.url(""), &raw);
    // Films that were unpacked by hand would be read in place of those that are fetched.
    std::fs::create_dir_all(raw.join("dataset")).unwrap();
    let warned = tests::run(&mut start());
    assert!(
        warned.stderr.contains("unpacked by hand"),
        "{}",
        warned.stderr
    );
    warned.expect_fetch_error(&["cut short"]);
    std::fs::remove_dir(raw.join("dataset")).unwrap();
    tests::run(&mut start()).expect_fetch_error(&["no split.json", "--source"]);
    tests::run(&mut start()).expect(0);
    assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
    let before = server.sent().len();
    tests::run(start().args(["--limit", "6"])).expect_fetch_error(&["without a limit", "--raw"]);
    tests::run(&mut start()).expect(0);
    assert_same_tree("mm-imdb", &synthetic, &raw, |_| true);
    assert_eq!(server.sent().len(), before);
}
