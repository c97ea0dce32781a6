//! The synthetic datasets of the small scale, made by `ingest`.

use super::Options;
use crate::ingest_process;
use anyhow::Result;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use util::cli::one_line;

/// The seed of the synthetic data.
const SEED: u64 = 0;

impl Options {
    /// Makes the synthetic data of the small scale, and returns the datasets for which that failed,
    /// each with the reason.
    pub fn prepare(&self) -> BTreeMap<String, String> {
        let mut missing = BTreeMap::new();
        if !self.small {
            return missing;
        }
        for dataset in self.datasets() {
            let shards = self.synthetic_shards(&dataset);
            if shards.join("manifest.json").is_file() {
                continue;
            }
            eprintln!("making {} synthetic samples of {dataset}", self.samples);
            if let Err(error) = self.make_shards(&dataset, &shards) {
                missing.insert(dataset, one_line(&error));
            }
        }
        missing
    }

    fn make_shards(&self, dataset: &str, shards: &Path) -> Result<()> {
        let raw = shards.with_file_name("raw");
        self.make_raw_tree(dataset, &raw)?;
        let arguments: [&OsStr; 6] = [
            "run".as_ref(),
            dataset.as_ref(),
            "--raw".as_ref(),
            raw.as_os_str(),
            "--out".as_ref(),
            shards.as_os_str(),
        ];
        ingest_process::run(arguments)?;
        Ok(())
    }

    /// Makes a raw tree under another name and renames it, so that `raw` is complete if it exists.
    fn make_raw_tree(&self, dataset: &str, raw: &Path) -> Result<()> {
        if raw.is_dir() {
            return Ok(());
        }
        let partial = raw.with_file_name("raw.part");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let (samples, seed) = (self.samples.to_string(), SEED.to_string());
        let arguments: [&OsStr; 8] = [
            "synth".as_ref(),
            dataset.as_ref(),
            "--samples".as_ref(),
            samples.as_ref(),
            "--seed".as_ref(),
            seed.as_ref(),
            "--out".as_ref(),
            partial.as_os_str(),
        ];
        ingest_process::run(arguments)?;
        Ok(fs::rename(&partial, raw)?)
    }
}
