//! Compares files with published hashes, such as those in the Git LFS pointers of CREMA-D, which a
//! table collects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::Serialize;
use util::hash::sha256_of_file;

use crate::error::{Error, shorten};
use crate::tree::{State, Tree, base_name, join, lines, parent, read_text, state};
use crate::types::{Note, NoteKind};

/// The comparison of the files with one list of hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HashCheck {
    /// The path of the list.
    pub list: String,
    /// The number of rows in the list.
    pub rows: usize,
    /// The number of files whose size and hash are right.
    pub right: usize,
    /// The number of files that are Git LFS pointers.
    pub pointers: usize,
    /// Paths, as in the list, of files that do not exist.
    pub absent: Vec<String>,
    /// Files whose content differs from the published one.
    pub wrong: Vec<WrongFile>,
}

/// A file that differs from the published one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WrongFile {
    /// The path, as in the list.
    pub path: String,
    /// What is wrong with the file, for people.
    pub problem: String,
}

/// Compares the files with the given lists or, if none is given, with every `lfs_pointers_*.tsv`
/// below the raw root. Without any list a note says so.
pub(crate) fn verify(
    raw: &Path,
    lists: &[PathBuf],
    notes: &mut Vec<Note>,
) -> Result<Vec<HashCheck>, Error> {
    let tree = Tree::walk(raw, "expected the dataset there")?;
    let mut lists = lists.to_owned();
    if lists.is_empty() {
        let is_list = |file: &&str| {
            let name = base_name(file);
            name.starts_with("lfs_pointers_") && name.ends_with(".tsv")
        };
        lists.extend(tree.files().filter(is_list).map(|file| tree.path(file)));
    }
    if lists.is_empty() {
        let message =
            "no lfs_pointers_*.tsv here: nothing to verify against; name a list with --hashes";
        notes.push(Note::new(NoteKind::Choice, "hashes", message));
    }
    lists.iter().map(|list| verify_list(&tree, list)).collect()
}

/// A row of a list of hashes.
struct Row {
    path: String,
    sha256: String,
    size: u64,
}

/// Reads a list of `path`, `sha256` and `size`, separated by tabs, below a header.
fn read_list(list: &Path) -> Result<Vec<Row>, Error> {
    let text = read_text(list)?;
    let mut rows = Vec::new();
    for (line, content) in lines(&text).filter(|&(line, _)| line > 1) {
        let fields: Vec<&str> = content.split('\t').map(str::trim).collect();
        let row = match fields[..] {
            [path, sha256, size] if is_sha256(sha256) && is_relative(path) => {
                size.parse().ok().map(|size| Row {
                    path: path.to_owned(),
                    sha256: sha256.to_ascii_lowercase(),
                    size,
                })
            }
            _ => None,
        };
        let row = row.ok_or_else(|| {
            Error::annotation(
                list,
                Some(line),
                format!("\"{}\" is no row of a list of hashes", shorten(content)),
                "expected path, lfs_sha256 and lfs_size, separated by tabs, below a header line",
            )
        })?;
        rows.push(row);
    }
    Ok(rows)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

/// The result of comparing one row with its file.
enum Outcome {
    Right,
    Pointer,
    Absent,
    Wrong(String),
}

fn verify_list(tree: &Tree, list: &Path) -> Result<HashCheck, Error> {
    let rows = read_list(list)?;
    // The paths of the list are relative to an unknown folder of the tree: find it by the name of
    // the file's folder.
    let mut folders: BTreeMap<&str, String> = BTreeMap::new();
    for row in &rows {
        let dir = parent(&row.path);
        folders.entry(dir).or_insert_with(|| {
            let ending = format!("/{dir}");
            let found = tree.find_dir(|one| one == dir || one.ends_with(&ending));
            found.unwrap_or(dir).to_owned()
        });
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(row) = rows.get(index) else {
                return done;
            };
            let file = join(&folders[parent(&row.path)], base_name(&row.path));
            done.push((index, compare(&tree.path(&file), row)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes: Vec<(usize, Outcome)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.collect()
    });
    outcomes.sort_by_key(|&(index, _)| index);
    let mut check = HashCheck {
        list: list.display().to_string(),
        rows: rows.len(),
        ..HashCheck::default()
    };
    for (index, outcome) in outcomes {
        let path = rows[index].path.clone();
        match outcome {
            Outcome::Right => check.right += 1,
            Outcome::Pointer => check.pointers += 1,
            Outcome::Absent => check.absent.push(path),
            Outcome::Wrong(problem) => check.wrong.push(WrongFile { path, problem }),
        }
    }
    Ok(check)
}

fn compare(file: &Path, row: &Row) -> Outcome {
    match state(file) {
        State::Unreadable(reason) => Outcome::Wrong(format!("cannot be read: {reason}")),
        State::Missing => Outcome::Absent,
        State::Pointer => Outcome::Pointer,
        State::Empty => Outcome::Wrong("the file holds no bytes".to_owned()),
        State::Media(bytes) if bytes != row.size => {
            Outcome::Wrong(format!("{bytes} bytes instead of {}", row.size))
        }
        State::Media(_) => match sha256_of_file(file) {
            Err(error) => Outcome::Wrong(error.to_string()),
            Ok((_, found)) if found != row.sha256 => {
                Outcome::Wrong("the right size and another content".to_owned())
            }
            Ok(_) => Outcome::Right,
        },
    }
}
