//! Training and evaluation of U2A on shards.
//!
//! The model is the crate `model`, its arithmetic the crate `engine`. Each module of this list uses
//! only those above it, so that the list is also an order to read them in.
//!
//! | module | concept |
//! |---|---|
//! | [`settings`] | hyperparameters, and the `config.toml` of a run folder |
//! | `preprocessing` | what the side files of an encoder's checkpoint say about its inputs |
//! | [`session`] | the data and the untrained model that a configuration describes |
//! | `ingest_process` | the program `ingest` as a child process, which decodes media |
//! | [`evaluation`] | metrics of a split, and labels for new media files |
//! | [`logging`] | `metrics.jsonl`, TensorBoard events and the progress line |
//! | [`training`] | the training loop, checkpoints, several ranks |
//! | `reproduce` | the runs behind the paper's tables and figures |
//! | `diagnostics` | the machine, the accuracy of its devices and their speed |
//! | [`cli`] | the subcommands of `train` |
//!
//! ```no_run
//! use engine::Compute;
//! use model::encoder::weights::WeightSource;
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//! use train::settings::SettingsOverrides;
//! use train::training::{job::Job, ranks::Ranks};
//!
//! let overrides = SettingsOverrides { epochs: Some(3), ..SettingsOverrides::default() };
//! let shards = "data/shards/crema-d".parse()?;
//! // Small encoders with random weights, on four threads.
//! let (weights, tiny, compute) = (WeightSource::Random(0), true, Compute::cpu(4));
//! let job = Job::new("crema-d", &shards, &overrides, weights, tiny, &compute)?;
//! let (run, stop) = (Path::new("runs/first"), AtomicBool::new(false));
//! let (outcome, state) = job.start(run, &stop, &Ranks::single())?;
//! println!("{outcome:?} after {} steps", state.step);
//! # anyhow::Ok(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
mod diagnostics;
pub mod evaluation;
mod ingest_process;
pub mod logging;
mod preprocessing;
mod reproduce;
pub mod session;
pub mod settings;
pub mod training;
