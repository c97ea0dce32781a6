//! A frozen transformer encoder with adapters and a mask token: tokens in, class and mask token out.
//!
//! Forward and backward are written out (no autograd): the forward pass keeps what each block's
//! backward needs, or, to save memory, each block's input alone, from which the backward runs the
//! block again. Gradients reach the adapters and the mask token and nothing else, but for [`full_fine_tuning`]
//! fine-tuning.
//!
//! [`config`] knows names and sizes, [`embeddings`] turns inputs into tokens, [`block`] is one block.

pub mod block;
pub mod config;
mod embeddings;
pub mod full_fine_tuning;

use crate::weights::Weights;
use anyhow::{Result, ensure};
use block::{ADAPTERS, Block, Call, Noise, Read, Saved, Shape, Sink};
use candle_core::{DType, Device, Tensor};
use config::{EncoderConfig, Kind, Part};
use embeddings::Embedding;
use engine::{Adapter, Arithmetic, Linear, Norm, NormStats, Precision, Rows};
use features::ModalityData;
use serde::{Deserialize, Serialize};

/// The activations that a training step's forward pass stores for its backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum StoredActivations {
    /// Everything that the backward pass reads, except attention probabilities.
    #[default]
    All,
    /// The input of each block, whose other activations the backward pass computes again:
    /// activation checkpointing.
    Inputs,
}

/// What an encoder reads.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// One input per sequence.
    pub data: &'a ModalityData,
    /// Names each sequence to the random generator.
    pub samples: &'a [u32],
    /// The numbers of `data` where they are on the encoder's device already: `rows x any`, f32.
    pub uploaded: Option<&'a Tensor>,
}

/// An encoder's learnable part.
#[derive(Clone, Debug)]
pub struct Learnable {
    /// Per block: query, key, value, output.
    pub adapters: Vec<[Adapter; ADAPTERS]>,
    /// `alpha / rank`.
    pub scale: f64,
    /// `d`.
    pub mask_token: Tensor,
}

/// A frozen encoder.
#[derive(Clone)]
pub struct Encoder {
    config: EncoderConfig,
    precision: Precision,
    embedding: Embedding,
    /// CLIP's `pre_layrnorm`, which the mask token goes through as well.
    pre_norm: Option<Norm>,
    blocks: Vec<Block>,
    /// The norm after the last block; BERT has none.
    final_norm: Option<Norm>,
    shape: Shape,
}

/// Class and mask token after the last layer, each `sequences x d`.
pub struct Output {
    /// Class token.
    pub cls: Tensor,
    /// Mask token.
    pub mask: Tensor,
}

/// What [`Encoder::backward`] needs.
pub struct Tape {
    rows: Rows,
    read: Read,
    noise: Noise,
    /// Before `pre_norm`, and its statistics.
    pre: Option<(Tensor, NormStats)>,
    blocks: Vec<Kept>,
    /// What `final_norm` read: class and mask token of each sequence in turn.
    last: Tensor,
    last_stats: Option<NormStats>,
}

enum Kept {
    Input(Tensor),
    All(Box<Saved>),
}

/// Gradients of [`Learnable`], in its own form.
pub struct Gradients {
    /// Per block: query, key, value, output.
    pub adapters: Vec<Vec<Adapter>>,
    /// `d`.
    pub mask_token: Tensor,
}

