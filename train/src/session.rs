//! The data of a run (shards, masks, and transforms that fit the encoders), and its model before
//! any training.

use crate::preprocessing::transforms;
use crate::settings::{ClipFeatures, RunConfig, Settings};
use anyhow::{Result, bail};
use datasets::{Modality, Split};
use engine::Compute;
use features::loader::BYTE_BUDGET;
use features::mask::{Mask, Protocol};
use features::{LoaderOptions, Shards, Share, Transforms};
use model::encoder::Encoder;
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::weights::{CONFIG_FILE, WeightSource, Weights};
use model::missing_inputs::Placeholders;
use model::u2a::U2a;
use model::variant::MissingToken;
use std::path::Path;
use std::sync::Arc;

/// Bytes of batches that are loaded ahead for a GPU: more than twenty batches of 128 clips. Batches
/// for a GPU are large, and each thread works on one of its own.
const GPU_BYTE_BUDGET: usize = 8 << 30;

/// Where a missing-modality mask comes from.
#[derive(Clone, Debug)]
pub struct MaskSource {
    /// The path or URL of a mask file, or the name of a protocol that the mask is drawn by.
    pub source: String,
    /// Missing rate of the protocol.
    pub rate: f64,
    /// Seed of the protocol's draw.
    pub seed: u64,
}

/// The data of a run.
pub struct Session {
    /// The shards.
    pub shards: Arc<Shards>,
    /// For each training sample, in the order of the shards, which modalities the model gets.
    /// `None` if these are all that the sample has.
    pub(crate) train_mask: Option<Arc<Vec<[bool; 2]>>>,
    /// SHA-256 of the training split's missing-modality mask.
    pub(crate) train_mask_sha256: Option<String>,
    /// The mask of the validation split: that of the training split, if it has one that covers
    /// both.
    pub(crate) val_mask: Option<MaskSource>,
    /// Threads that load batches.
    threads: usize,
    /// Bytes of batches that are loaded ahead.
    byte_budget: usize,
    transforms: Transforms,
}

impl Session {
    /// The data of a run with these settings, encoders and weights.
    ///
    /// # Errors
    /// The mask cannot be used, the vocabulary cannot be read, or an encoder does not fit the data.
    pub fn new(
        shards: Shards,
        settings: &Settings,
        encoders: &[EncoderConfig; 2],
        weights: &WeightSource,
        compute: &Compute,
    ) -> Result<Session> {
        let shards = Arc::new(shards);
        let transforms = transforms(settings, encoders, weights)?;
        let mut session = Session {
            shards,
            train_mask: None,
            train_mask_sha256: None,
            val_mask: None,
            threads: compute.threads,
            byte_budget: match compute.device.is_cpu() {
                true => BYTE_BUDGET,
                false => GPU_BYTE_BUDGET,
            },
            transforms,
        };
        if let Some(mask) = &settings.train_mask {
            let drawn = session.mask(mask, settings.train_mask_rate, settings.seed)?;
            let present = drawn.present(&session.shards, Split::Train)?;
            session.train_mask_sha256 = Some(mask_hash(&present));
            session.train_mask = Some(Arc::new(present));
            // A mask file may be of the training split alone.
            if drawn.present(&session.shards, Split::Val).is_ok() {
                session.val_mask = Some(MaskSource {
                    source: mask.clone(),
                    rate: settings.train_mask_rate,
                    seed: settings.seed,
                });
            }
        }
        if let Some(present) = session.restrict_to(settings.modality, Split::Train) {
            let mask = session.train_mask.as_deref();
            let joined = present.iter().enumerate().map(|(i, present)| {
                let unmasked = mask.map_or([true, true], |mask| mask[i]);
                [0, 1].map(|m| present[m] && unmasked[m])
            });
            session.train_mask = Some(Arc::new(joined.collect()));
        }
        Ok(session)
    }

    /// The data of a run with this configuration.
    ///
    /// # Errors
    /// The same as of [`Session::new`].
    pub fn from_config(shards: Shards, config: &RunConfig, compute: &Compute) -> Result<Session> {
        Session::new(
            shards,
            &config.settings,
            &config.encoders,
            &config.weights,
            compute,
        )
    }

    /// Which modalities the model gets of each training sample.
    pub(crate) fn train_present(&self) -> &[[bool; 2]] {
        match &self.train_mask {
            Some(mask) => mask,
            None => &self.shards.split(Split::Train).present,
        }
    }

    /// Which modalities the model gets of each validation sample while it trains.
    pub(crate) fn val_present(&self) -> Result<Vec<[bool; 2]>> {
        match &self.val_mask {
            Some(mask) => Ok(self
                .mask(&mask.source, mask.rate, mask.seed)?
                .present(&self.shards, Split::Val)?),
            None => Ok(self.shards.split(Split::Val).present.clone()),
        }
    }

    /// Which modalities the samples of a split have if only one modality is used.
    fn restrict_to(&self, modality: Option<Modality>, split: Split) -> Option<Vec<[bool; 2]>> {
        let modality = modality?;
        let used = self.shards.spec().modalities.map(|m| m == modality);
        let restrict = |present: &[bool; 2]| [0, 1].map(|m| present[m] && used[m]);
        let present = &self.shards.split(split).present;
        Some(present.iter().map(restrict).collect())
    }

    /// Empty inputs for missing modalities, if their class tokens stand for the missing ones.
    pub(crate) fn placeholders(&self, missing: MissingToken) -> Result<Option<Placeholders>> {
        if missing != MissingToken::Input {
            return Ok(None);
        }
        let modalities = self.shards.spec().modalities;
        Ok(Some(Placeholders::new(modalities, &self.transforms)?))
    }

    /// Reads a mask file, or draws a mask by a protocol.
    ///
    /// # Errors
    /// `source` is neither the path of a mask file nor the name of a protocol that fits the data.
    pub(crate) fn mask(&self, source: &str, rate: f64, seed: u64) -> Result<Mask> {
        let path = Path::new(source);
        if path.is_file() {
            return Ok(Mask::read(path)?);
        }
        if let Some((folder, name)) = source.rsplit_once('/').filter(|_| source.contains("://")) {
            return Ok(Mask::read_in(&folder.parse()?, name)?);
        }
        let Ok(protocol) = source.parse::<Protocol>() else {
            bail!(
                "{source}: is neither a mask file nor a protocol (missing-audio, missing-video, missing-image, missing-text, missing-both)"
            );
        };
        Ok(Mask::draw(&self.shards, protocol, rate, seed)?)
    }

    /// The options of the training split's loader.
    pub(crate) fn train_loader(&self, settings: &Settings) -> LoaderOptions {
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
            share: Share::default(),
        }
    }

    /// The options of a loader of a split in the order of the shards, without augmentation.
    /// `present` says which modalities of each sample the model gets, if these are not all.
    pub(crate) fn eval_loader(
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
            share: Share::default(),
        }
    }
}

/// The SHA-256 of a mask, in hexadecimal.
fn mask_hash(present: &[[bool; 2]]) -> String {
    let bytes: Vec<u8> = present.iter().flatten().map(|b| u8::from(*b)).collect();
    util::hash::sha256(bytes)
}

/// The configurations of the encoders for a pair of modalities. With `tiny`, encoders without
/// pretrained weights are small.
///
/// # Errors
/// A `config.json` cannot be read.
pub(crate) fn encoder_configs(
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

/// The model of a run before any training: the encoders' weights, and learnable parameters that are
/// initialised with the seed.
///
/// # Errors
/// The weights cannot be read, or do not fit the device.
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
