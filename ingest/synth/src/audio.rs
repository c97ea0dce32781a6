//! Synthetic audio: a harmonic tone with noise. Its pitch, its tremolo and the band that it is
//! strongest in show a class, or are the same for all classes.

use std::f64::consts::TAU;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use util::rng::Rng;

/// The settings of a tone.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// The class and the number of classes; `None` gives a tone that shows no class.
    pub class: Option<(usize, usize)>,
    /// The speaker's factor on the pitch, about 1.
    pub pitch: f64,
    /// The duration in seconds.
    pub seconds: f64,
}

/// The pitch of the first and of the last class, in Hz.
const PITCH: (f64, f64) = (100.0, 330.0);

/// The centre of the first and of the last class's spectral band, in Hz.
const BAND: (f64, f64) = (350.0, 5200.0);

/// The lowest and the highest rate of the tremolo, in Hz.
const TREMOLO: (f64, f64) = (2.0, 11.0);

/// The width of a band in octaves. Bands of six classes lie far from each other, those of thirty
/// side by side.
const BAND_OCTAVES: f64 = 0.3;

/// The highest frequency of a partial, in Hz.
const MAX_PARTIAL: f64 = 7000.0;

impl Voice {
    /// Returns samples at `rate` Hz, with peaks at about half of full scale.
    pub fn synthesize(&self, rate: u32, rng: &mut Rng) -> Vec<f32> {
        let n = (self.seconds * f64::from(rate)) as usize;
        let mut random_in = |range: (f64, f64)| range.0 * (range.1 / range.0).powf(rng.uniform());
        let (pitch, band, tremolo) = match self.class {
            Some((class, classes)) => {
                let position = class as f64 / (classes - 1).max(1) as f64;
                let at = |range: (f64, f64)| range.0 * (range.1 / range.0).powf(position);
                // Five tremolo rates in turn, so that neighbours differ by half of the range or
                // more.
                let step = (class * 2 % 5) as f64 / 4.0;
                (
                    at(PITCH),
                    Some(at(BAND)),
                    TREMOLO.0 + (TREMOLO.1 - TREMOLO.0) * step,
                )
            }
            None => (random_in(PITCH), None, 0.0),
        };
        let pitch = pitch * self.pitch * (1.0 + 0.03 * rng.normal());
        let mut samples = vec![0.0; n];
        let mut partial = 1.0;
        while pitch * partial < MAX_PARTIAL.min(0.45 * f64::from(rate)) {
            let frequency = pitch * partial;
            let level = match band {
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
                level / partial.sqrt(),
            );
            partial += 1.0;
        }
        let rms = (samples.iter().map(|s| s * s).sum::<f64>() / n.max(1) as f64)
            .sqrt()
            .max(1e-9);
        let (phase, noise) = (TAU * rng.uniform(), 0.06 + 0.06 * rng.uniform());
        let gain = 0.12 * 2f64.powf(rng.uniform() - 0.5) / rms;
        let tremolo_step = TAU * tremolo / f64::from(rate);
        let fade_length = f64::from(rate) * 0.08;
        for (i, sample) in samples.iter_mut().enumerate() {
            let envelope = if tremolo > 0.0 {
                0.55 + 0.45 * (tremolo_step * i as f64 + phase).sin()
            } else {
                0.7
            };
            let fade = (i.min(n - i) as f64 / fade_length).min(1.0);
            *sample = *sample * gain * envelope * fade + 0.12 * noise * rng.normal();
        }
        samples
            .into_iter()
            .map(|sample| sample.clamp(-1.0, 1.0) as f32)
            .collect()
    }
}

/// The number of input samples per block of the resampler. Blocks this long give a filter that
/// passes everything up to 7.8 kHz unchanged from 44.1 kHz to 16 kHz.
const RESAMPLER_BLOCK: usize = 4096;

/// Resamples mono samples from one rate in Hz to another. The first sample stays at time zero.
///
/// # Errors
/// The resampler does not support these rates.
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

/// Adds a sine of `step` radians per sample. It is computed by rotating a phasor, which is many
/// times cheaper than calling `sin` for each sample.
fn add_tone(samples: &mut [f64], step: f64, phase: f64, level: f64) {
    let (step_sin, step_cos) = step.sin_cos();
    let (mut sin, mut cos) = phase.sin_cos();
    for sample in samples {
        *sample += level * sin;
        (sin, cos) = (
            sin * step_cos + cos * step_sin,
            cos * step_cos - sin * step_sin,
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
        let samples = voice.synthesize(16_000, &mut Rng::new(5, &[1]));
        assert_eq!(samples.len(), 24_000);
        assert_eq!(samples, voice.synthesize(16_000, &mut Rng::new(5, &[1])));
        let peak = samples.iter().fold(0f32, |peak, s| peak.max(s.abs()));
        assert!((0.2..1.0).contains(&peak), "{peak}");
    }
}
