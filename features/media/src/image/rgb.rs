//! Decoded images, and the limits on their size.

use crate::error::Error;

/// The longest side that is decoded or encoded, in pixels: that of libjpeg. A banner is stored in
/// the size that it has, so an image that can be read can be stored.
pub const MAX_SIDE: usize = 65_500;

/// The most pixels that are decoded or encoded: those that Pillow reads, twice its
/// `MAX_IMAGE_PIXELS`. They take 512 MiB as RGB.
pub const MAX_PIXELS: usize = 178_956_970;

/// An image: packed 8-bit RGB, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// The number of pixels per row.
    pub width: usize,
    /// The number of rows.
    pub height: usize,
    /// The `width * height * 3` values.
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// Returns [`Error::Invalid`] if there are no pixels, or not as many as the size says.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Rgb {
            width,
            height,
            pixels,
        } = self;
        if *width == 0 || *height == 0 || pixels.len() != width * height * 3 {
            return Err(Error::Invalid(format!(
                "an image of {width} x {height} pixels with {} values",
                pixels.len()
            )));
        }
        Ok(())
    }
}

/// Returns [`Error::Media`] if a side is 0, [`Error::Limit`] above [`MAX_SIDE`] or [`MAX_PIXELS`].
pub(super) fn check_size(width: usize, height: usize) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::Media(format!(
            "the image has {width} x {height} pixels"
        )));
    }
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(Error::Limit(format!(
            "an image of {width} x {height} pixels; at most {MAX_SIDE} per side and {MAX_PIXELS} \
             in all are read, so make it smaller"
        )));
    }
    Ok(())
}
