//! Builds raw trees in temporary folders, and describes listings as text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use datasets::{Info, Input, ListOptions, Listing, Note, NoteKind, Sample, Split, open};

/// Returns the folder with the published annotation files of a dataset, which are not part of the
/// project. If they are absent, the test is reported as skipped.
#[track_caller]
pub fn annotations(dataset: &str) -> Option<PathBuf> {
    util::skip::shared(&format!("datasets/annotations/{dataset}"))
}

/// A raw tree in a temporary folder.
pub struct RawTree {
    dir: tempfile::TempDir,
}

impl RawTree {
    pub fn new() -> RawTree {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("raw")).unwrap();
        fs::write(dir.path().join("placeholder"), vec![7u8; 2000]).unwrap();
        RawTree { dir }
    }

    pub fn raw(&self) -> PathBuf {
        self.dir.path().join("raw")
    }

    /// Returns the path of a file, whose folder is created if it is missing.
    fn path(&self, file: &str) -> PathBuf {
        let path = self.raw().join(file);
        let parent = path.parent().unwrap();
        if !parent.is_dir() {
            fs::create_dir_all(parent).unwrap();
        }
        path
    }

    /// Adds a media file. It is a hard link to one small file, so that full-size trees take no
    /// space.
    pub fn media(&self, file: &str) -> &RawTree {
        fs::hard_link(self.dir.path().join("placeholder"), self.path(file)).unwrap();
        self
    }

    /// Adds a media file of a given size.
    pub fn sized(&self, file: &str, bytes: u64) -> &RawTree {
        let handle = fs::File::create(self.path(file)).unwrap();
        handle.set_len(bytes).unwrap();
        self
    }

    /// Adds a text file.
    pub fn text(&self, file: &str, text: impl AsRef<[u8]>) -> &RawTree {
        fs::write(self.path(file), text).unwrap();
        self
    }

    /// Adds a Git LFS pointer, as in a clone without Git LFS.
    pub fn pointer(&self, file: &str) -> &RawTree {
        self.text(
            file,
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 72862\n",
        )
    }

    /// Adds a copy of a file.
    pub fn copy(&self, from: &Path, file: &str) -> &RawTree {
        fs::copy(from, self.path(file)).unwrap();
        self
    }
}

/// Lists the tree as a dataset, and checks the listing's invariants.
pub fn list(dataset: &str, tree: &RawTree, options: &ListOptions) -> Listing {
    let dataset = open(dataset).unwrap();
    let listing = dataset
        .list(&tree.raw(), options)
        .unwrap_or_else(|error| panic!("{error}"));
    check_invariants(dataset.info(), &listing);
    listing
}

/// Returns the error of listing the tree, which must be one line.
pub fn list_error(dataset: &str, tree: &RawTree) -> String {
    let dataset = open(dataset).unwrap();
    let error = dataset.list(&tree.raw(), &ListOptions::default());
    let text = error.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Counts the samples of each split.
pub fn counts(listing: &Listing) -> [usize; 3] {
    Split::ALL.map(|split| listing.count(split))
}

/// Counts the samples of one split by class name.
pub fn per_class(info: &Info, listing: &Listing, split: Split) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for sample in listing.split(split) {
        for &label in &sample.labels {
            *counts
                .entry(info.classes[label as usize].clone())
                .or_default() += 1;
        }
    }
    counts
}

/// Describes an input: its files, its text in quotes, or `!` and the cause of its absence.
pub fn input_text(input: &Input) -> String {
    match input {
        Input::Files(files) => {
            let names: Vec<String> = files.iter().map(|one| one.display().to_string()).collect();
            names.join(" | ")
        }
        Input::Text(text) => format!("\"{text}\""),
        Input::TableCell { column, row, .. } => format!("{column}[{row}]"),
        Input::TextFile { path, .. } => format!("text of {}", path.display()),
        Input::None => "none".to_owned(),
        Input::Absent(cause) => format!("! {cause}"),
    }
}

/// Finds the sample with this id.
pub fn sample<'a>(listing: &'a Listing, id: &str) -> &'a Sample {
    let mut found = listing.samples.iter().filter(|one| one.id == id);
    let first = found.next().unwrap_or_else(|| panic!("no sample {id}"));
    assert!(found.next().is_none(), "{id} twice");
    first
}

/// Returns the notes of one kind as `subject: message`.
pub fn notes(listing: &Listing, kind: NoteKind) -> Vec<String> {
    let of_kind = |note: &&Note| note.kind == kind;
    let say = |note: &Note| format!("{}: {}", note.subject, note.message);
    listing.notes.iter().filter(of_kind).map(say).collect()
}

/// Checks what holds for every listing.
pub fn check_invariants(info: &Info, listing: &Listing) {
    let mut ids: Vec<&str> = listing.samples.iter().map(|one| one.id.as_str()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "ids repeat");
    let splits: Vec<Split> = listing.samples.iter().map(|one| one.split).collect();
    assert!(splits.is_sorted(), "splits are mixed");
    for sample in &listing.samples {
        assert!(
            !sample.id.contains(['/', '\\', '\n', '\0'])
                && sample.id.len() <= datasets::MAX_ID_BYTES
        );
        assert!(
            info.multi_label || sample.labels.len() == 1,
            "{}",
            sample.id
        );
        assert!(
            sample.labels.windows(2).all(|pair| pair[0] < pair[1]),
            "{}",
            sample.id
        );
        assert!(
            sample
                .labels
                .iter()
                .all(|&one| (one as usize) < info.classes.len())
        );
        assert!(!sample.source.is_empty() && !sample.source.starts_with('/'));
        for input in &sample.inputs {
            match input {
                Input::Files(files) => {
                    assert!(!files.is_empty() && files.iter().all(|file| file.is_relative()));
                }
                Input::Text(text) => assert!(!text.trim().is_empty(), "{}", sample.id),
                _ => {}
            }
        }
    }
}
