//! CREMA-D: `AudioWAV/<stem>.wav`, `AudioMP3/<stem>.mp3`, `VideoFlash/<stem>.flv`, anywhere below the raw root.
//!
//! A stem is `ACTOR_SENTENCE_EMOTION_LEVEL` and carries the label (the emotion the actor was asked for; the crowd's
//! votes are not used). The split comes from a pair of lists, one for training and one for testing, wherever they lie
//! below the raw root: OGM-GE's `train.csv`/`test.csv` (`<stem>,<CODE>`) or MLA's form (`<stem>.flv <Word>`).
//! Without lists it is drawn: 744 of 7,442, or as many of what is there, the same share of every emotion.
//!
//! Sound is taken from the wav, else the mp3, else the video's own track.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, shorten};
use crate::facts;
use crate::stratify;
use crate::tree::{
    Finder, State, Tree, base_name, depth, join, lines, no_layout, parent, split_extension,
};
use crate::types::{Dataset, Info, Input, ListOptions, Listing, NoteKind, Sample, Split};

/// What should lie in the raw root.
const LAYOUT: &str = "expected the CREMA-D clone there: AudioWAV/<stem>.wav and VideoFlash/<stem>.flv, \
     with or without OGM-GE's train.csv and test.csv beside them";

/// Clips in the whole dataset, and how many of them the published test list has: the share that a drawn split keeps.
const ALL_CLIPS: usize = 7_442;
const TEST_CLIPS: usize = 744;

/// The twelve sentences.
const SENTENCES: [&str; 12] = [
    "IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI",
];

/// The kinds of file, best source of sound first.
const FOLDERS: [(&str, &str); 3] = [
    ("AudioWAV", "wav"),
    ("AudioMP3", "mp3"),
    ("VideoFlash", "flv"),
];
const WAV: usize = 0;
const MP3: usize = 1;
const FLV: usize = 2;

/// A file that the publisher's README calls wrong. Size tells that file from a repaired or made-up one.
struct KnownBad {
    stem: &'static str,
    kind: usize,
    bytes: std::ops::RangeInclusive<u64>,
    /// Whether it may serve as sound, as picture.
    audio: bool,
    video: bool,
    message: &'static str,
}

const KNOWN_BAD: [KnownBad; 8] = [
    KnownBad {
        stem: "1076_MTI_NEU_XX",
        kind: FLV,
        bytes: 35_166..=35_166,
        audio: false,
        video: true,
        message: "the flv is very short and silent; its picture is used, its sound is not",
    },
    KnownBad {
        stem: "1076_MTI_NEU_XX",
        kind: MP3,
        bytes: 4_262..=4_262,
        audio: false,
        video: true,
        message: "the mp3 is very short and silent; it is not used",
    },
    KnownBad {
        stem: "1076_MTI_SAD_XX",
        kind: WAV,
        bytes: 82_260..=82_260,
        audio: false,
        video: true,
        message: "the wav is silent; it is not used",
    },
    KnownBad {
        stem: "1076_MTI_SAD_XX",
        kind: FLV,
        bytes: 201_958..=201_958,
        audio: false,
        video: false,
        message: "the flv shows an error picture and is silent; it is not used",
    },
    KnownBad {
        stem: "1064_TIE_SAD_XX",
        kind: FLV,
        bytes: 91_223..=91_223,
        audio: true,
        video: true,
        message: "the flv states no duration; it is used as far as it goes",
    },
    KnownBad {
        stem: "1064_TIE_SAD_XX",
        kind: MP3,
        bytes: 20_127..=20_127,
        audio: true,
        video: true,
        message: "the mp3 states no duration; it is used as far as it goes",
    },
    KnownBad {
        stem: "1064_IEO_DIS_MD",
        kind: FLV,
        bytes: 8_544_280..=8_544_280,
        audio: false,
        video: false,
        message: "the flv is about a minute of all emotions; it is not used",
    },
    KnownBad {
        stem: "1064_IEO_DIS_MD",
        kind: MP3,
        // The true clip has 4 s, the wrong one about 2 MB.
        bytes: 1_000_000..=u64::MAX,
        audio: false,
        video: true,
        message: "the mp3 is about a minute of all emotions; it is not used",
    },
];

