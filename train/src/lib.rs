//! Training and evaluation of U2A on shards.
//!
//! The model is the crate `model`, its arithmetic the crate `engine`. To read this crate, begin
//! at the top of this list; each module uses only those above it.
//!
//! | module | concept |
//! |---|---|
//! | [`settings`] | hyperparameters, and the `config.toml` of a run folder |
//! | [`session`] | the data and the untrained model that a configuration describes |
//! | [`evaluation`] | metrics of a split, and labels for new media files |
//! | [`logging`] | `metrics.jsonl`, TensorBoard events and the progress line |
//! | [`training`] | the training loop, checkpoints, data-parallel workers |
//! | [`reproduce`] | the paper's tables and figures |
//! | [`cli`] | the subcommands of `train` |
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
mod diagnostics;
pub mod evaluation;
pub mod ingest_process;
pub mod logging;
pub mod reproduce;
pub mod session;
pub mod settings;
pub mod training;
