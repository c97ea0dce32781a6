//! Transformer layers on candle tensors, with backward passes written by hand.
//!
//! No graph is recorded here: a layer takes tensors and returns tensors, and its backward pass is a
//! function beside it that returns the gradients of the input and of the adapters. The gradients of
//! weights and norms are functions of their own, which only full fine-tuning calls. (candle's fused
//! layer norm and softmax return no gradient, without an error, and its product computes the
//! gradient of a frozen weight too: the test `candles_layers_do_not_serve_frozen_encoders` shows
//! both.)
//!
//! Token matrices are packed: `n x d`, sequence after sequence, see [`crate::Rows`].
//!
//! On the CPU a layer is a function of `crate::cpu`; on a GPU [`crate::cuda`] launches kernels of
//! `train/engine/cuda`. The structs of the layers are in `crate::params`.

mod attention;
mod elementwise;
mod host;
mod linear;
mod norm;
mod normed_linear;
mod product;
mod sequences;

pub use elementwise::{activate, activate_backward, add, dropout};
pub use linear::AdapterGradients;
pub use normed_linear::{NormedInput, NormedLinear};
pub use product::project;
pub use sequences::{ends, ends_backward, last_rows, sum_rows};
