//! MM-IMDb: a tar.gz, unpacked while it is fetched.

use std::fs;

use serde_json::Value;

use super::lists;
use super::pairs::Pairs;
use super::run::{Report, Run, first_working};
use crate::archive::record::Record;
use crate::archive::tar::Member;
use crate::archive::unpack::Choice;
use crate::error::{Error, Kind};
use crate::origin::Base;

const ARCHIVE: &str = "mmimdb.tar.gz";
const SPLIT: &str = "split.json";

/// Fetches the dataset. With `--limit` it ends when so many films have poster and text, and the split
/// has been seen.
///
/// # Errors
/// The archive cannot be fetched, is damaged or hostile.
pub fn fetch(run: &Run) -> Result<Report, Error> {
    let options = run.options();
    let is_begun = run.state(&format!("{ARCHIVE}.json")).is_file();
    if run.raw.join("dataset").is_dir() && !is_begun {
        let message = format!(
            "{}: lies there already, unpacked by hand, and `ingest` takes it in place of what is fetched; move it \
             away, or choose another folder by --raw",
            run.raw.join("dataset").display()
        );
        run.progress.print("warning", &message);
    }
    let mut places = run.bases("publisher");
    // Another server's copy may be another version, so that it would be fetched from its beginning.
    if let Some(begun) = Record::interrupted_address(run.raw, ARCHIVE, &options) {
        let is_begun = |place: &Base| place.file(ARCHIVE).address() == begun;
        if places.iter().any(is_begun) {
            places.retain(is_begun);
        }
    }
    let mut record = first_working(run, &places, |place| {
        let mut films = Pairs::default();
        run.unpack(&place.file(ARCHIVE), ARCHIVE, &mut |member, record| {
            choose(run, &mut films, member, record)
        })
    })?;
    publish_split(run, &mut record)?;
    Ok(Report {
        files: record.kept.len(),
        missing: Vec::new(),
    })
}

fn choose(run: &Run, films: &mut Pairs, member: &Member, record: &Record) -> Choice {
    let split = format!("{}{SPLIT}", lists::ORIGINALS);
    let mut parts = member.path.rsplit('/');
    let (name, folder) = (parts.next().unwrap_or_default(), parts.next());
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let is_film = folder == Some("dataset") && matches!(extension, "json" | "jpeg");
    if let Some(limit) = run.limit {
        films.read(record);
        let is_full = films.complete() >= limit;
        if is_full && record.kept.contains_key(&split) {
            return Choice::Stop;
        }
        if is_film && is_full {
            return Choice::Skip;
        }
        if is_film {
            films.add(name);
        }
    }
    match name {
        SPLIT if record.kept.contains_key(&split) => Choice::Skip,
        SPLIT => Choice::Keep(split),
        _ if is_film => Choice::Keep(member.path.clone()),
        _ => Choice::Skip,
    }
}

/// Writes the split into the tree, beside the folder of the films. With `--limit` it names those
/// films alone that have poster and text.
fn publish_split(run: &Run, record: &mut Record) -> Result<(), Error> {
    let split = format!("{}{SPLIT}", lists::ORIGINALS);
    if !record.kept.contains_key(&split) {
        // Another archive may hold it, so that the next run asks for one.
        record.forget().map_err(|error| run.local(run.raw, error))?;
        let message = format!("the archive holds no {SPLIT}; name another copy by --source");
        return Err(Error::new(ARCHIVE, Kind::Mismatch, message));
    }
    let from = run.raw.join(split);
    let mut text = fs::read(&from).map_err(|error| run.local(&from, error))?;
    let film = record
        .kept
        .keys()
        .find_map(|path| path.rsplit_once("/dataset/"));
    let place = match film {
        Some((folder, _)) => format!("{folder}/{SPLIT}"),
        None => SPLIT.to_owned(),
    };
    if run.limit.is_some() {
        let mut films = Pairs::default();
        films.read(record);
        let is_complete = |id: &Value| {
            let id = id.as_str().unwrap_or_default();
            films.is_complete(id)
        };
        let mut split: Value = serde_json::from_slice(&text)
            .map_err(|error| Error::new(ARCHIVE, Kind::Mismatch, format!("{SPLIT}: {error}")))?;
        for ids in split
            .as_object_mut()
            .into_iter()
            .flat_map(|lists| lists.values_mut())
        {
            if let Some(ids) = ids.as_array_mut() {
                ids.retain(is_complete);
            }
        }
        text = split.to_string().into_bytes();
    }
    lists::write(run, &place, &text)
}
