//! Pages, charts and the paper's tables, made from run folders and the shards that these name.
//!
//! - [`RunSummary`] reads a run folder, [`score_table`] averages the evaluations of runs that
//!   repeat one experiment, and [`write_page`] writes one HTML file about them that loads nothing from elsewhere.
//! - [`paper`] has the figures that the paper reports, [`artefact`] names its tables and figures,
//!   and [`reproduction`] writes our results beside them.
//! - [`chart`] draws SVG, [`predictions`] is the format of `predictions-NAME.parquet`.
//!
//! Nothing here knows the model; `train` writes what this crate reads.
//!
//! ```
//! use report::chart::{Series, line_chart, svg_file};
//!
//! let loss = Series {
//!     name: "seed 0".to_string(),
//!     points: vec![(1.0, 0.9), (2.0, 0.6), (3.0, 0.5)],
//!     deviations: Vec::new(),
//! };
//! let svg = svg_file(&line_chart(["step", "loss"], &[loss]));
//! assert!(svg.contains("<polyline"));
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artefact;
pub mod chart;
mod data_url;
mod groups;
mod page;
pub mod paper;
pub mod predictions;
pub mod reproduction;
mod run_folder;
mod samples;
mod scores;
mod statistics;

pub use page::write_page;
pub use run_folder::{
    CONFIG_FILE, METRICS_FILE, RunDescription, RunSettings, RunSummary, evaluation_file,
    main_metric, predictions_file,
};
pub use scores::{ScoreRow, score_table, text_table};
