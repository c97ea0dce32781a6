//! Drawings for single images: a dish on a table, which shows one class of many, and a poster,
//! whose shapes show any number of classes.
//!
//! Colours and shapes show the class. They repeat all over the image, so that they survive crops,
//! flips and a resize to 64 pixels.

use std::f64::consts::TAU;

use util::rng::Rng;

use crate::canvas::{Canvas, Colour, draw_clutter};

/// The number of hues. The hue of the table and that of the food together encode up to 121 classes.
const HUES: usize = 11;

/// Draws a plate of food on a table, from above. The colours of table and food show the class;
/// without a class both are gray.
pub fn draw_dish(canvas: &mut Canvas, class: Option<usize>, rng: &mut Rng) {
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

/// The number of colours of shapes. With a disc, a square and a ring they encode 24 classes.
const COLOURS: usize = 8;

/// The columns and rows of shapes on a poster.
const CELLS: (usize, usize) = (3, 4);

/// Draws a poster: shapes of each of `classes` (all below 24) in random cells, gray shapes in the
/// other cells.
pub fn draw_poster(canvas: &mut Canvas, classes: &[usize], rng: &mut Rng) {
    draw_clutter(canvas, rng);
    let (w, h) = (canvas.width as f64, canvas.height as f64);
    let mut cells: Vec<usize> = (0..CELLS.0 * CELLS.1).collect();
    crate::plan::shuffle(&mut cells, rng);
    // Classes share the cells evenly, but none gets more than a third of them.
    let cells_per_class = (cells.len() / classes.len().max(1)).min(cells.len() / 3);
    for (place, cell) in cells.into_iter().enumerate() {
        let class = classes.get(place / cells_per_class.max(1)).copied();
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
        let distance = |px: f64, py: f64| ((px - x).powi(2) + (py - y).powi(2)).sqrt() / r;
        match shape {
            0 => canvas.fill(bounds, colour, |px, py| distance(px, py) <= 1.0),
            1 => canvas.fill(bounds, colour, |_, _| true),
            _ => canvas.fill(bounds, colour, |px, py| {
                (0.55..=1.0).contains(&distance(px, py))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the means of U and V.
    fn mean_chroma(canvas: &Canvas) -> (f64, f64) {
        let [_, (u, _), (v, _)] = canvas.planes();
        let mean = |plane: &[u8]| {
            plane.iter().map(|&value| f64::from(value)).sum::<f64>() / plane.len() as f64
        };
        (mean(u), mean(v))
    }

    #[test]
    fn dishes_of_all_classes_differ_in_colour() {
        let mut canvas = Canvas::new(64, 48);
        let mut colours = Vec::new();
        for class in 0..101 {
            draw_dish(&mut canvas, Some(class), &mut Rng::new(7, &[]));
            colours.push(mean_chroma(&canvas));
        }
        for (a, one) in colours.iter().enumerate() {
            for other in &colours[..a] {
                let difference = (one.0 - other.0).abs() + (one.1 - other.1).abs();
                assert!(difference > 0.05, "{a}: {one:?} {other:?}");
            }
        }
        draw_dish(&mut canvas, None, &mut Rng::new(7, &[]));
        let (u, v) = mean_chroma(&canvas);
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
        draw_poster(&mut canvas, &[3, 8, 22], &mut Rng::new(2, &[]));
        for class in [3, 8, 22] {
            let colour = Colour::hsv((class % COLOURS) as f64 / COLOURS as f64, 0.95, 0.95);
            assert!(count(&canvas, colour) > 100, "{class}");
        }
        let absent = Colour::hsv(5.0 / COLOURS as f64, 0.95, 0.95);
        assert_eq!(count(&canvas, absent), 0);
    }
}
