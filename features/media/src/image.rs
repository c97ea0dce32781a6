//! Images: decoding, the views that CLIP reads, and the JPEG files that shards store.
//!
//! Everything follows Pillow and Hugging Face's `CLIPImageProcessor`: bicubic with a = -0.5,
//! antialiased, results rounded to 8 bits before they are normalized. Orientation tags (EXIF) are
//! ignored, as `PIL.Image.open` and the processor do; [`orientation`] finds them. There is no colour
//! management: profiles are ignored too.
//!
//! Invariant: whatever the bytes are, [`decode()`] returns an image within [`MAX_SIDE`] and
//! [`MAX_PIXELS`], or an error of one line. It never panics, and checks the header's size before it
//! allocates pixels.

mod augmentation;
mod decode;
mod encode;
mod exif;
mod gif;
mod jpeg;
mod markers;
mod other_formats;
mod partial;
mod png;
mod resample;
mod rgb;
mod turbo;
mod view;

pub use augmentation::{Augmentation, CROP_AREA, CROP_ASPECT};
pub use decode::{decode, foreign};
pub use encode::{FRAME_SHORTER_SIDE, JPEG_QUALITY, encode_jpeg, shrink_to_jpeg};
pub use exif::orientation;
pub use rgb::{MAX_PIXELS, MAX_SIDE, Rgb};
pub use turbo::PixelFormat;
pub use view::{
    CLIP_MEAN, CLIP_STD, ImageTransform, View, evaluation_view, training_view, view_of_file,
};
