//! Pages, charts and the paper's tables. Reads run folders and the shards they name, never a model.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artefact;
pub mod chart;
mod embed;
mod page;
pub mod paper;
pub mod predictions;
pub mod reproduction;
mod run_folder;
mod samples;
mod scores;

pub use run_folder::{
    CONFIG_FILE, METRICS_FILE, RunDescription, RunSettings, RunSummary, main_metric,
};
pub use scores::{Line, table, text_table};

use anyhow::{Context, Result};
use std::path::Path;

/// Writes the page.
pub fn write(path: &Path, runs: &[RunSummary]) -> Result<()> {
    util::atomic::write(path, page::page(runs))
        .with_context(|| format!("{}: cannot be written", path.display()))
}
