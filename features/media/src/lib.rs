//! Images, audio and text to numbers: what encoders see, and the bytes that shards store.
//!
//! - [`image`] decodes, resizes, crops and normalizes images, and encodes JPEG files.
//! - [`mel`] computes log-mel spectrograms.
//! - [`text`] turns text into the ids of word pieces.
//!
//! Everything works on slices in memory. Containers and codecs of video and audio belong to `ingest`, Parquet files
//! to `features`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod image;
pub mod mel;
pub mod text;

pub use error::Error;
