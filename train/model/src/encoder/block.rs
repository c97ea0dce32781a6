//! One transformer block, whose forward pass stores what its hand-written backward pass needs.
//!
//! Pre-norm (CLIP, AST): `h = x + out(attn(norm1(x)))`, `y = h + fc2(f(fc1(norm2(h))))`.
//! Post-norm (BERT): `h = norm1(x + out(attn(x)))`, `y = norm2(h + fc2(f(fc1(h))))`.
//! LoRA adapters sit on query, key, value and the attention's output layer, nowhere else.

use super::appended_rows::{AttentionPrompts, CaseSums};
use super::lora::ADAPTERS;
use candle_core::{Result, Tensor};
use engine::layers::{AdapterGradients, NormedInput, NormedLinear};
use engine::{Activation, Dropout};
use engine::{Adapter, Adapters, Attention, AttentionSaved, Linear, Norm, NormStats, Rows, layers};
use std::ops::Range;

/// The weights of a block.
#[derive(Clone)]
pub(super) struct Block {
    /// The normalization before attention; with post-norm after it.
    pub(super) norm1: Norm,
    /// Query, key and value stacked: `3d x d`.
    pub(super) qkv: Linear,
    /// The output layer of attention: `d x d`.
    pub(super) out: Linear,
    /// The normalization before the feed-forward part; with post-norm after it.
    pub(super) norm2: Norm,
    /// The first layer of the feed-forward part: `m x d`.
    pub(super) fc1: Linear,
    /// The second layer of the feed-forward part: `d x m`.
    pub(super) fc2: Linear,
}

/// The settings that all blocks of an encoder share.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockConfig {
    /// The number of attention heads.
    pub(super) heads: usize,
    /// The activation between `fc1` and `fc2`.
    pub(super) activation: Activation,
    /// CLIP and AST normalize before each part, BERT after it.
    pub(super) norm_first: bool,
}

/// The dropout of an encoder in one training step.
#[derive(Clone, Copy, Debug)]
pub struct DropoutConfig {
    /// The seed of the run.
    pub seed: u64,
    /// The number of the optimizer step.
    pub step: u32,
    /// The rate of dropout on the LoRA adapters' inputs.
    pub lora: f64,
    /// The rate of the encoder's own dropout on hidden states and embeddings.
    pub hidden: f64,
    /// The rate of the encoder's own dropout on attention probabilities.
    pub attention: f64,
    /// The number of the encoder's first module to the random generator, so that two encoders draw
    /// different masks.
    pub first_module: u32,
}

/// The module numbers that one block takes: four adapters, attention, two hidden states, one spare.
const MODULES_PER_BLOCK: u32 = 8;
/// The module of a block that drops attention probabilities.
const ATTENTION_MODULE: u32 = 4;
/// The first of the two modules of a block that drop hidden states.
const HIDDEN_MODULE: u32 = 5;

impl DropoutConfig {
    /// No dropout, as in evaluation.
    pub const OFF: DropoutConfig = DropoutConfig {
        seed: 0,
        step: 0,
        lora: 0.0,
        hidden: 0.0,
        attention: 0.0,
        first_module: 0,
    };

    fn of_module(&self, rate: f64, module: u32) -> Option<Dropout> {
        (rate > 0.0).then_some(Dropout {
            rate,
            seed: self.seed,
            step: self.step,
            module: self.first_module + module,
        })
    }

    fn in_block(&self, rate: f64, block: usize, module: u32) -> Option<Dropout> {
        self.of_module(rate, MODULES_PER_BLOCK * (block as u32 + 1) + module)
    }

    /// Returns the dropout on the embedding layer's output.
    pub(super) fn embedding(&self) -> Option<Dropout> {
        self.of_module(self.hidden, 0)
    }
}

/// The rows of the last block's output that are used, two per sequence: class token and mask token.
/// Attention reads all tokens; what comes after it works row by row and need not run for the
/// others.
pub(super) struct RowSelection {
    rows: Rows,
}

