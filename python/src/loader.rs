//! The loader, and the iterator over one of its epochs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datasets::Modality;
use features::mask::{MASKS_FOLDER, Mask};
use features::{Buffers, LoaderOptions, Share, TextTransform, Transforms};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays;
use crate::exception;
use crate::shards::{Shards, parse_split};

/// How often a waiting iterator looks whether the user has pressed Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Where a loader is: what `state_dict` gives.
#[derive(Clone, Copy, Default)]
struct Position {
    epoch: u64,
    /// The samples of the epoch that have been used.
    consumed: u64,
}

/// Batches of a split, epoch after epoch: each iteration that runs to its end is one epoch.
///
/// The order and the augmentation are a function of (seed, epoch, ids), and the batches are those
/// of the Rust trainer, bit for bit. A batch is a dictionary:
///
/// id: list of str.
/// label: int64 [samples]; of multi-label data labels: float32 [samples, classes].
/// For each INPUT of Shards.modalities, such as audio, or image_a and image_b:
/// has_INPUT: bool [samples], whether the sample has it, and the mask shows it.
/// INPUT_rows: int64 [n], the samples that INPUT holds. Neither is a key if there are none.
/// INPUT: audio float32 [n, mel_frames, 128], video float32 [n, frames, 3, image_size, image_size],
///     image float32 [n, 1, 3, image_size, image_size], text int64 [n, text_length].
/// text_lengths: int64 [n], the word pieces of each text.
///
/// The arguments:
///
/// shards: a folder or Shards.
/// split: train, val or test.
/// batch_size: the samples of a batch.
/// seed, epoch: of order and augmentation; epoch is that of the first iteration.
/// train: random order, crops, flips and frames; by default for the split train only.
/// frames: the frames of a video.
/// mask: a missing-modality mask: a file, or the name of one in the shards' folder masks.
/// threads: the threads that decode.
/// rank, world_size: this process decodes the part rank of world_size of each batch. Ids, labels
///     and availability are those of the whole batch.
/// vocab: the path of BERT's vocab.txt, for data with text.
/// text_length: the word pieces of a text, beyond which it is cut.
/// image_size: the pixels of a side of images and frames.
/// mel_frames: the length to which spectrograms are cut or padded.
///
/// A copy that is pickled has the arguments and goes on at the state.
#[pyclass(frozen, module = "u2a_features")]
pub struct Loader {
    shards: Py<Shards>,
    options: LoaderOptions,
    /// The arguments that the options do not have in them, for pickling.
    mask: Option<PathBuf>,
    vocab: Option<PathBuf>,
    text_length: usize,
    /// Where the batches that were returned end.
    position: Arc<Mutex<Position>>,
    /// Where the next iteration begins: a loaded state; otherwise the beginning of the epoch.
    start: Mutex<Option<Position>>,
}

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (
        shards, split = "train", batch_size = 16, seed = 0, epoch = 0, *, train = None, frames = 3, mask = None,
        threads = 2, rank = 0, world_size = 1, vocab = None, text_length = 128, image_size = 224, mel_frames = 1024
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of a Python class"
    )]
    fn new(
        py: Python<'_>,
        shards: &Bound<'_, PyAny>,
        split: &str,
        batch_size: usize,
        seed: u64,
        epoch: u64,
        train: Option<bool>,
        frames: usize,
        mask: Option<PathBuf>,
        threads: usize,
        rank: usize,
        world_size: usize,
        vocab: Option<PathBuf>,
        text_length: usize,
        image_size: usize,
        mel_frames: usize,
    ) -> PyResult<Loader> {
        let shards: Py<Shards> = match shards.cast::<Shards>() {
            Ok(shards) => shards.clone().unbind(),
            Err(_) => {
                let class = py.get_type::<Shards>();
                class.call1((shards,))?.cast_into::<Shards>()?.unbind()
            }
        };
        let opened = &shards.get().shards;
        let split = parse_split(split)?;
        if opened.split(split).is_empty() {
            return Err(PyValueError::new_err(format!(
                "{}: has no samples of the split {split}",
                opened.folder()
            )));
        }
        let train = train.unwrap_or(split == datasets::Split::Train);
        for (name, value, most) in [
            ("batch_size", batch_size, 1 << 20),
            ("threads", threads, 1024),
            ("frames", frames, 4096),
            ("image_size", image_size, 8192),
            ("mel_frames", mel_frames, 1 << 20),
            ("text_length", text_length, 1 << 20),
            ("world_size", world_size, 1 << 20),
        ] {
            if value == 0 || value > most {
                return Err(PyValueError::new_err(format!(
                    "{name}={value}: must be at least 1 and at most {most}"
                )));
            }
        }
        if rank >= world_size {
            return Err(PyValueError::new_err(format!(
                "rank={rank}: must be below world_size={world_size}"
            )));
        }
        let has_text = opened.spec().modalities.has(Modality::Text);
        let text = match &vocab {
            Some(path) => Some(TextTransform::from_vocab(path, text_length).map_err(exception)?),
            None if has_text => {
                return Err(PyValueError::new_err(
                    "this dataset has text; give vocab=, the path of BERT's vocab.txt",
                ));
            }
            None => None,
        };
        let present = match &mask {
            Some(mask) => {
                let mask = read_mask(opened, mask)?;
                Some(Arc::new(mask.present(opened, split).map_err(exception)?))
            }
            None => None,
        };
        let defaults = Transforms::default();
        let options = LoaderOptions {
            split,
            shuffle: train,
            augment: train,
            seed,
            batch_size,
            threads,
            transforms: Transforms {
                frames,
                image: features::ImageTransform::clip(image_size),
                mel: features::MelTransform {
                    frames: mel_frames,
                    ..defaults.mel
                },
                text,
            },
            present,
            share: Share {
                rank,
                count: world_size,
            },
            ..LoaderOptions::default()
        };
        let position = Position { epoch, consumed: 0 };
        Ok(Loader {
            shards,
            options,
            mask,
            vocab,
            text_length,
            position: Arc::new(Mutex::new(position)),
            start: Mutex::new(None),
        })
    }

    /// Begins the epoch, or goes on where a loaded state was.
    fn __iter__(&self, py: Python<'_>) -> PyResult<Batches> {
        let loaded = lock(&self.start).take();
        let position = loaded.unwrap_or_else(|| Position {
            epoch: lock(&self.position).epoch,
            consumed: 0,
        });
        *lock(&self.position) = position;
        let shards = self.shards.get().of_this_process()?;
        // Buffers of its own, so that nothing is kept between the epochs.
        let buffers = Buffers::default();
        let options = LoaderOptions {
            buffers: buffers.clone(),
            ..self.options.clone()
        };
        let loader = py
            .detach(|| features::Loader::new(&shards, options, position.epoch, position.consumed));
        Ok(Batches {
            loader: Mutex::new(Some(loader.map_err(exception)?)),
            shards: self.shards.clone_ref(py),
            buffers,
            epoch: position.epoch,
            position: self.position.clone(),
            process: std::process::id(),
        })
    }

    /// The number of batches of a whole epoch.
    fn __len__(&self) -> usize {
        let samples = self.shards.get().shards.split(self.options.split).len();
        samples.div_ceil(self.options.batch_size)
    }

    /// The epoch that the next iteration goes through, or that the present one is in.
    #[getter]
    fn epoch(&self) -> u64 {
        lock(&self.position).epoch
    }

    /// Sets the epoch of the next iteration.
    fn set_epoch(&self, epoch: u64) {
        *lock(&self.position) = Position { epoch, consumed: 0 };
        *lock(&self.start) = None;
    }

    /// The shards.
    #[getter]
    fn shards(&self, py: Python<'_>) -> Py<Shards> {
        self.shards.clone_ref(py)
    }

    /// The position behind the last batch that was returned, for `load_state_dict`.
    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let position = *lock(&self.position);
        let state = PyDict::new(py);
        state.set_item("epoch", position.epoch)?;
        state.set_item("consumed", position.consumed)?;
        state.set_item("seed", self.options.seed)?;
        state.set_item("split", self.options.split.as_str())?;
        state.set_item("train", self.options.shuffle)?;
        state.set_item("batch_size", self.options.batch_size)?;
        state.set_item("shards", self.shards.get().shards.fingerprint())?;
        Ok(state)
    }

    /// Makes the next iteration begin where `state_dict` was called.
    fn load_state_dict(&self, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let get = |key: &str| {
            state.get_item(key)?.ok_or_else(|| {
                PyValueError::new_err(format!("the state has no {key:?}; is it of a Loader?"))
            })
        };
        let own = self.state_dict(state.py())?;
        for key in ["seed", "split", "train", "batch_size", "shards"] {
            let (theirs, ours) = (get(key)?, own.get_item(key)?);
            if !ours.is_some_and(|ours| ours.eq(&theirs).unwrap_or(false)) {
                return Err(PyValueError::new_err(format!(
                    "the state is of another loader: its {key:?} is {theirs}"
                )));
            }
        }
        let position = Position {
            epoch: get("epoch")?.extract()?,
            consumed: get("consumed")?.extract()?,
        };
        let samples = self.shards.get().shards.split(self.options.split).len();
        if position.consumed > samples as u64 {
            return Err(PyValueError::new_err(format!(
                "the state is of another loader: its \"consumed\" is {}, and the split has {samples} samples",
                position.consumed
            )));
        }
        *lock(&self.start) = Some(position);
        *lock(&self.position) = position;
        Ok(())
    }

    /// Pickles the arguments, and the state by [`Loader::__getstate__`].
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((Py<Shards>,), Bound<'py, PyDict>)> {
        let (options, transforms) = (&self.options, &self.options.transforms);
        let named = PyDict::new(py);
        named.set_item("split", options.split.as_str())?;
        named.set_item("batch_size", options.batch_size)?;
        named.set_item("seed", options.seed)?;
        named.set_item("train", options.shuffle)?;
        named.set_item("frames", transforms.frames)?;
        named.set_item("mask", &self.mask)?;
        named.set_item("threads", options.threads)?;
        named.set_item("rank", options.share.rank)?;
        named.set_item("world_size", options.share.count)?;
        named.set_item("vocab", &self.vocab)?;
        named.set_item("text_length", self.text_length)?;
        named.set_item("image_size", transforms.image.size)?;
        named.set_item("mel_frames", transforms.mel.frames)?;
        Ok(((self.shards.clone_ref(py),), named))
    }

    fn __getstate__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.state_dict(py)
    }

    fn __setstate__(&self, state: &Bound<'_, PyDict>) -> PyResult<()> {
        self.load_state_dict(state)
    }
}