/// Pairs of clips whose wav files are the same sound under two emotions.
const SAME_SOUND: [(&str, &str); 3] = [
    ("1006_TIE_HAP_XX", "1006_TIE_NEU_XX"),
    ("1013_WSI_DIS_XX", "1013_WSI_SAD_XX"),
    ("1017_IWW_ANG_XX", "1017_IWW_FEA_XX"),
];

/// See the module comment.
pub(crate) struct CremaD {
    info: Info,
}

impl CremaD {
    pub(crate) fn new() -> CremaD {
        CremaD {
            info: facts::crema_d(),
        }
    }
}

impl Dataset for CremaD {
    fn info(&self) -> &Info {
        &self.info
    }

    fn list(&self, raw: &Path, _options: &ListOptions) -> Result<Listing, Error> {
        let tree = Tree::walk(raw, LAYOUT)?;
        let base = tree
            .find_dir(|dir| {
                FOLDERS
                    .iter()
                    .any(|(folder, _)| tree.child_dir(dir, folder).is_some())
            })
            .ok_or_else(|| {
                no_layout(
                    &tree,
                    "no folder AudioWAV, AudioMP3 or VideoFlash in it",
                    LAYOUT,
                )
            })?
            .to_owned();
        let mut finder = Finder::new(&tree);
        let media = Media::find(&tree, &base, &mut finder);
        let (rows, split_from) = match find_lists(&tree, &mut finder)? {
            Some((train, test)) => {
                let mut rows = read_list(&tree, &train, Split::Train, &mut finder)?;
                rows.extend(read_list(&tree, &test, Split::Test, &mut finder)?);
                refuse_doubles(&tree, &rows)?;
                let rows = rows.into_iter().map(|row| (row.stem, row.split)).collect();
                (rows, format!("split of {train} and {test}"))
            }
            None => (
                draw_split(&tree, &base, &media)?,
                format!("no split lists: {TEST_CLIPS} in {ALL_CLIPS} drawn for the test"),
            ),
        };
        let mut samples = Vec::with_capacity(rows.len());
        for (stem, split) in &rows {
            samples.push(media.sample(stem, *split, &mut finder)?);
        }
        media.remark(&rows, &mut finder)?;
        let notes = finder.finish(&samples, LAYOUT)?;
        let place = if base.is_empty() {
            String::new()
        } else {
            format!(" in {base}")
        };
        Ok(Listing {
            layout: format!("{}{place}; {split_from}", media.folder_names()),
            samples,
            notes,
        })
    }

    fn expected_per_class(&self) -> [Option<Vec<usize>>; 3] {
        [
            Some(facts::CREMA_D.iter().map(|one| one.2).collect()),
            None,
            Some(facts::CREMA_D.iter().map(|one| one.3).collect()),
        ]
    }
}

/// The stem in its present spelling and its class, if it is one. An early release wrote the level `X` for `XX`.
fn parse_stem(stem: &str) -> Option<(String, u32)> {
    let fields: Vec<&str> = stem.split('_').collect();
    let [actor, sentence, emotion, level] = fields[..] else {
        return None;
    };
    let actor_fits =
        actor.len() == 4 && actor.starts_with('1') && actor.bytes().all(|b| b.is_ascii_digit());
    let class = facts::CREMA_D
        .iter()
        .position(|(code, ..)| *code == emotion)?;
    let level = match level {
        "X" => "XX",
        "LO" | "MD" | "HI" | "XX" => level,
        _ => return None,
    };
    let stem = format!("{actor}_{sentence}_{emotion}_{level}");
    (actor_fits && SENTENCES.contains(&sentence)).then_some((stem, class as u32))
}

/// Which media files there are, per kind and stem.
struct Media {
    /// Path of the folder, or where it would be, and whether it is there.
    folders: [(String, bool); 3],
    files: [BTreeMap<String, String>; 3],
}

