//! What a model does with a batch: one training step's losses and gradients, or scores.

use super::micro_batch::Share;
use super::{LossConfig, MissingToken, U2a};
use crate::encoder::block::Noise;
use crate::encoder::config::ADAPTED;
use crate::encoder::{Encoder, Input, Output, StoredActivations, Tape};
use crate::fusion;
use crate::loss::binary_cross_entropy;
use crate::ogm_ge;
use crate::token_selection::{Selection, Tokens, alignment, complete, select};
use crate::variant::{Adapt, Modulation};
use anyhow::{Result, bail};
use candle_core::{DType, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::{Linear, Optimizer};
use engine::{AdamW, AdamWConfig};
use features::{Batch, ModalityBatch, ModalityData};

/// The randomness and memory of one training step.
#[derive(Clone, Copy, Debug)]
pub struct StepMode {
    /// The run's seed.
    pub seed: u64,
    /// Optimiser step.
    pub step: u32,
    /// Whether the encoders' own dropout is on.
    pub encoder_dropout: bool,
    /// What the forward pass keeps.
    pub stored: StoredActivations,
    /// What the batch is of a larger one.
    pub share: Share,
}

/// Inputs of one modality of a batch on the device.
pub struct Uploaded {
    /// Which samples of the batch they are of, ascending.
    pub rows: Vec<usize>,
    /// `rows x any`, f32.
    pub values: Tensor,
}

impl Uploaded {
    /// Those of `rows`, counted from `first`; none where one is not among them.
    fn rows(&self, rows: &[usize], first: usize) -> Result<Option<Tensor>> {
        let place = |row: &usize| {
            self.rows
                .binary_search(&(row + first))
                .ok()
                .map(|at| at as u32)
        };
        let Some(places) = rows.iter().map(place).collect::<Option<Vec<u32>>>() else {
            return Ok(None);
        };
        let Some(start) = places.first().map(|at| *at as usize) else {
            return Ok(None);
        };
        let together = places
            .iter()
            .enumerate()
            .all(|(i, at)| *at as usize == start + i);
        Ok(Some(match together {
            true => self.values.narrow(0, start, places.len())?,
            false => self
                .values
                .index_select(&Tensor::new(places, self.values.device())?, 0)?,
        }))
    }
}

/// Losses and gradients of one step.
pub struct StepResult {
    /// Three numbers, still on the model's device: see [`Losses`].
    pub losses: Tensor,
    /// `n x classes`.
    pub logits: Tensor,
    /// In the order of [`U2a::parameters`]; none where the tensor took no part in the step.
    pub grads: Vec<Option<Tensor>>,
}

/// The losses of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// `task + weight * align`.
    pub loss: f64,
    /// Task loss.
    pub task: f64,
    /// Alignment loss, 0 where no sample is complete.
    pub align: f64,
}

impl Losses {
    /// Fetches the losses of several steps at once: a GPU is waited for once.
    pub fn read(steps: &[Tensor]) -> Result<Vec<Losses>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<f64> = Tensor::cat(steps, 0)?.to_dtype(DType::F64)?.to_vec1()?;
        let one = |v: &[f64]| Losses {
            loss: v[0],
            task: v[1],
            align: v[2],
        };
        Ok(all.chunks_exact(3).map(one).collect())
    }
}

impl StepResult {
    /// Fetches this step's losses.
    pub fn losses(&self) -> Result<Losses> {
        Ok(Losses::read(std::slice::from_ref(&self.losses))?[0])
    }
}

/// A scored batch.
pub struct Scores {
    /// `n x classes`.
    pub logits: Vec<Vec<f32>>,
    /// Per complete sample (by number in the batch): squared distance, mean over width, of (MT_1 to
    /// CLS_2, MT_2 to CLS_1).
    pub alignment: Vec<(usize, [f64; 2])>,
}

impl U2a {
    fn selection(&self, missing: MissingToken) -> Selection {
        Selection {
            missing,
            only: self.design.modality.and_then(|only| {
                self.modalities
                    .iter()
                    .position(|modality| *modality == only)
            }),
        }
    }

    /// Weights and biases of the fusion's layers and of the head, in turn.
    fn after_tokens(&self) -> impl Iterator<Item = &Tensor> {
        let layers = self.fusion.iter().map(|(_, tensor)| tensor);
        layers.chain([&self.weight, &self.bias])
    }

