//! `ingest run` into a bucket: the objects have the bytes of the files of a local run, whatever
//! stops the run, and no upload stays unfinished.
//!
//! Needs a Python with moto's server (`U2A_PYTHON`, or `.venv` as `just test-s3` makes it); without
//! one the tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::link::Link;
use tests::s3_server::S3Server;
use tests::{
    EXIT_DONE, EXIT_TEMPORARY, EXIT_USAGE, TIME_LIMIT, command, contents, kill_when, names,
    report_figure, run, temp,
};
use util::rng::Rng;
use util::skip::{Missing, skip};

/// Clips of the dataset, and rows of a shard. A clip takes 0.4 MB in a shard, so that the first
/// shard is uploaded in two parts of 8 MiB at most.
const CLIPS: u32 = 44;
const SHARD_ROWS: &str = "26";
/// The first of them.
const SHARD: &str = "train-00000-of-00002.parquet";

/// The sample rate of the clips in hertz, and their length in seconds.
const RATE: u32 = 16_000;
const SECONDS: u32 = 10;

/// Starts a server of the test's own.
#[track_caller]
fn server() -> Option<S3Server> {
    let server = tests::python().and_then(|python| S3Server::start(&python));
    if server.is_none() {
        skip(
            Missing::Platform,
            "no Python with moto's server: set U2A_PYTHON or run `just test-s3`",
        );
    }
    server
}

/// A WAV file of noise, which does not compress.
fn noise(clip: u32) -> Vec<u8> {
    let bytes = RATE * SECONDS * 2;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + bytes).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(RATE.to_le_bytes());
    wav.extend((RATE * 2).to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend(bytes.to_le_bytes());
    let mut rng = Rng::new(1, &[clip]);
    wav.extend((0..bytes / 4).flat_map(|_| rng.bits().to_le_bytes()));
    wav
}

/// Writes a dataset of clips that have sound alone, and returns its `.toml`.
fn write_dataset(folder: &Path) -> PathBuf {
    drop(fs::remove_dir_all(folder));
    fs::create_dir_all(folder.join("raw")).unwrap();
    let mut table = "id,part,label,file\n".to_owned();
    for clip in 0..CLIPS {
        let part = if clip < 40 { "train" } else { "test" };
        table += &format!(
            "{clip:03},{part},{},{clip}.wav\n",
            ["cat", "dog"][clip as usize % 2]
        );
        fs::write(folder.join(format!("raw/{clip}.wav")), noise(clip)).unwrap();
    }
    fs::write(folder.join("noise.csv"), table).unwrap();
    let toml = folder.join("noise.toml");
    let text = "name = \"noise\"\ntable = \"noise.csv\"\nraw = \"raw\"\n[columns]\nid = \"id\"\nsplit = \"part\"\nlabel = \"label\"\naudio = \"file\"\nvideo = \"file\"\n";
    fs::write(&toml, text).unwrap();
    toml
}

/// The dataset that most tests read, and the folder of a local run over it.
fn data() -> &'static (PathBuf, PathBuf) {
    static DATA: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    DATA.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("object_store_ingest");
        let toml = write_dataset(&folder);
        let local = folder.join("local");
        run(&mut ingest(&toml, local.to_str().unwrap())).expect(EXIT_DONE);
        (toml, local)
    })
}

fn ingest(dataset: &Path, out: &str) -> Command {
    let mut command = command("ingest", ["run", "--json", "--shard-rows", SHARD_ROWS]);
    command.arg(dataset).args(["--out", out]);
    command.args(["--max-failures", "100%"]);
    command.env("U2A_STORE_TIMEOUT", "20");
    command
}

/// The bytes of all files of a folder.
fn size(local: &Path) -> u64 {
    contents(local)
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum()
}

/// The objects below a prefix, as far as a local run has them too and they hold no times.
fn visible(server: &S3Server, prefix: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let objects = server.objects(&format!("{prefix}/")).into_iter();
    let visible = objects.filter(|(key, _)| !key.starts_with('.'));
    visible.map(|(key, bytes)| (key.into(), bytes)).collect()
}

