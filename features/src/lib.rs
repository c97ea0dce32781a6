//! What a sample is once ingested, and how it streams.
//!
//! - Written: [`schema`] is the one definition of a shard's columns, [`rows`] turns samples into them, [`mel`] and
//!   [`image`] make what the media cells hold.
//! - Read: [`shards`] opens a folder and fetches single rows, [`stream`] hands out model-ready [`batch`]es in an
//!   [`order`] that depends on (seed, epoch, ids) alone, [`image`] and [`text`] are the transforms, [`verify`] finds shards that have changed on disk, [`mask`] hides
//!   modalities.
//!
//! Not here: decoding audio and video (`ingest`), tensors (`train`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod error;
pub mod image;
pub mod mask;
pub mod mel;
pub mod order;
pub mod rows;
pub mod schema;
mod shard_name;
pub mod shards;
pub mod stream;
pub mod text;
pub mod verify;

pub use batch::{Batch, ModalityBatch, ModalityData};
pub use error::Error;
pub use image::{Augmentation, ImageTransform};
pub use mel::{Mel, MelFrontEnd};
pub use rows::{Row, record_batch};
pub use schema::{MelDtype, SCHEMA_VERSION, ShardSpec, writer_properties};
pub use shard_name::{FAILURES_FILE, MANIFEST_FILE, ShardName};
pub use shards::{Shards, SplitIndex};
pub use stream::{Stream, StreamConfig, Transforms};
pub use text::TextTransform;
