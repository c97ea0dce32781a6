//! Streams a split as model-ready batches: decoded ahead on threads, handed out in order.
//!
//! The order is a function of (seed, epoch, ids); a batch is the next `batch_size` samples of it,
//! the last one smaller. A stream starts at any sample, so "samples consumed" is all that resuming
//! needs. Threads take whole batches by number and wait while the batches between them and the
//! reader would exceed the byte budget: memory is bounded by the budget plus one batch a thread.

use crate::batch::{Batch, ModalityBatch, ModalityData};
use crate::order::{epoch_order, rank};
use crate::shards::{Content, RowReader, Shards};
use arrow_buffer::Buffer;
use datasets::{Modality, Split};
use media::Error;
use media::image::{Augmentation, ImageTransform, View};
use media::mel::Mel;
use media::text::TextTransform;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use util::rng::Rng;

/// Decoded bytes that may wait for the reader, unless set otherwise.
pub const BYTE_BUDGET: usize = 256 << 20;
/// Frames that a video contributes.
pub const FRAMES: usize = 3;

/// How a log-mel spectrogram is padded and normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MelTransform {
    /// Frames after padding with 0 or cutting.
    pub frames: usize,
    /// Subtracted.
    pub mean: f32,
    /// Twice this is divided by.
    pub std: f32,
}

impl MelTransform {
    /// AST's normalisation (feature extractor of `MIT/ast-finetuned-audioset-10-10-0.4593`).
    pub fn ast(frames: usize) -> Self {
        MelTransform {
            frames,
            mean: -4.267_739_3,
            std: 4.568_997_4,
        }
    }

    /// Pads first, then normalises, so padding is not zero afterwards: AST's order.
    fn apply(&self, mel: &Mel, out: &mut Vec<f32>) {
        let kept = mel.values.len().min(self.frames * mel.bins);
        let scale = 2.0 * self.std;
        out.extend(mel.values[..kept].iter().map(|v| (v - self.mean) / scale));
        out.extend(std::iter::repeat_n(
            (0.0 - self.mean) / scale,
            self.frames * mel.bins - kept,
        ));
    }
}

/// From stored content to model input, for every modality that the dataset may have.
#[derive(Clone)]
pub struct Transforms {
    /// Frames per video.
    pub frames: usize,
    /// Pictures and frames.
    pub image: ImageTransform,
    /// Spectrograms.
    pub mel: MelTransform,
    /// Text; needed where the dataset has text.
    pub text: Option<TextTransform>,
}

/// What to stream and how.
#[derive(Clone)]
pub struct StreamConfig {
    /// Which split.
    pub split: Split,
    /// Order of the epoch, or file order.
    pub shuffle: bool,
    /// Random crops, flips and frames; without it every view is the test view.
    pub augment: bool,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Samples per batch.
    pub batch_size: usize,
    /// Decoding threads.
    pub threads: usize,
    /// See [`BYTE_BUDGET`].
    pub byte_budget: usize,
    /// From stored content to model input.
    pub transforms: Transforms,
    /// Which modalities each sample of the split shows, in file order: a protocol's mask on top of
    /// what is there. Absent: all that is there.
    pub present: Option<Arc<Vec<[bool; 2]>>>,
}

/// The test-time frames of a pool of `n`: the centres of `k` equal segments.
pub fn segment_centres(n: usize, k: usize) -> Vec<usize> {
    // floor((i + 1/2) n / k) in whole numbers.
    (0..k).map(|i| (2 * i + 1) * n / (2 * k)).collect()
}