impl RowSelection {
    /// Selects the first and the last row of each sequence.
    pub(super) fn class_and_mask_tokens(rows: &Rows) -> RowSelection {
        let offsets = (0..=rows.sequences()).map(|s| 2 * s).collect();
        RowSelection {
            rows: Rows::new(offsets, rows.samples.clone()),
        }
    }
}

/// One pass through one block: its input's layout, its adapters and its dropout.
pub(super) struct BlockCall<'a> {
    /// The number of the block, from 0.
    pub(super) index: usize,
    /// The sequences in the input.
    pub(super) rows: &'a Rows,
    /// In the last block, the rows of the output that are used: it has no others.
    pub(super) selection: Option<&'a RowSelection>,
    /// Keys and values that join those of the tokens in attention.
    pub(super) prompts: Option<AttentionPrompts<'a>>,
    /// The settings that all blocks share.
    pub(super) config: BlockConfig,
    /// The adapters of query, key, value and attention output; none where they are merged into the
    /// weights or where the model has none.
    pub(super) adapters: Option<&'a [Adapter; ADAPTERS]>,
    /// The factor of the adapters' update, `alpha / rank`.
    pub(super) scale: f64,
    /// The dropout of this step.
    pub(super) dropout: &'a DropoutConfig,
    /// Whether [`BlockActivations`] hold the hidden activations of the feed-forward part.
    pub(super) store_hidden: bool,
}

impl<'a> BlockCall<'a> {
    /// Returns the sequences in the output.
    fn rows_out(&self) -> &'a Rows {
        self.selection
            .map_or(self.rows, |selection| &selection.rows)
    }

    /// Selects the rows of `x` that are used after attention.
    fn select_rows(&self, x: &Tensor) -> Result<Tensor> {
        match self.selection {
            Some(_) => layers::ends(x, self.rows),
            None => Ok(x.clone()),
        }
    }

    /// Returns the gradient of `x` in [`BlockCall::select_rows`], given that of the selected rows.
    fn scatter_rows(&self, selected: &Tensor) -> Result<Tensor> {
        match self.selection {
            Some(_) => layers::ends_backward(selected, self.rows),
            None => Ok(selected.clone()),
        }
    }

    /// Returns the rows of what attention reads or returns that belong to tokens, not to prompts.
    fn rows_of_tokens(&self, x: &Tensor) -> Result<Tensor> {
        match self.prompts {
            Some(prompts) => prompts.appended.tokens(x),
            None => Ok(x.clone()),
        }
    }

    /// Calls `f` with those adapters of the block whose numbers are in `numbers`.
    fn with_adapters<R>(&self, numbers: Range<usize>, f: impl FnOnce(Option<&Adapters>) -> R) -> R {
        let Some(adapters) = self.adapters else {
            return f(None);
        };
        let parts: Vec<&Adapter> = adapters[numbers.clone()].iter().collect();
        let dropout = numbers
            .filter_map(|number| {
                self.dropout
                    .in_block(self.dropout.lora, self.index, number as u32)
            })
            .collect();
        f(Some(&Adapters {
            parts: &parts,
            scale: self.scale,
            dropout,
        }))
    }

    fn attention_dropout(&self) -> Option<Dropout> {
        self.dropout
            .in_block(self.dropout.attention, self.index, ATTENTION_MODULE)
    }

    /// Returns the dropout on the output of attention (0) or of the feed-forward part (1).
    fn hidden_dropout(&self, which: u32) -> Option<Dropout> {
        self.dropout
            .in_block(self.dropout.hidden, self.index, HIDDEN_MODULE + which)
    }
}

/// The numbers of the adapters on query, key and value.
const QKV_ADAPTERS: Range<usize> = 0..3;
/// The number of the adapter on the output layer of attention.
const OUT_ADAPTER: Range<usize> = 3..4;

