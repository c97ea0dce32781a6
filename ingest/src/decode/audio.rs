//! An audio stream's packets to mono float samples at 16 kHz.
//!
//! Channels are averaged, then resampled; what the mel front end cannot use (behind 1024 frames) is not decoded. No gain,
//! no mean subtraction: that is the front end's business.

use std::ops::ControlFlow;

use ffmpeg_next::format::Sample;
use ffmpeg_next::frame;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::demux::Track;
use super::{Health, Span, drive, libav, nothing_in};
use crate::failure::{self, Failure};

/// Rate of everything that leaves this module, in Hz.
pub const SAMPLE_RATE: usize = 16_000;

/// Samples that 1024 mel frames need: 1023 hops of 10 ms and one window of 25 ms. 10.255 s.
pub const MAX_SAMPLES: usize = 1023 * 160 + MIN_SAMPLES;

/// Samples of one mel frame.
pub const MIN_SAMPLES: usize = 400;

/// Input samples per block of the resampler, at least. Long blocks make a steep filter: with this length everything up to
/// 7.8 kHz passes unchanged from 44.1 and 48 kHz. rubato's own choice for blocks of 1024 takes 14 dB off 7 kHz.
const BLOCK: usize = 4096;

/// Input samples decoded beyond the last one needed, so that cutting there changes no sample that is kept: more than the
/// resampler's filter is long.
const SURROUNDINGS: usize = 4 * BLOCK;

/// Rates taken for real, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// What came out of an audio stream.
pub struct Audio {
    /// Mono, 16 kHz, at most [`MAX_SAMPLES`] of them.
    pub samples: Vec<f32>,
    /// Duration of the stream in seconds. What was decoded, and where decoding stopped early because the mel ends there,
    /// the rest as the packets tell it.
    pub seconds: f64,
    /// Damage met on the way.
    pub health: Health,
}

/// Decodes a stream.
///
/// # Errors
/// No decoder, nothing decodable, only zeros, or shorter than one mel frame.
pub fn decode(track: &Track) -> Result<Audio, Failure> {
    let mut decoder = libav::audio_decoder(&track.parameters, track.time_base)
        .map_err(|error| super::open_failure(error, &track.parameters))?;
    let mut mono = Mono::default();
    let errors = drive(
        &mut decoder,
        &track.packets,
        frame::Audio::empty(),
        |frame| mono.push(frame),
    );
    let health = Health {
        good: mono.frames,
        bad: errors + track.read_errors,
    };
    if let Some(problem) = mono.problem {
        return Err(Failure::with(failure::UNDECODABLE, problem));
    }
    if mono.stretches.is_empty() {
        return Err(Failure::with(
            failure::UNDECODABLE,
            health.describe("audio frame"),
        ));
    }
    health.check("audio frame")?;
    let values = || mono.stretches.iter().flat_map(|(_, samples)| samples);
    if values().any(|sample| !sample.is_finite()) {
        return Err(Failure::with(
            failure::UNDECODABLE,
            "samples that are no numbers",
        ));
    }
    if values().all(|&sample| sample == 0.0) {
        return Err(Failure::with(failure::SILENT, "all samples are zero"));
    }
    let decoded = mono.seconds();
    let seconds = match (mono.start, track.end) {
        (Some(start), Some(end)) if mono.full || !track.whole => {
            track.seconds(end.saturating_sub(start)).max(decoded)
        }
        _ => decoded,
    };
    let mut samples = Vec::new();
    for (rate, stretch) in mono.stretches {
        samples.extend(resample(stretch, rate as usize)?);
    }
    samples.truncate(MAX_SAMPLES);
    if samples.len() < MIN_SAMPLES {
        let detail = format!(
            "{} ms, and one mel frame takes 25",
            samples.len() * 1000 / SAMPLE_RATE
        );
        return Err(Failure::with(failure::TOO_SHORT, detail));
    }
    Ok(Audio {
        samples,
        seconds,
        health,
    })
}

