//! gzip files of other programs, read in any pieces and from any point.

use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use super::*;

/// Text that compresses, with stretches that do not.
fn content(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut random = 1u32;
    while bytes.len() < length {
        for _ in 0..random % 700 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push((random >> 24) as u8);
        }
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for _ in 0..random % 40 {
            bytes.extend_from_slice(b"the same words again and again, ");
        }
    }
    bytes.truncate(length);
    bytes
}

/// Compresses with a flush after every `flush` bytes, each of which ends a block and adds an
/// empty one.
fn compress(bytes: &[u8], level: u32, flush: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    for piece in bytes.chunks(flush) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

/// Hands out its bytes in pieces of changing length, one byte at a time every other time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = (self.1 * 7 + 3) % 41;
        let length = if self.1.is_multiple_of(2) { 1 } else { self.1 };
        let length = length.min(buffer.len()).min(self.0.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

/// Files of several levels, with stored, empty and many blocks, of several members, and with all
/// fields of the header.
fn files() -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = content(90_000);
    let mut files: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for level in [0, 1, 6, 9] {
        for flush in [997, usize::MAX] {
            files.push((bytes.clone(), compress(&bytes, level, flush)));
        }
    }
    let members = [
        compress(&bytes[..40_000], 6, usize::MAX),
        compress(b"", 6, 1),
        compress(&bytes[40_000..], 0, 5_000),
        vec![0; 700],
    ];
    files.push((bytes.clone(), members.concat()));
    let header = GzBuilder::new()
        .filename("a name")
        .comment("a comment")
        .extra(vec![7; 300])
        .mtime(1);
    let mut encoder = header.write(Vec::new(), Compression::best());
    encoder.write_all(&bytes).unwrap();
    files.push((bytes, encoder.finish().unwrap()));
    files
}

/// The same of Python's zlib, with its strategies, window sizes and kinds of flush.
const SCRIPT: &str = r"
import sys, zlib
data = sys.stdin.buffer.read()
out = sys.stdout.buffer
for level, bits, memory, strategy, flush in [
    (0, 31, 8, zlib.Z_DEFAULT_STRATEGY, zlib.Z_NO_FLUSH),
    (1, 25, 1, zlib.Z_DEFAULT_STRATEGY, zlib.Z_FULL_FLUSH),
    (6, 31, 9, zlib.Z_FIXED, zlib.Z_SYNC_FLUSH),
    (6, 31, 8, zlib.Z_HUFFMAN_ONLY, zlib.Z_BLOCK),
    (9, 31, 9, zlib.Z_RLE, zlib.Z_PARTIAL_FLUSH),
    (9, 31, 9, zlib.Z_FILTERED, zlib.Z_NO_FLUSH),
]:
    packed = b''
    for start in (0, len(data) // 3):
        part = data[start:len(data) // 3] if start == 0 else data[start:]
        packer = zlib.compressobj(level, zlib.DEFLATED, bits, memory, strategy)
        for at in range(0, len(part), 1777):
            packed += packer.compress(part[at:at + 1777]) + packer.flush(flush)
        packed += packer.flush()
    out.write(len(packed).to_bytes(4, 'little') + packed)
";

fn files_of_python() -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = content(60_000);
    let mut command = std::process::Command::new("python3");
    let command = command.args(["-c", SCRIPT]);
    let piped = || std::process::Stdio::piped();
    let Ok(mut python) = command.stdin(piped()).stdout(piped()).spawn() else {
        util::skip::skip(util::skip::Missing::Platform, "python3 is not installed");
        return Vec::new();
    };
    python.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut files = Vec::new();
    let mut left = &output.stdout[..];
    while let Some((length, rest)) = left.split_at_checked(4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        files.push((bytes.clone(), rest[..length].to_vec()));
        left = &rest[length..];
    }
    assert_eq!(files.len(), 6);
    files
}

#[test]
fn files_are_read_in_any_pieces() {
    for (bytes, file) in files().into_iter().chain(files_of_python()) {
        let mut read = Vec::new();
        let mut gzip = Gzip::at(Pieces(&file, 0), Point::start());
        gzip.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }
}

#[test]
fn reading_goes_on_at_every_point() {
    for (bytes, file) in files().into_iter().chain(files_of_python()) {
        let mut points = 0;
        let mut gzip = Gzip::at(&file[..], Point::start());
        let mut last = None;
        let mut position = 0;
        let mut buffer = [0; 61];
        loop {
            let point = gzip.point().clone();
            assert!(point.written <= position as u64);
            if last.as_ref() != Some(&point) {
                points += 1;
                // A process that stops here saves the point as JSON.
                let text = serde_json::to_string(&point).unwrap();
                let saved: Point = serde_json::from_str(&text).unwrap();
                let (from, before) = (saved.offset as usize, saved.written as usize);
                let mut rest = Vec::new();
                let mut resumed = Gzip::at(Pieces(&file[from..], position), saved);
                resumed.read_to_end(&mut rest).unwrap();
                assert!(rest == bytes[before..], "at {position}");
                last = Some(point);
            }
            let length = gzip.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            position += length;
        }
        assert_eq!(position, bytes.len());
        assert!(points > 1, "{points} points");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    let bytes = content(1_500);
    let file = [compress(&bytes, 6, 300), compress(&bytes, 0, 300)].concat();
    let first = compress(&bytes, 6, 300).len();
    for cut in 0..file.len() {
        let mut read = Vec::new();
        let result = Gzip::at(&file[..cut], Point::start()).read_to_end(&mut read);
        // Behind a whole member the file may end.
        assert_eq!(result.is_ok(), cut == first, "{cut} of {}", file.len());
        assert!(bytes.repeat(2).starts_with(&read), "{cut}");
    }
}

#[test]
fn damage_is_found() {
    let bytes = content(3_000);
    let file = compress(&bytes, 6, 500);
    let mut found = 0;
    for place in 10..file.len() {
        let mut damaged = file.clone();
        damaged[place] ^= 0x10;
        let mut read = Vec::new();
        let result = Gzip::at(&damaged[..], Point::start()).read_to_end(&mut read);
        assert!(result.is_err() || read == bytes, "byte {place}");
        found += usize::from(result.is_err());
    }
    // Unused bits behind a block that is stored may have any value.
    assert!(found > file.len() - 40, "{found} of {}", file.len());
    let garbage = [&file[..], b"garbage"].concat();
    let mut read = Vec::new();
    let result = Gzip::at(&garbage[..], Point::start()).read_to_end(&mut read);
    assert!(result.is_err());
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0; 20 << 20];
    let file = compress(&zeros, 9, usize::MAX);
    let mut gzip = Gzip::at(&file[..], Point::start());
    let result = io::copy(&mut gzip, &mut io::sink());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("200 times larger"), "{message}");
}