impl Encoder {
    /// Takes the weights apart into layers, on the device that they are on.
    pub fn new(
        config: EncoderConfig,
        mut weights: Weights,
        arithmetic: impl Into<Arithmetic>,
    ) -> Result<Encoder> {
        let Arithmetic { dtype, precision } = arithmetic.into();
        ensure!(config.layers > 0, "config.json: an encoder without layers");
        // Norms and biases stay in single precision where matrices do not.
        let small = if dtype == DType::BF16 {
            DType::F32
        } else {
            dtype
        };
        let mut take = |name: &str| -> Result<Tensor> {
            let tensor = weights.take(name)?;
            let dtype = if tensor.rank() == 1 { small } else { dtype };
            Ok(tensor.to_dtype(dtype)?)
        };
        let eps = config.norm_eps;
        let embedding = Embedding::new(&config, precision, &mut take)?;
        let norm = |take: &mut dyn FnMut(&str) -> Result<Tensor>, name: &str| -> Result<Norm> {
            Ok(Norm {
                weight: take(&format!("{name}.weight"))?,
                bias: take(&format!("{name}.bias"))?,
                eps,
            })
        };
        let linear = |take: &mut dyn FnMut(&str) -> Result<Tensor>, name: &str| -> Result<Linear> {
            Ok(Linear {
                weight: take(&format!("{name}.weight"))?,
                bias: take(&format!("{name}.bias"))?,
                precision,
            })
        };
        let pre_norm = if config.kind == Kind::Clip {
            Some(norm(&mut take, "pre_layrnorm")?)
        } else {
            None
        };
        let mut blocks = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let name = |part| config.block_tensor(layer, part);
            let [q, k, v] =
                [Part::Query, Part::Key, Part::Value].map(|part| linear(&mut take, &name(part)));
            let (q, k, v) = (q?, k?, v?);
            let qkv = Linear {
                weight: Tensor::cat(&[q.weight, k.weight, v.weight], 0)?,
                bias: Tensor::cat(&[q.bias, k.bias, v.bias], 0)?,
                precision,
            };
            blocks.push(Block {
                norm1: norm(&mut take, &name(Part::Norm1))?,
                qkv,
                out: linear(&mut take, &name(Part::Out))?,
                norm2: norm(&mut take, &name(Part::Norm2))?,
                fc1: linear(&mut take, &name(Part::Fc1))?,
                fc2: linear(&mut take, &name(Part::Fc2))?,
            });
        }
        let final_norm = match config.kind {
            Kind::Clip => Some(norm(&mut take, "post_layernorm")?),
            Kind::Ast => Some(norm(&mut take, "layernorm")?),
            Kind::Bert => None,
        };
        let shape = Shape {
            heads: config.heads,
            activation: config.activation,
            norm_first: config.kind != Kind::Bert,
        };
        Ok(Encoder {
            config,
            precision,
            embedding,
            pre_norm,
            blocks,
            final_norm,
            shape,
        })
    }

    /// Sizes.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The same encoder with other weights, in their number type.
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

    /// The encoder with the adapters multiplied into its weights, for evaluation.
    pub fn merged(&self, learnable: &Learnable) -> Result<Encoder> {
        let blocks = self
            .blocks
            .iter()
            .zip(&learnable.adapters)
            .map(|(b, a)| b.merged(a, learnable.scale))
            .collect::<candle_core::Result<_>>()?;
        Ok(Encoder {
            blocks,
            ..self.clone()
        })
    }

    fn call<'a>(
        &self,
        index: usize,
        rows: &'a Rows,
        read: &'a Read,
        learnable: Option<&'a Learnable>,
        noise: &'a Noise,
    ) -> Call<'a> {
        Call {
            index,
            rows,
            read: (index + 1 == self.blocks.len()).then_some(read),
            noise,
            shape: self.shape,
            adapters: learnable.map(|l| &l.adapters[index]),
            scale: learnable.map_or(0.0, |l| l.scale),
        }
    }

    /// Runs the encoder.
    ///
    /// With `merged` the adapters are passed over, because the weights hold them already. With
    /// `stored` of `None` the tape has nothing for a backward pass, as evaluation needs none.
    pub fn forward(
        &self,
        input: &Input,
        learnable: &Learnable,
        merged: bool,
        noise: &Noise,
        stored: Option<StoredActivations>,
    ) -> Result<(Output, Tape)> {
        let (mut x, rows) = self.embedding.tokens(input, &learnable.mask_token, noise)?;
        let mut pre = None;
        if let Some(norm) = &self.pre_norm {
            let (y, stats) = norm.forward(&x)?;
            pre = stored.is_some().then_some((x, stats));
            x = y;
        }
        let read = Read::ends(&rows, x.device())?;
        let adapters = (!merged).then_some(learnable);
        let mut kept = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, saved) = block.forward(&x, &self.call(i, &rows, &read, adapters, noise))?;
            match stored {
                None => {}
                Some(StoredActivations::Inputs) => kept.push(Kept::Input(x)),
                Some(StoredActivations::All) => kept.push(Kept::All(Box::new(saved))),
            }
            x = y;
        }
        let (tokens, last_stats) = match &self.final_norm {
            Some(norm) => norm.forward(&x).map(|(y, s)| (y, Some(s)))?,
            None => (x.clone(), None),
        };
        let tokens = tokens.reshape((rows.sequences(), 2, ()))?;
        let dtype = learnable.mask_token.dtype();
        let token = |which: usize| {
            tokens
                .narrow(1, which, 1)?
                .squeeze(1)?
                .contiguous()?
                .to_dtype(dtype)
        };
        let output = Output {
            cls: token(0)?,
            mask: token(1)?,
        };
        Ok((
            output,
            Tape {
                rows,
                read,
                noise: *noise,
                pre,
                blocks: kept,
                last: x,
                last_stats,
            },
        ))
    }

    /// Gradients of the learnable part, given those of the two outputs; frees the tape as it goes.
    pub fn backward(
        &self,
        tape: Tape,
        d_cls: &Tensor,
        d_mask: &Tensor,
        learnable: &Learnable,
    ) -> Result<Gradients> {
        let Tape {
            rows,
            read,
            noise,
            pre,
            blocks: kept,
            last,
            last_stats,
        } = tape;
        let d_last = in_turn(d_cls, d_mask)?.to_dtype(last.dtype())?;
        let d_last = match (&self.final_norm, &last_stats) {
            (Some(norm), Some(stats)) => norm.backward(&d_last, &last, stats, None)?,
            _ => d_last,
        };
        let (dx, adapters) =
            self.through_blocks(d_last, kept, (&rows, &read), Some(learnable), &noise, None)?;
        // Below the blocks only the mask token learns.
        let mask_rows = mask_rows(&rows, dx.device())?;
        let d_mask = dx.index_select(&mask_rows, 0)?;
        let d_mask = match (&self.pre_norm, &pre) {
            (Some(norm), Some((x, stats))) => norm.backward(
                &d_mask,
                &x.index_select(&mask_rows, 0)?,
                &pick(stats, &rows, &mask_rows)?,
                None,
            )?,
            _ => d_mask,
        };
        Ok(Gradients {
            adapters,
            mask_token: d_mask.to_dtype(d_cls.dtype())?.sum_keepdim(0)?,
        })
    }
}

