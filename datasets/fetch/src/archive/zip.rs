//! zip, unpacked from a file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crc32fast::Hasher;
use zip::ZipArchive;

use super::names;
use super::record::Record;
use super::tar::{MAX_MEMBER, Member, Problem, refuse};
use crate::error::{Error, Kind};

/// A member, and all of them together, may be this many times larger than their compressed form, if
/// they are larger than that.
const MAX_RATIO: u64 = 200;
const RATIO_FREE: u64 = 16 << 20;
const MAX_MEMBERS: usize = 2_000_000;

/// The longest text that is read.
const MAX_TEXT: u64 = 64 << 20;

/// The kinds of a Unix mode.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;

/// The path below the raw folder of an archive in the archive, which is removed when it is unpacked,
/// so that no record names it.
pub const INNER: &str = ".fetch/inner.zip";

/// Unpacks a zip into the raw folder. Files that are there with the right size and CRC-32 are left. `choose`
/// gets each member and returns its path below the raw folder, or `None`. Adds the files to the
/// record.
///
/// # Errors
/// The zip is damaged or hostile; nothing is written of a hostile one.
pub fn unpack(
    zip: &Path,
    raw: &Path,
    record: &mut Record,
    choose: &mut dyn FnMut(&Member) -> Option<String>,
) -> Result<(), Error> {
    let address = zip.display().to_string();
    let local = |error| Error::local(&address, raw, error);
    let (mut archive, members) = open(zip)?;
    let mut paths: BTreeSet<String> = record.kept.keys().cloned().collect();
    let mut chosen = Vec::new();
    for (index, member) in members {
        let Some(path) = choose(&member) else {
            continue;
        };
        if !paths.insert(path.clone()) {
            let why = "another one would be written to the same file";
            return Err(refused(&address, refuse(member.path.as_bytes(), why)));
        }
        chosen.push((index, member, path));
    }
    for (index, member, path) in chosen {
        let target = raw.join(&path);
        let entry = archive.by_index_raw(index);
        let crc = entry.map_err(|e| damaged(&address, &e))?.crc32();
        let is_there = is_same(&target, member.size, crc);
        if !is_there {
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder).map_err(local)?;
            }
            let mut content = archive.by_index(index).map_err(|e| damaged(&address, &e))?;
            let mut file = File::create(record.temporary()).map_err(local)?;
            let length = io::copy(&mut (&mut content).take(member.size + 1), &mut file);
            let length = length.map_err(|error| match error.raw_os_error() {
                Some(_) => local(error),
                None => damaged(&address, &error.into()),
            })?;
            if length != member.size {
                let why = "it is larger or smaller than the archive says";
                return Err(refused(&address, refuse(member.path.as_bytes(), why)));
            }
            fs::rename(record.temporary(), &target).map_err(local)?;
        }
        if path != INNER {
            record.add(path, member.size, is_there).map_err(local)?;
        }
    }
    Ok(())
}

/// Whether a file is there with this size and CRC-32.
fn is_same(path: &Path, size: u64, crc: u32) -> bool {
    let crc_of_file = || {
        let mut file = File::open(path).ok()?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).ok()? {
                0 => return Some(hasher.finalize()),
                length => hasher.update(&buffer[..length]),
            }
        }
    };
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == size)
        && crc_of_file() == Some(crc)
}

