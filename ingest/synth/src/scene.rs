//! Synthetic video: one large face on a cluttered background. Its colour, its position, its brows,
//! its mouth and its motion show a class, or are the same for all classes.
//!
//! All that shows a class is large enough to survive JPEG, a resize to 64 pixels and a centre crop,
//! and does not depend on left and right, since training may flip the image.

use std::f64::consts::TAU;

use util::rng::Rng;

use crate::canvas::{Canvas, Colour, draw_clutter};

/// All that the frames of a clip are drawn from.
pub struct Scene {
    background: Canvas,
    skin: Colour,
    features: Colour,
    /// The centre of the face at rest, in pixels.
    centre: (f64, f64),
    /// The radius of the face, in pixels.
    radius: f64,
    /// The slope of the brows, from -1/2 to 1/2.
    brow: f64,
    /// The curvature of the mouth, from -1 to 1.
    mouth: f64,
    motion: Motion,
}

/// How the face moves, with the frequency in Hz.
#[derive(Debug, Clone, Copy)]
enum Motion {
    Still,
    Nod(f64),
    Shake(f64),
    Pulse(f64),
    Circle(f64),
}

impl Scene {
    /// Creates the scene of a clip of that many pixels.
    ///
    /// `class` is the class and the number of classes; without it the scene shows no class. The
    /// background and the size of the face are drawn from `person_rng`, the rest from `rng`.
    pub fn new(
        width: usize,
        height: usize,
        class: Option<(usize, usize)>,
        person_rng: &mut Rng,
        rng: &mut Rng,
    ) -> Scene {
        let (w, h) = (width as f64, height as f64);
        let mut background = Canvas::new(width, height);
        draw_clutter(&mut background, person_rng);
        let radius = h * (0.25 + 0.03 * (person_rng.uniform() - 0.5));
        let (skin, position, brow, mouth, motion) = match class {
            Some((class, classes)) => {
                let position = class as f64 / classes as f64;
                let hue = position + 0.25 / classes as f64 * (rng.uniform() - 0.5);
                let speed = 1.5 + (class / 4) as f64 % 3.0;
                let motion = match class % 4 {
                    0 => Motion::Nod(speed),
                    1 => Motion::Shake(speed),
                    2 => Motion::Pulse(speed),
                    _ => Motion::Circle(speed),
                };
                let brow = ((class * 2 % 5) as f64 - 2.0) / 4.0;
                let mouth = ((class * 3 % 7) as f64 - 3.0) / 3.0;
                (Colour::hsv(hue, 0.85, 0.95), position, brow, mouth, motion)
            }
            // Gray, at a random position, without expression or motion.
            None => (
                Colour::hsv(0.0, 0.0, 0.6),
                rng.uniform(),
                0.0,
                0.0,
                Motion::Still,
            ),
        };
        let (offset_y, offset_x) = (TAU * position).sin_cos();
        let mut jitter = |value: f64, spread: f64| value + spread * (rng.uniform() - 0.5);
        Scene {
            background,
            skin,
            features: Colour(30, 128, 128),
            centre: (
                jitter(w / 2.0 + 0.09 * h * offset_x, 0.05 * h),
                jitter(h / 2.0 + 0.12 * h * offset_y, 0.05 * h),
            ),
            radius,
            brow,
            mouth,
            motion,
        }
    }

    /// Draws the frame at `t` seconds.
    pub fn draw(&self, t: f64, canvas: &mut Canvas) {
        canvas.copy_from(&self.background);
        let (mut x, mut y) = self.centre;
        let mut r = self.radius;
        let sine = |hertz: f64| (TAU * hertz * t).sin();
        match self.motion {
            Motion::Still => {}
            Motion::Nod(hertz) => y += 0.2 * r * sine(hertz),
            Motion::Shake(hertz) => x += 0.2 * r * sine(hertz),
            Motion::Pulse(hertz) => r *= 1.0 + 0.12 * sine(hertz),
            Motion::Circle(hertz) => {
                x += 0.15 * r * sine(hertz);
                y += 0.15 * r * (TAU * hertz * t).cos();
            }
        }
        canvas.disc(x, y, r, self.skin);
        let thickness = 0.1 * r;
        for side in [-1.0, 1.0] {
            canvas.disc(x + side * 0.38 * r, y - 0.12 * r, 0.12 * r, self.features);
            // The slopes of the two brows mirror each other.
            let slope = self.brow * r * side;
            let start = (x + (side * 0.38 - 0.22) * r, y - 0.42 * r + slope / 4.0);
            canvas.stroke(
                start,
                (0.44 * r, -slope / 2.0),
                0.0,
                thickness,
                self.features,
            );
        }
        let (start, bend) = ((x - 0.42 * r, y + 0.45 * r), 0.28 * r * self.mouth);
        canvas.stroke(start, (0.84 * r, 0.0), bend, thickness, self.features);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colour_of_the_class_covers_an_eighth_of_the_frame() {
        let mut canvas = Canvas::new(480, 360);
        for class in 0..6 {
            let scene = Scene::new(
                480,
                360,
                Some((class, 6)),
                &mut Rng::new(1, &[2]),
                &mut Rng::new(3, &[class as u32]),
            );
            scene.draw(0.3, &mut canvas);
            let (u, v) = (scene.skin.1, scene.skin.2);
            let [_, (us, _), (vs, _)] = canvas.planes();
            let covered = us
                .iter()
                .zip(vs)
                .filter(|&(&a, &b)| (a, b) == (u, v))
                .count();
            assert!(covered * 8 > us.len(), "{class}: {covered}");
        }
    }
}
