//! AVE: a zip on Google Drive, with the clips and the lists.

use std::collections::BTreeSet;
use std::path::Path;

use datasets::sources::AVE_DRIVE_ID;

use super::drive;
use super::lists;
use super::run::{Report, Run, first_working};
use super::zipped::{self, Chooser};
use crate::archive::names::base;
use crate::archive::tar::Member;
use crate::archive::zip::{self, INNER};
use crate::error::Error;
use crate::origin::{Base, Remote};

const ARCHIVE: &str = "AVE_Dataset.zip";
const LISTS: [&str; 3] = ["trainSet.txt", "valSet.txt", "testSet.txt"];

/// Fetches the dataset.
///
/// # Errors
/// The zip cannot be fetched, is damaged or hostile.
pub fn fetch(run: &Run) -> Result<Report, Error> {
    let mut remote = || {
        first_working(run, &run.bases("publisher"), |place| {
            let path = match run.mirrors.is_empty() {
                true => &format!("download?id={AVE_DRIVE_ID}&export=download"),
                false => ARCHIVE,
            };
            match place {
                Base::Server(address) => {
                    let request = drive::confirm(run, &format!("{address}/{path}"))?;
                    Ok(Remote::Request(request))
                }
                Base::Folder(_) => Ok(place.file(path)),
            }
        })
    };
    let lines = |zip: &Path| -> Result<BTreeSet<String>, Error> {
        let texts = zip::texts(zip, &|path| LISTS.contains(&base(path)))?;
        let splits = texts
            .iter()
            .map(|(_, text)| text.lines().map(str::to_owned).collect());
        let splits: Vec<Vec<String>> = splits.collect();
        Ok(lists::choose(&splits, run.limit.unwrap_or(usize::MAX)))
    };
    let record = zipped::fetch(run, ARCHIVE, &mut remote, &|zip| {
        let ids: BTreeSet<String> = lines(zip)?.iter().filter_map(|line| id_of(line)).collect();
        let all = run.limit.is_none();
        Ok(
            Box::new(move |member: &Member| choose(member, &|id| all || ids.contains(id)))
                as Chooser,
        )
    })?;
    let clips: BTreeSet<&str> = record
        .kept
        .keys()
        .filter_map(|path| id_of_clip(path))
        .collect();
    let is_kept = |line: &str| match id_of(line) {
        Some(id) if run.limit.is_some() => clips.contains(id.as_str()) || id == "VideoID",
        _ => true,
    };
    lists::publish(run, &record, &is_kept)?;
    Ok(Report {
        files: record.kept.len(),
        missing: Vec::new(),
    })
}

/// Returns the clip of a row of a list.
fn id_of(line: &str) -> Option<String> {
    line.split('&').nth(1).map(str::to_owned)
}

fn id_of_clip(path: &str) -> Option<&str> {
    base(path).strip_suffix(".mp4")
}

/// Keeps lists, the clips that are wanted, and an archive of clips in the archive.
fn choose(member: &Member, is_wanted: &dyn Fn(&str) -> bool) -> Option<String> {
    let name = base(&member.path);
    if name.starts_with("._") {
        return None;
    }
    if name.eq_ignore_ascii_case("AVE.zip") {
        return Some(INNER.to_owned());
    }
    if name.ends_with(".txt") {
        return Some(format!("{}{}", lists::ORIGINALS, member.path));
    }
    id_of_clip(&member.path)
        .is_some_and(is_wanted)
        .then(|| member.path.clone())
}
