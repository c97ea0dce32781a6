//! An image to draw on, in YUV 4:2:0 as the video encoders take it.

use media::image::Rgb;
use util::rng::Rng;

/// An image in YUV 4:2:0, limited range. Width and height are even.
pub struct Canvas {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

/// A colour as Y, U and V, limited range (BT.601).
#[derive(Debug, Clone, Copy)]
pub struct Colour(pub u8, pub u8, pub u8);

impl Colour {
    /// Converts from hue, saturation and value, each from 0 to 1.
    pub fn hsv(hue: f64, saturation: f64, value: f64) -> Colour {
        let channel = |offset: f64| {
            let k = (offset + hue * 6.0).rem_euclid(6.0);
            value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
        };
        let (r, g, b) = (channel(5.0), channel(3.0), channel(1.0));
        let y = 16.0 + 65.481 * r + 128.553 * g + 24.966 * b;
        let u = 128.0 - 37.797 * r - 74.203 * g + 112.0 * b;
        let v = 128.0 + 112.0 * r - 93.786 * g - 18.214 * b;
        Colour(y as u8, u as u8, v as u8)
    }
}

impl Canvas {
    /// Creates a black image.
    pub fn new(width: usize, height: usize) -> Canvas {
        assert!(
            width.is_multiple_of(2) && height.is_multiple_of(2),
            "4:2:0 needs an even width and height"
        );
        Canvas {
            width,
            height,
            y: vec![16; width * height],
            u: vec![128; width * height / 4],
            v: vec![128; width * height / 4],
        }
    }

    /// Returns the planes Y, U and V, each with its width.
    pub fn planes(&self) -> [(&[u8], usize); 3] {
        [
            (&self.y, self.width),
            (&self.u, self.width / 2),
            (&self.v, self.width / 2),
        ]
    }

    /// Copies the other image, which has the same size.
    pub fn copy_from(&mut self, other: &Canvas) {
        self.y.copy_from_slice(&other.y);
        self.u.copy_from_slice(&other.u);
        self.v.copy_from_slice(&other.v);
    }

    /// Fills the pixels for which `inside(x, y)` holds, within the bounds left, top, right and
    /// bottom, which may lie beyond the image.
    pub fn fill(&mut self, bounds: [f64; 4], colour: Colour, inside: impl Fn(f64, f64) -> bool) {
        let clamp = |value: f64, most: usize| (value.max(0.0) as usize).min(most);
        let (left, right) = (
            clamp(bounds[0], self.width),
            clamp(bounds[2] + 1.0, self.width),
        );
        let (top, bottom) = (
            clamp(bounds[1], self.height),
            clamp(bounds[3] + 1.0, self.height),
        );
        for y in top..bottom {
            for x in left..right {
                if inside(x as f64, y as f64) {
                    self.y[y * self.width + x] = colour.0;
                    if x % 2 == 0 && y % 2 == 0 {
                        let at = y / 2 * (self.width / 2) + x / 2;
                        (self.u[at], self.v[at]) = (colour.1, colour.2);
                    }
                }
            }
        }
    }

    /// Fills a circle around (x, y).
    pub fn disc(&mut self, x: f64, y: f64, radius: f64, colour: Colour) {
        let bounds = [x - radius, y - radius, x + radius, y + radius];
        self.fill(bounds, colour, |px, py| {
            (px - x).powi(2) + (py - y).powi(2) <= radius * radius
        });
    }

    /// Draws a line from (x, y) to (x + dx, y + dy), whose middle is bent down by `bend`.
    pub fn stroke(
        &mut self,
        (x, y): (f64, f64),
        (dx, dy): (f64, f64),
        bend: f64,
        thickness: f64,
        colour: Colour,
    ) {
        let reach = bend.abs() + dy.abs() + thickness;
        let bounds = [x, y - reach, x + dx, y + reach];
        self.fill(bounds, colour, |px, py| {
            let along = (px - x) / dx;
            let middle = y + dy * along + bend * 4.0 * along * (1.0 - along);
            (py - middle).abs() <= thickness / 2.0
        });
    }

    /// Converts to packed RGB.
    pub fn to_rgb(&self) -> Rgb {
        let mut pixels = Vec::with_capacity(3 * self.width * self.height);
        for row in 0..self.height {
            for column in 0..self.width {
                let chroma = row / 2 * (self.width / 2) + column / 2;
                let y = 1.164_383 * (f64::from(self.y[row * self.width + column]) - 16.0);
                let u = f64::from(self.u[chroma]) - 128.0;
                let v = f64::from(self.v[chroma]) - 128.0;
                let rgb = [
                    y + 1.596_027 * v,
                    y - 0.391_762 * u - 0.812_968 * v,
                    y + 2.017_232 * u,
                ];
                pixels.extend(rgb.map(|value| value.round().clamp(0.0, 255.0) as u8));
            }
        }
        Rgb {
            width: self.width,
            height: self.height,
            pixels,
        }
    }
}

/// Draws a background of muted rectangles on a gradient.
pub fn draw_clutter(canvas: &mut Canvas, rng: &mut Rng) {
    let (w, h) = (canvas.width as f64, canvas.height as f64);
    let hue = rng.uniform();
    for band in 0..12 {
        let colour = Colour::hsv(hue, 0.15, 0.25 + 0.03 * f64::from(band));
        let top = h * f64::from(band) / 12.0;
        canvas.fill([0.0, top, w, top + h / 12.0], colour, |_, _| true);
    }
    for _ in 0..5 + rng.below(5) {
        let colour = Colour::hsv(rng.uniform(), 0.3, 0.2 + 0.5 * rng.uniform());
        let (x, y) = (w * rng.uniform(), h * rng.uniform());
        let (dx, dy) = (
            w * (0.05 + 0.15 * rng.uniform()),
            h * (0.05 + 0.2 * rng.uniform()),
        );
        canvas.fill([x, y, x + dx, y + dy], colour, |_, _| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsv_gives_the_yuv_values_of_bt_601() {
        let near = |colour: Colour, y, u, v| {
            let Colour(a, b, c) = colour;
            assert!(
                a.abs_diff(y) <= 1 && b.abs_diff(u) <= 1 && c.abs_diff(v) <= 1,
                "{colour:?}"
            );
        };
        near(Colour::hsv(0.0, 1.0, 1.0), 81, 90, 240);
        near(Colour::hsv(1.0 / 3.0, 1.0, 1.0), 145, 54, 34);
        near(Colour::hsv(2.0 / 3.0, 1.0, 1.0), 41, 240, 110);
        near(Colour::hsv(0.3, 0.0, 1.0), 235, 128, 128);
    }

    #[test]
    fn to_rgb_inverts_the_colour_conversion() {
        let mut canvas = Canvas::new(4, 2);
        let red = Colour::hsv(0.0, 1.0, 1.0);
        canvas.fill([0.0, 0.0, 1.0, 1.0], red, |_, _| true);
        let rgb = canvas.to_rgb();
        assert_eq!((rgb.width, rgb.height, rgb.pixels.len()), (4, 2, 24));
        let near = |pixel: usize, wanted: [u8; 3]| {
            let found = &rgb.pixels[3 * pixel..][..3];
            assert!(
                found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 3),
                "{found:?}"
            );
        };
        near(0, [255, 0, 0]);
        near(7, [0, 0, 0]);
    }
}
