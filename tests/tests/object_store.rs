//! Shards that are streamed from a bucket or a web server: the same batches as from the disk,
//! whatever the cache holds and whoever is killed; and one clear line where that cannot work.
//!
//! Needs a Python with moto's server (`U2A_PYTHON`, or `.venv` as `just test-s3` makes it); without
//! one the tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use features::{Folder, Loader, ModalityData, Shards};
use tests::link::Link;
use tests::s3_server::S3Server;
use tests::{
    CommandOutput, CremaD, EXIT_DONE, EXIT_USAGE, command, contents, json_lines, kill_when, names,
    run, temp, web_server, weights,
};
use util::skip::{Missing, skip};

/// Clips of the synthetic dataset, and rows of a shard.
const SAMPLES: usize = 48;
const SHARD_ROWS: &str = "10";
/// Batches of an epoch of [`stream_for_another_test`], and its epochs.
const BATCH: usize = 4;
const EPOCHS: u64 = 2;
/// Where the shards lie in the bucket.
const PREFIX: &str = "shards/crema-d";

/// The shards on the disk.
fn local() -> &'static Path {
    static DATA: OnceLock<PathBuf> = OnceLock::new();
    DATA.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("object_store");
        let raw = CremaD::shared(&folder, SAMPLES).raw();
        let out = folder.join("sharded");
        let mut ingest = command("ingest", ["run", "crema-d", "--shard-rows", SHARD_ROWS]);
        run(ingest.arg("--raw").arg(&raw).arg("--out").arg(&out)).expect(EXIT_DONE);
        out
    })
}

/// A server that holds the shards, and a link to it.
struct Store {
    server: S3Server,
    link: Link,
    /// The cache of the programs under test, and their other files.
    folder: tempfile::TempDir,
}

impl Store {
    /// Starts a server of the test's own, or reports that the test is skipped.
    #[track_caller]
    fn start() -> Option<Store> {
        let server = tests::python().and_then(|python| S3Server::start(&python));
        let Some(server) = server else {
            skip(
                Missing::Platform,
                "no Python with moto's server: set U2A_PYTHON or run `just test-s3`",
            );
            return None;
        };
        for (path, bytes) in contents(local()) {
            server.put(&format!("{PREFIX}/{}", path.display()), &bytes);
        }
        let link = Link::open(server.port());
        Some(Store {
            server,
            link,
            folder: temp(),
        })
    }

    fn url(&self) -> String {
        self.server.url(PREFIX)
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Sets the environment of a program that reads the shards.
    fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.server
            .configure(command, self.link.port())
            .env("U2A_STORE_TIMEOUT", "30")
            .env("U2A_CACHE", self.cache())
    }

    /// The command that streams the shards into a file of this name.
    fn stream(&self, name: &str) -> (Command, PathBuf) {
        let out = self.folder.path().join(name);
        let mut command = stream(&self.url(), &out);
        self.configure(&mut command);
        (command, out)
    }

    /// Streams with this size of the cache, and returns the lines and the bytes from the server.
    fn streamed(&self, name: &str, cache_size: &str) -> (String, u64) {
        let (mut command, out) = self.stream(name);
        let before = self.link.received();
        run(command.env("U2A_CACHE_SIZE", cache_size)).expect(EXIT_DONE);
        (read(&out), self.link.received() - before)
    }

    /// The files of the cache, and their size in bytes.
    fn blocks(&self) -> (Vec<PathBuf>, u64) {
        let folder = self.cache().join("shards");
        let files: Vec<PathBuf> = names(&folder).iter().map(|n| folder.join(n)).collect();
        let bytes = files.iter().map(|f| fs::metadata(f).unwrap().len()).sum();
        (files, bytes)
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// This program again, as a process that streams shards: see [`stream_for_another_test`].
fn stream(shards: &str, out: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "stream_for_another_test",
            "--ignored",
            "--nocapture",
        ])
        .env("U2A_TEST_SHARDS", shards)
        .env("U2A_TEST_OUT", out)
        .stdin(Stdio::null());
    command
}

