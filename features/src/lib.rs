//! What a sample is once ingested, and how it streams.
//!
//! - [`schema`] is the one definition of a shard's columns, [`rows`] turns samples into record batches.
//! - [`shards`] opens a folder of shards and reads single rows, [`verify`] checks shards against their SHA-256,
//!   [`mask`] draws missing-modality masks.
//! - [`stream`] hands out model-ready [`batch`]es in an [`order`] that depends on (seed, epoch, ids) alone.
//! - [`image`], [`mel`] and [`text`] come from the crate `media`.
//!
//! Not here: decoding audio and video (`ingest`), tensors (`train`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod mask;
pub mod order;
pub mod rows;
pub mod schema;
mod shard_name;
pub mod shards;
pub mod stream;
pub mod verify;

pub use media::image::{Augmentation, ImageTransform};
pub use media::mel::{Mel, MelFrontEnd};
pub use media::text::TextTransform;
pub use media::{Error, image, mel, text};

pub use batch::{Batch, ModalityBatch, ModalityData};
pub use rows::{Row, record_batch};
pub use schema::{MelDtype, SCHEMA_VERSION, ShardSpec, writer_properties};
pub use shard_name::{FAILURES_FILE, MANIFEST_FILE, ShardName};
pub use shards::{Shards, SplitIndex};
pub use stream::{Stream, StreamConfig, Transforms};
