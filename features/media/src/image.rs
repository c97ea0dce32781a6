//! Pictures on their way to the encoder: decoding, the views CLIP is fed with, and what a shard stores.
//!
//! Everything follows Pillow and Hugging Face's `CLIPImageProcessor`: bicubic with a = -0.5, antialiased, results
//! rounded to 8 bits before they are normalised. Orientation tags (EXIF) are ignored, as `PIL.Image.open` and the
//! processor do. No colour management: profiles are ignored too.
//!
//! Invariant: whatever the bytes are, [`decode`] returns a picture within [`MAX_SIDE`] and [`MAX_PIXELS`] or an error
//! of one line; it never panics and looks at the header's size before it allocates pixels.

mod jpeg;
mod partial;
mod resample;
mod turbo;

use std::cell::RefCell;
use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use crate::error::Error;
use resample::{Axis, Resampler};
use util::rng::Rng;

pub use jpeg::exif;
pub use turbo::PixelFormat;

/// Longest side that is decoded or written, in pixels.
pub const MAX_SIDE: usize = 16_384;

/// Most pixels that are decoded or written: 192 MiB as RGB.
pub const MAX_PIXELS: usize = 64 << 20;

/// Shorter side of the pictures and frames in a shard, in pixels.
pub const FRAME_SHORTER_SIDE: usize = 256;

/// JPEG quality of the pictures and frames in a shard.
pub const JPEG_QUALITY: u8 = 95;

// The published digits.
#[allow(clippy::excessive_precision)]
/// Mean of `openai/clip-vit-base-patch16`'s preprocessing, of values in [0, 1], in the order R, G, B.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

#[allow(clippy::excessive_precision)]
/// Standard deviation of the same.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Share of the picture's area a random crop keeps, smallest and largest. Far milder than the (0.08, 1) that
/// classifiers are trained with from scratch: a frame or poster carries one subject that a small crop may miss, the
/// encoder is frozen, and the method's paper is silent.
pub const CROP_AREA: (f64, f64) = (0.5, 1.0);

/// Width over height of a random crop, narrowest and widest; drawn uniformly in the logarithm. torchvision's default.
pub const CROP_ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// How many shapes are tried before the crop falls back to the middle of the picture. torchvision's number.
const CROP_TRIES: usize = 10;

/// Memory one decoder may take beside the pixels: 16-bit RGBA of the largest picture.
const MAX_DECODER_BYTES: u64 = 8 * MAX_PIXELS as u64;

/// A picture: packed 8-bit RGB, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 3` values.
    pub pixels: Vec<u8>,
}

/// Decodes a JPEG, PNG, GIF (first frame), WEBP or BMP, told apart by content.
///
/// As Pillow's `convert("RGB")`: gray is repeated, CMYK and YCCK are taken as Adobe's (inverted), alpha is dropped.
/// Every JPEG becomes the same bytes as in Pillow. Of 16 bits the high byte is kept, of gray ones too (Pillow cuts those
/// off at 255, which leaves white). A JPEG with damaged image data is an error; Pillow refuses it only where it ends too
/// early, and guesses otherwise.
///
/// # Errors
/// [`Error::Limit`] if the header promises more than [`MAX_SIDE`] or [`MAX_PIXELS`]; [`Error::Media`] if the bytes are
/// of another format or damaged.
pub fn decode(bytes: &[u8]) -> Result<Rgb, Error> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| media(&error))?;
    match reader.format() {
        Some(Jpeg) => return jpeg::decode(bytes),
        Some(Png | Gif | WebP | Bmp) => {}
        _ if bytes.is_empty() => return Err(Error::Media("the picture is empty".into())),
        _ => {
            return Err(Error::Media(
                "not a JPEG, PNG, GIF, WEBP or BMP picture".into(),
            ));
        }
    }
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

/// What the encoder expects of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTransform {
    /// Side of the square view, in pixels.
    pub size: usize,
    /// Subtracted from values in [0, 1], per channel.
    pub mean: [f32; 3],
    /// Then divided by, per channel.
    pub std: [f32; 3],
}

impl ImageTransform {
    /// That of CLIP's vision towers: [`CLIP_MEAN`], [`CLIP_STD`].
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

