//! The shards of an ingested dataset, and the loader that turns them into batches.
//!
//! - [`schema`] is the one definition of a shard's columns, [`record_batch`] turns samples into
//!   columns.
//! - [`shards`] opens a folder of shards and reads single rows, [`verify`] checks shards against
//!   their SHA-256, [`mask`] draws missing-modality masks.
//! - [`loader`] applies [`Transforms`] and hands out each [`Batch`] in an [`order`] that depends
//!   only on (seed, epoch, ids).
//! - [`Folder`], a folder on a disk or in an object store, comes from the crate `store`.
//! - [`image`], [`mel`] and [`text`] come from the crate `media`.
//!
//! ```no_run
//! use features::{Loader, Shards};
//!
//! let shards = std::sync::Arc::new(Shards::open(&"data/shards/ave".parse()?)?);
//! for batch in Loader::builder(&shards).batch_size(16).epoch(0)? {
//!     println!("{:?}", batch?.ids);
//! }
//! # Ok::<(), features::Error>(())
//! ```
//!
//! Not here: decoding audio and video (`ingest`), tensors (`train`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
pub mod loader;
pub mod mask;
pub mod order;
mod rows;
pub mod schema;
mod shard_name;
pub mod shards;
mod share;
mod transforms;
pub mod verify;

pub use media::image::{Augmentation, ImageTransform};
pub use media::mel::{Mel, MelFrontEnd};
pub use media::text::{TextRules, TextTransform};
pub use media::{Error, image, mel, text};
pub use store::Folder;

pub use batch::{Batch, ModalityBatch, ModalityData};
pub use loader::{Buffers, Loader, LoaderBuilder, LoaderOptions};
pub use rows::{Row, RowContent, record_batch};
pub use schema::{MelDtype, SCHEMA_VERSION, ShardSpec, writer_properties};
pub use shard_name::{FAILURES_FILE, MANIFEST_FILE, ShardName};
pub use shards::{Shards, SplitIndex};
pub use share::Share;
pub use transforms::{MelTransform, Transforms};
