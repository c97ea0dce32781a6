//! Pictures in files as publishers have them: nearly all JPEG, now and then a gray one, or another format under JPEG's
//! name.

use std::io::Cursor;
use std::path::Path;

use anyhow::Context;
use features::image::{PixelFormat, Rgb, encode_jpeg};
use image::{GrayImage, ImageFormat, RgbImage};
use util::rng::Rng;

use crate::canvas::Canvas;

/// Quality of the JPEG files: what a web page has.
const QUALITY: u8 = 88;

/// One picture in so many is no colour JPEG.
const ODD: u32 = 60;

/// What stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A colour JPEG.
    Jpeg,
    /// A JPEG of one channel.
    Gray,
    /// A PNG, whatever the file is called.
    Png,
    /// The same with WebP.
    WebP,
}

impl Form {
    /// Nearly always a colour JPEG.
    pub fn draw(rng: &mut Rng) -> Form {
        match rng.below(3 * ODD) {
            0 => Form::Gray,
            1 => Form::Png,
            2 => Form::WebP,
            _ => Form::Jpeg,
        }
    }
}

/// Writes the picture.
pub fn write(path: &Path, canvas: &Canvas, form: Form) -> anyhow::Result<()> {
    let bytes = encode(canvas.to_rgb(), form).with_context(|| path.display().to_string())?;
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn encode(rgb: Rgb, form: Form) -> anyhow::Result<Vec<u8>> {
    let (width, height) = (rgb.width, rgb.height);
    let jpeg = |pixels: &[u8], format| encode_jpeg(pixels, width, height, format, QUALITY);
    let image = RgbImage::from_raw(width as u32, height as u32, rgb.pixels)
        .context("an image without pixels")?;
    let mut bytes = Cursor::new(Vec::new());
    match form {
        Form::Jpeg => return Ok(jpeg(image.as_raw(), PixelFormat::Rgb)?),
        Form::Gray => {
            let gray: GrayImage = image::DynamicImage::from(image).into_luma8();
            return Ok(jpeg(gray.as_raw(), PixelFormat::Gray)?);
        }
        Form::Png => image.write_to(&mut bytes, ImageFormat::Png)?,
        Form::WebP => image.write_to(&mut bytes, ImageFormat::WebP)?,
    }
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_what_was_painted() {
        let mut canvas = Canvas::new(40, 30);
        let mut rng = Rng::new(1, &[]);
        crate::canvas::clutter(&mut canvas, &mut rng);
        let painted = canvas.to_rgb();
        let forms = [
            (Form::Jpeg, &b"\xff\xd8"[..], 8.0),
            (Form::Gray, &b"\xff\xd8"[..], 60.0),
            (Form::Png, &b"\x89PNG"[..], 0.0),
            (Form::WebP, &b"RIFF"[..], 0.0),
        ];
        for (form, magic, most) in forms {
            let bytes = encode(painted.clone(), form).unwrap();
            assert!(bytes.starts_with(magic), "{form:?}");
            let read = features::image::decode(&bytes).unwrap();
            assert_eq!((read.width, read.height), (40, 30));
            let sum: u32 = read
                .pixels
                .iter()
                .zip(&painted.pixels)
                .map(|(a, b)| u32::from(a.abs_diff(*b)))
                .sum();
            let mean = f64::from(sum) / read.pixels.len() as f64;
            assert!(mean <= most, "{form:?}: {mean}");
            let gray = read.pixels.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]);
            assert_eq!(gray, form == Form::Gray);
        }
    }
}
