//! The arithmetic of training: transformer layers with a forward and a hand-written backward pass,
//! on CPU and GPU. Knows no model, no data and no settings.
//!
//! From the bottom: [`kernels`] (functions on slices), [`layers`] (functions on tensors), [`optim`]
//! (AdamW and its schedule), [`compute`] (device, precision, threads). [`parity`] holds layers with
//! inputs on which two devices are compared.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod compute;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod kernels;
pub mod layers;
pub mod optim;
pub mod parity;
#[cfg(feature = "cuda")]
pub mod upload;

pub use compute::{Compute, DeviceChoice, Precision, has_bf16};
pub use kernels::{Activation, Dropout};
pub use layers::{Adapter, Adapters, AttentionSaved, Linear, Norm, NormStats, Rows};
pub use optim::{AdamW, AdamWConfig, Moments, Schedule};
