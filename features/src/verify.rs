//! Verifies that shards still have the bytes that were written, by their SHA-256 in
//! `manifest.json`.

use crate::shard_name::{MANIFEST_FILE, ShardName};
use media::Error;
use parquet::file::reader::{ChunkReader, Length};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use store::{Folder, StoredFile};
use util::hash::sha256_of_file;

/// The bytes of a shard in a store that are read at once.
const CHUNK: u64 = 8 << 20;

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
    pub fn check(&self, folder: &Folder) -> Result<(), Error> {
        match self.damaged.iter().next() {
            None => Ok(()),
            Some((file, problem)) => Err(Error::unusable(
                format!(
                    "{}: {problem} ({} of {} shards are damaged)",
                    folder.path_of(file).display(),
                    self.damaged.len(),
                    self.shards
                ),
                "delete it and run `ingest run` again, which writes a new one",
            )),
        }
    }
}

/// A shard in the manifest.
pub(crate) struct Listed {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Reads every shard that the manifest lists, on `threads` threads. `None` if there is no manifest.
///
/// # Errors
/// The manifest cannot be read or parsed.
pub fn verify(folder: &Folder, threads: usize) -> Result<Option<Verdict>, Error> {
    check_listed(folder, threads, &|listed| match folder.local() {
        Some(local) => problem(&local.join(&listed.file), listed),
        None => problem_in_store(folder, listed),
    })
}

/// Compares only the sizes of the shards with the manifest, which downloads nothing of shards in an
/// object store. `None` if there is no manifest.
///
/// # Errors
/// The manifest cannot be read or parsed, or the store does not answer.
pub fn verify_sizes(folder: &Folder, threads: usize) -> Result<Option<Verdict>, Error> {
    let list = match folder.is_listable() {
        true => Some(folder.list()?),
        false => None,
    };
    check_listed(folder, threads, &|listed| {
        let entry = match &list {
            Some(entries) => Ok(entries.iter().find(|e| e.name == listed.file).cloned()),
            None => folder.entry(&listed.file),
        };
        match entry {
            Ok(Some(entry)) => wrong_size(entry.bytes, listed),
            Ok(None) => Some("is missing".to_owned()),
            Err(error) => Some(format!("cannot be read: {error}")),
        }
    })
}

/// Calls `problem` for every shard that the manifest lists.
fn check_listed(
    folder: &Folder,
    threads: usize,
    problem: &(dyn Fn(&Listed) -> Option<String> + Sync),
) -> Result<Option<Verdict>, Error> {
    let Some(listed) = listed(folder)? else {
        return Ok(None);
    };
    let mut verdict = Verdict {
        shards: listed.len(),
        bytes: listed.iter().map(|listed| listed.bytes).sum(),
        damaged: BTreeMap::new(),
    };
    let (queue, damaged) = (Mutex::new(listed.iter()), Mutex::new(&mut verdict.damaged));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, listed.len().max(1)) {
            scope.spawn(|| {
                // A poisoned lock means that another thread panicked, which the scope passes on.
                while let Some(listed) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    if let Some(problem) = problem(listed)
                        && let Ok(mut damaged) = damaged.lock()
                    {
                        damaged.insert(listed.file.clone(), problem);
                    }
                }
            });
        }
    });
    Ok(Some(verdict))
}

/// Returns the shards that the manifest of a folder lists. `None` if there is no manifest.
///
/// # Errors
/// The manifest cannot be read or parsed.
pub(crate) fn listed(folder: &Folder) -> Result<Option<Vec<Listed>>, Error> {
    let Some(bytes) = folder.read(MANIFEST_FILE)? else {
        return Ok(None);
    };
    let listed = parse(&bytes).ok_or_else(|| {
        Error::unusable(
            format!(
                "{}: is no manifest",
                folder.path_of(MANIFEST_FILE).display()
            ),
            "delete it and run `ingest run` again, which writes a new one",
        )
    })?;
    Ok(Some(listed))
}

/// Returns file name, size and hash of every shard. Other names are refused, so that a manifest
/// leads to no file outside the folder.
fn parse(bytes: &[u8]) -> Option<Vec<Listed>> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    let shards = manifest.get("shards")?.as_array()?.iter().map(|shard| {
        let file = shard.get("file")?.as_str()?;
        ShardName::parse(file)?;
        Some(Listed {
            file: file.to_owned(),
            bytes: shard.get("bytes")?.as_u64()?,
            sha256: shard.get("sha256")?.as_str()?.to_owned(),
        })
    });
    shards.collect()
}

/// Returns the problem of a shard on a disk that is damaged.
fn problem(path: &Path, listed: &Listed) -> Option<String> {
    let measure = || {
        let length = std::fs::metadata(path)?.len();
        if let Some(problem) = wrong_size(length, listed) {
            return Ok(Some(problem));
        }
        let (_, found) = sha256_of_file(path)?;
        Ok(wrong_hash(&found, listed))
    };
    measure().unwrap_or_else(|error: std::io::Error| Some(format!("cannot be read: {error}")))
}

/// Returns the problem of a shard in a store that is damaged.
fn problem_in_store(folder: &Folder, listed: &Listed) -> Option<String> {
    match folder.open(&listed.file) {
        Ok(None) => Some("is missing".to_owned()),
        Ok(Some(file)) => {
            wrong_size(file.len(), listed).or_else(|| match sha256_of_stored(&file) {
                Ok(found) => wrong_hash(&found, listed),
                Err(error) => Some(format!("cannot be read: {error}")),
            })
        }
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

fn sha256_of_stored(file: &StoredFile) -> Result<String, parquet::errors::ParquetError> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < file.len() {
        let bytes = file.get_bytes(at, CHUNK.min(file.len() - at) as usize)?;
        hash.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(hex::encode(hash.finalize()))
}

fn wrong_size(found: u64, listed: &Listed) -> Option<String> {
    let expected = listed.bytes;
    (found != expected).then(|| format!("has {found} bytes, the manifest says {expected}"))
}

fn wrong_hash(found: &str, listed: &Listed) -> Option<String> {
    let changed = "its SHA-256 is not the manifest's, so its bytes have changed since";
    (found != listed.sha256).then(|| changed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn damaged_shards_are_found_and_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        let shards = &Folder::from(folder);
        assert_eq!(verify(shards, 1).unwrap(), None);
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
        let whole = verify(shards, 3).unwrap().unwrap();
        assert_eq!((whole.shards, whole.bytes), (4, 12_000_000));
        assert!(whole.damaged.is_empty() && whole.check(shards).is_ok());

        let mut flipped = fs::read(folder.join(name(1))).unwrap();
        flipped[2_999_999] ^= 4;
        fs::write(folder.join(name(1)), flipped).unwrap();
        fs::write(folder.join(name(2)), "short").unwrap();
        fs::remove_file(folder.join(name(3))).unwrap();
        let verdict = verify(shards, 2).unwrap().unwrap();
        let sizes = verify_sizes(shards, 2).unwrap().unwrap();
        let found: Vec<&str> = sizes.damaged.keys().map(String::as_str).collect();
        assert_eq!(found, [name(2), name(3)]);
        let found: Vec<&str> = verdict.damaged.values().map(String::as_str).collect();
        assert_eq!(found.len(), 3);
        assert!(found[0].contains("SHA-256") && found[1].contains("5 bytes"));
        assert!(found[2].contains("cannot be read"));
        let error = verdict.check(shards).unwrap_err().to_string();
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
            assert!(verify(shards, 1).is_err(), "{text}");
        }
    }
}
