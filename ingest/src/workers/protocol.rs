//! What parent and decode worker say to each other over the child's stdin and stdout.
//!
//! A message is a little-endian u32 length, that many bytes of JSON, and then the blobs whose lengths the JSON gives. The parent
//! says what the child may touch ([`Bounds`]), the child greets once; then the parent asks ([`Request`]), and the child answers
//! every task of a request in order ([`Reply`]).
//!
//! The parent trusts nothing that it reads: lengths are bounded, and what does not parse counts as a crash of the child.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;

use datasets::Modality;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::decode::Span;
use crate::failure::Failure;

/// Most bytes of JSON in one message.
const MAX_JSON: usize = 4 << 20;

/// Most bytes of all blobs of one reply: every frame of a clip of some minutes.
const MAX_BLOBS: u64 = 1 << 30;

/// The first word, the parent's: what the child may touch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// Folders and files that may be read.
    #[serde(with = "bytes_each")]
    pub readable: Vec<PathBuf>,
}

/// What the child says when it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The tool's version: the parent must be of the same.
    pub version: String,
    /// What the sandbox lacks on this kernel, as sentences; see [`super::sandbox::enter`].
    pub sandbox_gaps: Vec<String>,
}

/// One clip's work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Frames per clip; 0 keeps all.
    pub pool: usize,
    /// What to decode.
    pub tasks: Vec<Task>,
}

/// One modality of one clip.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// What is wanted out of the files.
    pub modality: Modality,
    /// Files to try, best first, never empty.
    pub files: Vec<File>,
    /// Only what lies between these seconds of the clip, for sound and picture.
    pub span: Option<Span>,
}

/// A file, as the child opens it and as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Where it lies.
    #[serde(with = "bytes")]
    pub path: PathBuf,
    /// Its path below the raw root: the same on every machine.
    pub name: String,
}

/// The answer to one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The features, or why there are none.
    pub outcome: Result<Content, Failure>,
    /// What the user may want to know although it worked.
    pub warnings: Vec<Failure>,
}

/// The features of one modality.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// Decoded duration, where that means something.
    pub seconds: Option<f32>,
    /// One per blob, for frames.
    pub times: Vec<f32>,
    /// Audio: mel values as little-endian f32. Video: JPEG frames. Image: one JPEG. Text: UTF-8.
    pub blobs: Vec<Vec<u8>>,
}

/// The JSON part of a [`Reply`].
#[derive(Serialize, Deserialize)]
struct Header {
    failure: Option<Failure>,
    warnings: Vec<Failure>,
    seconds: Option<f32>,
    times: Vec<f32>,
    blobs: Vec<u64>,
}

/// A path as its bytes: a file name need not be UTF-8, and JSON must be.
mod bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(Vec::deserialize(from)?).into())
    }
}

/// The same for several.
mod bytes_each {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| path.as_os_str().as_bytes()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let paths = Vec::<Vec<u8>>::deserialize(from)?.into_iter();
        Ok(paths.map(|path| OsString::from_vec(path).into()).collect())
    }
}

/// Sends a message without blobs.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    to.write_all(&(json.len() as u32).to_le_bytes())?;
    to.write_all(&json)?;
    to.flush()
}

/// Receives a message without blobs; `None` where the other side has closed the pipe between messages.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_JSON {
        return Err(garbage(format!("a message of {length} bytes")));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

/// Sends the answer to one task.
pub fn send_reply(to: &mut impl Write, reply: Reply) -> io::Result<()> {
    let (content, failure) = match reply.outcome {
        Ok(content) => (content, None),
        Err(failure) => (Content::default(), Some(failure)),
    };
    let header = Header {
        failure,
        warnings: reply.warnings,
        seconds: content.seconds,
        times: content.times,
        blobs: content.blobs.iter().map(|blob| blob.len() as u64).collect(),
    };
    let json = serde_json::to_vec(&header)?;
    to.write_all(&(json.len() as u32).to_le_bytes())?;
    to.write_all(&json)?;
    for blob in &content.blobs {
        to.write_all(blob)?;
    }
    to.flush()
}

