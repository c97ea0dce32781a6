//! CREMA-D: the tables of its repository, its media from Git LFS, and the lists of OGM-GE.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;

use datasets::sources::{CREMA_D_CLIPS, CREMA_D_COMMIT, CREMA_D_LISTS};

use super::lfs::{self, Object};
use super::lists;
use super::run::{Finding, Report, Run, first_working};
use crate::archive::names::base;
use crate::archive::record::SavedState;
use crate::archive::tar::{Problem, Tar};
use crate::archive::unpack::Input;
use crate::error::{Error, Kind};
use crate::origin::{Base, Opened, Remote};

/// The folders that are fetched; the sounds as MP3 are the same ones.
pub const FOLDERS: [&str; 2] = ["AudioWAV", "VideoFlash"];
/// The longest pointer, and the largest table of the repository.
const MAX_POINTER: u64 = 1 << 10;
const MAX_TABLE: u64 = 64 << 20;

/// Fetches the dataset.
///
/// # Errors
/// The repository or Git LFS cannot be reached, or refuse.
pub fn fetch(run: &Run) -> Result<Report, Error> {
    let texts = lists::fetch(run, &CREMA_D_LISTS, &is_row)?;
    if texts.is_none() {
        let message = "the source has no lists of OGM-GE: `ingest` draws a split";
        run.progress.print("warning", message);
    }
    first_working(run, &run.bases("publisher"), |place| {
        let objects = match read_tables(run) {
            Some(objects) => objects,
            None => fetch_tree(run, place)?,
        };
        let objects = choose(run, objects, texts.as_deref())?;
        let mut missing = lfs::fetch(run, place, &objects)?;
        let files = objects.len() - missing.len();
        if run.limit.is_none()
            && objects.len() < FOLDERS.len() * CREMA_D_CLIPS
            && run.mirrors.is_empty()
        {
            missing.push(Finding {
                what: FOLDERS.join(" and "),
                why: format!(
                    "the repository has {} files instead of {CREMA_D_CLIPS} in each",
                    objects.len()
                ),
            });
        }
        Ok(Report { files, missing })
    })
}

/// Whether a line of a list begins with a clip, such as `1001_DFA_ANG_XX`.
fn is_row(line: &str) -> bool {
    let clip = line.split_once(',').map(|(clip, _)| clip);
    clip.is_some_and(|clip| clip.split('_').filter(|part| !part.is_empty()).count() == 4)
}

/// The name of the table of a folder's hashes, which `ingest check --verify` reads.
pub fn table(folder: &str) -> String {
    format!("lfs_pointers_{folder}.tsv")
}

/// Where the table of this commit lies for later runs.
fn state(folder: &str) -> String {
    format!("{}-{}", &CREMA_D_COMMIT[..7], table(folder))
}

/// Reads the tables of hashes that an earlier run has written.
fn read_tables(run: &Run) -> Option<Vec<Object>> {
    let mut objects = Vec::new();
    for folder in FOLDERS {
        let text = fs::read_to_string(run.state(&state(folder))).ok()?;
        for line in text.lines().skip(1) {
            let mut fields = line.split('\t');
            let mut field = || fields.next().unwrap_or_default();
            objects.push(Object::new(field(), field(), field())?);
        }
    }
    Some(objects)
}

/// Fetches the files of the repository, keeps its tables, and reads the pointers.
fn fetch_tree(run: &Run, place: &Base) -> Result<Vec<Object>, Error> {
    let name = format!("archive/{CREMA_D_COMMIT}.tar.gz");
    let remote = place.file(&name);
    let opened = remote.open(run.client, 0, None)?;
    let objects = read_tree(run, &remote, opened)?;
    for folder in FOLDERS {
        let text = text_of_table(&objects, folder);
        lists::write(run, &format!(".fetch/{}", state(folder)), text.as_bytes())?;
    }
    Ok(objects)
}

