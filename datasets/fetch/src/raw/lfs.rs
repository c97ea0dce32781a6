//! Objects of Git LFS, by the batch API (git-lfs, docs/api/batch.md).

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::run::{Finding, Run};
use crate::client::Request;
use crate::error::{Error, Kind};
use crate::origin::{Base, Remote};

/// Objects in one request, as `git lfs` asks for them.
const BATCH: usize = 100;
/// How often an object is asked for whose address has expired, or which was damaged.
const ROUNDS: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
/// The longest answer: 100 objects with signed addresses have 200 kB.
const MAX_ANSWER: u64 = 16 << 20;
const QUOTA: &str = "if it is the repository's monthly quota of Git LFS, try again next month, or clone \
     https://gitlab.com/cs-cooper-lab/crema-d-mirror with git-lfs";

/// The beginning of a pointer file (git-lfs, docs/spec.md).
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n";

/// A file that Git LFS holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its path below the raw folder.
    pub path: String,
    /// The SHA-256 of its content.
    pub oid: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Object {
    /// Parses a pointer file.
    pub fn of_pointer(path: &str, text: &str) -> Option<Object> {
        let text = text.strip_prefix(POINTER)?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Object::new(path, field("oid sha256:")?, field("size ")?)
    }

    /// An object, if its hash and size are such.
    pub fn new(path: &str, oid: &str, size: &str) -> Option<Object> {
        let is_hash = oid.len() == 64 && oid.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(Object {
            path: path.to_owned(),
            oid: is_hash.then(|| oid.to_ascii_lowercase())?,
            size: size.trim().parse().ok()?,
        })
    }
}

/// An object to be asked for again, and why.
type Failed = (Object, String);

/// Fetches the objects that are not there with their size. Returns those that cannot be had.
///
/// # Errors
/// The server refuses the requests or does not answer, or a file cannot be written.
pub fn fetch(run: &Run, base: &Base, objects: &[Object]) -> Result<Vec<Finding>, Error> {
    let is_there = |object: &Object| {
        fs::metadata(run.raw.join(&object.path)).is_ok_and(|file| file.len() == object.size)
    };
    let (there, mut left): (Vec<Object>, Vec<Object>) = objects.iter().cloned().partition(is_there);
    let bytes: u64 = objects.iter().map(|one| one.size).sum();
    run.progress.set_expected(run.progress.bytes() + bytes);
    run.progress.skip(there.iter().map(|one| one.size).sum());
    let mut findings = Vec::new();
    let mut pause = run.client.limits().first_pause;
    for round in 1..=ROUNDS {
        if left.is_empty() {
            break;
        }
        if round > 1 {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let counts = (objects.len() - left.len(), objects.len());
        let failed = one_round(run, base, left, counts, &mut findings)?;
        if round == ROUNDS {
            findings.extend(failed.iter().map(|(object, why)| finding(object, why)));
        }
        left = failed.into_iter().map(|(object, _)| object).collect();
    }
    findings.sort_by(|a, b| a.what.cmp(&b.what));
    Ok(findings)
}

fn finding(object: &Object, why: &str) -> Finding {
    Finding {
        what: object.path.clone(),
        why: why.to_owned(),
    }
}

/// What the threads of a round share.
struct Round<'a> {
    run: &'a Run<'a>,
    base: &'a Base,
    queue: Mutex<VecDeque<Vec<Object>>>,
    failed: Mutex<Vec<Failed>>,
    findings: Mutex<Vec<Finding>>,
    error: Mutex<Option<Error>>,
    is_stopped: AtomicBool,
    done: AtomicUsize,
    all: usize,
}

