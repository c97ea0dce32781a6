//! Files that appear under their name whole or not at all, even where the process is killed or the machine loses power.
//!
//! A file is written beside its final place under the name `.NAME.RANDOM.tmp`, brought to the disk, and renamed; then
//! the folder is brought to the disk, so that the new name lasts too. The temporary name begins with a dot and ends
//! with none of the endings that readers of a folder look for. It is random, so that two processes may write the same
//! file at once. A killed process leaves it behind, and [`remove_temporaries`] removes it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// How a temporary name ends.
const ENDING: &str = ".tmp";

/// A file that is being written. [`AtomicFile::publish`] gives it its name; where it is dropped before, it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Begins a file that will be called `path`, in a folder that exists.
    ///
    /// # Errors
    /// The path names no file; the folder is missing, read-only or full.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let file = Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(ENDING)
            // As for any new file, less the umask; the default is a file for its owner alone.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder_of(path))?;
        Ok(AtomicFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Brings the content to the disk, then gives the file its name, in place of an older one.
    ///
    /// # Errors
    /// The disk is full or the folder cannot be written; an older file of the name is as it was.
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

/// Writes a file of these bytes, whole or not at all. Errors are those of [`AtomicFile`].
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes.as_ref())?;
    file.publish()
}

/// Brings the names in a folder to the disk, after something in it was renamed.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes what killed processes have left under temporary names in a folder, for the files whose final names `which`
/// accepts; folders too. A folder that is missing holds nothing. Only for the one process that writes these files.
pub fn remove_temporaries(folder: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let inner = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.strip_suffix(ENDING));
        // Folders have no random part.
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
        // Half-written and dropped, as by an error.
        let mut half = AtomicFile::create(&path).unwrap();
        half.write_all(b"ne").unwrap();
        let temporary = names(folder.path()).remove(0);
        assert!(temporary.starts_with(".manifest.json.") && temporary.ends_with(".tmp"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(half);
        assert_eq!(names(folder.path()), ["manifest.json"]);
        // Two at once: each is whole, the last one stays.
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
        // As readable as a file made without detours.
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
