//! Downloads: the raw data of the five datasets, and the weights of the encoders, from their
//! publishers.
//!
//! [`Client`] sends requests and repeats them after temporary errors. A [`Stream`] reads a file of a
//! server from any position and goes on where a connection broke. [`download`] writes such a stream to a
//! file that appears under its name when it is complete and its size and SHA-256 are right; what an
//! interrupted program has fetched is kept beside it. [`weights`] has the checkpoints of the encoders, which come
//! from the Hugging Face [`hub`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod archive;
pub mod cli;
mod client;
mod download;
mod error;
pub mod hub;
mod origin;
mod progress;
mod raw;
mod stream;
pub mod weights;

pub use client::{Client, Limits, Redirects, Request, Response};
pub use download::{Download, download, part_path};
pub use error::{Error, Kind};
pub use progress::{Progress, Transfer};
pub use stream::Stream;
