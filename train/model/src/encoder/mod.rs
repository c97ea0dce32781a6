//! A frozen transformer encoder with LoRA adapters and a mask token: an input becomes a class token
//! and a mask token (section 3, equations 1 to 3).
//!
//! Forward and backward passes are written out, without autograd. The forward pass stores what the
//! backward pass of each block needs or, to save memory, the input of each block alone, from which
//! the backward pass runs the block again. Gradients reach the adapters and the mask token and
//! nothing else, except in full fine-tuning, and with [`prompts`], which take the place of both.

mod appended_rows;
mod block;
pub mod config;
mod embeddings;
mod full_fine_tuning;
mod layer_reader;
pub mod lora;
mod prompted;
pub mod prompts;
pub mod weights;

pub use block::DropoutConfig;

use anyhow::{Result, ensure};
use appended_rows::CaseSums;
use block::{Block, BlockActivations, BlockCall, BlockConfig, GradientSink, RowSelection};
use candle_core::{DType, Device, Tensor};
use config::{EncoderConfig, Kind};
use embeddings::Embedding;
use engine::layers::AdapterGradients;
use engine::{Adapter, Arithmetic, Norm, NormStats, Precision, Rows, layers};
use features::ModalityData;
use layer_reader::LayerReader;
use lora::{ADAPTERS, LoraAdapters};
use prompted::PromptRows;
use serde::{Deserialize, Serialize};
use weights::Weights;

/// The activations that a training step's forward pass stores for its backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum StoredActivations {
    /// Everything that the backward pass reads, except attention probabilities.
    #[default]
    All,
    /// All but the hidden activations of the feed-forward part, two fifths of the memory, which the
    /// backward pass computes again with one more product for every ten (selective activation
    /// recomputation, Korthikanti et al. 2022).
    Selective,
    /// The input of each block, whose other activations the backward pass computes again:
    /// activation checkpointing.
    Inputs,
}

impl StoredActivations {
    /// Returns the default for a device. A GPU has less memory than its speed could use, and one
    /// product more costs it little.
    pub fn default_on(device: &Device) -> StoredActivations {
        match device.is_cpu() {
            true => StoredActivations::All,
            false => StoredActivations::Selective,
        }
    }
}

/// The input of an encoder.
#[derive(Clone, Copy)]
pub struct EncoderInput<'a> {
    /// The values, one input per sequence.
    pub data: &'a ModalityData,
    /// A number for each sequence, by which the random generator knows it.
    pub samples: &'a [u32],
    /// The values of `data`, if they are on the encoder's device already: `sequences x any`, f32.
    pub uploaded: Option<&'a Tensor>,
}

/// The last hidden states of an encoder that are used, or their gradients.
pub struct EncoderOutput {
    /// Class token and mask token of each sequence in turn, `2 sequences x d`.
    pub tokens: Tensor,
}

impl EncoderOutput {
    /// Returns class tokens and mask tokens apart, `sequences x d` each; those of an encoder that
    /// computes in bf16 as f32.
    pub fn split(&self) -> Result<[Tensor; 2]> {
        let (rows, d) = self.tokens.dims2()?;
        let tokens = self.tokens.reshape((rows / 2, 2, d))?;
        let dtype = match tokens.dtype() {
            DType::BF16 => DType::F32,
            dtype => dtype,
        };
        let token = |which: usize| {
            let token = tokens.narrow(1, which, 1)?.squeeze(1)?;
            token.contiguous()?.to_dtype(dtype)
        };
        Ok([token(0)?, token(1)?])
    }

    /// Puts class tokens and mask tokens together, `sequences x d` each.
    pub fn join(class: &Tensor, mask: &Tensor) -> Result<EncoderOutput> {
        let d = class.dim(1)?;
        let tokens = Tensor::stack(&[class, mask], 1)?.reshape(((), d))?;
        Ok(EncoderOutput { tokens })
    }
}

