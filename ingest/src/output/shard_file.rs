//! A shard that is being written: a temporary file, which gets its name, or is uploaded, when it is
//! complete.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use store::Folder;
use util::atomic::AtomicFile;

use super::shard_hash;
use super::uploads::Uploads;

/// A shard that is being written. It is removed if it is dropped before it is published.
pub enum ShardFile {
    /// A file in the output folder.
    Local {
        /// The file.
        file: AtomicFile,
        /// The shard's path.
        path: PathBuf,
    },
    /// A file that is going to be uploaded.
    Temporary {
        /// It has no name, so that nothing is left of it if the process is killed.
        file: File,
        /// The folder that it takes its space from.
        place: PathBuf,
        /// The output folder.
        folder: Folder,
        /// Where the upload runs.
        uploads: Arc<Uploads>,
        /// The name of the shard.
        name: String,
    },
}

impl ShardFile {
    /// Creates a shard.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(
        folder: &Folder,
        uploads: &Arc<Uploads>,
        name: &str,
    ) -> anyhow::Result<ShardFile> {
        if let Some(folder) = folder.local() {
            let path = folder.join(name);
            let file = AtomicFile::create(&path).with_context(|| path.display().to_string())?;
            return Ok(ShardFile::Local { file, path });
        }
        let place = temporary_folder();
        let file = fs::create_dir_all(&place)
            .and_then(|()| tempfile::tempfile_in(&place))
            .map_err(|error| in_temporary_folder(&place, &error))?;
        Ok(ShardFile::Temporary {
            file,
            place,
            folder: folder.clone(),
            uploads: Arc::clone(uploads),
            name: name.to_owned(),
        })
    }

    /// Gives the shard its name, in place of an older one. In a folder on a disk it lasts from then
    /// on; to a store it is uploaded while the next one is made.
    ///
    /// # Errors
    /// The shard cannot be written, or an earlier one cannot be uploaded.
    pub fn publish(self) -> anyhow::Result<()> {
        match self {
            ShardFile::Local { file, path } => {
                file.publish().with_context(|| path.display().to_string())
            }
            ShardFile::Temporary {
                file,
                folder,
                uploads,
                name,
                ..
            } => uploads.start(move || shard_hash::upload(&folder, &name, file)),
        }
    }
}

impl Write for ShardFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ShardFile::Local { file, .. } => file.write(bytes),
            ShardFile::Temporary { file, place, .. } => file
                .write(bytes)
                .map_err(|error| in_temporary_folder(place, &error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            ShardFile::Local { file, .. } => file.flush(),
            ShardFile::Temporary { file, .. } => file.flush(),
        }
    }
}

/// The folder of shards on their way to a store: that of the cache if one is given, else the
/// system's.
fn temporary_folder() -> PathBuf {
    env::var_os(store::CACHE_VARIABLE).map_or_else(env::temp_dir, PathBuf::from)
}

/// Says that a shard needs room in the temporary folder.
fn in_temporary_folder(folder: &Path, error: &io::Error) -> io::Error {
    let variable = store::CACHE_VARIABLE;
    let message = format!(
        "a shard is written to {} before it is uploaded: {error}; {variable} names another folder",
        folder.display()
    );
    io::Error::new(error.kind(), message)
}
