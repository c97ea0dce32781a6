//! U2A, Unified Unimodal Adaptation: frozen pretrained encoders with LoRA adapters and mask tokens,
//! token selection, fusion and losses; and the baselines that the paper compares it with.
//!
//! The parts in the order of the paper's section 3:
//! - [`encoder`] holds the transformers (equations 1 to 3), their [`encoder::weights`], and the
//!   LoRA adapters, [`encoder::lora`];
//! - `token_selection` takes class tokens, and mask tokens where a modality is missing (equation 4);
//! - `fusion` computes logits (equation 5);
//! - [`loss`] holds the alignment loss (equation 6) and the training loss (equation 7);
//! - [`modality_dropout`] hides a modality during training;
//! - [`u2a`] puts all of it together: the model, its training step and its scores.
//!
//! Beside them [`variant`] names the variants of the model, [`methods`] holds the objectives of the
//! methods that the paper compares U2A with, [`encoder::prompts`], [`ogm_ge`] and
//! [`missing_inputs`] serve baselines, [`peft`] and [`pretrained`] read and write what has learnt in the formats of Hugging
//! Face, [`parameter_table`] counts parameters, and [`parity`] holds models and batches on which a
//! GPU is compared with the CPU.
//!
//! ```
//! use candle_core::DType;
//! use datasets::Modality;
//! use features::{Batch, ModalityBatch, ModalityData};
//! use model::encoder::Encoder;
//! use model::encoder::config::{EncoderConfig, Kind};
//! use model::encoder::weights::Weights;
//! use model::u2a::U2a;
//! use model::variant::MissingToken;
//!
//! let encoder = |kind| {
//!     let config = EncoderConfig::tiny(kind);
//!     let weights = Weights::random(0, &config)?;
//!     Encoder::new(config, weights, DType::F32)
//! };
//! let encoders = [encoder(Kind::Ast)?, encoder(Kind::Clip)?];
//! let model = U2a::builder([Modality::Audio, Modality::Video], encoders, 28).build()?;
//!
//! // A sample without video: the mask token of the audio encoder stands for it.
//! let audio = ModalityData::Dense { values: vec![0.0; 256 * 128], shape: vec![256, 128] };
//! let batch = Batch {
//!     ids: vec!["clip".to_string()],
//!     labels: vec![vec![3]],
//!     present: vec![[true, false]],
//!     inputs: [Some(ModalityBatch { rows: vec![0], data: audio }), None],
//!     consumed: 1,
//! };
//! let scores = model.score(&model.merged_encoders()?, &batch, MissingToken::Mask)?;
//! assert_eq!(scores.logits[0].len(), 28);
//! # Ok::<(), anyhow::Error>(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod encoder;
mod fusion;
mod init;
pub mod loss;
pub mod methods;
pub mod missing_inputs;
pub mod modality_dropout;
pub mod ogm_ge;
mod pair;
pub mod parameter_table;
pub mod parity;
pub mod peft;
pub mod pretrained;
mod token_selection;
pub mod u2a;
pub mod variant;