impl Audio {
    /// A part of it; the whole where there is no span. What lies behind [`MAX_SAMPLES`] cannot be had.
    ///
    /// # Errors
    /// Shorter than one mel frame, or only zeros.
    pub fn part(&self, span: Option<Span>) -> Result<Part<'_>, Failure> {
        let Some((from, to)) = span else {
            return Ok(Part {
                samples: &self.samples,
                seconds: self.seconds,
            });
        };
        let at = |seconds: f32| {
            let sample = (f64::from(seconds) * SAMPLE_RATE as f64).round() as usize;
            sample.min(self.samples.len())
        };
        let samples = &self.samples[at(from).min(at(to))..at(to)];
        if samples.len() < MIN_SAMPLES {
            return Err(nothing_in(span, self.seconds));
        }
        if samples.iter().all(|&sample| sample == 0.0) {
            return Err(Failure::with(
                failure::SILENT,
                "all samples of the event are zero",
            ));
        }
        Ok(Part {
            samples,
            seconds: samples.len() as f64 / SAMPLE_RATE as f64,
        })
    }
}

/// A stretch of [`Audio`].
pub struct Part<'a> {
    /// As [`Audio::samples`].
    pub samples: &'a [f32],
    /// Its duration.
    pub seconds: f64,
}

/// Mono samples at the stream's own rate, as far as they are needed.
#[derive(Default)]
struct Mono {
    /// Rate and samples. One stretch, unless the rate changes on the way, as it does where a frame's header is damaged.
    stretches: Vec<(u32, Vec<f32>)>,
    /// Time stamp of the first frame, behind what the encoder put in front.
    start: Option<i64>,
    frames: usize,
    full: bool,
    problem: Option<String>,
}

