//! gzip (RFC 1952), inflated with points at which another process can go on.

use std::io::{self, Read};

use crc32fast::Hasher;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY,
};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress};
use serde::{Deserialize, Serialize};

/// The first two bytes of a gzip member.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How far back a match may refer to (RFC 1951, section 2).
const WINDOW: usize = 32 << 10;
/// The output is a ring of this size; a power of two of at least twice the window.
const RING: usize = 64 << 10;
const INPUT: usize = 32 << 10;
/// The longest header of a member, which holds names and comments.
const MAX_HEADER: u64 = 256 << 10;

/// A boundary between two deflate blocks is remembered if it lies this many compressed or
/// uncompressed bytes behind the one before, so that a file of empty blocks costs little.
const POINT_DISTANCE: u64 = 4 << 10;

/// A file may be this many times larger than its compressed form. Media files, text and JSON stay
/// below 30; deflate itself ends at 1,032.
const MAX_RATIO: u64 = 200;
/// The ratio counts from this many bytes on.
const RATIO_FREE: u64 = 16 << 20;

const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0b1110_0000;
const DEFLATE: u8 = 8;

/// A position of a gzip file from which it can be inflated: the beginning of a member, or of a
/// deflate block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The compressed bytes before it.
    pub offset: u64,
    /// The uncompressed bytes before it.
    pub written: u64,
    block: Option<Block>,
}

/// What a deflate block needs of what was before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    /// The bits of the last byte that belong to the block, and how many these are.
    bits: u8,
    bit_count: u8,
    /// CRC-32 and length of the member's output before it.
    crc: u32,
    length: u64,
    /// The end of the member's output before it, at most 32 KiB, in hexadecimal.
    window: String,
}

impl Point {
    /// The beginning of a file.
    pub fn start() -> Point {
        Point {
            offset: 0,
            written: 0,
            block: None,
        }
    }
}

/// Reads the contents of a gzip file of one or more members. Checks the CRC-32 and the length of
/// each, and that the file is no bomb.
pub struct Gzip<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of the buffer has not been used.
    unused: std::ops::Range<usize>,
    /// The compressed bytes that have been used.
    offset: u64,
    state: State,
    inflate: Box<DecompressorOxide>,
    ring: Vec<u8>,
    /// The position in the ring of the next byte.
    at: usize,
    /// What of the ring has not been handed out.
    ready: std::ops::Range<usize>,
    crc: Hasher,
    /// The output of this member, and of all.
    length: u64,
    written: u64,
    point: Point,
    /// The point behind what is ready, which counts when that has been handed out.
    pending: Option<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Blocks,
    End,
}

impl<R: Read> Gzip<R> {
    /// Goes on at a point; `input` begins at its offset.
    pub fn at(input: R, point: Point) -> Gzip<R> {
        let mut gzip = Gzip {
            input,
            buffer: vec![0; INPUT],
            unused: 0..0,
            offset: point.offset,
            state: State::Header,
            inflate: Box::default(),
            ring: vec![0; RING],
            at: 0,
            ready: 0..0,
            crc: Hasher::new(),
            length: 0,
            written: point.written,
            point,
            pending: None,
        };
        if let Some(block) = &gzip.point.block {
            gzip.state = State::Blocks;
            *gzip.inflate = DecompressorOxide::from_block_boundary_state(&BlockBoundaryState {
                num_bits: block.bit_count.min(7),
                bit_buf: block.bits,
                ..BlockBoundaryState::default()
            });
            gzip.crc = Hasher::new_with_initial_len(block.crc, block.length);
            gzip.length = block.length;
            let window = hex::decode(&block.window).unwrap_or_default();
            let window = &window[window.len().saturating_sub(WINDOW)..];
            gzip.ring[..window.len()].copy_from_slice(window);
            gzip.at = window.len();
        }
        gzip
    }

    /// The last point before the bytes that have been read.
    pub fn point(&self) -> &Point {
        &self.point
    }

