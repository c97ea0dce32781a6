//! The SHA-256 of shards in a store, remembered beside them, so that a manifest can be written
//! without downloading what other machines have uploaded.
//!
//! What is remembered names the version of the object (its ETag), and is used for that version
//! alone: a shard that was replaced since is read.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use anyhow::Context;
use parquet::file::reader::ChunkReader;
use serde::{Deserialize, Serialize};
use store::{Entry, Folder};
use util::hash::sha256_of_reader;

/// The folder of what is remembered, in the folder of the shards.
pub const FOLDER: &str = ".hashes";

/// What is remembered of a shard.
#[derive(Debug, Serialize, Deserialize)]
struct ShardHash {
    /// The version of the object.
    version: String,
    /// The SHA-256, in hexadecimal.
    sha256: String,
}

/// Uploads a shard, and remembers its hash.
///
/// # Errors
/// The file cannot be read, or the store does not answer or refuses it.
pub fn upload(folder: &Folder, shard: &str, mut file: File) -> anyhow::Result<()> {
    let hash = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| sha256_of_reader(&file));
    let (_, sha256) = hash.with_context(|| format!("{shard}: cannot read the temporary file"))?;
    let version = folder.upload(shard, &file)?;
    remember(folder, shard, version.as_deref(), &sha256)
}

/// Returns the SHA-256 of a version of a shard, in hexadecimal. One that nobody has remembered is
/// computed, for which the shard is read.
///
/// # Errors
/// The store does not answer, or the shard has been replaced meanwhile.
pub fn of_version(folder: &Folder, entry: &Entry) -> anyhow::Result<String> {
    let remembered = folder.read(&record(&entry.name))?;
    let remembered = remembered.and_then(|json| serde_json::from_slice::<ShardHash>(&json).ok());
    if let Some(hash) = remembered
        && Some(hash.version.as_str()) == entry.version()
    {
        return Ok(hash.sha256);
    }
    let path = || folder.path_of(&entry.name).display().to_string();
    let file = folder.open_entry(entry)?;
    let reader = file.get_read(0).with_context(path)?;
    let (_, sha256) = sha256_of_reader(reader).with_context(path)?;
    remember(folder, &entry.name, entry.version(), &sha256)?;
    Ok(sha256)
}

/// Remembers a hash. One of an object without a version would be of no use.
fn remember(
    folder: &Folder,
    shard: &str,
    version: Option<&str>,
    sha256: &str,
) -> anyhow::Result<()> {
    if let Some(version) = version {
        let hash = ShardHash {
            version: version.to_owned(),
            sha256: sha256.to_owned(),
        };
        let json = serde_json::to_vec(&hash)?;
        folder.write(&record(shard), &json)?;
    }
    Ok(())
}

/// Returns the name of the file that remembers the hash of a shard.
fn record(shard: &str) -> String {
    format!("{FOLDER}/{shard}.json")
}
