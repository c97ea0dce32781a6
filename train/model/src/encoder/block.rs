//! One transformer block: forward keeps what its hand-written backward needs.
//!
//! Pre-norm (CLIP, AST): `h = x + out(attn(norm1(x)))`, `y = h + fc2(f(fc1(norm2(h))))`.
//! Post-norm (BERT): `h = norm1(x + out(attn(x)))`, `y = norm2(h + fc2(f(fc1(h))))`.
//! Adapters sit on query, key, value and the attention's output layer, nowhere else.

use candle_core::{Device, Result, Tensor};
use engine::{Activation, Dropout};
use engine::{Adapter, Adapters, Attention, AttentionSaved, Linear, Norm, NormStats, Rows, layers};

/// How many adapters a block has: query, key, value, output, in this order everywhere.
pub const ADAPTERS: usize = 4;

/// A block's frozen weights.
#[derive(Clone)]
pub struct Block {
    /// Before (or, post-norm, after) attention.
    pub norm1: Norm,
    /// Query, key and value stacked: `3d x d`.
    pub qkv: Linear,
    /// Attention's output layer: `d x d`.
    pub out: Linear,
    /// Before (or after) the feed-forward part.
    pub norm2: Norm,
    /// `m x d`.
    pub fc1: Linear,
    /// `d x m`.
    pub fc2: Linear,
}

/// What all blocks of an encoder share.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Attention heads.
    pub heads: usize,
    /// Between `fc1` and `fc2`.
    pub activation: Activation,
    /// CLIP and AST normalise before each part, BERT after it.
    pub norm_first: bool,
}

/// Random behaviour of one training step; [`Noise::none`] at evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// The run's seed.
    pub seed: u64,
    /// Optimiser step.
    pub step: u32,
    /// Dropout on the adapters' inputs.
    pub lora: f64,
    /// The encoder's own dropout on hidden states (and embeddings).
    pub hidden: f64,
    /// The encoder's own dropout on attention probabilities.
    pub attention: f64,
    /// First module number of this encoder, so that encoders draw apart.
    pub first_module: u32,
}

/// Module numbers that one block takes: four adapters, attention, two hidden states, one spare.
const MODULES_PER_BLOCK: u32 = 8;

impl Noise {
    /// No randomness.
    pub fn none() -> Noise {
        Noise {
            seed: 0,
            step: 0,
            lora: 0.0,
            hidden: 0.0,
            attention: 0.0,
            first_module: 0,
        }
    }

    fn draw(&self, rate: f64, module: u32) -> Option<Dropout> {
        (rate > 0.0).then_some(Dropout {
            rate,
            seed: self.seed,
            step: self.step,
            module: self.first_module + module,
        })
    }

    fn block(&self, rate: f64, block: usize, site: u32) -> Option<Dropout> {
        self.draw(rate, MODULES_PER_BLOCK * (block as u32 + 1) + site)
    }

    /// Dropout of the embedding layer's output.
    pub fn embedding(&self) -> Option<Dropout> {
        self.draw(self.hidden, 0)
    }
}

/// The rows that are read of the last block, two per sequence: class token, mask token. Attention
/// looks at all tokens; what comes after it works row by row and need not run for the others.
pub struct Read {
    ids: Tensor,
    rows: Rows,
}

impl Read {
    /// The first and the last row of each sequence.
    pub fn ends(rows: &Rows, device: &Device) -> Result<Read> {
        let ends = rows.offsets.windows(2);
        let ids: Vec<u32> = ends
            .flat_map(|ends| [ends[0] as u32, ends[1] as u32 - 1])
            .collect();
        Ok(Read {
            rows: Rows::new(
                (0..=rows.sequences()).map(|s| 2 * s).collect(),
                rows.samples.clone(),
            ),
            ids: Tensor::new(ids, device)?,
        })
    }
}

/// One call of one block: its place, its adapters and its noise.
pub struct Call<'a> {
    /// Number of the block, from 0.
    pub index: usize,
    /// Where sequences lie.
    pub rows: &'a Rows,
    /// In the last block, what is read of it: its output has these rows and no others.
    pub read: Option<&'a Read>,
    /// Shared shape.
    pub shape: Shape,
    /// Query, key, value, output; none when they are merged or switched off.
    pub adapters: Option<&'a [Adapter; ADAPTERS]>,
    /// `alpha / rank`.
    pub scale: f64,
    /// Randomness of this step.
    pub noise: &'a Noise,
}

