//! Names of clips cut from YouTube videos: `<id>`, `<id>_<start>` or `<id>_<start>_<end>`, with
//! times in seconds, padded or not.
//!
//! Download tools leave a second ending where they have merged or converted a file (`x.mp4.mkv`),
//! the number of the format where they have not (`x.f137.mp4`), and an ending of their own while a
//! file is incomplete (`x.webm.part`).
//!
//! Ids contain `-` and `_` and may begin with them. They are therefore recognised by their length
//! and never by splitting the name.

use std::collections::BTreeMap;

use crate::finder::Finder;
use crate::tree::{Tree, base_name, split_extension};
use crate::types::NoteKind;

/// The number of characters in a video id.
const ID_CHARS: usize = 11;

/// File extensions of videos, in lower case.
pub(crate) const VIDEO_EXTENSIONS: [&str; 6] = ["mp4", "mkv", "webm", "avi", "mov", "m4v"];

/// File extensions of audio, in lower case.
const AUDIO_EXTENSIONS: [&str; 6] = ["wav", "m4a", "mp3", "opus", "ogg", "flac"];

/// File extensions that download tools give to a file that is incomplete, in lower case.
const UNFINISHED_EXTENSIONS: [&str; 5] = ["part", "ytdl", "temp", "crdownload", "aria2"];

/// What a clip's file holds, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Video,
    Audio,
    /// The rest of a download that was not finished.
    Unfinished,
}

/// A file of a clip, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClipFile<'a> {
    pub(crate) name: ClipName<'a>,
    pub(crate) kind: Kind,
    /// The number of endings that a download tool has put between name and extension. The fewer,
    /// the better.
    pub(crate) inner_endings: usize,
}

impl<'a> ClipFile<'a> {
    /// Parses the name of a file, without folders.
    pub(crate) fn parse(file: &'a str) -> Option<ClipFile<'a>> {
        let is_in = |endings: &[&str], ending: &str| {
            let ending = ending.to_ascii_lowercase();
            endings.contains(&ending.as_str())
        };
        // Parts of a download in pieces are `x.mp4.part-Frag3`.
        let is_unfinished =
            |ending: &str| is_in(&UNFINISHED_EXTENSIONS, ending) || ending.starts_with("part-Frag");
        let is_format = |ending: &str| {
            ending
                .strip_prefix('f')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let (mut stem, extension) = split_extension(file);
        let mut kind = match extension {
            one if is_in(&VIDEO_EXTENSIONS, one) => Kind::Video,
            one if is_in(&AUDIO_EXTENSIONS, one) => Kind::Audio,
            one if is_unfinished(one) => Kind::Unfinished,
            _ => return None,
        };
        let mut inner_endings = 0;
        loop {
            let (shorter, ending) = split_extension(stem);
            if is_unfinished(ending) {
                kind = Kind::Unfinished;
            } else if !is_in(&VIDEO_EXTENSIONS, ending)
                && !is_in(&AUDIO_EXTENSIONS, ending)
                && !is_format(ending)
            {
                break;
            }
            stem = shorter;
            inner_endings += 1;
        }
        Some(ClipFile {
            name: ClipName::parse(stem)?,
            kind,
            inner_endings,
        })
    }
}

/// Whether a text is a video id.
pub(crate) fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == ID_CHARS && text.bytes().all(fits)
}

/// The parts of a clip's name; times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClipName<'a> {
    pub(crate) id: &'a str,
    pub(crate) start: Option<u32>,
    pub(crate) end: Option<u32>,
}

impl<'a> ClipName<'a> {
    /// Parses a name without its extension.
    pub(crate) fn parse(stem: &'a str) -> Option<ClipName<'a>> {
        let id = stem.get(..ID_CHARS).filter(|id| is_id(id))?;
        let mut times = [None; 2];
        let mut rest = &stem[ID_CHARS..];
        for time in &mut times {
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix('_')?;
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            // At most eight digits, so that the number cannot overflow and 00000012 is a time.
            *time = Some(rest[..digits].parse().ok().filter(|_| digits <= 8)?);
            rest = &rest[digits..];
        }
        rest.is_empty().then_some(ClipName {
            id,
            start: times[0],
            end: times[1],
        })
    }
}

/// The files of each video id.
type FilesById<'a> = BTreeMap<&'a str, Vec<(ClipFile<'a>, &'a str)>>;

/// The clips of a tree, which are found by id and start in any folder.
pub(crate) struct Clips<'a> {
    files: FilesById<'a>,
    video_count: usize,
}