/// Waits until a condition holds.
#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIME_LIMIT, "{what} did not appear");
        sleep(Duration::from_millis(20));
    }
}

/// Asserts that a run has ended with exit code 2 and one error line, beside lines of progress.
#[track_caller]
fn assert_error(command: &mut Command, words: &[&str]) {
    let ended = run(command).expect(EXIT_USAGE);
    let lines = ended.stderr.lines();
    let errors: Vec<&str> = lines.filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    for word in words {
        assert!(errors[0].contains(word), "no '{word}' in {}", errors[0]);
    }
}

/// Asserts that the objects below a prefix are the files of a folder, and that no upload and none
/// of its records is left.
#[track_caller]
fn assert_same(server: &S3Server, prefix: &str, local: &Path) {
    let (remote, local) = (visible(server, prefix), contents(local));
    assert_eq!(
        remote.keys().collect::<Vec<_>>(),
        local.keys().collect::<Vec<_>>()
    );
    let differ = remote.iter().filter(|(key, bytes)| local[*key] != **bytes);
    let differ: Vec<_> = differ.map(|(key, _)| key).collect();
    report_figure("sum bytes that differ", differ.len() as f64);
    assert!(differ.is_empty(), "{differ:?}");
    assert_nothing_left(server, prefix);
}

#[track_caller]
fn assert_nothing_left(server: &S3Server, prefix: &str) {
    assert_eq!(server.unfinished_uploads(), [""; 0]);
    assert_eq!(server.keys(&format!("{prefix}/.uploads/")), [""; 0]);
}

#[test]
fn objects_have_the_bytes_of_a_local_run() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let ingest = || {
        let mut command = ingest(dataset, &server.url("shards/noise"));
        server.configure(&mut command, server.port());
        command
    };
    let plan = run(ingest().arg("--dry-run")).expect(EXIT_DONE).json();
    assert_eq!(plan["out"], server.url("shards/noise"));
    assert!(server.keys("").is_empty(), "--dry-run has written");

    let report = run(&mut ingest()).expect(EXIT_DONE).json();
    assert_eq!(report["out"], server.url("shards/noise"));
    assert_same(&server, "shards/noise", local);

    // Again, there is nothing to do; nothing but small files is read.
    let link = Link::open(server.port());
    let mut again = ingest();
    server.configure(&mut again, link.port());
    let again = run(&mut again).expect(EXIT_DONE).json();
    assert_eq!(again["manifest"], report["manifest"]);
    assert_same(&server, "shards/noise", local);
    let total = size(local);
    assert!(
        link.received() < total,
        "{} of {total} bytes were read",
        link.received()
    );

    // A shard that somebody has copied there has no remembered hash, or an old one.
    let key = format!("shards/noise/{SHARD}");
    server.delete(&key);
    server.put(&key, &fs::read(local.join(SHARD)).unwrap());
    run(&mut ingest()).expect(EXIT_DONE);
    assert_same(&server, "shards/noise", local);

    run(ingest().arg("--overwrite")).expect(EXIT_DONE);
    assert_same(&server, "shards/noise", local);
}

#[test]
fn killed_runs_continue() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let total = size(local);
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}, {total} bytes");
    let (mut rounds, mut kills) = (vec!["killed-0".to_owned()], 0);
    for step in 0..6 {
        // Each run has sent a random share of what a whole run sends when it is killed. One that has
        // less left to send ends by itself, and the next one begins from nothing.
        let link = Link::open(server.port());
        let share = 0.5 * Rng::new(seed, &[step]).uniform();
        let limit = (total as f64 * share) as u64;
        let prefix = rounds.last().unwrap();
        let mut command = ingest(dataset, &server.url(prefix));
        server.configure(&mut command, link.port());
        match kill_when(&mut command, || link.sent() > limit) {
            true => rounds.push(format!("killed-{}", rounds.len())),
            false => kills += 1,
        }
    }
    report_figure("sum runs killed", f64::from(kills));
    for prefix in rounds {
        let mut command = ingest(dataset, &server.url(&prefix));
        run(server.configure(&mut command, server.port())).expect(EXIT_DONE);
        assert_same(&server, &prefix, local);
    }
}