/// An iterator over the batches of an epoch.
#[pyclass(frozen, module = "u2a_features")]
pub struct Batches {
    /// The running loader; none when it is closed.
    loader: Mutex<Option<features::Loader>>,
    shards: Py<Shards>,
    buffers: Buffers,
    /// The epoch. After `set_epoch` the position is no longer that of this iteration.
    epoch: u64,
    position: Arc<Mutex<Position>>,
    /// The process whose threads decode.
    process: u32,
}

#[pymethods]
impl Batches {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Returns the next batch. Other Python threads run while it is waited for.
    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        if self.process != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "this iteration began before the process was forked, and its threads are in the other process; \
                 iterate over the Loader anew",
            ));
        }
        let batch = loop {
            let waited = py.detach(|| {
                let mut loader = lock(&self.loader);
                match &mut *loader {
                    Some(loader) => loader.next_within(SIGNAL_INTERVAL),
                    None => Some(None),
                }
            });
            match waited {
                Some(batch) => break batch,
                // Raises KeyboardInterrupt.
                None => py.check_signals()?,
            }
        };
        match batch {
            Some(Ok(batch)) => {
                let mut position = lock(&self.position);
                if position.epoch == self.epoch {
                    position.consumed = batch.consumed;
                }
                drop(position);
                arrays::dictionary(py, batch, self.shards.get(), &self.buffers).map(Some)
            }
            Some(Err(error)) => {
                // Closed, the iterator does not move the loader on to the next epoch.
                self.close(py);
                Err(exception(error))
            }
            None => {
                self.end_epoch(py);
                Ok(None)
            }
        }
    }

    /// Ends the iteration and its threads.
    fn close(&self, py: Python<'_>) {
        // In a process that was forked, a thread that is not there may hold the lock.
        if self.process == std::process::id() {
            py.detach(|| {
                let loader = lock(&self.loader).take();
                drop(loader);
            });
        }
    }
}

