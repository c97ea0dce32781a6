//! Full fine-tuning: the gradients of every weight of an encoder, under their canonical names.
//!
//! The forward pass is the usual one without adapters. This backward pass goes through the same
//! blocks, collects the gradient of each layer's weights on the way and ends in the embedding
//! layer, whose patches it cuts again. Weights that take no part (BERT's pooler, a final norm that
//! is left out) have no entry.

use super::block::{DropoutConfig, StackedLayer};
use super::config::{BlockLayer, InputSize, Kind};
use super::embeddings::{Embedding, PatchEmbedding, WordEmbedding, wrong_modality};
use super::{Encoder, EncoderOutput, Layout, Tape};
use anyhow::{Result, bail};
use candle_core::Tensor;
use candle_nn::Module;
use engine::{Rows, layers};
use features::ModalityData;
use std::collections::BTreeMap;

/// Gradients by canonical name, with the shapes of [`super::config::EncoderConfig::specs`].
type NamedGradients = BTreeMap<String, Tensor>;

/// The gradients of an encoder's weights and of its mask token.
pub(crate) struct FullGradients {
    /// The gradients of the weights by canonical name.
    pub(crate) weights: NamedGradients,
    /// The gradient of the mask token, `1 x d`.
    pub(crate) mask_token: Tensor,
}

/// Adds the gradients of weight and bias under a layer's name.
fn insert(named: &mut NamedGradients, layer: &str, [weight, bias]: [Tensor; 2]) {
    named.insert(format!("{layer}.weight"), weight);
    named.insert(format!("{layer}.bias"), bias);
}

impl Encoder {
    /// Computes the gradients of all weights and of the mask token, given that of the output.
    /// `data` is the input of the forward pass, which ran without adapters.
    pub(crate) fn backward_full(
        &self,
        tape: Tape,
        data: &ModalityData,
        gradient: &EncoderOutput,
    ) -> Result<FullGradients> {
        let mut named = NamedGradients::new();
        let mut d_last = gradient.tokens.to_dtype(tape.last.dtype())?;
        if let (Some(norm), Some(stats)) = (&self.final_norm, &tape.last_stats) {
            let name = match self.config.kind {
                Kind::Clip => "post_layernorm",
                _ => "layernorm",
            };
            let gradients = norm.weight_gradient(&d_last, &tape.last, stats)?;
            insert(&mut named, name, gradients);
            d_last = norm.backward(&d_last, &tape.last, stats, None)?;
        }
        let Layout { rows, dropout, .. } = &tape.layout;
        let mut sinks = Vec::new();
        let gradients =
            self.blocks_backward(d_last, tape.blocks, &tape.layout, None, Some(&mut sinks))?;
        let mut dx = gradients.dx;
        for (block, sink) in sinks.into_iter().enumerate() {
            for (layer, gradients) in sink.0 {
                self.insert_block_gradients(block, layer, gradients, &mut named)?;
            }
        }
        if let (Some(norm), Some(x)) = (&self.pre_norm, &tape.pre) {
            let (_, stats) = norm.forward(x)?;
            let gradients = norm.weight_gradient(&dx, x, &stats)?;
            insert(&mut named, "pre_layrnorm", gradients);
            dx = norm.backward(&dx, x, &stats, None)?;
        }
        let mask_token = layers::sum_rows(&layers::last_rows(&dx, rows)?)?;
        match (&self.embedding, data) {
            (Embedding::Patches(patches), ModalityData::Dense { values, .. }) => {
                self.patch_gradients(patches, &dx, values, rows, &mut named)?
            }
            (Embedding::Words(words), ModalityData::Tokens { ids, max_len, .. }) => {
                let texts = ids.chunks_exact(*max_len);
                self.word_gradients(words, &dx, texts, rows, dropout, &mut named)?;
            }
            _ => return wrong_modality(),
        }
        Ok(FullGradients {
            weights: named,
            mask_token,
        })
    }

    /// Adds the gradients of one layer of a block; query, key and value come apart.
    fn insert_block_gradients(
        &self,
        block: usize,
        layer: StackedLayer,
        gradients: [Tensor; 2],
        named: &mut NamedGradients,
    ) -> Result<()> {
        let name = |layer| self.config.layer_name(block, layer);
        let layer = match layer {
            StackedLayer::Norm1 => BlockLayer::Norm1,
            StackedLayer::Out => BlockLayer::Out,
            StackedLayer::Norm2 => BlockLayer::Norm2,
            StackedLayer::Fc1 => BlockLayer::Fc1,
            StackedLayer::Fc2 => BlockLayer::Fc2,
            StackedLayer::Qkv => {
                let d = self.config.hidden;
                let stacked = [BlockLayer::Query, BlockLayer::Key, BlockLayer::Value];
                for (i, layer) in stacked.into_iter().enumerate() {
                    let slice = |t: &Tensor| t.narrow(0, i * d, d)?.contiguous();
                    let pair = [slice(&gradients[0])?, slice(&gradients[1])?];
                    insert(named, &name(layer), pair);
                }
                return Ok(());
            }
        };
        insert(named, &name(layer), gradients);
        Ok(())
    }

