//! Decoded images, and the limits on their size.

use crate::error::Error;

/// The longest side that is decoded or encoded, in pixels.
pub const MAX_SIDE: usize = 16_384;

/// The most pixels that are decoded or encoded: 192 MiB as RGB.
pub const MAX_PIXELS: usize = 64 << 20;

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
             in all are read"
        )));
    }
    Ok(())
}
