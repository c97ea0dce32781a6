//! Decoding of JPEG, PNG, GIF, WEBP and BMP files.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::rgb::{MAX_PIXELS, Rgb, check_size};
use super::{gif, jpeg, other_formats, png};
use crate::error::Error;

/// The memory that a decoder may take beside the pixels: 16-bit RGBA of the largest image.
const MAX_DECODER_BYTES: u64 = 8 * MAX_PIXELS as u64;

/// Decodes a JPEG, PNG, GIF (first frame), WEBP or BMP file; the content tells which it is.
///
/// The colours are those of Pillow's `convert("RGB")`: gray is repeated, CMYK and YCCK are taken
/// as Adobe's (inverted), alpha is dropped. Every JPEG becomes the same bytes as in Pillow. Of 16
/// bits the high byte is kept, of gray images too (Pillow cuts those off at 255, which leaves
/// white), and the five or six of a BMP are rounded to eight (Pillow cuts). A JPEG with damaged image data is an error; Pillow refuses it only where it ends too
/// early, and guesses otherwise. A PNG that lacks nothing but its end is read, as by Pillow. Large
/// JPEG files are decoded at full size too, since libjpeg's decoding at a half or less gives other
/// pixels.
///
/// # Errors
/// [`Error::Limit`] if the header promises more than [`MAX_SIDE`](super::MAX_SIDE) or
/// [`MAX_PIXELS`]; [`Error::Media`] if the bytes are of another format or damaged. The message says
/// of which format.
pub fn decode(bytes: &[u8]) -> Result<Rgb, Error> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    match image::guess_format(bytes) {
        Ok(Jpeg) => jpeg::decode(bytes),
        Ok(Png) => decode_as(Png, bytes).or_else(|error| match (&error, png::with_end(bytes)) {
            (Error::Media(_), Some(whole)) => decode_as(Png, &whole).map_err(|_| error),
            _ => Err(error),
        }),
        Ok(Gif) => decode_gif(bytes),
        Ok(format @ (WebP | Bmp)) => decode_as(format, bytes),
        _ if bytes.is_empty() => Err(Error::Media("the image is empty".into())),
        _ => Err(Error::Media(other_formats::describe(bytes))),
    }
}

/// Says what a file is whose first bytes are not those of an image that [`decode`] reads, and what
/// to do about it.
pub fn foreign(head: &[u8]) -> Option<String> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    match image::guess_format(head) {
        Ok(Jpeg | Png | Gif | WebP | Bmp) => None,
        _ => Some(other_formats::describe(head)),
    }
}

/// Decodes the first frame of a GIF file.
fn decode_gif(bytes: &[u8]) -> Result<Rgb, Error> {
    let Some(frame) = gif::Frame::first(bytes) else {
        return decode_as(ImageFormat::Gif, bytes);
    };
    let mut screen = decode_as(ImageFormat::Gif, &frame.on_screen(bytes))?;
    frame.fill_around(&mut screen);
    Ok(screen)
}

/// Decodes a file of a format that the crate `image` reads.
fn decode_as(format: ImageFormat, bytes: &[u8]) -> Result<Rgb, Error> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(from_image)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    let pixels = rgb8(DynamicImage::from_decoder(decoder).map_err(from_image)?);
    Ok(Rgb {
        width,
        height,
        pixels,
    })
}

/// Converts an image to packed 8-bit RGB.
fn rgb8(image: DynamicImage) -> Vec<u8> {
    fn gray(values: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 * values.len());
        values.for_each(|value| out.extend([value; 3]));
        out
    }
    let high = |value: u16| (value >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma16(image) => gray(image.pixels().map(|p| high(p.0[0]))),
        DynamicImage::ImageLumaA16(image) => gray(image.pixels().map(|p| high(p.0[0]))),
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(image) => image
            .pixels()
            .flat_map(|p| [high(p.0[0]), high(p.0[1]), high(p.0[2])])
            .collect(),
        other => other.into_rgb8().into_raw(),
    }
}

fn from_image(error: ImageError) -> Error {
    match error {
        ImageError::Limits(error) => {
            Error::Limit(format!("the image is too large: {}", one_line(&error)))
        }
        error => media(&error),
    }
}

fn media(error: &dyn std::fmt::Display) -> Error {
    Error::Media(format!("the image cannot be read: {}", one_line(error)))
}

/// Returns the message without line breaks and the quotes around it.
fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_matches('"').to_owned()
}