impl Media {
    fn find(tree: &Tree, base: &str, finder: &mut Finder<'_>) -> Media {
        let folders = FOLDERS.map(|(name, _)| match tree.child_dir(base, name) {
            Some(dir) => (dir.to_owned(), true),
            None => (join(base, name), false),
        });
        let mut files: [BTreeMap<String, String>; 3] = Default::default();
        for (kind, (dir, present)) in folders.iter().enumerate() {
            if !present {
                continue;
            }
            for file in tree.files_below(dir) {
                let (name, extension) = split_extension(base_name(file));
                match parse_stem(name) {
                    Some((stem, _)) if extension.eq_ignore_ascii_case(FOLDERS[kind].1) => {
                        // The present spelling wins over the old one.
                        if name == stem || !files[kind].contains_key(&stem) {
                            files[kind].insert(stem, file.to_owned());
                        }
                    }
                    _ => finder.note(
                        NoteKind::Unlisted,
                        file,
                        "the name is not that of a CREMA-D clip; not used",
                    ),
                }
            }
        }
        Media { folders, files }
    }

    fn stems(&self) -> BTreeSet<&str> {
        self.files
            .iter()
            .flat_map(|files| files.keys().map(String::as_str))
            .collect()
    }

    fn folder_names(&self) -> String {
        let names: Vec<&str> = self
            .folders
            .iter()
            .filter(|(_, present)| *present)
            .map(|(dir, _)| base_name(dir))
            .collect();
        names.join(" + ")
    }

    /// Where the file is, or where it would be.
    fn path(&self, kind: usize, stem: &str) -> String {
        self.files[kind].get(stem).cloned().unwrap_or_else(|| {
            join(
                &self.folders[kind].0,
                &format!("{stem}.{}", FOLDERS[kind].1),
            )
        })
    }

    fn sample(&self, stem: &str, split: Split, finder: &mut Finder<'_>) -> Result<Sample, Error> {
        let Some((stem, class)) = parse_stem(stem) else {
            unreachable!("lists and folders give stems that were parsed");
        };
        // What the known-bad table leaves of each kind, and what it said.
        let mut audio_ok = [true; 3];
        let mut video_ok = true;
        let mut said: [Option<&str>; 2] = [None, None];
        for bad in KNOWN_BAD.iter().filter(|bad| bad.stem == stem) {
            let file = self.path(bad.kind, &stem);
            if let State::Media(bytes) = finder.state(&file)?
                && bad.bytes.contains(&bytes)
            {
                finder.note(NoteKind::KnownBad, &stem, bad.message);
                audio_ok[bad.kind] &= bad.audio;
                video_ok &= bad.video;
                for (said, fits) in said.iter_mut().zip([bad.audio, bad.video]) {
                    *said = said.or((!fits).then_some(bad.message));
                }
            }
        }
        let video = if video_ok {
            finder.input(&stem, &[self.path(FLV, &stem)])?
        } else {
            Input::absent(format!("known to be bad: {}", said[1].unwrap_or_default()))
        };
        // Sound ought to be in the best folder there is; the others are asked where they have the file.
        let candidates: Vec<String> = (WAV..=FLV)
            .filter(|&kind| self.folders[kind].1)
            .enumerate()
            .filter(|&(rank, kind)| {
                audio_ok[kind] && (rank == 0 || self.files[kind].contains_key(&stem))
            })
            .map(|(_, kind)| self.path(kind, &stem))
            .collect();
        let audio = if candidates.is_empty() {
            let reason = said[0].map_or_else(
                || format!("there is no {}", self.path(WAV, &stem)),
                |said| format!("known to be bad: {said}"),
            );
            Input::absent(reason)
        } else {
            finder.input(&stem, &candidates)?
        };
        let source = match (&video, &audio) {
            (Input::Files(files), _) | (_, Input::Files(files)) => files[0].display().to_string(),
            _ => self.path(FLV, &stem),
        };
        Ok(Sample {
            id: stem,
            split,
            labels: vec![class],
            inputs: [audio, video],
            source,
            segment: None,
        })
    }

