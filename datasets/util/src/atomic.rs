//! Atomic writes: a file appears under its name whole or not at all, even if the process is killed
//! or the machine loses power.
//!
//! A file is written in its final folder under the name `.NAME.RANDOM.tmp`, synchronized to the
//! disk (fsync) and renamed. Then the folder is synchronized, so that the new name lasts too. The
//! temporary name begins with a dot and has no extension that readers of a folder look for. It is
//! random, so that two processes may write the same file at once. A killed process leaves it
//! behind, and [`remove_temporaries`] removes it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// The extension of temporary names.
const SUFFIX: &str = ".tmp";

/// A file that is being written. [`AtomicFile::publish`] gives it its name; if it is dropped
/// before, it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Creates the temporary file for `path`, whose folder must exist.
    ///
    /// # Errors
    /// The path names no file, or the folder is missing, read-only or full.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let file = Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(SUFFIX)
            // The mode of any new file, from which the system subtracts the umask. The default
            // would let nobody but the owner read the file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder_of(path))?;
        Ok(AtomicFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Synchronizes the content to the disk and gives the file its name, in place of an older file.
    ///
    /// # Errors
    /// The disk is full or the folder cannot be written. An older file of the name is unchanged.
    pub fn publish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path)?;
        sync_folder(folder_of(&self.path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// Writes a file of these bytes, whole or not at all.
///
/// # Errors
/// The errors of [`AtomicFile`].
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes.as_ref())?;
    file.publish()
}

/// Synchronizes the names in a folder to the disk, after something in it was renamed.
///
/// # Errors
/// The folder cannot be opened or written.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes the temporary files and folders that killed processes have left in a folder, for all
/// final names that `which` accepts. A missing folder holds none. No other process may write these
/// files at the same time.
///
/// # Errors
/// The folder cannot be read, or an entry cannot be removed.
pub fn remove_temporaries(folder: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let inner = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.strip_suffix(SUFFIX));
        // The temporary names of folders have no random part.
        let inner = inner.map(|inner| inner.rsplit_once('.').map_or(inner, |(name, _)| name));
        if !inner.is_some_and(&which) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn published_files_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        write(&path, "old").unwrap();
        // A file that is dropped half-written, as after an error, leaves the old one.
        let mut half = AtomicFile::create(&path).unwrap();
        half.write_all(b"ne").unwrap();
        let temporary = names(folder.path()).remove(0);
        assert!(temporary.starts_with(".manifest.json.") && temporary.ends_with(".tmp"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(half);
        assert_eq!(names(folder.path()), ["manifest.json"]);
        // Of two writers at once, each publishes a whole file, and the last one remains.
        let both = ["first", "second"].map(|text| {
            let mut file = AtomicFile::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            (text, file)
        });
        for (text, file) in both {
            file.publish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["manifest.json"]);
        // The file has the permissions of any new file.
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        assert!(write(&folder.path().join("nowhere/x"), "").is_err());
        assert!(write(Path::new("/"), "").is_err());
    }

    #[test]
    fn temporaries_of_killed_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let kill = |name: &str| AtomicFile::create(&folder.join(name)).unwrap().file.keep();
        kill("a.parquet").unwrap();
        kill("b.parquet").unwrap();
        fs::create_dir_all(folder.join(".checkpoint-1.tmp/audio")).unwrap();
        for name in ["a.parquet", ".a.parquet", "a.tmp"] {
            fs::write(folder.join(name), "x").unwrap();
        }
        remove_temporaries(folder, |name| name == "b.parquet").unwrap();
        assert_eq!(names(folder).len(), 5);
        remove_temporaries(folder, |_| true).unwrap();
        assert_eq!(names(folder), [".a.parquet", "a.parquet", "a.tmp"]);
        remove_temporaries(&folder.join("missing"), |_| true).unwrap();
    }
}
