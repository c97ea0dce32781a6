//! What a file is that is no media file, or none that is read here, by its first bytes: for
//! messages that say what to do.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes at the start of a file that tell its kind.
pub const HEAD_BYTES: usize = 4096;

/// Limit on the boxes of an mp4 file that are looked through.
const MAX_BOXES: usize = 10_000;

const FETCH: &str = "fetch it again";
const UNPACK: &str = "unpack it";
const NO_CLIP: &str = "neither sound nor video";

/// Kinds by their first bytes: the position, the bytes, the name, and what to do.
const SIGNATURES: [(usize, &[u8], &str, &str); 36] = [
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\xff\xd8\xff", "an image (JPEG)", NO_CLIP),
    (0, b"\x89PNG", "an image (PNG)", NO_CLIP),
    (0, b"BM", "an image (BMP)", NO_CLIP),
    (0, b"II*\0", "an image (TIFF)", NO_CLIP),
    (0, b"MM\0*", "an image (TIFF)", NO_CLIP),
    (0, b"8BPS", "an image (PSD)", NO_CLIP),
    (8, b"WEBP", "an image (WebP)", NO_CLIP),
    (4, b"ftypheic", "an image (HEIC)", NO_CLIP),
    (4, b"ftypmif1", "an image (HEIF)", NO_CLIP),
    (4, b"ftypavif", "an image (AVIF)", NO_CLIP),
    (0, b"%PDF", "a PDF document", NO_CLIP),
    (
        0,
        b"\x93NUMPY",
        "a NumPy array",
        "write its samples as a wav file",
    ),
    (
        0,
        b"\x89HDF",
        "an HDF5 file",
        "write its contents as media files",
    ),
    (
        0,
        b"PAR1",
        "a Parquet file",
        "write its contents as media files",
    ),
    (
        0,
        b"\x80\x04\x95",
        "a Python pickle",
        "write its contents as media files",
    ),
    (0, b"\x7fELF", "a program", FETCH),
    (
        0,
        b"MThd",
        "a MIDI score",
        "notes without sound; render it first",
    ),
    (
        0,
        b"FWS",
        "a Flash program (SWF)",
        "it has to be recorded as video",
    ),
    (
        0,
        b"CWS",
        "a Flash program (SWF)",
        "it has to be recorded as video",
    ),
    (
        0,
        b"#EXTM3U",
        "a playlist (m3u8)",
        "fetch the media that it lists",
    ),
    (
        0,
        b"[playlist]",
        "a playlist (pls)",
        "fetch the media that it lists",
    ),
    (
        0,
        b"ffconcat",
        "a playlist (concat)",
        "join the files that it lists",
    ),
    (
        0,
        b"v=0\r\no=",
        "a session description (SDP)",
        "record what it announces",
    ),
    (
        0,
        b"\x06\x0e\x2b\x34",
        "an MXF file",
        "ffmpeg -i FILE FILE.mp4 converts it",
    ),
    (
        0,
        b"DSD ",
        "a DSD file (dsf)",
        "ffmpeg -i FILE FILE.flac converts it",
    ),
    (
        0,
        b"MPCK",
        "a Musepack file",
        "ffmpeg -i FILE FILE.flac converts it",
    ),
    (
        0,
        b"MP+",
        "a Musepack file",
        "ffmpeg -i FILE FILE.flac converts it",
    ),
    (
        0,
        b"ajkg",
        "a Shorten file",
        "ffmpeg -i FILE FILE.flac converts it",
    ),
];

/// Kinds of text by what they hold in their first bytes, in small letters.
const TEXTS: [(&str, &str, &str); 8] = [
    ("<!doctype html", "a web page", FETCH),
    ("<html", "a web page", FETCH),
    ("<head>", "a web page", FETCH),
    ("<mpd", "a playlist (DASH)", "fetch the media that it lists"),
    ("<asx", "a playlist (asx)", "fetch the media that it lists"),
    ("<svg", "a drawing (SVG)", NO_CLIP),
    (
        "<smil",
        "a playlist (SMIL)",
        "fetch the media that it lists",
    ),
    ("<?xml", "an XML document", FETCH),
];

/// Says what a file is that libav cannot open, and what to do. `head` holds its first
/// [`HEAD_BYTES`]. `None` if they do not tell.
pub fn describe(path: &Path, head: &[u8]) -> Option<String> {
    let is =
        |(at, bytes): (usize, &[u8])| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let known = SIGNATURES.iter().find(|(at, bytes, ..)| is((*at, bytes)));
    if let Some((.., name, remedy)) = known {
        return Some(format!("{name}; {remedy}"));
    }
    if is_mp4(head) {
        return File::open(path).ok().and_then(missing_index);
    }
    if head.iter().all(|&byte| byte == 0) {
        return Some(format!("only zero bytes at its start; {FETCH}"));
    }
    describe_text(head)
}

