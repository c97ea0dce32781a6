//! Models and batches on which a GPU is compared with the CPU: by the tests, which run a GPU's
//! kernels on the host, and by `train selftest`, which runs them on the GPU at hand.

use crate::encoder::config::{EncoderConfig, Kind};
use crate::encoder::{Encoder, StoredActivations};
use crate::peft::LoraConfig;
use crate::u2a::micro_batch::Share;
use crate::u2a::{LossConfig, MissingToken, StepMode, U2a};
use crate::weights::Weights;
use candle_core::{Device, Result};
use datasets::Modality;
use engine::Arithmetic;
use engine::parity::noise;
use features::{Batch, ModalityBatch, ModalityData};

/// Two encoders that are trained together.
pub type Pair = [(Modality, Kind); 2];
/// Of the datasets of clips.
pub const AUDIO_VIDEO: Pair = [(Modality::Audio, Kind::Ast), (Modality::Video, Kind::Clip)];
/// Of the datasets of pictures and text.
pub const IMAGE_TEXT: Pair = [(Modality::Image, Kind::Clip), (Modality::Text, Kind::Bert)];
/// Classes of the made-up task.
pub const CLASSES: usize = 28;
/// Word pieces of the made-up texts.
const TEXT_LENGTH: usize = 40;
/// Frames of the made-up clips.
const FRAMES: usize = 3;

/// The paper's encoders, or the small ones.
pub fn configs(pair: Pair, tiny: bool) -> [EncoderConfig; 2] {
    pair.map(|(_, kind)| match tiny {
        true => EncoderConfig::tiny(kind),
        false => EncoderConfig::base(kind),
    })
}

/// A model with random weights on a device, its adapters away from B = 0.
pub fn model(
    pair: Pair,
    configs: &[EncoderConfig; 2],
    device: &Device,
    arithmetic: impl Into<Arithmetic>,
) -> anyhow::Result<U2a> {
    let arithmetic = arithmetic.into();
    let encoder = |i: usize| -> anyhow::Result<Encoder> {
        let weights = Weights::random(3, &configs[i])?.to_device(device)?;
        Encoder::new(configs[i].clone(), weights, arithmetic)
    };
    let modalities = pair.map(|(modality, _)| modality);
    let encoders = [encoder(0)?, encoder(1)?];
    let mut model = U2a::new(modalities, encoders, CLASSES, LoraConfig::default(), 5)?;
    let values = model.parameters().into_iter().enumerate().map(|(i, p)| {
        let shape = (p.tensor.dim(0)?, p.tensor.elem_count() / p.tensor.dim(0)?);
        let moved = (noise(100 + i as u32, shape)? * 0.05)?;
        p.tensor + moved.reshape(p.tensor.dims())?
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    model.set_parameters(values)?;
    model.on(device)
}

/// A made-up batch. With `mixed`, every third sample has the first modality alone and every third the
/// second.
pub fn batch(pair: Pair, configs: &[EncoderConfig; 2], n: usize, mixed: bool) -> Result<Batch> {
    use crate::encoder::config::InputSize;
    let present: Vec<[bool; 2]> = (0..n)
        .map(|i| match i % 3 {
            1 if mixed => [true, false],
            2 if mixed => [false, true],
            _ => [true, true],
        })
        .collect();
    let input = |m: usize| -> Result<Option<ModalityBatch>> {
        let rows: Vec<usize> = (0..n).filter(|i| present[*i][m]).collect();
        let numbers = |each: usize| -> Result<Vec<f32>> {
            noise(40 + m as u32, (rows.len(), each))?
                .flatten_all()?
                .to_vec1()
        };
        let data = match configs[m].input {
            InputSize::Mel { frames, bins, .. } => ModalityData::Mel {
                values: numbers(frames * bins)?,
                frames,
                bins,
            },
            InputSize::Image { size, .. } => {
                let images_per_sample = match pair[m].0 {
                    Modality::Video => FRAMES,
                    _ => 1,
                };
                ModalityData::Pixels {
                    values: numbers(images_per_sample * 3 * size * size)?,
                    images_per_sample,
                    size,
                }
            }
            InputSize::Text { .. } => ModalityData::Tokens {
                ids: (0..rows.len() * TEXT_LENGTH)
                    .map(|i| 1000 + 7 * i as u32 % 29_000)
                    .collect(),
                // Of different lengths where samples differ anyway.
                lengths: rows
                    .iter()
                    .map(|i| {
                        if mixed {
                            TEXT_LENGTH - i % 7
                        } else {
                            TEXT_LENGTH
                        }
                    })
                    .collect(),
                max_len: TEXT_LENGTH,
            },
        };
        Ok((!rows.is_empty()).then_some(ModalityBatch { rows, data }))
    };
    let inputs = [input(0)?, input(1)?];
    Ok(Batch {
        ids: (0..n).map(|i| i.to_string()).collect(),
        labels: (0..n).map(|i| vec![(i % CLASSES) as u32]).collect(),
        present,
        inputs,
        consumed: n as u64,
    })
}

/// The paper's losses.
pub const LOSS: LossConfig = LossConfig {
    align_weight: 0.2,
    align_stop_gradient: false,
    multi_label: false,
    missing_token: MissingToken::Mask,
};

/// All randomness on.
pub fn mode(step: u32, stored: StoredActivations) -> StepMode {
    StepMode {
        seed: 11,
        step,
        encoder_dropout: true,
        stored,
        share: Share::WHOLE,
    }
}
