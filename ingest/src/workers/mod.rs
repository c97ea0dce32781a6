//! The decode workers: child processes that demux and decode, the pool that runs them, and what
//! confines them.
//!
//! [`pool`] is the parent's side and [`worker`] the child's. Both speak [`protocol`]. Before a
//! worker opens its first file, [`process_limits`] and [`sandbox`] confine it.

pub mod pool;
pub mod process_limits;
pub mod protocol;
pub mod sandbox;
mod timeout_reader;
pub mod worker;
pub mod worker_process;
