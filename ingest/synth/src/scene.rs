//! Made-up pictures: one large face in front of clutter, whose colour, place, brows, mouth and motion tell a class, or
//! tell nothing.
//!
//! Everything that matters is large enough to survive JPEG, a resize to 64 pixels and
//! a centre crop; what tells a class does not depend on left and right, which training may mirror.

use std::f64::consts::TAU;

use util::rng::Rng;

use crate::canvas::{Canvas, Colour, clutter};

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

#[cfg(test)]
mod tests {
    use super::*;

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
            let [_, (us, _), (vs, _)] = canvas.planes();
            let painted = us
                .iter()
                .zip(vs)
                .filter(|&(&a, &b)| (a, b) == (u, v))
                .count();
            assert!(painted * 8 > us.len(), "{class}: {painted}");
        }
    }
}
