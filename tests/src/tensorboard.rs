//! Reads TensorBoard event files: TFRecord framing with its checksums, and the protobuf fields of
//! scalars.
//!
//! It is written from the TFRecord and Event formats alone, independent of the writer in `train`.

use std::fmt;
use std::path::Path;

/// One scalar of an event file.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// The name of the curve.
    pub tag: String,
    /// The training step.
    pub step: u64,
    /// The value at that step.
    pub value: f32,
}

/// The reason why bytes are not an event file.
#[derive(Debug)]
pub struct FormatError(String);

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FormatError {}

/// An error with this reason.
fn invalid<T>(what: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError(what.into()))
}

/// CRC-32C (Castagnoli), computed bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The checksum in the masked form that TFRecord stores.
pub fn masked_crc(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Splits TFRecord bytes into records.
///
/// # Errors
/// A checksum is wrong, or the file ends within a record.
pub fn records(mut bytes: &[u8]) -> Result<Vec<&[u8]>, FormatError> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let Some((head, rest)) = bytes.split_at_checked(12) else {
            return invalid("ends within a record's head");
        };
        let length = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
        if masked_crc(crc32c(&head[..8]))
            != u32::from_le_bytes(head[8..].try_into().expect("4 bytes"))
        {
            return invalid(format!(
                "record {}: the length's checksum is wrong",
                out.len()
            ));
        }
        let Some((data, rest)) = usize::try_from(length)
            .ok()
            .and_then(|n| rest.split_at_checked(n))
        else {
            return invalid("ends within a record");
        };
        let Some((crc, rest)) = rest.split_at_checked(4) else {
            return invalid("ends within a checksum");
        };
        if masked_crc(crc32c(data)) != u32::from_le_bytes(crc.try_into().expect("4 bytes")) {
            return invalid(format!(
                "record {}: the data's checksum is wrong",
                out.len()
            ));
        }
        out.push(data);
        bytes = rest;
    }
    Ok(out)
}

/// The value of a protobuf field, by its wire type.
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a protobuf message in file order.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Field<'_>)>, FormatError> {
    fn varint(bytes: &mut &[u8]) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = bytes.split_first() else {
                return invalid("ends within a number");
            };
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        invalid("number longer than 64 bits")
    }
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], FormatError> {
        let Some((head, rest)) = bytes.split_at_checked(n) else {
            return invalid("ends within a field");
        };
        *bytes = rest;
        Ok(head)
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Varint(varint(&mut bytes)?),
            1 => Field::Fixed64(u64::from_le_bytes(
                take(&mut bytes, 8)?.try_into().expect("8 bytes"),
            )),
            2 => {
                let length = varint(&mut bytes)? as usize;
                Field::Bytes(take(&mut bytes, length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(
                take(&mut bytes, 4)?.try_into().expect("4 bytes"),
            )),
            other => return invalid(format!("wire type {other}")),
        };
        out.push((key >> 3, value));
    }
    Ok(out)
}

/// All scalars of an event file's bytes.
///
/// # Errors
/// The framing, a checksum, or the version record (`brain.Event:2`, which comes first) is wrong.
pub fn scalars(bytes: &[u8]) -> Result<Vec<Scalar>, FormatError> {
    let mut out = Vec::new();
    for (i, record) in records(bytes)?.into_iter().enumerate() {
        let (mut step, mut time, mut version, mut summaries) = (0, None, None, Vec::new());
        for (number, field) in fields(record)? {
            match (number, field) {
                (1, Field::Fixed64(bits)) => time = Some(f64::from_bits(bits)),
                (2, Field::Varint(value)) => step = value,
                (3, Field::Bytes(text)) => version = Some(text),
                (5, Field::Bytes(summary)) => summaries.push(summary),
                _ => {}
            }
        }
        if !time.is_some_and(|t| t > 1e9) {
            return invalid(format!("record {i}: no wall time"));
        }
        if (i == 0) != (version == Some(b"brain.Event:2")) {
            return invalid(format!("record {i}: the version comes first and once"));
        }
        for summary in summaries {
            for (number, value) in fields(summary)? {
                let (1, Field::Bytes(value)) = (number, value) else {
                    continue;
                };
                let (mut tag, mut number) = (None, None);
                for field in fields(value)? {
                    match field {
                        (1, Field::Bytes(text)) => {
                            tag = Some(String::from_utf8_lossy(text).into_owned())
                        }
                        (2, Field::Fixed32(bits)) => number = Some(f32::from_bits(bits)),
                        _ => {}
                    }
                }
                match (tag, number) {
                    (Some(tag), Some(value)) => out.push(Scalar { tag, step, value }),
                    _ => return invalid(format!("record {i}: a value without tag or number")),
                }
            }
        }
    }
    Ok(out)
}

/// All scalars of the event files in a folder, in the order of the files' names.
///
/// # Panics
/// The folder has no event file, or an invalid one.
#[track_caller]
pub fn read(folder: &Path) -> Vec<Scalar> {
    let mut out = Vec::new();
    let mut files = 0;
    for name in crate::names(folder) {
        if name.starts_with("events.out.tfevents") {
            let path = folder.join(&name);
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            out.extend(scalars(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
            files += 1;
        }
    }
    assert!(files > 0, "{}: no event file", folder.display());
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn crc32c_equals_published_values() {
        // The check value of CRC-32C, and that of 32 zeros in RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn any_flipped_bit_is_an_error() {
        let data = b"\x09\0\0\0\0\0\0\xf0\x41";
        let mut bytes = (data.len() as u64).to_le_bytes().to_vec();
        bytes.extend(masked_crc(crc32c(&bytes)).to_le_bytes());
        bytes.extend(data);
        bytes.extend(masked_crc(crc32c(data)).to_le_bytes());
        assert_eq!(records(&bytes).unwrap(), [data]);
        for i in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[i / 8] ^= 1 << (i % 8);
            assert!(records(&other).is_err(), "bit {i}");
        }
    }
}
