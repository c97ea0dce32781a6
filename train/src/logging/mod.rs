//! What a run writes while it trains: `metrics.jsonl`, TensorBoard events and the progress line.

mod estimate;
mod format;
mod run_log;
mod tensorboard;
mod throughput;

pub(crate) use estimate::StartMessage;
pub(crate) use format::format_duration;
pub use run_log::RunLog;

use std::time::Duration;

/// What is logged of a step, beside its losses.
#[derive(Clone, Copy, Debug)]
pub struct StepRecord {
    /// The number of the step, from 1.
    pub step: u64,
    /// The epoch of the step, from 0.
    pub epoch: u64,
    /// The learning rate.
    pub lr: f64,
    /// The samples of the step.
    pub samples: usize,
    /// The time from the end of the previous step to the end of this one.
    pub elapsed: Duration,
    /// The part of that time in which the step waited for data.
    pub data_wait: Duration,
}
