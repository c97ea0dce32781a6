//! Kinetics-Sound: the 31 classes of Kinetics-400 that are both visible and audible.
//!
//! Clips are `<id>_<start>_<end>.mp4`, with the audio in the video or in a `.wav` of the same name.
//! They are found by id and start anywhere below the raw root, also with the endings that download
//! tools leave (`<clip>.mp4.mkv`): in the flat folders of CVDF, in
//! class folders named with blanks or underscores, or in any mix of these. A file in a folder whose
//! name begins with `replacement` is preferred to the original of the same id.
//!
//! The annotation is the first of these that exists:
//! - OGM-GE's lists `my_train.txt` and `my_test.txt`: `<clip>,10,<class index>`; test clips are
//!   written `<id>_<start>`, not padded (MLA's `<file>.mp4 <class name>` is read too)
//! - the Kinetics-400 tables (`label,youtube_id,time_start,time_end,split,is_cc`), of which the
//!   rows of the 31 classes are used
//! - the folders themselves: `{train,val,test}/.../<class>/<clip>`
//!
//! The id of a sample is `<id>_<start>_<end>`, six digits for each time, in all three cases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::clip::{ClipFile, ClipName, Clips, Kind, is_id};
use crate::error::{Error, shorten};
use crate::facts;
use crate::finder::Finder;
use crate::list_reader::ListForm;
use crate::quotes::long_cells;
use crate::tree::{Tree, base_name, lines, no_layout, per_split, split_extension};
use crate::types::{Dataset, Info, ListOptions, Listing, NoteKind, PublishedCount, Sample, Split};

/// What the raw root should hold, for error messages.
const LAYOUT: &str = "expected Kinetics-400 clips <id>_<start>_<end>.mp4 there, with my_train.txt and my_test.txt of \
     OGM-GE or train.csv, val.csv and test.csv of Kinetics-400";

/// The length of a clip in seconds, used if a list gives no end.
const CLIP_SECONDS: u32 = 10;

/// The form of OGM-GE's and MLA's lists.
const LIST: ListForm = ListForm {
    name: "Kinetics-Sound list",
    expected: "expected a clip and its class from 0 to 30, as in --4-0ihtnBU_000058_000068,10,4",
};

/// Kinetics-Sound; the module's documentation describes the layouts.
pub(crate) struct KineticsSound {
    info: Info,
}

impl KineticsSound {
    pub(crate) fn new() -> KineticsSound {
        KineticsSound {
            info: facts::kinetics_sound(),
        }
    }
}

impl Dataset for KineticsSound {
    fn info(&self) -> &Info {
        &self.info
    }

    fn list(&self, raw: &Path, _options: &ListOptions) -> Result<Listing, Error> {
        let tree = Tree::walk(raw, LAYOUT)?;
        let clips = Clips::find(&tree);
        let mut finder = Finder::new(&tree);
        let (rows, layout) = read_annotation(&tree, &mut finder)?;

        let mut used = BTreeSet::new();
        let mut samples = Vec::with_capacity(rows.len());
        for row in rows {
            if !used.insert(row.sample_id()) {
                let message = format!("listed again for {}; the first row is kept", row.split);
                finder.note(NoteKind::Dropped, row.sample_id(), message);
                continue;
            }
            samples.push(row.sample(&clips, &mut finder));
        }
        let sources: BTreeSet<&str> = samples.iter().map(|one| one.source.as_str()).collect();
        let used_files = sources.iter().filter(|file| tree.has_file(file)).count();
        let unused_files = clips.video_files() - used_files;
        if unused_files > 0 {
            let message =
                format!("{unused_files} video files are not among the samples' clips; not used");
            finder.note(NoteKind::Choice, "videos", message);
        }
        let notes = finder.finish(&samples, LAYOUT)?;
        Ok(Listing {
            layout,
            samples,
            notes,
        })
    }

    fn expected_per_class(&self) -> [Option<Vec<usize>>; 3] {
        [
            Some(facts::KINETICS_SOUND.iter().map(|one| one.1).collect()),
            None,
            Some(facts::KINETICS_SOUND.iter().map(|one| one.2).collect()),
        ]
    }

