//! Orientation of images and video frames: the eight ways in which EXIF or a display matrix can say
//! that stored pixels have to be turned.

use features::image::Rgb;

/// How stored pixels are turned upright: rows and columns are exchanged or not, and then mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation {
    transpose: bool,
    mirror_x: bool,
    mirror_y: bool,
}

impl Orientation {
    /// The stored pixels are upright.
    pub const UPRIGHT: Orientation = Orientation {
        transpose: false,
        mirror_x: false,
        mirror_y: false,
    };

    /// The orientation nearest to a display matrix (a, b, c, d), which maps (x, y) to
    /// (a x + c y, b x + d y).
    pub fn from_matrix([a, b, c, d]: [i32; 4]) -> Orientation {
        let size = |value: i32| i64::from(value).abs();
        if size(b) + size(c) > size(a) + size(d) {
            Orientation {
                transpose: true,
                mirror_x: c < 0,
                mirror_y: b < 0,
            }
        } else {
            Orientation {
                transpose: false,
                mirror_x: a < 0,
                mirror_y: d < 0,
            }
        }
    }

    /// The orientation that the metadata of a JPEG, PNG or WebP file give. Upright if they give none.
    pub fn of_image(file: &[u8]) -> Orientation {
        let matrix = match features::image::orientation(file) {
            2 => [-1, 0, 0, 1],
            3 => [-1, 0, 0, -1],
            4 => [1, 0, 0, -1],
            5 => [0, 1, 1, 0],
            6 => [0, 1, -1, 0],
            7 => [0, -1, -1, 0],
            8 => [0, -1, 1, 0],
            _ => return Orientation::UPRIGHT,
        };
        Orientation::from_matrix(matrix)
    }

    /// Turns an image upright.
    pub fn apply(self, stored: Rgb) -> Rgb {
        if self == Orientation::UPRIGHT {
            return stored;
        }
        let (width, height) = (stored.width, stored.height);
        let (out_width, out_height) = if self.transpose {
            (height, width)
        } else {
            (width, height)
        };
        let mut pixels = Vec::with_capacity(stored.pixels.len());
        for y in 0..out_height {
            let y = if self.mirror_y { out_height - 1 - y } else { y };
            for x in 0..out_width {
                let x = if self.mirror_x { out_width - 1 - x } else { x };
                let at = 3 * if self.transpose {
                    x * width + y
                } else {
                    y * width + x
                };
                pixels.extend_from_slice(&stored.pixels[at..at + 3]);
            }
        }
        Rgb {
            width: out_width,
            height: out_height,
            pixels,
        }
    }
}

#[cfg(test)]
mod tests {
    use image::metadata::Orientation as Tag;

    use super::*;

    const ONE: i32 = 1 << 16;

    fn turned(matrix: [i32; 4]) -> (usize, Vec<u8>) {
        // a b c
        // d e f
        let pixels = b"abcdef".iter().flat_map(|&b| [b; 3]).collect();
        let out = Orientation::from_matrix(matrix).apply(Rgb {
            width: 3,
            height: 2,
            pixels,
        });
        (out.width, out.pixels.iter().copied().step_by(3).collect())
    }

    #[test]
    fn display_matrices_turn_frames_upright() {
        assert_eq!(turned([ONE, 0, 0, ONE]), (3, b"abcdef".to_vec()));
        assert_eq!(
            turned([0, ONE, -ONE, 0]),
            (2, b"daebfc".to_vec()),
            "clockwise"
        );
        assert_eq!(
            turned([-ONE, 0, 0, -ONE]),
            (3, b"fedcba".to_vec()),
            "upside down"
        );
        assert_eq!(
            turned([0, -ONE, ONE, 0]),
            (2, b"cfbead".to_vec()),
            "counter-clockwise"
        );
        assert_eq!(
            turned([-ONE, 0, 0, ONE]),
            (3, b"cbafed".to_vec()),
            "mirrored"
        );
    }

    /// A JPEG whose EXIF holds nothing but this orientation.
    fn tagged(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        // Big-endian TIFF, one entry: tag 0x112, one SHORT.
        let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let mut bytes = jpeg[..2].to_vec();
        bytes.extend([0xff, 0xe1, 0, exif.len() as u8 + 2]);
        bytes.extend(exif);
        bytes.extend(&jpeg[2..]);
        bytes
    }

    /// Compares with the orientations of the crate `image`.
    #[test]
    fn exif_orientations_match_the_image_crate() {
        let pixels: Vec<u8> = (0..3 * 24 * 16).map(|i| (i * 7 % 251) as u8).collect();
        let stored = Rgb {
            width: 24,
            height: 16,
            pixels,
        };
        let jpeg = features::image::shrink_to_jpeg(&stored, 16, 90).unwrap();
        for orientation in 0..10 {
            let found = Orientation::of_image(&tagged(&jpeg, orientation));
            let mut theirs = image::DynamicImage::from(
                image::RgbImage::from_raw(24, 16, stored.pixels.clone()).unwrap(),
            );
            if let Some(tag) = Tag::from_exif(orientation) {
                theirs.apply_orientation(tag);
            }
            let ours = found.apply(stored.clone());
            assert_eq!(
                (ours.width, ours.height),
                (theirs.width() as usize, theirs.height() as usize)
            );
            assert_eq!(ours.pixels, theirs.into_rgb8().into_raw(), "{orientation}");
            assert_eq!(
                found == Orientation::UPRIGHT,
                !(2..=8).contains(&orientation)
            );
        }
        assert_eq!(Orientation::of_image(&jpeg), Orientation::UPRIGHT);
        assert_eq!(Orientation::of_image(b"no image"), Orientation::UPRIGHT);
    }
}
