//! From pixels, spectrograms and word pieces to packed tokens: the frozen embedding layers.
//!
//! A sequence is `[class (, distillation), tokens ..., mask token]`. The mask token comes last and
//! gets no position or type embedding; padding of text is left out of the sequence altogether,
//! which equals attending to no padding.

use super::block::Noise;
use super::config::{EncoderConfig, InputSize};
use crate::ops::{self, Linear, Norm, Rows};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use features::ModalityData;

/// The embedding layer of one encoder.
#[derive(Clone)]
pub enum Embedding {
    /// CLIP and AST: a strided projection of square patches.
    Patches {
        /// Patches along each axis of the input and how they are cut.
        grid: Grid,
        /// `d x (channels * patch * patch)`; CLIP's bias is zero.
        projection: Linear,
        /// Class token, and AST's distillation token, with their positions added: `k x d`.
        prefix: Tensor,
        /// `patches x d`.
        positions: Tensor,
    },
    /// BERT.
    Words {
        /// `vocab x d`.
        words: Tensor,
        /// `positions x d`, with segment 0's embedding added.
        positions: Tensor,
        /// After the sum.
        norm: Norm,
    },
}

/// How patches are cut from an input of `channels` planes of `rows x cols` numbers.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub(super) channels: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) patch: usize,
    row_stride: usize,
    col_stride: usize,
    /// AST's planes lie transposed in memory: frames are rows there, columns here.
    transposed: bool,
}

impl Grid {
    pub(super) fn count(&self) -> (usize, usize) {
        (
            (self.rows - self.patch) / self.row_stride + 1,
            (self.cols - self.patch) / self.col_stride + 1,
        )
    }

    /// The patches of one input as rows: `patches x (channels * patch * patch)`.
    pub(super) fn cut(&self, input: &[f32], out: &mut Vec<f32>) {
        let (down, across) = self.count();
        for i in 0..down {
            for j in 0..across {
                for c in 0..self.channels {
                    let plane = &input[c * self.rows * self.cols..][..self.rows * self.cols];
                    for y in 0..self.patch {
                        let (row, col) = (i * self.row_stride + y, j * self.col_stride);
                        if self.transposed {
                            out.extend((0..self.patch).map(|x| plane[(col + x) * self.rows + row]));
                        } else {
                            out.extend_from_slice(&plane[row * self.cols + col..][..self.patch]);
                        }
                    }
                }
            }
        }
    }
}

impl Embedding {
    /// Takes the embedding layer's tensors.
    pub fn new(
        config: &EncoderConfig,
        take: &mut dyn FnMut(&str) -> Result<Tensor>,
    ) -> Result<Embedding> {
        let d = config.hidden;
        match config.input {
            InputSize::Image { size, patch } => {
                let positions = take("embeddings.position_embedding.weight")?;
                let class = take("embeddings.class_embedding")?.reshape((1, d))?;
                Ok(Embedding::Patches {
                    grid: Grid {
                        channels: 3,
                        rows: size,
                        cols: size,
                        patch,
                        row_stride: patch,
                        col_stride: patch,
                        transposed: false,
                    },
                    projection: Linear {
                        weight: take("embeddings.patch_embedding.weight")?.reshape((d, ()))?,
                        bias: class.zeros_like()?.flatten_all()?,
                    },
                    prefix: (class + positions.narrow(0, 0, 1)?)?,
                    positions: positions.narrow(0, 1, config.patches())?.contiguous()?,
                })
            }
            InputSize::Mel {
                frames,
                bins,
                patch,
                time_stride,
                frequency_stride,
            } => {
                let positions = take("embeddings.position_embeddings")?.squeeze(0)?;
                let class = take("embeddings.cls_token")?.reshape((1, d))?;
                let distillation = take("embeddings.distillation_token")?.reshape((1, d))?;
                Ok(Embedding::Patches {
                    grid: Grid {
                        channels: 1,
                        rows: bins,
                        cols: frames,
                        patch,
                        row_stride: frequency_stride,
                        col_stride: time_stride,
                        transposed: true,
                    },
                    projection: Linear {
                        weight: take("embeddings.patch_embeddings.projection.weight")?
                            .reshape((d, ()))?,
                        bias: take("embeddings.patch_embeddings.projection.bias")?,
                    },
                    prefix: (Tensor::cat(&[class, distillation], 0)?
                        + positions.narrow(0, 0, 2)?)?,
                    positions: positions.narrow(0, 2, config.patches())?.contiguous()?,
                })
            }
            InputSize::Text { .. } => {
                let types = take("embeddings.token_type_embeddings.weight")?;
                let positions = take("embeddings.position_embeddings.weight")?;
                Ok(Embedding::Words {
                    words: take("embeddings.word_embeddings.weight")?,
                    positions: positions.broadcast_add(&types.narrow(0, 0, 1)?)?,
                    norm: Norm {
                        weight: take("embeddings.LayerNorm.weight")?,
                        bias: take("embeddings.LayerNorm.bias")?,
                        eps: config.norm_eps,
                    },
                })
            }
        }
    }

