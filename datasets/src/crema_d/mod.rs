//! CREMA-D: `AudioWAV/<stem>.wav`, `AudioMP3/<stem>.mp3`, `VideoFlash/<stem>.flv`, anywhere below
//! the raw root. The videos may have been turned into mp4, mkv, avi, webm or mov, in a folder whose name
//! begins with `Video`.
//!
//! A stem is `ACTOR_SENTENCE_EMOTION_LEVEL` and contains the label, which is the emotion that the
//! actor was asked for; the crowd's votes are not used. The split comes from a pair of lists, one
//! for training and one for testing, anywhere below the raw root: OGM-GE's `train.csv` and
//! `test.csv` (`<stem>,<CODE>`), or MLA's form (`<stem>.flv <Word>`). Without lists the split is
//! drawn: 744 of 7,442 clips for the test, or the same share of the clips that exist, the same
//! share of every emotion.
//!
//! Audio comes from the wav, else from the mp3, else from the audio track of the video.

mod known_bad;
mod split_lists;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::known_bad::{IDENTICAL_AUDIO, KNOWN_BAD};
use crate::clip;
use crate::error::Error;
use crate::facts;
use crate::finder::Finder;
use crate::tree::{State, Tree, base_name, join, no_layout, parent, split_extension};
use crate::types::{
    AbsenceCause, Dataset, Info, Input, ListOptions, Listing, NoteKind, Sample, Split,
};

/// What the raw root should hold, for error messages.
const LAYOUT: &str = "expected the CREMA-D clone there: AudioWAV/<stem>.wav and VideoFlash/<stem>.flv, \
     with or without OGM-GE's train.csv and test.csv beside them";

/// The codes of the twelve sentences.
const SENTENCES: [&str; 12] = [
    "IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI",
];

/// Folder and file extension of the kinds of file, the best source of audio first.
const FOLDERS: [(&str, &str); 3] = [
    ("AudioWAV", "wav"),
    ("AudioMP3", "mp3"),
    ("VideoFlash", "flv"),
];
const WAV: usize = 0;
const MP3: usize = 1;
const FLV: usize = 2;

/// Whether a file extension is that of a kind of file. Many people turn the videos into another
/// container, because few players open flv.
fn is_of_kind(kind: usize, extension: &str) -> bool {
    let extension = extension.to_ascii_lowercase();
    extension == FOLDERS[kind].1
        || (kind == FLV && clip::VIDEO_EXTENSIONS.contains(&extension.as_str()))
}

/// Whether a folder holds videos under a name of its own, as `VideoMP4` does.
fn is_video_folder(tree: &Tree, dir: &str) -> bool {
    let is_clip = |file: &str| {
        let (stem, extension) = split_extension(base_name(file));
        is_of_kind(FLV, extension) && parse_stem(stem).is_some()
    };
    let name = base_name(dir).to_ascii_lowercase();
    name.starts_with("video") && tree.files_below(dir).any(is_clip)
}

/// Finds the folder of a kind of file in `base`.
fn find_folder<'a>(tree: &'a Tree, base: &str, kind: usize) -> Option<&'a str> {
    let exact = tree.child_dir(base, FOLDERS[kind].0);
    if exact.is_some() || kind != FLV {
        return exact;
    }
    tree.find_dir(|dir| parent(dir) == base && is_video_folder(tree, dir))
}

/// CREMA-D; the module's documentation describes the layout.
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
            .or_else(|| tree.find_dir(|dir| is_video_folder(&tree, dir)).map(parent))
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
        let (clips, split_from) = split_lists::split(&tree, &base, &media, &mut finder)?;
        let mut samples = Vec::with_capacity(clips.len());
        for (clip, split) in &clips {
            samples.push(media.sample(clip, *split, &mut finder));
        }
        media.note_annotations(&clips, &mut finder);
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

/// A clip, identified by its file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Clip {
    /// The name without extension, with the level spelled as in the present release.
    stem: String,
    class: u32,
}

/// Parses a file name without extension. An early release wrote the level `XX` as `X`.
fn parse_stem(stem: &str) -> Option<Clip> {
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
    (actor_fits && SENTENCES.contains(&sentence)).then_some(Clip {
        stem,
        class: class as u32,
    })
}

/// The media files of a tree.
struct Media {
    /// For each kind, the path that the folder has or should have, and whether the folder exists.
    folders: [(String, bool); 3],
    /// For each kind, the path of each stem.
    files: [BTreeMap<String, String>; 3],
}