impl<'a> Call<'a> {
    /// Where sequences lie in the output.
    fn rows_out(&self) -> &'a Rows {
        self.read.map_or(self.rows, |read| &read.rows)
    }

    /// The rows of `x` that go on behind attention.
    fn pick(&self, x: &Tensor) -> Result<Tensor> {
        match self.read {
            Some(read) => x.index_select(&read.ids, 0),
            None => Ok(x.clone()),
        }
    }

    /// The gradient of `x` in [`Call::pick`].
    fn spread(&self, picked: &Tensor) -> Result<Tensor> {
        let Some(read) = self.read else {
            return Ok(picked.clone());
        };
        let shape = (self.rows.len(), picked.dim(1)?);
        Tensor::zeros(shape, picked.dtype(), picked.device())?.index_add(&read.ids, picked, 0)
    }

    fn with_adapters<R>(
        &self,
        sites: std::ops::Range<usize>,
        f: impl FnOnce(Option<&Adapters>) -> R,
    ) -> R {
        let Some(adapters) = self.adapters else {
            return f(None);
        };
        let parts: Vec<&Adapter> = adapters[sites.clone()].iter().collect();
        let dropout = sites
            .filter_map(|site| self.noise.block(self.noise.lora, self.index, site as u32))
            .collect();
        f(Some(&Adapters {
            parts: &parts,
            scale: self.scale,
            dropout,
        }))
    }

    fn attention_dropout(&self) -> Option<Dropout> {
        self.noise.block(self.noise.attention, self.index, 4)
    }

    fn hidden_dropout(&self, which: u32) -> Option<Dropout> {
        self.noise.block(self.noise.hidden, self.index, 5 + which)
    }
}

/// What a block's backward needs.
pub struct Saved {
    x: Tensor,
    stats1: NormStats,
    qkv: Tensor,
    qkv_u: Option<Tensor>,
    attended: Tensor,
    attention: AttentionSaved,
    out_u: Option<Tensor>,
    /// Pre-norm: `x + attention`. Post-norm: the sum that norm1 reads.
    sum1: Tensor,
    stats2: NormStats,
    /// Before the activation.
    z: Tensor,
    /// Post-norm only: the sum that norm2 reads.
    sum2: Option<Tensor>,
}

/// The layers of a block that have weights; query, key and value are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// First normalisation.
    Norm1,
    /// Query, key and value stacked.
    Qkv,
    /// Attention's output layer.
    Out,
    /// Second normalisation.
    Norm2,
    /// First feed-forward layer.
    Fc1,
    /// Second feed-forward layer.
    Fc2,
}

/// Gathers the gradients of a block's (weight, bias) pairs in full fine-tuning.
#[derive(Default)]
pub struct Sink(pub Vec<(Site, [Tensor; 2])>);

impl Sink {
    fn linear(&mut self, site: Site, linear: &Linear, dy: &Tensor, x: &Tensor) -> Result<()> {
        self.0.push((site, linear.weight_gradient(dy, x)?));
        Ok(())
    }

    fn norm(
        &mut self,
        site: Site,
        norm: &Norm,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
    ) -> Result<()> {
        self.0.push((site, norm.weight_gradient(dy, x, stats)?));
        Ok(())
    }
}

impl Block {
    /// The block's output (`n x d`, or the rows that are read) and what its backward needs.
    pub fn forward(&self, x: &Tensor, call: &Call) -> Result<(Tensor, Saved)> {
        let Shape {
            activation,
            norm_first,
            ..
        } = call.shape;
        let normed = if norm_first {
            Some(self.norm1.forward(x)?)
        } else {
            None
        };
        let input = normed.as_ref().map_or(x, |(y, _)| y);
        let (qkv, qkv_u) = call.with_adapters(0..3, |a| self.qkv.forward(input, call.rows, a))?;
        let (attended, attention) = self
            .attention(call, call.attention_dropout().as_ref())
            .forward(&qkv)?;
        let (rows, going_on) = (call.rows_out(), call.pick(&attended)?);
        let (drop0, drop1) = (call.hidden_dropout(0), call.hidden_dropout(1));
        let (sum1, out_u) = call.with_adapters(3..4, |a| {
            self.out
                .forward_residual(&going_on, rows, a, drop0.as_ref(), &call.pick(x)?)
        })?;
        if let Some((_, stats1)) = normed {
            let (input, stats2) = self.norm2.forward(&sum1)?;
            let (z, a) = self.fc1.forward_activated(&input, rows, activation)?;
            let (y, _) = self
                .fc2
                .forward_residual(&a, rows, None, drop1.as_ref(), &sum1)?;
            Ok((
                y,
                Saved {
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
                    sum2: None,
                },
            ))
        } else {
            let (h, stats1) = self.norm1.forward(&sum1)?;
            let (z, a) = self.fc1.forward_activated(&h, rows, activation)?;
            let (sum2, _) = self
                .fc2
                .forward_residual(&a, rows, None, drop1.as_ref(), &h)?;
            let (y, stats2) = self.norm2.forward(&sum2)?;
            let saved = Saved {
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
                sum2: Some(sum2),
            };
            Ok((y, saved))
        }
    }