/// The activations that a block's backward pass needs.
pub(super) struct BlockActivations {
    x: Tensor,
    stats1: NormStats,
    /// What attention reads and returns, with the rows of prompts.
    qkv: Tensor,
    /// The low-rank activations of the adapters on query, key and value.
    qkv_u: Option<Tensor>,
    attended: Tensor,
    attention: AttentionSaved,
    /// The low-rank activation of the adapter on the output layer.
    out_u: Option<Tensor>,
    /// The sum of `x` and attention's output; with post-norm, `norm1` reads it.
    sum1: Tensor,
    stats2: NormStats,
    /// The output of `fc1`, before the activation function; `None` if the backward pass computes
    /// it again.
    z: Option<Tensor>,
    /// With post-norm only, the sum that `norm2` reads.
    sum2: Option<Tensor>,
}

/// The layers of a block, with query, key and value stacked into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StackedLayer {
    /// The first normalization.
    Norm1,
    /// Query, key and value.
    Qkv,
    /// The output layer of attention.
    Out,
    /// The second normalization.
    Norm2,
    /// The first layer of the feed-forward part.
    Fc1,
    /// The second layer of the feed-forward part.
    Fc2,
}

/// Collects the gradients of a block's (weight, bias) pairs in full fine-tuning.
#[derive(Default)]
pub(super) struct GradientSink(pub(super) Vec<(StackedLayer, [Tensor; 2])>);

impl GradientSink {
    fn linear(
        &mut self,
        layer: StackedLayer,
        linear: &Linear,
        dy: &Tensor,
        x: &Tensor,
    ) -> Result<()> {
        self.0.push((layer, linear.weight_gradient(dy, x)?));
        Ok(())
    }

    fn norm(
        &mut self,
        layer: StackedLayer,
        norm: &Norm,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
    ) -> Result<()> {
        self.0.push((layer, norm.weight_gradient(dy, x, stats)?));
        Ok(())
    }
}

