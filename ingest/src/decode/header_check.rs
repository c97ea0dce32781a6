//! What can be told of a clip or an image without decoding it: by its first bytes, and by the sizes
//! that a clip's container gives. It takes one read, and for mp4 one more for each box at the top
//! level.

use std::fs::File;
use std::path::Path;

use features::image;

use super::demux;
use super::file_kind;
use crate::failure::{self, Failure};

/// Sizes of RIFF files from here on are those of a stream of unknown length.
const UNKNOWN_RIFF_SIZE: u64 = 0x7fff_0000;

/// How much may be missing of a file, as a share and in bytes. Programs that write a wrong size are
/// wrong by less.
const TOLERANCE: (u64, u64) = (100, 4096);

/// Says what is wrong with a clip, as far as this is known without decoding. `None` does not mean
/// that it can be decoded.
pub fn check_clip(path: &Path) -> Option<Failure> {
    let head = match demux::check_file(path) {
        Ok(head) => head,
        Err(failure) => return Some(failure),
    };
    if let Some(kind) = file_kind::describe(path, &head) {
        return Some(Failure::with(failure::NOT_MEDIA, kind));
    }
    let file = File::open(path).ok()?;
    let found = file.metadata().ok()?.len();
    let declared = declared_bytes(&head).or_else(|| file_kind::end_of_boxes(&file, &head))?;
    let (share, bytes) = TOLERANCE;
    let missing = declared.saturating_sub(found);
    let detail = || format!("header {declared} bytes, found {found}");
    (missing > bytes.max(declared / share)).then(|| Failure::with(failure::CUT_SHORT, detail()))
}

/// Says what an image file is that is none of a kind that is read, by its first bytes.
pub fn check_image(path: &Path) -> Option<Failure> {
    match demux::check_file(path) {
        Ok(head) => Some(Failure::with(failure::UNDECODABLE, image::foreign(&head)?)),
        Err(failure) => Some(failure),
    }
}

/// Returns the size of a whole RIFF, Wave64 or Matroska file, as its header gives it.
fn declared_bytes(head: &[u8]) -> Option<u64> {
    match head.first_chunk::<4>()? {
        b"RIFF" => {
            let size = u32::from_le_bytes(head.get(4..8)?.try_into().ok()?);
            let size = u64::from(size) + 8;
            (size > 8 && size < UNKNOWN_RIFF_SIZE).then_some(size)
        }
        b"riff" => Some(u64::from_le_bytes(head.get(16..24)?.try_into().ok()?)),
        b"\x1a\x45\xdf\xa3" => {
            let (header, at) = ebml_size(head, 4)?;
            let segment = at.checked_add(usize::try_from(header).ok()?)?;
            if head.get(segment..segment + 4)? != b"\x18\x53\x80\x67" {
                return None;
            }
            let (size, at) = ebml_size(head, segment + 4)?;
            size.checked_add(at as u64)
        }
        _ => None,
    }
}

/// Reads the size of an EBML element (RFC 8794, section 6) at a position, and returns the position
/// after it. `None` for an unknown size.
fn ebml_size(head: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *head.get(at)?;
    let length = first.leading_zeros() as usize + 1;
    let bytes = head.get(at..at + length)?;
    let value = bytes
        .iter()
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let bits = 7 * u32::try_from(length).ok()?;
    let value = value & ((1u64 << bits) - 1);
    (length <= 8 && value != (1u64 << bits) - 1).then_some((value, at + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_headers_are_read() {
        assert_eq!(declared_bytes(b"RIFF\x24\x7d\0\0WAVE"), Some(0x7d2c));
        assert_eq!(declared_bytes(b"RIFF\xff\xff\xff\xffWAVE"), None);
        assert_eq!(declared_bytes(b"RIFF\0\0\0\0WAVE"), None);
        let ebml = b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67";
        let with = |size: &[u8]| declared_bytes(&[&ebml[..], size].concat());
        assert_eq!(with(b"\x85"), Some(12 + 5));
        assert_eq!(with(b"\x41\x00"), Some(13 + 256));
        assert_eq!(with(b"\x01\0\0\0\0\0\x10\0"), Some(19 + 4096));
        // Unknown, as live streams have it, too long, and cut.
        assert_eq!(with(b"\xff"), None);
        assert_eq!(with(b"\x01\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(with(b"\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(with(b"\x41"), None);
    }

    /// The parent process looks at files that nobody has confined.
    #[test]
    fn no_header_ends_the_program() {
        let headers: [&[u8]; 5] = [
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\xfe\xff\x01\0\0\0\0\0\0\0\0\0\x04\0\x20\0data\0\0\0\0",
            b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0\x50\0\0\0\0\0\0\0wave\xf3\xac\xd3\x11",
            b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x01\0\0\0\0\0\x10\0",
            b"\0\0\0\x0cftypisom\0\0\0\x01mdat\0\0\0\0\0\0\0\x18abcdefgh\0\0\0\x08moov",
            b"{\"error\": \"caf\xc3\xa9\"}",
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for header in headers {
            for at in 0..header.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bytes = header.to_vec();
                    bytes[at] = value;
                    std::fs::write(&path, &bytes).unwrap();
                    drop(check_clip(&path));
                    std::fs::write(&path, &bytes[..=at]).unwrap();
                    drop(check_clip(&path));
                }
            }
        }
    }
}
