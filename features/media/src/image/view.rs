//! The views of an image that an encoder reads: cropped, resized, normalized.

use std::cell::RefCell;

use super::augmentation::Augmentation;
use super::decode::decode;
use super::partial::{Part, Scan};
use super::resample::{Axis, MAX_KEPT_BYTES, resized, scaled_size};
use super::rgb::Rgb;
use crate::error::Error;

thread_local! {
    /// Each thread's buffer for the decoded part of an image.
    static DECODED_PART: RefCell<Vec<u8>> = RefCell::default();
}

// The published digits.
#[allow(clippy::excessive_precision)]
/// The mean of `openai/clip-vit-base-patch16`'s preprocessing, of values in [0, 1], in the order
/// R, G, B.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

#[allow(clippy::excessive_precision)]
/// The standard deviation of the same preprocessing.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// The size and the normalization of the images that an encoder reads.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTransform {
    /// The side of the square view, in pixels.
    pub size: usize,
    /// The mean of each channel, which is subtracted from values in [0, 1].
    pub mean: [f32; 3],
    /// The standard deviation of each channel, by which the difference is divided.
    pub std: [f32; 3],
}

impl ImageTransform {
    /// Returns the transform of CLIP's vision towers: [`CLIP_MEAN`], [`CLIP_STD`].
    pub fn clip(size: usize) -> Self {
        ImageTransform {
            size,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.size == 0 {
            return Err(Error::Invalid("a view of 0 pixels".into()));
        }
        Ok(())
    }

    /// Appends `size * size` packed RGB pixels as `[3, size, size]`, normalized.
    fn append(&self, pixels: &[u8], flip: bool, out: &mut Vec<f32>) {
        out.reserve(pixels.len());
        for channel in 0..3 {
            // In f32 and in this order, as the processor computes it.
            let table: [f32; 256] = std::array::from_fn(|v| {
                ((v as f64 / 255.0) as f32 - self.mean[channel]) / self.std[channel]
            });
            for row in pixels.chunks_exact(3 * self.size) {
                let row = row.as_chunks::<3>().0;
                let values = row.iter().map(|pixel| table[usize::from(pixel[channel])]);
                match flip {
                    true => out.extend(values.rev()),
                    false => out.extend(values),
                }
            }
        }
    }
}

/// Which view of an image an encoder reads.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// The view of [`evaluation_view`].
    Evaluation,
    /// The view of [`training_view`].
    Training(&'a Augmentation),
}

impl View<'_> {
    /// Returns the columns and rows of an image of this size, and whether the view is mirrored.
    fn axes(self, width: usize, height: usize, size: usize) -> (Axis, Axis, bool) {
        match self {
            View::Evaluation => {
                let (new_width, new_height) = scaled_size(width, height, size);
                // The middle `size` of `scaled` pixels.
                let centre = |side: usize, scaled: usize| {
                    let first = scaled.saturating_sub(size) / 2;
                    Axis::new(side, [0.0, side as f32], scaled, first..first + size)
                };
                (centre(width, new_width), centre(height, new_height), false)
            }
            View::Training(augmentation) => {
                let [left, top, w, h] = augmentation.crop(width, height);
                let part = |side: usize, start: f64, length: f64| {
                    // Rounding must not reach beyond the image.
                    let end = ((start + length) as f32).min(side as f32);
                    Axis::new(side, [start as f32, end], size, 0..size)
                };
                (
                    part(width, left, w),
                    part(height, top, h),
                    augmentation.flip,
                )
            }
        }
    }
}

/// Appends the view for evaluation, `[3, size, size]`: shorter side to `size`, centre crop,
/// normalized.
///
/// The longer side becomes `floor(size * long / short)` and loses `floor((long - size) / 2)` at its
/// left or top, as in `CLIPImageProcessor`. Only the pixels that stay are computed.
///
/// # Errors
/// [`Error::Invalid`] if the image has no pixels, or not as many as its size says.
pub fn evaluation_view(
    image: &Rgb,
    transform: &ImageTransform,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    append_view(image, transform, View::Evaluation, out)
}

/// Appends the view for training, `[3, size, size]`: the crop that `augmentation` gives, resized,
/// mirrored or not, normalized. The filter reads the pixels just outside the crop where there are
/// any, as Pillow's `resize(box=)` does.
///
/// # Errors
/// [`Error::Invalid`] if the image has no pixels, or not as many as its size says.
pub fn training_view(
    image: &Rgb,
    transform: &ImageTransform,
    augmentation: &Augmentation,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    append_view(image, transform, View::Training(augmentation), out)
}

/// Appends the view of an image file, `[3, size, size]`. Of a JPEG as shards hold it, only the part
/// that the view shows is decoded.
///
/// # Errors
/// The errors of [`decode`], except that what the view does not show may be damaged.
pub fn view_of_file(
    bytes: &[u8],
    transform: &ImageTransform,
    view: View,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    transform.check()?;
    let shown = Scan::parse(bytes).and_then(|scan| {
        let (columns, rows, flip) = view.axes(scan.width, scan.height, transform.size);
        let part = Part::around(&scan, columns.source(), rows.source());
        DECODED_PART.with_borrow_mut(|pixels| {
            if pixels.capacity() > MAX_KEPT_BYTES {
                *pixels = Vec::new();
            }
            pixels.resize(part.len(), 0);
            scan.decode(&part, pixels)?;
            let columns = columns.shifted(part.columns.start);
            let rows = rows.shifted(part.rows.start);
            resized(pixels, part.columns.len(), &columns, &rows, |view| {
                transform.append(view, flip, out);
            });
            Some(())
        })
    });
    match shown {
        Some(()) => Ok(()),
        None => append_view(&decode(bytes)?, transform, view, out),
    }
}

fn append_view(
    image: &Rgb,
    transform: &ImageTransform,
    view: View,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    image.check()?;
    transform.check()?;
    let (columns, rows, flip) = view.axes(image.width, image.height, transform.size);
    resized(&image.pixels, image.width, &columns, &rows, |pixels| {
        transform.append(pixels, flip, out);
    });
    Ok(())
}