/// No test: the other tests start it in a process of its own. It writes one line per batch: the
/// epoch, the ids and the SHA-256 of everything in it.
#[test]
#[ignore = "the other tests start it"]
fn stream_for_another_test() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let folder: Folder = variable("U2A_TEST_SHARDS").parse().unwrap();
    let shards = Arc::new(Shards::open(&folder).unwrap());
    let mut out = fs::File::create(variable("U2A_TEST_OUT")).unwrap();
    for epoch in 0..EPOCHS {
        // Room for two batches, so that reading goes on while the test looks at the lines.
        let loader = Loader::builder(&shards)
            .batch_size(BATCH)
            .threads(2)
            .byte_budget(24 << 20)
            .augment(true);
        for batch in loader.epoch(epoch).unwrap() {
            let batch = batch.unwrap();
            let mut bytes = format!("{:?} {:?}", batch.labels, batch.present).into_bytes();
            for input in batch.inputs.iter().flatten() {
                if let ModalityData::Dense { values, .. } = &input.data {
                    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
            let hash = util::hash::sha256(bytes);
            writeln!(out, "{epoch} {} {hash}", batch.ids.join(",")).unwrap();
        }
    }
}

/// The lines of [`stream_for_another_test`] from the disk.
fn expected() -> &'static str {
    static LINES: OnceLock<String> = OnceLock::new();
    LINES.get_or_init(|| {
        let folder = temp();
        let out = folder.path().join("local");
        run(&mut stream(local().to_str().unwrap(), &out)).expect(EXIT_DONE);
        let lines = read(&out);
        assert!(lines.lines().count() > 10);
        lines
    })
}

fn bytes_of_shards() -> u64 {
    let files = contents(local()).into_iter();
    let shards = files.filter(|(path, _)| path.to_str().unwrap().contains("-of-"));
    shards.map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn batches_are_the_local_ones_whatever_the_cache_holds() {
    let Some(store) = Store::start() else { return };
    let size = bytes_of_shards();
    // Every byte is requested once at most in two epochs.
    let (lines, cold) = store.streamed("cold", "1GB");
    assert_eq!(lines, expected());
    assert!(cold < size + size / 4, "{cold} bytes for shards of {size}");
    let (files, _) = store.blocks();
    // Then nothing but the list of the shards.
    let (lines, warm) = store.streamed("warm", "1GB");
    assert_eq!(lines, expected());
    assert!(warm < size / 50, "{warm} bytes with a warm cache");
    // Damaged and truncated blocks are requested again.
    for (i, file) in files.iter().enumerate() {
        let mut bytes = fs::read(file).unwrap();
        let length = bytes.len();
        match i % 2 {
            0 => bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1),
            _ => bytes.truncate(length / 2),
        }
        fs::write(file, bytes).unwrap();
    }
    let (lines, mended) = store.streamed("mended", "1GB");
    assert_eq!(lines, expected());
    assert!(mended > size / 2, "{mended} bytes with a damaged cache");
    // A cache that holds a part of the shards, and none.
    let limit = 5_000_000;
    assert!(size > limit, "the shards have {size} bytes");
    fs::remove_dir_all(store.cache()).unwrap();
    let (lines, _) = store.streamed("small", &limit.to_string());
    assert_eq!(lines, expected());
    assert!(store.blocks().1 <= limit);
    fs::remove_dir_all(store.cache()).unwrap();
    let (lines, _) = store.streamed("none", "0");
    assert_eq!(lines, expected());
    assert!(!store.cache().exists());
}

#[test]
fn a_server_that_vanishes_for_a_while_costs_no_sample() {
    let Some(store) = Store::start() else { return };
    let (mut command, out) = store.stream("cut");
    let mut child = command.env("U2A_CACHE_SIZE", "0").spawn().unwrap();
    let lines = || read(&out).lines().count();
    for cut_at in [3, 9, 15] {
        let start = Instant::now();
        while lines() < cut_at {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended at {}",
                lines()
            );
            assert!(start.elapsed() < tests::TIME_LIMIT);
            thread::sleep(Duration::from_millis(5));
        }
        store.link.cut();
        thread::sleep(Duration::from_secs(1));
        store.link.restore();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(read(&out), expected());
}

#[test]
fn a_shard_that_changes_while_it_is_read_is_an_error() {
    let Some(store) = Store::start() else { return };
    let (mut command, out) = store.stream("changed");
    command.env("U2A_CACHE_SIZE", "0").stderr(Stdio::piped());
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    while read(&out).lines().count() < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    for (path, mut bytes) in contents(local()) {
        bytes.reverse();
        store
            .server
            .put(&format!("{PREFIX}/{}", path.display()), &bytes);
    }
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success());
    assert!(stderr.contains("has changed while it was read"), "{stderr}");
}

