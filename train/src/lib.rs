//! U2A training and evaluation: frozen encoders, adapters, mask tokens, losses, loop.
//!
//! From the bottom: [`kernels`] (arithmetic on slices), [`ops`] (layers on tensors with a backward
//! each), [`encoder`] (transformers), [`weights`] and [`adapter`] (files), [`design`] (which model),
//! [`select`], [`fusion`], [`modulate`], [`model`], [`loss`], [`optim`], then [`session`] (data of a run), [`trainer`], [`checkpoint`], [`evaluate`],
//! [`metrics`], and what people read: [`log`], [`tensorboard`], [`report`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod chart;
pub mod checkpoint;
pub mod compute;
pub mod design;
pub mod doctor;
pub mod encoder;
pub mod evaluate;
pub mod feed;
pub mod fusion;
pub mod ingest;
pub mod job;
pub mod kernels;
pub mod lock;
pub mod log;
pub mod loss;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod modulate;
pub mod ops;
pub mod optim;
pub mod placeholder;
pub mod predict;
pub mod pretrained;
pub mod report;
pub mod reproduce;
pub mod select;
pub mod selftest;
pub mod session;
pub mod settings;
pub mod tensorboard;
pub mod trainer;
pub mod weights;
pub mod workers;