/// Says what a text is. `None` for other files.
fn describe_text(head: &[u8]) -> Option<String> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The end of the head may divide a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\x0c');
    if text.contains(is_control) {
        return None;
    }
    let text = text.trim_start_matches('\u{feff}').trim();
    let small = text.to_lowercase();
    let kind = TEXTS.iter().find(|(word, ..)| small.contains(word));
    let begins = |letter| text.starts_with(letter);
    Some(match kind {
        Some((_, name, remedy)) => format!("{name}, not media; {remedy}"),
        None if begins('{') || begins('[') => {
            format!("JSON, not media: {}; {FETCH}", excerpt(text))
        }
        None => format!("a text, not media: {}; {FETCH}", excerpt(text)),
    })
}

/// Returns the first words of a text, which may be the message of a server.
fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{:?} and more", &line[..end]),
        None => format!("{line:?}"),
    }
}

/// Whether a file begins with a box of mp4 or QuickTime.
fn is_mp4(head: &[u8]) -> bool {
    let kinds: [&[u8]; 7] = [
        b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot",
    ];
    head.get(4..8).is_some_and(|kind| kinds.contains(&kind))
}

/// Says if an mp4 file has no index, or an incomplete one.
fn missing_index(file: File) -> Option<String> {
    let length = file.metadata().ok()?.len();
    let mut boxes = boxes(&file, length);
    match boxes.find(|one| one.kind == *b"moov" || one.is_invalid) {
        Some(one) if one.is_invalid => None,
        Some(index) if index.end > length => {
            Some(format!("cut short within its index, the moov box; {FETCH}"))
        }
        Some(_) => None,
        None => Some(format!(
            "cut short: its index, the moov box, is missing; {FETCH}"
        )),
    }
}

/// Returns the end of the last box of an mp4 file, which is behind the end of a file that was cut
/// short. `None` for other files. `head` holds the first bytes of the file.
pub fn end_of_boxes(file: &File, head: &[u8]) -> Option<u64> {
    let length = file.metadata().ok()?.len();
    let last = is_mp4(head).then(|| boxes(file, length).last()).flatten()?;
    (!last.is_invalid).then_some(last.end)
}

/// A box at the top level of an mp4 file.
struct TopBox {
    kind: [u8; 4],
    /// The position of its end, which may be behind that of the file.
    end: u64,
    /// Whether its header cannot be right.
    is_invalid: bool,
}

/// Returns the boxes at the top level of a file of `length` bytes, as far as they can be followed.
fn boxes(mut file: &File, length: u64) -> impl Iterator<Item = TopBox> {
    let mut at = 0;
    let next = move || {
        if at >= length {
            return None;
        }
        let mut header = Vec::new();
        file.seek(SeekFrom::Start(at)).ok()?;
        file.take(16).read_to_end(&mut header).ok()?;
        let size = u32::from_be_bytes(*header.first_chunk()?);
        let kind = *header.get(4..)?.first_chunk()?;
        let long = || Some(u64::from_be_bytes(*header.get(8..)?.first_chunk()?));
        let end = match size {
            // The last box of the file.
            0 => Some(length),
            1 => long().and_then(|size| at.checked_add(size)),
            size => at.checked_add(size.into()),
        };
        let is_invalid = end.is_none_or(|end| end < at + 8);
        let end = end.unwrap_or(length);
        at = if is_invalid { length } else { end };
        Some(TopBox {
            kind,
            end,
            is_invalid,
        })
    };
    std::iter::from_fn(next).take(MAX_BOXES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        let of = |text: &str| describe_text(text.as_bytes()).unwrap();
        assert_eq!(
            of("\u{feff}\n <!DOCTYPE HTML>\n<html>"),
            "a web page, not media; fetch it again"
        );
        assert_eq!(
            of("{\"error\":\n \"quota\"}"),
            "JSON, not media: \"{\\\"error\\\": \\\"quota\\\"}\"; fetch it again"
        );
        assert_eq!(
            of("Access denied\n"),
            "a text, not media: \"Access denied\"; fetch it again"
        );
        assert!(of(&"wörter ".repeat(40)).ends_with("and more; fetch it again"));
        // A character that the end of the head divides, and bytes that are no text.
        assert!(describe_text(b"caf\xc3").is_some());
        assert_eq!(describe_text(b"caf\xe9 au lait"), None);
        assert_eq!(describe_text(b"a\0b"), None);
    }
}
