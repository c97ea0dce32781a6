//! U2A: two frozen encoders with adapters, a mask token each, per-sample token selection, one
//! linear head.
//!
//! ```text
//! both present   T = CLS_1 + CLS_2        m1 missing   T = MT_2 + CLS_2
//! m2 missing     T = CLS_1 + MT_1         logits = W T + b
//! ```
//!
//! An encoder runs on the samples that have its modality and on no others.

use crate::adapter::{self, LoraConfig, ModuleNames};
use crate::encoder::block::Noise;
use crate::encoder::config::{ADAPTED, EncoderConfig};
use crate::encoder::{Encoder, Keep, Learnable, Output, Tape};
use crate::loss;
use crate::ops::Adapter;
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

/// Class and mask tokens of the samples that have a modality, and which samples those are.
struct Tokens {
    rows: Vec<usize>,
    cls: Tensor,
    mask: Tensor,
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
        })
    }

    /// All learnable tensors in a fixed order: first modality's adapters and mask token, second's,
    /// head.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut list = Vec::new();
        for (m, modality) in self.modalities.iter().enumerate() {
            let config = self.encoders[m].config();
            for (layer, block) in self.learnable[m].adapters.iter().enumerate() {
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
                Some(value) if value.dims() == slot.dims() => *slot = value,
                Some(value) => bail!(
                    "a value of shape {:?} for a parameter of shape {:?}",
                    value.dims(),
                    slot.dims()
                ),
                None => bail!("fewer values than parameters"),
            }
            Ok(())
        };
        for learnable in &mut self.learnable {
            for adapter in learnable.adapters.iter_mut().flatten() {
                set(&mut adapter.a)?;
                set(&mut adapter.b)?;
            }
            set(&mut learnable.mask_token)?;
        }
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
        let mut ran: [Option<(Tokens, Tape, usize)>; 2] = [None, None];
        for m in 0..2 {
            let Some(input) = &batch.inputs[m] else {
                continue;
            };
            let per = per_sample(&input.data);
            let noise = self.noise(m, mode);
            let (out, tape) = self.encoders[m].forward(
                &input.data,
                &sequence_names(input),
                &self.learnable[m],
                false,
                &noise,
                mode.keep,
            )?;
            ran[m] = Some((tokens(input, out)?, tape, per));
        }
        let ([weight, bias], leaves, (loss, task, align, logits)) = {
            let mut vars: [Option<[Var; 2]>; 2] = [None, None];
            let mut leaves: [Option<Tokens>; 2] = [None, None];
            for m in 0..2 {
                let Some((t, _, _)) = &ran[m] else { continue };
                let pair = [Var::from_tensor(&t.cls)?, Var::from_tensor(&t.mask)?];
                leaves[m] = Some(Tokens {
                    rows: t.rows.clone(),
                    cls: pair[0].as_tensor().clone(),
                    mask: pair[1].as_tensor().clone(),
                });
                vars[m] = Some(pair);
            }
            let head = [
                Var::from_tensor(&self.weight)?,
                Var::from_tensor(&self.bias)?,
            ];
            let fused = fuse(&batch.present, &leaves, config.missing_token)?;
            let logits = fused
                .matmul(&head[0].as_tensor().t()?)?
                .broadcast_add(head[1].as_tensor())?;
            let task = task_loss(&logits, &batch.labels, config.multi_label)?;
            let align = alignment(&batch.present, &leaves, config.align_stop_gradient)?;
            let loss = match &align {
                Some(align) => (&task + (align * config.align_weight)?)?,
                None => task.clone(),
            };
            (head, vars, (loss, task, align, logits))
        };
        let store = loss.backward()?;
        let grad = |var: &Var| -> Result<Tensor> {
            Ok(match store.get(var) {
                Some(g) => g.detach(),
                None => var.as_tensor().zeros_like()?.detach(),
            })
        };
        let mut grads = Vec::new();
        for m in 0..2 {
            match (ran[m].take(), &leaves[m]) {
                (Some((_, tape, per)), Some([cls, mask])) => {
                    let spread = |g: Tensor| -> Result<Tensor> {
                        // The token is the mean over a video's frames: each gets an equal share.
                        let (n, d) = g.dims2()?;
                        let g = (g / per as f64)?.unsqueeze(1)?.broadcast_as((n, per, d))?;
                        Ok(g.contiguous()?.reshape((n * per, d))?)
                    };
                    let g = self.encoders[m].backward(
                        tape,
                        &spread(grad(cls)?)?,
                        &spread(grad(mask)?)?,
                        &self.learnable[m],
                    )?;
                    for adapter in g.adapters.into_iter().flatten() {
                        grads.extend([Some(adapter.a), Some(adapter.b)]);
                    }
                    grads.push(Some(g.mask_token));
                }
                _ => grads.extend(
                    (0..self.learnable[m].adapters.len() * ADAPTED.len() * 2 + 1).map(|_| None),
                ),
            }
        }
        grads.push(Some(grad(&weight)?));
        grads.push(Some(grad(&bias)?));
        let number = |t: &Tensor| -> Result<f64> { Ok(t.to_dtype(DType::F64)?.to_scalar()?) };
        Ok(StepResult {
            loss: number(&loss)?,
            task: number(&task)?,
            align: align.as_ref().map_or(Ok(0.0), number)?,
            logits: logits.detach(),
            grads,
        })
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
            let Some(input) = &batch.inputs[m] else {
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
        let fused = fuse(&batch.present, &leaves, missing_token)?;
        let logits = fused
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)?
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
    ) -> Vec<(String, usize, usize)> {
        let mut table = Vec::new();
        for (modality, config) in modalities.iter().zip(configs) {
            table.push((
                format!("{modality} encoder ({:?})", config.kind),
                config.parameters(),
                0,
            ));
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
        let head = classes * configs[0].hidden + classes;
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

/// Position of `sample` among the rows of a modality.
fn position(tokens: &Tokens, sample: usize) -> Result<u32> {
    match tokens.rows.binary_search(&sample) {
        Ok(at) => Ok(at as u32),
        Err(_) => bail!("sample {sample} of the batch is marked present but has no input"),
    }
}

/// `T_1 + T_2` per sample.
fn fuse(
    present: &[[bool; 2]],
    tokens: &[Option<Tokens>; 2],
    missing: MissingToken,
) -> Result<Tensor> {
    let Some(like) = tokens.iter().flatten().next() else {
        bail!("a batch in which no sample has any modality")
    };
    let zero = like.cls.narrow(0, 0, 1)?.zeros_like()?.detach();
    // All tokens under one another: CLS_1, MT_1, CLS_2, MT_2, and one row of zeros.
    let mut parts = Vec::new();
    let mut start = [[0u32; 2]; 2];
    let mut total = 0;
    for (m, t) in tokens.iter().enumerate() {
        let Some(t) = t else { continue };
        start[m] = [total, total + t.rows.len() as u32];
        total += 2 * t.rows.len() as u32;
        parts.extend([t.cls.clone(), t.mask.clone()]);
    }
    parts.push(zero);
    let all = Tensor::cat(&parts, 0)?;
    let mut picks: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
    for (sample, has) in present.iter().enumerate() {
        if *has == [false, false] {
            bail!("sample {sample} of the batch has no modality at all");
        }
        for m in 0..2 {
            let (owner, which) = if has[m] { (m, 0) } else { (1 - m, 1) };
            let Some(t) = &tokens[owner] else {
                bail!("sample {sample} of the batch is marked present but its encoder did not run")
            };
            let use_zero = which == 1 && missing == MissingToken::Zeros;
            picks[m].push(if use_zero {
                total
            } else {
                start[owner][which] + position(t, sample)?
            });
        }
    }
    let pick = |ids: &[u32]| -> Result<Tensor> {
        Ok(all.index_select(&Tensor::new(ids, all.device())?, 0)?)
    };
    Ok((pick(&picks[0])? + pick(&picks[1])?)?)
}

/// Over the complete samples: their numbers, and (MT_1, CLS_2), (MT_2, CLS_1).
#[allow(
    clippy::type_complexity,
    reason = "two pairs of tensors, named where they are used"
)]
fn complete(
    present: &[[bool; 2]],
    tokens: &[Option<Tokens>; 2],
) -> Result<Option<(Vec<usize>, [[Tensor; 2]; 2])>> {
    let [Some(first), Some(second)] = tokens else {
        return Ok(None);
    };
    let samples: Vec<usize> = (0..present.len())
        .filter(|i| present[*i] == [true, true])
        .collect();
    if samples.is_empty() {
        return Ok(None);
    }
    let rows = |t: &Tokens| -> Result<Tensor> {
        let ids = samples
            .iter()
            .map(|s| position(t, *s))
            .collect::<Result<Vec<u32>>>()?;
        Ok(Tensor::new(ids, t.cls.device())?)
    };
    let (a, b) = (rows(first)?, rows(second)?);
    let pairs = [
        [
            first.mask.index_select(&a, 0)?,
            second.cls.index_select(&b, 0)?,
        ],
        [
            second.mask.index_select(&b, 0)?,
            first.cls.index_select(&a, 0)?,
        ],
    ];
    Ok(Some((samples, pairs)))
}

fn alignment(
    present: &[[bool; 2]],
    tokens: &[Option<Tokens>; 2],
    stop_gradient: bool,
) -> Result<Option<Tensor>> {
    let Some((_, pairs)) = complete(present, tokens)? else {
        return Ok(None);
    };
    let target = |t: &Tensor| if stop_gradient { t.detach() } else { t.clone() };
    let [forth, back] = pairs.map(|[mask, cls]| loss::mse(&mask, &target(&cls)));
    Ok(Some((forth? + back?)?))
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
