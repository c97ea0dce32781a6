//! Archives of servers, unpacked while they are fetched.

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::Path;

use super::gzip::{self, Gzip};
use super::record::{Record, SavedState};
use super::tar::{Member, Problem, Tar, refuse};
use crate::client::Client;
use crate::error::{Error, Kind};
use crate::origin::{Opened, Remote};
use crate::progress::Transfer;

/// More files than any publisher's archive has: Food-101's has 300,000.
const MAX_MEMBERS: u64 = 2_000_000;

/// The record is saved after so many bytes, or after a 64th of the archive if that is less. A process
/// that goes on fetches them again at most.
const SAVE_DISTANCE: u64 = 4 << 20;
const SAVES: u64 = 64;
const LEAST_DISTANCE: u64 = 4 << 10;

/// What to do with a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Keep it, at this path below the raw folder.
    Keep(String),
    /// Read over it.
    Skip,
    /// End before it; nothing behind it is wanted.
    Stop,
    /// End before it; another call goes on.
    Pause,
}

/// An archive to be unpacked.
pub struct Wanted<'a> {
    /// Where it comes from.
    pub remote: &'a Remote,
    /// The name of its record.
    pub key: &'a str,
    /// The raw folder.
    pub raw: &'a Path,
    /// What the choice of members depends on.
    pub options: &'a str,
}

/// Unpacks a `.tar` or `.tar.gz` of a server into the raw folder, without the archive ever being on the
/// disk. Goes on at the last saved member, and does nothing if all was done before. `choose` gets
/// each member and what has been kept. Returns the record, which names the files.
///
/// # Errors
/// The server does not send the archive, or the archive is damaged or hostile; what was unpacked of
/// such a one is removed.
pub fn unpack(
    client: &Client,
    wanted: &Wanted,
    transfer: &Transfer,
    choose: &mut dyn FnMut(&Member, &Record) -> Choice,
) -> Result<Record, Error> {
    let address = wanted.remote.address();
    let local = |error| Error::local(&address, wanted.raw, error);
    let (mut record, saved) =
        Record::open(wanted.raw, wanted.key, wanted.options).map_err(local)?;
    let mut saved = saved.filter(|saved| saved.done || saved.address == address);
    if saved.as_ref().is_some_and(|saved| saved.done) {
        return Ok(record);
    }
    if saved.is_none() {
        record.forget().map_err(local)?;
    }
    loop {
        let resumed = saved.is_some();
        let start = saved
            .take()
            .unwrap_or_else(|| SavedState::nothing(&address, wanted.options));
        match attempt(client, wanted, transfer, start, &mut record, choose) {
            Ok(()) => return Ok(record),
            Err(Failure::Damaged(error)) => {
                record.discard().map_err(local)?;
                return Err(error);
            }
            // What is there is of another version, so everything is fetched once more.
            Err(Failure::Other(error)) if resumed && error.kind == Kind::Changed => {
                record.discard().map_err(local)?;
                transfer.set_position(0);
            }
            Err(Failure::Other(error)) => return Err(error),
        }
    }
}

