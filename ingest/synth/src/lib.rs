//! Synthetic miniature raw trees of the five datasets, for demos and tests.
//!
//! A tree has exactly the layout, the containers and codecs and the annotation grammar of the
//! published dataset, with the defects that the real files have; only the contents are made up.
//! Both modalities carry the class, neither carries it in all samples. The bytes of a
//! tree are a function of the dataset, the number of samples and the seed. At most one sample in a
//! hundred lacks a modality, so that the share of failures stays below the limit of `ingest run`.
//!
//! A folder is only written into if it is empty or holds a tree that this crate made before: any
//! other may be somebody's data.
//!
//! ```
//! let tree = synth::Tree::plan("mm-imdb", Some(24), 0)?;
//! let folder = std::env::temp_dir().join(format!("synth-{}", std::process::id()));
//! tree.prepare(&folder)?;
//! tree.write_samples(&folder, &|| {})?;
//! assert!(tree.is_complete(&folder)?);
//! # std::fs::remove_dir_all(&folder)?;
//! # anyhow::Ok(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod audio;
mod ave;
mod canvas;
mod crema_d;
mod encode;
mod food_101;
mod image_file;
mod kinetics_sound;
mod mm_imdb;
mod plan;
mod scene;
mod still_image;
mod youtube;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use datasets::Info;
use serde::{Deserialize, Serialize};

/// The file that tells a folder that may be replaced from one that may not.
const MARKER: &str = "synth.json";

/// The content of the marker file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker {
    about: String,
    version: String,
    dataset: String,
    samples: usize,
    seed: u64,
    complete: bool,
}

/// A miniature raw tree: planned, not yet written.
pub struct Tree {
    info: Info,
    samples: usize,
    seed: u64,
    contents: Contents,
}

/// The files of a tree: text files, and one job per sample that writes its media.
struct Contents {
    /// Folders to create, relative to the root.
    folders: Vec<String>,
    /// Path, relative to the root, and content of each text file.
    texts: Vec<(String, String)>,
    /// Name and number of samples of each split.
    counts: Vec<(&'static str, usize)>,
    /// Each job writes the media of one sample, or one file, below the root that it is given.
    jobs: Vec<Job>,
}

type Job = Box<dyn Fn(&Path) -> anyhow::Result<()> + Send + Sync>;

/// Plans a tree of that many samples from a seed.
type Planner = fn(&Info, usize, u64) -> anyhow::Result<Contents>;

impl Tree {
    /// Plans a tree of `dataset`, such as `crema-d`. By default it has as many samples as give
    /// several of each class.
    ///
    /// # Errors
    /// There is no such dataset, or its file names do not allow that many samples.
    pub fn plan(dataset: &str, samples: Option<usize>, seed: u64) -> anyhow::Result<Tree> {
        let info = datasets::open(dataset)?.info().clone();
        let (default_samples, planner): (usize, Planner) = match info.name.as_str() {
            "food-101" => (505, food_101::plan),
            "mm-imdb" => (300, mm_imdb::plan),
            "kinetics-sound" => (248, kinetics_sound::plan),
            "ave" => (224, ave::plan),
            "crema-d" => (300, crema_d::plan),
            other => bail!(
                "{other} cannot be synthesised; \
                 choose one of food-101, mm-imdb, kinetics-sound, ave, crema-d"
            ),
        };
        let samples = samples.unwrap_or(default_samples);
        let contents = planner(&info, samples, seed)?;
        Ok(Tree {
            info,
            samples,
            seed,
            contents,
        })
    }

    /// The dataset that this is a miniature of.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The number of samples in all splits.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The name and the number of samples of each split.
    pub fn splits(&self) -> &[(&'static str, usize)] {
        &self.contents.counts
    }

    /// How often [`Tree::write_samples`] reports progress: once for each file or group of files.
    pub fn jobs(&self) -> usize {
        self.contents.jobs.len()
    }

    /// Whether the test split has a larger share than in the published dataset, so that a score on
    /// so few samples means something.
    pub fn has_enlarged_test_split(&self) -> bool {
        self.samples < plan::LARGE_TREE
    }

    /// Returns whether `out` holds this very tree, complete.
    ///
    /// # Errors
    /// The folder holds files that this crate did not make, or cannot be read.
    pub fn is_complete(&self, out: &Path) -> anyhow::Result<bool> {
        Ok(read_marker(out)?.is_some_and(|marker| marker == self.marker(true)))
    }

    /// Replaces `out` by a folder with this tree's text files, and marks it as incomplete.
    ///
    /// # Errors
    /// The folder holds files that this crate did not make, or cannot be written.
    pub fn prepare(&self, out: &Path) -> anyhow::Result<()> {
        if read_marker(out)?.is_some() {
            fs::remove_dir_all(out).with_context(|| out.display().to_string())?;
        }
        fs::create_dir_all(out).with_context(|| {
            format!(
                "{}: cannot create this folder; choose another --out",
                out.display()
            )
        })?;
        self.write_marker(out, false)?;
        for folder in &self.contents.folders {
            fs::create_dir_all(out.join(folder))
                .with_context(|| out.join(folder).display().to_string())?;
        }
        for (path, text) in &self.contents.texts {
            write(&out.join(path), text)?;
        }
        Ok(())
    }

    /// Writes the media of all samples into a prepared folder, on all cores, and marks it as
    /// complete. Calls `on_job` after each of [`Tree::jobs`] from the thread that did it.
    ///
    /// # Errors
    /// A file cannot be written, or this machine's FFmpeg lacks an encoder.
    pub fn write_samples(&self, out: &Path, on_job: &(dyn Fn() + Sync)) -> anyhow::Result<()> {
        encode::init().context("cannot start libav")?;
        let next = AtomicUsize::new(0);
        let work = || -> anyhow::Result<()> {
            while let Some(job) = self.contents.jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                job(out)?;
                on_job();
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |handle: std::thread::ScopedJoinHandle<_>| match handle.join() {
                Ok(outcome) => outcome,
                Err(_) => bail!("a thread of synth panicked"),
            };
            handles.into_iter().try_for_each(join)
        })?;
        self.write_marker(out, true)
    }

    fn marker(&self, complete: bool) -> Marker {
        Marker {
            about: "synthetic: made by `ingest synth`, which may replace this folder".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dataset: self.info.name.clone(),
            samples: self.samples,
            seed: self.seed,
            complete,
        }
    }

    fn write_marker(&self, out: &Path, complete: bool) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.marker(complete))?;
        write(&out.join(MARKER), &text)
    }
}

/// Reads the marker of a folder that this crate made. Returns `None` if the folder is empty or does
/// not exist; any other folder is an error.
fn read_marker(out: &Path) -> anyhow::Result<Option<Marker>> {
    let mut entries = match fs::read_dir(out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| out.display().to_string())?,
    };
    if entries.next().is_none() {
        return Ok(None);
    }
    let marker = fs::read(out.join(MARKER))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if marker.is_none() {
        bail!(
            "{}: holds files that `synth` did not make; choose another --out",
            out.display()
        );
    }
    Ok(marker)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_marker(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("precious.mp4"), "x").unwrap();
        assert!(
            read_marker(folder.path())
                .unwrap_err()
                .to_string()
                .contains("choose another --out")
        );
    }
}