impl Block {
    /// Computes the block's output (`n x d`, or its selected rows) and the activations that its
    /// backward pass needs.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        call: &BlockCall,
    ) -> Result<(Tensor, BlockActivations)> {
        let BlockConfig {
            activation,
            norm_first,
            ..
        } = call.config;
        let (qkv, qkv_u, pre_stats) = call.with_adapters(QKV_ADAPTERS, |a| {
            if norm_first {
                let (qkv, stats, u) = self.normed_qkv().forward(x, call.rows, a)?;
                Ok::<_, candle_core::Error>((qkv, u, Some(stats)))
            } else {
                let (qkv, u) = self.qkv.forward(x, call.rows, a)?;
                Ok((qkv, u, None))
            }
        })?;
        let qkv = match call.prompts {
            Some(prompts) => prompts.appended.append(&qkv, prompts.qkv)?,
            None => qkv,
        };
        let dropout = call.attention_dropout();
        let (attended, attention) = self.attention(call, dropout.as_ref()).forward(&qkv)?;
        let selected = call.select_rows(&call.rows_of_tokens(&attended)?)?;
        let rows = call.rows_out();
        let (drop0, drop1) = (call.hidden_dropout(0), call.hidden_dropout(1));
        let (sum1, out_u) = call.with_adapters(OUT_ADAPTER, |a| {
            let residual = call.select_rows(x)?;
            self.out
                .forward_residual(&selected, rows, a, drop0.as_ref(), &residual)
        })?;
        let feed_forward = |input: &Tensor, residual: &Tensor| {
            let (a, z) = self
                .fc1
                .forward_activated(input, rows, activation, call.store_hidden)?;
            let (sum, _) = self
                .fc2
                .forward_residual(&a, rows, None, drop1.as_ref(), residual)?;
            Ok::<_, candle_core::Error>((z, sum))
        };
        let (y, stats1, stats2, z, sum2) = match pre_stats {
            Some(stats1) => {
                let (input, stats2) = self.norm2.forward(&sum1)?;
                let (z, y) = feed_forward(&input, &sum1)?;
                (y, stats1, stats2, z, None)
            }
            None => {
                let (h, stats1) = self.norm1.forward(&sum1)?;
                let (z, sum2) = feed_forward(&h, &h)?;
                let (y, stats2) = self.norm2.forward(&sum2)?;
                (y, stats1, stats2, z, Some(sum2))
            }
        };
        let activations = BlockActivations {
            x: x.clone(),
            stats1,
            qkv,
            qkv_u,
            attended,
            attention,
            out_u,
            sum1,
            stats2,
            z,
            sum2,
        };
        Ok((y, activations))
    }

    /// Computes the gradient of the block's input, given that of its output. The gradients of the
    /// adapters go into `grads` (output, query, key, value), those of prompts in attention into
    /// `prompts`, those of the weights into `sink`, where there is one.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        saved: &BlockActivations,
        call: &BlockCall,
        grads: &mut AdapterGradients,
        prompts: &mut Vec<CaseSums>,
        mut sink: Option<&mut GradientSink>,
    ) -> Result<Tensor> {
        let BlockActivations {
            x,
            stats1,
            stats2,
            sum1,
            sum2,
            qkv_u,
            ..
        } = saved;
        if let Some(sum2) = sum2 {
            if let Some(sink) = &mut sink {
                sink.norm(StackedLayer::Norm2, &self.norm2, dy, sum2, stats2)?;
            }
            let d_sum2 = self.norm2.backward(dy, sum2, stats2, None)?;
            let input = || self.norm1.recompute(sum1, stats1);
            let d_fed = self.feed_forward_backward(&d_sum2, saved, call, input, &mut sink)?;
            let dh = layers::add(&d_fed, &d_sum2)?;
            if let Some(sink) = &mut sink {
                sink.norm(StackedLayer::Norm1, &self.norm1, &dh, sum1, stats1)?;
            }
            let d_sum1 = self.norm1.backward(&dh, sum1, stats1, None)?;
            let d_qkv = self.attention_backward(&d_sum1, saved, call, grads, prompts, &mut sink)?;
            if let Some(sink) = &mut sink {
                sink.linear(StackedLayer::Qkv, &self.qkv, &d_qkv, x)?;
            }
            let dx = call.with_adapters(QKV_ADAPTERS, |a| {
                self.qkv
                    .backward(&d_qkv, x, qkv_u.as_ref(), call.rows, a, grads)
            })?;
            layers::add(&dx, &call.scatter_rows(&d_sum1)?)
        } else {
            let input = || self.norm2.recompute(sum1, stats2);
            let d_fed = self.feed_forward_backward(dy, saved, call, input, &mut sink)?;
            if let Some(sink) = &mut sink {
                sink.norm(StackedLayer::Norm2, &self.norm2, &d_fed, sum1, stats2)?;
            }
            let d_sum1 = self.norm2.backward(&d_fed, sum1, stats2, Some(dy))?;
            let d_qkv = self.attention_backward(&d_sum1, saved, call, grads, prompts, &mut sink)?;
            let residual = call.scatter_rows(&d_sum1)?;
            if let Some(sink) = &mut sink {
                // In full fine-tuning there are no adapters.
                let input = self.norm1.recompute(x, stats1)?;
                sink.linear(StackedLayer::Qkv, &self.qkv, &d_qkv, &input)?;
                let d_input = self.qkv.input_gradient(&d_qkv)?;
                sink.norm(StackedLayer::Norm1, &self.norm1, &d_input, x, stats1)?;
                return self.norm1.backward(&d_input, x, stats1, Some(&residual));
            }
            let input = NormedInput {
                x,
                stats: stats1,
                u: qkv_u.as_ref(),
            };
            call.with_adapters(QKV_ADAPTERS, |a| {
                self.normed_qkv()
                    .backward(&d_qkv, input, Some(&residual), call.rows, a, grads)
            })
        }
    }

    /// Computes the gradient of the feed-forward part's `input`, which is formed only where it is
    /// read: for hidden activations that are not stored, and for the sink.
    fn feed_forward_backward(
        &self,
        dy: &Tensor,
        saved: &BlockActivations,
        call: &BlockCall,
        input: impl FnOnce() -> Result<Tensor>,
        sink: &mut Option<&mut GradientSink>,
    ) -> Result<Tensor> {
        let activation = call.config.activation;
        let dy = layers::dropout(dy, call.hidden_dropout(1).as_ref(), call.rows_out())?;
        let da = self.fc2.input_gradient(&dy)?;
        let dz = match (sink, &saved.z) {
            (None, Some(z)) => layers::activate_backward(activation, z, &da)?,
            (None, None) => {
                self.fc1
                    .activation_backward(&input()?, call.rows_out(), activation, &da)?
            }
            (Some(sink), z) => {
                let input = input()?;
                let z = match z {
                    Some(z) => z.clone(),
                    None => self.fc1.forward(&input, call.rows_out(), None)?.0,
                };
                let dz = layers::activate_backward(activation, &z, &da)?;
                let a = layers::activate(activation, &z)?;
                sink.linear(StackedLayer::Fc2, &self.fc2, &dy, &a)?;
                sink.linear(StackedLayer::Fc1, &self.fc1, &dz, &input)?;
                dz
            }
        };
        self.fc1.input_gradient(&dz)
    }

    /// Computes the gradient of the stacked projections' output, given that of the output layer's
    /// result, and adds that of the output layer's adapter to `grads` and those of prompts to
    /// `prompts`.
    fn attention_backward(
        &self,
        dy: &Tensor,
        saved: &BlockActivations,
        call: &BlockCall,
        grads: &mut AdapterGradients,
        prompts: &mut Vec<CaseSums>,
        sink: &mut Option<&mut GradientSink>,
    ) -> Result<Tensor> {
        let attended = call.select_rows(&call.rows_of_tokens(&saved.attended)?)?;
        let rows = call.rows_out();
        let dy = layers::dropout(dy, call.hidden_dropout(0).as_ref(), rows)?;
        let d_attended = call.with_adapters(OUT_ADAPTER, |a| {
            self.out
                .backward(&dy, &attended, saved.out_u.as_ref(), rows, a, grads)
        })?;
        let d_attended = call.scatter_rows(&d_attended)?;
        let d_attended = match call.prompts {
            Some(prompts) => prompts.appended.append_zeros(&d_attended)?,
            None => d_attended,
        };
        let dropout = call.attention_dropout();
        let d_qkv = self.attention(call, dropout.as_ref()).backward(
            &saved.qkv,
            &saved.attended,
            &saved.attention,
            &d_attended,
        )?;
        if let Some(own) = call.prompts {
            prompts.push(own.appended.group_gradients(&d_qkv)?);
        }
        if let Some(sink) = sink {
            sink.linear(StackedLayer::Out, &self.out, &dy, &attended)?;
        }
        call.rows_of_tokens(&d_qkv)
    }

    /// Returns the stacked projections with the norm before them, in a pre-norm block.
    fn normed_qkv(&self) -> NormedLinear<'_> {
        NormedLinear {
            norm: &self.norm1,
            linear: &self.qkv,
        }
    }

    /// Returns the block's attention over the sequences of a call.
    fn attention<'a>(&self, call: &BlockCall<'a>, dropout: Option<&'a Dropout>) -> Attention<'a> {
        Attention {
            heads: call.config.heads,
            rows: call
                .prompts
                .map_or(call.rows, |prompts| &prompts.appended.rows),
            dropout,
            precision: self.qkv.precision,
        }
    }

    /// Returns the block with its adapters merged into the weights.
    pub(super) fn merged(&self, adapters: &[Adapter; ADAPTERS], scale: f64) -> Result<Block> {
        let [q, k, v, o] = adapters;
        let merge = |parts: &[&Adapter], linear: &Linear| {
            linear.merged(&Adapters {
                parts,
                scale,
                dropout: Vec::new(),
            })
        };
        Ok(Block {
            qkv: merge(&[q, k, v], &self.qkv)?,
            out: merge(&[o], &self.out)?,
            ..self.clone()
        })
    }
}
