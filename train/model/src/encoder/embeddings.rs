//! The frozen embedding layers (equation 1): from pixels, spectrograms and word pieces to packed
//! tokens, with the mask token appended (equation 2).
//!
//! A sequence is `[class (, distillation), tokens ..., mask token]`. The mask token comes last and
//! gets no position or type embedding. Padding of text is left out of the sequence altogether,
//! which equals attending to no padding.

use super::EncoderInput;
use super::block::DropoutConfig;
use super::config::{EncoderConfig, InputSize};
use super::layer_reader::LayerReader;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use candle_nn::Module;
use engine::cuda::Gpu;
use engine::{Linear, Norm, Rows, layers};
use features::ModalityData;

/// The embedding layer of one encoder.
#[derive(Clone)]
pub(super) enum Embedding {
    /// CLIP and AST.
    Patches(PatchEmbedding),
    /// BERT.
    Words(WordEmbedding),
}

/// CLIP's and AST's embedding layer: a strided projection of square patches.
#[derive(Clone)]
pub(super) struct PatchEmbedding {
    pub(super) grid: PatchGrid,
    /// The projection, `d x (channels * patch * patch)`; CLIP's bias is zero.
    pub(super) projection: Linear,
    /// The class token and AST's distillation token, with their positions added: `k x d`.
    pub(super) special: Tensor,
    /// The position embeddings, `patches x d`.
    positions: Tensor,
}

/// BERT's embedding layer.
#[derive(Clone)]
pub(super) struct WordEmbedding {
    /// The word embeddings, `vocab x d`.
    pub(super) words: candle_nn::Embedding,
    /// The position embeddings with that of segment 0 added, `positions x d`.
    pub(super) positions: candle_nn::Embedding,
    /// The normalization of the sum.
    pub(super) norm: Norm,
}

/// The places of patches in an input of `channels` planes of `rows x cols` numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct PatchGrid {
    pub(super) channels: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) patch: usize,
    row_stride: usize,
    col_stride: usize,
    /// AST's planes are transposed in memory: frames are rows there, columns here.
    transposed: bool,
}

impl PatchGrid {
    /// Returns the number of patches along rows and along columns.
    pub(super) fn counts(&self) -> (usize, usize) {
        (
            (self.rows - self.patch) / self.row_stride + 1,
            (self.cols - self.patch) / self.col_stride + 1,
        )
    }

    /// Returns the number of patches of one input.
    pub(super) fn patches(&self) -> usize {
        let (down, across) = self.counts();
        down * across
    }

    /// Returns how many numbers one input has.
    pub(super) fn input_len(&self) -> usize {
        self.channels * self.rows * self.cols
    }

