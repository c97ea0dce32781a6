//! Audio packets to mono samples at 16 kHz.
//!
//! Channels are averaged and the result is resampled. The packets after the last sample that the
//! mel front end uses (1024 frames) are not decoded. Gain and mean are left as they are.

use std::ops::ControlFlow;

use features::mel::{HOP, MAX_MEL_FRAMES, SAMPLE_RATE, WINDOW};
use ffmpeg_next::format::Sample;
use ffmpeg_next::frame;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::demux::Track;
use super::{Health, Span, decode_packets, empty_span, libav};
use crate::failure::{self, Failure};

/// Number of samples that [`MAX_MEL_FRAMES`] mel frames are computed from: 10.255 s.
const MAX_SAMPLES: usize = (MAX_MEL_FRAMES - 1) * HOP + WINDOW;

/// What [`MAX_MEL_FRAMES`] mel frames stand for, in seconds: 10.24 s.
pub const USED_SECONDS: f64 = (MAX_MEL_FRAMES * HOP) as f64 / SAMPLE_RATE as f64;

/// Least number of input samples in a block of the resampler. Long blocks make a steep filter: with
/// this length, frequencies up to 7.8 kHz pass unchanged from 44.1 and 48 kHz. rubato's choice for
/// blocks of 1024 attenuates 7 kHz by 14 dB.
const RESAMPLER_BLOCK: usize = 4096;

/// Number of input samples that are decoded beyond the last one that is used. It is more than the
/// length of the resampler's filter, so that the end of decoding changes no sample that is used.
const RESAMPLER_CONTEXT: usize = 4 * RESAMPLER_BLOCK;

/// Limit on the samples, where full scale is 1. It is 36 dB above full scale: more than any mix of
/// floats and any overshoot of a lossy codec has, and less than integers that are stored as floats.
const MAX_AMPLITUDE: f32 = 64.0;

/// Sample rates that are plausible, in Hz. Others come from damaged headers.
const VALID_RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// A decoded audio stream.
pub struct Audio {
    /// Mono samples at 16 kHz, at most [`MAX_SAMPLES`].
    pub samples: Vec<f32>,
    /// The time of the first sample in seconds from the start of the clip.
    pub start: f64,
    /// Duration of the stream in seconds. Where decoding stopped after the last sample that is
    /// used, the packets give the rest.
    pub seconds: f64,
    /// How much of the stream could be decoded.
    pub health: Health,
}

/// Decodes a stream.
///
/// # Errors
/// There is no decoder, nothing can be decoded, all samples are zero, or they are fewer than one
/// mel frame needs.
pub fn decode(track: &Track) -> Result<Audio, Failure> {
    let mut decoder = libav::audio_decoder(&track.parameters, track.time_base)
        .map_err(|error| super::decoder_failure(error, &track.parameters))?;
    let mut mono = Mono::default();
    let errors = decode_packets(
        &mut decoder,
        &track.packets,
        frame::Audio::empty(),
        |frame, _errors| mono.push(frame),
    );
    let health = Health {
        decoded: mono.frames,
        lost: errors + track.read_errors,
        damaged: 0,
    };
    if let Some(problem) = mono.problem {
        return Err(Failure::with(failure::UNDECODABLE, problem));
    }
    if mono.segments.is_empty() {
        return Err(Failure::with(
            failure::UNDECODABLE,
            health.describe("audio frame"),
        ));
    }
    health.check("audio frame")?;
    let values = || mono.segments.iter().flat_map(|(_, samples)| samples);
    // Not a number, if one sample is.
    let peak = values().fold(0.0, |peak: f32, sample| match sample.abs() {
        level if level > peak || level.is_nan() => level,
        _ => peak,
    });
    if !peak.is_finite() {
        return Err(Failure::with(
            failure::UNDECODABLE,
            "samples that are not finite",
        ));
    }
    if peak > MAX_AMPLITUDE {
        let detail = format!(
            "samples up to {peak:.3e}, and full scale is 1; store integers as integers, or divide them by full scale"
        );
        return Err(Failure::with(failure::UNDECODABLE, detail));
    }
    let decoded = mono.seconds();
    let seconds = match (mono.start, track.end) {
        (Some(start), Some(end)) if mono.is_full || !track.whole => {
            track.seconds(end.saturating_sub(start)).max(decoded)
        }
        _ => decoded,
    };
    if peak == 0.0 {
        let detail = match seconds > decoded {
            true => format!(
                "the first {USED_SECONDS:.1} s of {seconds:.1} s are silent, and no more is used"
            ),
            false => "all samples are zero".to_owned(),
        };
        return Err(Failure::with(failure::SILENT, detail));
    }
    let mut samples = Vec::new();
    for (rate, segment) in mono.segments {
        samples.extend(resample(segment, rate as usize)?);
    }
    samples.truncate(MAX_SAMPLES);
    if samples.len() < WINDOW {
        let detail = format!(
            "{} ms, and one mel frame takes 25",
            samples.len() * 1000 / SAMPLE_RATE
        );
        return Err(Failure::with(failure::TOO_SHORT, detail));
    }
    let start = mono.start.or(track.start);
    Ok(Audio {
        samples,
        start: start.map_or(0.0, |start| track.since_clip_start(track.seconds(start))),
        seconds,
        health,
    })
}

