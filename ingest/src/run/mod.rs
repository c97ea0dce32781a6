//! A run: samples to shards. Order and bytes of the output depend on the plan alone.
//!
//! [`existing`] finds the shards that an earlier run has finished, and [`execute`] decodes and
//! writes the others. [`verify`] decodes and writes nothing.

pub mod execute;
pub mod existing;
mod row;
pub mod scheduler;
pub mod signals;
pub mod verify;