    /// Appends `size * size` packed RGB pixels as channels x rows x columns, normalised.
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

/// Appends the view for evaluation, [3, size, size]: shorter side to `size`, centre crop, normalised.
///
/// The longer side becomes `floor(size * long / short)` and loses `floor((long - size) / 2)` at its left or top, as in
/// `CLIPImageProcessor`. Only the pixels that stay are computed.
///
/// # Errors
/// [`Error::Invalid`] if the picture has no pixels or not as many as it says.
pub fn test_view(image: &Rgb, transform: &ImageTransform, out: &mut Vec<f32>) -> Result<(), Error> {
    view(image, transform, View::Test, out)
}

/// Appends the view for training, [3, size, size]: the crop that `augmentation` chooses, resized, perhaps mirrored,
/// normalised. The filter sees the pixels just outside the crop where there are any, as Pillow's `resize(box=)` does.
///
/// # Errors
/// [`Error::Invalid`] if the picture has no pixels or not as many as it says.
pub fn train_view(
    image: &Rgb,
    transform: &ImageTransform,
    augmentation: &Augmentation,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    view(image, transform, View::Train(augmentation), out)
}

/// Which view of a picture an encoder gets.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// [`test_view`]'s.
    Test,
    /// [`train_view`]'s.
    Train(&'a Augmentation),
}

impl View<'_> {
    /// Columns and rows of a picture of this size, and whether left and right change places.
    fn axes(self, width: usize, height: usize, size: usize) -> (Axis, Axis, bool) {
        match self {
            View::Test => {
                let (new_width, new_height) = scaled(width, height, size);
                // The middle `size` of `scaled` pixels.
                let middle = |side: usize, scaled: usize| {
                    let first = scaled.saturating_sub(size) / 2;
                    Axis::new(side, [0.0, side as f32], scaled, first..first + size)
                };
                (middle(width, new_width), middle(height, new_height), false)
            }
            View::Train(augmentation) => {
                let [left, top, w, h] = augmentation.crop(width, height);
                let part = |side: usize, start: f64, length: f64| {
                    // Rounding must not reach beyond the picture.
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

/// Appends the view of a picture in a file, [3, size, size]: of a JPEG as shards hold it, only the part that the view
/// shows is decoded.
///
/// # Errors
/// As [`decode`], but that what a view does not show may be damaged.
pub fn view_of(
    bytes: &[u8],
    transform: &ImageTransform,
    which: View,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    transform.check()?;
    let shown = partial::Scan::parse(bytes).and_then(|scan| {
        let (columns, rows, flip) = which.axes(scan.width, scan.height, transform.size);
        let part = partial::Part::around(&scan, columns.reach(), rows.reach());
        RESAMPLER.with_borrow_mut(|resampler| {
            let mut pixels = std::mem::take(&mut resampler.part);
            pixels.resize(part.len(), 0);
            let decoded = scan.decode(&part, &mut pixels).map(|()| {
                let (columns, rows) = (
                    columns.moved(part.columns.start),
                    rows.moved(part.rows.start),
                );
                let view = resampler.run(&pixels, part.columns.len(), &columns, &rows);
                transform.append(view, flip, out);
            });
            resampler.part = pixels;
            decoded
        })
    });
    match shown {
        Some(()) => Ok(()),
        None => view(&decode(bytes)?, transform, which, out),
    }
}

fn view(
    image: &Rgb,
    transform: &ImageTransform,
    which: View,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    image.check()?;
    transform.check()?;
    let (columns, rows, flip) = which.axes(image.width, image.height, transform.size);
    RESAMPLER.with_borrow_mut(|resampler| {
        let pixels = resampler.run(&image.pixels, image.width, &columns, &rows);
        transform.append(pixels, flip, out);
    });
    Ok(())
}

/// A random-resized crop and a mirroring that do not depend on the picture: drawn once, it cuts every frame of a clip
/// alike.
///
/// The crop is torchvision's `RandomResizedCrop`: area and aspect are tried until a shape fits, then its place is
/// uniform. The tries are drawn beforehand, because only the picture tells which one fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmentation {
    /// (share of the picture's area, width over height) to try in turn.
    pub shapes: [(f64, f64); CROP_TRIES],
    /// Where the crop lies in the room it has, from 0 (left, top) to 1 (right, bottom).
    pub place: (f64, f64),
    /// Whether left and right change places.
    pub flip: bool,
}

impl Augmentation {
    /// Draws one; always takes the same number of random numbers.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut uniform = |low: f64, high: f64| low + (high - low) * rng.uniform();
        let shapes = std::array::from_fn(|_| {
            let share = uniform(CROP_AREA.0, CROP_AREA.1);
            (share, uniform(CROP_ASPECT.0.ln(), CROP_ASPECT.1.ln()).exp())
        });
        let place = (uniform(0.0, 1.0), uniform(0.0, 1.0));
        Augmentation {
            shapes,
            place,
            flip: uniform(0.0, 1.0) < 0.5,
        }
    }

    /// [left, top, width, height] of the crop in a picture of this size, in pixels, not rounded.
    pub fn crop(&self, width: usize, height: usize) -> [f64; 4] {
        let (width, height) = (width as f64, height as f64);
        for (share, aspect) in self.shapes {
            let area = share * width * height;
            let (w, h) = ((area * aspect).sqrt(), (area / aspect).sqrt());
            if w <= width && h <= height {
                return [
                    self.place.0 * (width - w),
                    self.place.1 * (height - h),
                    w,
                    h,
                ];
            }
        }
        // As much of the middle as an allowed aspect can hold.
        let aspect = (width / height).clamp(CROP_ASPECT.0, CROP_ASPECT.1);
        let (w, h) = (width.min(height * aspect), height.min(width / aspect));
        [(width - w) / 2.0, (height - h) / 2.0, w, h]
    }
}

/// Resizes so that the shorter side has `shorter` pixels (smaller pictures grow) and compresses.
///
/// # Errors
/// [`Error::Limit`] if the result passes [`MAX_SIDE`] or [`MAX_PIXELS`] (a picture 64 times as long as wide);
/// [`Error::Invalid`] if the picture has no pixels, `shorter` is 0, or `quality` is not in 1..=100.
pub fn shrink_to_jpeg(image: &Rgb, shorter: usize, quality: u8) -> Result<Vec<u8>, Error> {
    image.check()?;
    if shorter == 0 || !(1..=100).contains(&quality) {
        return Err(Error::Invalid(format!(
            "a JPEG of shorter side {shorter}, quality {quality}"
        )));
    }
    let (width, height) = scaled(image.width, image.height, shorter);
    check_size(width, height)?;
    if (width, height) == (image.width, image.height) {
        return jpeg::encode(&image.pixels, width, height, PixelFormat::Rgb, quality);
    }
    RESAMPLER.with_borrow_mut(|resampler| {
        let whole =
            |side: usize, scaled: usize| Axis::new(side, [0.0, side as f32], scaled, 0..scaled);
        let (columns, rows) = (whole(image.width, width), whole(image.height, height));
        let pixels = resampler.run(&image.pixels, image.width, &columns, &rows);
        jpeg::encode(pixels, width, height, PixelFormat::Rgb, quality)
    })
}

/// Compresses `width * height` pixels to a baseline JPEG without subsampling (4:4:4); each row of blocks is a restart
/// interval. CMYK is stored as given, which readers take for inverted (Adobe's way).
///
/// On real frames and photos of shorter side 256, 4:4:4 takes 15 to 40 % more bytes than 4:2:0, and the largest error of
/// the 224-pixel view stays below 14 levels of 255 instead of reaching 104 at coloured edges. The restart intervals cost
/// half a percent; a reader needs only those that hold the part it wants.
///
/// # Errors
/// [`Error::Limit`] if a side passes [`MAX_SIDE`]; [`Error::Invalid`] if `pixels` has not the length that size and format
/// give, a side is 0, or `quality` is not in 1..=100.
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

impl Rgb {
    fn check(&self) -> Result<(), Error> {
        if self.width == 0 || self.height == 0 || self.pixels.len() != self.width * self.height * 3
        {
            return Err(Error::Invalid(format!(
                "a picture of {} x {} pixels with {} values",
                self.width,
                self.height,
                self.pixels.len()
            )));
        }
        Ok(())
    }
}

/// Width and height once the shorter side is `shorter`, the longer one rounded down.
fn scaled(width: usize, height: usize, shorter: usize) -> (usize, usize) {
    let short = width.min(height);
    (shorter * width / short, shorter * height / short)
}

thread_local! {
    /// Each thread's buffers.
    static RESAMPLER: RefCell<Resampler> = RefCell::default();
}

fn check_size(width: usize, height: usize) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::Media(format!(
            "the picture has {width} x {height} pixels"
        )));
    }
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(Error::Limit(format!(
            "a picture of {width} x {height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read"
        )));
    }
    Ok(())
}

fn rgb8(picture: DynamicImage) -> Vec<u8> {
    fn gray(values: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 * values.len());
        values.for_each(|value| out.extend([value; 3]));
        out
    }
    let high = |value: u16| (value >> 8) as u8;
    match picture {
        DynamicImage::ImageRgb8(picture) => picture.into_raw(),
        DynamicImage::ImageLuma16(picture) => gray(picture.pixels().map(|p| high(p.0[0]))),
        DynamicImage::ImageLumaA16(picture) => gray(picture.pixels().map(|p| high(p.0[0]))),
        DynamicImage::ImageRgb16(picture) => picture.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(picture) => picture
            .pixels()
            .flat_map(|p| [high(p.0[0]), high(p.0[1]), high(p.0[2])])
            .collect(),
        other => other.into_rgb8().into_raw(),
    }
}

fn from_image(error: ImageError) -> Error {
    match error {
        ImageError::Limits(error) => {
            Error::Limit(format!("the picture is too large: {}", line(&error)))
        }
        error => media(&error),
    }
}

fn media(error: &dyn std::fmt::Display) -> Error {
    Error::Media(format!("the picture cannot be read: {}", line(error)))
}

/// The message without line breaks and the quotes around it.
fn line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_matches('"').to_owned()
}
