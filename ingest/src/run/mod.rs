//! A run: samples to shards. Order and bytes of the output depend on the plan alone.
//!
//! [`existing`] finds the shards that an earlier run has finished, [`execute`] decodes and writes
//! the others, and [`output_lock`] keeps two runs from writing the same shards. [`verify`] decodes
//! and writes nothing.

pub mod execute;
pub mod existing;
pub mod output_lock;
mod row;
mod scheduler;
pub mod signals;
pub mod verify;
