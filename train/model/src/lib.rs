//! U2A, the model: frozen pretrained encoders with LoRA adapters, mask tokens, token selection,
//! fusion and losses, and the baselines that the paper compares it with.
//!
//! From the bottom: [`encoder`] (transformers), [`encoder::weights`], [`peft`] and [`pretrained`]
//! (files), [`variant`] (which variant), [`token_selection`], [`fusion`], [`ogm_ge`],
//! [`missing_inputs`], [`loss`], then [`u2a`], the whole model and its training step. [`parity`]
//! holds models and batches on which two devices are compared.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod encoder;
pub mod fusion;
mod init;
pub mod loss;
pub mod missing_inputs;
pub mod modality_dropout;
pub mod ogm_ge;
pub mod pair;
pub mod parameter_table;
pub mod parity;
pub mod peft;
pub mod pretrained;
pub mod token_selection;
pub mod u2a;
pub mod variant;