    fn published_counts(&self, split: Split) -> Vec<PublishedCount> {
        let (list, per_class) = match split {
            Split::Train => (
                "OGM-GE's list my_train.txt",
                facts::KINETICS_SOUND.map(|one| one.1),
            ),
            Split::Val => return Vec::new(),
            Split::Test => (
                "OGM-GE's list my_test.txt",
                facts::KINETICS_SOUND.map(|one| one.2),
            ),
        };
        let paper = self.info.expected[split.index()].map(|samples| PublishedCount {
            samples,
            source: "the paper, section 4.1",
        });
        let list = PublishedCount {
            samples: per_class.iter().sum(),
            source: list,
        };
        paper.into_iter().chain([list]).collect()
    }
}

/// Reads the annotation: the lists, else the Kinetics-400 tables, else the class folders. Returns
/// its rows, and which of the three was read.
fn read_annotation(tree: &Tree, finder: &mut Finder<'_>) -> Result<(Vec<Row>, String), Error> {
    let lists = per_split(tree, |file| list_split(tree, file))?;
    let tables = per_split(tree, |file| table_split(tree, file))?;
    let names =
        |files: &BTreeMap<Split, &str>| files.values().copied().collect::<Vec<_>>().join(", ");
    let mut rows: Vec<Row> = Vec::new();
    if !lists.is_empty() {
        for (&split, file) in &lists {
            rows.extend(read_list(tree, file, split, finder)?);
        }
        for split in [Split::Train, Split::Test] {
            if !lists.contains_key(&split) {
                note_missing_list(split, format!("my_{split}.txt"), finder);
            }
        }
        if !tables.is_empty() {
            let message = "Kinetics-400 csv files lie here too; the lists are used";
            finder.note(NoteKind::Choice, "lists", message);
        }
        Ok((rows, format!("lists {}", names(&lists))))
    } else if !tables.is_empty() {
        for (&split, file) in &tables {
            rows.extend(read_table(tree, file, split, finder)?);
        }
        // Kinetics-Sound has clips of the other two splits alone, as its lists have.
        for split in [Split::Train, Split::Test] {
            if !tables.contains_key(&split) {
                note_missing_list(split, format!("{split}.csv"), finder);
            }
        }
        Ok((rows, format!("Kinetics-400 tables {}", names(&tables))))
    } else {
        let rows = read_folders(tree);
        if rows.is_empty() {
            return Err(no_layout(
                tree,
                "no lists, no Kinetics-400 csv files and no clips in class folders in it",
                LAYOUT,
            ));
        }
        Ok((rows, "class folders".to_owned()))
    }
}

fn note_missing_list(split: Split, file: String, finder: &mut Finder<'_>) {
    let message = format!("no such file; the {split} split is left out");
    finder.note(NoteKind::MissingList, file, message);
}

/// One annotated clip.
struct Row {
    id: String,
    start: u32,
    end: u32,
    class: u32,
    split: Split,
}

impl Row {
    fn new(name: ClipName<'_>, class: u32, split: Split) -> Row {
        let start = name.start.unwrap_or(0);
        Row {
            id: name.id.to_owned(),
            start,
            end: name.end.unwrap_or(start + CLIP_SECONDS),
            class,
            split,
        }
    }

    fn sample_id(&self) -> String {
        format!("{}_{:06}_{:06}", self.id, self.start, self.end)
    }

