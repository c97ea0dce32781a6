//! The weights of the encoders from a stand-in for the Hugging Face hub, which answers as the hub does: a
//! relative redirection for small files, one to another host for large ones, their SHA-256 in
//! `X-Linked-Etag`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tests::publisher::{Answer, Request, Server};
use tests::{
    CommandOutput, CremaD, EXIT_DONE, command, kill_when, names, run, temp, weights, workspace,
};
use util::rng::Rng;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// A later commit.
const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";
const TOKEN: &str = "hf_secret";
const CLIP: &str = "openai/clip-vit-base-patch16";
const AST: &str = "MIT/ast-finetuned-audioset-10-10-0.4593";

/// The files of the repositories, by `OWNER/NAME/FILE`.
type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// The small models of the golden values, as repositories.
fn repositories() -> Files {
    let mut files = Files::new();
    for repository in [CLIP, AST, "google-bert/bert-base-uncased"] {
        let folder = weights().join(repository.split('/').next_back().unwrap());
        for name in names(&folder) {
            let bytes = fs::read(folder.join(&name)).unwrap();
            files.insert(format!("{repository}/{name}"), Arc::new(bytes));
        }
    }
    files
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".bin")
}

/// The stand-in: the hub, and the host that stores large files.
struct Hub {
    hub: Server,
    store: Server,
    home: TempDir,
}

impl Hub {
    /// Starts both. `change` may replace an answer: of the hub, or of the store for a path that
    /// begins with `/large/`.
    fn start(
        files: Files,
        change: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
    ) -> Hub {
        let files = Arc::new(files);
        let change = Arc::new(change);
        let (stored, change_stored) = (files.clone(), change.clone());
        let store = Server::start(move |request| {
            assert!(
                !request.headers.contains_key("authorization"),
                "the token left the hub"
            );
            let hash = request.path.strip_prefix("/large/").unwrap();
            let body = stored.values().find(|bytes| sha256(bytes) == hash).unwrap();
            let answer = Answer::shared(body.clone()).header("ETag", format!("\"{hash}\""));
            change_stored(request, answer)
        });
        let storage = store.url("/large/").replace("127.0.0.1", "localhost");
        let hub = Server::start(move |request| {
            let answer = answer(&files, request, &storage);
            change(request, answer)
        });
        Hub {
            hub,
            store,
            home: temp(),
        }
    }

    /// A training run of no steps, which needs the weights of both encoders.
    fn train(&self, shards: &Path) -> Command {
        self.train_into("run", shards)
    }

    fn train_into(&self, out: &str, shards: &Path) -> Command {
        let mut command = command(
            "train",
            ["run", "crema-d", "--max-steps", "0", "--device", "cpu"],
        );
        command
            .arg("--shards")
            .arg(shards)
            .arg("--out")
            .arg(self.home.path().join(out));
        self.set(&mut command);
        command
    }

    /// Sets the environment variables for this hub.
    fn set(&self, command: &mut Command) {
        command
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_CACHE")
            .env("HF_ENDPOINT", self.hub.url(""))
            .env("HF_HOME", self.home.path().join("hf"))
            .env("HF_TOKEN", TOKEN);
    }

    fn cache(&self, repository: &str) -> PathBuf {
        let name = format!("models--{}", repository.replace('/', "--"));
        self.home.path().join("hf/hub").join(name)
    }

    fn requests(&self) -> usize {
        self.hub.sent().len() + self.store.sent().len()
    }
}

