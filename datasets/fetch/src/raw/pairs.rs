//! Samples of two files each, counted while their archive is unpacked.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::names::base;
use crate::archive::record::Record;

/// The samples of an archive and which of their files were kept. The files of a sample have one
/// name with different extensions.
#[derive(Default)]
pub struct Pairs {
    extensions: BTreeMap<String, BTreeSet<String>>,
    complete: usize,
    has_read: bool,
}

impl Pairs {
    /// Counts the files that an earlier process has kept, once; nothing of an archive that is fetched
    /// from its beginning again.
    pub fn read(&mut self, record: &Record) {
        if record.kept.is_empty() {
            *self = Pairs::default();
        }
        if std::mem::replace(&mut self.has_read, true) {
            return;
        }
        for path in record.kept.keys() {
            self.add(path);
        }
    }

    /// Counts a file.
    pub fn add(&mut self, path: &str) {
        let Some((sample, extension)) = base(path).rsplit_once('.') else {
            return;
        };
        let extensions = self.extensions.entry(sample.to_owned()).or_default();
        if extensions.insert(extension.to_owned()) && extensions.len() == 2 {
            self.complete += 1;
        }
    }

    /// The number of samples that have both files.
    pub fn complete(&self) -> usize {
        self.complete
    }

    /// Whether a sample has both files.
    pub fn is_complete(&self, sample: &str) -> bool {
        let extensions = self.extensions.get(sample);
        extensions.is_some_and(|extensions| extensions.len() > 1)
    }
}
