//! Loads a split as model-ready batches: threads decode ahead, batches come in order.
//!
//! The order is a function of (seed, epoch, ids). A batch is the next `batch_size` samples of it;
//! the last batch of an epoch may be smaller. An epoch can start at any sample, so the number of
//! samples consumed is all that a resumed run needs. Each thread claims a whole batch by its
//! number, and waits while the batches between it and the reader would exceed the byte budget:
//! memory is bounded by that budget plus one batch per thread. Of shards in an object store, one
//! more thread brings what comes next into the cache on the disk.

mod buffers;
mod read_ahead;

pub use buffers::Buffers;

use crate::batch::{Batch, ModalityBatch, ModalityData};
use crate::order::{epoch_order, rank};
use crate::shards::{Content, RowReader, Shards};
use crate::share::Share;
use crate::transforms::{Transforms, random_frames, segment_centres};
use arrow_buffer::Buffer;
use datasets::{InputName, Modality, Split};
use media::Error;
use media::image::{Augmentation, View};
use media::mel::MEL_BINS;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use util::rng::Rng;

/// The default byte budget: the decoded bytes that may wait for the reader.
pub const BYTE_BUDGET: usize = 256 << 20;
/// The default batch size.
pub const BATCH_SIZE: usize = 16;
/// What to load and how. [`Loader::builder`] sets each of these by name.
#[derive(Clone)]
pub struct LoaderOptions {
    /// The split; the training split by default.
    pub split: Split,
    /// Whether each epoch has a shuffled order of its own (default), or that of the files.
    pub shuffle: bool,
    /// Whether crops, flips and frames are random; by default they are not, and every image is its
    /// evaluation view.
    pub augment: bool,
    /// The seed of order and augmentation; 0 by default.
    pub seed: u64,
    /// The samples of a batch; [`BATCH_SIZE`] by default.
    pub batch_size: usize,
    /// The decoding threads; one per core by default.
    pub threads: usize,
    /// The decoded bytes that may wait for the reader; [`BYTE_BUDGET`] by default.
    pub byte_budget: usize,
    /// What turns stored content into model input.
    pub transforms: Transforms,
    /// A missing-modality mask: which modalities each sample of the split shows, in the order of
    /// the files. Without it, a sample shows all that it has.
    pub present: Option<Arc<Vec<[bool; 2]>>>,
    /// The part of each batch whose inputs are read and decoded; the whole by default. Ids, labels
    /// and availability are those of the whole batch in any case.
    pub share: Share,
    /// The memory of batches that were used; its own by default. The loaders of several epochs may
    /// share it.
    pub buffers: Buffers,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        LoaderOptions {
            split: Split::Train,
            shuffle: true,
            augment: false,
            seed: 0,
            batch_size: BATCH_SIZE,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            byte_budget: BYTE_BUDGET,
            transforms: Transforms::default(),
            present: None,
            share: Share::default(),
            buffers: Buffers::default(),
        }
    }
}

/// Builds a [`Loader`], from [`Loader::builder`]. The defaults stand at [`LoaderOptions`].
#[derive(Clone)]
pub struct LoaderBuilder {
    shards: Arc<Shards>,
    options: LoaderOptions,
    start: u64,
}

impl LoaderBuilder {
    /// Sets the split.
    #[must_use]
    pub fn split(mut self, split: Split) -> Self {
        self.options.split = split;
        self
    }

    /// Sets whether the order is shuffled.
    #[must_use]
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.options.shuffle = shuffle;
        self
    }

    /// Sets whether crops, flips and frames are random.
    #[must_use]
    pub fn augment(mut self, augment: bool) -> Self {
        self.options.augment = augment;
        self
    }

    /// Sets the seed of order and augmentation.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// Sets the number of samples of a batch.
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.options.batch_size = batch_size;
        self
    }

    /// Sets the number of decoding threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = threads;
        self
    }

    /// Sets the number of decoded bytes that may wait for the reader.
    #[must_use]
    pub fn byte_budget(mut self, byte_budget: usize) -> Self {
        self.options.byte_budget = byte_budget;
        self
    }

    /// Sets what turns stored content into model input.
    #[must_use]
    pub fn transforms(mut self, transforms: Transforms) -> Self {
        self.options.transforms = transforms;
        self
    }

    /// Sets a missing-modality mask, one entry per sample of the split in the order of the files.
    #[must_use]
    pub fn present(mut self, present: Arc<Vec<[bool; 2]>>) -> Self {
        self.options.present = Some(present);
        self
    }

    /// Sets the part of each batch whose inputs are read and decoded.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.options.share = share;
        self
    }

    /// Sets the number of samples at the start of the epoch that are skipped, to resume in its
    /// middle.
    #[must_use]
    pub fn start(mut self, consumed: u64) -> Self {
        self.start = consumed;
        self
    }

    /// Begins an epoch.
    ///
    /// # Errors
    /// The errors of [`Loader::new`].
    pub fn epoch(self, epoch: u64) -> Result<Loader, Error> {
        Loader::new(&self.shards, self.options, epoch, self.start)
    }
}

