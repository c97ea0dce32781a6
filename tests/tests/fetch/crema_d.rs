//! CREMA-D: a repository whose files are pointers, and a Git LFS server that is busy, lets addresses
//! expire and has lost an object.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tests::publisher::{Answer, Request, Server};
use tests::{EXIT_DONE, EXIT_FINDINGS, run, temp};
use util::hash::sha256;

use crate::ave::FetchError;
use crate::killing::{IN_FLIGHT, Requests, assert_no_byte_twice, fetch, kill_repeatedly};
use crate::packing::{Files, assert_same_tree, check, gzip, listed, synthesize, tar};

const COMMIT: &str = datasets::sources::CREMA_D_COMMIT;
const FOLDERS: [&str; 2] = ["AudioWAV/", "VideoFlash/"];

/// The repository as GitHub packs it, with pointers in place of media; and the media by their hashes.
fn repository(files: &Files) -> (Vec<u8>, BTreeMap<String, Arc<Vec<u8>>>) {
    let mut objects = BTreeMap::new();
    let mut tree = Files::new();
    for (path, bytes) in files {
        // The split lists are those of another repository.
        if ["train.csv", "test.csv"].contains(&path.as_str()) {
            continue;
        }
        let is_media = path.starts_with("Audio") || path.starts_with("Video") && path.contains('/');
        if !is_media {
            tree.insert(path.clone(), bytes.clone());
            continue;
        }
        let oid = sha256(bytes);
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n",
            bytes.len()
        );
        tree.insert(path.clone(), pointer.into_bytes());
        objects.insert(oid, Arc::new(bytes.clone()));
    }
    (gzip(&tar(&tree, &format!("CREMA-D-{COMMIT}/"))), objects)
}

/// A server of the repository and its objects. Each third object has an address at first that has
/// expired; `lost` is an object that is gone.
struct Publisher {
    archive: Arc<Vec<u8>>,
    objects: BTreeMap<String, Arc<Vec<u8>>>,
    lists: BTreeMap<String, Arc<Vec<u8>>>,
    lost: Option<String>,
    asked: Mutex<BTreeMap<String, usize>>,
    address: OnceLock<String>,
    bytes_per_ms: usize,
}

impl Publisher {
    fn start(
        files: &Files,
        lost: Option<&str>,
        requests: &Requests,
    ) -> (Server, Vec<(String, usize)>) {
        let (archive, objects) = repository(files);
        let sizes = objects
            .iter()
            .map(|(oid, bytes)| (oid.clone(), bytes.len()));
        let sizes = sizes.collect();
        let lists =
            ["train.csv", "test.csv"].map(|name| (name.to_owned(), Arc::new(files[name].clone())));
        let publisher = Arc::new(Publisher {
            archive: Arc::new(archive),
            objects,
            lists: lists.into(),
            lost: lost.map(|path| sha256(&files[path])),
            asked: Mutex::default(),
            address: OnceLock::new(),
            bytes_per_ms: 450,
        });
        let (answers, requests) = (publisher.clone(), requests.clone());
        let server = Server::start(move |request| {
            requests.count(request);
            answers.answer(request)
        });
        publisher.address.set(server.url("")).unwrap();
        (server, sizes)
    }

    fn answer(&self, request: &Request) -> Answer {
        let path = request.path.as_str();
        if path == "/CREMA-D.git/info/lfs/objects/batch" {
            return self.batch(request);
        }
        if let Some(oid) = path.strip_prefix("/objects/") {
            if request.query.contains("expired") {
                return Answer::status(403);
            }
            assert_eq!(
                request.headers.get("x-test").map(String::as_str),
                Some("signed")
            );
            return Answer {
                bytes_per_ms: Some(self.bytes_per_ms),
                cut_after: (request.earlier == 0 && oid.starts_with(['1', '7'])).then_some(5_000),
                ..Answer::shared(self.objects[oid].clone()).header("ETag", format!("\"{oid}\""))
            };
        }
        if let Some(list) = path
            .strip_prefix("/CREMA-D/")
            .and_then(|name| self.lists.get(name))
        {
            return Answer::shared(list.clone());
        }
        if path == format!("/CREMA-D/archive/{COMMIT}.tar.gz") {
            // GitHub packs it on the way: no length, no ranges.
            return Answer {
                ranges: false,
                tell_length: false,
                bytes_per_ms: Some(self.bytes_per_ms),
                ..Answer::shared(self.archive.clone())
            };
        }
        Answer::status(404)
    }

