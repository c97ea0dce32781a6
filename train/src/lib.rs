//! Training and evaluation of U2A on shards: settings, loop, checkpoints, metrics, reports.
//!
//! From the bottom: [`settings`], [`session`] (data of a run), [`trainer`], [`checkpoint`],
//! [`evaluate`], [`metrics`], and what people read: [`log`], [`tensorboard`], [`report`]. The model
//! is the crate `model`, its arithmetic the crate `engine`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod chart;
pub mod checkpoint;
pub mod doctor;
pub mod evaluate;
pub mod feed;
pub mod ingest;
pub mod job;
pub mod lock;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod predict;
pub mod report;
pub mod reproduce;
pub mod selftest;
pub mod session;
pub mod settings;
pub mod tensorboard;
pub mod trainer;
pub mod workers;
