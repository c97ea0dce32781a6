//! Which file a user's table nearly names: with `\\` for `/`, in another letter case or another
//! Unicode form, with folders too many or one too few, or without its ending.

use std::collections::BTreeMap;
use std::fs;

use unicode_normalization::UnicodeNormalization;

use crate::tree::{Tree, join, split_extension};

/// The most names that a suggestion has.
const MAX_NAMES: usize = 3;

/// The file extensions between which people convert, of images, audio and video.
const CONVERTED: [&[&str]; 3] = [
    &["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"],
    &["wav", "mp3", "flac", "ogg", "opus", "m4a", "aac"],
    &["mp4", "mkv", "webm", "avi", "mov", "m4v", "flv"],
];

/// Finds files by names that are nearly theirs. Every folder is read once.
pub(crate) struct NearNames<'a> {
    tree: &'a Tree,
    /// The entries of the folders that were read.
    folders: BTreeMap<String, Vec<Entry>>,
}

/// An entry of a folder.
struct Entry {
    name: String,
    /// The name as [`key`] makes it.
    key: String,
    is_dir: bool,
}

/// Brings a name to the form in which near names are equal.
pub(crate) fn key(name: &str) -> String {
    name.trim().nfc().collect::<String>().to_lowercase()
}

impl<'a> NearNames<'a> {
    pub(crate) fn new(tree: &'a Tree) -> NearNames<'a> {
        NearNames {
            tree,
            folders: BTreeMap::new(),
        }
    }

    /// Returns the files that the name of a file that is not there may mean, joined by "or".
    pub(crate) fn find(&mut self, file: &str) -> Option<String> {
        let with_slashes = file.replace('\\', "/");
        let parts: Vec<&str> = with_slashes
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        // With folders too many in front, which are those above the raw folder.
        let mut found = Vec::new();
        for skipped in 0..parts.len() {
            found = self.resolve("", &parts[skipped..]);
            if !found.is_empty() {
                break;
            }
        }
        // With a folder too few.
        if found.is_empty() {
            let folders: Vec<String> = self
                .folder("")
                .iter()
                .filter(|one| one.is_dir)
                .map(|one| one.name.clone())
                .collect();
            found = folders
                .iter()
                .flat_map(|folder| self.resolve(folder, &parts))
                .collect();
        }
        (1..=MAX_NAMES)
            .contains(&found.len())
            .then(|| found.join(" or "))
    }

    /// Returns the files below a folder whose paths are nearly these parts.
    fn resolve(&mut self, dir: &str, parts: &[&str]) -> Vec<String> {
        let Some((part, rest)) = parts.split_first() else {
            return Vec::new();
        };
        let wanted = key(part);
        let is_last = rest.is_empty();
        let entries = self.folder(dir).iter().filter(|one| one.is_dir != is_last);
        let mut near: Vec<&Entry> = entries.clone().filter(|one| one.key == wanted).collect();
        if near.is_empty() && is_last {
            near = entries
                .filter(|one| is_same_but_ending(&one.key, &wanted))
                .collect();
        }
        let near: Vec<String> = near.into_iter().map(|one| join(dir, &one.name)).collect();
        if is_last {
            return near;
        }
        near.iter()
            .flat_map(|dir| self.resolve(dir, rest))
            .collect()
    }

    /// The entries of a folder, sorted by name. A folder that cannot be read has none.
    fn folder(&mut self, dir: &str) -> &[Entry] {
        self.folders.entry(dir.to_owned()).or_insert_with(|| {
            let entries = fs::read_dir(self.tree.path(dir))
                .into_iter()
                .flatten()
                .flatten();
            let mut entries: Vec<Entry> = entries
                .filter_map(|entry| {
                    let name = entry.file_name().into_string().ok()?;
                    let is_dir = fs::metadata(entry.path()).ok()?.is_dir();
                    let key = key(&name);
                    Some(Entry { name, key, is_dir })
                })
                .filter(|entry| !entry.name.starts_with('.'))
                .collect();
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries
        })
    }
}

/// Whether a name is another one with its ending, or with one to which people convert.
fn is_same_but_ending(name: &str, wanted: &str) -> bool {
    let (stem, ending) = split_extension(name);
    let (wanted_stem, wanted_ending) = split_extension(wanted);
    let is_converted = CONVERTED
        .iter()
        .any(|endings| endings.contains(&ending) && endings.contains(&wanted_ending));
    stem == wanted || (stem == wanted_stem && is_converted)
}