#[test]
fn a_web_server_needs_only_byte_ranges() {
    let folder = temp();
    let (out, cache) = (folder.path().join("web"), folder.path().join("cache"));
    let parent = local().parent().unwrap();
    let name = local().file_name().unwrap().to_str().unwrap();
    let url = |ranges| {
        format!(
            "http://127.0.0.1:{}/{name}",
            web_server::serve(parent, ranges)
        )
    };
    run(stream(&url(true), &out).env("U2A_CACHE", &cache)).expect(EXIT_DONE);
    assert_eq!(read(&out), expected());
    let mut whole_files = train(&url(false), &folder.path().join("run"));
    run(whole_files.env("U2A_CACHE", &cache)).expect_usage(&["byte ranges", "train-00000"]);
    let mut mask = command(
        "ingest",
        ["mask", &url(true), "--protocol", "missing-audio"],
    );
    run(&mut mask).expect_usage(&["a web server can only be read"]);
    run(&mut command("ingest", ["publish", &url(true)]))
        .expect_usage(&["a web server can only be read"]);
    let port = web_server::serve(folder.path(), true);
    let mut nothing = train(
        &format!("http://127.0.0.1:{port}"),
        &folder.path().join("run"),
    );
    run(&mut nothing).expect_usage(&["has no manifest.json"]);
}

fn train(shards: &str, out: &Path) -> Command {
    let mut command = command(
        "train",
        [
            "run",
            "crema-d",
            "--epochs",
            "2",
            "--batch-size",
            "4",
            "--lr",
            "1e-3",
        ],
    );
    command
        .args(["--checkpoint-every", "1", "--shards", shards, "--weights"])
        .arg(weights())
        .arg("--out")
        .arg(out);
    command
}

