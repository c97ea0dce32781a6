//! Downloads from a server on loopback that breaks, stalls, refuses and changes its files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fetch::{
    Client, Download, Error, Kind, Limits, Progress, Redirects, Request, Stream, download,
    part_path,
};
use tests::publisher::{Answer, Server};
use tests::temp;
use util::hash::sha256;

/// Limits with pauses that a test can wait for.
fn limits() -> Limits {
    Limits {
        attempts: 4,
        first_attempts: 2,
        stall: Duration::from_millis(500),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
    }
}

fn client() -> Client {
    Client::new(limits()).unwrap()
}

/// Bytes without a pattern that a shifted copy would share.
fn content(length: usize) -> Vec<u8> {
    let bytes =
        (0..length.div_ceil(4) as u32).flat_map(|i| i.wrapping_mul(0x9E37_79B9).to_le_bytes());
    bytes.take(length).collect()
}

/// Fetches a file with what is known of it.
fn fetch(url: String, path: &Path, size: Option<u64>, sha256: Option<&str>) -> Result<u64, Error> {
    let progress = Progress::start("test", size);
    let wanted = Download {
        request: Request::get(url),
        path,
        size,
        sha256,
    };
    download(&client(), &wanted, &progress.transfer("file"))
}

#[test]
fn a_broken_connection_goes_on_with_the_next_byte() {
    let bytes = Arc::new(content(100_000));
    let body = bytes.clone();
    let server = Server::start(move |request| Answer {
        // The first three answers break.
        cut_after: [Some(10_000), Some(0), Some(70_001)]
            .get(request.earlier)
            .copied()
            .flatten(),
        ..Answer::shared(body.clone()).header("ETag", "\"1\"")
    });
    let folder = temp();
    let path = folder.path().join("sub/file");
    assert_eq!(fetch(server.url("/f"), &path, None, None).unwrap(), 100_000);
    assert_eq!(fs::read(&path).unwrap(), *bytes);
    assert_eq!(server.bytes_of("/f"), 100_000, "no byte is sent twice");
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing is left beside the file: {names:?}");
}

#[test]
fn a_download_goes_on_where_another_process_was_killed() {
    let bytes = content(50_000);
    let hash = sha256(&bytes);
    let body = bytes.clone();
    let server = Server::start(move |_| Answer::file(body.clone()));
    let folder = temp();
    let path = folder.path().join("file");
    fs::write(part_path(&path), &bytes[..30_000]).unwrap();
    fetch(server.url("/f"), &path, Some(50_000), Some(&hash)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(server.bytes_of("/f"), 20_000);
    // A file that is complete is not asked for.
    fetch(server.url("/f"), &path, Some(50_000), Some(&hash)).unwrap();
    assert_eq!(server.sent().len(), 1);
}

#[test]
fn a_complete_part_is_checked_without_a_request() {
    let bytes = content(5_000);
    let server = Server::start(|_| Answer::status(500));
    let folder = temp();
    let path = folder.path().join("file");
    fs::write(part_path(&path), &bytes).unwrap();
    fetch(server.url("/f"), &path, Some(5_000), Some(&sha256(&bytes))).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(server.sent().len(), 0);
}

#[test]
fn a_damaged_part_is_fetched_once_more_from_its_beginning() {
    let bytes = content(50_000);
    let body = bytes.clone();
    let server = Server::start(move |_| Answer::file(body.clone()));
    let folder = temp();
    let path = folder.path().join("file");
    fs::write(part_path(&path), vec![0; 30_000]).unwrap();
    fetch(server.url("/f"), &path, Some(50_000), Some(&sha256(&bytes))).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(server.bytes_of("/f"), 70_000);
}

#[test]
fn bytes_of_two_versions_are_not_mixed() {
    let versions = [content(60_000), vec![7; 60_000]];
    let (old, new) = (versions[0].clone(), versions[1].clone());
    let server = Server::start(move |request| match request.earlier {
        0 => Answer {
            cut_after: Some(20_000),
            ..Answer::file(old.clone()).header("ETag", "\"old\"")
        },
        _ => Answer::file(new.clone()).header("ETag", "\"new\""),
    });
    let folder = temp();
    let path = folder.path().join("file");
    // Within one call the change is an error, and nothing of the old version is left.
    let error = fetch(server.url("/f"), &path, None, None).unwrap_err();
    assert_eq!(error.kind, Kind::Changed, "{error}");
    assert!(!path.exists() && !part_path(&path).exists());
    fetch(server.url("/f"), &path, None, None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), versions[1]);
}

