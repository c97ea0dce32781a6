//! Folders of files, on a disk or in an object store, for readers and writers that do not care
//! which.
//!
//! - [`Folder`] is what a user names on the command line: a path, `s3://BUCKET/PREFIX`,
//!   `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, or `http(s)://HOST/PATH`, which can only be
//!   read.
//! - [`StoredFile`] is an opened file, which Parquet's readers take. One in a store is read in
//!   blocks, which a bounded cache on the disk keeps ([`set_cache_size`]); [`fetch`] and
//!   [`prefetch`] request the ranges of several files at once.
//! - [`Folder::upload`] sends large files in parts, and [`Folder::abort_leftovers`] frees the parts
//!   of a process that was killed.
//!
//! All calls block; requests run on one tokio runtime inside. Credentials and endpoints come from
//! the environment variables that the crate `object_store` documents (`AWS_ACCESS_KEY_ID`,
//! `AWS_REGION`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`
//! and others). Requests are repeated with increasing pauses for [`TIMEOUT_VARIABLE`] seconds.
//!
//! Errors are [`media::Error`]: `Io` where a later attempt may succeed, `Unusable` where the user
//! has to change something.
//!
//! ```
//! use store::Folder;
//!
//! # let dir = tempfile::tempdir()?;
//! # let argument = dir.path().to_str().expect("a path in UTF-8");
//! let folder: Folder = argument.parse()?;
//! folder.write("masks/a.txt", b"text")?;
//! assert_eq!(folder.read("masks/a.txt")?.as_deref(), Some(&b"text"[..]));
//! assert_eq!(folder.join("masks").list()?[0].name, "a.txt");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod blocks;
mod cache;
mod client;
mod connector;
mod credentials;
mod failure;
mod file;
mod folder;
mod object;
mod remote;
mod upload;
mod url;

pub use cache::{CACHE_VARIABLE, SIZE_VARIABLE, parse_size, set_cache_size};
pub use client::TIMEOUT_VARIABLE;
pub use file::{RemoteFile, StoredFile, StoredReader, fetch, prefetch, prefetch_limit};
pub use folder::Folder;
pub use object::Entry;