/// The steps of a run and their losses, without the values that depend on the clock. A step that
/// was run twice has the same losses twice.
fn losses(run: &Path) -> Vec<String> {
    let mut lines: Vec<String> = json_lines(&run.join("metrics.jsonl"))
        .into_iter()
        .filter(|line| line.get("task_loss").is_some())
        .map(|line| {
            format!(
                "{:06} {} {}",
                line["step"].as_u64().unwrap(),
                line["loss"],
                line["align_loss"]
            )
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn training_is_killed_and_resumed_in_mid_epoch() {
    let Some(store) = Store::start() else { return };
    let (whole, killed) = (
        store.folder.path().join("whole"),
        store.folder.path().join("killed"),
    );
    run(&mut train(local().to_str().unwrap(), &whole)).expect(EXIT_DONE);
    let steps = losses(&whole).len();
    assert!(steps > 10);
    let attempt = || {
        let mut command = match killed.join("config.toml").exists() {
            true => command("train", ["run", "crema-d", "--resume"]),
            false => return train(&store.url(), &killed),
        };
        command.arg(&killed);
        command
    };
    let mut kills = 0;
    for at in [3, 7, 11] {
        let reached = || killed.join(format!("checkpoint-{at:08}")).exists();
        let ended = kill_when(store.configure(&mut attempt()), reached);
        kills += u32::from(!ended);
    }
    assert!(kills > 0, "no kill reached a live process");
    run(store.configure(&mut attempt())).expect(EXIT_DONE);
    assert_eq!(losses(&killed), losses(&whole));
    // The run remembers where its shards are, and says what it has verified.
    let mut eval = command("train", ["eval"]);
    let evaluated = run(store.configure(eval.arg(&killed))).expect(EXIT_DONE);
    assert!(
        evaluated.stderr.contains("have the sizes in manifest.json"),
        "{}",
        evaluated.stderr
    );
}

#[test]
fn masks_are_written_beside_the_shards_and_found_there() {
    let Some(store) = Store::start() else { return };
    let mut mask = command(
        "ingest",
        ["mask", &store.url(), "--protocol", "missing-audio"],
    );
    run(store.configure(mask.args(["--rate", "0.4", "--seed", "5"]))).expect(EXIT_DONE);
    let name = "masks/missing-audio-0.4-seed5.parquet";
    let mut local_mask = command("ingest", ["mask"]);
    local_mask.arg(local()).args([
        "--protocol",
        "missing-audio",
        "--rate",
        "0.4",
        "--seed",
        "5",
    ]);
    run(&mut local_mask).expect(EXIT_DONE);
    let written = store
        .server
        .objects(&format!("{PREFIX}/masks/missing-audio-0.4"));
    let bytes = written.values().next().unwrap();
    assert!(*bytes == fs::read(local().join(name)).unwrap());
    let out = store.folder.path().join("masked");
    let mut command = train(&store.url(), &out);
    command.args([
        "--max-steps",
        "0",
        "--train-mask",
        &format!("{}/{name}", store.url()),
    ]);
    run(store.configure(&mut command)).expect(EXIT_DONE);
    assert!(read(&out.join("config.toml")).contains("train_mask_sha256"));
}

#[test]
fn cards_are_written_beside_the_shards() {
    let Some(store) = Store::start() else { return };
    let publish = |flags: &[&str]| {
        let mut publish = command("ingest", ["publish", &store.url()]);
        run(store.configure(publish.args(flags)))
    };
    publish(&[]).expect(EXIT_DONE);
    // Over its own files.
    publish(&[]).expect(EXIT_DONE);
    let out = store.folder.path().join("published").display().to_string();
    let mut local_publish = command("ingest", ["publish", "--out", &out]);
    run(local_publish.arg(local())).expect(EXIT_DONE);
    for name in ["README.md", "croissant.json"] {
        let written = store.server.objects(&format!("{PREFIX}/{name}"));
        let bytes = written.values().next().unwrap();
        assert!(*bytes == fs::read(Path::new(&out).join(name)).unwrap());
    }
    publish(&["--out", &out]).expect_usage(&["--out", "copy it onto a disk first"]);
    publish(&["--push", "me/crema-d"]).expect_usage(&["--push", "from a disk"]);
}

#[test]
fn what_cannot_work_is_one_line() {
    let Some(store) = Store::start() else { return };
    let out = store.folder.path().join("run");
    let attempt = |shards: &str, variables: &[(&str, Option<&str>)]| -> CommandOutput {
        let mut command = train(shards, &out);
        store.configure(&mut command).env("U2A_STORE_TIMEOUT", "2");
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        run(&mut command)
    };
    let url = store.url();
    for (shards, words) in [
        (
            "s3://nowhere/shards",
            &["s3://nowhere/shards: there is no bucket 'nowhere'"][..],
        ),
        (
            "s3://bucket/nothing",
            &["s3://bucket/nothing: holds no shards"],
        ),
        ("s3:///nothing", &["no bucket or host"]),
        ("ftp://bucket/x", &["ftp://bucket/x: the scheme is unknown"]),
    ] {
        attempt(shards, &[]).expect_usage(words);
    }
    attempt(&url, &[("AWS_ALLOW_HTTP", None)]).expect_usage(&["AWS_ALLOW_HTTP=true"]);
    let key = ("AWS_ACCESS_KEY_ID", None);
    attempt(&url, &[key]).expect_usage(&[&url, "Missing AccessKeyId"]);
    // Not the metadata service of the machine that the tests run on.
    let none = [
        key,
        ("AWS_SECRET_ACCESS_KEY", None),
        ("AWS_METADATA_ENDPOINT", Some("http://127.0.0.1:9")),
    ];
    attempt(&url, &none).expect_usage(&[&url, "no credentials", "AWS_ACCESS_KEY_ID"]);
    attempt(&url, &[("U2A_CACHE_SIZE", Some("lots"))]).expect_usage(&["U2A_CACHE_SIZE", "20GB"]);
    attempt(&url, &[("U2A_STORE_TIMEOUT", Some("0"))]).expect_usage(&["U2A_STORE_TIMEOUT=0"]);
    let mut to_bucket = train(&url, Path::new("s3://bucket/run"));
    run(store.configure(&mut to_bucket))
        .expect_usage(&["s3://bucket/run", "a run folder lies on a disk"]);
    // Port 9 is closed, and one that accepts connections never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for port in [9, port] {
        let endpoint = format!("http://127.0.0.1:{port}");
        let ended = attempt(&url, &[("AWS_ENDPOINT_URL", Some(&endpoint))]);
        ended
            .expect(EXIT_USAGE)
            .expect_usage(&[&url, "AWS_ENDPOINT_URL"]);
    }
    store.server.refuse_credentials();
    attempt(&url, &[]).expect_usage(&[&url, "refuses access", "AWS_ACCESS_KEY_ID"]);
    assert!(!out.join("config.toml").exists());
}
