//! Full fine-tuning: the gradients of every weight of an encoder, under their canonical names.
//!
//! The forward pass is the usual one without adapters (`merged`). This backward runs through the
//! same blocks, gathers each layer's weight gradient on the way and ends in the embedding layer,
//! whose inputs it cuts again. Weights that take no part (BERT's pooler, a final norm that is left
//! out) have no entry.

use super::block::{Noise, Site};
use super::config::{InputSize, Kind, Part};
use super::embeddings::Embedding;
use super::{Encoder, Tape, in_turn, mask_rows};
use anyhow::{Result, bail};
use candle_core::Tensor;
use candle_nn::Module;
use engine::{Rows, layers};
use features::ModalityData;
use std::collections::BTreeMap;

/// Gradients by canonical name, shaped as [`super::config::EncoderConfig::specs`] says.
type Named = BTreeMap<String, Tensor>;

/// What [`Encoder::backward_full`] gives.
pub struct FullGradients {
    /// By canonical name.
    pub weights: Named,
    /// `1 x d`.
    pub mask_token: Tensor,
}

/// Adds (weight, bias) under a layer's name.
fn put(named: &mut Named, layer: &str, [weight, bias]: [Tensor; 2]) {
    named.insert(format!("{layer}.weight"), weight);
    named.insert(format!("{layer}.bias"), bias);
}

impl Encoder {
    /// Gradients of all weights and of the mask token, given those of the two outputs. `data` is
    /// what the forward pass read, without adapters.
    pub fn backward_full(
        &self,
        tape: Tape,
        data: &ModalityData,
        d_cls: &Tensor,
        d_mask: &Tensor,
    ) -> Result<FullGradients> {
        let mut named = Named::new();
        let d = self.config.hidden;
        let mut d_last = in_turn(d_cls, d_mask)?.to_dtype(tape.last.dtype())?;
        if let (Some(norm), Some(stats)) = (&self.final_norm, &tape.last_stats) {
            let name = match self.config.kind {
                Kind::Clip => "post_layernorm",
                _ => "layernorm",
            };
            let grads = norm.weight_gradient(&d_last, &tape.last, stats)?;
            put(&mut named, name, grads);
            d_last = norm.backward(&d_last, &tape.last, stats, None)?;
        }
        let rows = &tape.rows;
        let mut sinks = Vec::new();
        let places = (rows, &tape.read);
        let (mut dx, _) = self.through_blocks(
            d_last,
            tape.blocks,
            places,
            None,
            &tape.noise,
            Some(&mut sinks),
        )?;
        for (layer, sink) in sinks.into_iter().enumerate() {
            for (site, grads) in sink.0 {
                let name = |part| self.config.block_tensor(layer, part);
                let part = match site {
                    Site::Norm1 => Part::Norm1,
                    Site::Out => Part::Out,
                    Site::Norm2 => Part::Norm2,
                    Site::Fc1 => Part::Fc1,
                    Site::Fc2 => Part::Fc2,
                    Site::Qkv => {
                        for (i, part) in [Part::Query, Part::Key, Part::Value].iter().enumerate() {
                            let slice = |t: &Tensor| t.narrow(0, i * d, d)?.contiguous();
                            let pair = [slice(&grads[0])?, slice(&grads[1])?];
                            put(&mut named, &name(*part), pair);
                        }
                        continue;
                    }
                };
                put(&mut named, &name(part), grads);
            }
        }
        if let (Some(norm), Some((x, stats))) = (&self.pre_norm, &tape.pre) {
            put(
                &mut named,
                "pre_layrnorm",
                norm.weight_gradient(&dx, x, stats)?,
            );
            dx = norm.backward(&dx, x, stats, None)?;
        }
        let mask_token = dx
            .index_select(&mask_rows(rows, dx.device())?, 0)?
            .sum_keepdim(0)?;
        self.embedding_gradients(&dx, data, rows, &tape.noise, &mut named)?;
        Ok(FullGradients {
            weights: named,
            mask_token,
        })
    }

