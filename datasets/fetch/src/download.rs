//! Files of servers, fetched to files that appear when they are complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::client::{Client, Request};
use crate::error::{Error, Kind};
use crate::progress::Transfer;
use crate::stream::Stream;

/// A file to be fetched.
pub struct Download<'a> {
    /// Where it comes from.
    pub request: Request,
    /// Where it goes.
    pub path: &'a Path,
    /// Its size in bytes, if it is known beforehand.
    pub size: Option<u64>,
    /// Its SHA-256 in lower-case hexadecimal, if it is known beforehand.
    pub sha256: Option<&'a str>,
}

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

/// Returns where the beginning of a file lies while it is fetched: beside it, with a name that
/// begins with a dot.
pub fn part_path(path: &Path) -> PathBuf {
    beside(path, "part")
}

/// Returns where the version of the file on the server is kept while it is fetched.
fn version_path(path: &Path) -> PathBuf {
    beside(path, "version")
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{extension}"))
}

/// Fetches a file, unless it is there with the right size. Goes on where an earlier call was
/// interrupted, and starts anew if the server has another version of the file now. The file appears
/// under its name when it is complete, on the disk, and has the size and SHA-256 that it should
/// have. Returns its size.
///
/// # Errors
/// Those of [`Client::send`]; [`Kind::Mismatch`] if the file on the server is not the expected
/// one; [`Kind::Local`] if it cannot be written.
pub fn download(client: &Client, wanted: &Download, progress: &Transfer) -> Result<u64, Error> {
    let url = &wanted.request.url;
    let local = |error: io::Error| Error::local(url, wanted.path, error);
    if let Ok(metadata) = fs::metadata(wanted.path)
        && metadata.is_file()
        && wanted.size.is_none_or(|size| size == metadata.len())
    {
        return Ok(metadata.len());
    }
    if let Some(folder) = wanted.path.parent() {
        fs::create_dir_all(folder).map_err(local)?;
    }
    let first = attempt(client, wanted, progress);
    let has_parts = |error: &Error| matches!(error.kind, Kind::Changed | Kind::Mismatch);
    let size = match first {
        // Bytes of an earlier call may be of another version, so everything is fetched once more.
        Err(Failed {
            error,
            resumed: true,
        }) if has_parts(&error) => {
            progress.set_position(0);
            attempt(client, wanted, progress).map_err(|failed| failed.error)?
        }
        other => other.map_err(|failed| failed.error)?,
    };
    fs::rename(part_path(wanted.path), wanted.path).map_err(local)?;
    if let Some(folder) = wanted.path.parent() {
        util::atomic::sync_folder(folder).map_err(local)?;
    }
    remove(&version_path(wanted.path)).map_err(local)?;
    Ok(size)
}

/// An error, and whether bytes of an earlier call were part of the file.
struct Failed {
    error: Error,
    resumed: bool,
}

/// Completes the beginning of the file that is there. If what results is not the right file, it is
/// removed.
fn attempt(client: &Client, wanted: &Download, progress: &Transfer) -> Result<u64, Failed> {
    let url = &wanted.request.url;
    let path = part_path(wanted.path);
    let version = version_path(wanted.path);
    let mut resumed = false;
    let fetched = (|| {
        let local = |error: io::Error| Error::local(url, &path, error);
        let mut hash = Sha256::new();
        let (mut file, mut length) = open(&path, &mut hash).map_err(local)?;
        let mut validator = fs::read_to_string(&version).ok();
        if wanted.size.is_some_and(|size| length > size) {
            (length, validator) = (0, None);
            hash = Sha256::new();
        }
        if length == 0 {
            validator = None;
        }
        resumed = length > 0;
        if wanted.size != Some(length) || length == 0 {
            let mut stream = Stream::open(client, wanted.request.clone(), length, validator)?;
            if let (Some(size), Some(total)) = (wanted.size, stream.total())
                && size != total
            {
                let message = format!("the server's file has {total} bytes instead of {size}");
                return Err(Error::new(url, Kind::Mismatch, message));
            }
            if length == 0 {
                file.set_len(0).map_err(local)?;
                file.rewind().map_err(local)?;
                // The version is on the disk before the first byte is. Before that it is not read, so
                // that a part of it does no harm.
                match stream.validator() {
                    Some(validator) => write_synced(&version, validator).map_err(local)?,
                    None => remove(&version).map_err(local)?,
                }
            }
            progress.set_length(wanted.size.or(stream.total()));
            progress.set_position(length);
            length += copy(&mut stream, &mut file, &mut hash, progress)
                .map_err(|error| lift(url, &path, error))?;
        }
        file.sync_all().map_err(local)?;
        check(wanted, length, &hex::encode(hash.finalize()))?;
        Ok(length)
    })();
    fetched.map_err(|error: Error| {
        if matches!(error.kind, Kind::Changed | Kind::Mismatch) {
            // The next attempt starts anew; if this fails, that one overwrites the file.
            drop(remove(&path));
            drop(remove(&version));
        }
        Failed { error, resumed }
    })
}

/// Opens the beginning of a file for appending, and hashes it. Returns it with its length.
fn open(path: &Path, hash: &mut Sha256) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let length = io::copy(&mut file, hash)?;
    Ok((file, length))
}

/// Copies a stream to a file and a hash. Returns the number of bytes.
fn copy(
    stream: &mut Stream,
    file: &mut File,
    hash: &mut Sha256,
    progress: &Transfer,
) -> Result<u64, CopyError> {
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    loop {
        let length = stream.read(&mut buffer).map_err(CopyError::Read)?;
        if length == 0 {
            return Ok(copied);
        }
        file.write_all(&buffer[..length])
            .map_err(CopyError::Write)?;
        hash.update(&buffer[..length]);
        copied += length as u64;
        progress.advance(length as u64);
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Returns the error of a stream or of a file.
fn lift(url: &str, path: &Path, error: CopyError) -> Error {
    match error {
        CopyError::Write(error) => Error::local(url, path, error),
        CopyError::Read(error) => Error::of_stream(url, error),
    }
}

/// Compares a complete file with what is known of it.
fn check(wanted: &Download, length: u64, sha256: &str) -> Result<(), Error> {
    let url = &wanted.request.url;
    if let Some(size) = wanted.size
        && size != length
    {
        let message = format!("what was fetched has {length} bytes instead of {size}");
        return Err(Error::new(url, Kind::Mismatch, message));
    }
    match wanted.sha256 {
        Some(expected) if expected != sha256 => {
            let message = format!(
                "what was fetched has the SHA-256 {sha256} instead of {expected}, so it is damaged or \
                 another version"
            );
            Err(Error::new(url, Kind::Mismatch, message))
        }
        _ => Ok(()),
    }
}

/// Writes a file, of which a process that is killed may leave a part, and synchronizes it to the disk.
fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), util::atomic::sync_folder)
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