impl Media {
    fn find(tree: &Tree, base: &str, finder: &mut Finder<'_>) -> Media {
        let folders = [WAV, MP3, FLV].map(|kind| match find_folder(tree, base, kind) {
            Some(dir) => (dir.to_owned(), true),
            None => (join(base, FOLDERS[kind].0), false),
        });
        let mut files: [BTreeMap<String, (bool, bool, &str)>; 3] = Default::default();
        for (kind, (dir, present)) in folders.iter().enumerate() {
            if !present {
                continue;
            }
            for file in tree.files_below(dir) {
                let (name, extension) = split_extension(base_name(file));
                match parse_stem(name) {
                    Some(Clip { stem, .. }) if is_of_kind(kind, extension) => {
                        // The present spelling is preferred to that of the early release, and the
                        // publisher's file to one in another container.
                        let published = extension.eq_ignore_ascii_case(FOLDERS[kind].1);
                        let rank = (name != stem, !published, file);
                        let best = files[kind].entry(stem).or_insert(rank);
                        *best = (*best).min(rank);
                    }
                    _ => finder.note(
                        NoteKind::Unlisted,
                        file,
                        "the name is not that of a CREMA-D clip; not used",
                    ),
                }
            }
        }
        let files = files.map(|files| {
            let files = files.into_iter();
            files
                .map(|(stem, (.., file))| (stem, file.to_owned()))
                .collect()
        });
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

    /// The path that the file has or should have.
    fn path(&self, kind: usize, stem: &str) -> String {
        self.files[kind].get(stem).cloned().unwrap_or_else(|| {
            join(
                &self.folders[kind].0,
                &format!("{stem}.{}", FOLDERS[kind].1),
            )
        })
    }

    fn sample(&self, clip: &Clip, split: Split, finder: &mut Finder<'_>) -> Sample {
        let stem = clip.stem.as_str();
        // Which kinds of file can be used, and the first reason why not, for audio and for video.
        let mut audio_usable = [true; 3];
        let mut video_usable = true;
        let mut problems: [Option<&str>; 2] = [None, None];
        for bad in KNOWN_BAD.iter().filter(|bad| bad.stem == stem) {
            let file = self.path(bad.kind, stem);
            // The size of a converted file is not known, and it shows what the published one does.
            let converted = !split_extension(&file)
                .1
                .eq_ignore_ascii_case(FOLDERS[bad.kind].1);
            if let State::Media(bytes) = finder.state(&file)
                && (bad.bytes.contains(&bytes) || converted)
            {
                finder.note(NoteKind::KnownBad, stem, bad.message);
                audio_usable[bad.kind] &= bad.audio;
                video_usable &= bad.video;
                for (problem, usable) in problems.iter_mut().zip([bad.audio, bad.video]) {
                    *problem = problem.or((!usable).then_some(bad.message));
                }
            }
        }
        let known_bad = |problem: &str| Input::Absent(AbsenceCause::KnownBad(problem.to_owned()));
        let video = if video_usable {
            finder.input(stem, &[self.path(FLV, stem)])
        } else {
            known_bad(problems[1].unwrap_or_default())
        };
        // The audio should be in the best folder that exists. The other folders are candidates if
        // they have the file.
        let candidates: Vec<String> = (WAV..=FLV)
            .filter(|&kind| self.folders[kind].1)
            .enumerate()
            .filter(|&(rank, kind)| {
                audio_usable[kind] && (rank == 0 || self.files[kind].contains_key(stem))
            })
            .map(|(_, kind)| self.path(kind, stem))
            .collect();
        let audio = if candidates.is_empty() {
            problems[0].map_or_else(
                || Input::Absent(AbsenceCause::NoFile(self.path(WAV, stem))),
                known_bad,
            )
        } else {
            finder.input(stem, &candidates)
        };
        let source = match (&video, &audio) {
            (Input::Files(files), _) | (_, Input::Files(files)) => files[0].display().to_string(),
            _ => self.path(FLV, stem),
        };
        Sample {
            id: stem.to_owned(),
            split,
            labels: vec![clip.class],
            inputs: vec![audio, video],
            source,
            segment: None,
        }
    }

    /// Adds notes where the annotation and the files differ: clips in no list, no audio folder,
    /// files that are identical.
    fn note_annotations(&self, clips: &[(Clip, Split)], finder: &mut Finder<'_>) {
        let listed: BTreeSet<&str> = clips.iter().map(|(clip, _)| clip.stem.as_str()).collect();
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
                "no such folder: the sound is taken from the videos' own track",
            );
        }
        for (one, other) in IDENTICAL_AUDIO {
            let [first, second] = [one, other].map(|stem| self.path(WAV, stem));
            if let (State::Media(a), State::Media(b)) =
                (finder.state(&first), finder.state(&second))
                && a == b
            {
                let message = format!("published with the very sound of {other}; both are kept");
                finder.note(NoteKind::KnownBad, one, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_are_parsed() {
        let parse = |stem| parse_stem(stem).map(|clip| (clip.stem, clip.class));
        assert_eq!(
            parse("1040_ITH_SAD_X"),
            Some(("1040_ITH_SAD_XX".to_owned(), 5))
        );
        assert_eq!(
            parse("1001_IEO_ANG_HI"),
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
}
