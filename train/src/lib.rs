//! U2A training and evaluation: frozen encoders, adapters, mask tokens, losses, loop.
//!
//! From the bottom: [`kernels`] (arithmetic on slices), [`ops`] (layers on tensors with a backward
//! each), [`encoder`] (transformers), [`weights`] and [`adapter`] (files), [`model`], [`loss`],
//! [`optim`], then [`session`] (data of a run), [`trainer`], [`checkpoint`], [`evaluate`],
//! [`metrics`], and what people read: [`log`], [`tensorboard`], [`report`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod checkpoint;
pub mod encoder;
pub mod evaluate;
pub mod kernels;
pub mod log;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod optim;
pub mod report;
pub mod session;
pub mod settings;
pub mod tensorboard;
pub mod trainer;
pub mod weights;
