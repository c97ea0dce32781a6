//! The names in a raw tree, sorted, and the queries that all datasets make.
//!
//! Walking a tree reads folders only; [`crate::finder`] examines a file when a sample names it.
//! Paths are strings relative to the raw root, with `/` on every system, so that order and output
//! do not depend on the machine. Hidden entries (`.git`, `._x.jpg`), `__MACOSX` and `lost+found` do
//! not belong to the tree, nor do names that are no UTF-8, which no dataset has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::encoding::decode;
use crate::error::Error;
use crate::types::Split;

/// The depth to which folders are walked. It suffices for a tree in an archive in an unpacked
/// download, and ends a walk through cyclic links.
const MAX_DEPTH: usize = 8;

/// Names that do not belong to a tree: what macOS packs beside the files, and the folder for
/// repairs at the top of a disk, which only its administrator may list.
const FOREIGN: [&str; 2] = ["__MACOSX", "lost+found"];

/// The first bytes of a Git LFS pointer.
pub const LFS_PREFIX: &[u8] = b"version https://git-lfs";

/// The size that every Git LFS pointer is below, by its specification.
const LFS_MAX_BYTES: u64 = 1024;

/// The names of the files and folders below a raw root.
pub(crate) struct Tree {
    root: PathBuf,
    /// Whether `files` and `dirs` are known.
    walked: bool,
    files: BTreeSet<String>,
    dirs: BTreeSet<String>,
    /// Folders that cannot be listed, with the reason.
    closed: BTreeMap<String, String>,
}

impl Tree {
    /// Walks the tree below `root`. `remedy` says what the folder should hold, for error messages.
    ///
    /// # Errors
    /// The folder is missing, holds no files, or cannot be read. A folder in it that cannot be listed
    /// is no error: see [`Tree::closed`].
    pub(crate) fn walk(root: &Path, remedy: &str) -> Result<Tree, Error> {
        let mut tree = Tree::unwalked(root, remedy)?;
        tree.walked = true;
        tree.descend("", 0)?;
        if tree.files.is_empty() && tree.closed.is_empty() {
            return Err(Error::raw(root, "the folder holds no files", remedy));
        }
        Ok(tree)
    }

