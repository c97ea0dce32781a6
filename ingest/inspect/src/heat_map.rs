//! A log-mel spectrogram as an image.

use features::image::Rgb;

/// Width and height of a mel value in pixels.
const SCALE: usize = 3;

/// Draws a spectrogram of `values`, which are rows of `bins` values. Time runs to the right and
/// frequency upwards. Colours run from dark blue for the lowest value to yellow for the highest.
pub fn heat_map(values: &[f32], bins: usize) -> Rgb {
    let frames = values.len() / bins.max(1);
    let (min, max) = values
        .iter()
        .fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let range = (max - min).max(1e-6);
    let (width, height) = (frames * SCALE, bins * SCALE);
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let value = values[x / SCALE * bins + (bins - 1 - y / SCALE)];
            pixels.extend(colour((value - min) / range));
        }
    }
    Rgb {
        width,
        height,
        pixels,
    }
}

/// Returns the colour of a value from 0 to 1. The scale grows steadily lighter.
fn colour(value: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] = [
        [13.0, 8.0, 60.0],
        [84.0, 20.0, 140.0],
        [180.0, 50.0, 120.0],
        [245.0, 130.0, 60.0],
        [252.0, 250.0, 160.0],
    ];
    let position = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let stop = (position as usize).min(STOPS.len() - 2);
    let part = position - stop as f32;
    [0, 1, 2].map(|c| (STOPS[stop][c] + part * (STOPS[stop + 1][c] - STOPS[stop][c])) as u8)
}