/// Answers as the hub does.
fn answer(files: &Files, request: &Request, storage: &str) -> Answer {
    let describe = |answer: Answer| answer.header("X-Repo-Commit", COMMIT);
    let path = request.path.trim_start_matches('/');
    if let Some(path) = path.strip_prefix("api/resolve-cache/models/") {
        let body = files[path].clone();
        let etag = format!("\"{}\"", &sha256(&body)[..40]);
        return describe(Answer::shared(body)).header("ETag", etag);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let [owner, name, "resolve", revision, file] = parts[..] else {
        panic!("no path of the hub: {path}");
    };
    assert!(["main", COMMIT, NEW].contains(&revision), "{revision}");
    let key = format!("{owner}/{name}/{file}");
    let Some(body) = files.get(&key) else {
        return describe(Answer::status(404)).header("X-Error-Code", "EntryNotFound");
    };
    if is_large(file) {
        let hash = sha256(body);
        describe(Answer::redirect(
            302,
            &format!("{storage}{hash}?signature=1"),
        ))
        .header("X-Linked-Etag", format!("\"{hash}\""))
        .header("X-Linked-Size", body.len().to_string())
    } else {
        describe(Answer::redirect(
            307,
            &format!("/api/resolve-cache/models/{key}"),
        ))
    }
}

fn shards() -> CremaD {
    CremaD::new(12)
}

/// The standard error of a command that must fail, as one line of text.
#[track_caller]
fn error_of(output: CommandOutput) -> String {
    let output = output.expect(2);
    let error = output.stderr.lines().last().unwrap().to_owned();
    assert!(error.starts_with("error: "), "{}", output.stderr);
    error
}

#[test]
fn training_fetches_weights_once_into_the_cache_of_the_python_package() {
    let data = shards();
    let hub = Hub::start(repositories(), |request, answer| {
        if request.path.contains("/resolve") {
            assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
        }
        answer
    });
    let first = run(&mut hub.train(&data.shards())).expect(EXIT_DONE);
    // Beforehand it says what, how large and where.
    let cache = hub.home.path().join("hf/hub");
    for word in [
        CLIP,
        "model.safetensors",
        "kB",
        &cache.display().to_string(),
    ] {
        assert!(first.stderr.contains(word), "no {word} in {}", first.stderr);
    }
    let folder = hub.cache(CLIP);
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    let files = repositories();
    let weights = &files[&format!("{CLIP}/model.safetensors")];
    let link = folder
        .join("snapshots")
        .join(COMMIT)
        .join("model.safetensors");
    let target = fs::read_link(&link).unwrap();
    assert_eq!(target, Path::new("../../blobs").join(sha256(weights)));
    assert_eq!(fs::read(&link).unwrap(), **weights);
    assert_eq!(names(&folder.join("blobs")).len(), 2);

    let requests = hub.requests();
    fs::remove_dir_all(hub.home.path().join("run")).unwrap();
    let again = run(&mut hub.train(&data.shards())).expect(EXIT_DONE);
    assert_eq!(hub.requests(), requests, "everything was in the cache");
    assert!(!again.stderr.contains("fetching"), "{}", again.stderr);
    // Nothing is sent without a network either.
    fs::remove_dir_all(hub.home.path().join("run")).unwrap();
    run(hub.train(&data.shards()).env("HF_HUB_OFFLINE", "1")).expect(EXIT_DONE);
}

#[test]
fn broken_stalled_and_refused_connections_are_repeated() {
    let data = shards();
    let hub = Hub::start(repositories(), |request, answer| {
        let is_large = request.path.starts_with("/large/");
        match request.earlier {
            // The first answers of a large file break and stall.
            0 if is_large => Answer {
                cut_after: Some(50_000),
                ..answer
            },
            1 if is_large => Answer {
                stall_after: Some(20_000),
                ..answer
            },
            2 if is_large => Answer::status(503),
            0 if request.path.ends_with("config.json") => {
                Answer::status(429).header("Retry-After", "1")
            }
            _ => answer,
        }
    });
    run(hub
        .train(&data.shards())
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "1"))
    .expect(EXIT_DONE);
    let sizes: usize = [CLIP, AST]
        .map(|name| repositories()[&format!("{name}/model.safetensors")].len())
        .iter()
        .sum();
    let sent = hub.store.sent();
    let files = sent.iter().filter(|sent| sent.status < 300);
    let bytes: usize = files.map(|sent| sent.bytes).sum();
    assert_eq!(bytes, sizes, "no byte of the weights is sent twice");
    // The other format was not asked for.
    assert!(
        hub.hub
            .sent()
            .iter()
            .all(|sent| !sent.path.ends_with(".bin"))
    );
}

