//! U2A training and evaluation: frozen encoders, adapters, mask tokens, losses, loop.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod encoder;
pub mod kernels;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optim;
pub mod weights;
