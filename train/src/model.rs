//! U2A: two frozen encoders with adapters, a mask token each, per-sample token selection, one
//! linear head.
//!
//! ```text
//! both present   T = CLS_1 + CLS_2        m1 missing   T = MT_2 + CLS_2
//! m2 missing     T = CLS_1 + MT_1         logits = W T + b
//! ```
//!
//! An encoder runs on the samples that have its modality and on no others. The baselines of
//! [`Design`] change which weights learn and how the tokens are fused, nothing else.

use crate::adapter::{self, LoraConfig, ModuleNames};
use crate::design::{Adapt, Design, Modulation};
use crate::encoder::block::Noise;
use crate::encoder::config::{ADAPTED, EncoderConfig};
use crate::encoder::{Encoder, Keep, Learnable, Output, Tape};
use crate::fusion;
use crate::loss;
use crate::modulate;
use crate::ops::Adapter;
use crate::select::{Selection, Tokens, alignment, complete, select};
use crate::weights::Weights;
use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use datasets::Modality;
use features::rng::Rng;
use features::{Batch, ModalityBatch, ModalityData};
use serde::{Deserialize, Serialize};

/// What stands in for a missing modality's class token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[clap(rename_all = "lowercase")]
pub enum MissingToken {
    /// The other encoder's mask token.
    #[default]
    Mask,
    /// Zeros: the baseline without mask tokens.
    Zeros,
    /// The missing modality's own class token on an empty input: zeros, or a text without words.
    Input,
}

/// The loss's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    /// Weight of the alignment loss.
    pub align_weight: f64,
    /// Whether the alignment loss leaves the class tokens alone.
    pub align_stop_gradient: bool,
    /// Binary cross-entropy per class instead of cross-entropy.
    pub multi_label: bool,
    /// What stands in for a missing modality.
    pub missing_token: MissingToken,
}

/// Weight of the alignment loss in the paper.
pub const ALIGN_WEIGHT: f64 = 0.2;
/// Standard deviation of a new mask token.
const MASK_TOKEN_STD: f64 = 0.02;
/// Streams of the random generator.
const INIT_ADAPTER: u32 = 0x4c6f_5241;
const INIT_MASK: u32 = 0x4d61_736b;
const INIT_HEAD: u32 = 0x4865_6164;

/// The model: frozen encoders and everything learnable.
pub struct U2a {
    /// The dataset's modalities (m1, m2).
    pub modalities: [Modality; 2],
    /// Frozen encoders in the same order.
    pub encoders: [Encoder; 2],
    /// Adapters and mask tokens in the same order.
    pub learnable: [Learnable; 2],
    /// `classes x d`.
    pub weight: Tensor,
    /// `classes`.
    pub bias: Tensor,
    /// Settings of the adapters.
    pub lora: LoraConfig,
    /// What kind of model it is.
    pub design: Design,
    /// The fusion's own layers, by name.
    pub fusion: Vec<(&'static str, Tensor)>,
    /// The encoders' weights by canonical name where they learn.
    pub full: [Option<Weights>; 2],
}

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
    pub keep: Keep,
}

/// Losses and gradients of one step.
pub struct StepResult {
    /// `task + weight * align`.
    pub loss: f64,
    /// Task loss.
    pub task: f64,
    /// Alignment loss, 0 where no sample is complete.
    pub align: f64,
    /// `n x classes`.
    pub logits: Tensor,
    /// In the order of [`U2a::parameters`]; none where the tensor took no part in the step.
    pub grads: Vec<Option<Tensor>>,
}

/// A scored batch.
pub struct Scores {
    /// `n x classes`.
    pub logits: Vec<Vec<f32>>,
    /// Per complete sample (by number in the batch): squared distance, mean over width, of (MT_1 to
    /// CLS_2, MT_2 to CLS_1).
    pub alignment: Vec<(usize, [f64; 2])>,
}

/// The name and tensor of one learnable parameter.
pub struct Parameter<'a> {
    /// `MODALITY/KEY` for adapters, `mask_token.MODALITY`, `weight`, `bias`.
    pub name: String,
    /// Its value.
    pub tensor: &'a Tensor,
}