/// Receives the answer to one task; `None` where the child has closed the pipe between messages.
pub fn receive_reply(from: &mut impl Read) -> io::Result<Option<Reply>> {
    let Some(header) = receive::<Header>(from)? else {
        return Ok(None);
    };
    let total = header
        .blobs
        .iter()
        .try_fold(0u64, |sum, &size| sum.checked_add(size));
    if total.is_none_or(|total| total > MAX_BLOBS) {
        return Err(garbage("a reply beyond the limit".to_owned()));
    }
    let mut blobs = Vec::with_capacity(header.blobs.len());
    for size in header.blobs {
        let mut blob = vec![0; size as usize];
        from.read_exact(&mut blob)?;
        blobs.push(blob);
    }
    let outcome = match header.failure {
        Some(failure) => Err(failure),
        None => Ok(Content {
            seconds: header.seconds,
            times: header.times,
            blobs,
        }),
    };
    Ok(Some(Reply {
        outcome,
        warnings: header.warnings,
    }))
}

fn garbage(problem: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_survive_the_pipe() {
        let good = Reply {
            outcome: Ok(Content {
                seconds: Some(0.1),
                times: vec![0.1, 1.0 / 3.0],
                blobs: vec![vec![1, 2, 3], vec![]],
            }),
            warnings: vec![Failure::with("partly damaged", "1 lost")],
        };
        let bad = Reply {
            outcome: Err(Failure::new("silent")),
            warnings: vec![],
        };
        let mut pipe = Vec::new();
        send_reply(&mut pipe, good.clone()).unwrap();
        send_reply(&mut pipe, bad.clone()).unwrap();
        let mut pipe = pipe.as_slice();
        assert_eq!(receive_reply(&mut pipe).unwrap(), Some(good));
        assert_eq!(receive_reply(&mut pipe).unwrap(), Some(bad));
        assert_eq!(receive_reply(&mut pipe).unwrap(), None);
    }

    #[test]
    fn a_file_name_need_not_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"/a/\xff\n\".mp4".to_vec()));
        let file = File {
            path,
            name: "x".to_owned(),
        };
        let mut pipe = Vec::new();
        send(&mut pipe, &file).unwrap();
        assert_eq!(receive::<File>(&mut pipe.as_slice()).unwrap(), Some(file));
    }

    /// A child that has been taken over says what it likes: the parent reads it, or says no.
    #[test]
    fn damaged_replies_are_read_or_refused() {
        let reply = Reply {
            outcome: Ok(Content {
                seconds: Some(1.5),
                times: vec![0.0, 0.5],
                blobs: vec![vec![7; 300], vec![8; 20]],
            }),
            warnings: vec![Failure::with("partly damaged", "1 lost")],
        };
        let mut whole = Vec::new();
        send_reply(&mut whole, reply.clone()).unwrap();
        for end in 0..whole.len() {
            let cut = receive_reply(&mut &whole[..end]);
            assert!(cut.is_err() || end < 4 && cut.unwrap().is_none(), "{end}");
        }
        for at in 0..whole.len() {
            for value in [0, b'9', b'-', b'"', 0x7f, 0xff, whole[at] ^ 1] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                drop(receive_reply(&mut damaged.as_slice()));
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_costs_no_memory() {
        assert!(receive_reply(&mut &b"\xff\xff\xff\xff"[..]).is_err());
        assert!(receive_reply(&mut &b"\x04\0\0\0null"[..]).is_err());
        let mut pipe = Vec::new();
        let header = Header {
            failure: None,
            warnings: vec![],
            seconds: None,
            times: vec![],
            blobs: vec![u64::MAX, 2],
        };
        send(&mut pipe, &header).unwrap();
        assert!(receive_reply(&mut pipe.as_slice()).is_err());
    }
}