/// Reads the small members of a zip that `is_wanted` accepts, as text.
///
/// # Errors
/// Those of [`unpack`].
pub fn texts(zip: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<(String, String)>, Error> {
    let address = zip.display().to_string();
    let (mut archive, members) = open(zip)?;
    let mut texts = Vec::new();
    for (index, member) in members {
        if !is_wanted(&member.path) {
            continue;
        }
        let mut bytes = Vec::new();
        let content = archive.by_index(index).map_err(|e| damaged(&address, &e))?;
        let read = content.take(MAX_TEXT).read_to_end(&mut bytes);
        read.map_err(|error| damaged(&address, &error.into()))?;
        texts.push((member.path, String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(texts)
}

/// Returns the paths of a zip's files.
///
/// # Errors
/// Those of [`unpack`].
pub fn paths(zip: &Path) -> Result<Vec<String>, Error> {
    let (_, members) = open(zip)?;
    Ok(members.into_iter().map(|(_, member)| member.path).collect())
}

type Archive = ZipArchive<io::BufReader<File>>;

/// Opens a zip and checks all members before any is written.
fn open(zip: &Path) -> Result<(Archive, Vec<(usize, Member)>), Error> {
    let address = zip.display().to_string();
    let file = File::open(zip).map_err(|error| Error::of_stream(&address, error))?;
    let archive = ZipArchive::new(io::BufReader::new(file));
    let mut archive = archive.map_err(|error| damaged(&address, &error))?;
    let members = check(&mut archive).map_err(|problem| refused(&address, problem))?;
    Ok((archive, members))
}

fn damaged(address: &str, error: &zip::result::ZipError) -> Error {
    let message = format!("is no zip archive or is damaged: {error}");
    Error::new(address, Kind::Mismatch, message)
}

fn refused(address: &str, problem: Problem) -> Error {
    match problem {
        Problem::Refused(message) => Error::new(address, Kind::Mismatch, message),
        Problem::Read(error) => Error::of_stream(address, error),
    }
}

/// Checks all members. Returns the files, with their places in the archive.
fn check(archive: &mut Archive) -> Result<Vec<(usize, Member)>, Problem> {
    let damaged = |error: zip::result::ZipError| Problem::Refused(format!("is damaged: {error}"));
    if archive.len() > MAX_MEMBERS {
        let message = format!("the archive has more than {MAX_MEMBERS} members");
        return Err(Problem::Refused(message));
    }
    if archive.has_overlapping_files().map_err(damaged)? {
        let message = "members of the archive overlap, as in a bomb; nothing was written";
        return Err(Problem::Refused(message.to_owned()));
    }
    let mut members = Vec::new();
    let mut seen = BTreeSet::new();
    let (mut all, mut all_compressed) = (0u64, 0u64);
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let raw_name = entry.name_raw().to_vec();
        let no = |why: &str| refuse(&raw_name, why);
        let path = names::relative(&raw_name).map_err(no)?;
        let kind = entry.unix_mode().unwrap_or_default() & KIND;
        if entry.is_symlink() {
            return Err(no("it is a symbolic link"));
        }
        if ![0, REGULAR, FOLDER].contains(&kind) {
            return Err(no("it is a device or another special file"));
        }
        if entry.is_dir() || kind == FOLDER {
            continue;
        }
        if entry.encrypted() {
            return Err(no("it is encrypted"));
        }
        if entry.size() > MAX_MEMBER {
            return Err(no("it is larger than any publisher's file"));
        }
        if is_bomb(entry.size(), entry.compressed_size()) {
            return Err(no("it is a bomb: far larger than its compressed form"));
        }
        all = all.saturating_add(entry.size());
        all_compressed = all_compressed.saturating_add(entry.compressed_size());
        if path.is_empty() || !seen.insert(path.clone()) {
            return Err(no("it has no name, or that of another one"));
        }
        let size = entry.size();
        members.push((index, Member { path, size }));
    }
    if is_bomb(all, all_compressed) {
        let message = format!(
            "the archive is a bomb: {} MB out of {} kB; nothing was written",
            all / 1_000_000,
            all_compressed / 1000
        );
        return Err(Problem::Refused(message));
    }
    Ok(members)
}

/// Whether something is larger than its compressed form as no publisher's is.
fn is_bomb(size: u64, compressed: u64) -> bool {
    size > RATIO_FREE && size / MAX_RATIO > compressed
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// Writes a zip of these members.
    fn pack(path: &Path, members: &[(&str, &[u8])]) {
        let mut writer = ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in members {
            let options = SimpleFileOptions::default();
            writer.start_file(*name, options).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn a_file_of_the_right_size_with_other_content_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, path) = (folder.path(), folder.path().join("a.zip"));
        pack(&path, &[("a.mp4", b"clip"), ("b.mp4", b"clip")]);
        fs::write(raw.join("a.mp4"), [0; 4]).unwrap();
        fs::write(raw.join("b.mp4"), "clip").unwrap();
        let inode = |name: &str| fs::metadata(raw.join(name)).unwrap().ino();
        let before = inode("b.mp4");
        let (mut record, _) = Record::open(raw, "a", "all").unwrap();
        let mut choose = |member: &Member| Some(member.path.clone());
        unpack(&path, raw, &mut record, &mut choose).unwrap();
        assert_eq!(fs::read(raw.join("a.mp4")).unwrap(), b"clip");
        assert_eq!(inode("b.mp4"), before, "what is right is left");
    }

    #[test]
    fn a_bomb_of_many_members_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        let zeros = vec![0; 12 << 20];
        pack(&path, &[("a.mp4", &zeros)]);
        assert_eq!(paths(&path).unwrap(), ["a.mp4"]);
        pack(&path, &[("a.mp4", &zeros), ("b.mp4", &zeros)]);
        let error = paths(&path).unwrap_err().to_string();
        assert!(error.contains("bomb: 25 MB out of"), "{error}");
    }
}
