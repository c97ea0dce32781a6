//! The folder that a run writes, on a disk or in an object store. Everything that `ingest run` does
//! with it goes through [`Output`].
//!
//! A file appears under its name whole or not at all. Names are relative to the folder, with
//! slashes between their parts. A store has no locks: see [`crate::run::existing::claim`].

mod lock;
mod shard_file;
mod shard_hash;
mod uploads;

use std::fmt;
use std::fs;
use std::io;
use std::sync::Arc;

use anyhow::Context;
use features::ShardName;
use store::{Entry, Folder, StoredFile};
use util::atomic;

pub use self::lock::{OutputLock, Scope};
pub use self::shard_file::ShardFile;
use self::uploads::Uploads;

/// The output folder of a run.
#[derive(Clone)]
pub struct Output {
    folder: Folder,
    uploads: Arc<Uploads>,
}

/// A shard that is complete.
#[derive(Debug, Clone)]
pub struct StoredShard {
    /// The shard's name.
    pub name: ShardName,
    /// Its size, and its version in a store.
    pub entry: Entry,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder.fmt(f)
    }
}

impl Output {
    /// An output folder, which need not exist.
    pub fn new(folder: Folder) -> Output {
        Output {
            folder,
            uploads: Arc::default(),
        }
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Whether the folder lies in an object store.
    pub fn is_remote(&self) -> bool {
        self.folder.local().is_none()
    }

    /// Checks that a store can be used, before the work begins.
    ///
    /// # Errors
    /// There is no such bucket, the store does not answer or refuses access, or it is a web server.
    pub fn check(&self) -> anyhow::Result<()> {
        self.folder.check_writable()?;
        if self.is_remote() {
            self.folder.list()?;
        }
        Ok(())
    }

    /// Creates the folder if it is missing.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn create(&self) -> anyhow::Result<()> {
        match self.folder.local() {
            Some(folder) => fs::create_dir_all(folder).with_context(|| {
                format!("{self}: cannot create this folder; choose another --out")
            }),
            None => Ok(()),
        }
    }

    /// Locks the folder, which must exist. A store has no locks.
    ///
    /// # Errors
    /// Another run writes the same files, or the folder cannot be written.
    pub fn lock(&self, scope: Scope) -> anyhow::Result<Option<OutputLock>> {
        let folder = self.folder.local();
        folder
            .map(|folder| OutputLock::acquire(folder, scope))
            .transpose()
    }

    /// Returns where a file is, for messages.
    pub fn describe(&self, name: &str) -> String {
        self.folder.path_of(name).display().to_string()
    }

    /// Returns the shards, sorted by name. A folder that does not exist has none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn shards(&self) -> anyhow::Result<Vec<StoredShard>> {
        let entries = self.folder.list()?.into_iter();
        let shard = |entry: Entry| {
            let name = ShardName::parse(&entry.name)?;
            Some(StoredShard { name, entry })
        };
        let mut shards: Vec<StoredShard> = entries.filter_map(shard).collect();
        shards.sort_by_key(|shard| shard.name);
        Ok(shards)
    }

    /// Opens a shard for reading.
    ///
    /// # Errors
    /// The shard cannot be read.
    pub fn open(&self, shard: &StoredShard) -> anyhow::Result<StoredFile> {
        Ok(self.folder.open_entry(&shard.entry)?)
    }

    /// Returns the size of a shard in bytes, and its SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// The shard cannot be read.
    pub fn size_and_sha256(&self, shard: &StoredShard) -> anyhow::Result<(u64, String)> {
        match self.folder.local() {
            Some(folder) => {
                let path = folder.join(&shard.entry.name);
                util::hash::sha256_of_file(&path).with_context(|| path.display().to_string())
            }
            None => {
                let sha256 = shard_hash::of_version(&self.folder, &shard.entry)?;
                Ok((shard.entry.bytes, sha256))
            }
        }
    }

    /// Creates a shard, which has no name until it is published.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create_shard(&self, shard: ShardName) -> anyhow::Result<ShardFile> {
        ShardFile::create(&self.folder, &self.uploads, &shard.file_name())
    }

    /// Waits until all shards that were published are in the store.
    ///
    /// # Errors
    /// A shard cannot be uploaded.
    pub fn finish_uploads(&self) -> anyhow::Result<()> {
        self.uploads.finish()
    }

    /// Reads a file. `None` if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let bytes = self.folder.read(name)?;
        Ok(bytes.map(Vec::from))
    }

    /// Writes a file, in place of an older one, and creates the folder that it is in.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.folder.write(name, bytes)?)
    }

    /// Writes a file if there is none of this name, and returns whether it did. Of two runs at once
    /// one writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        Ok(self.folder.write_new(name, bytes)?)
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        Ok(self.folder.remove(name)?)
    }

    /// Removes all shards, and what is remembered of their bytes and of the files that are in
    /// `folders`.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove_shards(&self, folders: &[&str]) -> anyhow::Result<()> {
        for folder in folders.iter().chain(&[shard_hash::FOLDER]) {
            match self.folder.local() {
                Some(path) => {
                    let path = path.join(folder);
                    ignore_missing(fs::remove_dir_all(&path))
                        .with_context(|| path.display().to_string())?;
                }
                None => {
                    let folder = self.folder.join(folder);
                    folder.map(&folder.list()?, |entry| folder.remove(&entry.name))?;
                }
            }
        }
        self.folder
            .map(&self.shards()?, |shard| self.remove(&shard.entry.name))?;
        Ok(())
    }

    /// Removes what killed runs have left of files that they did not complete, for all names in
    /// these folders that `which` accepts: temporary files, and in a store the parts of uploads.
    /// The empty name stands for the output folder itself.
    ///
    /// # Errors
    /// A folder cannot be read, or a file cannot be removed.
    pub fn remove_leftovers(
        &self,
        folders: &[&str],
        which: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        match self.folder.local() {
            Some(path) => folders
                .iter()
                .try_for_each(|folder| atomic::remove_temporaries(&path.join(folder), &which))
                .with_context(|| self.to_string()),
            None => self.abort_uploads(which),
        }
    }

    /// Aborts the uploads of killed runs to a store, of all names that `which` accepts.
    ///
    /// # Errors
    /// The store does not answer or refuses access.
    pub fn abort_uploads(&self, which: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        if self.is_remote() {
            let aborted = self.folder.abort_leftovers(which);
            aborted?;
        }
        Ok(())
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