/// What the threads share.
struct Shared {
    shards: Arc<Shards>,
    options: LoaderOptions,
    epoch: u64,
    /// The samples that remain of the epoch.
    order: Vec<u32>,
    /// The samples of the epoch that come before `order`.
    start: u64,
    /// The number of batches that may be in flight.
    window: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of the batch that the next free thread claims.
    next_claimed: usize,
    /// The number of the batch that the reader gets next.
    next_returned: usize,
    /// Batches that wait for the reader.
    ready: BTreeMap<usize, Result<Batch, Error>>,
    stop: bool,
}

/// An iterator over the batches of one epoch.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    batches: usize,
}

impl Loader {
    /// Returns a builder with the default options.
    pub fn builder(shards: &Arc<Shards>) -> LoaderBuilder {
        LoaderBuilder {
            shards: shards.clone(),
            options: LoaderOptions::default(),
            start: 0,
        }
    }

    /// Begins epoch `epoch` after its first `start` samples.
    ///
    /// # Errors
    /// [`Error::Invalid`] if batch size or number of threads are 0, if the share's rank is not
    /// below its count, or if the mask has another length than the split.
    pub fn new(
        shards: &Arc<Shards>,
        options: LoaderOptions,
        epoch: u64,
        start: u64,
    ) -> Result<Loader, Error> {
        let index = shards.split(options.split);
        if options.batch_size == 0 || options.threads == 0 {
            return Err(Error::Invalid(
                "a loader needs a batch size and at least one thread".into(),
            ));
        }
        let Share { rank, count } = options.share;
        if rank >= count {
            return Err(Error::Invalid(format!(
                "a loader cannot be number {rank} of {count}, counted from 0"
            )));
        }
        let masked = options.present.as_ref().map(|present| present.len());
        if masked.is_some_and(|length| length != index.len()) {
            return Err(Error::Invalid(
                "the missing-modality mask has another length than the split".into(),
            ));
        }
        let mut order = if options.shuffle {
            epoch_order(options.seed, epoch, &index.ids)
        } else {
            (0..index.len() as u32).collect()
        };
        order.drain(..(start as usize).min(order.len()));
        let batches = order.len().div_ceil(options.batch_size);
        let window = (options.byte_budget / batch_bytes(shards, &options).max(1)).max(1);
        let threads = options.threads.min(batches).min(window);
        let shared = Arc::new(Shared {
            shards: shards.clone(),
            options,
            epoch,
            order,
            start,
            window,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut threads: Vec<JoinHandle<()>> = (0..threads)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.work())
            })
            .collect();
        if shards.is_remote() {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || shared.read_ahead()));
        }
        Ok(Loader {
            shared,
            threads,
            batches,
        })
    }

    /// Returns the number of batches of this epoch, from its start sample on.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Takes back the inputs of a batch that is no longer used, so that later batches reuse their
    /// memory. A loop that drops its batches works too, but is slower.
    pub fn reuse(&self, inputs: [Option<ModalityBatch>; 2]) {
        for input in inputs.into_iter().flatten() {
            if let ModalityData::Dense { values, .. } = input.data {
                self.shared.options.buffers.give_back(values);
            }
        }
    }

    /// Returns the next batch, as [`Iterator::next`] does, or `None` if it is not there within
    /// `limit`: for callers that have to look after something else meanwhile.
    pub fn next_within(&mut self, limit: Duration) -> Option<Option<Result<Batch, Error>>> {
        let mut state = self.shared.lock();
        if state.stop || state.next_returned >= self.batches {
            return Some(None);
        }
        let number = state.next_returned;
        if !state.ready.contains_key(&number) {
            let waited = self
                .shared
                .changed
                .wait_timeout_while(state, limit, |state| !state.ready.contains_key(&number));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let batch = state.ready.remove(&number)?;
        state.next_returned += 1;
        // After an error nothing else would be what the caller expects.
        state.stop = batch.is_err();
        drop(state);
        self.shared.changed.notify_all();
        Some(Some(batch))
    }

    /// Returns the number of prefetched batches: those that are decoded, or being decoded, and not
    /// yet returned. The byte budget bounds it.
    pub fn prefetched(&self) -> usize {
        let state = self.shared.lock();
        state.next_claimed - state.next_returned
    }
}