/// Why an attempt failed.
enum Failure {
    /// The archive is damaged or hostile.
    Damaged(Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

impl Failure {
    fn of(address: &str, problem: Problem) -> Failure {
        match problem {
            Problem::Refused(message) => {
                Failure::Damaged(Error::new(address, Kind::Refused, message))
            }
            Problem::Read(error) if error.kind() == io::ErrorKind::InvalidData => {
                Failure::Damaged(Error::of_stream(address, error))
            }
            Problem::Read(error) => Failure::Other(Error::of_stream(address, error)),
        }
    }
}

fn attempt(
    client: &Client,
    wanted: &Wanted,
    transfer: &Transfer,
    mut state: SavedState,
    record: &mut Record,
    choose: &mut dyn FnMut(&Member, &Record) -> Choice,
) -> Result<(), Failure> {
    let address = wanted.remote.address();
    let fail = |problem| Failure::of(&address, problem);
    let local = |error| Failure::Other(Error::local(&address, wanted.raw, error));
    let offset = match &state.point {
        Some(point) => point.offset,
        None => state.position,
    };
    let validator = state.validator.clone();
    let opened = wanted.remote.open(client, offset, validator)?;
    transfer.set_length(opened.total);
    transfer.set_position(offset);
    state.validator = opened.validator.clone();
    let distance = opened.total.map_or(SAVE_DISTANCE, |total| total / SAVES);
    let distance = distance.clamp(LEAST_DISTANCE, SAVE_DISTANCE);
    let input = Input::open(opened, &state, transfer).map_err(|e| fail(e.into()))?;
    let mut tar = Tar::at(input, state.position);
    let mut saved = offset;
    loop {
        let Some(member) = tar.next().map_err(fail)? else {
            // The check sum of a gzip file is at its end.
            let rest = io::copy(&mut tar.into_inner(), &mut io::sink());
            rest.map_err(|error| fail(error.into()))?;
            break;
        };
        state.members += 1;
        if state.members > MAX_MEMBERS {
            let message = format!("the archive has more than {MAX_MEMBERS} members");
            return Err(fail(Problem::Refused(message)));
        }
        match choose(&member, record) {
            Choice::Stop => break,
            Choice::Pause => return Ok(()),
            Choice::Skip => {}
            Choice::Keep(path) => {
                if record.kept.contains_key(&path) {
                    let why = "another one would be written to the same file";
                    return Err(fail(refuse(member.path.as_bytes(), why)));
                }
                let is_same = keep(
                    &mut tar,
                    &member,
                    &wanted.raw.join(&path),
                    &record.temporary(),
                )
                .map_err(|error| match error {
                    KeepError::Read(error) => fail(error.into()),
                    KeepError::Write(error) => local(error),
                })?;
                let was_there = is_same && !record.is_leftover(&path);
                record.add(path, member.size, was_there).map_err(local)?;
            }
        }
        tar.finish_member().map_err(fail)?;
        state.position = tar.position();
        state.point = tar.get_ref().point();
        let now = match &state.point {
            Some(point) => point.offset,
            None => state.position,
        };
        if now >= saved + distance {
            record.save(&mut state).map_err(local)?;
            saved = now;
        }
    }
    state.done = true;
    state.point = None;
    record.save(&mut state).map_err(local)?;
    Ok(())
}

/// What failed when a member was kept.
enum KeepError {
    Read(io::Error),
    Write(io::Error),
}

/// Writes a member, which appears under its name when it is whole. It reaches the disk before the
/// record that names it does. Returns whether the file was there with the same content.
fn keep(
    tar: &mut Tar<Input>,
    member: &Member,
    path: &Path,
    temporary: &Path,
) -> Result<bool, KeepError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(KeepError::Write)?;
    }
    let mut file = File::create(temporary).map_err(KeepError::Write)?;
    copy(tar, member.size, &mut file)?;
    drop(file);
    if is_same(path, temporary, member.size) {
        fs::remove_file(temporary).map_err(KeepError::Write)?;
        return Ok(true);
    }
    fs::rename(temporary, path).map_err(KeepError::Write)?;
    Ok(false)
}

/// Whether a file is there with the content of another one of this size.
fn is_same(path: &Path, other: &Path, size: u64) -> bool {
    let hash = |path| util::hash::sha256_of_file(path).ok();
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == size)
        && hash(path).is_some_and(|hash_of_path| hash(other) == Some(hash_of_path))
}

/// Copies the contents of a member, and tells errors of reading from those of writing.
fn copy(tar: &mut Tar<Input>, size: u64, file: &mut File) -> Result<(), KeepError> {
    let mut buffer = [0; 32 << 10];
    let mut left = size;
    while left > 0 {
        let length = tar.read(&mut buffer).map_err(KeepError::Read)?;
        io::Write::write_all(file, &buffer[..length]).map_err(KeepError::Write)?;
        left -= length as u64;
    }
    Ok(())
}