impl<'a> Clips<'a> {
    pub(crate) fn find(tree: &'a Tree) -> Clips<'a> {
        let mut files = FilesById::new();
        let mut video_count = 0;
        for file in tree.files() {
            let (_, extension) = split_extension(base_name(file));
            let extension = extension.to_ascii_lowercase();
            video_count += usize::from(VIDEO_EXTENSIONS.contains(&extension.as_str()));
            if let Some(clip) = ClipFile::parse(base_name(file)) {
                files.entry(clip.name.id).or_default().push((clip, file));
            }
        }
        for files in files.values_mut() {
            files.sort_by_key(|(clip, _)| clip.inner_endings);
        }
        Clips { files, video_count }
    }

    /// The number of video files in the tree.
    pub(crate) fn video_files(&self) -> usize {
        self.video_count
    }

    /// Paths of all files of one kind of a clip, sorted by the number of their endings and by path.
    /// If the start is not known of a file or not given, any matches.
    pub(crate) fn of_kind(&self, kind: Kind, id: &str, start: Option<u32>) -> Vec<String> {
        let files = self.files.get(id).into_iter().flatten();
        files
            .filter(|(clip, _)| clip.kind == kind)
            .filter(|(clip, _)| {
                let begins = clip.name.start;
                begins.is_none() || start.is_none() || begins == start
            })
            .map(|(_, file)| (*file).to_owned())
            .collect()
    }

    /// Paths of all videos of a clip, as [`Clips::of_kind`] returns them.
    pub(crate) fn videos(&self, id: &str, start: Option<u32>) -> Vec<String> {
        self.of_kind(Kind::Video, id, start)
    }

    /// Paths of all videos of an id, at any start.
    pub(crate) fn videos_of(&self, id: &str) -> Vec<String> {
        self.videos(id, None)
    }

    /// Paths of all audio files of a clip.
    pub(crate) fn audio_files(&self, id: &str, start: Option<u32>) -> Vec<String> {
        self.of_kind(Kind::Audio, id, start)
    }

    /// Adds a note for each incomplete download of a clip that has no video.
    pub(crate) fn note_unfinished(&self, id: &str, start: Option<u32>, finder: &mut Finder<'_>) {
        for file in self.of_kind(Kind::Unfinished, id, start) {
            let message = "an unfinished download; not used; fetch it again";
            finder.note(NoteKind::Unreadable, file, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_ids_are_recognised_by_length() {
        let parse = |stem| ClipName::parse(stem).map(|one| (one.id, one.start, one.end));
        assert_eq!(parse("-3Mwkq-7TV4_2"), Some(("-3Mwkq-7TV4", Some(2), None)));
        assert_eq!(
            parse("__a_b-c_d_e_000058_000068"),
            Some(("__a_b-c_d_e", Some(58), Some(68)))
        );
        assert_eq!(parse("RUhOCu3LNXM"), Some(("RUhOCu3LNXM", None, None)));
        for wrong in [
            "RUhOCu3LNX",
            "RUhOCu3LNXMx",
            "RUhOCu3LNXM_",
            "RUhOCu3LNXM_1_2_3",
            "RUhOCu3LNXM_x",
            "RUhOCu3LNX!",
            "RUhOCu3LNéM",
            "RUhOCu3LNXM_99999999999",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn endings_of_download_tools_are_recognised() {
        let id = "RUhOCu3LNXM_000010_000020";
        let cases = [
            ("mp4", Some((Kind::Video, 0))),
            ("MP4", Some((Kind::Video, 0))),
            ("mp4.mkv", Some((Kind::Video, 1))),
            ("mp4.webm", Some((Kind::Video, 1))),
            ("f137.mp4", Some((Kind::Video, 1))),
            ("f137-1.mp4", Some((Kind::Video, 1))),
            ("f140.m4a", Some((Kind::Audio, 1))),
            ("wav", Some((Kind::Audio, 0))),
            ("webm.part", Some((Kind::Unfinished, 1))),
            ("mp4.ytdl", Some((Kind::Unfinished, 1))),
            ("f248.webm.part", Some((Kind::Unfinished, 2))),
            ("mp4.part-Frag12", Some((Kind::Unfinished, 1))),
            ("temp.mp4", Some((Kind::Unfinished, 1))),
            ("part", Some((Kind::Unfinished, 0))),
            ("jpg", None),
            ("final.mp4", None),
            ("info.json", None),
        ];
        for (ending, expected) in cases {
            let file = format!("{id}.{ending}");
            let found = ClipFile::parse(&file);
            assert_eq!(
                found.map(|one| (one.kind, one.inner_endings)),
                expected,
                "{file}"
            );
        }
    }
}
