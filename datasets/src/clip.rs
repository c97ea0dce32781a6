//! Names of clips cut from YouTube videos: `<id>`, `<id>_<start>` or `<id>_<start>_<end>`, seconds padded or not.
//!
//! Ids hold `-` and `_` and may begin with them: they are told by length, never by splitting.

use std::collections::BTreeMap;

use crate::tree::{Tree, base_name, split_extension};

/// Characters of a video id.
const ID_CHARS: usize = 11;

/// Endings of files that hold a picture track, lower case.
const VIDEO: [&str; 4] = ["mp4", "mkv", "webm", "avi"];

/// Whether this is a video id and nothing more.
pub(crate) fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == ID_CHARS && text.bytes().all(fits)
}

/// The parts of a clip's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClipName<'a> {
    pub(crate) id: &'a str,
    pub(crate) start: Option<u32>,
    pub(crate) end: Option<u32>,
}

impl<'a> ClipName<'a> {
    /// Reads a name without its extension.
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
            // At most eight digits: no overflow, and 00000012 is still a time.
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

/// The clips of a tree, found by id and start wherever they lie.
pub(crate) struct Clips<'a> {
    videos: BTreeMap<&'a str, Vec<(Option<u32>, &'a str)>>,
    sounds: BTreeMap<&'a str, Vec<(Option<u32>, &'a str)>>,
    files: usize,
}

impl<'a> Clips<'a> {
    pub(crate) fn find(tree: &'a Tree) -> Clips<'a> {
        let mut clips = Clips {
            videos: BTreeMap::new(),
            sounds: BTreeMap::new(),
            files: 0,
        };
        for file in tree.files() {
            let (stem, extension) = split_extension(base_name(file));
            let extension = extension.to_ascii_lowercase();
            let kind = if VIDEO.contains(&extension.as_str()) {
                clips.files += 1;
                &mut clips.videos
            } else if extension == "wav" {
                &mut clips.sounds
            } else {
                continue;
            };
            if let Some(name) = ClipName::parse(stem) {
                kind.entry(name.id).or_default().push((name.start, file));
            }
        }
        clips
    }

    /// How many video files the tree has.
    pub(crate) fn video_files(&self) -> usize {
        self.files
    }

    /// Every video of a clip, sorted by path.
    pub(crate) fn videos(&self, id: &str, start: Option<u32>) -> Vec<String> {
        matching(&self.videos, id, start)
    }

    /// Every video of an id with no regard to where it starts, sorted by path.
    pub(crate) fn videos_of(&self, id: &str) -> Vec<String> {
        matching(&self.videos, id, None)
    }

    /// Every sound file of a clip, sorted by path.
    pub(crate) fn sounds(&self, id: &str, start: Option<u32>) -> Vec<String> {
        matching(&self.sounds, id, start)
    }
}

/// Files whose start is the wanted one; a start that one side does not state fits any.
fn matching(
    files: &BTreeMap<&str, Vec<(Option<u32>, &str)>>,
    id: &str,
    start: Option<u32>,
) -> Vec<String> {
    let of_id = files.get(id).into_iter().flatten();
    of_id
        .filter(|(its, _)| its.is_none() || start.is_none() || *its == start)
        .map(|(_, file)| (*file).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_by_length() {
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
