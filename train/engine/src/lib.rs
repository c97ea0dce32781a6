//! The arithmetic of training: transformer layers with a forward and a hand-written backward pass,
//! on CPU and GPU. Knows no model, no data and no settings.
//!
//! From the bottom: `cpu` (functions on slices), `params` and `rows` (what layers are made of),
//! [`cuda`] (the layers on a GPU), [`layers`] (the layers on tensors, on any device), `optim`
//! (AdamW and its schedule), `device` (device, precision, threads). [`parity`] holds layers with
//! inputs on which two devices are compared.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cpu;
pub mod cuda;
mod device;
pub mod layers;
mod optim;
mod params;
pub mod parity;
mod precision;
mod rows;

pub use cpu::activation::Activation;
#[cfg(target_arch = "x86_64")]
pub use cpu::bf16::Isa;
pub use cpu::dropout::Dropout;
pub use device::{Compute, DeviceChoice, has_bf16};
pub use optim::{AdamW, AdamWConfig, Moments, Schedule};
pub use params::{Adapter, Adapters, Attention, AttentionSaved, Linear, Norm, NormStats};
pub use precision::{Arithmetic, Precision};
pub use rows::Rows;
