//! Turns the file names of an annotation into [`Input`]s and collects notes about what it finds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, shorten};
use crate::near_names::NearNames;
use crate::tree::{State, Tree, state};
use crate::types::{AbsenceCause, Input, Note, NoteKind, Sample};

/// Examines the files that samples name, each file once, and collects notes.
pub(crate) struct Finder<'a> {
    tree: &'a Tree,
    states: BTreeMap<String, State>,
    notes: Vec<Note>,
    near_names: NearNames<'a>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(tree: &'a Tree) -> Finder<'a> {
        let closed = tree.closed().map(|(dir, reason)| {
            let message = format!("this folder cannot be read ({reason})");
            Note::new(NoteKind::Unreadable, dir, message)
        });
        Finder {
            tree,
            states: BTreeMap::new(),
            notes: closed.collect(),
            near_names: NearNames::new(tree),
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

    /// Examines the file at a path of the tree. The first call for a file that is empty, a Git LFS
    /// pointer or cannot be read adds a note.
    pub(crate) fn state(&mut self, file: &str) -> State {
        if let Some(state) = self.states.get(file) {
            return state.clone();
        }
        let state = if self.tree.may_have(file) {
            state(&self.tree.path(file))
        } else {
            State::Missing
        };
        match &state {
            State::Empty => self.note(NoteKind::Empty, file, "the file holds no bytes"),
            State::Pointer => self.note(
                NoteKind::LfsPointer,
                file,
                "a Git LFS pointer lies in place of the file; run `git lfs pull`",
            ),
            State::Unreadable(reason) => {
                let message = format!("cannot be read ({reason})");
                self.note(NoteKind::Unreadable, file, message);
            }
            State::Media(_) | State::Missing => {}
        }
        self.states.insert(file.to_owned(), state.clone());
        state
    }

    /// Whether a file exists and holds no bytes; adds no note.
    pub(crate) fn is_empty(&self, file: &str) -> bool {
        state(&self.tree.path(file)) == State::Empty
    }

    /// Returns the usable files among `candidates`, in the same order, best first.
    ///
    /// The first candidate is the one that should exist: if it does not, a note says so and names
    /// the file that is used instead. If no candidate is usable, the cause is that of the first
    /// file that exists, or that the first candidate does not.
    pub(crate) fn input(&mut self, id: &str, candidates: &[String]) -> Input {
        let mut usable = Vec::new();
        let mut cause = None;
        let mut first_missing = false;
        for (rank, file) in candidates.iter().enumerate() {
            match self.state(file) {
                State::Media(_) => usable.push(PathBuf::from(file)),
                State::Empty => {
                    cause.get_or_insert_with(|| AbsenceCause::EmptyFile(file.clone()));
                }
                State::Pointer => {
                    cause.get_or_insert_with(|| AbsenceCause::LfsPointer(file.clone()));
                }
                State::Unreadable(reason) => {
                    let file = file.clone();
                    cause.get_or_insert(AbsenceCause::Closed { file, reason });
                }
                State::Missing => first_missing |= rank == 0,
            }
        }
        // The names of a tree that was walked are the publisher's, of which every form is known.
        let meant = match usable.is_empty() && first_missing && !self.tree.is_walked() {
            true => self.near_names.find(&candidates[0]),
            false => None,
        };
        if first_missing {
            let meant = meant
                .as_ref()
                .map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            let instead = usable.first().map_or_else(String::new, |other: &PathBuf| {
                format!("; {} is used instead", other.display())
            });
            let message = format!("there is no {}{instead}{meant}", candidates[0]);
            let note = Note::new(NoteKind::Missing, id, message);
            // Audio and video of one file are examined one after the other.
            if self.notes.last() != Some(&note) {
                self.notes.push(note);
            }
        }
        if usable.is_empty() {
            let cause = cause.unwrap_or_else(|| {
                let name = candidates.first().map_or("the file", String::as_str);
                let file = name.to_owned();
                match meant {
                    Some(meant) => AbsenceCause::Misnamed { file, meant },
                    None => AbsenceCause::NoFile(file),
                }
            });
            return Input::Absent(cause);
        }
        Input::Files(usable)
    }

    /// Returns the notes.
    ///
    /// # Errors
    /// No sample has a usable input, so that this cannot be the tree that the annotation is about.
    pub(crate) fn finish(self, samples: &[Sample], remedy: &str) -> Result<Vec<Note>, Error> {
        let any_present = samples
            .iter()
            .any(|one| one.inputs.iter().any(Input::is_present));
        if any_present {
            return Ok(self.notes);
        }
        let states = self.states.values();
        let pointers = states.filter(|&one| *one == State::Pointer).count();
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
        let mut inputs = samples.iter().flat_map(|one| &one.inputs);
        let hint = inputs.find_map(|input| match input {
            Input::Absent(cause @ AbsenceCause::Misnamed { .. }) => Some(format!(" ({cause})")),
            _ => None,
        });
        Err(Error::raw(
            self.tree.root(),
            format!(
                "not one of the {} annotated samples has a file here{}",
                samples.len(),
                hint.unwrap_or_default()
            ),
            remedy,
        ))
    }
}

/// Adds a note for every source file that several samples share, and a second one if these belong
/// to several splits.
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
