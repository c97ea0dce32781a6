//! Made-up voices: a harmonic tone with noise, whose pitch, tremolo and colour tell a class, or tell nothing.

use std::f64::consts::TAU;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use util::rng::Rng;

/// What is heard.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// Class and number of classes; `None` sounds alike for all of them.
    pub class: Option<(usize, usize)>,
    /// The speaker's own pitch as a factor, about 1.
    pub pitch: f64,
    /// Seconds.
    pub seconds: f64,
}

/// Lowest and highest pitch of a class, in Hz.
const PITCH: (f64, f64) = (100.0, 330.0);

/// Centre of the lowest and of the highest class's spectral band, in Hz.
const BAND: (f64, f64) = (350.0, 5200.0);

/// Tremolo of the first and of the last class, in Hz.
const TREMOLO: (f64, f64) = (2.0, 11.0);

/// Width of a band, in octaves: well apart for six classes, side by side for thirty.
const BAND_OCTAVES: f64 = 0.3;

/// Partials above are left out.
const HIGHEST: f64 = 7000.0;

impl Voice {
    /// Samples at `rate` Hz, peaks at about half of full scale.
    pub fn sing(&self, rate: u32, rng: &mut Rng) -> Vec<f32> {
        let n = (self.seconds * f64::from(rate)) as usize;
        let mut between = |range: (f64, f64)| range.0 * (range.1 / range.0).powf(rng.uniform());
        let (pitch, band, tremolo) = match self.class {
            Some((class, of)) => {
                let place = class as f64 / (of - 1).max(1) as f64;
                let at = |range: (f64, f64)| range.0 * (range.1 / range.0).powf(place);
                // Neighbouring classes differ in tremolo by steps of two fifths of the range, not of one class.
                let step = (class * 2 % 5) as f64 / 4.0;
                (
                    at(PITCH),
                    Some(at(BAND)),
                    TREMOLO.0 + (TREMOLO.1 - TREMOLO.0) * step,
                )
            }
            None => (between(PITCH), None, 0.0),
        };
        let pitch = pitch * self.pitch * (1.0 + 0.03 * rng.normal());
        let mut samples = vec![0.0; n];
        let mut partial = 1.0;
        while pitch * partial < HIGHEST.min(0.45 * f64::from(rate)) {
            let frequency = pitch * partial;
            let colour = match band {
                Some(centre) => {
                    let octaves = (frequency / centre).log2() / BAND_OCTAVES;
                    0.1 + 1.6 * (-0.5 * octaves * octaves).exp()
                }
                None => 0.35,
            };
            add_tone(
                &mut samples,
                TAU * frequency / f64::from(rate),
                TAU * rng.uniform(),
                colour / partial.sqrt(),
            );
            partial += 1.0;
        }
        let level = (samples.iter().map(|s| s * s).sum::<f64>() / n.max(1) as f64)
            .sqrt()
            .max(1e-9);
        let (phase, noise) = (TAU * rng.uniform(), 0.06 + 0.06 * rng.uniform());
        let gain = 0.12 * 2f64.powf(rng.uniform() - 0.5) / level;
        let shake = TAU * tremolo / f64::from(rate);
        let fade = f64::from(rate) * 0.08;
        for (i, sample) in samples.iter_mut().enumerate() {
            let beat = if tremolo > 0.0 {
                0.55 + 0.45 * (shake * i as f64 + phase).sin()
            } else {
                0.7
            };
            let edge = (i.min(n - i) as f64 / fade).min(1.0);
            *sample = *sample * gain * beat * edge + 0.12 * noise * rng.normal();
        }
        samples
            .into_iter()
            .map(|sample| sample.clamp(-1.0, 1.0) as f32)
            .collect()
    }
}

/// Input samples per block of the resampler: with blocks this long everything up to 7.8 kHz passes
/// unchanged from 44.1 kHz to 16 kHz.
const RESAMPLER_BLOCK: usize = 4096;

/// Resamples, exactly aligned with the start of the input.
pub fn resample(samples: &[f32], from: u32, to: u32) -> anyhow::Result<Vec<f32>> {
    let mut resampler = Fft::<f32>::new_custom(
        from as usize,
        to as usize,
        RESAMPLER_BLOCK,
        1,
        1,
        WindowFunction::BlackmanHarris2,
        FixedSync::Input,
    )?;
    let input = InterleavedSlice::new(samples, 1, samples.len())?;
    let output = resampler.process_all(&input, samples.len(), None)?;
    Ok(output.take_data())
}

/// Adds a sine by turning a pointer, which is many times cheaper than a sine per sample.
fn add_tone(samples: &mut [f64], step: f64, phase: f64, level: f64) {
    let (turn_sin, turn_cos) = step.sin_cos();
    let (mut sin, mut cos) = phase.sin_cos();
    for sample in samples {
        *sample += level * sin;
        (sin, cos) = (
            sin * turn_cos + cos * turn_sin,
            cos * turn_cos - sin * turn_sin,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voices_are_reproducible_and_in_range() {
        let voice = Voice {
            class: Some((3, 6)),
            pitch: 1.0,
            seconds: 1.5,
        };
        let once = voice.sing(16_000, &mut Rng::new(5, &[1]));
        assert_eq!(once.len(), 24_000);
        assert_eq!(once, voice.sing(16_000, &mut Rng::new(5, &[1])));
        let peak = once.iter().fold(0f32, |peak, s| peak.max(s.abs()));
        assert!((0.2..1.0).contains(&peak), "{peak}");
    }
}
