//! Why a modality that should be there is not: a short cause out of a small set, and what more is known.
//!
//! Causes are what `manifest.json` counts by; the whole sentence goes into the shard's `error` column. Neither may hold
//! anything that differs between two runs over the same input (times, process ids, absolute paths).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The file was there when it was listed, or never.
pub const NO_FILE: &str = "no such file";
/// The system does not let us read it.
pub const UNREADABLE: &str = "cannot be read";
/// No bytes.
pub const EMPTY: &str = "empty file";
/// A small text file that stands for the real one.
pub const LFS_POINTER: &str = "Git LFS pointer instead of media";
/// No known container.
pub const NOT_MEDIA: &str = "not a media file";
/// The container holds no such stream.
pub const NO_AUDIO: &str = "no audio stream";
/// The same for video.
pub const NO_VIDEO: &str = "no video stream";
/// This build of libav cannot decode the codec.
pub const NO_DECODER: &str = "no decoder";
/// The stream is there and nothing usable comes out.
pub const UNDECODABLE: &str = "cannot be decoded";
/// Nothing but zeros.
pub const SILENT: &str = "silent";
/// Less than one mel frame.
pub const TOO_SHORT: &str = "too short";
/// Beyond a limit that guards memory.
pub const TOO_LARGE: &str = "too large";
/// A text without a word.
pub const NO_TEXT: &str = "empty text";
/// The child died.
pub const CRASHED: &str = "decoder crashed";
/// The child did not answer in time.
pub const TIMED_OUT: &str = "decoder took too long";

/// The publisher's own file is wrong.
pub const KNOWN_BAD: &str = "known to be bad";
/// The listing says that it should be there, in words that are none of the above.
pub const UNLISTED: &str = "not usable";

/// Why one modality of one sample is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of this module's constants, or the words of the dataset's listing.
    pub cause: String,
    /// What more is known; may be empty.
    pub detail: String,
}

impl Failure {
    /// A cause that says it all.
    pub fn new(cause: &str) -> Failure {
        Failure::with(cause, "")
    }

    /// A cause and what more is known.
    pub fn with(cause: &str, detail: impl fmt::Display) -> Failure {
        Failure {
            cause: cause.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// The decoder asked for more memory than a worker may have.
    pub fn out_of_memory() -> Failure {
        Failure::with(TOO_LARGE, "needs more memory than --worker-memory allows")
    }

    /// What the dataset's listing says about an input that is not there.
    pub fn listed(reason: &str) -> Failure {
        let about = |cause, path: &str| Failure::with(cause, path.trim());
        if let Some(path) = reason.strip_prefix("there is no ") {
            return about(NO_FILE, path);
        }
        if let Some(path) = reason.strip_suffix(" holds no bytes") {
            return about(EMPTY, path);
        }
        if let Some((path, _)) = reason.split_once(" is a Git LFS pointer") {
            return about(LFS_POINTER, path);
        }
        match reason.strip_prefix("known to be bad: ") {
            Some(what) => about(KNOWN_BAD, what),
            None => about(UNLISTED, reason),
        }
    }
}

impl From<features::Error> for Failure {
    fn from(error: features::Error) -> Failure {
        match error {
            features::Error::Limit(what) => Failure::with(TOO_LARGE, what),
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