#[test]
fn a_part_of_an_older_version_is_replaced() {
    let old = content(60_000);
    let server = Server::start(move |request| match request.earlier {
        0 => Answer {
            stall_after: Some(20_000),
            ..Answer::file(old.clone()).header("ETag", "\"old\"")
        },
        1..=3 => Answer::status(503),
        _ => Answer::file(vec![7; 60_000]).header("ETag", "\"new\""),
    });
    let folder = temp();
    let path = folder.path().join("file");
    // The first call receives a part and gives up.
    let error = fetch(server.url("/f"), &path, None, None).unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert_eq!(fs::metadata(part_path(&path)).unwrap().len(), 20_000);
    fetch(server.url("/f"), &path, None, None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![7; 60_000]);
}

#[test]
fn a_server_without_ranges_sends_the_beginning_again() {
    let bytes = content(40_000);
    let body = bytes.clone();
    let server = Server::start(move |request| Answer {
        ranges: false,
        cut_after: (request.earlier == 0).then_some(15_000),
        ..Answer::file(body.clone())
    });
    let folder = temp();
    let path = folder.path().join("file");
    fetch(server.url("/f"), &path, None, None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(server.bytes_of("/f"), 55_000);
}

#[test]
fn a_stalled_connection_is_given_up_and_repeated() {
    let bytes = content(40_000);
    let body = bytes.clone();
    let server = Server::start(move |request| Answer {
        stall_after: (request.earlier == 0).then_some(15_000),
        ..Answer::file(body.clone())
    });
    let folder = temp();
    let path = folder.path().join("file");
    fetch(server.url("/f"), &path, None, None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(server.bytes_of("/f"), 40_000);
}

#[test]
fn retry_after_is_waited_for() {
    let server = Server::start(|request| match request.earlier {
        0 => Answer::status(429).header("Retry-After", "1"),
        _ => Answer::file("done"),
    });
    let start = Instant::now();
    let text = client().text(&Request::get(server.url("/f")), 100).unwrap();
    assert_eq!(text, "done");
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_retry_after_of_nothing_does_not_use_up_the_attempts_at_once() {
    let server = Server::start(|_| Answer::status(503).header("Retry-After", "0"));
    let limits = Limits {
        first_pause: Duration::from_millis(200),
        longest_pause: Duration::from_millis(200),
        ..limits()
    };
    let client = Client::new(limits).unwrap();
    let start = Instant::now();
    let error = client.text(&Request::get(server.url("/f")), 100);
    assert!(error.is_err_and(|error| error.is_temporary()));
    // Three pauses, each shortened by a half at most.
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn temporary_errors_are_repeated_and_others_are_not() {
    for (status, kind, requests) in [
        (503, Kind::Temporary(None), 4),
        (429, Kind::Temporary(None), 4),
        (401, Kind::Denied, 1),
        (403, Kind::Denied, 1),
        (404, Kind::NotFound, 1),
        (410, Kind::NotFound, 1),
        (400, Kind::Refused, 1),
    ] {
        let server = Server::start(move |_| Answer::status(status));
        let error = client()
            .text(&Request::get(server.url("/f?secret=1")), 100)
            .unwrap_err();
        assert_eq!(
            (error.kind, server.sent().len()),
            (kind, requests),
            "{status}"
        );
        let message = error.to_string();
        assert!(message.starts_with(&server.url("/f: ")), "{message}");
        assert!(message.contains(&status.to_string()), "{message}");
        assert!(
            !message.contains("secret"),
            "a query may hold a signature: {message}"
        );
    }
}

#[test]
fn wrong_sizes_and_sums_leave_no_file() {
    let server = Server::start(|_| Answer::file(content(1000)));
    let folder = temp();
    let path = folder.path().join("file");
    let error = fetch(server.url("/f"), &path, Some(999), None).unwrap_err();
    assert_eq!(error.kind, Kind::Mismatch, "{error}");
    let error = fetch(server.url("/f"), &path, None, Some(&sha256(b"other"))).unwrap_err();
    assert_eq!(error.kind, Kind::Mismatch, "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    // A port that nothing listens on, because its listener is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = client()
        .text(&Request::get(format!("http://127.0.0.1:{port}/f")), 100)
        .unwrap_err();
    assert!(error.is_temporary());
    let message = error.to_string();
    assert!(
        message.contains("cannot be reached; given up after 2 attempts"),
        "{message}"
    );
}

#[test]
fn a_server_that_has_answered_is_tried_more_often() {
    let server = Server::start(|request| match request.earlier {
        0 => Answer::file("there"),
        // The connection breaks before the first byte, as that of a server that is gone.
        _ => Answer {
            cut_after: Some(0),
            ..Answer::file("there")
        },
    });
    let client = client();
    client.text(&Request::get(server.url("/f")), 100).unwrap();
    let request = Request::get(server.url("/f"));
    let error = client.text(&request, 100).unwrap_err().to_string();
    assert!(error.contains("given up after 4 attempts"), "{error}");
}

#[test]
fn a_token_is_not_sent_to_another_server() {
    let other = Server::start(|request| {
        assert!(!request.headers.contains_key("authorization"));
        Answer::file("there")
    });
    let to = other.url("/f").replace("127.0.0.1", "localhost");
    let server = Server::start(move |request| {
        assert_eq!(request.headers["authorization"], "Bearer t");
        match request.path.as_str() {
            "/f" => Answer::redirect(307, "/g"),
            _ => Answer::redirect(302, &to),
        }
    });
    let request = Request::get(server.url("/f")).header("authorization", "Bearer t");
    assert_eq!(client().text(&request, 100).unwrap(), "there");
    let request = Request {
        redirects: Redirects::None,
        ..request
    };
    let response = client().head(&request).unwrap();
    assert_eq!(response.status(), 307);
    assert_eq!(response.header("location"), Some("/g"));
}

#[test]
fn a_stream_starts_at_any_byte() {
    let bytes = content(9_000);
    let body = bytes.clone();
    let server = Server::start(move |_| Answer::file(body.clone()));
    let client = client();
    for start in [0, 1, 8_999, 9_000] {
        let request = Request::get(server.url("/f"));
        let mut stream = Stream::open(&client, request, start, None).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, bytes[start as usize..]);
        assert_eq!(stream.total(), Some(9_000));
    }
    let error = Stream::open(&client, Request::get(server.url("/f")), 9_001, None)
        .err()
        .unwrap();
    assert_eq!(error.kind, Kind::Changed);
}

#[test]
fn long_answers_are_not_read_into_memory() {
    let server = Server::start(|_| Answer::file(content(1001)));
    let request = Request::get(server.url("/f"));
    let error = client().text(&request, 1000).unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
}

#[test]
fn many_threads_share_a_client() {
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let server = Server::start(|request| Answer::file(request.path.clone().repeat(1000)));
    let client = client();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                let path = format!("/{i}");
                let text = client
                    .text(&Request::get(server.url(&path)), 10_000)
                    .unwrap();
                assert_eq!(text, path.repeat(1000));
                MOST.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(MOST.load(Ordering::Relaxed), 8);
}