/// A frozen encoder.
#[derive(Clone)]
pub struct Encoder {
    config: EncoderConfig,
    embedding: Embedding,
    /// CLIP's `pre_layrnorm`, which the mask token goes through as well.
    pre_norm: Option<Norm>,
    blocks: Vec<Block>,
    /// The norm after the last block; BERT has none.
    final_norm: Option<Norm>,
    /// The precision of matrix products.
    precision: Precision,
}

/// What a forward pass stores for [`Encoder::backward`].
pub struct Tape {
    layout: Layout,
    /// The input of `pre_norm`.
    pre: Option<Tensor>,
    blocks: Vec<BlockTape>,
    /// The input of `final_norm`: class and mask token of each sequence in turn.
    last: Tensor,
    last_stats: Option<NormStats>,
}

/// What is stored of one block: see [`StoredActivations`].
enum BlockTape {
    Input(Tensor),
    Activations(Box<BlockActivations>),
}

/// What all blocks of one pass have in common.
struct Layout {
    /// The sequences of tokens, without prompts.
    rows: Rows,
    /// The rows of the last block's output that are used.
    selection: RowSelection,
    dropout: DropoutConfig,
    /// The prompts of the blocks, if there are any.
    prompts: Option<PromptRows>,
}

impl Layout {
    /// Returns the sequences in the input of a block.
    fn sequences(&self, block: usize) -> &Rows {
        let prompts = self.prompts.as_ref();
        let prompted = prompts.and_then(|prompts| prompts.sequences(block));
        prompted.unwrap_or(&self.rows)
    }
}

/// The gradients of a backward pass through all blocks.
struct BlocksGradients {
    /// The gradient of the first block's input.
    dx: Tensor,
    /// The gradients of the adapters, block after block.
    adapters: Vec<Vec<Adapter>>,
    /// The gradients of the prompts, those of the last block first.
    prompts: Vec<CaseSums>,
}

/// The gradients of an encoder's LoRA adapters and mask token.
pub struct LoraGradients {
    /// For each block the adapters of query, key, value and attention output.
    pub adapters: Vec<Vec<Adapter>>,
    /// The gradient of the mask token, `1 x d`.
    pub mask_token: Tensor,
}

impl Encoder {
    /// Builds an encoder on the device of its weights.
    pub fn new(
        config: EncoderConfig,
        weights: Weights,
        arithmetic: impl Into<Arithmetic>,
    ) -> Result<Encoder> {
        let arithmetic = arithmetic.into();
        ensure!(config.layers > 0, "config.json: an encoder without layers");
        if let Some((_, tensor)) = weights.iter().next()
            && engine::cuda::of(tensor)?.is_some()
        {
            config.check_gpu()?;
        }
        let mut reader = LayerReader::new(weights, arithmetic, config.norm_eps);
        let embedding = Embedding::new(&config, &mut reader)?;
        let pre_norm = match config.kind {
            Kind::Clip => Some(reader.norm("pre_layrnorm")?),
            Kind::Bert | Kind::Ast => None,
        };
        let blocks = (0..config.layers).map(|block| reader.block(&config, block));
        let blocks = blocks.collect::<Result<_>>()?;
        let final_norm = match config.kind {
            Kind::Clip => Some(reader.norm("post_layernorm")?),
            Kind::Ast => Some(reader.norm("layernorm")?),
            Kind::Bert => None,
        };
        Ok(Encoder {
            config,
            embedding,
            pre_norm,
            blocks,
            final_norm,
            precision: arithmetic.precision,
        })
    }

    /// Returns the kind and the sizes of the encoder.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Returns the same encoder with other weights, in their number type.
    pub fn with_weights(&self, weights: Weights) -> Result<Encoder> {
        let dtype = weights.iter().next().map_or(DType::F32, |(_, t)| t.dtype());
        let arithmetic = Arithmetic {
            dtype,
            precision: self.precision,
        };
        let encoder = Encoder::new(self.config.clone(), weights, arithmetic)?;
        Ok(match self.final_norm {
            Some(_) => encoder,
            None => encoder.without_final_norm(),
        })
    }

