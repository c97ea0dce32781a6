//! Opened files, as Parquet's readers take them.

use crate::blocks::{self, Wanted};
use crate::cache::{BLOCK, Cache};
use crate::object::Object;
use bytes::{Buf, Bytes};
use media::Error;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::Arc;

/// An opened file. A [`ParquetError::External`] of its reader holds a [`media::Error`].
#[derive(Debug)]
pub enum StoredFile {
    /// A file on a disk.
    Local(File),
    /// An object in a store.
    Remote(RemoteFile),
}

/// A version of an object in a store. Clones share what they hold in memory.
#[derive(Clone)]
pub struct RemoteFile {
    object: Arc<Object>,
    /// Ranges in memory, by their start.
    held: Arc<Vec<(Range<u64>, Bytes)>>,
}

impl RemoteFile {
    pub(crate) fn new(object: Object) -> RemoteFile {
        RemoteFile {
            object: Arc::new(object),
            held: Arc::default(),
        }
    }

    /// Returns a range that is in memory.
    fn held(&self, range: &Range<u64>) -> Option<Bytes> {
        let after = self
            .held
            .partition_point(|(held, _)| held.start <= range.start);
        let (held, bytes) = self.held.get(after.checked_sub(1)?)?;
        let at = |place: u64| (place - held.start) as usize;
        (range.end <= held.end).then(|| bytes.slice(at(range.start)..at(range.end)))
    }

    /// Reads a range.
    fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        if let Some(bytes) = self.held(&range) {
            return Ok(bytes);
        }
        let read = blocks::read(&[(self.object.clone(), vec![range])])?;
        Ok(read.into_iter().flatten().next().unwrap_or_default())
    }
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteFile").field(&self.object.url).finish()
    }
}

impl StoredFile {
    /// Returns another handle of the file. Those of a local file share its position.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn try_clone(&self) -> io::Result<StoredFile> {
        Ok(match self {
            StoredFile::Local(file) => StoredFile::Local(file.try_clone()?),
            StoredFile::Remote(file) => StoredFile::Remote(file.clone()),
        })
    }
}

impl Length for StoredFile {
    fn len(&self) -> u64 {
        match self {
            StoredFile::Local(file) => Length::len(file),
            StoredFile::Remote(file) => file.object.bytes,
        }
    }
}

impl ChunkReader for StoredFile {
    type T = StoredReader;

    fn get_read(&self, start: u64) -> Result<StoredReader, ParquetError> {
        Ok(StoredReader(match self {
            StoredFile::Local(file) => Source::Local(file.get_read(start)?),
            StoredFile::Remote(file) => Source::Remote {
                file: file.clone(),
                at: start,
                buffer: Bytes::new(),
            },
        }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self {
            StoredFile::Local(file) => file.get_bytes(start, length),
            StoredFile::Remote(file) => {
                let range = start..start.saturating_add(length as u64);
                file.read(range)
                    .map_err(|e| ParquetError::External(Box::new(e)))
            }
        }
    }
}

/// Reads a [`StoredFile`] from some place on.
#[derive(Debug)]
pub struct StoredReader(Source);

#[derive(Debug)]
enum Source {
    Local(BufReader<File>),
    Remote {
        file: RemoteFile,
        at: u64,
        /// What was read and not yet taken; it ends at `at`.
        buffer: Bytes,
    },
}

impl Read for StoredReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Local(file) => file.read(target),
            Source::Remote { file, at, buffer } => {
                if buffer.is_empty() {
                    // To the end of the block, which is requested as a whole.
                    let end = ((*at / BLOCK + 1) * BLOCK).min(file.object.bytes);
                    *buffer = file.read(*at..end.max(*at)).map_err(io::Error::other)?;
                    *at += buffer.len() as u64;
                }
                let count = buffer.len().min(target.len());
                buffer.copy_to_slice(&mut target[..count]);
                Ok(count)
            }
        }
    }
}

/// Returns the ranges of the files that lie in a store.
fn wanted(requests: &[(&StoredFile, Vec<Range<u64>>)]) -> Vec<Wanted> {
    let remote = |(file, ranges): &(&StoredFile, Vec<Range<u64>>)| match file {
        StoredFile::Local(_) => None,
        StoredFile::Remote(file) => Some((file.object.clone(), ranges.clone())),
    };
    requests.iter().filter_map(remote).collect()
}

/// Reads ranges of several files at once, and returns the files in the order of the requests. Files
/// in stores then hold the ranges in memory; local files are returned as they are.
///
/// # Errors
/// A store does not answer, or an object has changed.
pub fn fetch(requests: &[(&StoredFile, Vec<Range<u64>>)]) -> Result<Vec<StoredFile>, Error> {
    let mut read = blocks::read(&wanted(requests))?.into_iter();
    let held = |(file, ranges): &(&StoredFile, Vec<Range<u64>>)| match file {
        StoredFile::Local(local) => {
            let clone = local.try_clone();
            clone
                .map(StoredFile::Local)
                .map_err(Error::io("a shard".as_ref(), "open"))
        }
        StoredFile::Remote(file) => {
            let bytes = read.next().unwrap_or_default();
            let mut held: Vec<_> = ranges.iter().cloned().zip(bytes).collect();
            held.sort_by_key(|(range, _)| range.start);
            Ok(StoredFile::Remote(RemoteFile {
                object: file.object.clone(),
                held: Arc::new(held),
            }))
        }
    };
    requests.iter().map(held).collect()
}

/// Brings ranges of files in stores into the cache, several requests at once, before they are
/// needed. Does nothing for local files, or without a cache. Returns the bytes that the ranges take
/// in the cache.
///
/// # Errors
/// A store does not answer, or an object has changed.
pub fn prefetch(requests: &[(&StoredFile, Vec<Range<u64>>)]) -> Result<u64, Error> {
    match wanted(requests) {
        wanted if wanted.is_empty() => Ok(0),
        wanted => blocks::prefetch(&wanted),
    }
}

/// Returns how many bytes may be fetched ahead: a part of the cache, so that what was fetched is
/// still there when it is needed.
///
/// # Errors
/// The settings of the cache are invalid.
pub fn prefetch_limit() -> Result<u64, Error> {
    Ok(Cache::of_process()?.map_or(0, |cache| cache.limit() / 4))
}