/// Returns the bytes of the values that are decoded of a full batch.
fn batch_bytes(shards: &Shards, options: &LoaderOptions) -> usize {
    let t = &options.transforms;
    let sample = |input: InputName| match input.modality {
        Modality::Text => t.text.as_ref().map_or(0, |t| t.max_len()),
        dense => sample_shape(dense, t).iter().product(),
    };
    let modalities = shards.spec().modalities;
    let samples = options.batch_size.div_ceil(options.share.count);
    4 * samples * modalities.names().map(sample).sum::<usize>()
}

/// Returns the shape of a sample's audio, video or image in a batch; empty for text.
fn sample_shape(modality: Modality, t: &Transforms) -> Vec<usize> {
    let (frames, size) = (t.frames, t.image.size);
    match modality {
        Modality::Audio => vec![t.mel.frames, MEL_BINS],
        Modality::Video => vec![frames, 3, size, size],
        Modality::Image => vec![1, 3, size, size],
        Modality::Text => Vec::new(),
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Spurious wake-ups apart, this waits once.
            if let Some(next) = self.next_within(Duration::MAX) {
                return next;
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic in the thread was turned into an error that the reader got.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements, so a poisoned lock can be used.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state changes.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let changed = self.changed.wait(state);
        changed.unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread runs: claims batches and decodes them until the epoch ends or the loader is
    /// dropped.
    fn work(&self) {
        let mut reader = RowReader::new(&self.shards);
        while let Some(number) = self.claim() {
            let batch = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.batch(&mut reader, number)
            }));
            let batch = batch.unwrap_or_else(|_| {
                Err(Error::Invalid(format!(
                    "decoding batch {number} panicked: a bug, please report it"
                )))
            });
            self.lock().ready.insert(number, batch);
            self.changed.notify_all();
        }
    }

    /// Waits until another batch may be in flight and returns its number. `None` if the epoch has
    /// no such batch, or the loader is dropped.
    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            let number = state.next_claimed;
            if state.stop || number * self.options.batch_size >= self.order.len() {
                return None;
            }
            if number < state.next_returned + self.window {
                state.next_claimed += 1;
                return Some(number);
            }
            state = self.wait(state);
        }
    }

    /// Returns the samples of a batch; none behind the end of the epoch.
    fn samples(&self, number: usize) -> &[u32] {
        let at = |number: usize| (number * self.options.batch_size).min(self.order.len());
        &self.order[at(number)..at(number + 1)]
    }

    /// Returns those samples of a batch whose inputs this loader decodes.
    fn own_samples(&self, number: usize) -> &[u32] {
        let samples = self.samples(number);
        &samples[self.options.share.range(samples.len())]
    }

    /// Returns which modalities of samples are both stored and shown.
    fn present(&self, samples: &[u32]) -> Vec<[bool; 2]> {
        let index = self.shards.split(self.options.split);
        let shown = self.options.present.as_deref().unwrap_or(&index.present);
        let both = |s: &u32| {
            let (stored, shown) = (index.present[*s as usize], shown[*s as usize]);
            [stored[0] && shown[0], stored[1] && shown[1]]
        };
        samples.iter().map(both).collect()
    }

    /// Reads and transforms the samples of a batch.
    fn batch(&self, reader: &mut RowReader, number: usize) -> Result<Batch, Error> {
        let options = &self.options;
        let samples = self.samples(number);
        let index = self.shards.split(options.split);
        let present = self.present(samples);
        let share = options.share.range(samples.len());
        let fetched = reader.fetch(
            options.split,
            &samples[share.clone()],
            &present[share.clone()],
        )?;
        let mut inputs = [None, None];
        for (m, name) in self.shards.spec().modalities.names().enumerate() {
            let rows: Vec<usize> = share.clone().filter(|i| present[*i][m]).collect();
            if rows.is_empty() {
                continue;
            }
            let contents = rows.iter().map(|row| {
                (
                    index.ids[samples[*row] as usize].as_str(),
                    fetched[*row - share.start].contents[m].as_ref(),
                )
            });
            let data = match name.modality {
                Modality::Text => self.tokens(contents)?,
                _ => self.dense(name, contents, rows.len())?,
            };
            inputs[m] = Some(ModalityBatch { rows, data });
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
            consumed: self.start + (number * options.batch_size + samples.len()) as u64,
        })
    }

    /// Transforms the audio, video or image of `rows` samples, given as (id, content).
    fn dense<'a>(
        &self,
        input: InputName,
        contents: impl Iterator<Item = (&'a str, Option<&'a Content>)>,
        rows: usize,
    ) -> Result<ModalityData, Error> {
        let transforms = &self.options.transforms;
        let shape = sample_shape(input.modality, transforms);
        let count = rows * shape.iter().product::<usize>();
        let mut values = self.options.buffers.take(count)?;
        for (id, content) in contents {
            if self.lock().stop {
                // The reader gets nothing more, and may be waiting for this thread to end.
                return Err(Error::Invalid("the loader has ended".into()));
            }
            match content {
                Some(Content::Mel(mel)) => transforms.mel.append(mel, &mut values),
                Some(Content::Images(images)) => self
                    .append_views(id, input, images, shape[0], &mut values)
                    .map_err(|e| e.at_sample(id))?,
                Some(Content::Text(_)) | None => return Err(not_fetched(id)),
            }
        }
        Ok(ModalityData::Dense { values, shape })
    }

    /// Turns the texts of samples, given as (id, content), into word pieces.
    fn tokens<'a>(
        &self,
        contents: impl Iterator<Item = (&'a str, Option<&'a Content>)>,
    ) -> Result<ModalityData, Error> {
        let Some(transform) = &self.options.transforms.text else {
            return Err(Error::Invalid(
                "this dataset has text, and the loader has no text transform".into(),
            ));
        };
        let max_len = transform.max_len();
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        for (id, content) in contents {
            let Some(Content::Text(text)) = content else {
                return Err(not_fetched(id));
            };
            let mut encoded = transform.encode(text).map_err(|e| e.at_sample(id))?;
            lengths.push(encoded.len());
            encoded.resize(max_len, 0);
            ids.extend(encoded);
        }
        Ok(ModalityData::Tokens {
            ids,
            lengths,
            max_len,
        })
    }

    /// Appends the view of a sample's image, or the views of `wanted` frames from its pool. An
    /// image is a pool of one frame, of which one is wanted.
    fn append_views(
        &self,
        id: &str,
        input: InputName,
        images: &[Buffer],
        wanted: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let LoaderOptions {
            augment,
            seed,
            transforms: t,
            ..
        } = &self.options;
        if images.is_empty() {
            return Err(Error::unusable(
                "its frames column holds no frame",
                "ingest this dataset again with --overwrite",
            ));
        }
        if *augment {
            // Two views of one modality are augmented independently.
            let epoch = format!("{}{}", self.epoch, input.suffix());
            let key = rank(&["u2a-augment", &seed.to_string(), &epoch], id);
            let mut key_bytes = [0; 8];
            key_bytes.copy_from_slice(&key[..8]);
            let mut rng = Rng::new(u64::from_le_bytes(key_bytes), &[]);
            let view = Augmentation::draw(&mut rng);
            for i in random_frames(images.len(), wanted, &mut rng) {
                media::image::view_of_file(&images[i], &t.image, View::Training(&view), out)?;
            }
        } else {
            for i in segment_centres(images.len(), wanted) {
                media::image::view_of_file(&images[i], &t.image, View::Evaluation, out)?;
            }
        }
        Ok(())
    }
}

fn not_fetched(id: &str) -> Error {
    Error::Invalid(format!("sample '{id}' was not fetched"))
}