    /// Leaves out the norm after the last block (`clip_features = "last_hidden"`).
    pub fn without_final_norm(mut self) -> Encoder {
        self.final_norm = None;
        self
    }

    /// Returns the encoder with the adapters merged into its weights, for evaluation.
    pub fn merged(&self, adapters: &LoraAdapters) -> Result<Encoder> {
        let blocks = self
            .blocks
            .iter()
            .zip(&adapters.blocks)
            .map(|(block, four)| block.merged(four, adapters.scale))
            .collect::<candle_core::Result<_>>()?;
        Ok(Encoder {
            blocks,
            ..self.clone()
        })
    }

    fn block_call<'a>(
        &self,
        index: usize,
        layout: &'a Layout,
        adapters: Option<&'a LoraAdapters>,
        store_hidden: bool,
    ) -> BlockCall<'a> {
        let prompts = layout.prompts.as_ref();
        BlockCall {
            index,
            rows: layout.sequences(index),
            selection: (index + 1 == self.blocks.len()).then_some(&layout.selection),
            prompts: prompts.and_then(|prompts| prompts.in_attention(index)),
            dropout: &layout.dropout,
            config: BlockConfig {
                heads: self.config.heads,
                activation: self.config.activation,
                norm_first: self.config.kind != Kind::Bert,
            },
            adapters: adapters.map(|adapters| &adapters.blocks[index]),
            scale: adapters.map_or(0.0, |adapters| adapters.scale),
            store_hidden,
        }
    }

    /// Runs the encoder, with `mask_token` (`1 x d`) as the last token of each sequence.
    ///
    /// `adapters` are `None` where there are none, or where they are merged into the weights. With
    /// `stored` of `None` the tape has nothing for a backward pass, as evaluation needs none.
    pub fn forward(
        &self,
        input: &EncoderInput,
        mask_token: &Tensor,
        adapters: Option<&LoraAdapters>,
        dropout: &DropoutConfig,
        stored: Option<StoredActivations>,
    ) -> Result<(EncoderOutput, Tape)> {
        let (mut x, rows) = self.embedding.tokens(input, mask_token, dropout)?;
        let mut pre = None;
        if let Some(norm) = &self.pre_norm {
            let (y, _) = norm.forward(&x)?;
            pre = stored.is_some().then_some(x);
            x = y;
        }
        let (output, tape) = self.forward_blocks(x, rows, None, adapters, dropout, stored)?;
        Ok((output, Tape { pre, ..tape }))
    }

    /// Runs the blocks, and the norm after the last one, on embedded tokens.
    fn forward_blocks(
        &self,
        mut x: Tensor,
        rows: Rows,
        prompts: Option<PromptRows>,
        adapters: Option<&LoraAdapters>,
        dropout: &DropoutConfig,
        stored: Option<StoredActivations>,
    ) -> Result<(EncoderOutput, Tape)> {
        let layout = Layout {
            selection: RowSelection::class_and_mask_tokens(&rows),
            rows,
            dropout: *dropout,
            prompts,
        };
        let store_hidden = stored == Some(StoredActivations::All);
        let mut blocks = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            if let Some(prompts) = &layout.prompts {
                x = prompts.enter(i, x)?;
            }
            let call = self.block_call(i, &layout, adapters, store_hidden);
            let (y, activations) = block.forward(&x, &call)?;
            match stored {
                None => {}
                Some(StoredActivations::Inputs) => blocks.push(BlockTape::Input(x)),
                Some(StoredActivations::All | StoredActivations::Selective) => {
                    blocks.push(BlockTape::Activations(Box::new(activations)));
                }
            }
            x = y;
        }
        let (tokens, last_stats) = match &self.final_norm {
            Some(norm) => norm.forward(&x).map(|(y, stats)| (y, Some(stats)))?,
            None => (x.clone(), None),
        };
        let tape = Tape {
            layout,
            pre: None,
            blocks,
            last: x,
            last_stats,
        };
        Ok((EncoderOutput { tokens }, tape))
    }

    /// Computes the gradients of the adapters and of the mask token, given that of the output.
    /// Frees the tape as it goes.
    pub fn backward(
        &self,
        tape: Tape,
        gradient: &EncoderOutput,
        adapters: &LoraAdapters,
    ) -> Result<LoraGradients> {
        let d_last = self.final_norm_backward(&tape, gradient)?;
        drop(tape.last);
        let Layout { rows, .. } = &tape.layout;
        let BlocksGradients { dx, adapters, .. } =
            self.blocks_backward(d_last, tape.blocks, &tape.layout, Some(adapters), None)?;
        // Below the blocks only the mask token learns. It is the same row in every sequence, so that
        // the gradients can be added up before they go through the norm.
        let d_mask = layers::sum_rows(&layers::last_rows(&dx, rows)?)?;
        let mask_token = match (&self.pre_norm, &tape.pre) {
            (Some(norm), Some(x)) => {
                let x = x.narrow(0, rows.offsets[1] - 1, 1)?;
                let x = x.to_dtype(d_mask.dtype())?;
                let (_, stats) = norm.forward(&x)?;
                norm.backward(&d_mask, &x, &stats, None)?
            }
            _ => d_mask,
        };
        Ok(LoraGradients {
            adapters,
            mask_token,
        })
    }

    /// Computes the gradient of the last block's output, given that of the encoder's.
    fn final_norm_backward(&self, tape: &Tape, gradient: &EncoderOutput) -> Result<Tensor> {
        let d_last = gradient.tokens.to_dtype(tape.last.dtype())?;
        Ok(match (&self.final_norm, &tape.last_stats) {
            (Some(norm), Some(stats)) => norm.backward(&d_last, &tape.last, stats, None)?,
            _ => d_last,
        })
    }

    /// Goes from the last block's output back to the first block's input: computes the gradient of
    /// that input and those of the adapters, in the order of the blocks, and of the prompts. In
    /// full fine-tuning `sinks` gets one entry per block, in the order of the blocks.
    fn blocks_backward(
        &self,
        mut dx: Tensor,
        mut tapes: Vec<BlockTape>,
        layout: &Layout,
        adapters: Option<&LoraAdapters>,
        mut sinks: Option<&mut Vec<GradientSink>>,
    ) -> Result<BlocksGradients> {
        let mut grads = AdapterGradients::default();
        let mut prompts = Vec::new();
        for (i, block) in self.blocks.iter().enumerate().rev() {
            let call = self.block_call(i, layout, adapters, true);
            let activations = match tapes.pop() {
                Some(BlockTape::Activations(activations)) => activations,
                Some(BlockTape::Input(x)) => Box::new(block.forward(&x, &call)?.1),
                None => anyhow::bail!("backward after a forward pass that stored nothing"),
            };
            let mut sink = sinks.is_some().then(GradientSink::default);
            let d_prompts = &mut prompts;
            dx = block.backward(
                &dx,
                &activations,
                &call,
                &mut grads,
                d_prompts,
                sink.as_mut(),
            )?;
            if let Some(entered) = &layout.prompts {
                dx = entered.leave(i, dx, &mut prompts)?;
            }
            if let (Some(sinks), Some(sink)) = (&mut sinks, sink) {
                sinks.push(sink);
            }
        }
        if let Some(sinks) = sinks {
            sinks.reverse();
        }
        // The gradients come as the layers were gone through: the last block first, and in each
        // the adapter of the output layer before the others.
        let grads = grads.finish()?;
        let blocks = grads.rchunks_exact(ADAPTERS).map(|block| {
            let mut block = block.to_vec();
            block.rotate_left(1);
            block
        });
        Ok(BlocksGradients {
            dx,
            adapters: blocks.collect(),
            prompts,
        })
    }
}
