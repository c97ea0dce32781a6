//! Kinetics-Sound: few clips out of the many archives of Kinetics-400, which never lie on the disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tests::publisher::{Answer, Server};
use tests::{EXIT_DONE, EXIT_FINDINGS, contents, run, temp};

use crate::killing::{Records, Requests, assert_no_byte_twice, fetch, kill_repeatedly, repeated};
use crate::packing::{Files, assert_same_tree, check, gzip, largest, listed, synthesize, tar};

const REPLACEMENTS: &str = "replacement_for_corrupted_k400";

/// The publisher's files: lists of archives, archives with clips of other classes too, one of which
/// is a `.tar` under the name of a `.tar.gz`, and the replacements.
fn publish(files: &Files) -> BTreeMap<String, Arc<Vec<u8>>> {
    let mut published: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut tables = [String::new(), String::new()];
    for (split, table) in ["train", "test"].into_iter().zip(&mut tables) {
        let clips: Vec<(&String, &Vec<u8>)> = files
            .iter()
            .filter(|(path, _)| path.starts_with(&format!("{split}/")))
            .collect();
        *table += "label,youtube_id,time_start,time_end,split,is_cc\n";
        let mut list = String::new();
        for (number, clips) in clips.chunks(clips.len().div_ceil(3)).enumerate() {
            let mut part = Files::new();
            for (path, bytes) in clips {
                let name = path.rsplit('/').next().unwrap();
                part.insert(name.to_owned(), bytes.to_vec());
                let (id, start) = (&name[..11], name[12..18].parse::<u32>().unwrap());
                *table += &format!("\"playing drums\",{id},{start},{},{split},0\n", start + 10);
                // A clip of another class, and one of the same video that starts at another time.
                let other: String = id.chars().rev().collect();
                part.insert(format!("{other}_000001_000011.mp4"), bytes.to_vec());
                *table += &format!("abseiling,{other},1,11,{split},0\n");
                part.insert(format!("{id}_900000_900010.mp4"), vec![1; 999]);
            }
            let plain = tar(&part, "./");
            let packed = if number == 1 { plain } else { gzip(&plain) };
            published.insert(format!("/{split}/part_{number}.tar.gz"), packed);
            // With Windows' line ends, as lists have that were edited there.
            list +=
                &format!("https://s3.amazonaws.com/kinetics/400/{split}/part_{number}.tar.gz\r\n");
        }
        published.insert(format!("/{split}/k400_{split}_path.txt"), list.into_bytes());
    }
    let replacements: Files = files
        .iter()
        .filter(|(path, _)| path.starts_with("replacement/"))
        .map(|(path, bytes)| (path.rsplit('/').next().unwrap().to_owned(), bytes.clone()))
        .chain([("AAAAAAAAAAA_000001_000011.mp4".to_owned(), vec![2; 500])])
        .collect();
    let archive = gzip(&tar(&replacements, &format!("{REPLACEMENTS}/")));
    published.insert(format!("/{REPLACEMENTS}.tgz"), archive);
    for (split, table) in ["train", "test"].into_iter().zip(tables) {
        published.insert(format!("/annotations/{split}.csv"), table.into_bytes());
        let list = format!("my_{split}.txt");
        published.insert(format!("/{list}"), files[&list].clone());
    }
    published
        .into_iter()
        .map(|(path, bytes)| (path, Arc::new(bytes)))
        .collect()
}

fn serve(
    published: &BTreeMap<String, Arc<Vec<u8>>>,
    requests: &Requests,
    bytes_per_ms: usize,
) -> Server {
    let (published, requests) = (published.clone(), requests.clone());
    Server::start(move |request| {
        requests.count(request);
        let Some(bytes) = published.get(&request.path) else {
            return Answer::status(404);
        };
        let is_archive = request.path.ends_with("gz");
        if is_archive && request.earlier == 1 {
            return Answer::status(503).header("Retry-After", "0");
        }
        Answer {
            bytes_per_ms: is_archive.then_some(bytes_per_ms),
            cut_after: (is_archive && request.earlier % 3 == 0).then_some(300_000),
            ..Answer::shared(bytes.clone()).header("ETag", format!("\"{}\"", bytes.len()))
        }
    })
}

/// The originals that have a replacement are not fetched.
fn is_fetched(files: &Files) -> impl Fn(&str) -> bool {
    let replaced: Vec<String> = files
        .keys()
        .filter_map(|path| path.strip_prefix(&format!("replacement/{REPLACEMENTS}/")))
        .map(str::to_owned)
        .collect();
    move |path| {
        !replaced
            .iter()
            .any(|name| path.ends_with(name) && !path.starts_with("replacement"))
    }
}

/// The clips of a tree.
fn clips(raw: &Path) -> usize {
    let files = contents(raw);
    let clips = files
        .keys()
        .filter(|path| path.extension().is_some_and(|e| e == "mp4"));
    clips.count()
}