/// A store keeps the parts of an upload whose process was killed, and bills them.
#[test]
fn parts_of_a_killed_upload_are_removed() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let link = Link::open(server.port());
    let ingest = || {
        let mut command = ingest(dataset, &server.url("upload"));
        server.configure(&mut command, link.port());
        command
    };
    // The last bytes of the first shard do not arrive, those of its other part do.
    let shard = fs::metadata(local.join(SHARD)).unwrap().len();
    link.stall_after_sending(shard - (1 << 19));
    let has_parts = || !server.unfinished_uploads().is_empty();
    assert!(!kill_when(&mut ingest(), has_parts), "no upload had parts");
    assert!(has_parts());
    assert_eq!(visible(&server, "upload"), BTreeMap::new());
    link.restore();
    run(&mut ingest()).expect(EXIT_DONE);
    assert_same(&server, "upload", local);
}

/// There are no locks: the second run takes the upload of the first one for that of a killed run.
#[test]
fn two_runs_at_once_write_the_same_bytes() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let folder = temp();
    let link = Link::open(server.port());
    let ingest = |port| {
        let mut command = ingest(dataset, &server.url("twice"));
        server.configure(&mut command, port);
        command
    };
    let shard = fs::metadata(local.join(SHARD)).unwrap().len();
    link.stall_after_sending(shard - (1 << 19));
    let log = folder.path().join("log");
    let mut first = ingest(link.port());
    let first = first
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap());
    let mut first = first.spawn().unwrap();
    wait_until("a part", || !server.unfinished_uploads().is_empty());
    run(&mut ingest(server.port())).expect(EXIT_DONE);
    assert_same(&server, "twice", local);
    link.restore();
    let status = first.wait().unwrap();
    let log = fs::read_to_string(log).unwrap();
    // moto answers 500 where S3 says that it does not know the upload.
    assert_eq!(status.code(), Some(EXIT_USAGE), "{log}");
    assert!(log.contains("run the same command again"), "{log}");
    assert_same(&server, "twice", local);
}

#[test]
fn parts_run_at_once_and_finish() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let ingest = |flags: &[&str]| {
        let mut command = ingest(dataset, &server.url("parts"));
        server.configure(&mut command, server.port());
        command.args(flags);
        command
    };
    let words = ["no shards here", "s3://bucket/parts"];
    run(&mut ingest(&["--finish"])).expect_usage(&words);
    let mut parts = ["0/2", "1/2"].map(|part| {
        let mut command = ingest(&["--part", part]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    });
    for part in &mut parts {
        assert!(part.wait().unwrap().success());
    }
    assert_same(&server, "parts", local);
    // As of parts that ended together on two machines.
    server.delete("parts/manifest.json");
    run(&mut ingest(&["--finish"])).expect(EXIT_DONE);
    assert_same(&server, "parts", local);
}

#[test]
fn changed_sources_are_updated() {
    let Some(server) = server() else { return };
    let folder = temp();
    let dataset = write_dataset(&folder.path().join("data"));
    let local = folder.path().join("local");
    let remote = |flags: &[&str]| {
        let mut command = ingest(&dataset, &server.url("update"));
        server.configure(&mut command, server.port());
        command.args(flags);
        command
    };
    run(&mut remote(&[])).expect(EXIT_DONE);
    let key = format!("update/{SHARD}");
    let old = server.objects(&key).remove("").unwrap();
    let clip = folder.path().join("data/raw/7.wav");
    fs::write(clip, noise(CLIPS)).unwrap();

    assert_error(
        &mut remote(&[]),
        &["7.wav has changed", "--update", "s3://bucket/update"],
    );
    let plan = run(&mut remote(&["--update", "--dry-run"])).expect(EXIT_DONE);
    assert!(plan.stdout.contains("remake"), "{}", plan.stdout);
    run(&mut remote(&["--update"])).expect(EXIT_DONE);
    run(&mut ingest(&dataset, local.to_str().unwrap())).expect(EXIT_DONE);
    assert_same(&server, "update", &local);

    // Somebody replaces a shard, about which nothing that was remembered of the old one holds.
    server.put(&key, &old);
    run(&mut remote(&["--finish"])).expect(EXIT_DONE);
    let manifest = server.objects("update/manifest.json").remove("").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let shards = manifest["shards"].as_array().unwrap();
    let entry = shards.iter().find(|one| one["file"] == SHARD).unwrap();
    assert_eq!(entry["sha256"], util::hash::sha256(&old));
}

