//! What a run reads: opened shards, the transforms that fit the encoders, masks; and the model
//! built from a run's configuration.

use crate::settings::{ClipFeatures, RunConfig, Settings};
use anyhow::{Result, bail};
use datasets::{Modality, Split};
use engine::Compute;
use features::Shards;
use features::image::ImageTransform;
use features::loader::{BYTE_BUDGET, LoaderOptions, MelTransform, Transforms};
use features::mask::{Mask, Protocol};
use features::text::TextTransform;
use model::encoder::Encoder;
use model::encoder::config::{EncoderConfig, InputSize, Kind};
use model::encoder::weights::{CONFIG_FILE, VOCAB_FILE, WeightSource, Weights};
use model::missing_inputs::Placeholders;
use model::pretrained::HASHED_FILE;
use model::u2a::U2a;
use model::variant::MissingToken;
use std::path::Path;
use std::sync::Arc;

/// Twenty-odd batches of 128 clips.
const GPU_BYTE_BUDGET: usize = 8 << 30;

/// Bytes of batches that may be decoded ahead: a GPU's batches are large, and each thread needs one in
/// its hands.
pub fn byte_budget(compute: &Compute) -> usize {
    match compute.device.is_cpu() {
        true => BYTE_BUDGET,
        false => GPU_BYTE_BUDGET,
    }
}

/// Mel frames and pixels where no encoder of the pair asks for them.
const UNUSED: usize = 1;

/// The data side of a run.
pub struct Session {
    /// Opened shards.
    pub shards: Arc<Shards>,
    /// What each training sample shows, in file order, where that is less than it has.
    pub train_mask: Option<Arc<Vec<[bool; 2]>>>,
    /// SHA-256 over that mask.
    pub train_mask_sha256: Option<String>,
    /// Decoding threads.
    pub threads: usize,
    /// Bytes of batches that may be decoded ahead.
    pub byte_budget: usize,
    transforms: Transforms,
}

impl Session {
    /// Opens what the configuration names. `settings` and `encoders` are those of the run.
    pub fn open(
        shards: Shards,
        settings: &Settings,
        encoders: &[EncoderConfig; 2],
        weights: &WeightSource,
        threads: usize,
    ) -> Result<Session> {
        let shards = Arc::new(shards);
        let transforms = transforms(settings, encoders, weights)?;
        let mut session = Session {
            shards,
            train_mask: None,
            train_mask_sha256: None,
            threads,
            byte_budget: BYTE_BUDGET,
            transforms,
        };
        if let Some(mask) = &settings.train_mask {
            let mask = session.mask(mask, settings.train_mask_rate, settings.seed)?;
            let present = mask.present(&session.shards, Split::Train)?;
            session.train_mask_sha256 = Some(hash(&present));
            session.train_mask = Some(Arc::new(present));
        }
        if let Some(present) = session.only(settings.modality, Split::Train) {
            let mask = session.train_mask.as_deref();
            let joined = present.iter().enumerate().map(|(i, shown)| {
                let masked = mask.map_or([true, true], |mask| mask[i]);
                [0, 1].map(|m| shown[m] && masked[m])
            });
            session.train_mask = Some(Arc::new(joined.collect()));
        }
        Ok(session)
    }

    /// The data side of a run with these shards.
    pub fn of(shards: Shards, config: &RunConfig, threads: usize) -> Result<Session> {
        Session::open(
            shards,
            &config.settings,
            &config.encoders,
            &config.weights,
            threads,
        )
    }

    /// What the samples of a split show where one modality alone is used.
    fn only(&self, modality: Option<Modality>, split: Split) -> Option<Vec<[bool; 2]>> {
        let modality = modality?;
        let used = self.shards.spec().modalities.map(|m| m == modality);
        let shown = |has: &[bool; 2]| [0, 1].map(|m| has[m] && used[m]);
        Some(self.shards.split(split).present.iter().map(shown).collect())
    }

    /// Empty inputs, where the missing token is made from them.
    pub fn placeholders(&self, missing: MissingToken) -> Result<Option<Placeholders>> {
        if missing != MissingToken::Input {
            return Ok(None);
        }
        let modalities = self.shards.spec().modalities;
        Ok(Some(Placeholders::new(modalities, &self.transforms)?))
    }

    /// A mask file, or a protocol drawn on the spot.
    pub fn mask(&self, what: &str, rate: f64, seed: u64) -> Result<Mask> {
        let path = Path::new(what);
        if path.is_file() {
            return Ok(Mask::read(path)?);
        }
        let Ok(protocol) = what.parse::<Protocol>() else {
            bail!(
                "{what}: is neither a mask file nor a protocol (missing-audio, missing-video, missing-image, missing-text, missing-both)"
            );
        };
        Ok(Mask::draw(&self.shards, protocol, rate, seed)?)
    }

