//! Kinetics-Sound: the clips of its lists, or of its 31 classes, out of CVDF's archives of
//! Kinetics-400, which never lie on the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use datasets::sources::KINETICS_SOUND_LISTS;

use super::lists;
use super::run::{Finding, Report, Run, first_working};
use crate::archive::names::base;
use crate::archive::record::Record;
use crate::archive::tar::Member;
use crate::archive::unpack::Choice;
use crate::error::{Error, Kind};
use crate::origin::{Base, Remote};

/// The splits of the lists. OGM-GE draws its test clips from the test split.
const SPLITS: [&str; 2] = ["train", "test"];
const REPLACEMENTS: &str = "replacement_for_corrupted_k400";
const MAX_LIST: u64 = 64 << 20;
/// YouTube's ids have eleven characters, which may be `-` and `_`.
const ID: usize = 11;
const CLIP_SECONDS: u32 = 10;

/// A clip: its video and its start in seconds.
type Clip = (String, u32);

/// Fetches the dataset.
///
/// # Errors
/// An archive cannot be fetched, is damaged or hostile.
pub fn fetch(run: &Run) -> Result<Report, Error> {
    first_working(run, &run.bases("publisher"), |place| fetch_from(run, place))
}

fn fetch_from(run: &Run, place: &Base) -> Result<Report, Error> {
    let wanted = match run.from {
        Some("classes") => of_classes(run, place)?,
        _ => of_lists(run, place)?,
    };
    let mut parts = Vec::new();
    for (split, clips) in SPLITS.into_iter().zip(&wanted.clips) {
        if !clips.is_empty() {
            parts.extend(list_parts(run, place, split)?);
        }
    }
    let mut kept = Kept::default();
    // Replacements come first, so that no original is kept beside its own.
    if run.limit.is_none() {
        match fetch_replacements(run, place, &wanted) {
            Ok(record) => kept.add(&record),
            Err(error) => kept
                .missing
                .push(missing_archive(&format!("{REPLACEMENTS}.tgz"), error)?),
        }
    }
    match run.limit {
        None => fetch_parts(run, &wanted, parts, &mut kept)?,
        Some(limit) => fetch_few(run, &wanted, &parts, limit, &mut kept)?,
    }
    let files = kept.files;
    let mut missing = std::mem::take(&mut kept.missing);
    missing.extend(wanted.publish(run, &kept)?);
    Ok(Report { files, missing })
}

/// The clips that are kept.
struct WantedClips {
    /// Those of the training split, then those of the test split.
    clips: [BTreeSet<Clip>; 2],
    /// Name and text of each list.
    texts: Vec<(String, String)>,
}

/// The clips that are there.
#[derive(Default)]
struct Kept {
    files: usize,
    /// Archives that the server does not have.
    missing: Vec<Finding>,
    clips: BTreeSet<Clip>,
    /// The videos that have a replacement, which holds for any start.
    replaced: BTreeSet<String>,
}

impl Kept {
    fn add(&mut self, record: &Record) {
        self.files += record.kept.len();
        for path in record.kept.keys() {
            let Some(clip) = parse(base(path)) else {
                continue;
            };
            if path.starts_with("replacement/") {
                self.replaced.insert(clip.0);
            } else {
                self.clips.insert(clip);
            }
        }
    }

    fn has(&self, clip: &Clip) -> bool {
        self.clips.contains(clip) || self.replaced.contains(&clip.0)
    }
}

/// Parses `<id>_<start>...`, as file names and lists have it.
fn parse(name: &str) -> Option<Clip> {
    let (id, rest) = (name.get(..ID)?, name.get(ID..)?.strip_prefix('_')?);
    let start = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((id.to_owned(), start.parse().ok()?))
}

/// The clips of the published lists; of the classes, where a mirror has no lists.
fn of_lists(run: &Run, place: &Base) -> Result<WantedClips, Error> {
    let Some(texts) = lists::fetch(run, &KINETICS_SOUND_LISTS, &|line| parse(line).is_some())?
    else {
        let message = "the source has no lists of OGM-GE: all clips of the 31 classes are fetched";
        run.progress.print("warning", message);
        return of_classes(run, place);
    };
    let clips = |text: &String| text.lines().filter_map(parse).collect();
    let names = KINETICS_SOUND_LISTS
        .iter()
        .map(|list| base(list.path).to_owned());
    Ok(WantedClips {
        clips: [clips(&texts[0]), clips(&texts[1])],
        texts: names.zip(texts).collect(),
    })
}