    /// Makes sure that an unused byte is in the buffer. Returns whether there is one.
    fn fill(&mut self) -> io::Result<bool> {
        while self.unused.is_empty() {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => self.unused = 0..length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn byte(&mut self) -> io::Result<u8> {
        if !self.fill()? {
            return Err(ends_early());
        }
        let byte = self.buffer[self.unused.start];
        self.unused.start += 1;
        self.offset += 1;
        Ok(byte)
    }

    fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn u32(&mut self) -> io::Result<u32> {
        let low = u32::from(self.u16()?);
        Ok(low | u32::from(self.u16()?) << 16)
    }

    /// Reads the header of a member, or finds the end of the file (RFC 1952, section 2.3).
    fn read_header(&mut self) -> io::Result<()> {
        let is_first = self.offset == 0;
        if !self.fill()? {
            if is_first {
                return Err(ends_early());
            }
            self.state = State::End;
            return Ok(());
        }
        let point = Point {
            offset: self.offset,
            written: self.written,
            block: None,
        };
        let first = self.byte()?;
        if first == 0 && !is_first {
            return self.read_zeros();
        }
        if [first, self.byte()?] != MAGIC || self.byte()? != DEFLATE {
            return Err(invalid("what follows is no gzip member"));
        }
        let flags = self.byte()?;
        if flags & RESERVED != 0 {
            return Err(invalid("the gzip header has unknown flags"));
        }
        for _ in 0..6 {
            // The time, and hints at compressor and system.
            self.byte()?;
        }
        if flags & EXTRA != 0 {
            for _ in 0..self.u16()? {
                self.byte()?;
            }
        }
        for flag in [NAME, COMMENT] {
            while flags & flag != 0 && self.byte()? != 0 {
                if self.offset - point.offset > MAX_HEADER {
                    return Err(invalid("the gzip header has no end"));
                }
            }
        }
        if flags & HEADER_CRC != 0 {
            self.u16()?;
        }
        self.inflate.init();
        self.crc = Hasher::new();
        self.length = 0;
        self.state = State::Blocks;
        self.point = point;
        Ok(())
    }

    /// Reads the zeros behind the last member, with which tapes are filled up.
    fn read_zeros(&mut self) -> io::Result<()> {
        while self.fill()? {
            if self.byte()? != 0 {
                return Err(invalid("what follows is no gzip member"));
            }
        }
        self.state = State::End;
        Ok(())
    }

    /// Inflates until there is output, or the member has ended.
    fn inflate(&mut self) -> io::Result<()> {
        if !self.fill()? {
            return Err(ends_early());
        }
        if self.at == RING {
            self.at = 0;
        }
        let flags = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;
        let input = &self.buffer[self.unused.clone()];
        let (status, used, made) =
            decompress(&mut self.inflate, input, &mut self.ring, self.at, flags);
        self.unused.start += used;
        self.offset += used as u64;
        self.ready = self.at..self.at + made;
        self.crc.update(&self.ring[self.ready.clone()]);
        self.at += made;
        self.length += made as u64;
        self.written += made as u64;
        if self.written > RATIO_FREE && self.written / MAX_RATIO > self.offset {
            return Err(invalid(&format!(
                "it is more than {MAX_RATIO} times larger when it is unpacked, as no publisher's file is"
            )));
        }
        match status {
            TINFLStatus::Done => self.read_trailer(),
            TINFLStatus::BlockBoundary => {
                self.remember();
                Ok(())
            }
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => Ok(()),
            _ => Err(invalid("the compressed data are damaged")),
        }
    }

    /// Remembers a boundary between two blocks.
    fn remember(&mut self) {
        let is_near = self.offset - self.point.offset < POINT_DISTANCE
            && self.written - self.point.written < POINT_DISTANCE;
        let Some(state) = self.inflate.block_boundary_state().filter(|_| !is_near) else {
            return;
        };
        let length = self.length.min(WINDOW as u64) as usize;
        let mut window = Vec::with_capacity(length);
        if length > self.at {
            window.extend_from_slice(&self.ring[RING - (length - self.at)..]);
        }
        window.extend_from_slice(&self.ring[self.at - length.min(self.at)..self.at]);
        self.pending = Some(Point {
            offset: self.offset,
            written: self.written,
            block: Some(Block {
                bits: state.bit_buf,
                bit_count: state.num_bits,
                crc: self.crc.clone().finalize(),
                length: self.length,
                window: hex::encode(window),
            }),
        });
    }

    /// Reads the end of a member, and compares it with what was inflated.
    fn read_trailer(&mut self) -> io::Result<()> {
        let (crc, length) = (self.u32()?, self.u32()?);
        if crc != self.crc.clone().finalize() || length != self.length as u32 {
            return Err(invalid("its CRC-32 shows that it is damaged"));
        }
        self.state = State::Header;
        Ok(())
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            if let Some(point) = self.pending.take() {
                self.point = point;
            }
            match self.state {
                State::Header => self.read_header()?,
                State::Blocks => self.inflate()?,
                State::End => return Ok(0),
            }
        }
        let length = buffer.len().min(self.ready.len());
        let start = self.ready.start;
        buffer[..length].copy_from_slice(&self.ring[start..start + length]);
        self.ready.start += length;
        if self.ready.is_empty()
            && let Some(point) = self.pending.take()
        {
            self.point = point;
        }
        Ok(length)
    }
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the gzip file ends too early")
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests;