    /// The training split as the settings ask for it.
    pub fn train_stream(&self, settings: &Settings) -> LoaderOptions {
        LoaderOptions {
            split: Split::Train,
            shuffle: settings.shuffle,
            augment: settings.augment,
            seed: settings.seed,
            batch_size: settings.batch_size,
            threads: self.threads,
            byte_budget: self.byte_budget,
            transforms: self.transforms.clone(),
            present: self.train_mask.clone(),
        }
    }

    /// A split in file order without augmentation.
    pub fn test_stream(
        &self,
        split: Split,
        batch_size: usize,
        present: Option<Vec<[bool; 2]>>,
    ) -> LoaderOptions {
        LoaderOptions {
            split,
            shuffle: false,
            augment: false,
            seed: 0,
            batch_size,
            threads: self.threads,
            byte_budget: self.byte_budget,
            transforms: self.transforms.clone(),
            present: present.map(Arc::new),
        }
    }
}

/// SHA-256 over a mask, in hex.
pub fn hash(present: &[[bool; 2]]) -> String {
    let bytes: Vec<u8> = present.iter().flatten().map(|b| u8::from(*b)).collect();
    util::hash::sha256(bytes)
}

fn transforms(
    settings: &Settings,
    encoders: &[EncoderConfig; 2],
    weights: &WeightSource,
) -> Result<Transforms> {
    let (mut image, mut mel, mut text) = (UNUSED, UNUSED, None);
    for config in encoders {
        match config.input {
            InputSize::Image { size, .. } => image = size,
            InputSize::Mel { frames, bins, .. } => {
                if bins != features::mel::MEL_BINS {
                    bail!(
                        "the audio encoder reads {bins} mel bins, the shards hold {}; take an encoder for {0}",
                        features::mel::MEL_BINS
                    );
                }
                mel = frames;
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
                text = Some(match weights.folder(Kind::Bert)? {
                    Some(folder) if folder.join(HASHED_FILE).is_file() => {
                        TextTransform::hashed(vocab, settings.text_length)?
                    }
                    Some(folder) => {
                        TextTransform::from_vocab(&folder.join(VOCAB_FILE), settings.text_length)?
                    }
                    None => TextTransform::hashed(vocab, settings.text_length)?,
                });
            }
        }
    }
    Ok(Transforms {
        frames: settings.frames,
        image: ImageTransform::clip(image),
        mel: MelTransform::ast(mel),
        text,
    })
}

/// The encoders' configurations for a pair of modalities.
pub fn encoder_configs(
    modalities: [Modality; 2],
    weights: &WeightSource,
    tiny: bool,
) -> Result<[EncoderConfig; 2]> {
    let config = |m: Modality| {
        let kind = Kind::of(m);
        match weights.folder(kind)? {
            Some(folder) => EncoderConfig::read(&folder.join(CONFIG_FILE), kind),
            None if tiny => Ok(EncoderConfig::tiny(kind)),
            None => Ok(EncoderConfig::base(kind)),
        }
    };
    Ok([config(modalities[0])?, config(modalities[1])?])
}

/// The model of a run before any training: the encoders' weights, new learnable tensors from the
/// seed.
pub fn build_model(config: &RunConfig, compute: &Compute) -> Result<U2a> {
    let arithmetic = compute.arithmetic(config.settings.precision);
    let encoder = |i: usize| -> Result<(Encoder, Weights)> {
        let encoder = &config.encoders[i];
        let weights = match (config.weights.folder(encoder.kind)?, &config.weights) {
            (Some(folder), _) => Weights::load(&folder, encoder)?,
            (None, WeightSource::Random(seed)) => Weights::random(*seed, encoder)?,
            (None, _) => bail!("no weights"),
        };
        let weights = weights.to_device(&compute.device)?;
        let built = Encoder::new(encoder.clone(), weights.clone(), arithmetic)?;
        let bare =
            encoder.kind == Kind::Clip && config.settings.clip_features == ClipFeatures::LastHidden;
        let built = if bare {
            built.without_final_norm()
        } else {
            built
        };
        Ok((built, weights))
    };
    let ((first, first_weights), (second, second_weights)) = (encoder(0)?, encoder(1)?);
    let settings = &config.settings;
    U2a::builder(config.modalities, [first, second], config.classes.len())
        .lora(settings.lora())
        .variant(settings.variant())
        .weights([first_weights, second_weights])
        .seed(settings.seed)
        .device(&compute.device)
        .build()
}