#[test]
fn a_killed_fetch_goes_on() {
    const KILLS: usize = 10;
    let data = shards();
    let hub = Hub::start(repositories(), |_, answer| Answer {
        bytes_per_ms: Some(400),
        ..answer
    });
    let total: usize = [CLIP, AST]
        .map(|name| repositories()[&format!("{name}/model.safetensors")].len())
        .iter()
        .sum();
    let mut random = Rng::new(22, &[]);
    for kill in 0..KILLS {
        // Somewhere in the next tenth of what is still to be sent.
        let before = hub.store.bytes_so_far();
        let step = total / KILLS;
        let at = before + (random.uniform() * step as f64) as usize + 1;
        let done = kill_when(&mut hub.train(&data.shards()), || {
            hub.store.bytes_so_far() >= at
        });
        assert!(!done, "kill {kill} came too late");
    }
    run(&mut hub.train(&data.shards())).expect(EXIT_DONE);
    let (sent, bound) = (hub.store.bytes_so_far(), total + KILLS * 8192);
    assert!(sent <= bound, "{sent} bytes were sent, of {total}");
    for repository in [CLIP, AST] {
        let weights = &repositories()[&format!("{repository}/model.safetensors")];
        let blob = hub.cache(repository).join("blobs").join(sha256(weights));
        assert_eq!(fs::read(blob).unwrap(), **weights);
        let blobs = names(&hub.cache(repository).join("blobs"));
        assert_eq!(blobs.len(), 2, "{blobs:?}");
    }
}