    fn sample(&self, clips: &Clips<'_>, finder: &mut Finder<'_>) -> Sample {
        let id = self.sample_id();
        let replacements: Vec<String> = clips
            .videos_of(&self.id)
            .into_iter()
            .filter(|file| is_replacement(file))
            .collect();
        let mut videos = clips.videos(&self.id, Some(self.start));
        videos.retain(|file| !is_replacement(file));
        // Of copies in the folders of several splits, the one of the clip's own split comes first.
        videos.sort_by_key(|file| !in_split_folder(file, self.split));
        if let (Some(replacement), Some(original)) = (replacements.first(), videos.first()) {
            let empty = finder.is_empty(original);
            let why = if empty { ", which holds no bytes" } else { "" };
            let message = format!("{replacement} is taken before {original}{why}");
            finder.note(NoteKind::Replacement, &id, message);
            // An empty original that the publisher has replaced is no fault of this copy.
            videos.retain(|file| !finder.is_empty(file));
        }
        videos.splice(0..0, replacements);
        let mut audio_files = clips.audio_files(&self.id, Some(self.start));
        if videos.is_empty() {
            clips.note_unfinished(&self.id, Some(self.start), finder);
            videos.push(format!("{}/{id}.mp4", self.split));
        }
        let video = finder.input(&id, &videos);
        // Audio files come first, then the audio tracks of the videos.
        if audio_files.is_empty() || video.is_present() {
            audio_files.extend(videos.iter().cloned());
        }
        let audio = finder.input(&id, &audio_files);
        Sample {
            id,
            split: self.split,
            labels: vec![self.class],
            source: videos.swap_remove(0),
            inputs: vec![audio, video],
            segment: None,
        }
    }
}

fn is_replacement(file: &str) -> bool {
    file.split('/')
        .rev()
        .skip(1)
        .any(|dir| dir.starts_with("replacement"))
}

fn in_split_folder(file: &str, split: Split) -> bool {
    file.split('/')
        .rev()
        .skip(1)
        .any(|dir| Split::from_spelling(dir) == Some(split))
}

/// Finds the class of this name, written with blanks or underscores and in any letter case.
fn class_of(name: &str) -> Option<u32> {
    let name = name
        .trim()
        .trim_matches('"')
        .to_ascii_lowercase()
        .replace('_', " ");
    let found = facts::KINETICS_SOUND.binary_search_by(|one| one.0.cmp(&name));
    found.ok().map(|class| class as u32)
}

/// Finds the split that a file name contains, as in `my_train.txt` and `kinetics-400_val.csv`.
fn split_in_name(file: &str) -> Option<Split> {
    let (stem, _) = split_extension(base_name(file));
    stem.split(|c: char| !c.is_ascii_alphanumeric())
        .find_map(Split::from_spelling)
}

/// Returns the split of a list. `None` if the file is no list, judged by its name and its first
/// two lines, of which one may be a header.
fn list_split(tree: &Tree, file: &str) -> Result<Option<Split>, Error> {
    if !file.ends_with(".txt") && !file.ends_with(".csv") {
        return Ok(None);
    }
    let Some(split) = split_in_name(file) else {
        return Ok(None);
    };
    let text = tree.probe(file)?;
    // A class name may be as long as a video id ("parasailing") and parse as one, so a table has
    // to be recognised first, by its header.
    let is_table = lines(&text)
        .next()
        .is_some_and(|(_, line)| Header::parse(line).id.is_some());
    let is_list = !is_table
        && lines(&text)
            .take(2)
            .any(|(_, line)| parse_row(line).is_some());
    Ok(is_list.then_some(split))
}

/// Returns the split of a Kinetics-400 table. `None` if the file is none, judged by its name and
/// header.
fn table_split(tree: &Tree, file: &str) -> Result<Option<Split>, Error> {
    let Some(split) = split_in_name(file).filter(|_| file.ends_with(".csv")) else {
        return Ok(None);
    };
    let text = tree.probe(file)?;
    let header = lines(&text).next().map(|(_, line)| Header::parse(line));
    Ok(header
        .is_some_and(|header| header.id.is_some() && header.start.is_some())
        .then_some(split))
}

/// Parses a list's row, `<clip>,10,<class index>` or `<file>.mp4 <class name>`, into a clip and a
/// class index.
fn parse_row(line: &str) -> Option<(ClipName<'_>, u32)> {
    let line = line.trim();
    let (clip, rest) = line
        .split_once(',')
        .or_else(|| line.split_once(char::is_whitespace))?;
    let clip = base_name(clip);
    let name = ClipName::parse(clip).or_else(|| ClipName::parse(split_extension(clip).0))?;
    let last = rest.rsplit([',', ' ', '\t']).next()?;
    let class = match last.parse::<u32>() {
        Ok(index) => Some(index).filter(|&index| (index as usize) < facts::KINETICS_SOUND.len()),
        Err(_) => class_of(rest),
    };
    Some((name, class?))
}

