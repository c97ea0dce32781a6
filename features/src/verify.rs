//! Verifies that shards still have the bytes that were written, by their SHA-256 in
//! `manifest.json`.

use crate::Error;
use crate::shard_name::{MANIFEST_FILE, ShardName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;
use util::hash::sha256_of_file;

/// The most bytes of a manifest that are read: a million shards would take less.
const MAX_MANIFEST: u64 = 256 << 20;

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The number of shards that the manifest lists.
    pub shards: usize,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
    /// The file names of damaged shards, and the problem of each.
    pub damaged: BTreeMap<String, String>,
}

impl Verdict {
    /// Returns an error that names the first damaged shard, if there is one.
    ///
    /// # Errors
    /// A shard is damaged.
    pub fn check(&self, folder: &Path) -> Result<(), Error> {
        match self.damaged.iter().next() {
            None => Ok(()),
            Some((file, problem)) => Err(Error::unusable(
                format!(
                    "{}: {problem} ({} of {} shards are damaged)",
                    folder.join(file).display(),
                    self.damaged.len(),
                    self.shards
                ),
                "delete it and run `ingest run` again, which writes a new one",
            )),
        }
    }
}

/// Reads every shard that the manifest lists, on `threads` threads. `None` if there is no manifest.
///
/// # Errors
/// The manifest cannot be read or parsed.
pub fn verify(folder: &Path, threads: usize) -> Result<Option<Verdict>, Error> {
    let path = folder.join(MANIFEST_FILE);
    let text = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => {
            let mut text = String::new();
            file.and_then(|file| file.take(MAX_MANIFEST).read_to_string(&mut text))
                .map_err(Error::io(&path, "read"))?;
            text
        }
    };
    let listed = parse(&text).ok_or_else(|| {
        Error::unusable(
            format!("{}: is no manifest", path.display()),
            "delete it and run `ingest run` again, which writes a new one",
        )
    })?;
    let mut verdict = Verdict {
        shards: listed.len(),
        bytes: listed.iter().map(|(_, bytes, _)| bytes).sum(),
        damaged: BTreeMap::new(),
    };
    let (queue, damaged) = (Mutex::new(listed.iter()), Mutex::new(&mut verdict.damaged));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, listed.len().max(1)) {
            scope.spawn(|| {
                loop {
                    // A poisoned lock means that another thread panicked, which the scope passes
                    // on.
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((file, bytes, sha256)) = next else {
                        break;
                    };
                    if let Some(problem) = problem(&folder.join(file), *bytes, sha256)
                        && let Ok(mut damaged) = damaged.lock()
                    {
                        damaged.insert(file.clone(), problem);
                    }
                }
            });
        }
    });
    Ok(Some(verdict))
}

/// Returns file name, size and hash of every shard. Other names are refused, so that a manifest
/// leads to no file outside the folder.
fn parse(text: &str) -> Option<Vec<(String, u64, String)>> {
    let manifest: Value = serde_json::from_str(text).ok()?;
    let shards = manifest.get("shards")?.as_array()?.iter().map(|shard| {
        let file = shard.get("file")?.as_str()?;
        ShardName::parse(file)?;
        let bytes = shard.get("bytes")?.as_u64()?;
        let sha256 = shard.get("sha256")?.as_str()?;
        Some((file.to_owned(), bytes, sha256.to_owned()))
    });
    shards.collect()
}

/// Returns the problem of a shard that is damaged.
fn problem(path: &Path, bytes: u64, sha256: &str) -> Option<String> {
    let measure = || {
        let length = std::fs::metadata(path)?.len();
        if length != bytes {
            return Ok(Some(format!(
                "has {length} bytes, the manifest says {bytes}"
            )));
        }
        let (_, found) = sha256_of_file(path)?;
        let changed = "its SHA-256 is not the manifest's, so its bytes have changed on the disk";
        Ok((found != sha256).then(|| changed.to_owned()))
    };
    measure().unwrap_or_else(|error: io::Error| Some(format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn damaged_shards_are_found_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(verify(folder, 1).unwrap(), None);
        let name = |i: usize| format!("train-{i:05}-of-00004.parquet");
        let entries: Vec<Value> = (0..4)
            .map(|i| {
                let bytes = vec![i as u8; 3_000_000];
                fs::write(folder.join(name(i)), &bytes).unwrap();
                let sha256 = util::hash::sha256(&bytes);
                serde_json::json!({"file": name(i), "bytes": bytes.len(), "sha256": sha256})
            })
            .collect();
        let manifest = |shards: &[Value]| serde_json::json!({"shards": shards}).to_string();
        fs::write(folder.join(MANIFEST_FILE), manifest(&entries)).unwrap();
        let whole = verify(folder, 3).unwrap().unwrap();
        assert_eq!((whole.shards, whole.bytes), (4, 12_000_000));
        assert!(whole.damaged.is_empty() && whole.check(folder).is_ok());

        let mut flipped = fs::read(folder.join(name(1))).unwrap();
        flipped[2_999_999] ^= 4;
        fs::write(folder.join(name(1)), flipped).unwrap();
        fs::write(folder.join(name(2)), "short").unwrap();
        fs::remove_file(folder.join(name(3))).unwrap();
        let verdict = verify(folder, 2).unwrap().unwrap();
        let found: Vec<&str> = verdict.damaged.values().map(String::as_str).collect();
        assert_eq!(found.len(), 3);
        assert!(found[0].contains("SHA-256") && found[1].contains("5 bytes"));
        assert!(found[2].contains("cannot be read"));
        let error = verdict.check(folder).unwrap_err().to_string();
        assert!(
            error.contains(&name(1)) && error.contains("3 of 4"),
            "{error}"
        );

        for text in [
            "",
            "{}",
            "[]",
            "{\"shards\":[{\"file\":\"../x\",\"bytes\":1,\"sha256\":\"\"}]}",
        ] {
            fs::write(folder.join(MANIFEST_FILE), text).unwrap();
            assert!(verify(folder, 1).is_err(), "{text}");
        }
    }
}