    fn noise(&self, m: usize, mode: &StepMode) -> Noise {
        let config = self.encoders[m].config();
        let own = |rate: f64| if mode.encoder_dropout { rate } else { 0.0 };
        Noise {
            seed: mode.seed,
            step: mode.step,
            lora: self.lora.dropout,
            hidden: own(config.hidden_dropout),
            attention: own(config.attention_dropout),
            first_module: FIRST_MODULE[m],
        }
    }

    /// One training step's losses and gradients.
    pub fn step(&self, batch: &Batch, mode: &StepMode, config: &LossConfig) -> Result<StepResult> {
        self.step_uploaded(batch, [None, None], mode, config)
    }

    /// [`U2a::step`] of a batch, or of a part of one, whose inputs may be on the device already.
    pub fn step_uploaded(
        &self,
        batch: &Batch,
        uploaded: [Option<&Uploaded>; 2],
        mode: &StepMode,
        config: &LossConfig,
    ) -> Result<StepResult> {
        let adapt = self.design.adapt;
        let stored = match adapt {
            Adapt::Head => None,
            _ => Some(mode.stored),
        };
        let mut ran: [Option<(Tokens, Tape, &ModalityBatch)>; 2] = [None, None];
        for (m, ran) in ran.iter_mut().enumerate() {
            let Some(input) = batch.inputs[m].as_ref().filter(|_| self.runs(m)) else {
                continue;
            };
            let noise = self.noise(m, mode);
            let there = match uploaded[m] {
                Some(uploaded) => uploaded.rows(&input.rows, mode.share.first)?,
                None => None,
            };
            let read = Input {
                data: &input.data,
                samples: &sequence_names(input, mode.share.first),
                uploaded: there.as_ref(),
            };
            let (out, tape) = self.encoders[m].forward(
                &read,
                &self.learnable[m],
                adapt != Adapt::Lora,
                &noise,
                stored,
            )?;
            *ran = Some((tokens(input, out)?, tape, input));
        }
        let mut vars: [Option<[Var; 2]>; 2] = [None, None];
        let mut leaves: [Option<Tokens>; 2] = [None, None];
        for m in 0..2 {
            let Some((t, ..)) = &ran[m] else { continue };
            let pair = [Var::from_tensor(&t.cls)?, Var::from_tensor(&t.mask)?];
            leaves[m] = Some(Tokens {
                rows: t.rows.clone(),
                cls: pair[0].as_tensor().clone(),
                mask: pair[1].as_tensor().clone(),
            });
            vars[m] = Some(pair);
        }
        let head = self
            .after_tokens()
            .map(Var::from_tensor)
            .collect::<candle_core::Result<Vec<Var>>>()?;
        let layers: Vec<Tensor> = head.iter().map(|var| var.as_tensor().clone()).collect();
        let layers = fusion::linear_layers(&layers);
        let how = self.selection(config.missing_token);
        let chosen = select(
            &batch.present,
            &leaves,
            how,
            &self.learnable[0].mask_token.get(0)?,
        )?;
        let logits = self.design.fusion.logits(&chosen, &layers)?;
        let task = task_loss(&logits, &batch.labels, config.multi_label)?;
        let task = scaled(task, mode.share.task)?;
        let align = match alignment(&batch.present, &leaves, config.align_stop_gradient)? {
            Some(align) => Some(scaled(align, mode.share.align)?),
            None => None,
        };
        let loss = match &align {
            Some(align) => (&task + (align * config.align_weight)?)?,
            None => task.clone(),
        };
        let store = loss.backward()?;
        let grad = |var: &Var| -> Result<Tensor> {
            Ok(match store.get(var) {
                Some(g) => g.detach(),
                None => var.as_tensor().zeros_like()?.detach(),
            })
        };
        let balance = match layers.last() {
            Some(head) => self.balance(batch, &chosen, head)?,
            None => bail!("a model without a head"),
        };
        let mut grads = Vec::new();
        for (m, (ran, vars)) in ran.into_iter().zip(&vars).enumerate() {
            let first = grads.len();
            let tensors = match (&self.full[m], adapt) {
                (Some(weights), _) => weights.iter().count() + 1,
                (None, Adapt::Full) => 1,
                _ => self.learnable[m].adapters.len() * ADAPTED.len() * 2 + 1,
            };
            let (Some((_, tape, input)), Some([cls, mask]), true) =
                (ran, vars, adapt != Adapt::Head)
            else {
                grads.extend((0..tensors).map(|_| None));
                continue;
            };
            let per = per_sample(&input.data);
            let spread = |g: Tensor| -> Result<Tensor> {
                // The token is the mean over a video's frames: each gets an equal share.
                let (n, d) = g.dims2()?;
                let g = (g / per as f64)?.unsqueeze(1)?.broadcast_as((n, per, d))?;
                Ok(g.contiguous()?.reshape((n * per, d))?)
            };
            let (d_cls, d_mask) = (spread(grad(cls)?)?, spread(grad(mask)?)?);
            match &self.full[m] {
                Some(weights) => {
                    let mut g =
                        self.encoders[m].backward_full(tape, &input.data, &d_cls, &d_mask)?;
                    grads.extend(weights.iter().map(|(name, _)| g.weights.remove(name)));
                    grads.push(Some(g.mask_token));
                }
                None => {
                    let g = self.encoders[m].backward(tape, &d_cls, &d_mask, &self.learnable[m])?;
                    for adapter in g.adapters.into_iter().flatten() {
                        grads.extend([Some(adapter.a), Some(adapter.b)]);
                    }
                    grads.push(Some(g.mask_token));
                }
            }
            if let Some(balance) = balance {
                for (i, grad) in grads.iter_mut().enumerate().skip(first) {
                    let Some(grad) = grad else { continue };
                    let key = (mode.seed, mode.step, i as u32);
                    *grad = ogm_ge::modulate(grad, balance[m], self.design.modulation, key)?;
                }
            }
        }
        for var in &head {
            grads.push(Some(grad(var)?));
        }
        let align = align.map_or_else(|| task.zeros_like(), Ok)?;
        Ok(StepResult {
            losses: Tensor::stack(&[loss, task, align], 0)?.detach(),
            logits: logits.detach(),
            grads,
        })
    }

