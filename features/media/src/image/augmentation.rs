//! Random crops and flips.

use util::rng::Rng;

/// The smallest and largest share of the image's area that a random crop keeps. Far milder than
/// the (0.08, 1) that classifiers are trained with from scratch: a frame or poster carries one
/// subject that a small crop may miss, the encoder is frozen, and the method's paper is silent.
pub const CROP_AREA: (f64, f64) = (0.5, 1.0);

/// The narrowest and widest aspect (width / height) of a random crop, drawn uniformly in the
/// logarithm. torchvision's default.
pub const CROP_ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// The number of shapes that are tried before the crop falls back to the centre of the image.
/// torchvision's number.
const CROP_TRIES: usize = 10;

/// A random-resized crop and a flip that do not depend on the image: one draw crops all frames of
/// a clip alike.
///
/// The crop is torchvision's `RandomResizedCrop`: area and aspect are tried until a shape fits,
/// then its position is uniform. The tries are drawn beforehand, because which one fits depends on
/// the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmentation {
    /// The (share of the image's area, width / height) that are tried in turn.
    pub shapes: [(f64, f64); CROP_TRIES],
    /// The position of the crop in the room it has, from 0 (left, top) to 1 (right, bottom).
    pub position: (f64, f64),
    /// Whether the crop is mirrored, left to right.
    pub flip: bool,
}

impl Augmentation {
    /// Draws a crop and a flip. Always takes the same number of random numbers.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut uniform = |low: f64, high: f64| low + (high - low) * rng.uniform();
        let shapes = std::array::from_fn(|_| {
            let share = uniform(CROP_AREA.0, CROP_AREA.1);
            (share, uniform(CROP_ASPECT.0.ln(), CROP_ASPECT.1.ln()).exp())
        });
        let position = (uniform(0.0, 1.0), uniform(0.0, 1.0));
        Augmentation {
            shapes,
            position,
            flip: uniform(0.0, 1.0) < 0.5,
        }
    }

    /// Returns [left, top, width, height] of the crop in an image of this size, in pixels, not
    /// rounded.
    pub fn crop(&self, width: usize, height: usize) -> [f64; 4] {
        let (width, height) = (width as f64, height as f64);
        for (share, aspect) in self.shapes {
            let area = share * width * height;
            let (w, h) = ((area * aspect).sqrt(), (area / aspect).sqrt());
            if w <= width && h <= height {
                let (x, y) = self.position;
                return [x * (width - w), y * (height - h), w, h];
            }
        }
        // The largest centre crop of an allowed aspect.
        let aspect = (width / height).clamp(CROP_ASPECT.0, CROP_ASPECT.1);
        let (w, h) = (width.min(height * aspect), height.min(width / aspect));
        [(width - w) / 2.0, (height - h) / 2.0, w, h]
    }
}
