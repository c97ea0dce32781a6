//! Models and batches on which a GPU is compared with the CPU: by the tests, which run the kernels
//! of a GPU on the host, and by `train selftest`, which runs them on the GPU of the machine.

use crate::encoder::config::{EncoderConfig, Kind};
use crate::encoder::weights::Weights;
use crate::encoder::{Encoder, StoredActivations};
use crate::loss::{ALIGN_WEIGHT, LossConfig};
use crate::u2a::{MicroBatch, StepOptions, U2a};
use crate::variant::MissingToken;
use candle_core::{Device, Result};
use datasets::Modality;
use engine::Arithmetic;
use engine::parity::noise;
use features::{Batch, ModalityBatch, ModalityData};

/// Two encoders that are trained together.
pub type EncoderPair = [(Modality, Kind); 2];
/// The encoders of audio and video.
pub const AUDIO_VIDEO: EncoderPair = [(Modality::Audio, Kind::Ast), (Modality::Video, Kind::Clip)];
/// The encoders of images and text.
pub const IMAGE_TEXT: EncoderPair = [(Modality::Image, Kind::Clip), (Modality::Text, Kind::Bert)];
/// The number of classes.
pub const CLASSES: usize = 28;
/// The number of word pieces in the longest text.
const TEXT_LENGTH: usize = 40;
/// The number of frames of a video.
const FRAMES: usize = 3;

/// Returns the sizes of the paper's encoders, or of the tiny ones.
pub fn configs(pair: EncoderPair, tiny: bool) -> [EncoderConfig; 2] {
    pair.map(|(_, kind)| match tiny {
        true => EncoderConfig::tiny(kind),
        false => EncoderConfig::base(kind),
    })
}

/// Builds encoders with random weights on a device.
pub fn encoders(
    configs: &[EncoderConfig; 2],
    device: &Device,
    arithmetic: impl Into<Arithmetic>,
) -> anyhow::Result<[Encoder; 2]> {
    let arithmetic = arithmetic.into();
    let encoder = |i: usize| -> anyhow::Result<Encoder> {
        let weights = Weights::random(3, &configs[i])?.to_device(device)?;
        Encoder::new(configs[i].clone(), weights, arithmetic)
    };
    Ok([encoder(0)?, encoder(1)?])
}

/// Builds a model with random weights on a device. Its parameters are shifted from their initial
/// values, since B of a new adapter is zero.
pub fn model(
    pair: EncoderPair,
    configs: &[EncoderConfig; 2],
    device: &Device,
    arithmetic: impl Into<Arithmetic>,
) -> anyhow::Result<U2a> {
    let modalities = pair.map(|(modality, _)| modality);
    let mut model = U2a::builder(modalities, encoders(configs, device, arithmetic)?, CLASSES)
        .seed(5)
        .device(device)
        .build()?;
    let values = model.parameters().into_iter().enumerate().map(|(i, p)| {
        let shape = (p.tensor.dim(0)?, p.tensor.elem_count() / p.tensor.dim(0)?);
        let shift = (noise(100 + i as u32, shape)? * 0.05)?;
        p.tensor.to_device(&Device::Cpu)? + shift.reshape(p.tensor.dims())?
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    model.set_parameters(values)?;
    Ok(model)
}

/// Builds a batch of `n` samples. With `mixed`, every third sample has the first modality alone,
/// and every third the second alone.
pub fn batch(
    pair: EncoderPair,
    configs: &[EncoderConfig; 2],
    n: usize,
    mixed: bool,
) -> Result<Batch> {
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
            InputSize::Mel { frames, bins, .. } => ModalityData::Dense {
                values: numbers(frames * bins)?,
                shape: vec![frames, bins],
            },
            InputSize::Image { size, .. } => {
                let images_per_sample = match pair[m].0 {
                    Modality::Video => FRAMES,
                    _ => 1,
                };
                ModalityData::Dense {
                    values: numbers(images_per_sample * 3 * size * size)?,
                    shape: vec![images_per_sample, 3, size, size],
                }
            }
            InputSize::Text { .. } => ModalityData::Tokens {
                ids: (0..rows.len() * TEXT_LENGTH)
                    .map(|i| 1000 + 7 * i as u32 % 29_000)
                    .collect(),
                // Texts differ in length where samples differ in their modalities.
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

/// The paper's loss.
pub const LOSS: LossConfig = LossConfig {
    align_weight: ALIGN_WEIGHT,
    align_stop_gradient: false,
    multi_label: false,
    missing_token: MissingToken::Mask,
};

/// Returns the options of a training step with all dropout on.
pub fn step_options(step: u32, stored: StoredActivations) -> StepOptions {
    StepOptions {
        seed: 11,
        step,
        encoder_dropout: true,
        stored,
        micro_batch: MicroBatch::FULL_BATCH,
    }
}
