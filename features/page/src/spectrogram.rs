//! Pictures of log-mel spectrograms.

use crate::data_url::data_url;
use crate::figure::Figure;
use crate::magma::MAGMA;
use maud::{Markup, html};
use media::image::{PixelFormat, encode_jpeg};
use media::mel::{HIGH_HZ, HOP, LOW_HZ, Mel, SAMPLE_RATE, WINDOW, hz_to_mel};
use serde_json::json;

/// The most columns of a picture. More frames than these are averaged by twos, threes and so on: a
/// clip of 10 s becomes 499 columns, which is what a figure of usual width can show.
const MAX_COLUMNS: usize = 512;

/// The JPEG quality of a picture. A clip of 10 s takes 10 to 25 kB.
const QUALITY: u8 = 80;

/// The part of the values that are darker than the least colour. Without it, digital silence, which
/// lies far below all other values, would leave few colours for the rest.
const CLIPPED: f64 = 0.01;

/// The frequencies of the ticks, in Hz.
const TICKS: [u32; 6] = [100, 500, 1000, 2000, 4000, 8000];

/// A log-mel spectrogram as a picture: time to the right, frequency upwards on the mel scale, and
/// the value as a colour.
pub struct Spectrogram {
    /// The picture, a JPEG file.
    pub jpeg: Vec<u8>,
    /// The start and end of the picture in seconds: half a hop before the middle of the first
    /// frame, and half a hop after that of the last.
    pub seconds: [f64; 2],
    /// The lower and upper edge of the picture in mel: half a band below the centre of the first
    /// band, and half a band above that of the last.
    pub mels: [f64; 2],
    /// The values of the darkest and the lightest colour, natural logarithms of energies. Values
    /// below have the darkest colour; none is above.
    pub range: [f32; 2],
}

impl Spectrogram {
    /// Draws a spectrogram. Returns `None` if it has no frame or a value that is not finite, which
    /// no shard holds.
    pub fn new(mel: &Mel) -> Option<Spectrogram> {
        let bins = mel.bins.max(1);
        let frames = mel.values.len() / bins;
        let [low, high] = range(&mel.values)?;
        let per_column = frames.div_ceil(MAX_COLUMNS).max(1);
        let columns = frames.div_ceil(per_column);
        let mut pixels = vec![0; 3 * columns * bins];
        for (column, values) in mel.values.chunks(per_column * bins).enumerate() {
            let averaged = values.len() / bins;
            for bin in 0..bins {
                let sum: f32 = values.iter().skip(bin).step_by(bins).sum();
                let colour = colour((sum / averaged as f32 - low) / (high - low));
                // The first row of a picture is its upper one.
                let at = 3 * ((bins - 1 - bin) * columns + column);
                pixels[at..at + 3].copy_from_slice(&colour);
            }
        }
        let jpeg = encode_jpeg(&pixels, columns, bins, PixelFormat::Rgb, QUALITY).ok()?;
        let hop = HOP as f64 / SAMPLE_RATE as f64;
        let start = (WINDOW as f64 / SAMPLE_RATE as f64 - hop) / 2.0;
        let [bottom, top] = ends();
        // Centres and outer edges of the filters lie one step apart.
        let step = (top - bottom) / (bins + 1) as f64;
        Some(Spectrogram {
            jpeg,
            seconds: [start, start + hop * frames as f64],
            mels: [bottom + step / 2.0, top - step / 2.0],
            range: [low, high],
        })
    }

    /// Returns the figure with its axes and the range of its values. `label` says what it is, for
    /// screen readers.
    pub fn markup(&self, label: &str) -> Markup {
        let round = |values: [f64; 2]| values.map(|value| (value * 1e4).round() / 1e4);
        let figure = Figure {
            kind: "spectrogram",
            label,
            data: &json!({
                "picture": data_url("image/jpeg", &self.jpeg),
                "seconds": round(self.seconds),
                "mels": round(self.mels),
                "axis": round(ends()),
                "ticks": TICKS.map(|hz| (round([hz_to_mel(f64::from(hz)), 0.0])[0], hz)),
            }),
        };
        let [low, high] = self.range;
        html! {
            (figure.markup())
            p.scale {
                (format!("{low:.1}")) " "
                span.ramp style=(ramp()) {}
                " " (format!("{high:.1}")) " log energy"
            }
        }
    }
}

