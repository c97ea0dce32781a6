//! What several subcommands have in common.

use crate::settings::{RunConfig, Settings};
use anyhow::Result;
use clap::Args;
use engine::{Compute, DeviceChoice, Precision};
use features::verify::{verify, verify_sizes};
use features::{Folder, MANIFEST_FILE};
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
    /// Whether the number of threads is given.
    pub fn has_threads(&self) -> bool {
        self.threads.is_some()
    }

    /// Opens the device.
    pub fn open(&self) -> Result<Compute> {
        Compute::open(self.device, self.threads)
    }

    /// Opens the device for a trained model. If `reproducible`, or if the run was trained so,
    /// results depend neither on the processor nor on the number of threads, and the model computes
    /// in f32.
    pub fn open_for_run(&self, reproducible: bool, config: &mut RunConfig) -> Result<Compute> {
        let settings = &mut config.settings;
        settings.reproducible |= reproducible;
        if !settings.reproducible {
            return self.open();
        }
        settings.precision = Precision::F32;
        Compute::open(self.device.reproducible()?, self.threads)
    }
}

/// Prints on stderr which device `--device auto` has chosen.
pub fn print_device(compute: &Compute) {
    if let Some(line) = compute.announcement() {
        eprintln!("{line}");
    }
}

/// Prints on stderr which device is used for a trained model, and whether it computes in another
/// number format than that of the training.
pub fn print_device_of_run(compute: &Compute, trained_in: Precision, settings: &Settings) {
    print_device(compute);
    if let Some(line) = precision_note(compute, trained_in, settings.precision) {
        eprintln!("{line}");
    }
}

/// A note that scores differ in their last digits from those on the machine of the training.
fn precision_note(
    compute: &Compute,
    trained_in: Precision,
    precision: Precision,
) -> Option<String> {
    // A CPU without instructions for the format computes in single precision.
    let reason = if precision != trained_in {
        "and --reproducible means f32"
    } else if compute.device.is_cpu() && compute.check_precision(trained_in).is_err() {
        "which this processor lacks"
    } else {
        return None;
    };
    Some(format!(
        "note: the run was trained in {}, {reason}; it is computed in f32, and scores may differ a little",
        trained_in.as_str()
    ))
}

/// The name of a dataset in the names of folders. For the path of a `.toml`, it is the name in the
/// file.
pub fn dataset_name(dataset: &str) -> Result<String> {
    if dataset.ends_with(".toml") {
        return Ok(datasets::open(dataset)?.info().name.clone());
    }
    Ok(dataset.to_string())
}

/// Compares the shards in a folder with the SHA-256 in their manifest, if there is one. Of shards in
/// an object store only the sizes are compared, and a line on stderr says so.
pub fn verify_shards(folder: &Folder, threads: usize) -> Result<()> {
    if folder.local().is_some() {
        if let Some(verdict) = verify(folder, threads)? {
            verdict.check(folder)?;
        }
    } else if let Some(verdict) = verify_sizes(folder, threads)? {
        verdict.check(folder)?;
        eprintln!(
            "{folder}: {} shards have the sizes in {MANIFEST_FILE}; `inspect {folder} --verify` compares their SHA-256, which reads all of them",
            verdict.shards
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_request_may_be_repeated() {
        use std::io::{Error, ErrorKind};
        let failed = |cause: Error| {
            let read = features::Error::io("s3://bucket/a".as_ref(), "read")(cause);
            let error = anyhow::Error::from(read.at_sample("a")).context("batch 3");
            util::exit_code::is_temporary(&error)
        };
        assert!(failed(Error::new(ErrorKind::TimedOut, "timed out")));
        // The file is not there: no repetition helps.
        assert!(!failed(Error::from_raw_os_error(2)));
    }

    #[test]
    fn number_format_that_the_processor_lacks_is_noted() {
        let compute = Compute::cpu(1);
        assert_eq!(
            precision_note(&compute, Precision::F32, Precision::F32),
            None
        );
        for precision in [Precision::Bf16, Precision::Tf32] {
            let reproducible = precision_note(&compute, precision, Precision::F32).unwrap();
            assert!(reproducible.contains("--reproducible"), "{reproducible}");
            let note = precision_note(&compute, precision, precision);
            assert_eq!(note.is_some(), compute.check_precision(precision).is_err());
            let named = |note: String| note.contains(precision.as_str()) && note.contains("f32");
            assert!(note.is_none_or(named));
        }
    }
}