    /// OGM's coefficients of the two encoders, from the samples that have both modalities; none
    /// where there is no such sample or no modulation.
    fn balance(
        &self,
        batch: &Batch,
        chosen: &[Tensor; 2],
        head: &Linear,
    ) -> Result<Option<[f64; 2]>> {
        let rows: Vec<u32> = (0..batch.present.len())
            .filter(|i| batch.present[*i] == [true, true])
            .map(|i| i as u32)
            .collect();
        if self.design.modulation == Modulation::None || rows.is_empty() {
            return Ok(None);
        }
        let labels = rows.iter().map(|i| match batch.labels[*i as usize][..] {
            [label] => Ok(label),
            _ => bail!("gradient modulation is defined for one class per sample"),
        });
        let labels = labels.collect::<Result<Vec<u32>>>()?;
        let rows = Tensor::new(rows, head.weight().device())?;
        let logits = self.design.fusion.unimodal(chosen, head)?;
        let score = |m: usize| -> Result<f64> {
            fusion::true_class_score(&logits[m].detach().index_select(&rows, 0)?, &labels)
        };
        let scores = [score(0)?, score(1)?];
        Ok(Some(ogm_ge::coefficients(scores, self.design.ogm_alpha)))
    }

    /// An optimiser that starts from this model's parameters as they are now.
    pub fn optimiser(&self, config: AdamWConfig) -> Result<AdamW> {
        let parameters = self.parameters();
        let vars = parameters.iter().map(|p| Var::from_tensor(p.tensor));
        Ok(AdamW::new(
            vars.collect::<candle_core::Result<_>>()?,
            config,
        )?)
    }

    /// Updates every learnable tensor that has a gradient; those without stay as they are. The gradients are in
    /// the order of [`U2a::parameters`]. The values are the optimiser's from now on: what
    /// [`U2a::set_parameters`] puts into the model later is lost at the next update.
    pub fn update(
        &mut self,
        optimiser: &mut AdamW,
        grads: Vec<Option<Tensor>>,
        lr: f64,
    ) -> Result<()> {
        optimiser.set_learning_rate(lr);
        optimiser.step(&optimiser.gradients(grads))?;
        self.set_parameters(optimiser.values())
    }