#[test]
fn weights_with_wrong_bytes_are_not_trained_on() {
    let data = shards();
    let hub = Hub::start(repositories(), |request, answer| {
        let mut body = answer.body.to_vec();
        if request.path.starts_with("/large/") {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Answer {
            body: Arc::new(body),
            ..answer
        }
    });
    let error = error_of(run(&mut hub.train(&data.shards())));
    for word in [CLIP, "SHA-256", "instead of"] {
        assert!(
            error.contains(word) || error.contains("ast-finetuned"),
            "{error}"
        );
    }
    let blobs = [CLIP, AST].map(|name| hub.cache(name).join("blobs"));
    let blobs = blobs.iter().filter(|folder| folder.is_dir());
    assert!(
        blobs
            .flat_map(|folder| names(folder))
            .all(|name| name.len() != 64)
    );
}

#[test]
fn the_older_format_is_fetched_only_if_the_repository_has_no_other() {
    let data = shards();
    let mut files = repositories();
    let folder = workspace().join("tests/golden/bin/clip-vit-base-patch16");
    files.remove(&format!("{CLIP}/model.safetensors"));
    let bin = fs::read(folder.join("pytorch_model.bin")).unwrap();
    files.insert(format!("{CLIP}/pytorch_model.bin"), Arc::new(bin));
    let hub = Hub::start(files, |_, answer| answer);
    run(&mut hub.train(&data.shards())).expect(EXIT_DONE);
    assert!(
        hub.cache(CLIP)
            .join("snapshots")
            .join(COMMIT)
            .join("pytorch_model.bin")
            .is_file()
    );

    // A repository that has neither.
    let mut files = repositories();
    files.remove(&format!("{CLIP}/model.safetensors"));
    let hub = Hub::start(files, |_, answer| answer);
    let error = error_of(run(&mut hub.train(&data.shards())));
    assert!(
        error.contains("no model.safetensors and no pytorch_model.bin"),
        "{error}"
    );

    // A file that cannot be had now is not replaced by another one.
    let hub = Hub::start(repositories(), |request, answer| {
        match request.path.ends_with("model.safetensors") {
            true => Answer::status(418),
            false => answer,
        }
    });
    let error = error_of(run(&mut hub.train(&data.shards())));
    assert!(
        error.contains("model.safetensors") && error.contains("418"),
        "{error}"
    );
    assert!(
        hub.hub
            .sent()
            .iter()
            .all(|sent| !sent.path.ends_with(".bin"))
    );
}

#[test]
fn a_refusal_speaks_of_tokens_and_terms() {
    let data = shards();
    for status in [401, 403] {
        let hub = Hub::start(repositories(), move |_, _| Answer::status(status));
        let error = error_of(run(hub.train(&data.shards()).env_remove("HF_TOKEN")));
        for word in ["HF_TOKEN", "terms", &status.to_string(), "--weights DIR"] {
            assert!(error.contains(word), "no {word} in {error}");
        }
        let error = error_of(run(&mut hub.train(&data.shards())));
        assert!(error.contains("does not suffice"), "{error}");
        assert!(!error.contains(TOKEN), "{error}");
    }
}

#[test]
fn nothing_is_sent_offline() {
    let data = shards();
    let hub = Hub::start(repositories(), |_, answer| answer);
    let error = error_of(run(hub.train(&data.shards()).env("HF_HUB_OFFLINE", "1")));
    for word in ["config.json", "HF_HUB_OFFLINE", "just fetch weights"] {
        assert!(error.contains(word), "no {word} in {error}");
    }
    assert_eq!(hub.requests(), 0);
}

#[test]
fn an_interrupted_update_leaves_the_old_weights_usable_offline() {
    let data = shards();
    let is_updated = Arc::new(AtomicBool::new(false));
    let updated = is_updated.clone();
    let hub = Hub::start(repositories(), move |request, mut answer| {
        if updated.load(Ordering::SeqCst) {
            for (name, value) in &mut answer.headers {
                if name == "X-Repo-Commit" {
                    NEW.clone_into(value);
                }
            }
            // The hub names a version of the large file that its store does not have.
            if request.path.contains("/resolve/") && request.path.ends_with(".safetensors") {
                if request.path.contains(NEW) && request.method == "GET" {
                    return Answer::status(404);
                }
                for (name, value) in &mut answer.headers {
                    if name == "X-Linked-Etag" {
                        *value = format!("\"{}\"", "0".repeat(64));
                    }
                }
            }
        }
        answer
    });
    run(&mut fetch_weights(&hub, &[])).expect(EXIT_DONE);
    is_updated.store(true, Ordering::SeqCst);
    run(&mut fetch_weights(&hub, &[])).expect(2);
    let refs = hub.cache(CLIP).join("refs/main");
    assert_eq!(fs::read_to_string(refs).unwrap(), COMMIT);
    run(hub.train(&data.shards()).env("HF_HUB_OFFLINE", "1")).expect(EXIT_DONE);

    // What is in the cache is all that can be had offline, and is copied.
    let requests = hub.requests();
    let offline = |flags: &[&str]| {
        let mut command = fetch_weights(&hub, flags);
        command.env("HF_HUB_OFFLINE", "1");
        command
    };
    let fetched = run(&mut offline(&["--json"])).expect(EXIT_DONE).json();
    assert_eq!(fetched["folders"].as_array().unwrap().len(), 3);
    let to = hub.home.path().join("weights");
    run(&mut offline(&["--to", to.to_str().unwrap()])).expect(EXIT_DONE);
    for (file, body) in repositories() {
        let (_, path) = file.split_once('/').unwrap();
        assert_eq!(fs::read(to.join(path)).unwrap(), *body, "{path}");
    }
    // What is missing is named, and it alone.
    let folder = hub.cache(CLIP).join("snapshots").join(COMMIT);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let error = error_of(run(&mut offline(&[])));
    assert!(
        error.contains(&format!("{CLIP}/model.safetensors")),
        "{error}"
    );
    assert!(!error.contains("config.json"), "{error}");
    assert_eq!(hub.requests(), requests);
}

#[test]
fn a_description_of_the_model_needs_no_weights() {
    let hub = Hub::start(repositories(), |_, answer| answer);
    let mut describe = command("train", ["run", "ave", "--describe"]);
    hub.set(&mut describe);
    let output = run(&mut describe).expect(EXIT_DONE);
    // ViT-B/16 without its pooled head, as transformers counts it.
    assert!(output.stdout.contains("85,799,424"), "{}", output.stdout);
    assert_eq!(hub.requests(), 0);
}

#[test]
fn the_cache_may_lie_elsewhere() {
    let data = shards();
    let hub = Hub::start(repositories(), |_, answer| answer);
    let cache = temp();
    run(hub.train(&data.shards()).env("HF_HUB_CACHE", cache.path())).expect(EXIT_DONE);
    let name = format!("models--{}", CLIP.replace('/', "--"));
    assert!(
        cache
            .path()
            .join(name)
            .join("snapshots")
            .join(COMMIT)
            .is_dir()
    );
    assert!(!hub.home.path().join("hf").exists());
}

#[test]
fn processes_that_start_together_fetch_once() {
    let data = shards();
    let hub = Hub::start(repositories(), |_, answer| Answer {
        bytes_per_ms: Some(2000),
        ..answer
    });
    std::thread::scope(|scope| {
        for i in 0..3 {
            let mut command = hub.train_into(&format!("run-{i}"), &data.shards());
            scope.spawn(move || run(&mut command).expect(EXIT_DONE));
        }
    });
    let total: usize = [CLIP, AST]
        .map(|name| repositories()[&format!("{name}/model.safetensors")].len())
        .iter()
        .sum();
    assert_eq!(hub.store.bytes_so_far(), total);
}

#[test]
fn two_fetches_into_one_folder_fetch_once() {
    let hub = Hub::start(repositories(), |_, answer| Answer {
        bytes_per_ms: Some(1000),
        ..answer
    });
    let to = hub.home.path().join("weights");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut command = fetch_weights(&hub, &["--to", to.to_str().unwrap()]);
            scope.spawn(move || run(&mut command).expect(EXIT_DONE));
        }
    });
    let large = repositories()
        .into_iter()
        .filter(|(file, _)| is_large(file));
    let total: usize = large.map(|(_, body)| body.len()).sum();
    assert_eq!(hub.store.bytes_so_far(), total);
    assert_eq!(names(&to).len(), 3);
}