/// The clips of the 31 classes, by the tables of Kinetics-400.
fn of_classes(run: &Run, place: &Base) -> Result<WantedClips, Error> {
    let info = datasets::open(run.sources.dataset).map(|dataset| dataset.info().clone());
    let info = info.map_err(|e| Error::new(run.sources.dataset, Kind::Refused, e.to_string()))?;
    let mut clips: [BTreeSet<Clip>; 2] = Default::default();
    let mut texts = Vec::new();
    for (split, clips) in SPLITS.into_iter().zip(&mut clips) {
        let name = format!("{split}.csv");
        let remote = place.file(&format!("annotations/{name}"));
        let text = remote.text(run.client, MAX_LIST)?;
        // label,youtube_id,time_start,...: no label has a comma.
        for line in text.lines() {
            let fields: Vec<&str> = line.split(',').map(|one| one.trim_matches('"')).collect();
            let [label, id, start, ..] = fields[..] else {
                continue;
            };
            if let Ok(start) = start.parse::<f64>()
                && info.classes.iter().any(|class| class == label)
            {
                clips.insert((id.to_owned(), start as u32));
            }
        }
        texts.push((name, text));
    }
    Ok(WantedClips { clips, texts })
}

impl WantedClips {
    /// Writes the lists into the tree, with `--limit` without the clips that are not there. Returns
    /// the clips that no archive holds.
    fn publish(&self, run: &Run, kept: &Kept) -> Result<Vec<Finding>, Error> {
        for (name, text) in &self.texts {
            let is_kept = |line: &&str| {
                let fields: Vec<&str> = line.split(',').collect();
                let clip = parse(line.trim_end()).or_else(|| {
                    let start = fields.get(2)?.parse::<f64>().ok()?;
                    Some(((*fields.get(1)?).to_owned(), start as u32))
                });
                run.limit.is_none() || clip.is_none_or(|clip| kept.has(&clip))
            };
            let text: String = text.split_inclusive('\n').filter(is_kept).collect();
            lists::write(run, name, text.as_bytes())?;
        }
        if run.limit.is_some() {
            return Ok(Vec::new());
        }
        let splits = SPLITS.into_iter().zip(&self.clips);
        let missing = splits.flat_map(|(split, clips)| {
            let missing = clips.iter().filter(|clip| !kept.has(clip));
            missing.map(move |(id, start)| Finding {
                what: format!("{split}/{id}_{start:06}_{:06}.mp4", start + CLIP_SECONDS),
                why: "none of the archives holds it".to_owned(),
            })
        });
        Ok(missing.collect())
    }
}

/// One of the archives over which the clips of a split are spread.
#[derive(Debug, Clone)]
struct Part {
    split: usize,
    remote: Remote,
    /// The name of its record: `train-part_0.tar.gz`.
    key: String,
}

/// Reads the list of a split's archives, in the order of their numbers.
fn list_parts(run: &Run, place: &Base, split: &str) -> Result<Vec<Part>, Error> {
    let list = place.file(&format!("{split}/k400_{split}_path.txt"));
    let text = list.text(run.client, MAX_LIST)?;
    let number = |name: &str| -> u64 {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(u64::MAX)
    };
    let mut names: Vec<&str> = text.lines().map(|line| base(line.trim())).collect();
    names.retain(|name| !name.is_empty());
    names.sort_by_key(|name| (number(name), *name));
    names.dedup();
    if names.is_empty() {
        let message = "the list of archives is empty";
        return Err(Error::new(&list.address(), Kind::Refused, message));
    }
    let parts = names.into_iter().map(|name| Part {
        split: SPLITS
            .iter()
            .position(|one| *one == split)
            .unwrap_or_default(),
        remote: place.file(&format!("{split}/{name}")),
        key: format!("{split}-{name}"),
    });
    Ok(parts.collect())
}

/// Fetches the replacements of damaged clips, as far as the clips are wanted.
fn fetch_replacements(run: &Run, place: &Base, wanted: &WantedClips) -> Result<Record, Error> {
    let ids: BTreeSet<&str> = wanted
        .clips
        .iter()
        .flatten()
        .map(|(id, _)| id.as_str())
        .collect();
    let name = format!("{REPLACEMENTS}.tgz");
    run.unpack(
        &place.file(&name),
        &name,
        &mut |member, _| match parse(base(&member.path)) {
            Some((id, _)) if ids.contains(id.as_str()) => {
                let name = base(&member.path);
                Choice::Keep(format!("replacement/{REPLACEMENTS}/{name}"))
            }
            _ => Choice::Skip,
        },
    )
}

