//! Image files as publishers have them: nearly all are colour JPEGs; a few are gray, or PNG or WebP
//! under a name that ends in `.jpg`.

use std::io::Cursor;
use std::path::Path;

use anyhow::Context;
use image::{GrayImage, ImageFormat, RgbImage};
use media::image::{PixelFormat, Rgb, encode_jpeg};
use util::rng::Rng;

use crate::canvas::Canvas;

/// The quality of the JPEG files, as is usual on web pages.
const QUALITY: u8 = 88;

/// On average one file in this many is no colour JPEG.
const FILES_PER_EXCEPTION: u32 = 60;

/// The format of an image file, whatever its name ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JPEG with three components.
    ColourJpeg,
    /// A JPEG with one component.
    GrayJpeg,
    /// A PNG.
    Png,
    /// A lossless WebP.
    WebP,
}

impl Format {
    /// Draws a format at random: nearly always a colour JPEG.
    pub fn random(rng: &mut Rng) -> Format {
        match rng.below(3 * FILES_PER_EXCEPTION) {
            0 => Format::GrayJpeg,
            1 => Format::Png,
            2 => Format::WebP,
            _ => Format::ColourJpeg,
        }
    }
}

/// Writes the image as a file.
pub fn write(path: &Path, canvas: &Canvas, format: Format) -> anyhow::Result<()> {
    let bytes = encode(canvas.to_rgb(), format).with_context(|| path.display().to_string())?;
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn encode(rgb: Rgb, format: Format) -> anyhow::Result<Vec<u8>> {
    let (width, height) = (rgb.width, rgb.height);
    let jpeg = |pixels: &[u8], kind| encode_jpeg(pixels, width, height, kind, QUALITY);
    let image = RgbImage::from_raw(width as u32, height as u32, rgb.pixels)
        .context("an image without pixels")?;
    let mut bytes = Cursor::new(Vec::new());
    match format {
        Format::ColourJpeg => return Ok(jpeg(image.as_raw(), PixelFormat::Rgb)?),
        Format::GrayJpeg => {
            let gray: GrayImage = image::DynamicImage::from(image).into_luma8();
            return Ok(jpeg(gray.as_raw(), PixelFormat::Gray)?);
        }
        Format::Png => image.write_to(&mut bytes, ImageFormat::Png)?,
        Format::WebP => image.write_to(&mut bytes, ImageFormat::WebP)?,
    }
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_decodes_to_what_was_drawn() {
        let mut canvas = Canvas::new(40, 30);
        let mut rng = Rng::new(1, &[]);
        crate::canvas::draw_clutter(&mut canvas, &mut rng);
        let drawn = canvas.to_rgb();
        let formats = [
            (Format::ColourJpeg, &b"\xff\xd8"[..], 8.0),
            (Format::GrayJpeg, &b"\xff\xd8"[..], 60.0),
            (Format::Png, &b"\x89PNG"[..], 0.0),
            (Format::WebP, &b"RIFF"[..], 0.0),
        ];
        for (format, magic, max_mean) in formats {
            let bytes = encode(drawn.clone(), format).unwrap();
            assert!(bytes.starts_with(magic), "{format:?}");
            let decoded = media::image::decode(&bytes).unwrap();
            assert_eq!((decoded.width, decoded.height), (40, 30));
            let sum: u32 = decoded
                .pixels
                .iter()
                .zip(&drawn.pixels)
                .map(|(a, b)| u32::from(a.abs_diff(*b)))
                .sum();
            let mean = f64::from(sum) / decoded.pixels.len() as f64;
            assert!(mean <= max_mean, "{format:?}: {mean}");
            let gray = decoded
                .pixels
                .chunks(3)
                .all(|p| p[0] == p[1] && p[1] == p[2]);
            assert_eq!(gray, format == Format::GrayJpeg);
        }
    }
}
