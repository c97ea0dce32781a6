//! Images, audio and text to numbers: what encoders read, and the bytes that shards store.
//!
//! - [`image`] decodes, resizes, crops and normalizes images, and encodes JPEG files.
//! - [`mel`] computes log-mel spectrograms.
//! - [`text`] turns text into the ids of word pieces.
//!
//! Everything works on slices in memory. Containers and codecs of video and audio belong to
//! `ingest`, Parquet files to `features`.
//!
//! ```
//! use media::image::{ImageTransform, Rgb, evaluation_view};
//! use media::mel::{MEL_BINS, MelFrontEnd, SAMPLE_RATE};
//!
//! // One second of silence becomes 98 frames of 128 mel bins.
//! let mel = MelFrontEnd::new().compute(&vec![0.0; SAMPLE_RATE]);
//! assert_eq!((mel.frames(), mel.bins), (98, MEL_BINS));
//!
//! // An image becomes what CLIP reads: f32 values of shape [3, 224, 224].
//! let image = Rgb { width: 320, height: 240, pixels: vec![0; 320 * 240 * 3] };
//! let mut values = Vec::new();
//! evaluation_view(&image, &ImageTransform::clip(224), &mut values)?;
//! assert_eq!(values.len(), 3 * 224 * 224);
//! # Ok::<(), media::Error>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
pub mod image;
pub mod mel;
pub mod text;

pub use error::Error;
