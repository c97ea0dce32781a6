//! How inputs become what an encoder was trained on, by the files beside its weights:
//! `preprocessor_config.json` of CLIP and AST, and `tokenizer_config.json`, `tokenizer.json` and
//! `vocab.txt` of BERT.
//!
//! A value that this program can follow is used. One that it cannot follow is an error that names
//! it, because the encoder would get other inputs than it was trained on without a sign. What the
//! files leave out is as in the checkpoints of the paper.

mod side_file;
mod tokenizer;
mod views;

use crate::settings::{Settings, is_used};
use anyhow::{Context, Result, bail};
use datasets::Modalities;
use features::mel::MEL_BINS;
use features::{ImageTransform, MelTransform, TextTransform, Transforms};
use model::encoder::config::{EncoderConfig, InputSize};
use model::encoder::weights::WeightSource;
use model::pretrained::HASHED_FILE;

/// Mel frames and pixels of a modality that the run does not have.
const UNUSED: usize = 1;

/// The transforms that make inputs as the encoders read them. The checkpoint of a modality that is
/// not used is not looked at.
///
/// # Errors
/// A side file cannot be read, or asks for something that this program does not do.
pub(crate) fn transforms(
    settings: &Settings,
    modalities: Modalities,
    encoders: &[EncoderConfig],
    weights: &WeightSource,
) -> Result<Transforms> {
    let mut image = ImageTransform::clip(UNUSED);
    let mut mel = MelTransform::ast(UNUSED);
    let mut text = None;
    let used = modalities
        .names()
        .map(|input| is_used(input, settings.modality));
    let mut pairs: Vec<_> = encoders.iter().zip(used).collect();
    // Where both modalities have one kind of encoder, the one that is used has the last word.
    pairs.sort_by_key(|(_, used)| *used);
    for (config, used) in pairs {
        let folder = match used {
            true => weights.folder(config.kind)?,
            false => None,
        };
        match config.input {
            InputSize::Image { size, .. } => {
                image = ImageTransform::clip(size);
                if let Some(file) = views::preprocessor(folder.as_deref())? {
                    image = file.image(size).with_context(|| file.name())?;
                }
            }
            InputSize::Mel { frames, bins, .. } => {
                if bins != MEL_BINS {
                    bail!(
                        "the audio encoder reads {bins} mel bins, the shards hold {MEL_BINS}; take an encoder for {MEL_BINS}"
                    );
                }
                mel = MelTransform::ast(frames);
                if let Some(file) = views::preprocessor(folder.as_deref())? {
                    mel = file.mel(frames).with_context(|| file.name())?;
                }
            }
            InputSize::Text {
                vocab, positions, ..
            } => {
                if settings.text_length > positions {
                    bail!(
                        "text_length {} exceeds the text encoder's {positions} positions",
                        settings.text_length
                    );
                }
                let hashed = || TextTransform::hashed(vocab, settings.text_length);
                text = Some(match folder {
                    Some(folder) if folder.join(HASHED_FILE).is_file() => hashed()?,
                    Some(folder) => tokenizer::tokenizer(&folder, vocab, settings.text_length)?,
                    None => hashed()?,
                });
            }
        }
    }
    Ok(Transforms {
        frames: settings.frames,
        image,
        mel,
        text,
    })
}

#[cfg(test)]
mod tests;
