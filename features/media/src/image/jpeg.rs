//! JPEG files by libjpeg-turbo: decoded to the same bytes as by Pillow, but strictly, and encoded.

use std::borrow::Cow;
use std::ops::Range;

use super::markers::{EOI, RST0, SOS, TEM};
use super::rgb::{Rgb, check_size};
use super::turbo::{self, Decoder, PixelFormat, Problem};
use crate::error::Error;

/// Decodes a file. The errors are those of [`super::decode`].
///
/// The library fills in image data that is damaged or missing, and warns; here such a warning is an
/// error. Its warnings about the header are harmless and found in the wild: stray bytes between the
/// segments, an unknown version.
pub(super) fn decode(file: &[u8]) -> Result<Rgb, Error> {
    let (mut decoder, mut tolerated) = Decoder::new(file).map_err(error)?;
    let tidy;
    if tolerated.is_some() {
        // The library reports a file's first warning only, and the next one may be about the image
        // data.
        tidy = without_stray_bytes(file);
        (decoder, tolerated) = Decoder::new(&tidy).map_err(error)?;
    }
    let (width, height) = (decoder.width(), decoder.height());
    check_size(width, height)?;
    let mut pixels = vec![0; width * height * decoder.format().size()];
    match decoder.decode(&mut pixels) {
        Err(problem) if Some(&problem) != tolerated.as_ref() => return Err(error(problem)),
        _ => {}
    }
    if decoder.format() == PixelFormat::Cmyk {
        pixels = rgb_of_inverted_cmyk(&pixels);
    }
    Ok(Rgb {
        width,
        height,
        pixels,
    })
}

/// Encodes `width * height` pixels, sides at most [`super::MAX_SIDE`]. The errors are those of
/// [`super::encode_jpeg`].
pub(super) fn encode(
    pixels: &[u8],
    width: usize,
    height: usize,
    format: PixelFormat,
    quality: u8,
) -> Result<Vec<u8>, Error> {
    turbo::compress(pixels, [width, height], format, quality).map_err(error)
}

/// Turns the library's message into an error of one line.
fn error(problem: Problem) -> Error {
    let message = problem.message();
    if message.starts_with("Premature end of JPEG file") {
        return Error::Media("the JPEG ends too early".into());
    }
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = words.join(" ");
    match message.starts_with("Maximum supported image dimension") {
        true => Error::Limit(format!("the JPEG is too large: {line}")),
        false => Error::Media(format!("the JPEG cannot be decoded: {line}")),
    }
}

/// Converts Adobe's CMYK, which is stored inverted, as Pillow does: each colour is darkened by the
/// share of black.
fn rgb_of_inverted_cmyk(pixels: &[u8]) -> Vec<u8> {
    /// Returns `a * b / 255`, rounded: Pillow's `MULDIV255`.
    fn product(a: u8, b: u8) -> u8 {
        let product = u32::from(a) * u32::from(b) + 128;
        (((product >> 8) + product) >> 8) as u8
    }
    let pixels = pixels.as_chunks::<4>().0.iter();
    pixels
        .flat_map(|&[c, m, y, k]| [c, m, y].map(|ink| k.saturating_sub(product(255 - ink, k))))
        .collect()
}

/// A header segment: its marker and its bytes in the file, marker and length included.
pub(super) struct Segment {
    pub marker: u8,
    pub range: Range<usize>,
}

/// Iterates over the segments from the start of the file to the first scan header or the end (ITU-T
/// T.81, B.1.1). Stray bytes between segments are skipped.
pub(super) struct Segments<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    /// Starts at the beginning of a file.
    pub fn of(file: &'a [u8]) -> Self {
        Segments { file, at: 0 }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let found = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF);
        let start = self.at + self.file.get(self.at..)?.windows(2).position(found)?;
        let marker = self.file[start + 1];
        let length = match marker {
            // Markers without a segment: TEM, RST0 to RST7, SOI, EOI.
            TEM | RST0..=EOI => 0,
            _ => usize::from(u16::from_be_bytes(
                *self.file.get(start + 2..)?.first_chunk()?,
            )),
        };
        let end = start + 2 + length;
        self.at = match marker {
            SOS | EOI => self.file.len(),
            _ => end,
        };
        (end <= self.file.len()).then_some(Segment {
            marker,
            range: start..end,
        })
    }
}

/// Returns the file without the stray bytes between its header segments.
fn without_stray_bytes(file: &[u8]) -> Cow<'_, [u8]> {
    let mut tidy = Vec::with_capacity(file.len());
    for Segment { marker, range } in Segments::of(file) {
        if marker == SOS {
            tidy.extend_from_slice(&file[range.start..]);
            return tidy.into();
        }
        tidy.extend_from_slice(&file[range]);
    }
    // No image data: the file as it is gives the better message.
    file.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(width: usize, height: usize) -> Vec<u8> {
        let value = |i: usize| 128.0 + 100.0 * (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos();
        (0..width * height * 3).map(|i| value(i) as u8).collect()
    }

    #[test]
    fn truncation_is_detected_behind_stray_header_bytes() {
        let file = encode(&waves(40, 30), 40, 30, PixelFormat::Rgb, 95).unwrap();
        let image = decode(&file).unwrap();
        let segments: Vec<Segment> = Segments::of(&file).collect();
        assert!(segments.len() > 6);
        for segment in &segments[1..] {
            let mut stray = file.clone();
            stray.splice(segment.range.start..segment.range.start, [0, 0xFF, 0, 7]);
            assert_eq!(decode(&stray).unwrap(), image);
            for cut in [1, 2, 3, 300] {
                let error = decode(&stray[..stray.len() - cut]).unwrap_err().to_string();
                assert!(error.contains("ends too early"), "{error}");
            }
        }
    }
}
