//! What a shard stores of an image: a JPEG file of a small size.

use super::jpeg;
use super::resample::{Axis, resized, scaled_size};
use super::rgb::{Rgb, check_size};
use super::turbo::PixelFormat;
use crate::error::Error;

/// The most pixels of the shorter side of the images and frames in a shard.
pub const FRAME_SHORTER_SIDE: usize = 256;

/// The JPEG quality of the images and frames in a shard.
pub const JPEG_QUALITY: u8 = 95;

/// Encodes an image, resized so that its shorter side has `shorter` pixels if it has more. A
/// smaller image keeps its size: enlarging it adds nothing, and the view would shrink it again.
///
/// # Errors
/// [`Error::Limit`] if the result exceeds [`MAX_SIDE`](super::MAX_SIDE) or
/// [`MAX_PIXELS`](super::MAX_PIXELS); [`Error::Invalid`] if the image has no pixels, `shorter` is
/// 0, or `quality` is not in 1..=100.
pub fn shrink_to_jpeg(image: &Rgb, shorter: usize, quality: u8) -> Result<Vec<u8>, Error> {
    image.check()?;
    if shorter == 0 || !(1..=100).contains(&quality) {
        return Err(Error::Invalid(format!(
            "a JPEG of shorter side {shorter}, quality {quality}"
        )));
    }
    check_size(image.width, image.height)?;
    if image.width.min(image.height) <= shorter {
        let format = PixelFormat::Rgb;
        return jpeg::encode(&image.pixels, image.width, image.height, format, quality);
    }
    let (width, height) = scaled_size(image.width, image.height, shorter);
    let whole = |side: usize, scaled: usize| Axis::new(side, [0.0, side as f32], scaled, 0..scaled);
    let (columns, rows) = (whole(image.width, width), whole(image.height, height));
    resized(&image.pixels, image.width, &columns, &rows, |pixels| {
        jpeg::encode(pixels, width, height, PixelFormat::Rgb, quality)
    })
}

/// Encodes `width * height` pixels as a baseline JPEG without subsampling (4:4:4), with one restart
/// interval per row of MCUs. CMYK is stored as given, which readers take for inverted, as
/// Adobe's software writes it.
///
/// On real frames and photos of shorter side 256, 4:4:4 takes 15 to 40 % more bytes than 4:2:0, and
/// the largest error of the 224-pixel view stays below 14 levels of 255 instead of reaching 104 at
/// coloured edges. The restart intervals cost half a percent; a reader decodes only those that
/// hold the rows of its view.
///
/// # Errors
/// [`Error::Limit`] if a side exceeds [`MAX_SIDE`](super::MAX_SIDE); [`Error::Invalid`] if `pixels`
/// has not the length that size and format give, a side is 0, or `quality` is not in 1..=100.
pub fn encode_jpeg(
    pixels: &[u8],
    width: usize,
    height: usize,
    format: PixelFormat,
    quality: u8,
) -> Result<Vec<u8>, Error> {
    let empty = width == 0 || height == 0;
    if !empty {
        check_size(width, height)?;
    }
    if empty || pixels.len() != width * height * format.size() || !(1..=100).contains(&quality) {
        return Err(Error::Invalid(format!(
            "a JPEG of {width} x {height} pixels, quality {quality}, from {} bytes",
            pixels.len()
        )));
    }
    jpeg::encode(pixels, width, height, format, quality)
}
