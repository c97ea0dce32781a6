//! AVE: a zip behind the page with which Google Drive asks for a confirmation.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tests::publisher::{Answer, Request, Server};
use tests::{EXIT_DONE, run, temp};

use crate::killing::{IN_FLIGHT, KILLS, Requests, assert_no_byte_twice, fetch, kill_repeatedly};
use crate::packing::{Files, assert_same_tree, check, listed, synthesize, zip};

/// Answers as Google Drive does: a page first, the file at the address of its form.
fn answer(request: &Request, archive: &Arc<Vec<u8>>, bytes_per_ms: usize) -> Answer {
    match request.path.as_str() {
        "/AVE_Dataset.zip" => page(
            r#"<form id="download-form" action="/uc/download" method="get">
            <input type="submit" id="uc-download-link" value="Download anyway"/>
            <input type="hidden" name="id" value="1Fj"><input type="hidden" name="export" value="download">
            <input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b"></form>"#,
        ),
        "/uc/download" if request.query == "id=1Fj&export=download&confirm=t&uuid=a%26b" => {
            Answer {
                bytes_per_ms: Some(bytes_per_ms),
                cut_after: (request.earlier % 4 == 3).then_some(50_000),
                ..Answer::shared(archive.clone())
                    .header("Content-Type", "application/octet-stream")
                    .header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            }
        }
        _ => Answer::status(404),
    }
}

fn page(body: &str) -> Answer {
    let page = format!(
        "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>{body}</body></html>"
    );
    Answer {
        ranges: false,
        ..Answer::file(page)
    }
    .header("Content-Type", "text/html; charset=utf-8")
}

#[test]
fn the_confirm_page_is_answered_and_the_zip_goes_on_after_every_kill() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("ave", 24, &synthetic);
    let archive = Arc::new(zip(&files, "AVE_Dataset/"));
    let size = archive.len();
    let requests = Requests::default();
    let (served, counted) = (archive.clone(), requests.clone());
    let server = Server::start(move |request| {
        counted.count(request);
        answer(request, &served, size / 4_000)
    });
    let start = || fetch("ave", &server.url(""), &raw);
    let (killed, _) = kill_repeatedly(&requests, Duration::from_millis(400), start, || ());
    assert_eq!(killed, KILLS);
    assert_same_tree("ave", &synthetic, &raw, |_| true);
    assert_no_byte_twice(&server, "/uc/download", size, IN_FLIGHT);
    assert!(!raw.join(".fetch/AVE_Dataset.zip").exists() && !raw.join("AVE_Dataset.zip").exists());
    // Once more there is nothing to do.
    let before = server.sent().len();
    run(&mut fetch("ave", &server.url(""), &raw)).expect(EXIT_DONE);
    assert_eq!(server.sent().len(), before);
}

#[test]
fn an_archive_of_clips_in_the_archive_is_unpacked_too_and_a_limit_keeps_few() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("ave", 24, &synthetic);
    let (clips, mut outer): (Files, Files) = files
        .into_iter()
        .partition(|(path, _)| path.ends_with(".mp4"));
    outer.insert("AVE.zip".to_owned(), zip(&clips, ""));
    let mirror = folder.path().join("mirror");
    std::fs::create_dir(&mirror).unwrap();
    std::fs::write(mirror.join("AVE_Dataset.zip"), zip(&outer, "AVE_Dataset/")).unwrap();
    let source = mirror.to_str().unwrap();
    run(fetch("ave", source, &raw).arg("--keep-archives")).expect(EXIT_DONE);
    assert_same_tree("ave", &synthetic, &raw, |_| true);
    assert!(raw.join("AVE_Dataset.zip").is_file());
    let few = folder.path().join("few");
    run(fetch("ave", source, &few).args(["--limit", "6"])).expect(EXIT_DONE);
    let (code, checked) = check("ave", &few);
    assert_eq!((code, &checked["missing"]), (Some(0), &json!([])));
    let listed: u64 = listed(&checked).iter().sum();
    assert!((6..9).contains(&listed), "{listed}");
}

#[test]
fn zip_of_the_user_in_the_raw_folder_stays() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let archive = zip(&synthesize("ave", 24, &synthetic), "AVE_Dataset/");
    let own = raw.join("AVE_Dataset.zip");
    std::fs::create_dir(&raw).unwrap();
    // One that is cut short is named, and is the user's to remove.
    let damaged = &archive[..archive.len() - 2_000];
    std::fs::write(&own, damaged).unwrap();
    let start = || fetch("ave", "/nonexistent", &raw);
    run(&mut start()).expect_fetch_error(&["AVE_Dataset.zip", "damaged", "remove it"]);
    assert_eq!(std::fs::read(&own).unwrap(), damaged);
    std::fs::write(&own, &archive).unwrap();
    run(&mut start()).expect(EXIT_DONE);
    assert_same_tree("ave", &synthetic, &raw, |_| true);
    assert_eq!(std::fs::read(&own).unwrap(), archive);
}

#[test]
fn other_pages_than_the_confirm_page_are_named() {
    let pages = [
        (
            "Sorry, you can't view or download this file at this time. Too many users have viewed or downloaded this file recently.",
            "24 hours",
        ),
        (
            "Sorry, the file you have requested does not exist.",
            "no such file any more",
        ),
        ("something else", "is a page"),
    ];
    for (text, named) in pages {
        let folder = temp();
        let server = Server::start(move |_| page(text));
        let mut command = fetch("ave", &server.url(""), &folder.path().join("raw"));
        run(&mut command).expect_fetch_error(&[named, "drive.google.com"]);
    }
}

/// An error of a fetch, whose progress is on stderr too.
pub trait FetchError {
    /// Asserts exit code 2 and one line `error: ...` with all the words. Returns the line.
    fn expect_fetch_error(self, words: &[&str]) -> String;
}

impl FetchError for tests::CommandOutput {
    #[track_caller]
    fn expect_fetch_error(self, words: &[&str]) -> String {
        let output = self.expect(tests::EXIT_USAGE);
        let lines = output.stderr.lines().filter(|line| !line.starts_with('{'));
        let lines: Vec<&str> = lines.collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("error: "),
            "one line expected:\n{}",
            output.stderr
        );
        for word in words {
            assert!(lines[0].contains(word), "no {word:?} in: {}", lines[0]);
        }
        lines[0].to_owned()
    }
}