/// Asks for each object once. Returns those that have to be asked for again.
fn one_round(
    run: &Run,
    base: &Base,
    objects: Vec<Object>,
    (done, all): (usize, usize),
    findings: &mut Vec<Finding>,
) -> Result<Vec<Failed>, Error> {
    // Each thread has a part of few files, too.
    let batch = objects.len().div_ceil(run.jobs).clamp(1, BATCH);
    let batches = objects.chunks(batch).map(<[Object]>::to_vec);
    let round = Round {
        run,
        base,
        queue: Mutex::new(batches.collect()),
        failed: Mutex::default(),
        findings: Mutex::default(),
        error: Mutex::default(),
        is_stopped: AtomicBool::new(false),
        done: AtomicUsize::new(done),
        all,
    };
    thread::scope(|scope| {
        for _ in 0..run.jobs {
            scope.spawn(|| {
                loop {
                    // The guard of the queue must not be held while a batch is fetched.
                    let batch = lock(&round.queue).pop_front();
                    let Some(batch) = batch.filter(|_| !round.is_stopped()) else {
                        break;
                    };
                    if let Err(error) = round.fetch_batch(&batch) {
                        round.is_stopped.store(true, Ordering::Relaxed);
                        lock(&round.error).get_or_insert(error);
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&round.error).take() {
        return Err(error);
    }
    findings.append(&mut lock(&round.findings));
    let mut failed = std::mem::take(&mut *lock(&round.failed));
    failed.sort();
    Ok(failed)
}

impl Round<'_> {
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn fetch_batch(&self, batch: &[Object]) -> Result<(), Error> {
        let mut answers = self.ask(batch)?;
        for object in batch {
            if self.is_stopped() {
                return Ok(());
            }
            let again = |why: String| lock(&self.failed).push((object.clone(), why));
            match answers.remove(&object.oid) {
                Some(Answer::File(remote)) => match self.save(object, &remote) {
                    Ok(()) => {}
                    // A signed address has expired, or what arrived was damaged.
                    Err(error) if is_of_this_object(&error) => again(error.to_string()),
                    Err(error) => return Err(error),
                },
                Some(Answer::Gone(why)) => lock(&self.findings).push(finding(object, &why)),
                Some(Answer::Again(why)) => again(why),
                None => again("the server's answer lacks it".to_owned()),
            }
        }
        Ok(())
    }

    /// Asks where the objects of a batch are, by their hashes.
    fn ask(&self, batch: &[Object]) -> Result<HashMap<String, Answer>, Error> {
        let address = match self.base {
            Base::Server(address) => format!("{address}.git/info/lfs/objects/batch"),
            Base::Folder(folder) => {
                let place = |object: &Object| {
                    let oid = &object.oid;
                    // As Git LFS keeps them in `.git`.
                    let path: PathBuf = [&oid[..2], &oid[2..4], oid].iter().collect();
                    let path = folder.join("lfs/objects").join(path);
                    (oid.clone(), Answer::File(Remote::File(path)))
                };
                return Ok(batch.iter().map(place).collect());
            }
        };
        let objects: Vec<Value> = batch
            .iter()
            .map(|object| json!({"oid": object.oid, "size": object.size}))
            .collect();
        let body = json!({"operation": "download", "transfers": ["basic"], "objects": objects});
        let mut request = Request::get(&address)
            .header("accept", MEDIA_TYPE)
            .header("content-type", MEDIA_TYPE);
        request.body = Some(body.to_string());
        let text = self.run.client.text(&request, MAX_ANSWER);
        let text = text.map_err(|error| match error.kind {
            Kind::Denied => error.with_advice(QUOTA),
            Kind::NotFound => error.with_advice(
                "no Git LFS is there; --source names a Git repository, without .git at its end",
            ),
            _ => error,
        })?;
        let answer: Option<Value> = serde_json::from_str(&text).ok();
        let objects = answer
            .as_ref()
            .and_then(|answer| answer["objects"].as_array());
        let Some(objects) = objects else {
            let message = "the answer is none of the batch API of Git LFS";
            return Err(Error::new(&address, Kind::Refused, message));
        };
        let of = |object: &Value| Some((object["oid"].as_str()?.to_owned(), Answer::of(object)));
        Ok(objects.iter().filter_map(of).collect())
    }

    fn save(&self, object: &Object, remote: &Remote) -> Result<(), Error> {
        let path = self.run.raw.join(&object.path);
        let transfer = self.run.progress.transfer(&object.path);
        let (size, sha256) = (Some(object.size), Some(object.oid.as_str()));
        remote.save(self.run.client, &path, size, sha256, &transfer)?;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.run
            .progress
            .set_note(&format!("{done} of {} files", self.all));
        Ok(())
    }
}

/// Whether other objects can be had although this one cannot.
fn is_of_this_object(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::Denied | Kind::NotFound | Kind::Refused | Kind::Mismatch | Kind::Changed
    )
}

/// What a server says of an object.
enum Answer {
    File(Remote),
    /// It does not have it.
    Gone(String),
    /// It may be had later.
    Again(String),
}

impl Answer {
    fn of(object: &Value) -> Answer {
        let error = &object["error"];
        if let Some(code) = error["code"].as_u64() {
            let message = error["message"].as_str().unwrap_or("no reason given");
            let why = format!("the server answers {code}: {message}");
            return match code {
                404 | 410 | 422 => Answer::Gone(why),
                _ => Answer::Again(why),
            };
        }
        let action = &object["actions"]["download"];
        let Some(address) = action["href"].as_str() else {
            return Answer::Gone("the server names no address".to_owned());
        };
        let mut request = Request::get(address);
        if let Some(headers) = action["header"].as_object() {
            for (name, value) in headers {
                if let Some(value) = value.as_str() {
                    request = request.header(name.clone(), value);
                }
            }
        }
        Answer::File(Remote::Request(request))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is consistent at any moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_parsed() {
        let oid = "c6f94b2592487c7556bd86df7df6e8f4420d1b9c11414aeec9d8e5e640b51495";
        let text = format!("{POINTER}oid sha256:{oid}\nsize 72862\n");
        let object = Object::of_pointer("AudioWAV/1001_DFA_ANG_XX.wav", &text).unwrap();
        assert_eq!((object.oid.as_str(), object.size), (oid, 72_862));
        assert_eq!(Object::of_pointer("x", "RIFF"), None);
        assert_eq!(Object::of_pointer("x", POINTER), None);
        let short = format!("{POINTER}oid sha256:12\nsize 1\n");
        assert_eq!(Object::of_pointer("x", &short), None);
    }
}