    /// Answers as docs/api/batch.md of git-lfs describes.
    fn batch(&self, request: &Request) -> Answer {
        if request.earlier == 0 {
            return Answer::status(429).header("Retry-After", "1");
        }
        let kind = "application/vnd.git-lfs+json";
        assert_eq!(
            (request.method.as_str(), request.headers["accept"].as_str()),
            ("POST", kind)
        );
        assert!(request.headers["content-type"].starts_with(kind));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["operation"], "download");
        let objects = body["objects"].as_array().unwrap();
        assert!(objects.len() <= 100);
        let objects: Vec<Value> = objects.iter().map(|object| self.describe(object)).collect();
        Answer::file(json!({"transfer": "basic", "objects": objects}).to_string())
            .header("Content-Type", kind)
    }

    fn describe(&self, object: &Value) -> Value {
        let oid = object["oid"].as_str().unwrap();
        let error = |code: u16, message: &str| json!({"oid": oid, "size": object["size"], "error": {"code": code, "message": message}});
        if self.lost.as_deref() == Some(oid) {
            return error(404, "Object does not exist");
        }
        assert_eq!(object["size"], self.objects[oid].len());
        let mut asked = self.asked.lock().unwrap();
        let times = asked.entry(oid.to_owned()).or_default();
        *times += 1;
        if *times == 1 && oid.starts_with('3') {
            return error(503, "try again");
        }
        let expired = if *times == 1 && oid.starts_with(['0', '5', 'a']) {
            "?expired"
        } else {
            ""
        };
        let address = self.address.get().unwrap();
        json!({"oid": oid, "size": object["size"], "authenticated": true, "actions": {"download": {
            "href": format!("{address}/objects/{oid}{expired}"), "header": {"X-Test": "signed"},
            "expires_in": 3600}}})
    }
}

fn is_fetched(path: &str) -> bool {
    !path.starts_with("AudioMP3")
}

#[test]
fn media_come_from_git_lfs_and_go_on_after_every_kill() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("crema-d", 30, &synthetic);
    let requests = Requests::default();
    let (server, sizes) = Publisher::start(&files, None, &requests);
    let source = server.url("/CREMA-D");
    let start = || fetch("crema-d", &source, &raw);
    let (killed, output) = kill_repeatedly(&requests, Duration::from_millis(600), start, || ());
    assert!(killed >= 8, "{killed}");
    assert_eq!(output.json()["files"], 60);
    assert_same_tree("crema-d", &synthetic, &raw, is_fetched);
    assert_no_byte_twice_of_objects(&server, &sizes, &files);
    assert!(
        !raw.join("AudioMP3").exists(),
        "the sounds as MP3 are not fetched"
    );
    // The tables of hashes serve `check --verify`.
    let verified = run(tests::command(
        "ingest",
        ["check", "crema-d", "--verify", "--json", "--raw"],
    )
    .arg(&raw));
    let verified = verified.expect(EXIT_DONE).json();
    let right = verified["hashes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["right"].as_u64().unwrap());
    assert_eq!(right.sum::<u64>(), 60);
}

/// Of each object no byte is sent twice but what was on its way. MP3 files are not asked for.
fn assert_no_byte_twice_of_objects(server: &Server, sizes: &[(String, usize)], files: &Files) {
    let wanted = files
        .iter()
        .filter(|(path, _)| FOLDERS.iter().any(|folder| path.starts_with(folder)));
    let wanted: Vec<String> = wanted.map(|(_, bytes)| sha256(bytes)).collect();
    for (oid, size) in sizes {
        let path = format!("/objects/{oid}");
        match wanted.contains(oid) {
            true => assert_no_byte_twice(server, &path, *size, IN_FLIGHT),
            false => assert_eq!(server.bytes_of(&path), 0),
        }
    }
}