/// A call of `fetch weights`.
fn fetch_weights(hub: &Hub, flags: &[&str]) -> Command {
    let mut command = command("fetch", ["weights"]);
    command.args(flags);
    hub.set(&mut command);
    command
}

#[test]
fn weights_can_be_fetched_for_a_machine_without_a_network() {
    let data = shards();
    let hub = Hub::start(repositories(), |_, answer| answer);
    let to = hub.home.path().join("weights");
    let flags = ["--to", to.to_str().unwrap(), "--json"];
    let planned = run(fetch_weights(&hub, &flags).arg("--dry-run")).expect(EXIT_DONE);
    let bytes: usize = repositories().values().map(|body| body.len()).sum();
    assert_eq!(planned.json()["bytes"], bytes);
    let plan = planned.json()["plan"].as_str().unwrap().to_owned();
    assert!(
        plan.contains(CLIP) && !plan.contains("fetching 0 B"),
        "{plan}"
    );
    assert!(!to.exists());

    let fetched = run(&mut fetch_weights(&hub, &flags)).expect(EXIT_DONE);
    assert_eq!(fetched.json()["folders"].as_array().unwrap().len(), 3);
    for (file, body) in repositories() {
        let (_, path) = file.split_once('/').unwrap();
        assert_eq!(fs::read(to.join(path)).unwrap(), *body, "{path}");
    }
    let mut train = hub.train(&data.shards());
    run(train.arg("--weights").arg(&to).env("HF_HUB_OFFLINE", "1")).expect(EXIT_DONE);

    // What is there is no part of the plan.
    let planned = run(&mut fetch_weights(&hub, &["--to", flags[1], "--dry-run"])).expect(EXIT_DONE);
    assert!(
        planned.stdout.starts_with("fetching 0 B from"),
        "{}",
        planned.stdout
    );

    // A damaged file is fetched again, and it alone.
    let damaged = to.join("clip-vit-base-patch16/model.safetensors");
    let mut body = fs::read(&damaged).unwrap();
    let size = body.len();
    body[100] ^= 1;
    fs::write(&damaged, body).unwrap();
    let before = hub.store.bytes_so_far();
    run(&mut fetch_weights(&hub, &flags)).expect(EXIT_DONE);
    assert_eq!(hub.store.bytes_so_far() - before, size);
    let whole = &repositories()[&format!("{CLIP}/model.safetensors")];
    assert_eq!(fs::read(&damaged).unwrap(), **whole);
}

#[test]
fn weights_can_be_fetched_into_the_cache() {
    let hub = Hub::start(repositories(), |_, answer| answer);
    run(&mut fetch_weights(&hub, &[])).expect(EXIT_DONE);
    assert_eq!(names(&hub.cache(CLIP).join("blobs")).len(), 2);
    let before = hub.store.bytes_so_far();
    let blob = fs::canonicalize(
        hub.cache(AST)
            .join("snapshots")
            .join(COMMIT)
            .join("model.safetensors"),
    )
    .unwrap();
    let mut body = fs::read(&blob).unwrap();
    body[50] ^= 1;
    fs::write(&blob, &body).unwrap();
    run(&mut fetch_weights(&hub, &[])).expect(EXIT_DONE);
    assert_eq!(hub.store.bytes_so_far() - before, body.len());
    // So is a damaged content to which no link leads.
    fs::write(&blob, &body).unwrap();
    fs::remove_dir_all(hub.cache(AST).join("snapshots")).unwrap();
    run(&mut fetch_weights(&hub, &[])).expect(EXIT_DONE);
    assert_eq!(hub.store.bytes_so_far() - before, 2 * body.len());
    for (flags, words) in [
        (&["--raw", "x"][..], "--raw: is for datasets"),
        (&["--limit", "3"], "--limit: is for datasets"),
    ] {
        run(&mut fetch_weights(&hub, flags)).expect_usage(&[words]);
    }
}
