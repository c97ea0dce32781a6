//! Folders, whether on a disk or in a store.

use crate::file::{RemoteFile, StoredFile};
use crate::object::Entry;
use crate::url::Url;
use bytes::Bytes;
use media::Error;
use object_store::PutMode;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use util::atomic;

/// The items of an object store for which [`Folder::map`] calls a function at once.
const AT_ONCE: usize = 16;

/// A folder of files, on a disk or in a store. It need not exist.
///
/// It is parsed from what a user types, and shown and serialized as that. Names of files may have
/// several parts, such as `masks/a.parquet`.
#[derive(Clone, PartialEq, Eq)]
pub struct Folder(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Local(PathBuf),
    Remote(Arc<Url>),
}

impl Folder {
    /// Returns the path of a folder on a disk.
    pub fn local(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Local(path) => Some(path),
            Kind::Remote(_) => None,
        }
    }

    /// Returns whether [`Folder::list`] works: on all folders but those of web servers.
    pub fn is_listable(&self) -> bool {
        match &self.0 {
            Kind::Local(_) => true,
            Kind::Remote(url) => url.is_listable(),
        }
    }

    /// Returns the folder with an absolute path, if it is on a disk.
    ///
    /// # Errors
    /// The path is empty, or there is no current folder.
    pub fn absolute(&self) -> io::Result<Folder> {
        match &self.0 {
            Kind::Local(path) => Ok(Folder(Kind::Local(std::path::absolute(path)?))),
            Kind::Remote(_) => Ok(self.clone()),
        }
    }

    /// Returns a folder below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Folder {
        Folder(match &self.0 {
            Kind::Local(path) => Kind::Local(path.join(name)),
            Kind::Remote(url) => {
                let mut url = Url::clone(url);
                url.prefix = name
                    .split('/')
                    .filter(|part| !part.is_empty())
                    .fold(url.prefix, |prefix, part| prefix.join(part));
                Kind::Remote(Arc::new(url))
            }
        })
    }

    /// Returns the path or URL of a file as a path, for messages. Of a URL, no file of this machine
    /// has that path.
    pub fn path_of(&self, name: &str) -> PathBuf {
        match &self.0 {
            Kind::Local(path) => path.join(name),
            Kind::Remote(url) => PathBuf::from(format!("{url}/{name}")),
        }
    }

    /// Calls a function for each item: on a disk for one after the other, in a store for several at
    /// once, because each request takes a while. Returns the results in the order of the items.
    ///
    /// # Errors
    /// The function's first error, in the order of the items.
    pub fn map<T: Sync, R: Send, E: Send>(
        &self,
        items: &[T],
        call: impl Fn(&T) -> Result<R, E> + Sync,
    ) -> Result<Vec<R>, E> {
        if self.local().is_some() {
            return items.iter().map(call).collect();
        }
        let (queue, done) = (Mutex::new(items.iter().enumerate()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(items.len()) {
                scope.spawn(|| {
                    // A poisoned lock means that another thread panicked, which the scope passes on.
                    while let Some((i, item)) = queue.lock().ok().and_then(|mut queue| queue.next())
                    {
                        let result = call(item);
                        let Ok(mut done) = done.lock() else { break };
                        done.push((i, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_default();
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// Lists the files directly in the folder, by name. A folder that does not exist holds none.
    ///
    /// # Errors
    /// The folder cannot be read, there is no such bucket, or the server has no lists.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        match &self.0 {
            Kind::Local(path) => list(path),
            Kind::Remote(url) => url.list(),
        }
    }

    /// Returns size and version of a file. `None` if there is none.
    ///
    /// # Errors
    /// The file or the store cannot be read.
    pub fn entry(&self, name: &str) -> Result<Option<Entry>, Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(name);
                let metadata = found(fs::metadata(&path)).map_err(Error::io(&path, "read"))?;
                Ok(metadata.map(|metadata| Entry {
                    name: name.to_owned(),
                    bytes: metadata.len(),
                    version: None,
                }))
            }
            Kind::Remote(url) => url.entry(name),
        }
    }

    /// Reads a whole file into memory. `None` if there is none.
    ///
    /// # Errors
    /// The file or the store cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>, Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(name);
                let bytes = found(fs::read(&path)).map_err(Error::io(&path, "read"))?;
                Ok(bytes.map(Bytes::from))
            }
            Kind::Remote(url) => url.read(name),
        }
    }

    /// Opens a file. `None` if there is none.
    ///
    /// # Errors
    /// The file or the store cannot be read.
    pub fn open(&self, name: &str) -> Result<Option<StoredFile>, Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(name);
                let file = found(File::open(&path)).map_err(Error::io(&path, "open"))?;
                Ok(file.map(StoredFile::Local))
            }
            Kind::Remote(url) => match url.entry(name)? {
                Some(entry) => self.open_entry(&entry).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Opens a file that [`Folder::list`] or [`Folder::entry`] has found, in a store without a
    /// request.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open_entry(&self, entry: &Entry) -> Result<StoredFile, Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(&entry.name);
                let file = File::open(&path).map_err(Error::io(&path, "open"))?;
                Ok(StoredFile::Local(file))
            }
            Kind::Remote(url) => {
                let object = url.object(entry)?;
                Ok(StoredFile::Remote(RemoteFile::new(object)))
            }
        }
    }

    /// Checks that files can be written: all folders but those of web servers.
    ///
    /// # Errors
    /// The folder is that of a web server.
    pub fn check_writable(&self) -> Result<(), Error> {
        match &self.0 {
            Kind::Local(_) => Ok(()),
            Kind::Remote(url) => url.check_writable(),
        }
    }

    /// Writes a file whole or not at all, in place of an older one. Folders are made as necessary.
    ///
    /// # Errors
    /// The disk is full, or the folder or store cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(name);
                make_folder_of(&path)?;
                atomic::write(&path, bytes).map_err(Error::io(&path, "write"))
            }
            Kind::Remote(url) => {
                let bytes = Bytes::copy_from_slice(bytes);
                url.write(name, bytes, PutMode::Overwrite).map(drop)
            }
        }
    }

    /// Writes a file if there is none of that name, and returns whether it did. In a store, of two
    /// processes at once one writes; on a disk, a lock has to exclude others.
    ///
    /// # Errors
    /// The errors of [`Folder::write`].
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<bool, Error> {
        match &self.0 {
            Kind::Local(path) if path.join(name).exists() => Ok(false),
            Kind::Local(_) => self.write(name, bytes).map(|()| true),
            Kind::Remote(url) => url.write(name, Bytes::copy_from_slice(bytes), PutMode::Create),
        }
    }

    /// Copies a file from the disk into the folder, whole or not at all, in place of an older one.
    /// To a store, a large file is sent in parts. Returns the version of the object, see
    /// [`Entry::version`].
    ///
    /// # Errors
    /// The file cannot be read, or the folder or store cannot be written.
    pub fn upload(&self, name: &str, file: &File) -> Result<Option<String>, Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(name);
                make_folder_of(&path)?;
                let copy = || {
                    let (mut source, mut copy) = (file, atomic::AtomicFile::create(&path)?);
                    source.seek(SeekFrom::Start(0))?;
                    io::copy(&mut source, &mut copy)?;
                    copy.publish()
                };
                copy().map_err(Error::io(&path, "write")).map(|()| None)
            }
            Kind::Remote(url) => url.upload(name, file),
        }
    }

    /// Removes what killed processes have left of files that they wrote or uploaded, for all names
    /// that `which` accepts; returns the number of uploads that were aborted. No other process may
    /// write these files at the same time.
    ///
    /// # Errors
    /// The folder or store cannot be written.
    pub fn abort_leftovers(&self, which: impl Fn(&str) -> bool) -> Result<usize, Error> {
        match &self.0 {
            Kind::Local(path) => {
                atomic::remove_temporaries(path, which).map_err(Error::io(path, "clean"))?;
                Ok(0)
            }
            Kind::Remote(url) => url.abort_leftovers(&which),
        }
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// The folder or store cannot be written.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.join(name);
                let removed = found(fs::remove_file(&path));
                removed.map(drop).map_err(Error::io(&path, "remove"))
            }
            Kind::Remote(url) => url.remove(name),
        }
    }
}

