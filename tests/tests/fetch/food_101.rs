//! UPMC Food-101: the publisher's tar.gz, and Kaggle's zip with the user's token.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tests::publisher::{Answer, Server};
use tests::{EXIT_DONE, EXIT_FINDINGS, run, temp};

use crate::ave::FetchError;
use crate::killing::{
    IN_FLIGHT, KILLS, Records, Requests, assert_no_byte_twice, fetch, kill_repeatedly, repeated,
};
use crate::packing::{Files, assert_same_tree, check, gzip, largest, listed, synthesize, tar, zip};

/// The synthetic tree in the publisher's layout: a text for each image in place of the titles.
fn publishers_layout(files: &Files) -> Files {
    let mut tree = Files::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.ends_with(".jpg")) {
        let mut parts = path.rsplit('/');
        let (name, class) = (parts.next().unwrap(), parts.next().unwrap());
        let stem = name.strip_suffix(".jpg").unwrap();
        tree.insert(path.clone(), bytes.clone());
        let text = format!("A page about {class}.\n").repeat(20);
        tree.insert(format!("texts_txt/{class}/{stem}.txt"), text.into_bytes());
        tree.insert(format!("texts_html/{class}/{stem}.html"), vec![b'<'; 3_000]);
    }
    tree
}

#[test]
fn the_publishers_tar_gz_goes_on_after_every_kill() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let tree = publishers_layout(&synthesize("food-101", 202, &synthetic));
    let layout = folder.path().join("layout");
    for (path, bytes) in &tree {
        let path = layout.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let archive = Arc::new(gzip(&tar(&tree, "UPMC_Food101/")));
    let size = archive.len();
    let requests = Requests::default();
    let counted = requests.clone();
    let server = Server::start(move |request| {
        counted.count(request);
        match request.path.as_str() {
            "/UPMC_Food101.tar.gz" => Answer {
                bytes_per_ms: Some(size / 4_000),
                cut_after: (request.earlier % 4 == 1).then_some(70_000),
                ..Answer::shared(archive.clone()).header("ETag", "\"1\"")
            },
            _ => Answer::status(404),
        }
    });
    let archives = [("UPMC_Food101.tar.gz", "/UPMC_Food101.tar.gz")];
    let mut records = Records::watch(&server, &raw, &archives);
    let start = || fetch("food-101", &server.url(""), &raw);
    let (killed, _) = kill_repeatedly(&requests, Duration::from_millis(400), start, || {
        records.note();
    });
    assert_eq!(killed, KILLS);
    assert!(records.assert_exact() > 5);
    assert_same_tree("food-101", &layout, &raw, |path| {
        !path.starts_with("texts_html")
    });
    assert!(!raw.join("UPMC_Food101/texts_html").exists());
    assert_no_byte_twice(
        &server,
        "/UPMC_Food101.tar.gz",
        size,
        repeated(size, largest(&tree)),
    );
}

#[test]
fn kaggles_zip_is_fetched_with_the_users_token() {
    let folder = temp();
    let (synthetic, raw) = (folder.path().join("synth"), folder.path().join("raw"));
    let files = synthesize("food-101", 60, &synthetic);
    let archive = Arc::new(zip(&files, ""));
    let size = archive.len();
    let requests = Requests::default();
    let (counted, served) = (requests.clone(), archive.clone());
    let server = Server::start(move |request| {
        counted.count(request);
        let token = request.headers.get("authorization").map(String::as_str);
        match request.path.as_str() {
            // printf me:secret | base64
            "/api/v1/datasets/download/gianmarco96/upmcfood101"
                if token == Some("Basic bWU6c2VjcmV0") =>
            {
                Answer::redirect(302, "/signed/archive.zip?X-Goog-Signature=1")
            }
            "/signed/archive.zip" => Answer {
                bytes_per_ms: Some(size / 1_500),
                ..Answer::shared(served.clone()).header("ETag", "\"1\"")
            },
            _ => Answer::status(401),
        }
    });
    let kaggle = |raw: &std::path::Path| {
        let mut command = fetch("food-101", &server.url(""), raw);
        command.args(["--from", "kaggle"]);
        command.env("KAGGLE_CONFIG_DIR", folder.path().join("nowhere"));
        for name in ["KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"] {
            command.env_remove(name);
        }
        command
    };
    // Without a token nothing is asked, and the user learns how to get one.
    let found = run(&mut kaggle(&raw)).expect(EXIT_FINDINGS).json();
    assert!(
        found["missing"][0]["why"]
            .as_str()
            .unwrap()
            .contains("KAGGLE_KEY")
    );
    assert!(
        found["by_hand"]
            .as_str()
            .unwrap()
            .contains("kaggle.com/datasets/gianmarco96")
    );
    assert_eq!(server.sent().len(), 0);
    let wrong = run(kaggle(&raw)
        .env("KAGGLE_USERNAME", "me")
        .env("KAGGLE_KEY", "wrong"));
    wrong.expect_fetch_error(&["401", "kaggle.json"]);
    // The file that Kaggle hands out.
    let config = folder.path().join("kaggle");
    std::fs::create_dir(&config).unwrap();
    std::fs::write(
        config.join("kaggle.json"),
        r#"{"username":"me","key":"secret"}"#,
    )
    .unwrap();
    let start = || {
        let mut command = kaggle(&raw);
        command.env("KAGGLE_CONFIG_DIR", &config);
        command
    };
    let (killed, _) = kill_repeatedly(&requests, Duration::from_millis(250), start, || ());
    assert!(killed > 5, "{killed}");
    assert_same_tree("food-101", &synthetic, &raw, |_| true);
    assert_no_byte_twice(&server, "/signed/archive.zip", size, IN_FLIGHT);
    let few = folder.path().join("few");
    let mut command = kaggle(&few);
    run(command
        .env("KAGGLE_CONFIG_DIR", &config)
        .args(["--limit", "10"]))
    .expect(EXIT_DONE);
    let (code, checked) = check("food-101", &few);
    assert_eq!((code, &checked["missing"]), (Some(0), &json!([])));
    assert_eq!(listed(&checked), [5, 5]);
}

#[test]
fn unreachable_publisher_error_names_kaggle() {
    let folder = temp();
    let server = Server::start(|_| Answer::status(404));
    let mut command = fetch("food-101", &server.url(""), &folder.path().join("raw"));
    run(&mut command).expect_fetch_error(&["404", "UPMC_Food101.tar.gz", "--from kaggle"]);
}
