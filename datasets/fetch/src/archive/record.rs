//! What has been fetched of an archive, so that another process goes on and nothing is fetched twice.
//!
//! `RAW/.fetch/KEY.json` holds the position, `RAW/.fetch/KEY.kept` the files that were kept, one a
//! line. The first says how much of the second counts, so that both are of one moment; what follows
//! are files that a process has written since, which will be written again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gzip::Point;
use super::names;
pub use super::names::FOLDER;

/// Where lists of an archive lie as the publisher made them. With `--limit` those in the tree are
/// shorter.
pub const ORIGINALS: &str = ".fetch/lists/";

/// The version of the form of a record.
const VERSION: u32 = 1;

/// The end of the line of a file that was there before; no path has a tab.
const WAS_THERE: &str = "\tfound";

/// What was fetched of an archive at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedState {
    version: u32,
    /// The address of the archive.
    pub address: String,
    /// What the user asked for. With other options another part of an archive is kept.
    pub options: String,
    /// The version of the archive on the server.
    pub validator: Option<String>,
    /// Whether all is done.
    pub done: bool,
    /// The beginning of the next member, in bytes of the tar.
    pub position: u64,
    /// Where to go on in the gzip file, if it is one.
    pub point: Option<Point>,
    /// The members that were read.
    pub members: u64,
    /// The bytes of the list of files that count.
    list_bytes: u64,
}

impl SavedState {
    /// Reads what was saved, if it is there and can be read.
    fn read(raw: &Path, key: &str) -> Option<SavedState> {
        let text = fs::read(raw.join(FOLDER).join(format!("{key}.json"))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Nothing of an archive.
    pub fn nothing(address: &str, options: &str) -> SavedState {
        SavedState {
            version: VERSION,
            address: address.to_owned(),
            options: options.to_owned(),
            validator: None,
            done: false,
            position: 0,
            point: None,
            members: 0,
            list_bytes: 0,
        }
    }
}

/// The record of an archive.
pub struct Record {
    raw: PathBuf,
    key: String,
    /// The files that are on the disk, with their sizes, by their paths below the raw folder.
    pub kept: BTreeMap<String, u64>,
    /// The files among them that were there before, which a damaged archive does not remove.
    found: BTreeSet<String>,
    /// The files among them that no saved record has yet.
    unsaved: Vec<String>,
    /// Files of a process that was killed, which no saved record has.
    leftover: Vec<String>,
    /// The list, once something is added to it, and how much of it counts.
    list: Option<File>,
    list_bytes: u64,
}

impl Record {
    /// Opens the record `key`. Returns what was fetched, unless the options were others.
    ///
    /// # Errors
    /// A file of the record cannot be read or removed.
    pub fn open(raw: &Path, key: &str, options: &str) -> io::Result<(Record, Option<SavedState>)> {
        fs::create_dir_all(raw.join(FOLDER))?;
        let mut record = Record {
            raw: raw.to_owned(),
            key: key.to_owned(),
            kept: BTreeMap::new(),
            found: BTreeSet::new(),
            unsaved: Vec::new(),
            leftover: Vec::new(),
            list: None,
            list_bytes: 0,
        };
        let saved = SavedState::read(raw, key);
        let fits = |one: &SavedState| one.version == VERSION && one.options == options;
        let Some(saved) = saved.filter(fits) else {
            record.forget()?;
            return Ok((record, None));
        };
        let list = fs::read(record.path("kept")).unwrap_or_default();
        let Some((counted, more)) = list.split_at_checked(saved.list_bytes as usize) else {
            record.forget()?;
            return Ok((record, None));
        };
        for (path, size, was_there) in lines(counted) {
            if was_there {
                record.found.insert(path.clone());
            }
            record.kept.insert(path, size);
        }
        let own = lines(more).into_iter().filter(|one| !one.2);
        record.leftover.extend(own.map(|(path, ..)| path));
        record.list_bytes = saved.list_bytes;
        let is_there = |(path, size): (&String, &u64)| {
            fs::metadata(raw.join(path)).is_ok_and(|file| file.len() == *size)
        };
        // What is not of this program could lead out of the raw folder.
        let is_own = |path: &String| {
            let place = path.strip_prefix(ORIGINALS).unwrap_or(path);
            names::relative(place.as_bytes()).is_ok_and(|path| path == place)
        };
        let mut paths = record.kept.keys().chain(&record.leftover);
        if !paths.all(is_own) || !record.kept.iter().all(is_there) {
            // Somebody has removed files, which can only be had from the beginning.
            record.forget()?;
            return Ok((record, None));
        }
        Ok((record, Some(saved)))
    }

    /// Returns the address from which an earlier process has fetched a part of an archive.
    pub fn interrupted_address(raw: &Path, key: &str, options: &str) -> Option<String> {
        let saved = SavedState::read(raw, key)?;
        (saved.options == options).then_some(saved.address)
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.raw
            .join(FOLDER)
            .join(format!("{}.{extension}", self.key))
    }

    /// Where a file lies until it is whole.
    pub fn temporary(&self) -> PathBuf {
        self.path("tmp")
    }

    /// Whether a process that was killed has written a file.
    pub fn is_leftover(&self, path: &str) -> bool {
        self.leftover.iter().any(|one| one == path)
    }

    /// Adds a file that is whole. `was_there` says that it is not of this program.
    ///
    /// # Errors
    /// The list cannot be written.
    pub fn add(&mut self, path: String, size: u64, was_there: bool) -> io::Result<()> {
        let mut list = match self.list.take() {
            Some(list) => list,
            None => {
                let mut options = OpenOptions::new();
                let options = options.create(true).write(true).truncate(false);
                let mut list = options.open(self.path("kept"))?;
                list.set_len(self.list_bytes)?;
                list.seek(SeekFrom::End(0))?;
                list
            }
        };
        let end = match was_there {
            true => WAS_THERE,
            false => "",
        };
        list.write_all(format!("{size}\t{path}{end}\n").as_bytes())?;
        self.list = Some(list);
        if was_there {
            self.found.insert(path.clone());
        }
        self.unsaved.push(path.clone());
        self.kept.insert(path, size);
        Ok(())
    }

    /// Saves the record. All files that it names are on the disk before it is.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&mut self, state: &mut SavedState) -> io::Result<()> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for path in self.unsaved.drain(..) {
            let file = self.raw.join(path);
            File::open(&file)?.sync_all()?;
            folders.extend(file.parent().map(Path::to_owned));
        }
        folders.sort();
        folders.dedup();
        for folder in folders {
            util::atomic::sync_folder(&folder)?;
        }
        if let Some(list) = &mut self.list {
            list.sync_all()?;
            self.list_bytes = list.stream_position()?;
        }
        state.list_bytes = self.list_bytes;
        util::atomic::write(&self.path("json"), serde_json::to_vec(state)?)
    }

