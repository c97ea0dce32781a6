//! The folder that a run writes. Everything that `ingest run` does with it goes through [`Output`].
//!
//! A file appears under its name whole or not at all. Names are relative to the folder, with
//! slashes between their parts.

mod lock;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use features::ShardName;
use util::atomic::{self, AtomicFile};

pub use self::lock::{OutputLock, Scope};

/// The output folder of a run.
#[derive(Debug, Clone)]
pub struct Output {
    folder: PathBuf,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder.display().fmt(f)
    }
}

impl Output {
    /// An output folder, which need not exist.
    pub fn new(folder: PathBuf) -> Output {
        Output { folder }
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates the folder if it is missing.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn create(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("{self}: cannot create this folder; choose another --out"))
    }

    /// Locks the folder, which must exist.
    ///
    /// # Errors
    /// Another run writes the same files, or the folder cannot be written.
    pub fn lock(&self, scope: Scope) -> anyhow::Result<OutputLock> {
        OutputLock::acquire(&self.folder, scope)
    }

    /// Returns where a file is, for messages.
    pub fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the names of the shards, sorted. A folder that does not exist has none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn shards(&self) -> anyhow::Result<Vec<ShardName>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| self.to_string())?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| self.to_string())?;
            names.extend(entry.file_name().to_str().and_then(ShardName::parse));
        }
        names.sort();
        Ok(names)
    }

    /// Opens a shard for reading.
    ///
    /// # Errors
    /// There is no such shard, or it cannot be read.
    pub fn open(&self, shard: ShardName) -> anyhow::Result<File> {
        let path = self.path(&shard.file_name());
        File::open(&path).with_context(|| path.display().to_string())
    }

    /// Returns the size of a shard in bytes, and its SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// The shard cannot be read.
    pub fn size_and_sha256(&self, shard: ShardName) -> anyhow::Result<(u64, String)> {
        let path = self.path(&shard.file_name());
        util::hash::sha256_of_file(&path).with_context(|| path.display().to_string())
    }

    /// Creates a shard, which has no name until it is published.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create_shard(&self, shard: ShardName) -> anyhow::Result<ShardFile> {
        let path = self.path(&shard.file_name());
        let file = AtomicFile::create(&path).with_context(|| path.display().to_string())?;
        Ok(ShardFile { file })
    }

    /// Reads a file. `None` if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some).with_context(|| self.describe(name)),
        }
    }

    /// Writes a file, in place of an older one, and creates the folder that it is in.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)
            .and_then(|()| atomic::write(&path, bytes))
            .with_context(|| path.display().to_string())
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        ignore_missing(fs::remove_file(&path)).with_context(|| path.display().to_string())
    }

    /// Removes a folder and everything in it, if there is one.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove_folder(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        ignore_missing(fs::remove_dir_all(&path)).with_context(|| path.display().to_string())
    }

    /// Removes what killed runs have left of files that they did not complete, for all names in
    /// these folders that `which` accepts. The empty name stands for the output folder itself.
    ///
    /// # Errors
    /// A folder cannot be read, or a file cannot be removed.
    pub fn remove_leftovers(
        &self,
        folders: &[&str],
        which: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        folders
            .iter()
            .try_for_each(|folder| atomic::remove_temporaries(&self.path(folder), &which))
            .with_context(|| self.to_string())
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A shard that is being written. It is removed if it is dropped before it is published.
pub struct ShardFile {
    file: AtomicFile,
}

impl ShardFile {
    /// Gives the shard its name, in place of an older one. It lasts from then on.
    ///
    /// # Errors
    /// The shard cannot be written.
    pub fn publish(self) -> io::Result<()> {
        self.file.publish()
    }
}

impl Write for ShardFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