    /// What is worth telling about the tree as a whole.
    fn remark(&self, rows: &[(String, Split)], finder: &mut Finder<'_>) -> Result<(), Error> {
        let listed: BTreeSet<&str> = rows.iter().map(|(stem, _)| stem.as_str()).collect();
        for stem in self.stems() {
            if !listed.contains(stem) {
                finder.note(
                    NoteKind::Unlisted,
                    stem,
                    "the clip is here and in no list; not used",
                );
            }
        }
        if !self.folders[WAV].1 && !self.folders[MP3].1 {
            finder.note(
                NoteKind::Choice,
                &self.folders[WAV].0,
                "no such folder: the sound is taken from the flv files' own track",
            );
        }
        for (one, other) in SAME_SOUND {
            let both = [one, other].map(|stem| self.path(WAV, stem));
            if let (State::Media(a), State::Media(b)) =
                (finder.state(&both[0])?, finder.state(&both[1])?)
                && a == b
            {
                let message = format!("published with the very sound of {other}; both are kept");
                finder.note(NoteKind::KnownBad, one, message);
            }
        }
        Ok(())
    }
}

/// One line of a split list.
struct Row {
    stem: String,
    split: Split,
    file: String,
    line: usize,
}

/// Reads `<stem>,<CODE>` or `<stem>.flv <Word>`: stem as written, class said. `None` if the line is neither.
fn parse_row(line: &str) -> Option<(String, u32, u32)> {
    let (clip, label) = line.split_once(',').or_else(|| {
        let line = line.trim();
        line.split_once(char::is_whitespace)
    })?;
    let clip = base_name(clip.trim().trim_matches('"'));
    let (stem, class) = parse_stem(split_extension(clip).0)?;
    let label = label.trim().trim_matches('"');
    let said = facts::CREMA_D
        .iter()
        .position(|(code, word, ..)| *code == label || word.eq_ignore_ascii_case(label))?;
    Some((stem, class, said as u32))
}

/// The pair of split lists nearest to the root, told by name (`train` and `test` in the same place) and first lines.
fn find_lists(tree: &Tree, finder: &mut Finder<'_>) -> Result<Option<(String, String)>, Error> {
    let mut pairs = Vec::new();
    let mut lonely = None;
    for file in tree.files() {
        let name = base_name(file).to_ascii_lowercase();
        let (stem, extension) = split_extension(&name);
        if !matches!(extension, "csv" | "txt") || !is_list(tree, file, stem)? {
            continue;
        }
        let partner = |from: &str, to: &str| {
            let name = base_name(file);
            let swapped = [str::to_lowercase, str::to_uppercase, capitalised]
                .iter()
                .map(|case| name.replacen(&case(from), &case(to), 1))
                .find(|swapped| swapped != name)?;
            let swapped = join(parent(file), &swapped);
            tree.has_file(&swapped).then_some(swapped)
        };
        let train = stem.contains("train");
        let (from, to) = if train {
            ("train", "test")
        } else {
            ("test", "train")
        };
        match partner(from, to) {
            None => lonely = Some((file, to)),
            Some(test) if train => {
                pairs.push((depth(file), stem != "train", file.to_owned(), test));
            }
            Some(_) => {}
        }
    }
    pairs.sort();
    let mut pairs = pairs.into_iter().map(|(_, _, train, test)| (train, test));
    let Some(first) = pairs.next() else {
        return match lonely {
            None => Ok(None),
            Some((file, partner)) => Err(Error::annotation(
                &tree.path(file),
                None,
                format!("a split list without the {partner} list of the same name beside it"),
                "put the other one beside it, or take this one away to have a split drawn",
            )),
        };
    };
    for (train, test) in pairs {
        finder.note(
            NoteKind::Choice,
            train.as_str(),
            format!("{train} and {test} hold another split; {} is used", first.0),
        );
    }
    Ok(Some(first))
}