impl Batches {
    /// Moves the loader on to the next epoch, once.
    fn end_epoch(&self, py: Python<'_>) {
        let loader = lock(&self.loader).take();
        if loader.is_some() {
            let mut position = lock(&self.position);
            if position.epoch == self.epoch {
                *position = Position {
                    epoch: self.epoch + 1,
                    consumed: 0,
                };
            }
        }
        py.detach(|| drop(loader));
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        let loader = self.loader.get_mut();
        let loader = loader.unwrap_or_else(PoisonError::into_inner).take();
        if self.process != std::process::id() {
            // The threads of another process cannot be waited for.
            std::mem::forget(loader);
        } else if loader.is_some() {
            // Other Python threads run while those of the loader end. An interpreter that shuts
            // down has none, and the loader is dropped all the same.
            let _ = Python::try_attach(|py| py.detach(|| drop(loader)));
        }
    }
}

/// Reads a mask: a file, one of the folder `masks` of the shards by its name without `.parquet`, or
/// one in the folder of the shards by its path there.
fn read_mask(shards: &features::Shards, mask: &Path) -> PyResult<Mask> {
    if mask.is_file() {
        return Mask::read(mask).map_err(exception);
    }
    let name = mask.to_string_lossy();
    let path = match name.ends_with(".parquet") {
        true => name.into_owned(),
        false => format!("{MASKS_FOLDER}/{name}.parquet"),
    };
    Mask::read_in(shards.folder(), &path).map_err(exception)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What the locks hold is consistent between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
