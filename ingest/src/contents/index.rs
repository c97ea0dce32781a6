//! What is remembered of the source files of one shard.
//!
//! The index is no part of the deterministic output: it holds times and inodes. Where it is absent
//! or damaged, all files are read again, and it is written anew.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use features::ShardName;
use serde::{Deserialize, Serialize};

use crate::output::Output;
use crate::plan::hash_json;

/// The folder of the indices, in the folder of the shards.
pub const FOLDER: &str = ".sources";

/// A file that is younger than this may change again without a change of its times, because file
/// systems store times in steps of up to two seconds.
const YOUNG_SECONDS: i64 = 2;

/// What the file system tells about a file without reading it. Links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The size in bytes.
    size: u64,
    /// The number of the inode.
    inode: u64,
    /// When the contents changed last: seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// When contents or inode changed last.
    changed: (i64, i64),
}

impl Stat {
    /// Returns what is known of a regular file. `None` if there is none at this path, or it cannot
    /// be examined.
    pub fn of(path: &Path) -> Option<Stat> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Stat {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether the contents are the same as at another time, as far as this can tell. A change of
    /// mode or owner does not count.
    fn has_contents_of(&self, other: &Stat) -> bool {
        (self.size, self.inode, self.modified) == (other.size, other.inode, other.modified)
    }

    /// Whether the times of this file, which was examined just now, would tell of a later change.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |time| time.as_secs() as i64);
        self.modified.0.max(self.changed.0) + YOUNG_SECONDS < now
    }
}

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The number of bytes.
    pub bytes: u64,
    /// The SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Content {
    /// Reads a file. `None` if it cannot be read.
    pub fn of(path: &Path) -> Option<Content> {
        let (bytes, sha256) = util::hash::sha256_of_file(path).ok()?;
        Some(Content { bytes, sha256 })
    }
}

/// A file as it was found before its contents were read.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    stat: Option<Stat>,
    is_settled: bool,
}

impl Observation {
    /// Examines a file without reading it.
    pub fn of(path: &Path) -> Observation {
        let stat = Stat::of(path);
        Observation {
            stat,
            is_settled: stat.is_some_and(|stat| stat.is_settled()),
        }
    }

    /// Whether the file is as it was when its remembered content was read, by all that can be known
    /// without reading it.
    pub fn recognises(&self, entry: &Entry) -> bool {
        entry.content.is_some() && entry.stat.is_some() && entry.stat == self.stat
    }

    /// Whether the file has another size than the content that is remembered.
    pub fn has_other_size(&self, entry: &Entry) -> bool {
        match (&self.stat, &entry.content) {
            (Some(stat), Some(content)) => stat.size != content.bytes,
            _ => false,
        }
    }

    /// Reads the contents if this is a regular file.
    pub fn read(&self, path: &Path) -> Option<Content> {
        self.stat.and_then(|_| Content::of(path))
    }

    /// Whether the file was there and is not any more.
    pub fn has_vanished(&self, path: &Path) -> bool {
        self.stat.is_some() && Stat::of(path).is_none()
    }

    /// Returns the entry of a file that had this content when it was read after the observation.
    /// `path` is examined again: of a file that changed meanwhile nothing is known.
    pub fn entry(&self, path: &Path, content: Option<Content>) -> Entry {
        let now = Stat::of(path);
        let is_same = match (&self.stat, &now) {
            (Some(before), Some(now)) => now.has_contents_of(before),
            _ => false,
        };
        Entry {
            stat: self.stat.filter(|_| is_same && self.is_settled),
            content: content.filter(|_| is_same),
        }
    }
}

/// What is remembered of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// By which the file is recognised as unchanged. `None` if it was too young for that.
    pub stat: Option<Stat>,
    /// `None` if the file could not be read, or changed while the shard was made.
    pub content: Option<Content>,
}

/// The source files of one shard, by their paths in the listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    files: BTreeMap<PathBuf, Entry>,
}

impl Index {
    /// Adds a file.
    pub fn insert(&mut self, file: &Path, entry: Entry) {
        self.files.insert(file.to_owned(), entry);
    }

    /// Returns what is remembered of a file.
    pub fn get(&self, file: &Path) -> Option<&Entry> {
        self.files.get(file)
    }

    /// Returns the SHA-256 of paths and contents, in hexadecimal.
    pub fn content_hash(&self) -> String {
        let files = self.files.iter();
        let contents: Vec<_> = files.map(|(file, entry)| (file, &entry.content)).collect();
        hash_json(&contents)
    }

    /// Reads the index of a shard. One that is absent or damaged is empty.
    pub fn read(output: &Output, shard: ShardName) -> Index {
        let bytes = output.read(&name_in_output(shard));
        let bytes = bytes.ok().flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes the index of a shard.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, output: &Output, shard: ShardName) -> anyhow::Result<()> {
        output.write(&name_in_output(shard), &serde_json::to_vec(self)?)
    }
}

/// Returns the name of a shard's index in [`FOLDER`].
pub fn file_name(shard: ShardName) -> String {
    format!("{}.json", shard.file_name())
}

fn name_in_output(shard: ShardName) -> String {
    format!("{FOLDER}/{}", file_name(shard))
}

#[cfg(test)]
mod tests {
    use datasets::Split;

    use super::*;

    fn shard() -> ShardName {
        ShardName {
            split: Split::Train,
            number: 0,
            of: 1,
        }
    }

    /// A file that was written just now may be written again within one step of its times.
    #[test]
    fn young_and_changed_files_are_not_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        fs::write(&file, "first").unwrap();
        let observation = Observation::of(&file);
        let entry = observation.entry(&file, observation.read(&file));
        assert_eq!(entry.stat, None);
        assert_eq!(entry.content.map(|content| content.bytes), Some(5));
        // The file changes between the observation and the end of reading.
        fs::write(&file, "second").unwrap();
        let content = observation.read(&file);
        assert_eq!(observation.entry(&file, content), Entry::default());
        // A folder is no file, and is not opened.
        let observation = Observation::of(folder.path());
        assert_eq!(observation.read(folder.path()), None);
    }

    #[test]
    fn damaged_indices_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let output = &Output::new(folder.path().into());
        assert_eq!(Index::read(output, shard()), Index::default());
        let mut index = Index::default();
        let content = Content {
            bytes: 3,
            sha256: "abc".to_owned(),
        };
        let entry = Entry {
            stat: None,
            content: Some(content),
        };
        index.insert(Path::new("a/b.wav"), entry);
        index.write(output, shard()).unwrap();
        assert_eq!(Index::read(output, shard()), index);
        let path = folder.path().join(name_in_output(shard()));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(Index::read(output, shard()), Index::default());
    }
}