/// Two runs of different settings must not mix their shards, also where the first one has not
/// finished a shard yet.
#[test]
fn other_settings_are_refused() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let ingest = |flags: &[&str]| {
        let mut command = ingest(dataset, &server.url("mixed"));
        server.configure(&mut command, server.port());
        command.args(flags);
        command
    };
    let begun = || !server.keys("mixed/").is_empty();
    assert!(!kill_when(&mut ingest(&["--frame-pool", "3"]), begun));
    let words = ["other settings", "frame_pool 3, now 9", "--overwrite"];
    run(&mut ingest(&[])).expect_usage(&words);
    run(&mut ingest(&["--overwrite"])).expect(EXIT_DONE);
    assert_same(&server, "mixed", local);
    let words = ["other settings", "frame_pool 9, now 3", "--overwrite"];
    run(&mut ingest(&["--frame-pool", "3"])).expect_usage(&words);
}

#[test]
fn a_server_that_vanishes_ends_the_run_with_one_line() {
    let Some(server) = server() else { return };
    let (dataset, local) = data();
    let link = Link::open(server.port());
    let ingest = || {
        let mut command = ingest(dataset, &server.url("vanishes"));
        server.configure(&mut command, link.port());
        command.env("U2A_STORE_TIMEOUT", "3");
        command
    };
    let total = size(local);
    link.cut_after_sending(total / 2);
    assert_error(&mut ingest(), &["s3://bucket/vanishes/", "again"]);
    assert!(link.is_cut());
    // An engine may repeat the command.
    run(ingest().env("U2A_JOB", "1")).expect(EXIT_TEMPORARY);
    link.restore();
    run(&mut ingest()).expect(EXIT_DONE);
    assert_same(&server, "vanishes", local);
}

/// A shard is a temporary file before it is uploaded, of which nothing may be left.
#[test]
fn a_full_temporary_folder_is_named() {
    let Some(server) = server() else { return };
    let (dataset, _) = data();
    let folder = temp();
    let ingest = ingest(dataset, &server.url("full"));
    // The limit on the size of files is in blocks of 1024 bytes.
    let mut limited = Command::new("bash");
    limited
        .args(["-c", "ulimit -f 2048; exec \"$0\" \"$@\""])
        .arg(ingest.get_program())
        .args(ingest.get_args())
        .env("U2A_CACHE", folder.path());
    server.configure(&mut limited, server.port());
    let path = folder.path().to_str().unwrap();
    assert_error(&mut limited, &[path, "U2A_CACHE", "File too large"]);
    assert_eq!(names(folder.path()), [""; 0]);
    assert_nothing_left(&server, "full");
}

#[test]
fn unusable_buckets_are_named() {
    let Some(server) = server() else { return };
    let (dataset, _) = data();
    let ingest = |out: &str| {
        let mut command = ingest(dataset, out);
        server.configure(&mut command, server.port());
        command
    };
    run(&mut ingest("s3://elsewhere/a")).expect_usage(&["no bucket 'elsewhere'", "create it"]);
    let words = ["http://127.0.0.1/a", "can only be read", "s3://"];
    run(&mut ingest("http://127.0.0.1/a")).expect_usage(&words);
    run(&mut ingest("ftp://127.0.0.1/a")).expect_usage(&["ftp://127.0.0.1/a", "s3://"]);
    server.refuse_credentials();
    let words = ["s3://bucket/a", "refuses access", "AWS_ACCESS_KEY_ID"];
    run(&mut ingest(&server.url("a"))).expect_usage(&words);
}