fn text_of_table(objects: &[Object], folder: &str) -> String {
    let mut text = "path\tlfs_sha256\tlfs_size\n".to_owned();
    for object in objects.iter().filter(|one| one.path.starts_with(folder)) {
        text += &format!("{}\t{}\t{}\n", object.path, object.oid, object.size);
    }
    text
}

fn read_tree(run: &Run, remote: &Remote, opened: Opened) -> Result<Vec<Object>, Error> {
    let address = remote.address();
    let fail = |problem| match problem {
        Problem::Refused(message) => Error::new(&address, Kind::Refused, message),
        Problem::Read(error) => Error::of_stream(&address, error),
    };
    let transfer = run.progress.transfer("the repository");
    transfer.set_length(opened.total);
    let input = Input::open(opened, &SavedState::nothing(&address, ""), &transfer);
    let mut tar = Tar::at(input.map_err(|error| fail(error.into()))?, 0);
    let mut objects = Vec::new();
    while let Some(member) = tar.next().map_err(fail)? {
        // The first folder has the name of repository and commit.
        let Some((_, path)) = member.path.split_once('/') else {
            continue;
        };
        let is_media = FOLDERS.iter().any(|folder| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        });
        let is_table = path.ends_with(".csv") || path == "LICENSE.txt" || path == "README.md";
        if is_media && member.size > MAX_POINTER {
            let message = format!(
                "holds {path} itself and not its Git LFS pointer; unpack it into {} by hand",
                run.raw.display()
            );
            return Err(Error::new(&address, Kind::Refused, message));
        }
        if !is_media && !is_table || member.size > MAX_TABLE {
            continue;
        }
        let mut content = Vec::new();
        let read = (&mut tar).take(MAX_TABLE).read_to_end(&mut content);
        read.map_err(|error| fail(error.into()))?;
        if is_table {
            lists::write(run, path, &content)?;
        } else if let Some(object) = Object::of_pointer(path, &String::from_utf8_lossy(&content)) {
            objects.push(object);
        }
    }
    if objects.is_empty() {
        let message = format!("has no Git LFS pointers in {}", FOLDERS.join(" and "));
        return Err(Error::new(&address, Kind::Refused, message));
    }
    objects.sort();
    Ok(objects)
}

/// Chooses the files of `--limit`, and writes lists that name no others; without a limit the tables of
/// hashes, too.
fn choose(
    run: &Run,
    mut objects: Vec<Object>,
    texts: Option<&[String]>,
) -> Result<Vec<Object>, Error> {
    let stem = |path: &str| base(path).rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let of_line = |line: &str| line.split(',').next().unwrap_or_default().to_owned();
    if let Some(limit) = run.limit {
        let there: BTreeSet<String> = objects.iter().filter_map(|one| stem(&one.path)).collect();
        let splits: Vec<Vec<String>> = match texts {
            None => vec![there.into_iter().collect()],
            Some(texts) => {
                let stems = |text: &String| {
                    text.lines()
                        .map(of_line)
                        .filter(|one| there.contains(one))
                        .collect()
                };
                texts.iter().map(stems).collect()
            }
        };
        let chosen = lists::choose(&splits, limit);
        objects.retain(|one| stem(&one.path).is_some_and(|stem| chosen.contains(&stem)));
    }
    if run.limit.is_none() {
        for folder in FOLDERS {
            lists::write(
                run,
                &table(folder),
                text_of_table(&objects, folder).as_bytes(),
            )?;
        }
    }
    let chosen: BTreeSet<String> = objects.iter().filter_map(|one| stem(&one.path)).collect();
    for (list, text) in CREMA_D_LISTS.iter().zip(texts.unwrap_or_default()) {
        let is_kept =
            |line: &&str| run.limit.is_none() || chosen.contains(&of_line(line.trim_end()));
        let text: String = text.split_inclusive('\n').filter(is_kept).collect();
        lists::write(run, base(list.path), text.as_bytes())?;
    }
    Ok(objects)
}
