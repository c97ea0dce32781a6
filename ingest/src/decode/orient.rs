//! Turning a picture upright: the eight ways in which a display matrix can lay it.

use features::image::Rgb;

/// First swap rows and columns (or not), then mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation {
    transpose: bool,
    mirror_x: bool,
    mirror_y: bool,
}

impl Orientation {
    /// As stored.
    pub const UPRIGHT: Orientation = Orientation {
        transpose: false,
        mirror_x: false,
        mirror_y: false,
    };

    /// The axis-aligned way nearest to a display matrix (a, b, c, d), which takes (x, y) to (a x + c y, b x + d y).
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

    /// The picture, turned.
    pub fn apply(self, picture: Rgb) -> Rgb {
        if self == Orientation::UPRIGHT {
            return picture;
        }
        let (width, height) = (picture.width, picture.height);
        let (out_width, out_height) = if self.transpose {
            (height, width)
        } else {
            (width, height)
        };
        let mut pixels = Vec::with_capacity(picture.pixels.len());
        for y in 0..out_height {
            let y = if self.mirror_y { out_height - 1 - y } else { y };
            for x in 0..out_width {
                let x = if self.mirror_x { out_width - 1 - x } else { x };
                let at = 3 * if self.transpose {
                    x * width + y
                } else {
                    y * width + x
                };
                pixels.extend_from_slice(&picture.pixels[at..at + 3]);
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
    fn every_quarter_turn() {
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
}
