//! Archives that have to be on the disk to be unpacked: zip has its table of contents at its end.

use std::fs;
use std::path::Path;

use super::run::Run;
use crate::archive::record::Record;
use crate::archive::tar::Member;
use crate::archive::zip::{self, INNER};
use crate::error::{Error, Kind};
use crate::origin::Remote;

/// Fetches a zip and unpacks it, unless that was done before. `remote` asks the server for it; `choose`
/// gets the path of the zip and returns what chooses its members. A zip that lies in the raw folder is
/// read there and stays. Returns the record, which names the files.
///
/// # Errors
/// The zip cannot be fetched, is damaged or hostile.
pub fn fetch(
    run: &Run,
    name: &str,
    remote: &mut dyn FnMut() -> Result<Remote, Error>,
    choose: &dyn Fn(&Path) -> Result<Chooser, Error>,
) -> Result<Record, Error> {
    let options = run.options();
    let local = |error| run.local(run.raw, error);
    let (mut record, saved) = Record::open(run.raw, name, &options).map_err(local)?;
    if saved.is_some_and(|saved| saved.done) {
        return Ok(record);
    }
    let (fetched, own) = (run.state(name), run.raw.join(name));
    let is_own = own.is_file() && !fetched.exists();
    let path = if is_own { &own } else { &fetched };
    if !path.is_file() {
        let remote = remote()?;
        let transfer = run.progress.transfer(name);
        remote.save(run.client, path, None, None, &transfer)?;
    }
    let unpacked = choose(path).and_then(|mut chooser| {
        zip::unpack(path, run.raw, &mut record, &mut *chooser)?;
        unpack_inner(run, &mut record, &mut *chooser)
    });
    if let Err(error) = unpacked {
        if error.kind != Kind::Mismatch {
            return Err(error);
        }
        if is_own {
            return Err(error.with_advice("remove it, and the same command fetches it"));
        }
        // The next call fetches it once more.
        fs::remove_file(path).map_err(|error| run.local(path, error))?;
        return Err(error);
    }
    record.finish(name, &options).map_err(local)?;
    if is_own {
        return Ok(record);
    }
    match run.keep_archives {
        true => fs::rename(path, &own),
        false => fs::remove_file(path),
    }
    .map_err(|error| run.local(path, error))?;
    Ok(record)
}

/// Chooses members.
pub type Chooser = Box<dyn FnMut(&Member) -> Option<String>>;

/// Unpacks the archive in the archive, if there is one.
fn unpack_inner(
    run: &Run,
    record: &mut Record,
    choose: &mut dyn FnMut(&Member) -> Option<String>,
) -> Result<(), Error> {
    let path = run.raw.join(INNER);
    if !path.is_file() {
        return Ok(());
    }
    zip::unpack(&path, run.raw, record, &mut |member| {
        choose(member).filter(|path| path != INNER)
    })?;
    fs::remove_file(&path).map_err(|error| run.local(&path, error))
}