/// Returns where a clip of a part is kept, if it is wanted and has no replacement.
fn choose(
    wanted: &WantedClips,
    replaced: &BTreeSet<String>,
    split: usize,
    member: &Member,
) -> Choice {
    let name = base(&member.path);
    let is_wanted = |clip: &Clip| wanted.clips[split].contains(clip) && !replaced.contains(&clip.0);
    match parse(name).filter(|_| name.ends_with(".mp4")) {
        Some(clip) if is_wanted(&clip) => Choice::Keep(format!("{}/{name}", SPLITS[split])),
        _ => Choice::Skip,
    }
}

/// The finding that the server does not have an archive: others can be had all the same.
///
/// # Errors
/// The given error, if it is another one.
fn missing_archive(name: &str, error: Error) -> Result<Finding, Error> {
    match error.kind {
        Kind::NotFound | Kind::Denied => Ok(Finding {
            what: name.to_owned(),
            why: error.to_string(),
        }),
        _ => Err(error),
    }
}

/// Fetches all archives, several at a time.
fn fetch_parts(
    run: &Run,
    wanted: &WantedClips,
    parts: Vec<Part>,
    kept: &mut Kept,
) -> Result<(), Error> {
    let all = parts.len();
    let queue = Mutex::new(VecDeque::from(parts));
    let records = Mutex::new(BTreeMap::new());
    let error = Mutex::new(None);
    let missing = Mutex::new(Vec::new());
    let is_stopped = AtomicBool::new(false);
    let replaced = &kept.replaced;
    thread::scope(|scope| {
        for _ in 0..run.jobs {
            scope.spawn(|| {
                loop {
                    let part = lock(&queue).pop_front();
                    let Some(part) = part.filter(|_| !is_stopped.load(Ordering::Relaxed)) else {
                        break;
                    };
                    let mut choose =
                        |member: &Member, _: &Record| match is_stopped.load(Ordering::Relaxed) {
                            true => Choice::Pause,
                            false => choose(wanted, replaced, part.split, member),
                        };
                    match fetch_part(run, &part, &mut choose) {
                        Ok(record) => {
                            let mut records = lock(&records);
                            records.insert(part.key, record);
                            let note = format!("{} of {all} archives", records.len());
                            run.progress.set_note(&note);
                        }
                        Err(failure) => {
                            match missing_archive(&part.key.replacen('-', "/", 1), failure) {
                                Ok(finding) => lock(&missing).push(finding),
                                Err(failure) => {
                                    is_stopped.store(true, Ordering::Relaxed);
                                    lock(&error).get_or_insert(failure);
                                }
                            }
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&error).take() {
        return Err(error);
    }
    for record in lock(&records).values() {
        kept.add(record);
    }
    kept.missing.append(&mut lock(&missing));
    kept.missing.sort_by(|a, b| a.what.cmp(&b.what));
    Ok(())
}

/// Fetches `limit` clips, as many of one split as of the other, from the first archives that have them.
fn fetch_few(
    run: &Run,
    wanted: &WantedClips,
    parts: &[Part],
    limit: usize,
    kept: &mut Kept,
) -> Result<(), Error> {
    let none = BTreeSet::new();
    for split in 0..SPLITS.len() {
        let mut left = limit.saturating_sub(split).div_ceil(SPLITS.len());
        for part in parts.iter().filter(|part| part.split == split) {
            if left == 0 {
                break;
            }
            let record = fetch_part(
                run,
                part,
                &mut |member, record| match record.kept.len() >= left {
                    true => Choice::Stop,
                    false => choose(wanted, &none, split, member),
                },
            )?;
            left = left.saturating_sub(record.kept.len());
            kept.add(&record);
        }
    }
    Ok(())
}

fn fetch_part(
    run: &Run,
    part: &Part,
    choose: &mut dyn FnMut(&Member, &Record) -> Choice,
) -> Result<Record, Error> {
    run.unpack(&part.remote, &part.key, choose)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is consistent at any moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_parsed_from_names_and_lists() {
        let clip = Some(("-_Ab3456789".to_owned(), 58));
        assert_eq!(parse("-_Ab3456789_000058_000068.mp4"), clip);
        assert_eq!(parse("-_Ab3456789_58,10,4"), clip);
        assert_eq!(parse("label,youtube_id,time_start"), None);
        assert_eq!(parse("é23456789é_1"), None);
    }
}
