//! Pictures on their way to the encoder: decoding, the views CLIP is fed with, and what a shard stores.
//!
//! Everything follows Pillow and Hugging Face's `CLIPImageProcessor`: bicubic with a = -0.5, antialiased, results
//! rounded to 8 bits before they are normalised. Orientation tags (EXIF) are ignored, as `PIL.Image.open` and the
//! processor do. No colour management: profiles are ignored too.
//!
//! Invariant: whatever the bytes are, [`decode`] returns a picture within [`MAX_SIDE`] and [`MAX_PIXELS`] or an error
//! of one line; it never panics and looks at the header's size before it allocates pixels.

use std::cell::RefCell;
use std::io::Cursor;

use fast_image_resize as fir;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::error::Error;
use crate::rng::Rng;

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
/// Of 16 bits the high byte is kept, of gray ones too (Pillow cuts those off at 255, which leaves white). A JPEG with
/// damaged image data is an error; Pillow refuses it only where it ends too early, and guesses otherwise.
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
        Some(Jpeg) => return decode_jpeg(bytes),
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

/// Without `image` in between, which would have the decoder fill what is damaged with gray and say nothing.
fn decode_jpeg(bytes: &[u8]) -> Result<Rgb, Error> {
    // Oddities between header segments are harmless and found in the wild.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| media(&error))?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    check_size(width, height)?;
    if jpeg_is_cut_off(bytes) {
        return Err(Error::Media("the JPEG ends too early".into()));
    }
    decoder.set_options(options.set_strict_mode(true));
    let pixels = decoder.decode().map_err(|error| media(&error))?;
    if pixels.len() != width * height * 3 {
        return Err(Error::Media(
            "the JPEG has colours of an unknown kind".into(),
        ));
    }
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

    /// Appends `size * size` packed RGB pixels as channels x rows x columns, normalised.
    fn append(&self, pixels: &[u8], flip: bool, out: &mut Vec<f32>) {
        let plane = self.size * self.size;
        let start = out.len();
        out.resize(start + 3 * plane, 0.0);
        for (channel, target) in out[start..].chunks_exact_mut(plane).enumerate() {
            // In f32 and in this order, as the processor computes it.
            let table: [f32; 256] = std::array::from_fn(|v| {
                ((v as f64 / 255.0) as f32 - self.mean[channel]) / self.std[channel]
            });
            for (to, from) in target
                .chunks_exact_mut(self.size)
                .zip(pixels.chunks_exact(3 * self.size))
            {
                let values = from
                    .chunks_exact(3)
                    .map(|pixel| table[usize::from(pixel[channel])]);
                if flip {
                    to.iter_mut()
                        .rev()
                        .zip(values)
                        .for_each(|(to, value)| *to = value);
                } else {
                    to.iter_mut()
                        .zip(values)
                        .for_each(|(to, value)| *to = value);
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
    image.check()?;
    let size = transform.size;
    let (width, height) = scaled(image, size);
    let area = |side: usize, scaled: usize| {
        let scale = side as f64 / scaled as f64;
        (((scaled - size) / 2) as f64 * scale, size as f64 * scale)
    };
    let (left, crop_width) = area(image.width, width);
    let (top, crop_height) = area(image.height, height);
    view(
        image,
        transform,
        [left, top, crop_width, crop_height],
        false,
        out,
    )
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
    image.check()?;
    let area = augmentation.crop(image.width, image.height);
    view(image, transform, area, augmentation.flip, out)
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
    let (width, height) = scaled(image, shorter);
    check_size(width, height)?;
    if (width, height) == (image.width, image.height) {
        return to_jpeg(&image.pixels, width, height, quality);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let area = [0.0, 0.0, image.width as f64, image.height as f64];
        let pixels = scratch.resample(image, area, width, height)?;
        to_jpeg(pixels, width, height, quality)
    })
}

/// Compresses with colours at full resolution (4:4:4). On real frames and photos of shorter side 256 that takes 15 to 40 %
/// more bytes than 4:2:0, and the largest error of the 224-pixel view stays below 14 levels of 255 instead of reaching 104
/// at coloured edges.
fn to_jpeg(pixels: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(pixels.len() / 4);
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, quality);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::R_4_4_4);
    // At most MAX_SIDE, which fits.
    encoder
        .encode(
            pixels,
            width as u16,
            height as u16,
            jpeg_encoder::ColorType::Rgb,
        )
        .map_err(|error| media(&error))?;
    Ok(out)
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
fn scaled(image: &Rgb, shorter: usize) -> (usize, usize) {
    let short = image.width.min(image.height);
    (
        shorter * image.width / short,
        shorter * image.height / short,
    )
}

/// Buffers each thread keeps from picture to picture.
#[derive(Default)]
struct Scratch {
    resizer: fir::Resizer,
    /// Columns resized, rows not yet.
    narrowed: Vec<u8>,
    pixels: Vec<u8>,
}

/// Buffers larger than this are given back when the next picture comes, in bytes.
const KEPT_SCRATCH: usize = 8 << 20;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// The area [left, top, width, height] of a picture as `width x height` pixels.
    ///
    /// Columns first, then rows, each rounded to 8 bits: Pillow's order (version 13 turns it round for some tall
    /// pictures). In one go the resizer takes rows first, and where the filter overshoots at hard edges the two differ
    /// by up to 8 levels of 255.
    fn resample(
        &mut self,
        image: &Rgb,
        area: [f64; 4],
        width: usize,
        height: usize,
    ) -> Result<&[u8], Error> {
        let [left, top, crop_width, crop_height] = area;
        let crop_width = inside(left, crop_width, image.width);
        let crop_height = inside(top, crop_height, image.height);
        if self.resizer.size_of_internal_buffers() > KEPT_SCRATCH {
            self.resizer.reset_internal_buffers();
        }
        for buffer in [&mut self.narrowed, &mut self.pixels] {
            if buffer.capacity() > KEPT_SCRATCH {
                *buffer = Vec::new();
            }
        }
        // The rows that the second pass will look at, and perhaps a few more.
        let reach = CUBIC_SUPPORT * (crop_height / height as f64).max(1.0) + 1.0;
        let first = (top - reach).floor().max(0.0) as usize;
        let last = ((top + crop_height + reach).ceil() as usize).min(image.height);
        let rows = &image.pixels[first * image.width * 3..last * image.width * 3];
        pass(
            &mut self.resizer,
            (rows, image.width, last - first),
            [left, 0.0, crop_width, (last - first) as f64],
            (&mut self.narrowed, width, last - first),
        )?;
        pass(
            &mut self.resizer,
            (&self.narrowed, width, last - first),
            [0.0, top - first as f64, width as f64, crop_height],
            (&mut self.pixels, width, height),
        )?;
        Ok(&self.pixels)
    }
}

/// How far the bicubic filter reaches, in pixels of the smaller picture.
const CUBIC_SUPPORT: f64 = 2.0;

/// One pass of the resizer: the area [left, top, width, height] of (pixels, width, height) into another such.
fn pass(
    resizer: &mut fir::Resizer,
    (from, width, height): (&[u8], usize, usize),
    [left, top, crop_width, crop_height]: [f64; 4],
    (to, new_width, new_height): (&mut Vec<u8>, usize, usize),
) -> Result<(), Error> {
    use fir::images::{Image, ImageRef};
    let wrong = |error: &dyn std::fmt::Display| {
        Error::Invalid(format!("the picture cannot be resized: {error}"))
    };
    // Catmull and Rom's filter is the cubic one with a = -0.5.
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom))
        .crop(left, top, crop_width, inside(top, crop_height, height));
    to.resize(new_width * new_height * 3, 0);
    let kind = fir::PixelType::U8x3;
    let source = ImageRef::new(width as u32, height as u32, from, kind).map_err(|e| wrong(&e))?;
    let mut target = Image::from_slice_u8(new_width as u32, new_height as u32, to, kind)
        .map_err(|e| wrong(&e))?;
    resizer
        .resize(&source, &mut target, &options)
        .map_err(|e| wrong(&e))
}