/// Random distinct frames in time order; where the pool has fewer than `k`, the test-time ones.
fn random_frames(n: usize, k: usize, rng: &mut Rng) -> Vec<usize> {
    if n < k {
        return segment_centres(n, k);
    }
    let mut chosen: Vec<usize> = Vec::with_capacity(k);
    while chosen.len() < k {
        let i = rng.below(n as u32) as usize;
        if !chosen.contains(&i) {
            chosen.push(i);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// What the threads share.
struct Shared {
    shards: Arc<Shards>,
    config: StreamConfig,
    epoch: u64,
    /// The rest of the epoch.
    order: Vec<u32>,
    /// Samples consumed before `order` begins.
    start: u64,
    /// Batches that may be in flight.
    window: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next_to_make: usize,
    next_to_give: usize,
    made: BTreeMap<usize, Result<Batch, Error>>,
    /// Memory of batches that are done with.
    spare: Vec<Vec<f32>>,
    stop: bool,
}

/// An iterator over the batches of one epoch.
pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    batches: usize,
}

impl Stream {
    /// Begins epoch `epoch` after its first `start` samples.
    pub fn new(
        shards: &Arc<Shards>,
        config: StreamConfig,
        epoch: u64,
        start: u64,
    ) -> Result<Stream, Error> {
        let index = shards.split(config.split);
        if config.batch_size == 0 || config.threads == 0 {
            return Err(Error::Invalid(
                "a stream needs a batch size and at least one thread".into(),
            ));
        }
        if config
            .present
            .as_ref()
            .is_some_and(|p| p.len() != index.len())
        {
            return Err(Error::Invalid(
                "a mask of another length than the split".into(),
            ));
        }
        let mut order = if config.shuffle {
            epoch_order(config.seed, epoch, &index.ids)
        } else {
            (0..index.len() as u32).collect()
        };
        order.drain(..(start as usize).min(order.len()));
        let batches = order.len().div_ceil(config.batch_size);
        let window = (config.byte_budget / batch_bytes(shards, &config).max(1)).max(1);
        let threads = config.threads.min(batches).min(window);
        let shared = Arc::new(Shared {
            shards: shards.clone(),
            config,
            epoch,
            order,
            start,
            window,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let threads = (0..threads)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.work())
            })
            .collect();
        Ok(Stream {
            shared,
            threads,
            batches,
        })
    }

    /// Batches that this stream gives in all.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Takes the inputs of a batch that is done with, for batches to come. Memory that the system gives anew is slow to
    /// write to; a loop over the stream that drops its batches works as well, only not as fast.
    pub fn reuse(&self, inputs: [Option<ModalityBatch>; 2]) {
        let values = inputs.into_iter().flatten().filter_map(|i| match i.data {
            ModalityData::Mel { values, .. } | ModalityData::Pixels { values, .. } => Some(values),
            ModalityData::Tokens { .. } => None,
        });
        let spare = &mut self.shared.lock().spare;
        spare.extend(values);
        // A consumer may hold several, and return them at once.
        spare.truncate(2 * self.shared.window);
    }

    /// Batches that are decoded or being decoded and not yet given: what the byte budget bounds.
    pub fn ahead(&self) -> usize {
        let state = self.shared.lock();
        state.next_to_make - state.next_to_give
    }
}

/// Size of a full batch's values.
fn batch_bytes(shards: &Shards, config: &StreamConfig) -> usize {
    let t = &config.transforms;
    let sample = |modality: &Modality| match modality {
        Modality::Text => t.text.as_ref().map_or(0, |t| t.max_len() * 4),
        other => sample_values(*other, t) * 4,
    };
    config.batch_size * shards.spec().modalities.iter().map(sample).sum::<usize>()
}

/// Numbers that a sample's sound or pictures become; none of text.
fn sample_values(modality: Modality, t: &Transforms) -> usize {
    let picture = 3 * t.image.size * t.image.size;
    match modality {
        Modality::Audio => t.mel.frames * media::mel::MEL_BINS,
        Modality::Video => t.frames * picture,
        Modality::Image => picture,
        Modality::Text => 0,
    }
}

impl Iterator for Stream {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        if state.stop || state.next_to_give >= self.batches {
            return None;
        }
        loop {
            let number = state.next_to_give;
            if let Some(batch) = state.made.remove(&number) {
                state.next_to_give += 1;
                // Nothing after an error would be what the caller expects.
                state.stop = batch.is_err();
                drop(state);
                self.shared.changed.notify_all();
                return Some(batch);
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic inside was turned into an error that the reader got.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between statements, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut reader = RowReader::new(&self.shards);
        loop {
            let number = {
                let mut state = self.lock();
                loop {
                    if state.stop || state.next_to_make * self.config.batch_size >= self.order.len()
                    {
                        return;
                    }
                    if state.next_to_make < state.next_to_give + self.window {
                        break;
                    }
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                state.next_to_make += 1;
                state.next_to_make - 1
            };
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.make(&mut reader, number)
            }));
            let made = made.unwrap_or_else(|_| {
                Err(Error::Invalid(format!(
                    "decoding batch {number} panicked: a bug, please report it"
                )))
            });
            self.lock().made.insert(number, made);
            self.changed.notify_all();
        }
    }

    fn make(&self, reader: &mut RowReader, number: usize) -> Result<Batch, Error> {
        let config = &self.config;
        let from = number * config.batch_size;
        let samples = &self.order[from..(from + config.batch_size).min(self.order.len())];
        let index = self.shards.split(config.split);
        let shown = config.present.as_deref().unwrap_or(&index.present);
        let present: Vec<[bool; 2]> = samples
            .iter()
            .map(|s| {
                let (there, shown) = (index.present[*s as usize], shown[*s as usize]);
                [there[0] && shown[0], there[1] && shown[1]]
            })
            .collect();
        let fetched = reader.fetch(config.split, samples, &present)?;
        let mut inputs = [None, None];
        for (m, input) in inputs.iter_mut().enumerate() {
            let rows: Vec<usize> = (0..samples.len()).filter(|i| present[*i][m]).collect();
            if rows.is_empty() {
                continue;
            }
            let values = sample_values(self.shards.spec().modalities[m], &config.transforms);
            let contents = rows.iter().map(|row| {
                (
                    index.ids[samples[*row] as usize].as_str(),
                    fetched[*row].contents[m].as_ref(),
                )
            });
            *input = Some(ModalityBatch {
                data: self.transform(contents, rows.len() * values)?,
                rows,
            });
        }
        Ok(Batch {
            ids: samples
                .iter()
                .map(|s| index.ids[*s as usize].clone())
                .collect(),
            labels: samples
                .iter()
                .map(|s| index.labels[*s as usize].clone())
                .collect(),
            present,
            inputs,
            consumed: self.start + (from + samples.len()) as u64,
        })
    }

    /// Empty, with room for so many values: the smallest that is to spare, or new.
    fn room(&self, count: usize) -> Vec<f32> {
        let spare = &mut self.lock().spare;
        let fits = (0..spare.len()).filter(|i| spare[*i].capacity() >= count);
        match fits.min_by_key(|i| spare[*i].capacity()) {
            Some(i) => {
                let mut room = spare.swap_remove(i);
                room.clear();
                room
            }
            None => Vec::with_capacity(count),
        }
    }

    /// One modality's contents side by side; so many values in all.
    fn transform<'a>(
        &self,
        contents: impl Iterator<Item = (&'a str, Option<&'a Content>)>,
        count: usize,
    ) -> Result<ModalityData, Error> {
        let t = &self.config.transforms;
        let mut values = self.room(count);
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        let mut shape = None;
        for (id, content) in contents {
            match content {
                Some(Content::Mel(mel)) => {
                    t.mel.apply(mel, &mut values);
                    shape = Some(ModalityData::Mel {
                        values: Vec::new(),
                        frames: t.mel.frames,
                        bins: mel.bins,
                    });
                }
                Some(Content::Pictures(pictures)) => {
                    let per = self
                        .pictures(id, pictures, &mut values)
                        .map_err(|e| e.at_sample(id))?;
                    shape = Some(ModalityData::Pixels {
                        values: Vec::new(),
                        images_per_sample: per,
                        size: t.image.size,
                    });
                }
                Some(Content::Text(text)) => {
                    let Some(text_transform) = &t.text else {
                        return Err(Error::Invalid(
                            "a text dataset streamed without a tokenizer".into(),
                        ));
                    };
                    let mut encoded = text_transform.encode(text).map_err(|e| e.at_sample(id))?;
                    lengths.push(encoded.len());
                    encoded.resize(text_transform.max_len(), 0);
                    ids.extend(encoded);
                    shape = Some(ModalityData::Tokens {
                        ids: Vec::new(),
                        lengths: Vec::new(),
                        max_len: text_transform.max_len(),
                    });
                }
                None => return Err(Error::Invalid(format!("sample '{id}' was not fetched"))),
            }
        }
        match shape {
            Some(ModalityData::Mel { frames, bins, .. }) => Ok(ModalityData::Mel {
                values,
                frames,
                bins,
            }),
            Some(ModalityData::Pixels {
                images_per_sample,
                size,
                ..
            }) => Ok(ModalityData::Pixels {
                values,
                images_per_sample,
                size,
            }),
            Some(ModalityData::Tokens { max_len, .. }) => Ok(ModalityData::Tokens {
                ids,
                lengths,
                max_len,
            }),
            None => Err(Error::Invalid("a modality without contents".into())),
        }
    }

    /// Appends a sample's pictures; returns how many.
    fn pictures(&self, id: &str, pictures: &[Buffer], out: &mut Vec<f32>) -> Result<usize, Error> {
        let StreamConfig {
            augment,
            seed,
            transforms: t,
            ..
        } = &self.config;
        // A picture is a pool of one, of which one is taken.
        let is_video = self.shards.spec().modalities.contains(&Modality::Video);
        let wanted = if is_video { t.frames } else { 1 };
        if pictures.is_empty() {
            return Err(Error::unusable(
                "its frames column holds no frame",
                "ingest this dataset again with --overwrite",
            ));
        }
        if *augment {
            let key = rank(
                &["u2a-augment", &seed.to_string(), &self.epoch.to_string()],
                id,
            );
            let mut key_bytes = [0; 8];
            key_bytes.copy_from_slice(&key[..8]);
            let mut rng = Rng::new(u64::from_le_bytes(key_bytes), &[]);
            let view = Augmentation::draw(&mut rng);
            for i in random_frames(pictures.len(), wanted, &mut rng) {
                media::image::view_of(&pictures[i], &t.image, View::Train(&view), out)?;
            }
        } else {
            for i in segment_centres(pictures.len(), wanted) {
                media::image::view_of(&pictures[i], &t.image, View::Test, out)?;
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centres_of_segments() {
        assert_eq!(segment_centres(10, 3), [1, 5, 8]);
        assert_eq!(segment_centres(3, 3), [0, 1, 2]);
        assert_eq!(segment_centres(1, 3), [0, 0, 0]);
        assert_eq!(segment_centres(2, 3), [0, 1, 1]);
        for n in 1..50 {
            for (i, at) in segment_centres(n, 3).into_iter().enumerate() {
                assert_eq!(at, ((i as f64 + 0.5) * n as f64 / 3.0).floor() as usize);
            }
        }
    }

    #[test]
    fn random_frames_are_distinct_and_in_order() {
        let mut seen = [0; 10];
        for seed in 0..300 {
            let chosen = random_frames(10, 3, &mut Rng::new(seed, &[]));
            assert!(chosen[0] < chosen[1] && chosen[1] < chosen[2]);
            chosen.iter().for_each(|i| seen[*i] += 1);
        }
        assert!(seen.iter().all(|n| (60..120).contains(n)), "{seen:?}");
        assert_eq!(random_frames(2, 3, &mut Rng::new(0, &[])), [0, 1, 1]);
    }

    #[test]
    fn padding_comes_before_normalisation() {
        let t = MelTransform::ast(3);
        let mut out = Vec::new();
        t.apply(
            &Mel {
                bins: 2,
                values: vec![1.0, -4.267_739_3],
            },
            &mut out,
        );
        let pad = 4.267_739_3 / (2.0 * 4.568_997_4);
        assert_eq!(out.len(), 6);
        assert!((out[0] - 5.267_739_3 / (2.0 * 4.568_997_4)).abs() < 1e-6 && out[1] == 0.0);
        assert!(out[2..].iter().all(|v| (v - pad).abs() < 1e-6));
        out.clear();
        t.apply(
            &Mel {
                bins: 2,
                values: vec![0.0; 20],
            },
            &mut out,
        );
        assert_eq!(out.len(), 6);
    }
}