    /// The gradients of the block's input and of its adapters (query, key, value, output); those of
    /// the weights go into `sink`, where there is one.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        call: &Call,
        mut sink: Option<&mut Sink>,
    ) -> Result<(Tensor, Vec<Adapter>)> {
        if let Some(sum2) = &saved.sum2 {
            if let Some(sink) = &mut sink {
                sink.norm(Site::Norm2, &self.norm2, dy, sum2, &saved.stats2)?;
            }
            let d_sum2 = self.norm2.backward(dy, sum2, &saved.stats2, None)?;
            let input = || self.norm1.recompute(&saved.sum1, &saved.stats1);
            let d_fed = self.feed_forward_backward(&d_sum2, saved, call, input, &mut sink)?;
            let dh = layers::add(&d_fed, &d_sum2)?;
            if let Some(sink) = &mut sink {
                sink.norm(Site::Norm1, &self.norm1, &dh, &saved.sum1, &saved.stats1)?;
            }
            let d_sum1 = self.norm1.backward(&dh, &saved.sum1, &saved.stats1, None)?;
            let (dx, grads) = self.attention_backward(&d_sum1, &saved.x, saved, call, &mut sink)?;
            Ok((layers::add(&dx, &call.spread(&d_sum1)?)?, grads))
        } else {
            let input = || self.norm2.recompute(&saved.sum1, &saved.stats2);
            let d_fed = self.feed_forward_backward(dy, saved, call, input, &mut sink)?;
            if let Some(sink) = &mut sink {
                sink.norm(Site::Norm2, &self.norm2, &d_fed, &saved.sum1, &saved.stats2)?;
            }
            let d_sum1 = self
                .norm2
                .backward(&d_fed, &saved.sum1, &saved.stats2, Some(dy))?;
            let input = self.norm1.recompute(&saved.x, &saved.stats1)?;
            let (d_input, grads) =
                self.attention_backward(&d_sum1, &input, saved, call, &mut sink)?;
            if let Some(sink) = &mut sink {
                sink.norm(Site::Norm1, &self.norm1, &d_input, &saved.x, &saved.stats1)?;
            }
            let residual = call.spread(&d_sum1)?;
            let dx = self
                .norm1
                .backward(&d_input, &saved.x, &saved.stats1, Some(&residual))?;
            Ok((dx, grads))
        }
    }

    /// Through the feed-forward part down to its `input`, which is formed only for the sink.
    fn feed_forward_backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        call: &Call,
        input: impl FnOnce() -> Result<Tensor>,
        sink: &mut Option<&mut Sink>,
    ) -> Result<Tensor> {
        let activation = call.shape.activation;
        let dy = layers::dropout(dy, call.hidden_dropout(1).as_ref(), call.rows_out())?;
        let da = self.fc2.input_gradient(&dy)?;
        let dz = layers::activate_backward(activation, &saved.z, &da)?;
        if let Some(sink) = sink {
            sink.linear(
                Site::Fc2,
                &self.fc2,
                &dy,
                &layers::activate(activation, &saved.z)?,
            )?;
            sink.linear(Site::Fc1, &self.fc1, &dz, &input()?)?;
        }
        Ok(self.fc1.input_gradient(&dz)?)
    }

    /// Through output layer, attention and the stacked projections, down to their `input`.
    fn attention_backward(
        &self,
        dy: &Tensor,
        input: &Tensor,
        saved: &Saved,
        call: &Call,
        sink: &mut Option<&mut Sink>,
    ) -> Result<(Tensor, Vec<Adapter>)> {
        let (rows, attended) = (call.rows_out(), call.pick(&saved.attended)?);
        let dy = layers::dropout(dy, call.hidden_dropout(0).as_ref(), rows)?;
        let (d_attended, out_grads) = call.with_adapters(3..4, |a| {
            self.out
                .backward(&dy, &attended, saved.out_u.as_ref(), rows, a)
        })?;
        let d_qkv = self
            .attention(call, call.attention_dropout().as_ref())
            .backward(
                &saved.qkv,
                &saved.attended,
                &saved.attention,
                &call.spread(&d_attended)?,
            )?;
        if let Some(sink) = sink {
            sink.linear(Site::Out, &self.out, &dy, &attended)?;
            sink.linear(Site::Qkv, &self.qkv, &d_qkv, input)?;
        }
        let (dx, mut grads) = call.with_adapters(0..3, |a| {
            self.qkv
                .backward(&d_qkv, input, saved.qkv_u.as_ref(), call.rows, a)
        })?;
        grads.extend(out_grads);
        Ok((dx, grads))
    }

    /// Returns the block's attention over the sequences of a call.
    fn attention<'a>(&self, call: &Call<'a>, dropout: Option<&'a Dropout>) -> Attention<'a> {
        Attention {
            heads: call.shape.heads,
            rows: call.rows,
            dropout,
            precision: self.qkv.precision,
        }
    }

    /// The block with its adapters multiplied into the weights.
    pub fn merged(&self, adapters: &[Adapter; ADAPTERS], scale: f64) -> Result<Block> {
        let [q, k, v, o] = adapters;
        let of = |parts: &[&Adapter], linear: &Linear| {
            linear.merged(&Adapters {
                parts,
                scale,
                dropout: Vec::new(),
            })
        };
        Ok(Block {
            qkv: of(&[q, k, v], &self.qkv)?,
            out: of(&[o], &self.out)?,
            ..self.clone()
        })
    }
}