/// A length that, after rounding, does not reach beyond the picture.
fn inside(start: f64, length: f64, side: usize) -> f64 {
    let side = side as f64;
    if start + length <= side {
        return length;
    }
    let length = side - start;
    if start + length > side {
        length.next_down()
    } else {
        length
    }
}

fn view(
    image: &Rgb,
    t: &ImageTransform,
    area: [f64; 4],
    flip: bool,
    out: &mut Vec<f32>,
) -> Result<(), Error> {
    if t.size == 0 {
        return Err(Error::Invalid("a view of 0 pixels".into()));
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let pixels = scratch.resample(image, area, t.size, t.size)?;
        t.append(pixels, flip, out);
        Ok(())
    })
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

/// Whether nothing ends the image data; the decoder would not notice within the last rows.
fn jpeg_is_cut_off(bytes: &[u8]) -> bool {
    const SCAN: u8 = 0xDA;
    const END: u8 = 0xD9;
    // Thumbnails in the header have their own end, so the header's segments are stepped over.
    let mut at = 2;
    while let Some(&[0xFF, marker]) = bytes.get(at..at + 2) {
        match marker {
            SCAN => return !bytes[at..].windows(2).any(|pair| pair == [0xFF, END]),
            0xFF => at += 1,
            0x01 | 0xD0..=0xD7 => at += 2,
            END => return true,
            _ => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return true,
            },
        }
    }
    // Bytes between segments, or the end: the decoder will know.
    false
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