    /// Scores a batch without any randomness, on [`U2a::merged`] encoders.
    pub fn score(
        &self,
        merged: &[Encoder; 2],
        batch: &Batch,
        missing_token: MissingToken,
    ) -> Result<Scores> {
        let mut leaves: [Option<Tokens>; 2] = [None, None];
        for m in 0..2 {
            let Some(input) = batch.inputs[m].as_ref().filter(|_| self.runs(m)) else {
                continue;
            };
            let read = Input {
                data: &input.data,
                samples: &sequence_names(input, 0),
                uploaded: None,
            };
            let (out, _) =
                merged[m].forward(&read, &self.learnable[m], true, &Noise::none(), None)?;
            leaves[m] = Some(tokens(input, out)?);
        }
        let how = self.selection(missing_token);
        let chosen = select(
            &batch.present,
            &leaves,
            how,
            &self.learnable[0].mask_token.get(0)?,
        )?;
        let layers: Vec<Tensor> = self.after_tokens().cloned().collect();
        let logits = self
            .design
            .fusion
            .logits(&chosen, &fusion::linear_layers(&layers))?
            .to_dtype(DType::F32)?
            .to_vec2()?;
        let mut distances = Vec::new();
        if let Some((samples, [[mt1, cls2], [mt2, cls1]])) = complete(&batch.present, &leaves)? {
            let mse = |a: &Tensor, b: &Tensor| -> Result<Vec<f64>> {
                Ok((a - b)?.sqr()?.mean(1)?.to_dtype(DType::F64)?.to_vec1()?)
            };
            let (forth, back) = (mse(&mt1, &cls2)?, mse(&mt2, &cls1)?);
            distances = samples
                .into_iter()
                .zip(forth.into_iter().zip(back))
                .map(|(i, (a, b))| (i, [a, b]))
                .collect();
        }
        Ok(Scores {
            logits,
            alignment: distances,
        })
    }
}

/// First module number of each encoder's dropout: far apart, so that no depth makes them meet.
const FIRST_MODULE: [u32; 2] = [0, 1 << 16];

/// A whole batch's loss stays what it is, to the last bit.
fn scaled(loss: Tensor, share: f64) -> Result<Tensor> {
    Ok(if share == 1.0 { loss } else { (loss * share)? })
}

fn per_sample(data: &ModalityData) -> usize {
    match data {
        ModalityData::Pixels {
            images_per_sample, ..
        } => *images_per_sample,
        _ => 1,
    }
}

/// Names each sequence to the generator: the sample's number in the batch, and the frame. `first` is
/// the number of the first sample at hand.
fn sequence_names(input: &ModalityBatch, first: usize) -> Vec<u32> {
    let per = per_sample(&input.data);
    input
        .rows
        .iter()
        .flat_map(|row| (0..per).map(move |frame| ((first + row) * per + frame) as u32))
        .collect()
}

/// Means over the frames of each sample.
fn tokens(input: &ModalityBatch, out: Output) -> Result<Tokens> {
    let per = per_sample(&input.data);
    let mean = |t: Tensor| -> Result<Tensor> {
        if per == 1 {
            return Ok(t.contiguous()?);
        }
        let (n, d) = t.dims2()?;
        Ok(t.contiguous()?.reshape((n / per, per, d))?.mean(1)?)
    };
    Ok(Tokens {
        rows: input.rows.clone(),
        cls: mean(out.cls)?,
        mask: mean(out.mask)?,
    })
}

fn task_loss(logits: &Tensor, labels: &[Vec<u32>], multi_label: bool) -> Result<Tensor> {
    let classes = logits.dim(1)?;
    if multi_label {
        let mut targets = vec![0f32; labels.len() * classes];
        for (row, labels) in labels.iter().enumerate() {
            for label in labels {
                targets[row * classes + *label as usize] = 1.0;
            }
        }
        let targets = Tensor::from_vec(targets, (labels.len(), classes), logits.device())?
            .to_dtype(logits.dtype())?;
        binary_cross_entropy(logits, &targets)
    } else {
        let targets = labels.iter().map(|l| match l[..] {
            [label] if (label as usize) < classes => Ok(label),
            _ => bail!("labels {l:?} where one class below {classes} is expected"),
        });
        let targets = Tensor::new(targets.collect::<Result<Vec<u32>>>()?, logits.device())?;
        Ok(cross_entropy(logits, &targets)?)
    }
}