    /// Saves that nothing is left to do.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(&mut self, address: &str, options: &str) -> io::Result<()> {
        let mut state = SavedState::nothing(address, options);
        state.done = true;
        self.save(&mut state)
    }

    /// Removes the record. The files stay.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget(&mut self) -> io::Result<()> {
        self.kept.clear();
        self.found.clear();
        self.unsaved.clear();
        self.leftover.clear();
        (self.list, self.list_bytes) = (None, 0);
        for extension in ["json", "kept", "tmp"] {
            match fs::remove_file(self.path(extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the record and the files that it names, without those that were there before.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn discard(&mut self) -> io::Result<()> {
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain(|path, _| !self.found.contains(path));
        let kept = kept.into_keys();
        let files: Vec<String> = kept.chain(std::mem::take(&mut self.leftover)).collect();
        for path in &files {
            drop(fs::remove_file(self.raw.join(path)));
        }
        for path in &files {
            // Folders that hold other files stay.
            let folders = Path::new(path).ancestors().skip(1);
            for folder in folders.take_while(|folder| !folder.as_os_str().is_empty()) {
                if folder == Path::new(FOLDER) || fs::remove_dir(self.raw.join(folder)).is_err() {
                    break;
                }
            }
        }
        self.forget()
    }
}

/// Whether an archive is done, by a record whose options `fits` accepts and whose files are there.
///
/// # Errors
/// A record cannot be read.
pub fn any_done(raw: &Path, fits: impl Fn(&str) -> bool) -> io::Result<bool> {
    let folder = raw.join(FOLDER);
    if !folder.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
            continue;
        };
        let Some(saved) = SavedState::read(raw, key) else {
            continue;
        };
        if saved.done && fits(&saved.options) && Record::open(raw, key, &saved.options)?.1.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Parses lines of a list: path, size, and whether the file was there before.
fn lines(bytes: &[u8]) -> Vec<(String, u64, bool)> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    let lines = lines.map(|(size, path)| {
        let found = path.strip_suffix(WAS_THERE);
        let path = found.unwrap_or(path).to_owned();
        (path, size.parse().unwrap_or(u64::MAX), found.is_some())
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_names_files_outside_of_the_raw_folder_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("raw");
        let outside = folder.path().join("evil.sh");
        for path in [
            "../evil.sh",
            ".fetch/lists/../../../evil.sh",
            ".fetch/x.json",
        ] {
            let (mut record, _) = Record::open(&raw, "x", "all").unwrap();
            fs::write(&outside, "evil").unwrap();
            record.add("a.mp4".to_owned(), 4, false).unwrap();
            fs::write(raw.join("a.mp4"), "clip").unwrap();
            record.finish("address", "all").unwrap();
            assert!(Record::open(&raw, "x", "all").unwrap().1.is_some());
            // What is behind the part that counts is removed with a damaged archive.
            let list = raw.join(FOLDER).join("x.kept");
            let text = fs::read_to_string(&list).unwrap();
            fs::write(&list, format!("{text}4\t{path}\n")).unwrap();
            let (mut record, saved) = Record::open(&raw, "x", "all").unwrap();
            assert!(saved.is_none() && record.kept.is_empty(), "{path}");
            record.discard().unwrap();
            assert!(outside.is_file());
        }
    }
}