/// Turns "not found" into `None`.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn list(folder: &Path) -> Result<Vec<Entry>, Error> {
    let failed = Error::io(folder, "list");
    let read = || {
        let mut entries = Vec::new();
        let Some(folder) = found(fs::read_dir(folder))? else {
            return Ok(entries);
        };
        for entry in folder {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // The entry itself would describe a link, and a file may vanish meanwhile.
            match found(fs::metadata(entry.path()))? {
                Some(metadata) if metadata.is_file() => entries.push(Entry {
                    name,
                    bytes: metadata.len(),
                    version: None,
                }),
                _ => {}
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    };
    read().map_err(failed)
}

fn make_folder_of(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(Error::io(folder, "create")),
        None => Ok(()),
    }
}

impl From<PathBuf> for Folder {
    fn from(path: PathBuf) -> Folder {
        Folder(Kind::Local(path))
    }
}

impl From<&Path> for Folder {
    fn from(path: &Path) -> Folder {
        Folder(Kind::Local(path.to_owned()))
    }
}

impl FromStr for Folder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Folder, Error> {
        Ok(Folder(match Url::parse(text)? {
            Some(url) => Kind::Remote(Arc::new(url)),
            None => Kind::Local(PathBuf::from(text)),
        }))
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Local(path) => path.display().fmt(f),
            Kind::Remote(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({self})")
    }
}