    fn patch_gradients(
        &self,
        embedding: &PatchEmbedding,
        dx: &Tensor,
        values: &[f32],
        rows: &Rows,
        named: &mut NamedGradients,
    ) -> Result<()> {
        let grid = &embedding.grid;
        let (specials, d) = embedding.special.dims2()?;
        let (count, width) = (grid.patches(), grid.patch_len());
        let mut patches = Vec::with_capacity(rows.sequences() * count * width);
        let mut d_patches = Vec::with_capacity(rows.sequences());
        let mut d_tokens = Tensor::zeros((specials + count, d), dx.dtype(), dx.device())?;
        for (one, start) in values.chunks_exact(grid.input_len()).zip(&rows.offsets) {
            grid.cut(one, &mut patches);
            // The mask token behind the patches is none of them.
            d_tokens = (d_tokens + dx.narrow(0, *start, specials + count)?)?;
            d_patches.push(dx.narrow(0, start + specials, count)?);
        }
        let patches = Tensor::from_vec(patches, (d_patches.len() * count, width), dx.device())?
            .to_dtype(dx.dtype())?;
        let d_patches = Tensor::cat(&d_patches, 0)?;
        let [weight, bias] = embedding.projection.weight_gradient(&d_patches, &patches)?;
        let special = |i: usize| d_tokens.get(i);
        let mut add = |name: &str, value: Tensor| named.insert(format!("embeddings.{name}"), value);
        match self.config.input {
            InputSize::Image { patch, .. } => {
                add("class_embedding", special(0)?);
                let weight = weight.reshape((d, 3, patch, patch))?;
                add("patch_embedding.weight", weight);
                add("position_embedding.weight", d_tokens);
            }
            InputSize::Mel { patch, .. } => {
                add("cls_token", special(0)?.reshape((1, 1, d))?);
                add("distillation_token", special(1)?.reshape((1, 1, d))?);
                add("position_embeddings", d_tokens.unsqueeze(0)?);
                let weight = weight.reshape((d, 1, patch, patch))?;
                add("patch_embeddings.projection.weight", weight);
                add("patch_embeddings.projection.bias", bias);
            }
            InputSize::Text { .. } => bail!("an encoder of words"),
        }
        Ok(())
    }

    fn word_gradients<'a>(
        &self,
        WordEmbedding {
            words,
            positions,
            norm,
        }: &WordEmbedding,
        dx: &Tensor,
        texts: impl Iterator<Item = &'a [u32]>,
        rows: &Rows,
        dropout: &DropoutConfig,
        named: &mut NamedGradients,
    ) -> Result<()> {
        let InputSize::Text { types, .. } = self.config.input else {
            bail!("an encoder of patches")
        };
        let (mut used, mut places, mut d_tokens) = (Vec::new(), Vec::new(), Vec::new());
        for (s, ids) in texts.enumerate() {
            let (start, length) = (rows.offsets[s], rows.offsets[s + 1] - rows.offsets[s] - 1);
            used.extend_from_slice(&ids[..length]);
            places.extend(0..length as u32);
            let one = Rows::new(vec![0, length], vec![rows.samples[s]]);
            let part = dx.narrow(0, start, length)?;
            let part = layers::dropout(&part, dropout.embedding().as_ref(), &one)?;
            d_tokens.push(part);
        }
        let used = Tensor::new(used, dx.device())?;
        let places = Tensor::new(places, dx.device())?;
        let sum = (words.forward(&used)? + positions.forward(&places)?)?;
        let (_, stats) = norm.forward(&sum)?;
        let dy = Tensor::cat(&d_tokens, 0)?;
        let gradients = norm.weight_gradient(&dy, &sum, &stats)?;
        insert(named, "embeddings.LayerNorm", gradients);
        let d_sum = norm.backward(&dy, &sum, &stats, None)?;
        let mut add = |name: &str, value: Tensor| {
            named.insert(format!("embeddings.{name}_embeddings.weight"), value)
        };
        let gradient = |table: &candle_nn::Embedding, ids: &Tensor| {
            table.embeddings().zeros_like()?.index_add(ids, &d_sum, 0)
        };
        add("word", gradient(words, &used)?);
        add("position", gradient(positions, &places)?);
        // Every token is of segment 0.
        let first = d_sum.sum_keepdim(0)?;
        let rest = Tensor::zeros((types - 1, words.hidden_size()), dx.dtype(), dx.device())?;
        add("token_type", Tensor::cat(&[first, rest], 0)?);
        Ok(())
    }
}
