//! Builds raw trees in temporary folders and puts listings into words.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use datasets::{Info, Input, ListOptions, Listing, Note, NoteKind, Sample, Split, open};

/// The folder with the real annotation files of one dataset, which are not part of the project; where they
/// are absent, the test is reported as skipped.
#[track_caller]
pub fn annotations(dataset: &str) -> Option<PathBuf> {
    util::skip::shared(&format!("datasets/annotations/{dataset}"))
}

/// A raw tree in the making.
pub struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("raw")).unwrap();
        fs::write(dir.path().join("stand-in"), vec![7u8; 2000]).unwrap();
        Stage { dir }
    }

    pub fn raw(&self) -> PathBuf {
        self.dir.path().join("raw")
    }

    fn place(&self, file: &str) -> PathBuf {
        let path = self.raw().join(file);
        let parent = path.parent().unwrap();
        if !parent.is_dir() {
            fs::create_dir_all(parent).unwrap();
        }
        path
    }

    /// A media file: a hard link of one small file, so that full-size trees cost names only.
    pub fn media(&self, file: &str) -> &Stage {
        fs::hard_link(self.dir.path().join("stand-in"), self.place(file)).unwrap();
        self
    }

    /// A media file of a certain size.
    pub fn sized(&self, file: &str, bytes: u64) -> &Stage {
        let handle = fs::File::create(self.place(file)).unwrap();
        handle.set_len(bytes).unwrap();
        self
    }

    pub fn text(&self, file: &str, text: impl AsRef<[u8]>) -> &Stage {
        fs::write(self.place(file), text).unwrap();
        self
    }

    /// What a clone without Git LFS leaves.
    pub fn pointer(&self, file: &str) -> &Stage {
        self.text(
            file,
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 72862\n",
        )
    }

    pub fn copy(&self, from: &Path, file: &str) -> &Stage {
        fs::copy(from, self.place(file)).unwrap();
        self
    }
}

/// A dataset's listing of the tree, in order.
pub fn list(dataset: &str, stage: &Stage, options: &ListOptions) -> Listing {
    let dataset = open(dataset).unwrap();
    let listing = dataset
        .list(&stage.raw(), options)
        .unwrap_or_else(|error| panic!("{error}"));
    check_invariants(dataset.info(), &listing);
    listing
}

/// The one line by which a dataset refuses the tree.
pub fn refused(dataset: &str, stage: &Stage) -> String {
    let dataset = open(dataset).unwrap();
    let error = dataset.list(&stage.raw(), &ListOptions::default());
    let text = error.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Samples per split.
pub fn counts(listing: &Listing) -> [usize; 3] {
    Split::ALL.map(|split| listing.count(split))
}

/// Samples per class name of one split.
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

/// An input in words: its files, its text in quotes, or why it is absent.
pub fn words(input: &Input) -> String {
    match input {
        Input::Files(files) => {
            let names: Vec<String> = files.iter().map(|one| one.display().to_string()).collect();
            names.join(" | ")
        }
        Input::Text(text) => format!("\"{text}\""),
        Input::TextFile(file) => format!("text of {}", file.display()),
        Input::None => "none".to_owned(),
        Input::Absent(cause) => format!("! {cause}"),
    }
}

/// The sample with this id.
pub fn sample<'a>(listing: &'a Listing, id: &str) -> &'a Sample {
    let mut found = listing.samples.iter().filter(|one| one.id == id);
    let first = found.next().unwrap_or_else(|| panic!("no sample {id}"));
    assert!(found.next().is_none(), "{id} twice");
    first
}

/// Notes of one kind as `subject: message`.
pub fn notes(listing: &Listing, kind: NoteKind) -> Vec<String> {
    let of_kind = |note: &&Note| note.kind == kind;
    let say = |note: &Note| format!("{}: {}", note.subject, note.message);
    listing.notes.iter().filter(of_kind).map(say).collect()
}

/// What must hold of every listing.
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