    /// Returns how many numbers one patch has.
    pub(super) fn patch_len(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Returns the numbers of `count` inputs, if they have the sizes that the encoder was built
    /// for.
    fn values<'a>(&self, data: &'a ModalityData, count: usize) -> Result<&'a [f32]> {
        let ModalityData::Dense { values, shape } = data else {
            return wrong_modality();
        };
        match shape[..] {
            [frames, bins] if self.channels != 1 || (frames, bins) != (self.cols, self.rows) => {
                bail!(
                    "a spectrogram of {frames} x {bins} does not fit an encoder for {} x {}",
                    self.cols,
                    self.rows
                )
            }
            [_, _, size, _] if self.channels != 3 || size != self.rows => {
                bail!(
                    "images of {size} x {size} do not fit an encoder for {} x {}",
                    self.rows,
                    self.cols
                )
            }
            _ => {}
        }
        let input = self.input_len();
        if values.len() != count * input {
            bail!("{} numbers are not {count} inputs of {input}", values.len());
        }
        Ok(values)
    }

    /// Appends the patches of one input as rows, `patches x (channels * patch * patch)`.
    pub(super) fn cut(&self, input: &[f32], out: &mut Vec<f32>) {
        let (down, across) = self.counts();
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

/// Fails because of an input that is not of the encoder's modality.
pub(super) fn wrong_modality<T>() -> Result<T> {
    bail!("an input of another modality")
}

/// Token matrices of sequences, one after another.
struct PackedTokens {
    parts: Vec<Tensor>,
    offsets: Vec<usize>,
}

impl PackedTokens {
    fn new() -> PackedTokens {
        PackedTokens {
            parts: Vec::new(),
            offsets: vec![0],
        }
    }

    /// Appends a sequence that consists of `parts`.
    fn push(&mut self, parts: impl IntoIterator<Item = Tensor>) -> Result<()> {
        let mut end = self.offsets[self.offsets.len() - 1];
        for part in parts {
            end += part.dim(0)?;
            self.parts.push(part);
        }
        self.offsets.push(end);
        Ok(())
    }
}

impl Embedding {
    /// Takes the embedding layer's tensors.
    pub(super) fn new(config: &EncoderConfig, reader: &mut LayerReader) -> Result<Embedding> {
        Ok(match config.input {
            InputSize::Image { size, patch } => {
                Embedding::Patches(PatchEmbedding::clip(config, size, patch, reader)?)
            }
            InputSize::Mel { .. } => Embedding::Patches(PatchEmbedding::ast(config, reader)?),
            InputSize::Text { .. } => Embedding::Words(WordEmbedding::bert(config, reader)?),
        })
    }

    /// Embeds all inputs: packed tokens `n x d`, with the mask token (`1 x d`) last in each
    /// sequence.
    pub(super) fn tokens(
        &self,
        input: &EncoderInput,
        mask_token: &Tensor,
        dropout: &DropoutConfig,
    ) -> Result<(Tensor, Rows)> {
        if let Some(gpu) = engine::cuda::of(mask_token)? {
            return match self {
                Embedding::Patches(patches) => patches.on_device(gpu, input, mask_token),
                Embedding::Words(words) => words.on_device(gpu, input, mask_token, dropout),
            };
        }
        let mut packed = PackedTokens::new();
        let mask_token = mask_token.reshape((1, ()))?;
        match self {
            Embedding::Patches(patches) => patches.pack(input, &mask_token, &mut packed)?,
            Embedding::Words(words) => words.pack(input, &mask_token, dropout, &mut packed)?,
        }
        let PackedTokens { parts, offsets } = packed;
        Ok((
            Tensor::cat(&parts, 0)?,
            Rows::new(offsets, input.samples.to_vec()),
        ))
    }
}

impl PatchEmbedding {
    fn clip(
        config: &EncoderConfig,
        size: usize,
        patch: usize,
        reader: &mut LayerReader,
    ) -> Result<PatchEmbedding> {
        let d = config.hidden;
        let positions = reader.tensor("embeddings.position_embedding.weight")?;
        let class = reader
            .tensor("embeddings.class_embedding")?
            .reshape((1, d))?;
        let weight = reader.tensor("embeddings.patch_embedding.weight")?;
        Ok(PatchEmbedding {
            grid: PatchGrid {
                channels: 3,
                rows: size,
                cols: size,
                patch,
                row_stride: patch,
                col_stride: patch,
                transposed: false,
            },
            projection: Linear {
                weight: weight.reshape((d, ()))?,
                bias: class.zeros_like()?.flatten_all()?,
                precision: reader.precision(),
            },
            special: (class.to_dtype(positions.dtype())? + positions.narrow(0, 0, 1)?)?,
            positions: positions.narrow(0, 1, config.patches())?.contiguous()?,
        })
    }

    fn ast(config: &EncoderConfig, reader: &mut LayerReader) -> Result<PatchEmbedding> {
        let InputSize::Mel {
            frames,
            bins,
            patch,
            time_stride,
            frequency_stride,
        } = config.input
        else {
            return wrong_modality();
        };
        let d = config.hidden;
        let positions = reader
            .tensor("embeddings.position_embeddings")?
            .squeeze(0)?;
        let class = reader.tensor("embeddings.cls_token")?.reshape((1, d))?;
        let distillation = reader
            .tensor("embeddings.distillation_token")?
            .reshape((1, d))?;
        let projection = reader.linear("embeddings.patch_embeddings.projection")?;
        Ok(PatchEmbedding {
            grid: PatchGrid {
                channels: 1,
                rows: bins,
                cols: frames,
                patch,
                row_stride: frequency_stride,
                col_stride: time_stride,
                transposed: true,
            },
            projection: Linear {
                weight: projection.weight.reshape((d, ()))?,
                ..projection
            },
            special: (Tensor::cat(&[class, distillation], 0)? + positions.narrow(0, 0, 2)?)?,
            positions: positions.narrow(0, 2, config.patches())?.contiguous()?,
        })
    }

    /// Embeds input after input on the CPU.
    fn pack(
        &self,
        input: &EncoderInput,
        mask_token: &Tensor,
        packed: &mut PackedTokens,
    ) -> Result<()> {
        let values = self.grid.values(input.data, input.samples.len())?;
        let (count, width) = (self.grid.patches(), self.grid.patch_len());
        for one in values.chunks_exact(self.grid.input_len()) {
            let mut patches = Vec::with_capacity(count * width);
            self.grid.cut(one, &mut patches);
            let patches = Tensor::from_vec(patches, (count, width), &Device::Cpu)?
                .to_dtype(mask_token.dtype())?;
            let rows = Rows::new(vec![0, count], vec![0]);
            let (projected, _) = self.projection.forward(&patches, &rows, None)?;
            let tokens = layers::add(&projected, &self.positions)?;
            packed.push([self.special.clone(), tokens, mask_token.clone()])?;
        }
        Ok(())
    }

    /// Embeds all inputs at once, with the kernels of a GPU.
    fn on_device(
        &self,
        gpu: Gpu,
        input: &EncoderInput,
        mask_token: &Tensor,
    ) -> Result<(Tensor, Rows)> {
        let grid = &self.grid;
        let count = input.samples.len();
        let values = grid.values(input.data, count)?;
        let shape = (count, grid.input_len());
        let values = match input.uploaded {
            Some(uploaded) => uploaded.reshape(shape)?,
            None => Tensor::from_slice(values, shape, mask_token.device())?,
        };
        let (down, across) = grid.counts();
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
        let dtype = self.positions.dtype();
        let patches = gpu.cut_patches(&values, sizes, grid.transposed, dtype)?;
        let all = Rows::new(vec![0, patches.dim(0)?], vec![0]);
        let (tokens, _) = self.projection.forward(&patches, &all, None)?;
        let length = self.special.dim(0)? + grid.patches() + 1;
        let offsets = (0..=count).map(|s| s * length).collect();
        let rows = Rows::new(offsets, input.samples.to_vec());
        let (positions, special) = (Some(&self.positions), Some(&self.special));
        let x = gpu.pack_tokens(&tokens, positions, special, mask_token, &rows)?;
        Ok((x, rows))
    }
}

impl WordEmbedding {
    fn bert(config: &EncoderConfig, reader: &mut LayerReader) -> Result<WordEmbedding> {
        let d = config.hidden;
        let types = reader.tensor("embeddings.token_type_embeddings.weight")?;
        let positions = reader.tensor("embeddings.position_embeddings.weight")?;
        let positions = positions.broadcast_add(&types.narrow(0, 0, 1)?)?;
        let words = reader.tensor("embeddings.word_embeddings.weight")?;
        Ok(WordEmbedding {
            words: candle_nn::Embedding::new(words, d),
            positions: candle_nn::Embedding::new(positions, d),
            norm: reader.norm("embeddings.LayerNorm")?,
        })
    }

    /// Fails on a word piece that has no embedding.
    fn check(&self, ids: &[u32]) -> Result<()> {
        let vocabulary = self.words.embeddings().dim(0)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            bail!(
                "word piece {id} is beyond the encoder's vocabulary of {vocabulary}; \
                 vocab.txt and model belong to different checkpoints"
            );
        }
        Ok(())
    }

    /// Embeds text after text on the CPU.
    fn pack(
        &self,
        input: &EncoderInput,
        mask_token: &Tensor,
        dropout: &DropoutConfig,
        packed: &mut PackedTokens,
    ) -> Result<()> {
        let ModalityData::Tokens {
            ids,
            lengths,
            max_len,
        } = input.data
        else {
            return wrong_modality();
        };
        let texts = ids.chunks_exact(*max_len).zip(lengths);
        for ((ids, length), sample) in texts.zip(input.samples) {
            let ids = &ids[..*length];
            self.check(ids)?;
            let places = Tensor::arange(0, *length as u32, &Device::Cpu)?;
            let sum = (self.words.forward(&Tensor::new(ids, &Device::Cpu)?)?
                + self.positions.forward(&places)?)?;
            let (tokens, _) = self.norm.forward(&sum)?;
            let rows = Rows::new(vec![0, *length], vec![*sample]);
            let tokens = layers::dropout(&tokens, dropout.embedding().as_ref(), &rows)?;
            packed.push([tokens, mask_token.clone()])?;
        }
        Ok(())
    }

    /// Embeds all texts at once, with the kernels of a GPU.
    fn on_device(
        &self,
        gpu: Gpu,
        input: &EncoderInput,
        mask_token: &Tensor,
        dropout: &DropoutConfig,
    ) -> Result<(Tensor, Rows)> {
        let ModalityData::Tokens {
            ids,
            lengths,
            max_len,
        } = input.data
        else {
            return wrong_modality();
        };
        let (mut used, mut offsets, mut ends) = (Vec::new(), vec![0], vec![0]);
        for (ids, length) in ids.chunks_exact(*max_len).zip(lengths) {
            used.extend_from_slice(&ids[..*length]);
            ends.push(used.len());
            // The mask token comes after each text.
            offsets.push(used.len() + offsets.len());
        }
        self.check(&used)?;
        let rows = Rows::new(offsets, input.samples.to_vec());
        let ids = Tensor::new(used, mask_token.device())?;
        let (words, positions) = (self.words.embeddings(), self.positions.embeddings());
        let sum = gpu.embed_words(words, positions, &ids, &rows)?;
        let (tokens, _) = self.norm.forward(&sum)?;
        let texts = Rows::new(ends, input.samples.to_vec());
        let tokens = layers::dropout(&tokens, dropout.embedding().as_ref(), &texts)?;
        let x = gpu.pack_tokens(&tokens, None, None, mask_token, &rows)?;
        Ok((x, rows))
    }
}
