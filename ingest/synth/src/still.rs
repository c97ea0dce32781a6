//! Made-up still pictures: a dish on a table for one class out of many, a poster with figures for any number of them.
//!
//! What tells a class is colour and shape, repeated over the picture: it survives crops, mirroring and a resize to 64
//! pixels.

use std::f64::consts::TAU;

use util::rng::Rng;

use crate::canvas::{Canvas, Colour, clutter};

/// Colours of tables and of food: two of them together tell one dish of [`HUES`]².
const HUES: usize = 11;

/// A plate of food seen from above. `class`: the colours of table and food tell it; `None` is gray, as goes with any.
pub fn dish(canvas: &mut Canvas, class: Option<usize>, rng: &mut Rng) {
    let (w, h) = (canvas.width as f64, canvas.height as f64);
    let hue =
        |digit: usize, rng: &mut Rng| (digit as f64 + 0.3 * (rng.uniform() - 0.5)) / HUES as f64;
    let (table, food) = match class {
        Some(class) => (
            Colour::hsv(hue(class / HUES % HUES, rng), 0.75, 0.55),
            Colour::hsv(hue(class % HUES, rng), 0.9, 0.95),
        ),
        None => (Colour::hsv(0.0, 0.0, 0.35), Colour::hsv(0.0, 0.0, 0.65)),
    };
    canvas.fill([0.0, 0.0, w, h], table, |_, _| true);
    let mut near = |value: f64, spread: f64| value + spread * (rng.uniform() - 0.5);
    let radius = near(0.42, 0.06) * w.min(h);
    let (x, y) = (near(0.5 * w, 0.1 * w), near(0.5 * h, 0.1 * h));
    canvas.disc(x, y, radius, Colour::hsv(0.1, 0.05, 0.9));
    for _ in 0..9 + rng.below(6) {
        let (angle, far) = (TAU * rng.uniform(), 0.62 * radius * rng.uniform().sqrt());
        let size = radius * (0.2 + 0.12 * rng.uniform());
        canvas.disc(x + far * angle.cos(), y + far * angle.sin(), size, food);
    }
}

/// Figures by class: this many colours, each as disc, square and ring.
const COLOURS: usize = 8;

/// Cells of a poster, across and down.
const CELLS: (usize, usize) = (3, 4);

/// A poster with figures of every one of `classes` (below 24) in cells at random, gray ones in the others.
pub fn poster(canvas: &mut Canvas, classes: &[usize], rng: &mut Rng) {
    clutter(canvas, rng);
    let (w, h) = (canvas.width as f64, canvas.height as f64);
    let mut cells: Vec<usize> = (0..CELLS.0 * CELLS.1).collect();
    crate::deal::shuffle(&mut cells, rng);
    // Each class gets its share of the cells, a third of all at most.
    let each = (cells.len() / classes.len().max(1)).min(cells.len() / 3);
    for (place, cell) in cells.into_iter().enumerate() {
        let class = classes.get(place / each.max(1)).copied();
        let (column, row) = ((cell % CELLS.0) as f64, (cell / CELLS.0) as f64);
        let mut jitter = || 0.5 + 0.2 * (rng.uniform() - 0.5);
        let x = (column + jitter()) * w / CELLS.0 as f64;
        let y = (row + jitter()) * h / CELLS.1 as f64;
        let r = 0.38 * (w / CELLS.0 as f64).min(h / CELLS.1 as f64);
        let bounds = [x - r, y - r, x + r, y + r];
        let (shape, colour) = match class {
            Some(class) => {
                let hue = (class % COLOURS) as f64 / COLOURS as f64;
                (class / COLOURS, Colour::hsv(hue, 0.95, 0.95))
            }
            None => (rng.below(3) as usize, Colour::hsv(0.0, 0.0, 0.5)),
        };
        let round = |px: f64, py: f64| ((px - x).powi(2) + (py - y).powi(2)).sqrt() / r;
        match shape {
            0 => canvas.fill(bounds, colour, |px, py| round(px, py) <= 1.0),
            1 => canvas.fill(bounds, colour, |_, _| true),
            _ => canvas.fill(bounds, colour, |px, py| {
                (0.55..=1.0).contains(&round(px, py))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Means of U and V: what colour there is.
    fn chroma(canvas: &Canvas) -> (f64, f64) {
        let [_, (u, _), (v, _)] = canvas.planes();
        let mean = |plane: &[u8]| {
            plane.iter().map(|&value| f64::from(value)).sum::<f64>() / plane.len() as f64
        };
        (mean(u), mean(v))
    }

    #[test]
    fn two_colours_tell_every_dish_and_none_is_gray() {
        let mut canvas = Canvas::new(64, 48);
        let mut seen = Vec::new();
        for class in 0..101 {
            dish(&mut canvas, Some(class), &mut Rng::new(7, &[]));
            seen.push(chroma(&canvas));
        }
        for (a, one) in seen.iter().enumerate() {
            for other in &seen[..a] {
                let apart = (one.0 - other.0).abs() + (one.1 - other.1).abs();
                assert!(apart > 0.05, "{a}: {one:?} {other:?}");
            }
        }
        dish(&mut canvas, None, &mut Rng::new(7, &[]));
        let (u, v) = chroma(&canvas);
        assert!((u - 128.0).abs() < 2.0 && (v - 128.0).abs() < 2.0);
    }

    #[test]
    fn a_poster_shows_the_colour_of_each_class() {
        let mut canvas = Canvas::new(90, 120);
        let count = |canvas: &Canvas, colour: Colour| {
            let [_, (u, _), (v, _)] = canvas.planes();
            let pairs = u.iter().zip(v);
            pairs
                .filter(|&(&u, &v)| (u, v) == (colour.1, colour.2))
                .count()
        };
        poster(&mut canvas, &[3, 8, 22], &mut Rng::new(2, &[]));
        for class in [3, 8, 22] {
            let colour = Colour::hsv((class % COLOURS) as f64 / COLOURS as f64, 0.95, 0.95);
            assert!(count(&canvas, colour) > 100, "{class}");
        }
        let absent = Colour::hsv(5.0 / COLOURS as f64, 0.95, 0.95);
        assert_eq!(count(&canvas, absent), 0);
    }
}
