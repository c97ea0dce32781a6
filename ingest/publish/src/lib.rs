//! Makes a folder of shards ready for others: a dataset card for the Hugging Face hub (`README.md`)
//! and Croissant metadata (`croissant.json`).
//!
//! Both are functions of `manifest.json` and of the schema of the shards, so that the same shards
//! give the same bytes. [`Dataset::open`] reads them, [`card`] and [`croissant`] write the texts,
//! [`copy`] makes a second folder that holds nothing but what is published. Which licence
//! applies, and whether the data may be passed on, is decided in [`licence`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod card;
mod columns;
pub mod copy;
pub mod croissant;
mod dataset;
mod front_matter;
pub mod licence;
mod manifest;
pub mod marker;

pub use dataset::Dataset;

/// The file name of the dataset card.
pub const CARD_FILE: &str = "README.md";

/// The file name of the Croissant metadata.
pub const CROISSANT_FILE: &str = "croissant.json";