impl Audio {
    /// Returns the samples of a span of the clip, or all of them if there is no span. Samples after
    /// the first [`MAX_SAMPLES`] are not available.
    ///
    /// # Errors
    /// The span has fewer samples than one mel frame needs, or all of them are zero.
    pub fn part(&self, span: Option<Span>) -> Result<Part<'_>, Failure> {
        let Some((from, to)) = span else {
            return Ok(Part {
                samples: &self.samples,
                seconds: self.seconds,
            });
        };
        let at = |seconds: f32| {
            let since_start = f64::from(seconds) - self.start;
            // Below zero it becomes 0.
            let sample = (since_start * SAMPLE_RATE as f64).round() as usize;
            sample.min(self.samples.len())
        };
        let samples = &self.samples[at(from).min(at(to))..at(to)];
        if samples.len() < WINDOW {
            return Err(empty_span(span, (self.start, self.start + self.seconds)));
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

/// The samples of a span of [`Audio`].
pub struct Part<'a> {
    /// Mono samples at 16 kHz.
    pub samples: &'a [f32],
    /// The duration in seconds.
    pub seconds: f64,
}

/// Mono samples at the stream's own rate, up to the last one that is used.
#[derive(Default)]
struct Mono {
    /// Segments of one rate, with their samples. There is one segment, unless the rate changes
    /// within the stream, as it does where the header of a frame is damaged.
    segments: Vec<(u32, Vec<f32>)>,
    /// Time stamp of the first frame after the encoder's priming samples.
    start: Option<i64>,
    /// Number of frames.
    frames: usize,
    /// Whether all samples that are used have been decoded.
    is_full: bool,
    /// Why the stream cannot be used.
    problem: Option<String>,
}

impl Mono {
    /// Adds a frame. Breaks off when no more frames are needed.
    fn push(&mut self, frame: &frame::Audio) -> ControlFlow<()> {
        let rate = frame.rate();
        if !VALID_RATES.contains(&rate) || frame.channels() == 0 {
            self.problem = Some(format!("{} channels at {rate} Hz", frame.channels()));
            return ControlFlow::Break(());
        }
        if frame.samples() == 0 {
            return ControlFlow::Continue(());
        }
        if self.segments.is_empty() {
            self.start = frame.timestamp();
        }
        if self.segments.last().is_none_or(|(known, _)| *known != rate) {
            self.segments.push((rate, Vec::new()));
        }
        if let Some((_, samples)) = self.segments.last_mut()
            && let Err(problem) = append_mono(samples, frame)
        {
            self.problem = Some(problem);
            return ControlFlow::Break(());
        }
        self.frames += 1;
        self.is_full = self.seconds() >= seconds_needed(rate as usize);
        if self.is_full {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Duration of the samples in seconds.
    fn seconds(&self) -> f64 {
        let segments = self.segments.iter();
        segments
            .map(|(rate, samples)| samples.len() as f64 / f64::from(*rate))
            .sum()
    }
}

/// Seconds that have to be decoded of a stream with this rate at its end.
fn seconds_needed(rate: usize) -> f64 {
    let context = RESAMPLER_CONTEXT + 2 * rate / gcd(rate, SAMPLE_RATE);
    MAX_SAMPLES as f64 / SAMPLE_RATE as f64 + context as f64 / rate as f64
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Appends the mean of a frame's channels. Full scale is 1.
fn append_mono(out: &mut Vec<f32>, frame: &frame::Audio) -> Result<(), String> {
    match frame.format() {
        Sample::U8(_) => append_mean(out, frame, |[b]: [u8; 1]| (f32::from(b) - 128.0) / 128.0),
        Sample::I16(_) => append_mean(out, frame, |b: [u8; 2]| {
            f32::from(i16::from_ne_bytes(b)) / 32_768.0
        }),
        Sample::I32(_) => append_mean(out, frame, |b: [u8; 4]| {
            i32::from_ne_bytes(b) as f32 / 2_147_483_648.0
        }),
        Sample::I64(_) => append_mean(out, frame, |b: [u8; 8]| {
            i64::from_ne_bytes(b) as f32 / 9_223_372_036_854_775_808.0
        }),
        Sample::F32(_) => append_mean(out, frame, f32::from_ne_bytes),
        Sample::F64(_) => append_mean(out, frame, |b: [u8; 8]| f64::from_ne_bytes(b) as f32),
        Sample::None => return Err("samples of an unknown format".to_owned()),
    }
    Ok(())
}

/// Appends the mean of a frame's channels. `value` converts the bytes of one sample.
fn append_mean<const N: usize>(
    out: &mut Vec<f32>,
    frame: &frame::Audio,
    value: impl Fn([u8; N]) -> f32,
) {
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
        for (sum, frame) in out.iter_mut().zip(values.chunks_exact(channels)) {
            *sum = frame.iter().map(|&bytes| value(bytes)).sum();
        }
    }
    if channels > 1 {
        out.iter_mut().for_each(|sum| *sum /= channels as f32);
    }
}

/// Resamples to 16 kHz. The first sample of the result is at the same time as that of the input.
fn resample(samples: Vec<f32>, rate: usize) -> Result<Vec<f32>, Failure> {
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
    let mut resampler = Fft::<f32>::new_custom(
        rate,
        SAMPLE_RATE,
        RESAMPLER_BLOCK,
        1,
        1,
        window,
        FixedSync::Input,
    )
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
    fn spans_are_exact_to_the_sample() {
        let audio = Audio {
            samples: (0..5 * SAMPLE_RATE)
                .map(|i| if i < SAMPLE_RATE { 0.0 } else { i as f32 })
                .collect(),
            start: 0.0,
            seconds: 5.0,
            health: Health {
                decoded: 1,
                lost: 0,
                damaged: 0,
            },
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

        let late = Audio {
            start: 2.0,
            ..audio
        };
        let part = late.part(Some((4.0, 5.5))).unwrap();
        assert_eq!((part.samples.len(), part.seconds), (24_000, 1.5));
        assert_eq!(part.samples[0], 32_000.0);
        // The event begins before the sound.
        let part = late.part(Some((1.0, 4.0))).unwrap();
        assert_eq!((part.samples.len(), part.seconds), (32_000, 2.0));
        assert_eq!(part.samples[16_000], 16_000.0);
        assert!(late.part(Some((0.0, 2.0))).is_err());
    }

    /// A sine below 8 kHz keeps its phase and level, and one above is removed.
    #[test]
    fn resampling_keeps_phase_and_level_below_the_nyquist_frequency() {
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

    /// Decoding stops early, and this must not change the samples that are used.
    #[test]
    fn stopping_after_the_resampler_context_changes_no_sample() {
        let rate = 44_100;
        let noise: Vec<f32> = (0..rate * 14)
            .map(|i| ((i * 7919 % 1000) as f32 / 500.0) - 1.0)
            .collect();
        let mut whole = resample(noise.clone(), rate).unwrap();
        let mut cut = resample(
            noise[..(seconds_needed(rate) * rate as f64) as usize].to_vec(),
            rate,
        )
        .unwrap();
        whole.truncate(MAX_SAMPLES);
        cut.truncate(MAX_SAMPLES);
        assert_eq!(cut.len(), MAX_SAMPLES);
        assert_eq!(whole, cut);
    }
}