/// The uncompressed bytes of an archive, whose compression shows in its first bytes: a publisher has
/// given a `.tar` the name of a `.tar.gz`.
pub enum Input<'a> {
    /// gzip.
    Gzip(Box<Gzip<Box<dyn Read + 'a>>>),
    /// No compression.
    Plain(Box<dyn Read + 'a>),
}

impl<'a> Input<'a> {
    /// Opens an archive where an earlier process has stopped.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(
        opened: Opened,
        state: &SavedState,
        transfer: &'a Transfer<'a>,
    ) -> io::Result<Input<'a>> {
        let mut reader = Counted {
            reader: opened.reader,
            transfer,
        };
        if let Some(point) = state.point.clone() {
            let before = state.position.saturating_sub(point.written);
            let mut gzip = Gzip::at(Box::new(reader) as Box<dyn Read>, point);
            io::copy(&mut (&mut gzip).take(before), &mut io::sink())?;
            return Ok(Input::Gzip(Box::new(gzip)));
        }
        if state.position > 0 {
            return Ok(Input::Plain(Box::new(reader)));
        }
        let mut first = Vec::new();
        (&mut reader).take(2).read_to_end(&mut first)?;
        let is_gzip = first == gzip::MAGIC;
        let whole: Box<dyn Read + 'a> = Box::new(Cursor::new(first).chain(reader));
        Ok(match is_gzip {
            true => Input::Gzip(Box::new(Gzip::at(whole, gzip::Point::start()))),
            false => Input::Plain(whole),
        })
    }

    fn point(&self) -> Option<gzip::Point> {
        match self {
            Input::Gzip(gzip) => Some(gzip.point().clone()),
            Input::Plain(_) => None,
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Input::Gzip(gzip) => gzip.read(buffer),
            Input::Plain(reader) => reader.read(buffer),
        }
    }
}

/// Counts what is read as progress.
struct Counted<'a> {
    reader: Box<dyn Read>,
    transfer: &'a Transfer<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.transfer.advance(length as u64);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Limits;
    use crate::progress::Progress;

    #[test]
    fn a_damaged_archive_leaves_the_files_that_were_there() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, archive) = (folder.path().join("raw"), folder.path().join("a.tar"));
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["own.txt", "other.txt", "new.txt"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            builder.append_data(&mut header, name, &b"abc"[..]).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        fs::write(&archive, &bytes[..3072]).unwrap();
        fs::create_dir(&raw).unwrap();
        fs::write(raw.join("own.txt"), "abc").unwrap();
        fs::write(raw.join("other.txt"), "xyz").unwrap();
        let unpack_it = || {
            let client = Client::new(Limits::default()).unwrap();
            let wanted = Wanted {
                remote: &Remote::File(archive.clone()),
                key: "a.tar",
                raw: &raw,
                options: "all",
            };
            let progress = Progress::silent("test");
            let mut choose = |member: &Member, _: &Record| Choice::Keep(member.path.clone());
            let record = unpack(&client, &wanted, &progress.transfer("a"), &mut choose);
            record.map(|record| record.kept.len())
        };
        let error = unpack_it().unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
        assert_eq!(fs::read(raw.join("own.txt")).unwrap(), b"abc");
        assert!(!raw.join("new.txt").exists());
        // A file of the same size is replaced by the archive's.
        fs::write(raw.join("other.txt"), "xyz").unwrap();
        fs::write(&archive, &bytes).unwrap();
        assert_eq!(unpack_it().unwrap(), 3);
        assert_eq!(fs::read(raw.join("other.txt")).unwrap(), b"abc");
        // The record tells the files from each other.
        let (mut record, _) = Record::open(&raw, "a.tar", "all").unwrap();
        record.discard().unwrap();
        assert!(raw.join("own.txt").is_file() && !raw.join("new.txt").exists());
    }
}
