//! Copies shards from an object store onto a disk, for programs that read files alone.

use super::names;
use super::shard::unreadable;
use crate::shard_name::{FAILURES_FILE, MANIFEST_FILE};
use media::Error;
use parquet::file::reader::{ChunkReader, Length};
use std::io::Write;
use std::path::Path;
use store::Folder;
use util::atomic::AtomicFile;

/// The bytes that are copied at once.
const CHUNK: u64 = 8 << 20;

/// Copies the shards of a folder, its manifest and its table of failures into a folder on a disk,
/// which must exist. Returns the bytes of the shards.
///
/// # Errors
/// A shard is missing, the store does not answer, or the disk is full.
pub fn copy_to(folder: &Folder, target: &Path) -> Result<u64, Error> {
    let shards = names::list(folder)?;
    folder.map(&shards, |(_, entry)| {
        let path = folder.path_of(&entry.name);
        let file = folder.open_entry(entry)?;
        let mut copy = create(target, &entry.name)?;
        let mut at = 0;
        while at < file.len() {
            let bytes = file.get_bytes(at, CHUNK.min(file.len() - at) as usize);
            let bytes = bytes.map_err(|e| unreadable(&path, e))?;
            copy.write_all(&bytes).map_err(Error::io(target, "write"))?;
            at += bytes.len() as u64;
        }
        copy.publish().map_err(Error::io(target, "write"))
    })?;
    for name in [MANIFEST_FILE, FAILURES_FILE] {
        if let Some(bytes) = folder.read(name)? {
            let mut copy = create(target, name)?;
            copy.write_all(&bytes).map_err(Error::io(target, "write"))?;
            copy.publish().map_err(Error::io(target, "write"))?;
        }
    }
    Ok(shards.iter().map(|(_, entry)| entry.bytes).sum())
}

fn create(target: &Path, name: &str) -> Result<AtomicFile, Error> {
    AtomicFile::create(&target.join(name)).map_err(Error::io(target, "create"))
}
