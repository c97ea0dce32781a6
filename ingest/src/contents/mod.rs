//! The contents of the files that a shard was made from, by which a later run sees that a file has
//! changed although its name has not.
//!
//! A shard holds the SHA-256 of all of these contents. Beside the shards, the folder
//! [`index::FOLDER`] remembers for each file its size, times, inode and hash, as git's index does,
//! so that unchanged files are not read again. [`recorder`] computes both while a shard is made, and
//! [`comparison`] uses them later.

pub mod comparison;
pub mod index;
pub mod recorder;