impl Mono {
    fn push(&mut self, frame: &frame::Audio) -> ControlFlow<()> {
        let rate = frame.rate();
        if !RATES.contains(&rate) || frame.channels() == 0 {
            self.problem = Some(format!("{} channels at {rate} Hz", frame.channels()));
            return ControlFlow::Break(());
        }
        if frame.samples() == 0 {
            return ControlFlow::Continue(());
        }
        if self.stretches.is_empty() {
            self.start = frame.timestamp();
        }
        if self
            .stretches
            .last()
            .is_none_or(|(known, _)| *known != rate)
        {
            self.stretches.push((rate, Vec::new()));
        }
        if let Some((_, samples)) = self.stretches.last_mut()
            && let Err(problem) = append_mono(samples, frame)
        {
            self.problem = Some(problem);
            return ControlFlow::Break(());
        }
        self.frames += 1;
        self.full = self.seconds() >= needed(rate as usize);
        if self.full {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn seconds(&self) -> f64 {
        let stretches = self.stretches.iter();
        stretches
            .map(|(rate, samples)| samples.len() as f64 / f64::from(*rate))
            .sum()
    }
}

/// Seconds after which nothing more can reach the mel, with this rate at the end.
fn needed(rate: usize) -> f64 {
    let surroundings = SURROUNDINGS + 2 * rate / gcd(rate, SAMPLE_RATE);
    MAX_SAMPLES as f64 / SAMPLE_RATE as f64 + surroundings as f64 / rate as f64
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Appends the mean of a frame's channels, full scale being 1.
fn append_mono(out: &mut Vec<f32>, frame: &frame::Audio) -> Result<(), String> {
    match frame.format() {
        Sample::U8(_) => mean(out, frame, |[b]: [u8; 1]| (f32::from(b) - 128.0) / 128.0),
        Sample::I16(_) => mean(out, frame, |b: [u8; 2]| {
            f32::from(i16::from_ne_bytes(b)) / 32_768.0
        }),
        Sample::I32(_) => mean(out, frame, |b: [u8; 4]| {
            i32::from_ne_bytes(b) as f32 / 2_147_483_648.0
        }),
        Sample::I64(_) => mean(out, frame, |b: [u8; 8]| {
            i64::from_ne_bytes(b) as f32 / 9_223_372_036_854_775_808.0
        }),
        Sample::F32(_) => mean(out, frame, f32::from_ne_bytes),
        Sample::F64(_) => mean(out, frame, |b: [u8; 8]| f64::from_ne_bytes(b) as f32),
        Sample::None => return Err("samples of an unknown format".to_owned()),
    }
    Ok(())
}

fn mean<const N: usize>(out: &mut Vec<f32>, frame: &frame::Audio, value: impl Fn([u8; N]) -> f32) {
    let channels = usize::from(frame.channels());
    let start = out.len();
    out.resize(start + frame.samples(), 0.0);
    let out = &mut out[start..];
    if frame.is_planar() {
        for channel in 0..channels {
            let (values, _) = libav::audio_plane(frame, channel).as_chunks::<N>();
            for (sum, &bytes) in out.iter_mut().zip(values) {
                *sum += value(bytes);
            }
        }
    } else {
        let (values, _) = libav::audio_plane(frame, 0).as_chunks::<N>();
        for (sum, all) in out.iter_mut().zip(values.chunks_exact(channels)) {
            *sum = all.iter().map(|&bytes| value(bytes)).sum();
        }
    }
    if channels > 1 {
        out.iter_mut().for_each(|sum| *sum /= channels as f32);
    }
}

/// Resamples to 16 kHz, exactly aligned with the input's start.
pub fn resample(samples: Vec<f32>, rate: usize) -> Result<Vec<f32>, Failure> {
    if rate == SAMPLE_RATE {
        return Ok(samples);
    }
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::with(
            failure::UNDECODABLE,
            format!("cannot resample from {rate} Hz: {error}"),
        )
    };
    let window = WindowFunction::BlackmanHarris2;
    let mut resampler =
        Fft::<f32>::new_custom(rate, SAMPLE_RATE, BLOCK, 1, 1, window, FixedSync::Input)
            .map_err(|error| wrong(&error))?;
    let length = samples.len();
    let input = InterleavedSlice::new(&samples, 1, length).map_err(|error| wrong(&error))?;
    let output = resampler
        .process_all(&input, length, None)
        .map_err(|error| wrong(&error))?;
    Ok(output.take_data())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f64, rate: usize) -> Vec<f32> {
        let step = 2.0 * std::f64::consts::PI * hertz / rate as f64;
        (0..rate).map(|i| (step * i as f64).sin() as f32).collect()
    }

    #[test]
    fn a_part_is_cut_out_to_the_sample() {
        let audio = Audio {
            samples: (0..5 * SAMPLE_RATE)
                .map(|i| if i < SAMPLE_RATE { 0.0 } else { i as f32 })
                .collect(),
            seconds: 5.0,
            health: Health { good: 1, bad: 0 },
        };
        let part = audio.part(Some((2.0, 3.5))).unwrap();
        assert_eq!((part.samples.len(), part.seconds), (24_000, 1.5));
        assert_eq!(part.samples[0], 32_000.0);
        let part = audio.part(Some((4.0, 10.0))).unwrap();
        assert_eq!((part.samples.len(), part.seconds), (16_000, 1.0));
        assert_eq!(audio.part(None).unwrap().samples.len(), 80_000);
        let cause = |span| audio.part(Some(span)).err().unwrap().cause;
        assert_eq!(cause((0.0, 1.0)), failure::SILENT);
        assert_eq!(cause((4.99, 8.0)), failure::TOO_SHORT);
        assert_eq!(cause((7.0, 8.0)), failure::TOO_SHORT);
    }

    /// A sine in the band comes out as the same sine, at the same place; one above the band does not come out.
    #[test]
    fn resampling_keeps_phase_and_level_up_to_the_edge() {
        for rate in [22_050, 44_100, 48_000] {
            for hertz in [100.0, 1_000.0, 7_700.0] {
                let out = resample(tone(hertz, rate), rate).unwrap();
                assert_eq!(out.len(), SAMPLE_RATE);
                let expected = tone(hertz, SAMPLE_RATE);
                let worst = (2_000..14_000)
                    .map(|i| (out[i] - expected[i]).abs())
                    .fold(0.0, f32::max);
                assert!(worst < 2e-3, "{hertz} Hz from {rate}: {worst}");
            }
            let out = resample(tone(8_200.0, rate), rate).unwrap();
            let worst = (2_000..14_000).map(|i| out[i].abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "alias from {rate}: {worst}");
        }
        let up = resample(tone(3_000.0, 8_000), 8_000).unwrap();
        let expected = tone(3_000.0, SAMPLE_RATE);
        assert!((2_000..14_000).all(|i| (up[i] - expected[i]).abs() < 2e-3));
    }

    /// Decoding stops early; what is kept must not notice.
    #[test]
    fn cutting_behind_the_need_changes_nothing() {
        let rate = 44_100;
        let noise: Vec<f32> = (0..rate * 14)
            .map(|i| ((i * 7919 % 1000) as f32 / 500.0) - 1.0)
            .collect();
        let mut whole = resample(noise.clone(), rate).unwrap();
        let mut cut = resample(
            noise[..(needed(rate) * rate as f64) as usize].to_vec(),
            rate,
        )
        .unwrap();
        whole.truncate(MAX_SAMPLES);
        cut.truncate(MAX_SAMPLES);
        assert_eq!(cut.len(), MAX_SAMPLES);
        assert_eq!(whole, cut);
    }
}