    /// Packed tokens `n x d` of all inputs, the mask token (`d`) last in each sequence.
    pub fn tokens(
        &self,
        data: &ModalityData,
        samples: &[u32],
        mask_token: &Tensor,
        noise: &Noise,
    ) -> Result<(Tensor, Rows)> {
        let mask_token = mask_token.reshape((1, ()))?;
        let dtype = mask_token.dtype();
        let mut parts: Vec<Tensor> = Vec::new();
        let mut offsets = vec![0];
        match (self, data) {
            (
                Embedding::Patches {
                    grid,
                    projection,
                    prefix,
                    positions,
                },
                ModalityData::Pixels { values, .. } | ModalityData::Mel { values, .. },
            ) => {
                match data {
                    ModalityData::Mel { frames, bins, .. }
                        if grid.channels != 1 || (*frames, *bins) != (grid.cols, grid.rows) =>
                    {
                        bail!(
                            "a spectrogram of {frames} x {bins} does not fit an encoder for {} x {}",
                            grid.cols,
                            grid.rows
                        )
                    }
                    ModalityData::Pixels { size, .. }
                        if grid.channels != 3 || *size != grid.rows =>
                    {
                        bail!(
                            "images of {size} x {size} do not fit an encoder for {} x {}",
                            grid.rows,
                            grid.cols
                        )
                    }
                    _ => {}
                }
                let input = grid.channels * grid.rows * grid.cols;
                if values.len() != samples.len() * input {
                    bail!(
                        "{} numbers are not {} inputs of {input}",
                        values.len(),
                        samples.len()
                    );
                }
                let (down, across) = grid.count();
                let width = grid.channels * grid.patch * grid.patch;
                for one in values.chunks_exact(input) {
                    let mut patches = Vec::with_capacity(down * across * width);
                    grid.cut(one, &mut patches);
                    let patches = Tensor::from_vec(patches, (down * across, width), &Device::Cpu)?
                        .to_dtype(dtype)?;
                    let rows = Rows {
                        offsets: vec![0, down * across],
                        samples: vec![0],
                    };
                    let tokens =
                        ops::add(&projection.forward(&patches, &rows, None)?.0, positions)?;
                    offsets.push(offsets[offsets.len() - 1] + prefix.dim(0)? + tokens.dim(0)? + 1);
                    parts.extend([prefix.clone(), tokens, mask_token.clone()]);
                }
            }
            (
                Embedding::Words {
                    words,
                    positions,
                    norm,
                },
                ModalityData::Tokens {
                    ids,
                    lengths,
                    max_len,
                },
            ) => {
                for ((ids, length), sample) in ids.chunks_exact(*max_len).zip(lengths).zip(samples)
                {
                    let ids = &ids[..*length];
                    if let Some(id) = ids.iter().find(|id| **id as usize >= words.dims()[0]) {
                        bail!(
                            "word piece {id} is beyond the encoder's vocabulary of {}; vocab.txt and model belong to different checkpoints",
                            words.dims()[0]
                        );
                    }
                    let sum = (words.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?
                        + positions.narrow(0, 0, *length)?)?;
                    let (tokens, _) = norm.forward(&sum)?;
                    let rows = Rows {
                        offsets: vec![0, *length],
                        samples: vec![*sample],
                    };
                    let tokens = ops::dropout(&tokens, noise.embedding().as_ref(), &rows)?;
                    offsets.push(offsets[offsets.len() - 1] + length + 1);
                    parts.extend([tokens, mask_token.clone()]);
                }
            }
            _ => bail!("an input of another modality"),
        }
        Ok((
            Tensor::cat(&parts, 0)?,
            Rows {
                offsets,
                samples: samples.to_vec(),
            },
        ))
    }
}
