//! The data of a run (shards, masks, and transforms that fit the encoders), and its model before
//! any training.

use crate::preprocessing::transforms;
use crate::settings::{ClipFeatures, RunConfig, Settings, is_used};
use anyhow::{Result, bail};
use datasets::{InputName, Modalities, Split};
use engine::Compute;
use features::loader::BYTE_BUDGET;
use features::mask::{Mask, Protocol};
use features::{LoaderOptions, Shards, Transforms};
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
        encoders: &[EncoderConfig],
        weights: &WeightSource,
        compute: &Compute,
    ) -> Result<Session> {
        let shards = Arc::new(shards);
        let modalities = shards.spec().modalities;
        let transforms = transforms(settings, modalities, encoders, weights)?;
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
    fn restrict_to(&self, modality: Option<InputName>, split: Split) -> Option<Vec<[bool; 2]>> {
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
            ..LoaderOptions::default()
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
            ..LoaderOptions::default()
        }
    }
}

/// The SHA-256 of a mask, in hexadecimal.
fn mask_hash(present: &[[bool; 2]]) -> String {
    let bytes: Vec<u8> = present.iter().flatten().map(|b| u8::from(*b)).collect();
    util::hash::sha256(bytes)
}

/// Finds the checkpoints of the encoders that are used: of all modalities, or of `only` one.
///
/// # Errors
/// A folder holds several checkpoints of one kind.
pub(crate) fn resolve_weights(
    modalities: Modalities,
    only: Option<InputName>,
    weights: &WeightSource,
) -> Result<WeightSource> {
    let used = modalities.names().filter(|input| is_used(*input, only));
    let mut kinds: Vec<Kind> = used.map(|input| Kind::of(input.modality)).collect();
    kinds.dedup();
    weights.resolved(&kinds)
}

/// The configurations of the encoders for the modalities of a dataset. With `tiny`, encoders without
/// pretrained weights are small. If `only` one modality is used, the checkpoint of the other is not
/// looked at: a small encoder, which never runs, takes its place.
///
/// # Errors
/// A `config.json` cannot be read, or two encoders that are used differ in width.
pub(crate) fn encoder_configs(
    modalities: Modalities,
    only: Option<InputName>,
    weights: &WeightSource,
    tiny: bool,
) -> Result<Vec<EncoderConfig>> {
    let weights = resolve_weights(modalities, only, weights)?;
    let config = |input: InputName| {
        let kind = Kind::of(input.modality);
        if !is_used(input, only) {
            return Ok(EncoderConfig::tiny(kind));
        }
        match weights.folder(kind)? {
            Some(folder) => EncoderConfig::read(&folder.join(CONFIG_FILE), kind),
            None if tiny => Ok(EncoderConfig::tiny(kind)),
            None => Ok(EncoderConfig::base(kind)),
        }
    };
    let configs: Vec<EncoderConfig> = modalities.names().map(config).collect::<Result<_>>()?;
    if only.is_none()
        && let ([m1, m2], Some(inputs)) = (&configs[..], modalities.pair())
    {
        check_widths(inputs, [m1, m2], &weights)?;
    }
    Ok(configs)
}

/// The same for those who read no weights: the sizes of the paper's checkpoints are known, so that
/// nothing is fetched from the hub.
///
/// # Errors
/// Those of [`encoder_configs`].
pub(crate) fn encoder_sizes(
    modalities: Modalities,
    only: Option<InputName>,
    weights: &WeightSource,
    tiny: bool,
) -> Result<Vec<EncoderConfig>> {
    match weights {
        WeightSource::Hub => encoder_configs(modalities, only, &WeightSource::Random(0), tiny),
        other => encoder_configs(modalities, only, other, tiny),
    }
}

/// Refuses two encoders of different widths.
fn check_widths(
    [m1, m2]: [InputName; 2],
    [first, second]: [&EncoderConfig; 2],
    weights: &WeightSource,
) -> Result<()> {
    if first.hidden == second.hidden {
        return Ok(());
    }
    let describe = |config: &EncoderConfig| -> Result<String> {
        let from = match weights.folder(config.kind)? {
            Some(folder) => folder.display().to_string(),
            None => "random weights".to_string(),
        };
        let (name, width) = (config.kind.name(), config.hidden);
        Ok(format!("{name} of width {width} ({from})"))
    };
    bail!(
        "the encoders differ in width: {} for {m1}, {} for {m2}; a token of one stands for a missing one of the other, so take two of one width (768: CLIP ViT-B, BERT base, AST; 1024: CLIP ViT-L, BERT large), or one modality alone: --modality {m1} or --modality {m2}",
        describe(first)?,
        describe(second)?,
    )
}

/// The weights of an encoder before any training.
fn read_weights(encoder: &EncoderConfig, source: &WeightSource) -> Result<Weights> {
    match (source.folder(encoder.kind)?, source) {
        (Some(folder), _) => Weights::load(&folder, encoder),
        (None, WeightSource::Random(seed)) => Weights::random(*seed, encoder),
        (None, _) => bail!("no weights"),
    }
}

/// The model of a run before any training: the encoders' weights, and learnable parameters that are
/// initialised with the seed.
///
/// # Errors
/// The weights cannot be read, or do not fit the device.
pub fn build_model(config: &RunConfig, compute: &Compute) -> Result<U2a> {
    let arithmetic = compute.arithmetic(config.settings.precision);
    let encoder = |(input, encoder): (InputName, &EncoderConfig)| -> Result<(Encoder, Weights)> {
        let weights = if is_used(input, config.settings.modality) {
            read_weights(encoder, &config.weights)?
        } else {
            Weights::random(0, encoder)?
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
    let built = config.modalities.names().zip(&config.encoders).map(encoder);
    let built: Vec<(Encoder, Weights)> = built.collect::<Result<_>>()?;
    let (encoders, weights): (Vec<_>, Vec<_>) = built.into_iter().unzip();
    let settings = &config.settings;
    U2a::builder(config.modalities, encoders, config.classes.len())
        .lora(settings.lora())
        .variant(settings.variant())
        .weights(weights)
        .seed(settings.seed)
        .device(&compute.device)
        .build()
}
