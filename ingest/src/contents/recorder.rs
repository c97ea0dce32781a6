//! Hashes the source files while they are decoded, when they are in the page cache.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::Context;

use super::index::{Content, Index, Observation};
use crate::plan::Shard;

/// A file on its way to the hashing thread.
type Job = (PathBuf, Observation);

/// Hashes every file once, on a thread of its own.
pub struct Recorder {
    jobs: Sender<Job>,
    results: Receiver<(PathBuf, Option<Content>)>,
    files: RefCell<BTreeMap<PathBuf, Watched>>,
}

/// A file that was handed to the hashing thread.
struct Watched {
    observation: Observation,
    /// `None` until the file has been read.
    content: Option<Option<Content>>,
}

impl Recorder {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start() -> anyhow::Result<Recorder> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (sender, results) = mpsc::channel();
        let hash_all = move || {
            for (path, observation) in queue {
                let content = observation.read(&path);
                if sender.send((path, content)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("hash".to_owned())
            .spawn(hash_all)
            .context("cannot start a thread that hashes the source files")?;
        Ok(Recorder {
            jobs,
            results,
            files: RefCell::default(),
        })
    }

    /// Observes a file that is going to be decoded, and has it hashed. A file that has been watched
    /// already is not hashed again.
    pub fn watch(&self, path: &Path) {
        let mut files = self.files.borrow_mut();
        if files.contains_key(path) {
            return;
        }
        let observation = Observation::of(path);
        // If the thread has ended, `index` reports it.
        drop(self.jobs.send((path.to_owned(), observation)));
        let watched = Watched {
            observation,
            content: None,
        };
        files.insert(path.to_owned(), watched);
    }

    /// Returns the index of a shard whose samples have all been decoded. Waits for the hashes of
    /// its files. `None` if all files have vanished since they were handed to the decode workers, as
    /// when a disk fails: nobody knows which of them were decoded before.
    ///
    /// # Errors
    /// The hashing thread has ended.
    pub fn index(&self, raw: &Path, shard: &Shard) -> anyhow::Result<Option<Index>> {
        let mut index = Index::default();
        let (mut left, mut vanished) = (0, 0);
        for file in shard.files() {
            let path = raw.join(file);
            self.watch(&path);
            let (observation, content) = self.wait_for(&path)?;
            let entry = observation.entry(&path, content);
            if observation.has_vanished(&path) {
                vanished += 1;
            } else if entry.content.is_some() {
                left += 1;
            }
            index.insert(file, entry);
        }
        Ok((vanished == 0 || left > 0).then_some(index))
    }

    fn wait_for(&self, path: &Path) -> anyhow::Result<(Observation, Option<Content>)> {
        let mut files = self.files.borrow_mut();
        loop {
            if let Some(watched) = files.get(path)
                && let Some(content) = &watched.content
            {
                return Ok((watched.observation, content.clone()));
            }
            let (path, content) = self
                .results
                .recv()
                .context("the thread that hashes the source files has ended")?;
            if let Some(watched) = files.get_mut(&path) {
                watched.content = Some(content);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use datasets::{Input, Sample, Split};
    use features::ShardName;

    use super::super::index::Entry;
    use super::*;

    /// A shard whose samples have these files as images.
    fn shard(files: &[&str]) -> Shard {
        let sample = |file: &&str| Sample {
            id: (*file).to_owned(),
            split: Split::Train,
            labels: vec![0],
            inputs: vec![Input::Files(vec![(*file).into()]), Input::None],
            source: (*file).to_owned(),
            segment: None,
        };
        Shard {
            name: ShardName {
                split: Split::Train,
                number: 0,
                of: 1,
            },
            samples: files.iter().map(sample).collect(),
            input_hash: String::new(),
        }
    }

    /// A file that vanishes is unknown, whenever it was hashed; a shard without any file that is left
    /// has no index.
    #[test]
    fn files_that_vanish_are_unknown_and_without_any_left_there_is_no_index() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path();
        let files = ["a", "b", "never"];
        for file in &files[..2] {
            fs::write(raw.join(file), "content").unwrap();
        }
        let shard = shard(&files);
        let recorder = Recorder::start().unwrap();
        for file in files {
            recorder.watch(&raw.join(file));
        }
        let whole = recorder.index(raw, &shard).unwrap().unwrap();
        let bytes = |index: &Index, file: &str| {
            let entry = index.get(Path::new(file)).unwrap();
            entry.content.as_ref().map(|content| content.bytes)
        };
        let of = |index: &Index| files.map(|file| bytes(index, file));
        assert_eq!(of(&whole), [Some(7), Some(7), None]);

        fs::remove_file(raw.join("a")).unwrap();
        let left = recorder.index(raw, &shard).unwrap().unwrap();
        assert_eq!(left.get(Path::new("a")), Some(&Entry::default()));
        assert_eq!(of(&left), [None, Some(7), None]);
        assert_ne!(left.content_hash(), whole.content_hash());

        fs::remove_file(raw.join("b")).unwrap();
        assert!(recorder.index(raw, &shard).unwrap().is_none());
        // What was never there has not vanished.
        let recorder = Recorder::start().unwrap();
        assert!(recorder.index(raw, &shard).unwrap().is_some());
    }
}
