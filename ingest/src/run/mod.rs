//! A run: samples to shards, in an order and with bytes that depend on the plan alone.
//!
//! [`existing`] finds the shards that an earlier run has finished, [`execute`] decodes and writes the others, and
//! [`output_lock`] keeps two runs from writing the same shards.

pub mod execute;
pub mod existing;
mod feed;
pub mod output_lock;
pub mod signals;
