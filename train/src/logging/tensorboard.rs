//! TensorBoard event files with scalars: protocol buffers in TFRecord framing.
//!
//! It has only what a training curve needs. The format is that of
//! `tensorflow/core/lib/io/record_writer.h` (length, masked CRC-32C of the length, data, masked
//! CRC-32C of the data) and `event.proto` / `summary.proto` for the field numbers.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A writer of one event file.
pub struct EventWriter {
    file: BufWriter<File>,
}

/// Computes a CRC-32C (Castagnoli) bit by bit. A few records per second need no table.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    !crc
}

/// Masks a CRC, as TFRecord wants it for a CRC of data that may hold CRCs.
fn masked_crc(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// An encoded protocol buffer. Its methods append the few types of fields that events have.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.0.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.0.push(x as u8);
    }

    fn int(mut self, field: u64, x: u64) -> Self {
        self.varint(field << 3);
        self.varint(x);
        self
    }

    fn double(mut self, field: u64, x: f64) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend(x.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, x: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, x: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(x.len() as u64);
        self.0.extend(x);
        self
    }
}

impl EventWriter {
    /// Creates an event file in `folder`, whose name sorts after those of earlier ones.
    pub fn create(folder: &Path) -> Result<EventWriter> {
        std::fs::create_dir_all(folder)?;
        let mut number = 0;
        let path = loop {
            let path: PathBuf = folder.join(format!(
                "events.out.tfevents.{:010}.{number:04}.u2a",
                now() as u64
            ));
            if !path.exists() {
                break path;
            }
            number += 1;
        };
        let mut writer = EventWriter {
            file: BufWriter::new(File::create(path)?),
        };
        writer.record(
            Message::default()
                .double(1, now())
                .bytes(3, b"brain.Event:2"),
        )?;
        Ok(writer)
    }

    /// Writes a scalar of a step.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        let value = Message::default()
            .bytes(1, tag.as_bytes())
            .float(2, value as f32);
        let summary = Message::default().bytes(1, &value.0);
        self.record(
            Message::default()
                .double(1, now())
                .int(2, step)
                .bytes(5, &summary.0),
        )
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }

    /// Writes a record: length, masked CRC of the length, data, masked CRC of the data.
    fn record(&mut self, event: Message) -> Result<()> {
        let length = (event.0.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file
            .write_all(&masked_crc(crc32c(&length)).to_le_bytes())?;
        self.file.write_all(&event.0)?;
        self.file
            .write_all(&masked_crc(crc32c(&event.0)).to_le_bytes())
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_rfc_3720() {
        // The check values of RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn fields_are_encoded_as_protocol_buffers() {
        let value = Message::default().bytes(1, b"loss").float(2, 0.5);
        assert_eq!(
            value.0,
            [0x0A, 4, b'l', b'o', b's', b's', 0x15, 0, 0, 0, 0x3F]
        );
        assert_eq!(Message::default().int(2, 300).0, [0x10, 0xAC, 0x02]);
    }
}
