//! The encoders' layers on candle tensors, with backward passes written by hand.
//!
//! No graph is recorded here: an operation takes tensors and gives tensors, and its backward is a
//! function beside it that returns gradients of the input and of the adapters. Those of weights and
//! norms are functions of their own, called in full fine-tuning only. (candle's fused layer norm and softmax give
//! no gradient, without an error, and its product forms the gradient of a frozen weight too: the test
//! `candles_layers_do_not_serve_frozen_encoders` shows both.)
//!
//! Token matrices are packed: `n x d`, sequence after sequence, see [`crate::rows::Rows`].
//!
//! On the CPU a layer is a function of [`crate::cpu`]; on a GPU [`crate::cuda`]
//! launches kernels of `train/engine/cuda`.

mod attention;
mod elementwise;
mod host;
mod linear;
mod norm;

pub use attention::{attention_backward, attention_forward};
pub use elementwise::{activate, activate_backward, add, dropout};
