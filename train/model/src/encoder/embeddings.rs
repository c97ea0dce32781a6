//! From pixels, spectrograms and word pieces to packed tokens: the frozen embedding layers.
//!
//! A sequence is `[class (, distillation), tokens ..., mask token]`. The mask token comes last and
//! gets no position or type embedding; padding of text is left out of the sequence altogether,
//! which equals attending to no padding.

use super::Input;
use super::block::Noise;
use super::config::{EncoderConfig, InputSize};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use candle_nn::Module;
use engine::{Linear, Norm, Precision, Rows, layers};
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
        words: candle_nn::Embedding,
        /// `positions x d`, with segment 0's embedding added.
        positions: candle_nn::Embedding,
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

    /// Numbers of one input; whether `count` inputs of this shape were given.
    fn check(&self, data: &ModalityData, numbers: usize, count: usize) -> Result<usize> {
        match data {
            ModalityData::Mel { frames, bins, .. }
                if self.channels != 1 || (*frames, *bins) != (self.cols, self.rows) =>
            {
                bail!(
                    "a spectrogram of {frames} x {bins} does not fit an encoder for {} x {}",
                    self.cols,
                    self.rows
                )
            }
            ModalityData::Pixels { size, .. } if self.channels != 3 || *size != self.rows => {
                bail!(
                    "images of {size} x {size} do not fit an encoder for {} x {}",
                    self.rows,
                    self.cols
                )
            }
            _ => {}
        }
        let input = self.channels * self.rows * self.cols;
        if numbers != count * input {
            bail!("{numbers} numbers are not {count} inputs of {input}");
        }
        Ok(input)
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

/// Whether every word piece has an embedding.
fn check_words(ids: &[u32], words: &candle_nn::Embedding) -> Result<()> {
    let vocabulary = words.embeddings().dim(0)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        bail!(
            "word piece {id} is beyond the encoder's vocabulary of {vocabulary}; vocab.txt and model belong to different checkpoints"
        );
    }
    Ok(())
}

impl Embedding {
    /// Takes the embedding layer's tensors.
    pub fn new(
        config: &EncoderConfig,
        precision: Precision,
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
                        precision,
                    },
                    prefix: (class.to_dtype(positions.dtype())? + positions.narrow(0, 0, 1)?)?,
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
                        precision,
                    },
                    prefix: (Tensor::cat(&[class, distillation], 0)?
                        + positions.narrow(0, 0, 2)?)?,
                    positions: positions.narrow(0, 2, config.patches())?.contiguous()?,
                })
            }
            InputSize::Text { .. } => {
                let types = take("embeddings.token_type_embeddings.weight")?;
                let positions = take("embeddings.position_embeddings.weight")?;
                let positions = positions.broadcast_add(&types.narrow(0, 0, 1)?)?;
                let words = take("embeddings.word_embeddings.weight")?;
                Ok(Embedding::Words {
                    words: candle_nn::Embedding::new(words, d),
                    positions: candle_nn::Embedding::new(positions, d),
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
        input: &Input,
        mask_token: &Tensor,
        noise: &Noise,
    ) -> Result<(Tensor, Rows)> {
        if let Some(gpu) = engine::cuda::of(mask_token)? {
            return self.tokens_on_device(gpu, input, mask_token, noise);
        }
        let Input { data, samples, .. } = *input;
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
                let input = grid.check(data, values.len(), samples.len())?;
                let (down, across) = grid.count();
                let width = grid.channels * grid.patch * grid.patch;
                for one in values.chunks_exact(input) {
                    let mut patches = Vec::with_capacity(down * across * width);
                    grid.cut(one, &mut patches);
                    let patches = Tensor::from_vec(patches, (down * across, width), &Device::Cpu)?
                        .to_dtype(dtype)?;
                    let rows = Rows::new(vec![0, down * across], vec![0]);
                    let tokens =
                        layers::add(&projection.forward(&patches, &rows, None)?.0, positions)?;
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
                    check_words(ids, words)?;
                    let places = Tensor::arange(0, *length as u32, &Device::Cpu)?;
                    let sum = (words.forward(&Tensor::new(ids, &Device::Cpu)?)?
                        + positions.forward(&places)?)?;
                    let (tokens, _) = norm.forward(&sum)?;
                    let rows = Rows::new(vec![0, *length], vec![*sample]);
                    let tokens = layers::dropout(&tokens, noise.embedding().as_ref(), &rows)?;
                    offsets.push(offsets[offsets.len() - 1] + length + 1);
                    parts.extend([tokens, mask_token.clone()]);
                }
            }
            _ => bail!("an input of another modality"),
        }
        Ok((
            Tensor::cat(&parts, 0)?,
            Rows::new(offsets, samples.to_vec()),
        ))
    }
}

