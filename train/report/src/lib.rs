//! Pages, charts and the paper's tables, made from run folders and the shards that these name.
//!
//! - [`RunSummary`] reads a run folder, [`score_table`] averages the evaluations of runs that
//!   repeat one experiment, and [`write_page`] writes one HTML file about them that loads nothing
//!   from elsewhere.
//! - [`paper`] has the figures that the paper reports, [`artefact`] names its tables and figures,
//!   and [`reproduction`] writes our results beside them.
//! - [`predictions`] is the format of `predictions-NAME.parquet`.
//!
//! Nothing here knows the model; `train` writes what this crate reads.
//!
//! ```
//! use report::predictions::probabilities;
//!
//! let softmax = probabilities(&[0.0, 0.0], false);
//! assert_eq!(softmax, [0.5, 0.5]);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artefact;
mod groups;
pub mod paper;
pub mod predictions;
pub mod reproduction;
mod run_folder;
mod run_page;
mod scores;
mod statistics;
#[cfg(test)]
mod test_runs;

pub use run_folder::{
    CONFIG_FILE, METRICS_FILE, RunDescription, RunSettings, RunSummary, evaluation_file,
    main_metric, predictions_file,
};
pub use run_page::write_page;
pub use scores::{ScoreRow, score_table, text_table};