impl Encoder {
    /// From the last block's output to the first one's input: its gradient and the adapters', in
    /// order; `sinks` takes one entry per block, likewise in order, in full fine-tuning.
    fn through_blocks(
        &self,
        mut dx: Tensor,
        mut kept: Vec<Kept>,
        (rows, read): (&Rows, &Read),
        learnable: Option<&Learnable>,
        noise: &Noise,
        mut sinks: Option<&mut Vec<Sink>>,
    ) -> Result<(Tensor, Vec<Vec<Adapter>>)> {
        let mut adapters = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate().rev() {
            let call = self.call(i, rows, read, learnable, noise);
            let saved = match kept.pop() {
                Some(Kept::All(saved)) => saved,
                Some(Kept::Input(x)) => Box::new(block.forward(&x, &call)?.1),
                None => anyhow::bail!("backward after a forward pass that kept nothing"),
            };
            let mut sink = sinks.is_some().then(Sink::default);
            let (d, grads) = block.backward(&dx, &saved, &call, sink.as_mut())?;
            dx = d;
            adapters.push(grads);
            if let (Some(sinks), Some(sink)) = (&mut sinks, sink) {
                sinks.push(sink);
            }
        }
        adapters.reverse();
        if let Some(sinks) = sinks {
            sinks.reverse();
        }
        Ok((dx, adapters))
    }
}

/// Rows of class and mask tokens (`n x d` each) in turn: `2n x d`.
fn in_turn(cls: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
    let d = cls.dim(1)?;
    Tensor::stack(&[cls, mask], 1)?.reshape(((), d))
}

/// Row numbers of the mask tokens: the last of each sequence.
fn mask_rows(rows: &Rows, device: &Device) -> candle_core::Result<Tensor> {
    let ends = rows.offsets[1..].iter().map(|end| *end as u32 - 1);
    Tensor::new(ends.collect::<Vec<_>>(), device)
}

/// Statistics of the mask tokens' rows alone; `ids` are their numbers.
fn pick(stats: &NormStats, rows: &Rows, ids: &Tensor) -> candle_core::Result<NormStats> {
    let last = rows.offsets[1..].iter().map(|end| end - 1);
    Ok(match stats {
        NormStats::F32(s) => NormStats::F32(last.map(|row| s[row]).collect()),
        NormStats::F64(s) => NormStats::F64(last.map(|row| s[row]).collect()),
        NormStats::Device(s) => NormStats::Device(s.index_select(ids, 0)?),
    })
}