fn read_list(
    tree: &Tree,
    file: &str,
    split: Split,
    finder: &mut Finder<'_>,
) -> Result<Vec<Row>, Error> {
    LIST.read(tree, file, finder, |_, line| {
        Ok(parse_row(line).map(|(name, class)| Row::new(name, class, split)))
    })
}

/// The column indices of a Kinetics-400 table, whose publishers use different column names.
struct Header {
    label: Option<usize>,
    id: Option<usize>,
    start: Option<usize>,
    end: Option<usize>,
}

impl Header {
    fn parse(line: &str) -> Header {
        let columns: Vec<&str> = line
            .split(',')
            .map(|one| one.trim().trim_matches('"'))
            .collect();
        let find = |names: &[&str]| columns.iter().position(|one| names.contains(one));
        Header {
            label: find(&["label", "label-name"]),
            id: find(&["youtube_id", "video-id"]),
            start: find(&["time_start", "start-time"]),
            end: find(&["time_end", "end-time"]),
        }
    }
}

fn read_table(
    tree: &Tree,
    file: &str,
    split: Split,
    finder: &mut Finder<'_>,
) -> Result<Vec<Row>, Error> {
    let text = tree.read(file)?;
    let header = Header::parse(text.lines().next().unwrap_or_default());
    let (Some(label), Some(id), Some(start)) = (header.label, header.id, header.start) else {
        let message = format!("the table has no label column; the {split} split is left out");
        finder.note(NoteKind::MissingList, file, message);
        return Ok(Vec::new());
    };
    let fail = |line: Option<usize>, problem: String| {
        Error::annotation(
            &tree.path(file),
            line,
            problem,
            "expected label,youtube_id,time_start,time_end,split,is_cc",
        )
    };
    // No cell of these tables holds a line break.
    if let Some(cell) = long_cells(&tree.path(file), &text, b',')?.first() {
        let problem = format!("a quote opens here and is closed in line {}", cell.last);
        return Err(fail(Some(cell.first), problem));
    }
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| fail(None, error.to_string()))?;
        let line = record.position().map(|position| position.line() as usize);
        let cell = |column: usize| record.get(column).unwrap_or_default().trim();
        let Some(class) = class_of(cell(label)) else {
            continue;
        };
        let time = |column: usize| {
            cell(column)
                .parse::<f64>()
                .ok()
                .filter(|time| (0.0..1e8).contains(time))
        };
        let (true, Some(begins)) = (is_id(cell(id)), time(start)) else {
            let row: Vec<&str> = record.iter().collect();
            return Err(fail(
                line,
                format!("\"{}\" names no clip", shorten(&row.join(","))),
            ));
        };
        let name = ClipName {
            id: cell(id),
            start: Some(begins as u32),
            end: header.end.and_then(time).map(|ends| ends as u32),
        };
        rows.push(Row::new(name, class, split));
    }
    Ok(rows)
}

/// Lists the clips in folders that are named after splits and classes.
fn read_folders(tree: &Tree) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for file in tree.files() {
        let mut dirs = file.split('/').rev().skip(1);
        let class = dirs.clone().find_map(class_of);
        let split = dirs.find_map(Split::from_spelling);
        let clip = ClipFile::parse(base_name(file)).filter(|clip| clip.kind != Kind::Audio);
        if let (Some(clip), Some(class), Some(split)) = (clip, class, split)
            && !is_replacement(file)
        {
            rows.push(Row::new(clip.name, class, split));
        }
    }
    rows.sort_by_key(|row| row.split);
    // Several files of one clip lie in one folder where a download tool has not merged them.
    let mut seen = BTreeSet::new();
    rows.retain(|row| seen.insert((row.split, row.class, row.sample_id())));
    rows
}
