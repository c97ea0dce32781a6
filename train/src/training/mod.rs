//! Training of a run: [`job`] begins or continues a run folder, [`trainer`] is the loop.

pub mod checkpoint;
pub mod job;
mod lock;
pub(crate) mod memory;
mod prefetch;
pub mod trainer;
pub mod workers;
