//! U2A, the model: frozen pretrained encoders with LoRA adapters, mask tokens, token selection,
//! fusion and losses, and the baselines that the paper compares it with.
//!
//! From the bottom: [`encoder`] (transformers), [`weights`], [`adapter`] and [`pretrained`] (files),
//! [`design`] (which variant), [`select`], [`fusion`], [`modulate`], [`placeholder`], [`loss`], then
//! [`u2a`], the whole model and its training step. [`parity`] holds models and batches on which two
//! devices are compared.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod design;
pub mod encoder;
pub mod fusion;
pub mod loss;
pub mod modulate;
pub mod parity;
pub mod placeholder;
pub mod pretrained;
pub mod select;
pub mod u2a;
pub mod weights;