impl Serialize for Folder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Kind::Local(path) => path.serialize(serializer),
            Kind::Remote(url) => serializer.collect_str(url),
        }
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Folder, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{ChunkReader, Length};

    #[test]
    fn local_folders_hold_what_was_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::from(root.path().join("shards"));
        assert_eq!(folder.list().unwrap(), []);
        assert_eq!(folder.read("a").unwrap(), None);
        assert!(folder.open("a").unwrap().is_none());
        folder.write("b", b"12345").unwrap();
        folder.write("masks/m", b"mask").unwrap();
        assert!(folder.write_new("a", b"first").unwrap());
        assert!(!folder.write_new("a", b"second").unwrap());
        let names = |folder: &Folder| -> Vec<(String, u64)> {
            let entries = folder.list().unwrap();
            entries.into_iter().map(|e| (e.name, e.bytes)).collect()
        };
        assert_eq!(names(&folder), [("a".into(), 5), ("b".into(), 5)]);
        assert_eq!(names(&folder.join("masks")), [("m".into(), 4)]);
        let file = folder.open("b").unwrap().unwrap();
        assert_eq!(file.len(), 5);
        assert_eq!(file.get_bytes(1, 3).unwrap(), &b"234"[..]);
        let file = File::open(root.path().join("shards/b")).unwrap();
        assert_eq!(folder.upload("copy", &file).unwrap(), None);
        assert_eq!(folder.read("copy").unwrap().unwrap(), &b"12345"[..]);
        folder.remove("copy").unwrap();
        folder.remove("copy").unwrap();
        // What a killed writer leaves.
        fs::write(root.path().join("shards/.b.Xy.tmp"), "half").unwrap();
        folder.abort_leftovers(|name| name == "b").unwrap();
        assert_eq!(names(&folder), [("a".into(), 5), ("b".into(), 5)]);
    }

    #[test]
    fn folders_are_shown_as_they_were_typed() {
        for text in ["data/shards", "/data", "s3://bucket/a/b", "http://host:1/x"] {
            let folder: Folder = text.parse().unwrap();
            assert_eq!(folder.to_string(), text);
            assert_eq!(folder.local().is_some(), !text.contains("://"));
            let joined = folder.join("ave");
            assert_eq!(joined.to_string(), format!("{text}/ave"));
            assert_eq!(
                folder.path_of("ave").to_str().unwrap(),
                format!("{text}/ave")
            );
        }
        let bucket: Folder = "s3://bucket".parse().unwrap();
        assert_eq!(bucket.join("a").join("b").to_string(), "s3://bucket/a/b");
        let web: Folder = "https://host/x".parse().unwrap();
        let refused = web.write("a", b"").unwrap_err().to_string();
        assert!(
            refused.contains("https://host/x: a web server can only be read"),
            "{refused}"
        );
    }
}
