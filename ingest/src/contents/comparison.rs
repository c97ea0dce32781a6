//! Whether the source files of a finished shard have the contents that it was made from.

use std::path::{Path, PathBuf};

use super::index::{Entry, Index, Observation};
use crate::output::Output;
use crate::plan::Shard;

/// The files of a shard, as they are now and as the index remembers them.
pub struct Comparison<'a> {
    shard: &'a Shard,
    /// SHA-256 of the contents that the shard was made from.
    content_hash: &'a str,
    remembered: Index,
    /// The first file that has another size now, which decides without reading.
    resized: Option<PathBuf>,
    /// Files that are not recognised as unchanged, so that their contents decide.
    unknown: Vec<(PathBuf, Observation)>,
}

/// The result of a comparison.
pub enum Finding {
    /// All files have the contents that the shard was made from. Where files had to be read, holds
    /// the index with which they need not be read again.
    Same(Option<Index>),
    /// A file has other contents. Its path is known if the index knows the old contents.
    Changed(Option<PathBuf>),
}

impl<'a> Comparison<'a> {
    /// Examines the files of a shard without reading them.
    pub fn start(
        raw: &Path,
        output: &Output,
        shard: &'a Shard,
        content_hash: &'a str,
    ) -> Comparison<'a> {
        let remembered = Index::read(output, shard.name);
        let mut resized = None;
        let mut unknown = Vec::new();
        for file in shard.files() {
            let observation = Observation::of(&raw.join(file));
            match remembered.get(file) {
                Some(entry) if observation.recognises(entry) => {}
                Some(entry) if observation.has_other_size(entry) => {
                    resized.get_or_insert_with(|| file.to_owned());
                }
                _ => unknown.push((file.to_owned(), observation)),
            }
        }
        Comparison {
            shard,
            content_hash,
            remembered,
            resized,
            unknown,
        }
    }

    /// The number of files that have to be read.
    pub fn files_to_read(&self) -> usize {
        match self.resized {
            Some(_) => 0,
            None => self.unknown.len(),
        }
    }

    /// Reads the files that have to be read, and decides. Calls `step` after each of them.
    pub fn finish(mut self, raw: &Path, mut step: impl FnMut()) -> Finding {
        if self.resized.is_some() {
            return Finding::Changed(self.resized);
        }
        let mut other = None;
        let is_refreshed = !self.unknown.is_empty();
        for (file, observation) in self.unknown {
            let path = raw.join(&file);
            let entry = observation.entry(&path, observation.read(&path));
            step();
            let before = self.remembered.get(&file);
            if before.is_some_and(|before| before.content != entry.content) {
                other.get_or_insert_with(|| file.clone());
            }
            self.remembered.insert(&file, entry);
        }
        let mut index = Index::default();
        for file in self.shard.files() {
            let entry = self.remembered.get(file).cloned();
            index.insert(file, entry.unwrap_or_else(Entry::default));
        }
        if index.content_hash() == self.content_hash {
            Finding::Same(is_refreshed.then_some(index))
        } else {
            Finding::Changed(other)
        }
    }
}