    fn embedding_gradients(
        &self,
        dx: &Tensor,
        data: &ModalityData,
        rows: &Rows,
        noise: &Noise,
        named: &mut Named,
    ) -> Result<()> {
        match (&self.embedding, data) {
            (
                Embedding::Patches { .. },
                ModalityData::Pixels { values, .. } | ModalityData::Mel { values, .. },
            ) => self.patch_gradients(dx, values, rows, named),
            (Embedding::Words { .. }, ModalityData::Tokens { ids, max_len, .. }) => {
                self.word_gradients(dx, ids, *max_len, rows, noise, named)
            }
            _ => bail!("an input of another modality"),
        }
    }

    fn patch_gradients(
        &self,
        dx: &Tensor,
        values: &[f32],
        rows: &Rows,
        named: &mut Named,
    ) -> Result<()> {
        let Embedding::Patches {
            grid,
            projection,
            prefix,
            ..
        } = &self.embedding
        else {
            bail!("an encoder of words")
        };
        let (specials, d) = prefix.dims2()?;
        let (down, across) = grid.count();
        let count = down * across;
        let input = grid.channels * grid.rows * grid.cols;
        let width = grid.channels * grid.patch * grid.patch;
        let mut patches = Vec::with_capacity(rows.sequences() * count * width);
        let mut d_patches = Vec::with_capacity(rows.sequences());
        let mut d_tokens = Tensor::zeros((specials + count, d), dx.dtype(), dx.device())?;
        for (one, start) in values.chunks_exact(input).zip(&rows.offsets) {
            grid.cut(one, &mut patches);
            // The mask token behind them is no patch.
            d_tokens = (d_tokens + dx.narrow(0, *start, specials + count)?)?;
            d_patches.push(dx.narrow(0, start + specials, count)?);
        }
        let patches = Tensor::from_vec(patches, (d_patches.len() * count, width), dx.device())?
            .to_dtype(dx.dtype())?;
        let [weight, bias] = projection.weight_gradient(&Tensor::cat(&d_patches, 0)?, &patches)?;
        let special = |i: usize| d_tokens.get(i);
        let mut add = |name: &str, value: Tensor| named.insert(name.to_string(), value);
        match self.config.input {
            InputSize::Image { patch, .. } => {
                add("embeddings.class_embedding", special(0)?);
                let weight = weight.reshape((d, 3, patch, patch))?;
                add("embeddings.patch_embedding.weight", weight);
                add("embeddings.position_embedding.weight", d_tokens);
            }
            InputSize::Mel { patch, .. } => {
                add("embeddings.cls_token", special(0)?.reshape((1, 1, d))?);
                let second = special(1)?.reshape((1, 1, d))?;
                add("embeddings.distillation_token", second);
                add("embeddings.position_embeddings", d_tokens.unsqueeze(0)?);
                let weight = weight.reshape((d, 1, patch, patch))?;
                add("embeddings.patch_embeddings.projection.weight", weight);
                add("embeddings.patch_embeddings.projection.bias", bias);
            }
            InputSize::Text { .. } => bail!("an encoder of words"),
        }
        Ok(())
    }

    fn word_gradients(
        &self,
        dx: &Tensor,
        ids: &[u32],
        max_len: usize,
        rows: &Rows,
        noise: &Noise,
        named: &mut Named,
    ) -> Result<()> {
        let Embedding::Words {
            words,
            positions,
            norm,
        } = &self.embedding
        else {
            bail!("an encoder of patches")
        };
        let InputSize::Text { types, .. } = self.config.input else {
            bail!("an encoder of patches")
        };
        let (mut used, mut places, mut d_tokens) = (Vec::new(), Vec::new(), Vec::new());
        for (s, ids) in ids.chunks_exact(max_len).enumerate() {
            let (start, length) = (rows.offsets[s], rows.offsets[s + 1] - rows.offsets[s] - 1);
            used.extend_from_slice(&ids[..length]);
            places.extend(0..length as u32);
            let one = Rows::new(vec![0, length], vec![rows.samples[s]]);
            let part = dx.narrow(0, start, length)?;
            d_tokens.push(layers::dropout(&part, noise.embedding().as_ref(), &one)?);
        }
        let used = Tensor::new(used, dx.device())?;
        let places = Tensor::new(places, dx.device())?;
        let sum = (words.forward(&used)? + positions.forward(&places)?)?;
        let (_, stats) = norm.forward(&sum)?;
        let dy = Tensor::cat(&d_tokens, 0)?;
        let grads = norm.weight_gradient(&dy, &sum, &stats)?;
        put(named, "embeddings.LayerNorm", grads);
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