/// Returns the ends of the front end's frequencies in mel.
fn ends() -> [f64; 2] {
    [LOW_HZ, HIGH_HZ].map(|hz| hz_to_mel(f64::from(hz)))
}

/// Returns the values of the darkest and the lightest colour.
fn range(values: &[f32]) -> Option<[f32; 2]> {
    if !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    let mut values = values.to_vec();
    let high = values.iter().copied().reduce(f32::max)?;
    let clipped = (values.len() as f64 * CLIPPED) as usize;
    let (_, low, _) = values.select_nth_unstable_by(clipped, f32::total_cmp);
    // Sound without any change still needs a range.
    Some([*low, high.max(*low + 1e-3)])
}

/// Returns the colour of a value from 0 to 1.
fn colour(value: f32) -> [u8; 3] {
    let [_, red, green, blue] =
        MAGMA[(value.clamp(0.0, 1.0) * 255.0).round() as usize].to_be_bytes();
    [red, green, blue]
}

/// Returns the style of an element that shows all colours.
fn ramp() -> String {
    let stops: Vec<String> = MAGMA
        .iter()
        .step_by(51)
        .map(|colour| format!("#{colour:06x}"))
        .collect();
    format!("background:linear-gradient(90deg,{})", stops.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::image::decode;
    use media::mel::{MEL_BINS, MelFrontEnd};
    use std::f32::consts::PI;

    /// A tone, as the front end that fills shards computes it.
    fn tone(hz: f32, seconds: usize) -> Mel {
        let samples: Vec<f32> = (0..seconds * SAMPLE_RATE)
            .map(|i| (2.0 * PI * hz * i as f32 / SAMPLE_RATE as f32).sin())
            .collect();
        MelFrontEnd::new().compute(&samples)
    }

    #[test]
    // Frequencies of the transform, whose energy is in one band.
    fn tones_are_brightest_at_their_frequency_on_the_axis() {
        for hz in [500.0, 1000.0, 4000.0] {
            let picture = Spectrogram::new(&tone(hz, 1)).unwrap();
            let image = decode(&picture.jpeg).unwrap();
            assert_eq!((image.width, image.height), (98, MEL_BINS));
            let brightness = |row: usize| -> u32 {
                let row = &image.pixels[3 * image.width * row..][..3 * image.width];
                row.iter().map(|&value| u32::from(value)).sum()
            };
            let row = (0..MEL_BINS).max_by_key(|&row| brightness(row)).unwrap();
            let [bottom, top] = picture.mels;
            let mel = top - (top - bottom) * (row as f64 + 0.5) / MEL_BINS as f64;
            let band = (top - bottom) / MEL_BINS as f64;
            assert!(
                (mel - hz_to_mel(f64::from(hz))).abs() <= band,
                "{hz}: {mel}"
            );
        }
    }

    #[test]
    fn a_clip_of_ten_seconds_is_small() {
        // Noise compresses worst.
        let noise = (0..10 * SAMPLE_RATE).map(|i| ((i * 7919 % 1013) as f32 / 506.0) - 1.0);
        let mel = MelFrontEnd::new().compute(&noise.collect::<Vec<f32>>());
        let picture = Spectrogram::new(&mel).unwrap();
        assert!(picture.jpeg.len() < 45_000, "{}", picture.jpeg.len());
        assert_eq!(decode(&picture.jpeg).unwrap().width, 499);
        let [start, end] = picture.seconds;
        assert!((start - 0.0075).abs() < 1e-9 && (end - 9.9875).abs() < 1e-9);
    }

    #[test]
    fn odd_spectrograms_are_drawn_or_refused() {
        let mel = |values: Vec<f32>| Mel {
            bins: MEL_BINS,
            values,
        };
        assert!(Spectrogram::new(&mel(Vec::new())).is_none());
        assert!(Spectrogram::new(&mel(vec![f32::NAN; MEL_BINS])).is_none());
        let flat = Spectrogram::new(&mel(vec![-15.9; MEL_BINS])).unwrap();
        assert!(flat.range[0] < flat.range[1]);
    }
}
