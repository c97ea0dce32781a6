//! Failures: why a modality that should be there is missing, or there in part only. A failure has a
//! short cause out of a small set, and details.
//!
//! `manifest.json` counts by cause, and the shard's `error` column holds both. Neither may hold
//! anything that differs between two runs over the same input, such as times, process ids and
//! absolute paths.

use std::fmt;

use datasets::AbsenceCause;
use serde::{Deserialize, Serialize};

/// The file does not exist.
pub const NO_FILE: &str = "no such file";
/// The system refuses to read the file.
pub const UNREADABLE: &str = "cannot be read";
/// The file has no bytes.
pub const EMPTY: &str = "empty file";
/// The file is a Git LFS pointer, a small text that stands for the media file.
pub const LFS_POINTER: &str = "Git LFS pointer instead of media";
/// The file is in no container that is known here.
pub const NOT_MEDIA: &str = "not a media file";
/// The container holds no audio stream.
pub const NO_AUDIO: &str = "no audio stream";
/// The container holds no video stream.
pub const NO_VIDEO: &str = "no video stream";
/// This build of libav cannot decode the codec.
pub const NO_DECODER: &str = "no decoder";
/// Nothing usable can be decoded.
pub const UNDECODABLE: &str = "cannot be decoded";
/// All samples of the audio are zero.
pub const SILENT: &str = "silent";
/// The audio is shorter than one mel frame, or nothing is shown in the span of a video.
pub const TOO_SHORT: &str = "too short";
/// The input exceeds a limit that protects memory.
pub const TOO_LARGE: &str = "too large";
/// The bytes of a text do not fit its encoding.
pub const ENCODING: &str = "unknown encoding";
/// The text has no words.
pub const NO_TEXT: &str = "empty text";
/// The decode worker crashed.
pub const CRASHED: &str = "decoder crashed";
/// The decode worker took longer than the timeout.
pub const TIMED_OUT: &str = "decoder took too long";

/// As a warning: some packets could not be read or decoded.
pub const PARTLY_DAMAGED: &str = "partly damaged";
/// As a warning: the file holds less than its header declares.
pub const CUT_SHORT: &str = "cut short";
/// As a warning: another file of the sample was used, because the first choice has a failure.
pub const SECOND_CHOICE: &str = "second choice";

/// The file is wrong as published.
pub const KNOWN_BAD: &str = "known to be bad";
/// The listing gives a reason that is none of the above.
pub const UNLISTED: &str = "not usable";

/// The reason why one modality of one sample is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The cause, which is one of this module's constants.
    pub cause: String,
    /// Details, which may be empty.
    pub detail: String,
}

impl Failure {
    /// A failure without details.
    pub fn new(cause: &str) -> Failure {
        Failure::with(cause, "")
    }

    /// A failure with details.
    pub fn with(cause: &str, detail: impl fmt::Display) -> Failure {
        Failure {
            cause: cause.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// Whether a warning says that a modality is there in part only.
    pub fn is_partial(&self) -> bool {
        [PARTLY_DAMAGED, CUT_SHORT].contains(&self.cause.as_str())
    }

    /// The failure of a decoder that needs more memory than a worker may have.
    pub fn out_of_memory() -> Failure {
        Failure::with(TOO_LARGE, "needs more memory than --worker-memory allows")
    }

    /// The failure of a worker that does not keep to the protocol.
    pub fn protocol_error() -> Failure {
        Failure::with(CRASHED, "protocol error")
    }

    /// The failure of an input that the dataset's listing calls absent.
    pub fn listed(cause: &AbsenceCause) -> Failure {
        match cause {
            AbsenceCause::NoFile(path) => Failure::with(NO_FILE, path),
            AbsenceCause::Misnamed { file, meant } => {
                Failure::with(NO_FILE, format!("{file}; did you mean {meant}?"))
            }
            AbsenceCause::EmptyFile(path) => Failure::with(EMPTY, path),
            AbsenceCause::LfsPointer(path) => Failure::with(LFS_POINTER, path),
            AbsenceCause::Closed { file, reason } => {
                Failure::with(UNREADABLE, format!("{file}: {reason}"))
            }
            AbsenceCause::Encoding { file, problem } => {
                Failure::with(ENCODING, format!("{file}: {problem}"))
            }
            AbsenceCause::NoWords(path) => Failure::with(NO_TEXT, path),
            AbsenceCause::KnownBad(problem) => Failure::with(KNOWN_BAD, problem),
            AbsenceCause::UnknownGenres(inner) => {
                let detail = |path| format!("its genres are unknown: {path}");
                match &**inner {
                    AbsenceCause::EmptyFile(path) => Failure::with(EMPTY, detail(path)),
                    AbsenceCause::LfsPointer(path) => Failure::with(LFS_POINTER, detail(path)),
                    AbsenceCause::Closed { .. } => Failure::with(UNREADABLE, cause),
                    _ => Failure::with(UNLISTED, cause),
                }
            }
            AbsenceCause::Unreadable(_) => Failure::with(UNLISTED, cause),
        }
    }
}

impl From<features::Error> for Failure {
    fn from(error: features::Error) -> Failure {
        match error {
            features::Error::Limit(limit) => Failure::with(TOO_LARGE, limit),
            other => Failure::with(UNDECODABLE, other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Manifests and failure tables of released versions hold these causes and details.
    #[test]
    fn causes_of_listed_absences_are_pinned() {
        let file = || "a/b.wav".to_owned();
        let genres = |cause| AbsenceCause::UnknownGenres(Box::new(cause));
        let cases = [
            (AbsenceCause::NoFile(file()), NO_FILE, "a/b.wav"),
            (AbsenceCause::EmptyFile(file()), EMPTY, "a/b.wav"),
            (AbsenceCause::LfsPointer(file()), LFS_POINTER, "a/b.wav"),
            (
                AbsenceCause::Closed {
                    file: file(),
                    reason: "permission denied".to_owned(),
                },
                UNREADABLE,
                "a/b.wav: permission denied",
            ),
            (
                AbsenceCause::KnownBad("the wav is silent".to_owned()),
                KNOWN_BAD,
                "the wav is silent",
            ),
            (
                AbsenceCause::Unreadable("a/b.wav is no sound".to_owned()),
                UNLISTED,
                "a/b.wav is no sound",
            ),
            (
                genres(AbsenceCause::NoFile(file())),
                UNLISTED,
                "its genres are unknown: there is no a/b.wav",
            ),
            (
                genres(AbsenceCause::EmptyFile(file())),
                EMPTY,
                "its genres are unknown: a/b.wav",
            ),
            (
                genres(AbsenceCause::LfsPointer(file())),
                LFS_POINTER,
                "its genres are unknown: a/b.wav",
            ),
        ];
        for (absence, cause, detail) in cases {
            assert_eq!(Failure::listed(&absence), Failure::with(cause, detail));
        }
    }
}
