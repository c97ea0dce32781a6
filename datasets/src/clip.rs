//! Names of clips cut from YouTube videos: `<id>`, `<id>_<start>` or `<id>_<start>_<end>`, with
//! times in seconds, padded or not.
//!
//! Ids contain `-` and `_` and may begin with them. They are therefore recognised by their length
//! and never by splitting the name.

use std::collections::BTreeMap;

use crate::tree::{Tree, base_name, split_extension};

/// The number of characters in a video id.
const ID_CHARS: usize = 11;

/// File extensions of videos, in lower case.
const VIDEO_EXTENSIONS: [&str; 4] = ["mp4", "mkv", "webm", "avi"];

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

/// The start in seconds and the path of each file of a video id.
type FilesById<'a> = BTreeMap<&'a str, Vec<(Option<u32>, &'a str)>>;

/// The clips of a tree, which are found by id and start in any folder.
pub(crate) struct Clips<'a> {
    videos: FilesById<'a>,
    audio_files: FilesById<'a>,
    video_count: usize,
}

impl<'a> Clips<'a> {
    pub(crate) fn find(tree: &'a Tree) -> Clips<'a> {
        let mut clips = Clips {
            videos: BTreeMap::new(),
            audio_files: BTreeMap::new(),
            video_count: 0,
        };
        for file in tree.files() {
            let (stem, extension) = split_extension(base_name(file));
            let extension = extension.to_ascii_lowercase();
            let kind = if VIDEO_EXTENSIONS.contains(&extension.as_str()) {
                clips.video_count += 1;
                &mut clips.videos
            } else if extension == "wav" {
                &mut clips.audio_files
            } else {
                continue;
            };
            if let Some(name) = ClipName::parse(stem) {
                kind.entry(name.id).or_default().push((name.start, file));
            }
        }
        clips
    }

    /// The number of video files in the tree.
    pub(crate) fn video_files(&self) -> usize {
        self.video_count
    }

    /// Paths of all videos of a clip, sorted.
    pub(crate) fn videos(&self, id: &str, start: Option<u32>) -> Vec<String> {
        matching(&self.videos, id, start)
    }

    /// Paths of all videos of an id, at any start, sorted.
    pub(crate) fn videos_of(&self, id: &str) -> Vec<String> {
        matching(&self.videos, id, None)
    }

    /// Paths of all audio files of a clip, sorted.
    pub(crate) fn audio_files(&self, id: &str, start: Option<u32>) -> Vec<String> {
        matching(&self.audio_files, id, start)
    }
}

/// Paths of the files of an id that begin at `start`. If the start is not known of a file or not
/// given, any matches.
fn matching(files: &FilesById<'_>, id: &str, start: Option<u32>) -> Vec<String> {
    let candidates = files.get(id).into_iter().flatten();
    candidates
        .filter(|(begins, _)| begins.is_none() || start.is_none() || *begins == start)
        .map(|(_, file)| (*file).to_owned())
        .collect()
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
}
