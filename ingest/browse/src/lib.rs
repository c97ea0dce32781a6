//! A page that shows shards as a person would look at them: charts of all rows, and samples with
//! their frames, spectrograms, images and texts.
//!
//! [`Browse::open`] reads the small columns of all rows. [`Browse::write`] then reads the media of
//! the rows that are shown, a few at a time, so that the memory does not depend on their number.
//! Either one page has a sample of each class and split, or all samples are on pages of their own
//! behind a first page that lists them.
//!
//! Nothing here decodes audio or video: sounds come from the caller.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cards;
mod charts;
mod choice;
mod failures;
mod filters;
mod overview;
mod pages;
mod rows;
mod sounds;
mod write;

pub use rows::RowId;
pub use sounds::{Sound, Sounds};
pub use write::{Browse, Choice, Written};
