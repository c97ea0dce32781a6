//! Turns the names that an annotation gives into [`Input`]s, and keeps account of what it met on the way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, shorten};
use crate::tree::{State, Tree, state};
use crate::types::{Input, Note, NoteKind, Sample};

/// Looks at files, each once, and collects notes.
pub(crate) struct Finder<'a> {
    tree: &'a Tree,
    seen: BTreeMap<String, State>,
    pub(crate) notes: Vec<Note>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(tree: &'a Tree) -> Finder<'a> {
        Finder {
            tree,
            seen: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(
        &mut self,
        kind: NoteKind,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.notes.push(Note::new(kind, subject, message));
    }

    /// What lies under a name of the tree. The first look at an empty file or a pointer leaves a note.
    pub(crate) fn state(&mut self, file: &str) -> Result<State, Error> {
        if let Some(&state) = self.seen.get(file) {
            return Ok(state);
        }
        let state = if self.tree.may_have(file) {
            state(&self.tree.path(file))?
        } else {
            State::Missing
        };
        match state {
            State::Empty => self.note(NoteKind::Empty, file, "the file holds no bytes"),
            State::Pointer => self.note(
                NoteKind::LfsPointer,
                file,
                "a Git LFS pointer lies in place of the file; run `git lfs pull`",
            ),
            State::Media(_) | State::Missing => {}
        }
        self.seen.insert(file.to_owned(), state);
        Ok(state)
    }

    /// Whether a file is there and holds no bytes; leaves no note.
    pub(crate) fn is_empty(&self, file: &str) -> bool {
        matches!(state(&self.tree.path(file)), Ok(State::Empty))
    }

    /// The usable ones of `candidates`, best first. The first candidate is the one that ought to be there: where it
    /// is not, a note says so, and what is used instead.
    pub(crate) fn input(&mut self, id: &str, candidates: &[String]) -> Result<Input, Error> {
        let mut usable = Vec::new();
        let mut reason = None;
        let mut first_missing = false;
        for (rank, file) in candidates.iter().enumerate() {
            match self.state(file)? {
                State::Media(_) => usable.push(PathBuf::from(file)),
                State::Empty => {
                    reason = reason.or_else(|| Some(format!("{file} holds no bytes")));
                }
                State::Pointer => {
                    reason = reason.or_else(|| {
                        Some(format!("{file} is a Git LFS pointer; run `git lfs pull`"))
                    });
                }
                State::Missing => first_missing |= rank == 0,
            }
        }
        if first_missing {
            let instead = usable.first().map_or_else(String::new, |other: &PathBuf| {
                format!("; {} is used instead", other.display())
            });
            let message = format!("there is no {}{instead}", candidates[0]);
            let note = Note::new(NoteKind::Missing, id, message);
            // Sound and picture of one file are asked for one after the other.
            if self.notes.last() != Some(&note) {
                self.notes.push(note);
            }
        }
        if usable.is_empty() {
            let reason = reason.unwrap_or_else(|| {
                let name = candidates.first().map_or("the file", String::as_str);
                format!("there is no {name}")
            });
            return Ok(Input::absent(reason));
        }
        Ok(Input::Files(usable))
    }

    /// The notes, once it is clear that the tree holds anything at all for the annotation.
    pub(crate) fn finish(self, samples: &[Sample], remedy: &str) -> Result<Vec<Note>, Error> {
        let anything = samples
            .iter()
            .any(|one| one.inputs.iter().any(Input::is_present));
        if anything {
            return Ok(self.notes);
        }
        let pointers = self
            .seen
            .values()
            .filter(|&&one| one == State::Pointer)
            .count();
        if pointers > 0 {
            return Err(Error::LfsPointers {
                path: self.tree.root().to_owned(),
                count: pointers,
            });
        }
        if samples.is_empty() {
            return Err(Error::raw(
                self.tree.root(),
                "no annotated sample in it",
                remedy,
            ));
        }
        Err(Error::raw(
            self.tree.root(),
            format!(
                "not one of the {} annotated samples has a file here",
                samples.len()
            ),
            remedy,
        ))
    }
}

/// Leaves a note on every source file that carries several samples, and says so where they are in several splits.
pub(crate) fn note_shared_files(samples: &[Sample], finder: &mut Finder<'_>) {
    let mut users: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        users.entry(&sample.source).or_default().push(sample);
    }
    for (file, users) in users.iter().filter(|(_, users)| users.len() > 1) {
        let ids: Vec<&str> = users.iter().map(|one| one.id.as_str()).collect();
        let message = format!(
            "carries {} samples: {}",
            ids.len(),
            shorten(&ids.join(", "))
        );
        finder.note(NoteKind::SharedFile, *file, message);
        let mut splits: Vec<&str> = users.iter().map(|one| one.split.as_str()).collect();
        splits.dedup();
        if splits.len() > 1 {
            let message = format!("carries samples of {}", splits.join(" and "));
            finder.note(NoteKind::SplitLeak, *file, message);
        }
    }
}
