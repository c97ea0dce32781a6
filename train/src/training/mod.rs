//! Training of a run.
//!
//! [`job`] begins or continues a run folder, and [`trainer`] is the training loop. The loop takes
//! its batches from the prefetcher, adds gradients over the [`ranks`], and writes [`checkpoint`]s.

pub mod checkpoint;
pub(crate) mod data_check;
mod gradient_check;
mod gradient_sum;
pub mod job;
mod lock;
pub(crate) mod memory;
mod method;
mod prefetch;
pub mod ranks;
pub mod trainer;