    /// Makes a tree of unknown contents, for annotations that give the path of every file.
    ///
    /// # Errors
    /// The folder is missing or cannot be read.
    pub(crate) fn unwalked(root: &Path, remedy: &str) -> Result<Tree, Error> {
        match fs::metadata(root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::raw(root, "no such folder", remedy))
            }
            Err(error) => Err(Error::io(root, error)),
            Ok(meta) if !meta.is_dir() => Err(Error::raw(root, "is a file, not a folder", remedy)),
            Ok(_) => Ok(Tree {
                root: root.to_owned(),
                walked: false,
                files: BTreeSet::new(),
                dirs: BTreeSet::from([String::new()]),
                closed: BTreeMap::new(),
            }),
        }
    }

    fn descend(&mut self, dir: &str, depth: usize) -> Result<(), Error> {
        let path = self.root.join(dir);
        let entries = match fs::read_dir(&path) {
            Err(error) if !dir.is_empty() => {
                self.closed.insert(dir.to_owned(), describe(&error));
                return Ok(());
            }
            entries => entries.map_err(|error| Error::io(&path, error))?,
        };
        let mut below = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io(&path, error))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with('.') || FOREIGN.contains(&name) {
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(|error| Error::io(&entry.path(), error))?;
            let is_dir = if kind.is_symlink() {
                // A dangling link counts as missing.
                let Ok(meta) = fs::metadata(entry.path()) else {
                    continue;
                };
                meta.is_dir()
            } else {
                kind.is_dir()
            };
            let full = join(dir, name);
            if !is_dir {
                self.files.insert(full);
            } else if depth < MAX_DEPTH && !(kind.is_symlink() && is_above(&entry.path(), &path)) {
                below.push(full);
            }
        }
        for dir in below {
            self.descend(&dir, depth + 1)?;
            self.dirs.insert(dir);
        }
        Ok(())
    }

    /// The raw root, as the caller gave it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the files and folders are known.
    pub(crate) fn is_walked(&self) -> bool {
        self.walked
    }

    /// Whether the file may exist: the walk found it, or the tree or its folder was not walked.
    pub(crate) fn may_have(&self, file: &str) -> bool {
        let is_in = |dir: &String| {
            file.strip_prefix(dir.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        !self.walked || self.has_file(file) || self.closed.keys().any(is_in)
    }

    /// The folders that cannot be listed, with the reason.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (&str, &str)> {
        let closed = self.closed.iter();
        closed.map(|(dir, reason)| (dir.as_str(), reason.as_str()))
    }

    /// The path of a file of the tree, including the raw root.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    pub(crate) fn has_file(&self, file: &str) -> bool {
        self.files.contains(file)
    }

    /// All files, sorted by path.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// All files below a folder, at any depth, sorted by path.
    pub(crate) fn files_below<'a>(&'a self, dir: &str) -> impl Iterator<Item = &'a str> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        self.files
            .range(prefix.clone()..)
            .take_while(move |file| file.starts_with(&prefix))
            .map(String::as_str)
    }

    /// Finds the folder nearest to the root that `matches` accepts; of several, the first by path.
    /// The root itself is "".
    pub(crate) fn find_dir(&self, matches: impl Fn(&str) -> bool) -> Option<&str> {
        self.dirs
            .iter()
            .map(String::as_str)
            .filter(|dir| matches(dir))
            .min_by_key(|dir| (depth(dir), *dir))
    }

    /// Finds the folder `name` directly in `dir`, in any letter case.
    pub(crate) fn child_dir(&self, dir: &str, name: &str) -> Option<&str> {
        let wanted = join(dir, name);
        self.dirs.get(&wanted).map(String::as_str).or_else(|| {
            self.dirs
                .iter()
                .find(|one| one.eq_ignore_ascii_case(&wanted))
                .map(String::as_str)
        })
    }

    /// Reads a file of which only its first lines are examined, and which need not be text.
    pub(crate) fn probe(&self, file: &str) -> Result<String, Error> {
        let path = self.path(file);
        let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_start_matches('\u{feff}').to_owned())
    }

    /// Reads a text file of the tree, as [`read_text`] does.
    pub(crate) fn read(&self, file: &str) -> Result<String, Error> {
        read_text(&self.path(file))
    }
}

/// Finds the annotation file of each split, which `split_of` recognises. Of several it is the one
/// nearest to the root, then the first by path.
pub(crate) fn per_split(
    tree: &Tree,
    split_of: impl Fn(&str) -> Result<Option<Split>, Error>,
) -> Result<BTreeMap<Split, &str>, Error> {
    let mut found: BTreeMap<Split, &str> = BTreeMap::new();
    for file in tree.files() {
        if let Some(split) = split_of(file)? {
            let best = found.entry(split).or_insert(file);
            if depth(file) < depth(best) {
                *best = file;
            }
        }
    }
    Ok(found)
}

/// Returns the error for a tree of no known layout. It names an archive that has to be unpacked, if
/// there is one.
pub(crate) fn no_layout(tree: &Tree, problem: &str, remedy: &str) -> Error {
    const ARCHIVES: [&str; 4] = [".zip", ".tar", ".tgz", ".tar.gz"];
    let packed = tree
        .files()
        .find(|file| ARCHIVES.iter().any(|ending| file.ends_with(ending)));
    match packed {
        Some(file) => {
            let remedy = format!("unpack {file} first ({remedy})");
            Error::raw(&tree.root, problem, remedy)
        }
        None => Error::raw(&tree.root, problem, remedy),
    }
}

/// Whether a link in `dir` points to a folder above it.
fn is_above(link: &Path, dir: &Path) -> bool {
    match (link.canonicalize(), dir.canonicalize()) {
        (Ok(target), Ok(dir)) => dir.starts_with(target),
        _ => true,
    }
}

