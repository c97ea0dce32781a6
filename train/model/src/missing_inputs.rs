//! The baseline that gives an encoder an empty input where a modality is missing, as the paper's
//! predecessors do: a black image, a spectrogram of padding, a text without words. The zeros are
//! those before normalization, so an empty input equals what preprocessing would make of one.

use anyhow::Result;
use datasets::{Modalities, Modality};
use features::{Batch, ModalityBatch, ModalityData, Transforms};
use std::ops::Range;

/// The placeholders for a missing modality (section 3, "Multimodal data embedding"): one empty
/// input of each modality.
pub struct Placeholders(Vec<ModalityData>);

impl Placeholders {
    /// Creates the empty inputs of the modalities, in the sizes of the loader's batches.
    pub fn new(modalities: impl Into<Modalities>, transforms: &Transforms) -> Result<Placeholders> {
        let empty = |modality: Modality| -> Result<ModalityData> {
            Ok(match modality {
                Modality::Audio => {
                    let (mel, bins) = (&transforms.mel, features::mel::MEL_BINS);
                    let silence = (0.0 - mel.mean) / (2.0 * mel.std);
                    ModalityData::Dense {
                        values: vec![silence; mel.frames * bins],
                        shape: vec![mel.frames, bins],
                    }
                }
                Modality::Video | Modality::Image => {
                    let image = &transforms.image;
                    let frames = match modality {
                        Modality::Video => transforms.frames,
                        _ => 1,
                    };
                    let black = image.mean.iter().zip(&image.std).flat_map(|(mean, std)| {
                        std::iter::repeat_n((0.0 - mean) / std, image.size * image.size)
                    });
                    let black: Vec<f32> = black.collect();
                    ModalityData::Dense {
                        values: black.repeat(frames),
                        shape: vec![frames, 3, image.size, image.size],
                    }
                }
                Modality::Text => {
                    let (ids, max_len) = match &transforms.text {
                        Some(text) => (text.encode("")?, text.max_len()),
                        None => anyhow::bail!("no tokenizer for an empty text"),
                    };
                    let length = ids.len();
                    let mut padded = ids;
                    padded.resize(max_len, 0);
                    ModalityData::Tokens {
                        ids: padded,
                        lengths: vec![length],
                        max_len,
                    }
                }
            })
        };
        let names = modalities.into().names();
        let inputs = names.map(|input| empty(input.modality));
        Ok(Placeholders(inputs.collect::<Result<_>>()?))
    }

    /// Gives the given samples of the batch an input of every modality, and leaves the inputs of
    /// other samples out; [`Batch::present`] stays as it is.
    pub fn fill(&self, batch: &mut Batch, samples: Range<usize>) {
        for (input, empty) in batch.inputs.iter_mut().zip(&self.0) {
            let present = input.take();
            let find = |sample: usize| {
                let present = present.as_ref()?;
                Some((&present.data, present.rows.binary_search(&sample).ok()?))
            };
            let row = |sample: usize| find(sample).unwrap_or((empty, 0));
            *input = Some(ModalityBatch {
                rows: samples.clone().collect(),
                data: gather(samples.clone().map(row), empty),
            });
        }
    }
}

/// Concatenates rows, each given by its data and its number there; all data have the kind and the
/// sizes of `like`.
fn gather<'a>(
    rows: impl Iterator<Item = (&'a ModalityData, usize)>,
    like: &ModalityData,
) -> ModalityData {
    match like {
        ModalityData::Dense { values: one, shape } => {
            let each = one.len();
            let row = |data: &'a ModalityData, at: usize| match data {
                ModalityData::Dense { values, .. } => &values[at * each..(at + 1) * each],
                ModalityData::Tokens { .. } => &[],
            };
            ModalityData::Dense {
                values: rows.flat_map(|(data, at)| row(data, at)).copied().collect(),
                shape: shape.clone(),
            }
        }
        ModalityData::Tokens { max_len, .. } => {
            let (mut all, mut all_lengths) = (Vec::new(), Vec::new());
            for (data, at) in rows {
                if let ModalityData::Tokens { ids, lengths, .. } = data {
                    all.extend_from_slice(&ids[at * max_len..(at + 1) * max_len]);
                    all_lengths.push(lengths[at]);
                }
            }
            ModalityData::Tokens {
                ids: all,
                lengths: all_lengths,
                max_len: *max_len,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use features::{ImageTransform, MelTransform};

    #[test]
    fn placeholders_fill_missing_inputs_only() {
        let transforms = Transforms {
            frames: 2,
            image: ImageTransform::clip(4),
            mel: MelTransform::ast(3),
            text: None,
        };
        let placeholders =
            Placeholders::new([Modality::Audio, Modality::Video], &transforms).unwrap();
        let mel = 3 * 128;
        let mut batch = Batch {
            ids: ["a", "b", "c"].map(String::from).to_vec(),
            labels: vec![vec![0]; 3],
            present: vec![[false, true], [true, false], [false, true]],
            inputs: [
                Some(ModalityBatch {
                    rows: vec![1],
                    data: ModalityData::Dense {
                        values: vec![7.0; mel],
                        shape: vec![3, 128],
                    },
                }),
                None,
            ],
            consumed: 3,
        };
        let mut two = batch.clone();
        placeholders.fill(&mut batch, 0..3);
        assert_eq!(batch.present[0], [false, true], "`present` stays as it is");
        let audio = batch.inputs[0].as_ref().unwrap();
        assert_eq!(audio.rows, [0, 1, 2]);
        let ModalityData::Dense { values, .. } = &audio.data else {
            panic!("a spectrogram")
        };
        assert_eq!(values.len(), 3 * mel);
        assert!(values[mel..2 * mel].iter().all(|v| *v == 7.0));
        // AST's padding: (0 + 4.2677393) / (2 * 4.5689974).
        assert!((values[0] - 0.467_03).abs() < 1e-4 && values[0] == values[2 * mel]);
        let Some(ModalityBatch {
            data: ModalityData::Dense { values, shape },
            ..
        }) = &batch.inputs[1]
        else {
            panic!("images")
        };
        assert_eq!((values.len(), shape[0]), (3 * 2 * 3 * 16, 2));
        // CLIP's black: -0.48145466 / 0.26862954 in the red plane.
        assert!((values[0] + 1.792_26).abs() < 1e-4, "{}", values[0]);
        placeholders.fill(&mut two, 1..3);
        let filled = |m: usize| two.inputs[m].as_ref().map(|input| &input.rows[..]);
        assert_eq!([filled(0), filled(1)], [Some(&[1, 2][..]); 2]);
    }
}
