//! The messages between the worker pool and a decode worker, over the worker's stdin and stdout.
//!
//! A message is a little-endian u32 length, that many bytes of JSON, and then the blobs whose
//! lengths the JSON gives. The pool sends [`ReadAccess`] first, and the worker answers with a
//! [`Handshake`]. Then the pool sends a [`Request`] for each clip, and the worker sends one
//! [`Reply`] for each task of the request, in order.
//!
//! The pool trusts nothing that it reads: lengths are bounded, and a message that cannot be parsed
//! counts as a crash of the worker.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;

use datasets::Modality;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::decode::Span;
use crate::failure::Failure;

/// Limit on the bytes of JSON in one message.
const MAX_JSON: usize = 4 << 20;

/// Limit on the bytes of all blobs of one reply: every frame of a clip of some minutes.
const MAX_BLOBS: u64 = 1 << 30;

/// The first message of the pool: the files that the worker may read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReadAccess {
    /// Folders and files that may be read. Everything else is denied.
    #[serde(with = "paths_as_bytes")]
    pub readable: Vec<PathBuf>,
}

/// The first message of a worker, sent when it is ready for requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handshake {
    /// The worker's version, which must be that of the pool.
    pub version: String,
    /// What the sandbox lacks on this kernel, as sentences. See [`super::sandbox::enter`].
    pub sandbox_gaps: Vec<String>,
}

/// The work on one clip.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Number of frames to extract of each video. 0 stands for all.
    pub frame_pool: usize,
    /// Whether every packet of a video is decoded, also where those that the frames depend on would
    /// do.
    pub all_packets: bool,
    /// Whether audio is wanted as a sound to listen to, see [`Content::blobs`].
    #[serde(default)]
    pub sound: bool,
    /// The features to compute, each of which gets a reply.
    pub tasks: Vec<Task>,
}

/// One modality of one clip, or of a part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The modality to decode.
    pub modality: Modality,
    /// The files that may hold it, best first. The first one that can be decoded is used.
    pub files: Vec<InputFile>,
    /// The part of the audio or video to use. `None` stands for all of it.
    pub span: Option<Span>,
}

/// A file with its name in messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// The path by which the worker opens it.
    #[serde(with = "path_as_bytes")]
    pub path: PathBuf,
    /// The path below the raw root, which is the same on every machine.
    pub name: String,
    /// The label of the encoding of a text that is no UTF-8.
    pub encoding: Option<String>,
    /// The column and the row (from 0) that hold the file, if `path` is a Parquet table.
    pub cell: Option<(String, usize)>,
}

/// The result of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The features, or the reason why there are none.
    pub outcome: Result<Content, Failure>,
    /// Problems that did not prevent the features from being computed.
    pub warnings: Vec<Failure>,
}

/// The features of one modality.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// Decoded duration of audio and video in seconds.
    pub seconds: Option<f32>,
    /// Presentation times of video frames in seconds, one for each blob.
    pub times: Vec<f32>,
    /// For audio one blob of mel values as little-endian f32, or one MP3 file where a
    /// [`Request::sound`] is wanted; for video one JPEG file for each frame, for an image one JPEG file, for text its UTF-8 bytes.
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

/// Serialises a path as its bytes, because JSON must be UTF-8 and a file name need not be.
mod path_as_bytes {
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

/// Serialises a list of paths, each as its bytes.
mod paths_as_bytes {
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

/// Receives a message without blobs. Returns `None` if the other side has closed the pipe between
/// messages.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_JSON {
        return Err(invalid_data(format!("a message of {length} bytes")));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

/// Sends the result of one task.
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

/// Receives the result of one task. Returns `None` if the worker has closed the pipe between
/// messages.
pub fn receive_reply(from: &mut impl Read) -> io::Result<Option<Reply>> {
    let Some(header) = receive::<Header>(from)? else {
        return Ok(None);
    };
    let total = header
        .blobs
        .iter()
        .try_fold(0u64, |sum, &size| sum.checked_add(size));
    if total.is_none_or(|total| total > MAX_BLOBS) {
        return Err(invalid_data("a reply beyond the size limit".to_owned()));
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

fn invalid_data(problem: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_received_as_they_were_sent() {
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
    fn file_names_that_are_not_utf8_are_sent_unchanged() {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"/a/\xff\n\".mp4".to_vec()));
        let file = InputFile {
            path,
            name: "x".to_owned(),
            encoding: None,
            cell: None,
        };
        let mut pipe = Vec::new();
        send(&mut pipe, &file).unwrap();
        assert_eq!(
            receive::<InputFile>(&mut pipe.as_slice()).unwrap(),
            Some(file)
        );
    }

    /// A worker that a hostile clip has taken over can send any bytes.
    #[test]
    fn damaged_replies_are_parsed_or_refused() {
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
    fn length_limits_are_checked_before_memory_is_allocated() {
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