#[test]
fn missing_lfs_object_is_listed_and_the_others_are_fetched() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("crema-d", 12, &synthetic);
    let lost = files
        .keys()
        .find(|path| path.starts_with("VideoFlash"))
        .unwrap();
    let (server, _) = Publisher::start(&files, Some(lost), &Requests::default());
    let source = server.url("/CREMA-D");
    let found = run(&mut fetch("crema-d", &source, &raw))
        .expect(EXIT_FINDINGS)
        .json();
    let missing = found["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0]["what"], lost.as_str());
    assert!(missing[0]["why"].as_str().unwrap().contains("404"));
    assert!(found["by_hand"].as_str().unwrap().contains("git-lfs"));
    assert_eq!(found["files"], 23);
}

#[test]
fn a_limit_shortens_the_lists_to_what_was_fetched() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("crema-d", 24, &synthetic);
    let (server, _) = Publisher::start(&files, None, &Requests::default());
    let source = server.url("/CREMA-D");
    let fetched = run(fetch("crema-d", &source, &raw).args(["--limit", "6"]))
        .expect(EXIT_DONE)
        .json();
    assert_eq!(fetched["files"], 12);
    let (code, checked) = check("crema-d", &raw);
    assert_eq!((code, &checked["missing"]), (Some(0), &json!([])));
    assert_eq!(listed(&checked), [3, 3]);
    // Without a limit the rest follows, and the lists are whole again.
    run(&mut fetch("crema-d", &source, &raw)).expect(EXIT_DONE);
    assert_same_tree("crema-d", &synthetic, &raw, is_fetched);
    for folder in ["AudioWAV", "VideoFlash"] {
        let table = std::fs::read_to_string(raw.join(format!("lfs_pointers_{folder}.tsv")));
        assert_eq!(table.unwrap().lines().count(), 25, "{folder}");
    }
    // The whole tree is not made a small one.
    run(fetch("crema-d", &source, &raw).args(["--limit", "6"])).expect_fetch_error(&["--limit"]);
    assert_same_tree("crema-d", &synthetic, &raw, is_fetched);
}

#[test]
fn an_archive_with_media_in_place_of_pointers_is_refused() {
    let folder = temp();
    let files = synthesize("crema-d", 12, &folder.path().join("synth"));
    let archive = gzip(&tar(&files, "crema-d/"));
    let server = Server::start(move |request| match request.path.ends_with(".tar.gz") {
        true => Answer::file(archive.clone()),
        false => Answer::status(404),
    });
    let mut command = fetch(
        "crema-d",
        &server.url("/CREMA-D"),
        &folder.path().join("raw"),
    );
    run(&mut command).expect_fetch_error(&["AudioWAV/", "pointer", "by hand"]);
}

#[test]
fn a_folder_with_the_same_files_takes_the_place_of_the_server() {
    let folder = temp();
    let (synthetic, raw, mirror) = (
        folder.path().join("synth"),
        folder.path().join("raw"),
        folder.path().join("mirror"),
    );
    let files = synthesize("crema-d", 12, &synthetic);
    let (archive, objects) = repository(&files);
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write(&mirror.join(format!("archive/{COMMIT}.tar.gz")), &archive);
    for (oid, bytes) in &objects {
        write(
            &mirror
                .join("lfs/objects")
                .join(&oid[..2])
                .join(&oid[2..4])
                .join(oid),
            bytes,
        );
    }
    for list in ["train.csv", "test.csv"] {
        write(&mirror.join(list), &files[list]);
    }
    // A list that is a web page is refused, and one that is mended is taken.
    write(
        &mirror.join("train.csv"),
        b"<html><body>sign, in</body></html>",
    );
    let start = || fetch("crema-d", mirror.to_str().unwrap(), &raw);
    run(&mut start()).expect_fetch_error(&["train.csv", "no line names a clip"]);
    write(&mirror.join("train.csv"), b"1001_DFA_ANG_XX,0\n");
    run(&mut start()).expect(EXIT_DONE);
    write(&mirror.join("train.csv"), &files["train.csv"]);
    run(&mut start()).expect(EXIT_DONE);
    assert_same_tree("crema-d", &synthetic, &raw, is_fetched);
}
