//! The ground crate of the workspace: what several crates need and what has nothing to do with
//! datasets, shards or models.
//!
//! | item | what it does |
//! |---|---|
//! | [`data_root`] | the folder that holds raw data and shards by default |
//! | [`atomic`] | writes files that appear whole or not at all |
//! | [`lock`] | restricts a folder to one writing process |
//! | [`rng`] | a counter-based random number generator |
//! | [`hash`] | SHA-256 in hexadecimal |
//! | [`cpu`] | which vector instructions may be used |
//! | [`memory`] | the resident memory of a process |
//! | [`number`] | numbers with commas between their thousands |
//! | [`suggest`] | the word that a mistyped one may mean |
//! | [`skip`] | reports skipped tests |
//! | [`job`] | which part of a job array this process does |
//! | `cli`, `exit_code` | output and exit codes of the command-line programs, with the feature `cli` |
//! | `cluster` | scripts and manifests for clusters, with the feature `cli` |
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! use util::{atomic, hash, rng::Rng, suggest::did_you_mean};
//!
//! // The file is complete under its name, even if the machine loses power.
//! let path = folder.join("manifest.json");
//! atomic::write(&path, "{}")?;
//! assert_eq!(hash::sha256_of_file(&path)?, (2, hash::sha256("{}")));
//!
//! // The same seed and purpose give the same numbers, in any order and on any machine.
//! let (seed, epoch) = (7, 3);
//! assert_eq!(Rng::new(seed, &[epoch]).bits(), Rng::new(seed, &[epoch]).bits());
//!
//! assert_eq!(did_you_mean("trian", ["train", "test"]), " (did you mean \"train\"?)");
//! # Ok::<(), std::io::Error>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod atomic;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod cluster;
pub mod cpu;
#[cfg(feature = "cli")]
pub mod exit_code;
pub mod hash;
pub mod job;
pub mod lock;
pub mod memory;
pub mod number;
pub mod rng;
pub mod skip;
pub mod suggest;

use std::path::PathBuf;

/// The environment variable that names the folder of raw data and shards.
const DATA_VARIABLE: &str = "U2A_DATA";

/// Returns the folder of raw data and shards: `U2A_DATA`, or `data` if that is unset or empty.
pub fn data_root() -> PathBuf {
    std::env::var_os(DATA_VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| "data".into(), PathBuf::from)
}

/// Returns the default folder of a dataset's raw tree.
pub fn default_raw(dataset: &str) -> PathBuf {
    data_root().join("raw").join(dataset)
}

/// Returns the default folder of a dataset's shards.
pub fn default_shards(dataset: &str) -> PathBuf {
    data_root().join("shards").join(dataset)
}