#[test]
fn clips_of_the_lists_are_kept_and_archives_go_on_after_every_kill() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("kinetics-sound", 24, &synthetic);
    let published = publish(&files);
    let requests = Requests::default();
    let server = serve(&published, &requests, 500);
    let archives = published.keys().filter(|path| path.ends_with("gz"));
    let archives: Vec<(String, &str)> = archives
        .map(|path| (path[1..].replace('/', "-"), path.as_str()))
        .collect();
    let archives: Vec<(&str, &str)> = archives
        .iter()
        .map(|(k, path)| (k.as_str(), *path))
        .collect();
    let mut records = Records::watch(&server, &raw, &archives);
    let start = || fetch("kinetics-sound", &server.url(""), &raw);
    let (killed, output) = kill_repeatedly(&requests, Duration::from_millis(1_200), start, || {
        records.note();
    });
    assert!(killed >= 8, "{killed}");
    assert!(records.assert_exact() > 3);
    assert_eq!(output.json()["files"], 24);
    assert_eq!(clips(&raw), 24);
    assert_same_tree("kinetics-sound", &synthetic, &raw, is_fetched(&files));
    for (path, bytes) in published.iter().filter(|(path, _)| path.ends_with("gz")) {
        assert_no_byte_twice(
            &server,
            path,
            bytes.len(),
            repeated(bytes.len(), largest(&files)),
        );
    }
    // A finished archive is never asked for again, even if a new list is.
    let before = server.sent();
    run(&mut fetch("kinetics-sound", &server.url(""), &raw)).expect(EXIT_DONE);
    let after = server.sent();
    assert!(
        after[before.len()..]
            .iter()
            .all(|one| !one.path.ends_with("gz"))
    );
}

#[test]
fn clips_that_no_archive_holds_are_listed_with_what_to_do() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let mut files = synthesize("kinetics-sound", 24, &synthetic);
    let lost = files
        .keys()
        .find(|path| path.starts_with("train/") && path.ends_with(".mp4"))
        .unwrap()
        .clone();
    let is_replaced =
        files.contains_key(&lost.replace("train/", &format!("replacement/{REPLACEMENTS}/")));
    assert!(!is_replaced);
    files.remove(&lost);
    let server = serve(&publish(&files), &Requests::default(), 4_096);
    let found = run(&mut fetch("kinetics-sound", &server.url(""), &raw))
        .expect(EXIT_FINDINGS)
        .json();
    assert_eq!(found["missing"].as_array().unwrap().len(), 1);
    assert_eq!(found["missing"][0]["what"], lost.as_str());
    assert!(found["by_hand"].as_str().unwrap().contains("yt-dlp"));

    // An archive that is gone does not keep the others from being fetched.
    let mut published = publish(&files);
    published.remove("/train/part_2.tar.gz").unwrap();
    let server = serve(&published, &Requests::default(), 4_096);
    let raw = folder.path().join("fewer");
    let found = run(&mut fetch("kinetics-sound", &server.url(""), &raw));
    let found = found.expect(EXIT_FINDINGS).json();
    let missing = found["missing"].as_array().unwrap();
    assert_eq!(missing[0]["what"], "train/part_2.tar.gz");
    let clips = clips(&raw);
    assert_eq!(missing.len(), 25 - clips);
    assert!(clips > 10, "{clips}");

    // Nor do replacements that are gone.
    let mut published = publish(&files);
    published.remove(&format!("/{REPLACEMENTS}.tgz")).unwrap();
    let server = serve(&published, &Requests::default(), 4_096);
    let raw = folder.path().join("originals");
    let found = run(&mut fetch("kinetics-sound", &server.url(""), &raw));
    let found = found.expect(EXIT_FINDINGS).json();
    let missing = found["missing"].as_array().unwrap();
    let whats: Vec<&str> = missing
        .iter()
        .filter_map(|one| one["what"].as_str())
        .collect();
    let archive = format!("{REPLACEMENTS}.tgz");
    assert!(whats.contains(&archive.as_str()), "{whats:?}");
    assert!(found["files"].as_u64().unwrap() > 10);
}

#[test]
fn a_limit_and_the_classes_need_few_archives() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("kinetics-sound", 24, &synthetic);
    let server = serve(&publish(&files), &Requests::default(), 4_096);
    run(fetch("kinetics-sound", &server.url(""), &raw).args(["--limit", "4"])).expect(EXIT_DONE);
    let (code, checked) = check("kinetics-sound", &raw);
    assert_eq!((code, &checked["missing"]), (Some(0), &json!([])));
    assert_eq!(listed(&checked), [2, 2]);
    assert_eq!(server.bytes_of("/train/part_1.tar.gz"), 0);

    // By the tables of Kinetics-400 in place of the lists.
    let classes = folder.path().join("classes");
    let mut command = fetch("kinetics-sound", &server.url(""), &classes);
    run(command.args(["--from", "classes"])).expect(EXIT_DONE);
    let (code, checked) = check("kinetics-sound", &classes);
    assert_eq!((code, &checked["missing"]), (Some(0), &json!([])));
    assert_eq!(listed(&checked).iter().sum::<u64>(), 24);
    assert_eq!(clips(&classes), 24);
}
