//! Made-up pictures: one large face in front of clutter, whose colour, place, brows, mouth and motion tell a class, or
//! tell nothing.
//!
//! Painted in YUV 4:2:0 straight away. Everything that matters is large enough to survive JPEG, a resize to 64 pixels and
//! a centre crop; what tells a class does not depend on left and right, which training may mirror.

use std::f64::consts::TAU;

use features::rng::Rng;

/// A picture in YUV 4:2:0, limited range. Even width and height.
pub struct Canvas {
    width: usize,
    height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

/// A colour in YUV, limited range (BT.601).
#[derive(Debug, Clone, Copy)]
struct Colour(u8, u8, u8);

impl Colour {
    /// Hue and saturation from 0 to 1, lightness as the largest of R, G, B.
    fn hsv(hue: f64, saturation: f64, value: f64) -> Colour {
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
    /// Black.
    pub fn new(width: usize, height: usize) -> Canvas {
        assert!(
            width.is_multiple_of(2) && height.is_multiple_of(2),
            "4:2:0 wants even sides"
        );
        Canvas {
            width,
            height,
            y: vec![16; width * height],
            u: vec![128; width * height / 4],
            v: vec![128; width * height / 4],
        }
    }

    /// The planes, each with the length of its rows.
    pub fn planes(&self) -> [(&[u8], usize); 3] {
        [
            (&self.y, self.width),
            (&self.u, self.width / 2),
            (&self.v, self.width / 2),
        ]
    }

    fn copy(&mut self, other: &Canvas) {
        self.y.copy_from_slice(&other.y);
        self.u.copy_from_slice(&other.u);
        self.v.copy_from_slice(&other.v);
    }

    /// Fills where `inside` holds, within a box (left, top, right, bottom) that may reach beyond the edges.
    fn fill(&mut self, bounds: [f64; 4], colour: Colour, inside: impl Fn(f64, f64) -> bool) {
        let clip = |value: f64, most: usize| (value.max(0.0) as usize).min(most);
        let (left, right) = (
            clip(bounds[0], self.width),
            clip(bounds[2] + 1.0, self.width),
        );
        let (top, bottom) = (
            clip(bounds[1], self.height),
            clip(bounds[3] + 1.0, self.height),
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

    fn disc(&mut self, x: f64, y: f64, radius: f64, colour: Colour) {
        let bounds = [x - radius, y - radius, x + radius, y + radius];
        self.fill(bounds, colour, |px, py| {
            (px - x).powi(2) + (py - y).powi(2) <= radius * radius
        });
    }

    /// A line from (x, y) by (dx, dy), bent down in the middle by `bend`.
    fn stroke(
        &mut self,
        (x, y): (f64, f64),
        (dx, dy): (f64, f64),
        bend: f64,
        thick: f64,
        colour: Colour,
    ) {
        let reach = bend.abs() + dy.abs() + thick;
        let bounds = [x, y - reach, x + dx, y + reach];
        self.fill(bounds, colour, |px, py| {
            let along = (px - x) / dx;
            let middle = y + dy * along + bend * 4.0 * along * (1.0 - along);
            (py - middle).abs() <= thick / 2.0
        });
    }
}

/// One clip's picture.
pub struct Scene {
    background: Canvas,
    colour: Colour,
    features: Colour,
    centre: (f64, f64),
    radius: f64,
    brow: f64,
    mouth: f64,
    motion: Motion,
}

#[derive(Debug, Clone, Copy)]
enum Motion {
    Still,
    Nod(f64),
    Shake(f64),
    Pulse(f64),
    Circle(f64),
}

impl Scene {
    /// `class`: which, and out of how many; `None` looks alike for all of them. `look` is the person's own randomness,
    /// `rng` the clip's.
    pub fn new(
        width: usize,
        height: usize,
        class: Option<(usize, usize)>,
        look: &mut Rng,
        rng: &mut Rng,
    ) -> Scene {
        let (w, h) = (width as f64, height as f64);
        let mut background = Canvas::new(width, height);
        clutter(&mut background, look);
        let radius = h * (0.25 + 0.03 * (look.uniform() - 0.5));
        let (colour, place, brow, mouth, motion) = match class {
            Some((class, of)) => {
                let share = class as f64 / of as f64;
                let hue = share + 0.25 / of as f64 * (rng.uniform() - 0.5);
                let speed = 1.5 + (class / 4) as f64 % 3.0;
                let motion = match class % 4 {
                    0 => Motion::Nod(speed),
                    1 => Motion::Shake(speed),
                    2 => Motion::Pulse(speed),
                    _ => Motion::Circle(speed),
                };
                let brow = ((class * 2 % 5) as f64 - 2.0) / 4.0;
                let mouth = ((class * 3 % 7) as f64 - 3.0) / 3.0;
                (Colour::hsv(hue, 0.85, 0.95), share, brow, mouth, motion)
            }
            // Grey, anywhere, no expression: seen with every class.
            None => (
                Colour::hsv(0.0, 0.0, 0.6),
                rng.uniform(),
                0.0,
                0.0,
                Motion::Still,
            ),
        };
        let (offset_y, offset_x) = (TAU * place).sin_cos();
        let mut near = |value: f64, spread: f64| value + spread * (rng.uniform() - 0.5);
        Scene {
            background,
            colour,
            features: Colour(30, 128, 128),
            centre: (
                near(w / 2.0 + 0.09 * h * offset_x, 0.05 * h),
                near(h / 2.0 + 0.12 * h * offset_y, 0.05 * h),
            ),
            radius,
            brow,
            mouth,
            motion,
        }
    }

    /// Paints the moment `t` seconds.
    pub fn paint(&self, t: f64, canvas: &mut Canvas) {
        canvas.copy(&self.background);
        let (mut x, mut y) = self.centre;
        let mut r = self.radius;
        let swing = |hertz: f64| (TAU * hertz * t).sin();
        match self.motion {
            Motion::Still => {}
            Motion::Nod(hertz) => y += 0.2 * r * swing(hertz),
            Motion::Shake(hertz) => x += 0.2 * r * swing(hertz),
            Motion::Pulse(hertz) => r *= 1.0 + 0.12 * swing(hertz),
            Motion::Circle(hertz) => {
                x += 0.15 * r * swing(hertz);
                y += 0.15 * r * (TAU * hertz * t).cos();
            }
        }
        canvas.disc(x, y, r, self.colour);
        let thick = 0.1 * r;
        for side in [-1.0, 1.0] {
            canvas.disc(x + side * 0.38 * r, y - 0.12 * r, 0.12 * r, self.features);
            // Brows slope towards the nose, or away from it, alike on both sides.
            let slope = self.brow * r * side;
            let start = (x + (side * 0.38 - 0.22) * r, y - 0.42 * r + slope / 4.0);
            canvas.stroke(start, (0.44 * r, -slope / 2.0), 0.0, thick, self.features);
        }
        let (start, bend) = ((x - 0.42 * r, y + 0.45 * r), 0.28 * r * self.mouth);
        canvas.stroke(start, (0.84 * r, 0.0), bend, thick, self.features);
    }
}

/// Muted rectangles on a shaded ground.
fn clutter(canvas: &mut Canvas, rng: &mut Rng) {
    let (w, h) = (canvas.width as f64, canvas.height as f64);
    let ground = rng.uniform();
    for band in 0..12 {
        let colour = Colour::hsv(ground, 0.15, 0.25 + 0.03 * f64::from(band));
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
    fn colours_are_those_of_the_standard() {
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
    fn the_face_is_large_and_its_colour_is_the_class() {
        let mut canvas = Canvas::new(480, 360);
        for class in 0..6 {
            let scene = Scene::new(
                480,
                360,
                Some((class, 6)),
                &mut Rng::new(1, &[2]),
                &mut Rng::new(3, &[class as u32]),
            );
            scene.paint(0.3, &mut canvas);
            let (u, v) = (scene.colour.1, scene.colour.2);
            let painted = canvas
                .u
                .iter()
                .zip(&canvas.v)
                .filter(|&(&a, &b)| (a, b) == (u, v))
                .count();
            assert!(painted * 8 > canvas.u.len(), "{class}: {painted}");
        }
    }
}
