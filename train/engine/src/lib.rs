//! The arithmetic of training: transformer layers with a forward and a hand-written backward pass,
//! on CPU and GPU. Knows no model, no data and no settings.
//!
//! From the bottom: `cpu` (functions on slices), `params` and `rows` (what layers are made of),
//! [`cuda`] (the layers on a GPU), [`layers`] (the layers on tensors, on any device), `optim`
//! (AdamW and its schedule), `device` (device, precision, threads). [`parity`] holds layers with
//! inputs on which two devices are compared.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use engine::layers::AdapterGradients;
//! use engine::{Adapter, Adapters, Linear, Precision, Rows};
//!
//! # fn main() -> candle_core::Result<()> {
//! let ones = |shape| Tensor::ones(shape, DType::F32, &Device::Cpu);
//! let layer = Linear {
//!     weight: ones((8, 4))?,
//!     bias: Tensor::zeros(8, DType::F32, &Device::Cpu)?,
//!     precision: Precision::F32,
//! };
//! let lora = Adapter { a: ones((1, 4))?, b: ones((8, 1))? };
//! let adapters = Adapters { parts: &[&lora], scale: 1.0, dropout: Vec::new() };
//! // A sequence of two tokens and one of one token, one after the other.
//! let rows = Rows::new(vec![0, 2, 3], vec![0, 1]);
//! let x = ones((3, 4))?;
//!
//! let (y, u) = layer.forward(&x, &rows, Some(&adapters))?;
//! assert_eq!(y.to_vec2::<f32>()?[0], [8.0; 8]);
//! // The gradients of the input and of the adapter, given the gradient of the output.
//! let (dy, mut grads) = (ones((3, 8))?, AdapterGradients::default());
//! let dx = layer.backward(&dy, &x, u.as_ref(), &rows, Some(&adapters), &mut grads)?;
//! assert_eq!(dx.dims(), [3, 4]);
//! assert_eq!(grads.finish()?[0].a.dims(), lora.a.dims());
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cpu;
pub mod cuda;
mod device;
pub mod layers;
mod optim;
mod params;
pub mod parity;
mod precision;
mod random;
mod rows;

pub use cpu::activation::Activation;
#[cfg(target_arch = "x86_64")]
pub use cpu::bf16::Isa;
pub use cpu::dropout::Dropout;
pub use device::{Compute, DeviceChoice, has_bf16};
pub use optim::{AdamW, AdamWConfig, Moments, Schedule};
pub use params::{Adapter, Adapters, Attention, AttentionSaved, Linear, Norm, NormStats};
pub use precision::{Arithmetic, Precision};
pub use random::normals;
pub use rows::Rows;
