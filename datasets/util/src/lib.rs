//! What every crate of the workspace needs and no dataset, shard or model is part of.
//!
//! - [`data_root`] is the folder that holds raw data and shards by default.
//! - [`atomic`] writes files that appear whole or not at all; [`lock`] keeps a folder to one writer.
//! - [`cpu`] tells which vector instructions may be used.
//! - [`rng`] is a counter-based random number generator.
//! - [`hash`] gives SHA-256 in hexadecimal, [`memory`] the memory of a process, [`suggest`] the name that a mistyped one
//!   may mean.
//! - [`skip`] reports skipped tests.
//! - `cli` (with the feature of that name) has what the command-line programs print and return.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod atomic;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cpu;
pub mod hash;
pub mod lock;
pub mod memory;
pub mod rng;
pub mod skip;
pub mod suggest;

use std::path::PathBuf;

/// The environment variable that moves the folder of raw data and shards.
const DATA_VARIABLE: &str = "U2A_DATA";

/// The folder of raw data and shards: `U2A_DATA`, or `data` where that is unset or empty.
pub fn data_root() -> PathBuf {
    std::env::var_os(DATA_VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| "data".into(), PathBuf::from)
}