impl Embedding {
    /// [`Embedding::tokens`] for a whole batch at once, with a device's kernels.
    fn tokens_on_device(
        &self,
        gpu: engine::cuda::Gpu,
        input: &Input,
        mask_token: &Tensor,
        noise: &Noise,
    ) -> Result<(Tensor, Rows)> {
        let Input {
            data,
            samples,
            uploaded,
        } = *input;
        let device = mask_token.device();
        // Special tokens, the same in every sequence, and how many tokens each has of its own.
        let (special, own, lengths) = match (self, data) {
            (
                Embedding::Patches {
                    grid,
                    projection,
                    prefix,
                    positions,
                },
                ModalityData::Pixels { values, .. } | ModalityData::Mel { values, .. },
            ) => {
                let count = samples.len();
                let input = grid.check(data, values.len(), count)?;
                let (down, across) = grid.count();
                let input = match uploaded {
                    Some(there) => there.reshape((count, input))?,
                    None => Tensor::from_slice(values, (count, input), device)?,
                };
                let sizes = [
                    grid.channels,
                    grid.rows,
                    grid.cols,
                    grid.patch,
                    grid.row_stride,
                    grid.col_stride,
                    down,
                    across,
                ];
                let dtype = positions.dtype();
                let patches = gpu.cut_patches(&input, sizes, grid.transposed, dtype)?;
                let n = patches.dim(0)?;
                let rows = Rows::new(vec![0, n], vec![0]);
                let (tokens, _) = projection.forward(&patches, &rows, None)?;
                let (per, d) = positions.dims2()?;
                let tokens = tokens.reshape((count, per, d))?.broadcast_add(positions)?;
                (prefix.clone(), tokens.reshape((n, d))?, vec![per; count])
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
                let (mut used, mut places, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
                for (ids, length) in ids.chunks_exact(*max_len).zip(lengths) {
                    used.extend_from_slice(&ids[..*length]);
                    places.extend(0..*length as u32);
                    offsets.push(used.len());
                }
                check_words(&used, words)?;
                let sum = (words.forward(&Tensor::new(used, device)?)?
                    + positions.forward(&Tensor::new(places, device)?)?)?;
                let (tokens, _) = norm.forward(&sum)?;
                let rows = Rows::new(offsets, samples.to_vec());
                let tokens = layers::dropout(&tokens, noise.embedding().as_ref(), &rows)?;
                (tokens.narrow(0, 0, 0)?, tokens, lengths.clone())
            }
            _ => bail!("an input of another modality"),
        };
        let specials = special.dim(0)? as u32;
        let mask = mask_token.reshape((1, ()))?.to_dtype(own.dtype())?;
        let all = match specials {
            0 => Tensor::cat(&[&mask, &own], 0)?,
            _ => Tensor::cat(&[&special, &mask, &own], 0)?,
        };
        let (mut order, mut offsets, mut next) = (Vec::new(), vec![0], specials + 1);
        for length in lengths {
            order.extend(0..specials);
            order.extend(next..next + length as u32);
            order.push(specials);
            next += length as u32;
            offsets.push(order.len());
        }
        let x = all.index_select(&Tensor::new(order, device)?, 0)?;
        Ok((x, Rows::new(offsets, samples.to_vec())))
    }
}
