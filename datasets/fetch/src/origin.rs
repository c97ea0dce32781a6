//! Where files come from: a server, or a folder that holds the same files.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::client::{Client, Request};
use crate::download::{Download, download};
use crate::error::{Error, Kind, without_secrets};
use crate::progress::Transfer;
use crate::stream::Stream;

/// A base address: of a publisher, of a mirror, or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The address of a server, without a slash at its end.
    Server(String),
    /// A folder on this machine.
    Folder(PathBuf),
}

impl Base {
    /// Reads the value of `--source`: an address with `://`, or a folder.
    pub fn parse(text: &str) -> Base {
        if text.contains("://") {
            return Base::Server(text.trim_end_matches('/').to_owned());
        }
        Base::Folder(PathBuf::from(text))
    }

    /// Returns a file of it.
    pub fn file(&self, path: &str) -> Remote {
        match self {
            Base::Server(address) => Remote::Request(Request::get(format!("{address}/{path}"))),
            Base::Folder(folder) => Remote::File(folder.join(path)),
        }
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Base::Server(address) => f.write_str(&without_secrets(address)),
            Base::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

/// A file of a base address.
#[derive(Debug, Clone)]
pub enum Remote {
    /// A file of a server.
    Request(Request),
    /// A file of a folder on this machine.
    File(PathBuf),
}

/// A file that is being read.
pub struct Opened {
    /// Its bytes, from the position on.
    pub reader: Box<dyn Read>,
    /// Its whole size, if it is known.
    pub total: Option<u64>,
    /// What identifies this version of it.
    pub validator: Option<String>,
}

impl Remote {
    /// The address, for messages and records.
    pub fn address(&self) -> String {
        match self {
            Remote::Request(request) => request.url.clone(),
            Remote::File(path) => path.display().to_string(),
        }
    }

    /// Opens the file at `position`. `validator` is what an earlier call returned.
    ///
    /// # Errors
    /// Those of [`Stream::open`].
    pub fn open(
        &self,
        client: &Client,
        position: u64,
        validator: Option<String>,
    ) -> Result<Opened, Error> {
        match self {
            Remote::Request(request) => {
                let stream = Stream::open(client, request.clone(), position, validator)?;
                Ok(Opened {
                    total: stream.total(),
                    validator: stream.validator().map(str::to_owned),
                    reader: Box::new(stream),
                })
            }
            Remote::File(path) => open_file(path, position, validator.as_deref()),
        }
    }

    /// Fetches the file to a path.
    ///
    /// # Errors
    /// Those of [`download`].
    pub fn save(
        &self,
        client: &Client,
        path: &Path,
        size: Option<u64>,
        sha256: Option<&str>,
        transfer: &Transfer,
    ) -> Result<u64, Error> {
        let source = match self {
            Remote::Request(request) => {
                let wanted = Download {
                    request: request.clone(),
                    path,
                    size,
                    sha256,
                };
                return download(client, &wanted, transfer);
            }
            Remote::File(source) => source,
        };
        let address = self.address();
        let local = |error| Error::local(&address, path, error);
        let mut opened = open_file(source, 0, None)?;
        if let Some(expected) = sha256
            && util::hash::sha256_of_file(source).map_err(local)?.1 != expected
        {
            let message = "the file has another SHA-256 than the publisher's";
            return Err(Error::new(&address, Kind::Mismatch, message));
        }
        let length = write_whole(path, &mut opened.reader).map_err(local)?;
        transfer.advance(length);
        Ok(length)
    }

    /// Reads a small text.
    ///
    /// # Errors
    /// Those of [`Client::text`].
    pub fn text(&self, client: &Client, limit: u64) -> Result<String, Error> {
        match self {
            Remote::Request(request) => client.text(request, limit),
            Remote::File(path) => {
                let mut text = String::new();
                let opened = open_file(path, 0, None)?;
                let read = opened.reader.take(limit).read_to_string(&mut text);
                read.map_err(|error| Error::of_stream(&self.address(), error))?;
                Ok(text)
            }
        }
    }
}

/// Writes what a reader has into a file, which appears when it is whole, and makes its folder.
/// Returns the number of bytes.
pub(crate) fn write_whole(path: &Path, reader: &mut impl Read) -> io::Result<u64> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = util::atomic::AtomicFile::create(path)?;
    let length = io::copy(reader, &mut file)?;
    file.publish()?;
    Ok(length)
}

fn open_file(path: &Path, position: u64, validator: Option<&str>) -> Result<Opened, Error> {
    let address = path.display().to_string();
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound if path.parent().is_some_and(|folder| !folder.is_dir()) => {
            let message = "no such folder; the address of a server begins with http:// or https://";
            Error::new(&address, Kind::NotFound, message)
        }
        io::ErrorKind::NotFound => Error::new(&address, Kind::NotFound, "no such file"),
        _ => Error::of_stream(&address, error),
    };
    let mut file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    let version = format!("{}-{seconds}.{nanoseconds:09}", metadata.len());
    if validator.is_some_and(|validator| validator != version) {
        let message = "the file has changed since its beginning was read";
        return Err(Error::new(&address, Kind::Changed, message));
    }
    file.seek(SeekFrom::Start(position)).map_err(fail)?;
    Ok(Opened {
        reader: Box::new(file),
        total: Some(metadata.len()),
        validator: Some(version),
    })
}
