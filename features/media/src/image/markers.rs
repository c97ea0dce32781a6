//! Marker codes of JPEG files (ITU-T T.81, table B.1): the byte that follows 0xFF.

/// Start of a baseline DCT frame.
pub(super) const SOF0: u8 = 0xC0;
/// Huffman tables.
pub(super) const DHT: u8 = 0xC4;
/// The first of the eight restart markers, which are used in turn.
pub(super) const RST0: u8 = 0xD0;
/// Start of image.
pub(super) const SOI: u8 = 0xD8;
/// End of image.
pub(super) const EOI: u8 = 0xD9;
/// Start of scan.
pub(super) const SOS: u8 = 0xDA;
/// Quantization tables.
pub(super) const DQT: u8 = 0xDB;
/// Restart interval.
pub(super) const DRI: u8 = 0xDD;
/// Application segment 0, which JFIF uses.
pub(super) const APP0: u8 = 0xE0;
/// Application segment 1, which EXIF uses.
pub(super) const APP1: u8 = 0xE1;
/// Application segment 14, which Adobe uses.
pub(super) const APP14: u8 = 0xEE;
/// Application segment 15, the last one.
pub(super) const APP15: u8 = 0xEF;
/// Comment.
pub(super) const COM: u8 = 0xFE;
/// For temporary private use in arithmetic coding.
pub(super) const TEM: u8 = 0x01;
