//! The hub's cache: `models--OWNER--NAME` with `blobs` (contents by their hash), `snapshots` (a
//! folder of links for each commit) and `refs` (the commit of each branch).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{REVISION, RemoteFile, is_hex};

/// The cache of the hub's files on this machine.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// The cache in this folder, which need not exist.
    pub fn new(folder: PathBuf) -> Cache {
        Cache(folder)
    }

    /// The folder of the cache.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Returns a file of the last commit that was fetched of a repository, if it is there.
    pub fn get(&self, repository: &str, name: &str) -> Option<PathBuf> {
        let folder = self.folder_of(repository);
        let commit = fs::read_to_string(folder.join("refs").join(REVISION)).ok()?;
        let commit = commit.trim();
        let path = folder.join("snapshots").join(commit).join(name);
        // A link whose blob is gone is no file.
        (is_hex(commit, 40) && path.is_file()).then_some(path)
    }

    /// Returns where a file's content lies: its blob, and its place in the snapshot of its commit, which is
    /// a file of its own where links cannot be made.
    pub fn paths(&self, repository: &str, file: &RemoteFile) -> [PathBuf; 2] {
        let snapshots = self.folder_of(repository).join("snapshots");
        [
            self.blob_path(repository, &file.etag),
            snapshots.join(&file.commit).join(&file.name),
        ]
    }

    /// Returns where a content lies.
    pub fn blob_path(&self, repository: &str, etag: &str) -> PathBuf {
        self.folder_of(repository).join("blobs").join(etag)
    }

    /// Returns the lock file of a content, which the hub's Python package locks too.
    pub(super) fn lock_path(&self, repository: &str, etag: &str) -> PathBuf {
        let folder = self.0.join(".locks").join(folder_name(repository));
        folder.join(format!("{etag}.lock"))
    }

    /// Links a content as a file of its commit, and returns the file's path.
    pub(super) fn link(&self, repository: &str, file: &RemoteFile) -> anyhow::Result<PathBuf> {
        let folder = self.folder_of(repository);
        let snapshot = folder.join("snapshots").join(&file.commit);
        let path = snapshot.join(&file.name);
        let link = || -> io::Result<()> {
            fs::create_dir_all(&snapshot)?;
            let target = Path::new("../../blobs").join(&file.etag);
            match std::os::unix::fs::symlink(&target, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        };
        link().with_context(|| format!("{}: cannot be created", path.display()))?;
        Ok(path)
    }

    /// Makes a commit the last one, whose files [`Cache::get`] returns. Until all files are linked, the
    /// commit before remains usable.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn set_last(&self, repository: &str, commit: &str) -> anyhow::Result<()> {
        let refs = self.folder_of(repository).join("refs");
        let path = refs.join(REVISION);
        fs::create_dir_all(&refs)
            .and_then(|()| util::atomic::write(&path, commit))
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    fn folder_of(&self, repository: &str) -> PathBuf {
        self.0.join(folder_name(repository))
    }
}

fn folder_name(repository: &str) -> String {
    format!("models--{}", repository.replace('/', "--"))
}
