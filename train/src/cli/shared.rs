//! What several subcommands have in common.

use anyhow::Result;
use clap::Args;
use engine::{Compute, DeviceChoice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// `--device` and `--threads`.
#[derive(Args)]
pub struct ComputeArgs {
    /// Device: auto (the first GPU if this build and this machine have one, else the CPU), cpu or
    /// cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Threads for arithmetic and for loading data [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
}

impl ComputeArgs {
    /// Opens the device.
    pub fn open(&self) -> Result<Compute> {
        Compute::open(self.device, self.threads)
    }
}

/// Prints on stderr which device `--device auto` has chosen.
pub fn print_device(compute: &Compute) {
    if let Some(line) = compute.announcement() {
        eprintln!("{line}");
    }
}

/// The name of a dataset in the names of folders. For the path of a `.toml`, it is the name in the
/// file.
pub fn dataset_name(dataset: &str) -> Result<String> {
    if dataset.ends_with(".toml") {
        return Ok(datasets::open(dataset)?.info().name.clone());
    }
    Ok(dataset.to_string())
}

/// Holds the shards in a folder against the SHA-256 in their manifest, if there is one.
pub fn verify_shards(folder: &Path, threads: usize) -> Result<()> {
    if let Some(verdict) = features::verify::verify(folder, threads)? {
        verdict.check(folder)?;
    }
    Ok(())
}

/// A flag that the first SIGINT or SIGTERM sets.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}