impl U2a {
    /// New adapters (A Kaiming-uniform with a = sqrt 5, B zero), mask tokens N(0, 0.02) and head
    /// (uniform within 1 / sqrt d), all from the seed.
    pub fn new(
        modalities: [Modality; 2],
        encoders: [Encoder; 2],
        classes: usize,
        lora: LoraConfig,
        seed: u64,
    ) -> Result<U2a> {
        let d = encoders[0].config().hidden;
        if encoders[1].config().hidden != d {
            bail!(
                "the encoders differ in width ({d} and {}): their class tokens cannot be added",
                encoders[1].config().hidden
            );
        }
        let uniform = |rng: &mut Rng, n: usize, bound: f64| {
            (0..n)
                .map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32)
                .collect::<Vec<_>>()
        };
        // Kaiming-uniform with a = sqrt 5 on `rank x d` is uniform within 1 / sqrt d; so is PyTorch's Linear.
        let bound = 1.0 / (d as f64).sqrt();
        let mut learnable = Vec::new();
        for (m, encoder) in encoders.iter().enumerate() {
            let mut adapters = Vec::new();
            for layer in 0..encoder.config().layers {
                let make = |i: usize| -> Result<Adapter> {
                    let mut rng = Rng::new(
                        seed,
                        &[INIT_ADAPTER, m as u32, (layer * ADAPTED.len() + i) as u32],
                    );
                    Ok(Adapter {
                        a: Tensor::from_vec(
                            uniform(&mut rng, lora.rank * d, bound),
                            (lora.rank, d),
                            &Device::Cpu,
                        )?,
                        b: Tensor::zeros((d, lora.rank), DType::F32, &Device::Cpu)?,
                    })
                };
                adapters.push([make(0)?, make(1)?, make(2)?, make(3)?]);
            }
            let mut rng = Rng::new(seed, &[INIT_MASK, m as u32]);
            let mask: Vec<f32> = (0..d)
                .map(|_| (rng.normal() * MASK_TOKEN_STD) as f32)
                .collect();
            learnable.push(Learnable {
                adapters,
                scale: lora.scale(),
                mask_token: Tensor::from_vec(mask, (1, d), &Device::Cpu)?,
            });
        }
        let mut rng = Rng::new(seed, &[INIT_HEAD]);
        let weight = Tensor::from_vec(
            uniform(&mut rng, classes * d, bound),
            (classes, d),
            &Device::Cpu,
        )?;
        let bias = Tensor::from_vec(uniform(&mut rng, classes, bound), classes, &Device::Cpu)?;
        let Ok(learnable) = <[Learnable; 2]>::try_from(learnable) else {
            bail!("one learnable part per encoder")
        };
        Ok(U2a {
            modalities,
            encoders,
            learnable,
            weight,
            bias,
            lora,
            design: Design::default(),
            fusion: Vec::new(),
            full: [None, None],
        })
    }

    /// The same model as another design: new fusion layers from the seed, and for full fine-tuning
    /// the encoders' weights, which `weights` hands over once more.
    pub fn designed(mut self, design: Design, weights: [Weights; 2], seed: u64) -> Result<U2a> {
        let (classes, d) = self.weight.dims2()?;
        let width = design.fusion.width(d);
        if width != d {
            let bound = 1.0 / (width as f64).sqrt();
            let mut rng = Rng::new(seed, &[INIT_HEAD]);
            let mut uniform = |n: usize| -> Vec<f32> {
                (0..n)
                    .map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32)
                    .collect()
            };
            self.weight =
                Tensor::from_vec(uniform(classes * width), (classes, width), &Device::Cpu)?;
            self.bias = Tensor::from_vec(uniform(classes), classes, &Device::Cpu)?;
        }
        self.fusion = design.fusion.new_layers(d, seed)?;
        if let Some(only) = design.modality
            && !self.modalities.contains(&only)
        {
            bail!(
                "modality {only}: the data have {} and {}",
                self.modalities[0],
                self.modalities[1]
            );
        }
        self.design = design;
        if design.adapt == Adapt::Full {
            for (m, weights) in weights.into_iter().enumerate() {
                if self.runs(m) {
                    self.full[m] = Some(weights);
                }
            }
        }
        Ok(self)
    }

    /// Whether encoder `m` is used at all.
    pub fn runs(&self, m: usize) -> bool {
        self.design
            .modality
            .is_none_or(|only| only == self.modalities[m])
    }

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

    /// All learnable tensors in a fixed order: first modality's adapters (or, in full fine-tuning,
    /// its encoder's weights) and mask token, second's, fusion, head.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut list = Vec::new();
        for (m, modality) in self.modalities.iter().enumerate() {
            let config = self.encoders[m].config();
            for (name, tensor) in self.full[m].iter().flat_map(Weights::iter) {
                list.push(Parameter {
                    name: format!("{modality}/{name}"),
                    tensor,
                });
            }
            let adapters = match self.design.adapt {
                Adapt::Full => &[][..],
                _ => &self.learnable[m].adapters,
            };
            for (layer, block) in adapters.iter().enumerate() {
                for (adapter, part) in block.iter().zip(ADAPTED) {
                    let [a, b] = adapter::tensor_names(config, layer, part, ModuleNames::default());
                    list.push(Parameter {
                        name: format!("{modality}/{a}"),
                        tensor: &adapter.a,
                    });
                    list.push(Parameter {
                        name: format!("{modality}/{b}"),
                        tensor: &adapter.b,
                    });
                }
            }
            list.push(Parameter {
                name: format!("mask_token.{modality}"),
                tensor: &self.learnable[m].mask_token,
            });
        }
        for (name, tensor) in &self.fusion {
            list.push(Parameter {
                name: (*name).to_string(),
                tensor,
            });
        }
        list.push(Parameter {
            name: "weight".into(),
            tensor: &self.weight,
        });
        list.push(Parameter {
            name: "bias".into(),
            tensor: &self.bias,
        });
        list
    }

    /// Replaces all learnable tensors; the order is that of [`U2a::parameters`].
    pub fn set_parameters(&mut self, values: Vec<Tensor>) -> Result<()> {
        let mut values = values.into_iter();
        let mut set = |slot: &mut Tensor| -> Result<()> {
            match values.next() {
                Some(value) if value.dims() == slot.dims() => {
                    *slot = value;
                    Ok(())
                }
                Some(value) => bail!(
                    "a value of shape {:?} for a parameter of shape {:?}",
                    value.dims(),
                    slot.dims()
                ),
                None => bail!("fewer values than parameters"),
            }
        };
        for (m, learnable) in self.learnable.iter_mut().enumerate() {
            if let Some(weights) = &mut self.full[m] {
                weights.iter_mut().try_for_each(&mut set)?;
                self.encoders[m] = self.encoders[m].with_weights(weights.clone())?;
            }
            if self.design.adapt != Adapt::Full {
                for adapter in learnable.adapters.iter_mut().flatten() {
                    set(&mut adapter.a)?;
                    set(&mut adapter.b)?;
                }
            }
            set(&mut learnable.mask_token)?;
        }
        self.fusion
            .iter_mut()
            .try_for_each(|(_, tensor)| set(tensor))?;
        set(&mut self.weight)?;
        set(&mut self.bias)
    }

    /// The same model with all learnable tensors in another precision (gradient checks).
    pub fn to_dtype(&mut self, dtype: DType) -> Result<()> {
        let values = self
            .parameters()
            .iter()
            .map(|p| p.tensor.to_dtype(dtype))
            .collect::<candle_core::Result<_>>()?;
        self.set_parameters(values)
    }

    /// For evaluation: encoders with the adapters multiplied into their weights.
    pub fn merged(&self) -> Result<[Encoder; 2]> {
        if self.design.adapt != Adapt::Lora {
            return Ok(self.encoders.clone());
        }
        Ok([
            self.encoders[0].merged(&self.learnable[0])?,
            self.encoders[1].merged(&self.learnable[1])?,
        ])
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
        let adapt = self.design.adapt;
        let keep = match adapt {
            Adapt::Head => Keep::Nothing,
            _ => mode.keep,
        };
        let mut ran: [Option<(Tokens, Tape, &ModalityBatch)>; 2] = [None, None];
        for (m, ran) in ran.iter_mut().enumerate() {
            let Some(input) = batch.inputs[m].as_ref().filter(|_| self.runs(m)) else {
                continue;
            };
            let noise = self.noise(m, mode);
            let (out, tape) = self.encoders[m].forward(
                &input.data,
                &sequence_names(input),
                &self.learnable[m],
                adapt != Adapt::Lora,
                &noise,
                keep,
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
        let layers = self.fusion.iter().map(|(_, tensor)| tensor);
        let head = layers
            .chain([&self.weight, &self.bias])
            .map(Var::from_tensor)
            .collect::<candle_core::Result<Vec<Var>>>()?;
        let heads: Vec<Tensor> = head.iter().map(|var| var.as_tensor().clone()).collect();
        let (layers, [weight, bias]) = heads.split_at(self.fusion.len()) else {
            bail!("a head of weight and bias")
        };
        let how = self.selection(config.missing_token);
        let chosen = select(
            &batch.present,
            &leaves,
            how,
            &self.learnable[0].mask_token.get(0)?,
        )?;
        let logits = self.design.fusion.logits(&chosen, layers, weight, bias)?;
        let task = task_loss(&logits, &batch.labels, config.multi_label)?;
        let align = alignment(&batch.present, &leaves, config.align_stop_gradient)?;
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
        let balance = self.balance(batch, &chosen, weight, bias)?;
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
                    *grad = modulate::modulate(grad, balance[m], self.design.modulation, key)?;
                }
            }
        }
        for var in &head {
            grads.push(Some(grad(var)?));
        }
        let number = |t: &Tensor| -> Result<f64> { Ok(t.to_dtype(DType::F64)?.to_scalar()?) };
        Ok(StepResult {
            loss: number(&loss)?,
            task: number(&task)?,
            align: align.as_ref().map_or(Ok(0.0), number)?,
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
        weight: &Tensor,
        bias: &Tensor,
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
        let rows = Tensor::new(rows, &Device::Cpu)?;
        let logits = self.design.fusion.unimodal(chosen, weight, bias)?;
        let score = |m: usize| -> Result<f64> {
            fusion::true_class_score(&logits[m].detach().index_select(&rows, 0)?, &labels)
        };
        let scores = [score(0)?, score(1)?];
        Ok(Some(modulate::coefficients(scores, self.design.ogm_alpha)))
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
            let (out, _) = merged[m].forward(
                &input.data,
                &sequence_names(input),
                &self.learnable[m],
                true,
                &Noise::none(),
                Keep::Nothing,
            )?;
            leaves[m] = Some(tokens(input, out)?);
        }
        let how = self.selection(missing_token);
        let chosen = select(
            &batch.present,
            &leaves,
            how,
            &self.learnable[0].mask_token.get(0)?,
        )?;
        let layers: Vec<Tensor> = self.fusion.iter().map(|(_, t)| t.clone()).collect();
        let logits = self
            .design
            .fusion
            .logits(&chosen, &layers, &self.weight, &self.bias)?
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

    /// The parameter table: (part, total, learnable).
    pub fn table(
        modalities: [Modality; 2],
        configs: &[EncoderConfig; 2],
        classes: usize,
        rank: usize,
        design: &Design,
    ) -> Vec<(String, usize, usize)> {
        let mut table = Vec::new();
        for (modality, config) in modalities.iter().zip(configs) {
            if design.modality.is_some_and(|only| only != *modality) {
                continue;
            }
            let name = format!("{modality} encoder ({:?})", config.kind);
            let all = config.parameters();
            if design.adapt != Adapt::Lora {
                let learns = if design.adapt == Adapt::Full { all } else { 0 };
                table.push((name, all, learns));
                let learns = if learns > 0 { config.hidden } else { 0 };
                table.push((format!("{modality} mask token"), config.hidden, learns));
                continue;
            }
            table.push((name, all, 0));
            let adapters = config.layers * ADAPTED.len() * 2 * config.hidden * rank;
            table.push((
                format!("{modality} adapters, rank {rank}"),
                adapters,
                adapters,
            ));
            table.push((
                format!("{modality} mask token"),
                config.hidden,
                config.hidden,
            ));
        }
        let d = configs[0].hidden;
        for (name, shape) in design.fusion.layers(d) {
            let n = shape.iter().product();
            table.push((name.to_string(), n, n));
        }
        let head = classes * design.fusion.width(d) + classes;
        table.push((format!("head, {classes} classes"), head, head));
        table
    }
}

/// First module number of each encoder's dropout: far apart, so that no depth makes them meet.
const FIRST_MODULE: [u32; 2] = [0, 1 << 16];

fn per_sample(data: &ModalityData) -> usize {
    match data {
        ModalityData::Pixels {
            images_per_sample, ..
        } => *images_per_sample,
        _ => 1,
    }
}

/// Names each sequence to the generator: the sample's number in the batch, and the frame.
fn sequence_names(input: &ModalityBatch) -> Vec<u32> {
    let per = per_sample(&input.data);
    input
        .rows
        .iter()
        .flat_map(|row| (0..per).map(move |frame| (row * per + frame) as u32))
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
        loss::binary_cross_entropy(logits, &targets)
    } else {
        let targets = labels.iter().map(|l| match l[..] {
            [label] if (label as usize) < classes => Ok(label),
            _ => bail!("labels {l:?} where one class below {classes} is expected"),
        });
        loss::cross_entropy(logits, &targets.collect::<Result<Vec<_>>>()?)
    }
}