fn capitalised(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

/// Whether a file is a split list: by its name, and by its first lines (one of them may be a header).
fn is_list(tree: &Tree, file: &str, stem: &str) -> Result<bool, Error> {
    if !stem.contains("train") && !stem.contains("test") {
        return Ok(false);
    }
    let text = tree.read(file)?;
    let is_list = lines(&text)
        .take(2)
        .any(|(_, line)| parse_row(line).is_some());
    Ok(is_list)
}

fn read_list(
    tree: &Tree,
    file: &str,
    split: Split,
    finder: &mut Finder<'_>,
) -> Result<Vec<Row>, Error> {
    let text = tree.read(file)?;
    let mut rows = Vec::new();
    for (line, content) in lines(&text) {
        let Some((stem, class, said)) = parse_row(content) else {
            if rows.is_empty() && line == 1 {
                finder.note(
                    NoteKind::Repaired,
                    file,
                    "the first line is taken for a header",
                );
                continue;
            }
            return Err(Error::annotation(
                &tree.path(file),
                Some(line),
                format!("\"{}\" is no row of a CREMA-D list", shorten(content)),
                "expected a clip and its emotion, as in 1001_DFA_ANG_XX,ANG",
            ));
        };
        if class != said {
            return Err(Error::annotation(
                &tree.path(file),
                Some(line),
                format!("{stem} is listed with an emotion that its name does not have"),
                "mend the line; for labels of your own describe the data in a .toml",
            ));
        }
        rows.push(Row {
            stem,
            split,
            file: file.to_owned(),
            line,
        });
    }
    Ok(rows)
}

fn refuse_doubles(tree: &Tree, rows: &[Row]) -> Result<(), Error> {
    let mut first: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows {
        if let Some(before) = first.insert(&row.stem, row) {
            return Err(Error::annotation(
                &tree.path(&row.file),
                Some(row.line),
                format!(
                    "{} stands in {}, line {} already",
                    row.stem, before.file, before.line
                ),
                "take one of the two lines away",
            ));
        }
    }
    Ok(())
}

/// A split for when there are no lists: of the clips that the clone's own table of contents names, or without that of
/// the clips that are there.
fn draw_split(tree: &Tree, base: &str, media: &Media) -> Result<Vec<(String, Split)>, Error> {
    let contents = join(base, "SentenceFilenames.csv");
    let mut stems: BTreeSet<String> = BTreeSet::new();
    if tree.has_file(&contents) {
        let text = tree.read(&contents)?;
        stems.extend(lines(&text).filter_map(|(_, line)| {
            let (_, stem) = line.split_once(',')?;
            parse_stem(stem.trim().trim_matches('"')).map(|(stem, _)| stem)
        }));
    }
    if stems.is_empty() {
        stems.extend(media.stems().into_iter().map(str::to_owned));
    }
    let items: Vec<(&str, u32)> = stems
        .iter()
        .filter_map(|stem| parse_stem(stem).map(|(_, class)| (stem.as_str(), class)))
        .collect();
    let total = (items.len() * TEST_CLIPS + ALL_CLIPS / 2) / ALL_CLIPS;
    let test = stratify::draw("crema-d", &items, total);
    let of = |wanted: bool, split: Split| {
        let chosen = items.iter().zip(&test).filter(move |one| *one.1 == wanted);
        chosen.map(move |((stem, _), _)| ((*stem).to_owned(), split))
    };
    Ok(of(false, Split::Train)
        .chain(of(true, Split::Test))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_follow_the_grammar() {
        assert_eq!(
            parse_stem("1040_ITH_SAD_X"),
            Some(("1040_ITH_SAD_XX".to_owned(), 5))
        );
        assert_eq!(
            parse_stem("1001_IEO_ANG_HI"),
            Some(("1001_IEO_ANG_HI".to_owned(), 0))
        );
        for wrong in [
            "1001_IEO_ANG",
            "2001_IEO_ANG_XX",
            "1001_IEO_ANG_XY",
            "1001_ABC_ANG_XX",
            "1001_IEO_JOY_XX",
            "1001_IEO_ANG_XX_2",
            "10é1_IEO_ANG_XX",
            "",
        ] {
            assert_eq!(parse_stem(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rows_of_both_published_forms() {
        let ang = Some(("1001_DFA_ANG_XX".to_owned(), 0, 0));
        assert_eq!(parse_row("1001_DFA_ANG_XX,ANG"), ang);
        assert_eq!(parse_row("1001_DFA_ANG_XX.flv Anger"), ang);
        assert_eq!(parse_row("\"1001_DFA_ANG_XX\",\"ANG\""), ang);
        assert_eq!(
            parse_row("VideoFlash/1001_DFA_ANG_XX.flv,SAD"),
            Some(("1001_DFA_ANG_XX".to_owned(), 0, 5))
        );
        assert_eq!(parse_row("file,label"), None);
    }
}