/// Returns `dir/name`, or `name` if `dir` is the root.
pub(crate) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// Returns the folder of a file; "" is the root.
pub(crate) fn parent(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Returns the name of a file without its folders.
pub(crate) fn base_name(file: &str) -> &str {
    file.rsplit_once('/').map_or(file, |(_, name)| name)
}

/// Splits a name into stem and extension, which is empty for a name without a dot.
pub(crate) fn split_extension(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// Returns how many levels a path lies below the root.
pub(crate) fn depth(dir: &str) -> usize {
    if dir.is_empty() {
        0
    } else {
        1 + dir.matches('/').count()
    }
}

/// Reads a text file in UTF-8, or in another encoding that its byte-order mark tells. The mark is
/// removed.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
    Ok(decode(path, &bytes, None)?
        .trim_start_matches('\u{feff}')
        .to_owned())
}

/// The lines of a text that are not blank, with their numbers from 1, without `\r` and byte-order
/// marks.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n')
        .map(|line| line.trim_matches(['\r', '\u{feff}']))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// The state of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// The file holds this many bytes and is no Git LFS pointer.
    Media(u64),
    /// The file holds no bytes.
    Empty,
    /// The file is a Git LFS pointer.
    Pointer,
    /// There is no such file.
    Missing,
    /// There is something that cannot be read, for this reason.
    Unreadable(String),
}

/// Examines the size of a file, opens it and, if it is small enough for a Git LFS pointer, reads its
/// first bytes. Only a regular file is opened.
pub(crate) fn state(path: &Path) -> State {
    let bytes = match fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(meta) if meta.is_dir() => return State::Unreadable("a folder, not a file".to_owned()),
        Ok(_) => return State::Unreadable("not a regular file".to_owned()),
        Err(error) => return state_of_error(&error),
    };
    if bytes == 0 {
        return State::Empty;
    }
    let mut head = Vec::new();
    let wanted = if bytes < LFS_MAX_BYTES {
        LFS_PREFIX.len() as u64
    } else {
        0
    };
    let opened = File::open(path).and_then(|file| file.take(wanted).read_to_end(&mut head));
    match opened {
        Err(error) => state_of_error(&error),
        Ok(_) if head == LFS_PREFIX => State::Pointer,
        Ok(_) => State::Media(bytes),
    }
}

fn state_of_error(error: &io::Error) -> State {
    match error.kind() {
        // A file in place of a folder, and a name that no file can have, count as missing.
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => State::Missing,
        _ => State::Unreadable(describe(error)),
    }
}

/// Describes an error as the system does, without its number.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_is_sorted_and_skips_hidden_entries_and_cyclic_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(root.join("__MACOSX")).unwrap();
        for file in [
            "b/c/z.wav",
            "b/-a.wav",
            "a.csv",
            ".git/x",
            "__MACOSX/y",
            "b/._q.wav",
        ] {
            fs::write(root.join(file), "x").unwrap();
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
            std::os::unix::fs::symlink("nowhere", root.join("b/dangling.wav")).unwrap();
        }
        let tree = Tree::walk(root, "").unwrap();
        assert_eq!(
            tree.files().collect::<Vec<_>>(),
            ["a.csv", "b/-a.wav", "b/c/z.wav"]
        );
        assert_eq!(
            tree.files_below("b").collect::<Vec<_>>(),
            ["b/-a.wav", "b/c/z.wav"]
        );
        assert_eq!(tree.child_dir("b", "C"), Some("b/c"));
        assert_eq!(tree.find_dir(|one| one.ends_with('c')), Some("b/c"));
    }

    #[test]
    fn missing_and_empty_folders_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tree::walk(dir.path(), "put clips there").err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains("holds no files; put clips there") && text.contains("/"),
            "{text}"
        );
        let error = Tree::walk(&dir.path().join("nix"), "x").err().unwrap();
        assert!(error.to_string().contains("nix: no such folder"));
    }

    #[test]
    fn lines_omit_carriage_returns_byte_order_marks_and_blank_lines() {
        let text = "\u{feff}a\r\n\r\nb\n \nc";
        assert_eq!(
            lines(text).collect::<Vec<_>>(),
            [(1, "a"), (3, "b"), (5, "c")]
        );
    }
}
