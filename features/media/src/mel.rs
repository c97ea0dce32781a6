//! The mel front end: from 16 kHz samples to the log-mel spectrogram that AST reads.
//!
//! The recipe is Kaldi's `compute-fbank-feats` with the settings AST was trained with: 25 ms
//! symmetric Hann window, 10 ms hop, no padding at the edges, DC offset removed per frame,
//! pre-emphasis 0.97, 512-point power spectrum, 128 triangular filters on the HTK mel scale from
//! 20 Hz to 8 kHz, natural logarithm with a floor. Resampling and mixing to mono belong to
//! `ingest`, zero-padding to 1024 frames and normalization to `features`.
//!
//! Three identities make it fast and keep the values:
//! - Subtracting a frame's mean m and then pre-emphasizing equals pre-emphasizing first and
//!   subtracting (1 - 0.97) m, so overlapping frames share their pre-emphasized samples. The whole
//!   clip's mean cancels the same way. (Only sample 0 of a frame has no predecessor, and the window
//!   is 0 there.)
//! - Two frames are the real and the imaginary part of one complex transform.
//! - A filter is applied only to the few bins it covers, to several frames at once.
//!
//! All of it is float64 up to the logarithm: in float32 a loud bin drowns the quiet ones
//! (torchaudio's own float32 result is up to 1e-2 away from its float64 one), and two frames in one
//! transform would disturb each other.

use std::f64::consts::PI;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlannerScalar, FftPlannerSse};

/// The number of mel bins per frame.
pub const MEL_BINS: usize = 128;

/// The most frames that are computed of a clip: 10.24 s, the input of AST.
pub const MAX_MEL_FRAMES: usize = 1024;

/// The sample rate of the input in Hz.
pub const SAMPLE_RATE: usize = 16_000;

/// The number of samples in a frame: 25 ms.
pub const WINDOW: usize = 400;

/// The number of samples from one frame to the next: 10 ms.
pub const HOP: usize = 160;

/// The name of the recipe in the shards' metadata. It changes with any change of the values.
pub const MEL_RECIPE: &str =
    "kaldi-fbank-16k-128-hann25ms-hop10ms-fft512-pre0.97-htk20..8000-ln-v1";

/// The number of points of a transform; a frame is padded with zeros to this length.
const FFT: usize = 512;

/// The number of samples that are summed at once. It divides both [`WINDOW`] and [`HOP`], so that
/// these sums add up to every frame's mean.
const CHUNK: usize = 80;

/// The number of frames that are computed together; even.
const BLOCK: usize = 8;

/// The number of samples that a block of frames covers.
const SPAN: usize = WINDOW + (BLOCK - 1) * HOP;

/// The coefficient of the pre-emphasis filter, `y[t] = x[t] - 0.97 x[t - 1]`.
const PRE_EMPHASIS: f64 = 0.97;
/// The lower edge of the first filter.
pub const LOW_HZ: f32 = 20.0;
/// The upper edge of the last filter.
pub const HIGH_HZ: f32 = 8_000.0;
/// The least energy, which smaller ones are raised to: float32's epsilon, as in Kaldi.
const FLOOR: f32 = f32::EPSILON;

/// The log-mel spectrogram of one clip: natural logarithms, not padded, not normalized.
#[derive(Debug, Clone, PartialEq)]
pub struct Mel {
    /// The number of values per frame, [`MEL_BINS`].
    pub bins: usize,
    /// The values, `[frames, bins]`.
    pub values: Vec<f32>,
}

impl Mel {
    /// Returns the number of frames.
    pub fn frames(&self) -> usize {
        self.values.len() / self.bins
    }
}

/// Returns the number of frames of a clip, at most [`MAX_MEL_FRAMES`]. Only whole windows count, so
/// a clip of fewer than [`WINDOW`] samples has none.
pub fn mel_frames(samples: usize) -> usize {
    match samples.checked_sub(WINDOW) {
        Some(rest) => (1 + rest / HOP).min(MAX_MEL_FRAMES),
        None => 0,
    }
}

/// Computes log-mel spectrograms. It holds tables and buffers: create one per thread and use it for
/// many clips.
pub struct MelFrontEnd {
    /// A Hann window times 1/2, which [`MelFrontEnd::set_power`] relies on.
    window: Vec<f64>,
    filters: Vec<Filter>,
    fft: Arc<dyn Fft<f64>>,
    emphasized: Vec<f64>,
    /// Two windowed frames, padded with zeros: one in the real parts, one in the imaginary parts.
    frames: Vec<Complex<f64>>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    /// The power of a block's frames in each bin of the transform.
    power: Vec<[f64; BLOCK]>,
}

/// A triangular filter: its weights, from its first bin on.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

impl Default for MelFrontEnd {
    fn default() -> Self {
        Self::new()
    }
}

impl MelFrontEnd {
    /// Computes the tables.
    pub fn new() -> Self {
        Self::with_fft(plan_fft())
    }

    fn with_fft(fft: Arc<dyn Fft<f64>>) -> Self {
        let zero = Complex::new(0.0, 0.0);
        MelFrontEnd {
            window: (0..WINDOW)
                .map(|i| 0.25 - 0.25 * (2.0 * PI * i as f64 / (WINDOW - 1) as f64).cos())
                .collect(),
            filters: filters(),
            emphasized: vec![0.0; SPAN],
            frames: vec![zero; FFT],
            spectrum: vec![zero; FFT],
            scratch: vec![zero; fft.get_immutable_scratch_len()],
            power: vec![[0.0; BLOCK]; FFT / 2],
            fft,
        }
    }

    /// Computes the [`mel_frames`] frames of mono samples at 16 kHz in [-1, 1].
    ///
    /// Fewer than [`WINDOW`] samples give no frame: the caller handles a clip that short (a row of
    /// a shard has no spectrogram without frames). Frames with samples that are not finite hold no
    /// usable values.
    pub fn compute(&mut self, samples_16k_mono: &[f32]) -> Mel {
        let frames = mel_frames(samples_16k_mono.len());
        let mut values = vec![0.0; frames * MEL_BINS];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            unsafe { self.log_mel_avx2(samples_16k_mono, &mut values) };
            return Mel {
                bins: MEL_BINS,
                values,
            };
        }
        self.log_mel(samples_16k_mono, &mut values);
        Mel {
            bins: MEL_BINS,
            values,
        }
    }

    /// Runs [`MelFrontEnd::log_mel`], compiled for AVX2 and without fused multiply-adds: the same
    /// operations in the same order, so the same bits, four float64 values at a time instead of
    /// two.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn log_mel_avx2(&mut self, samples: &[f32], out: &mut [f32]) {
        self.log_mel(samples, out);
    }

    /// Fills `out`, [`MEL_BINS`] values per frame of [`mel_frames`]. Inlined, as are its parts, so
    /// that they are compiled for the instructions of the caller.
    #[inline(always)]
    fn log_mel(&mut self, samples: &[f32], out: &mut [f32]) {
        for (i, out) in out.chunks_mut(BLOCK * MEL_BINS).enumerate() {
            let samples = &samples[BLOCK * HOP * i..];
            let samples = &samples[..samples.len().min(SPAN)];
            let offsets = self.pre_emphasize(samples);
            for frame in (0..BLOCK).step_by(2) {
                self.set_frames(frame, &offsets);
                self.fft.process_immutable_with_scratch(
                    &self.frames,
                    &mut self.spectrum,
                    &mut self.scratch,
                );
                self.set_power(frame);
            }
            self.apply_filters(out);
        }
    }

    /// Pre-emphasizes a block's samples. Returns the offset of each frame: (1 - 0.97) times its
    /// mean.
    ///
    /// Samples beyond the end of the clip count as 0, and frames with such samples are not used.
    #[inline(always)]
    fn pre_emphasize(&mut self, samples: &[f32]) -> [f64; BLOCK] {
        let (first, rest) = self.emphasized.split_at_mut(samples.len());
        for (out, pair) in first[1..].iter_mut().zip(samples.windows(2)) {
            *out = f64::from(pair[1]) - PRE_EMPHASIS * f64::from(pair[0]);
        }
        rest.fill(0.0);
        let mut sums = [0.0; SPAN / CHUNK];
        for (sum, chunk) in sums.iter_mut().zip(samples.chunks(CHUNK)) {
            *sum = sum_of(chunk);
        }
        std::array::from_fn(|frame| {
            let sums = &sums[frame * (HOP / CHUNK)..][..WINDOW / CHUNK];
            (1.0 - PRE_EMPHASIS) * (sums.iter().sum::<f64>() / WINDOW as f64)
        })
    }

    /// Windows a frame of the block and the one after it.
    #[inline(always)]
    fn set_frames(&mut self, frame: usize, offsets: &[f64; BLOCK]) {
        let [even, odd] = [frame, frame + 1]
            .map(|frame| (&self.emphasized[frame * HOP..][..WINDOW], offsets[frame]));
        let frames = self.frames.iter_mut().zip(&self.window);
        for ((z, w), (re, im)) in frames.zip(even.0.iter().zip(odd.0)) {
            *z = Complex::new(w * (re - even.1), w * (im - odd.1));
        }
    }

    /// Separates the power spectra of a frame and the one after it. With Z the transform of
    /// (x + iy) / 2, Z[k] + conj Z[N-k] is the transform of x, and Z[k] - conj Z[N-k] is i times
    /// that of y. The last bin, 8 kHz, is in no filter.
    #[inline(always)]
    fn set_power(&mut self, frame: usize) {
        let separate = |powers: &mut [f64; BLOCK], a: &Complex<f64>, b: &Complex<f64>| {
            let (sum, difference) = (a + b, a - b);
            powers[frame] = sum.re * sum.re + difference.im * difference.im;
            powers[frame + 1] = sum.im * sum.im + difference.re * difference.re;
        };
        separate(&mut self.power[0], &self.spectrum[0], &self.spectrum[0]);
        let (low, high) = self.spectrum.split_at(FFT / 2);
        let mirrored = high.iter().rev();
        for ((powers, a), b) in self.power[1..].iter_mut().zip(&low[1..]).zip(mirrored) {
            separate(powers, a, b);
        }
    }

    /// Writes the log-mel values of a block's frames, as many as `out` holds.
    #[inline(always)]
    fn apply_filters(&self, out: &mut [f32]) {
        for (bin, filter) in self.filters.iter().enumerate() {
            let mut energies = [0.0; BLOCK];
            for (weight, powers) in filter.weights.iter().zip(&self.power[filter.first..]) {
                for (energy, power) in energies.iter_mut().zip(powers) {
                    *energy += weight * power;
                }
            }
            for (frame, energy) in out.chunks_exact_mut(MEL_BINS).zip(energies) {
                frame[bin] = energy as f32;
            }
        }
        for value in out {
            *value = ln(value.max(FLOOR));
        }
    }
}

/// Returns a transform of [`FFT`] points that gives the same bits on every x86-64 processor with
/// SSE 4.1, that is since 2008.
///
/// `rustfft::FftPlanner` would use AVX and fused multiply-adds where the processor has them, so
/// that shards would differ by machine.
fn plan_fft() -> Arc<dyn Fft<f64>> {
    match FftPlannerSse::new() {
        Ok(mut planner) => planner.plan_fft_forward(FFT),
        Err(()) => FftPlannerScalar::new().plan_fft_forward(FFT),
    }
}

/// Returns the sum of samples, as eight sums side by side: in a single sum, each addition would
/// wait for the one before it.
#[inline(always)]
fn sum_of(samples: &[f32]) -> f64 {
    let (eights, rest) = samples.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        for (sum, &sample) in sums.iter_mut().zip(eight) {
            *sum += f64::from(sample);
        }
    }
    for (sum, &sample) in sums.iter_mut().zip(rest) {
        *sum += f64::from(sample);
    }
    sums.iter().sum()
}

/// Returns the natural logarithm of a positive normal number, within a step of float32. Unlike the
/// library's it has no branches, so that the compiler vectorizes it.
///
/// x = 2^e m with m in [sqrt 1/2, sqrt 2), and ln m = 2 artanh s with s = (m - 1) / (m + 1),
/// |s| < 0.172: four terms of the series leave an error of 3e-9.
#[inline(always)]
fn ln(x: f32) -> f32 {
    /// The bits of sqrt 1/2.
    const ROOT: u32 = 0x3F35_04F3;
    /// ln 2 as a sum: the first part has so few digits that its product with e is exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let from_root = x.to_bits().wrapping_sub(ROOT);
    let e = (from_root as i32 >> 23) as f32;
    let m = f32::from_bits((from_root & 0x007F_FFFF) + ROOT);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    e * LN_2.0 + (e * LN_2.1 + 2.0 * (s + s * series))
}

/// Converts a frequency to the mel scale of HTK and Kaldi. The centres of the filters lie at even
/// distances on it, the first one such distance above [`LOW_HZ`] and the last one below
/// [`HIGH_HZ`].
pub fn hz_to_mel(hz: f64) -> f64 {
    1127.0 * (1.0 + hz / 700.0).ln()
}

/// Returns the triangular filters, centred at even distances on the mel scale, each reaching to its
/// neighbours' centres.
///
/// In float32, because Kaldi and torchaudio compute them so and AST was trained with them. A low
/// triangle covers one or two bins, and an exact weight there would be up to 2e-4 off in the
/// logarithm.
fn filters() -> Vec<Filter> {
    let low = hz_to_mel(f64::from(LOW_HZ));
    let step = (hz_to_mel(f64::from(HIGH_HZ)) - low) / (MEL_BINS + 1) as f64;
    let edge = |i: usize| low as f32 + i as f32 * step as f32;
    let bin_width = SAMPLE_RATE as f32 / FFT as f32;
    let weight = |filter: usize, bin: usize| {
        let mel = 1127.0 * (1.0 + bin as f32 * bin_width / 700.0).ln();
        let (left, centre, right) = (edge(filter), edge(filter + 1), edge(filter + 2));
        ((mel - left) / (centre - left))
            .min((right - mel) / (right - centre))
            .max(0.0)
    };
    (0..MEL_BINS)
        .map(|filter| {
            let all: Vec<f64> = (0..FFT / 2)
                .map(|bin| f64::from(weight(filter, bin)))
                .collect();
            let first = all.iter().position(|&w| w > 0.0).unwrap_or(0);
            let end = all
                .iter()
                .rposition(|&w| w > 0.0)
                .map_or(first, |last| last + 1);
            Filter {
                first,
                weights: all[first..end].to_vec(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    /// Reads the samples of a 16-bit PCM WAV file.
    fn wav(path: &Path) -> Vec<f32> {
        let bytes = std::fs::read(path).unwrap();
        let data = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
        bytes[data..]
            .chunks_exact(2)
            .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0)
            .collect()
    }

    /// Returns the samples that `tests/golden/mel.py` computes.
    fn synthetic() -> Vec<f32> {
        let mut state = 1u32;
        let mut sample = |i: usize| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            let noise = f64::from(state) / 2f64.powi(31) - 1.0;
            let t = i as f64 / 16000.0;
            match i / 16000 {
                _ if i == 72000 => 1.0,
                0 | 1 => noise * 10f64.powf(-3.0 * t / 2.0),
                2 | 3 => 0.5 * (2.0 * PI * (50.0 * (t - 2.0) + 1900.0 * (t - 2.0).powi(2))).sin(),
                4 => 0.0,
                _ => 0.1 * noise + 0.3 * (2.0 * PI * 440.0 * t).sin() + 0.05,
            }
        };
        (0..11 * 16000).map(|i| sample(i) as f32).collect()
    }

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden")
            .join(name)
    }

    /// Compares every `step`-th frame with torchaudio: 1e-5 on average against both its float64
    /// results, and nowhere further off than its own float32 by more than 1e-4.
    fn compare(name: &str, samples: &[f32], step: usize) {
        let bytes = std::fs::read(golden(&format!("mel_{name}.f32"))).unwrap();
        let stored: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let blocks: Vec<&[f32]> = stored.chunks(stored.len() / 3).collect();
        let mel = MelFrontEnd::new().compute(samples);
        let ours: Vec<f32> = mel
            .values
            .chunks(MEL_BINS)
            .step_by(step)
            .flatten()
            .copied()
            .collect();
        assert_eq!(ours.len(), blocks[0].len(), "{name}");
        for exact in &blocks[..2] {
            let (mut mean, mut excess) = (0.0, f32::MIN);
            for ((ours, exact), single) in ours.iter().zip(*exact).zip(blocks[2]) {
                let off = (ours - exact).abs();
                mean += f64::from(off) / blocks[0].len() as f64;
                excess = excess.max(off - (single - exact).abs());
            }
            assert!(mean < 1e-5, "{name}: mean difference {mean}");
            assert!(
                excess < 1e-4,
                "{name}: {excess} further off than torchaudio's float32"
            );
        }
    }

    #[test]
    fn avx2_gives_the_same_bits() {
        let samples = synthetic();
        let mut front_end = MelFrontEnd::new();
        let mut plain = vec![0.0; mel_frames(samples.len()) * MEL_BINS];
        front_end.log_mel(&samples, &mut plain);
        assert_eq!(front_end.compute(&samples).values, plain);
    }

    #[test]
    fn equals_torchaudio_on_speech() {
        compare("speech", &wav(&golden("mel_speech.wav")), 5);
    }

    #[test]
    fn equals_torchaudio_on_noise_chirp_silence_and_a_click() {
        compare("synthetic", &synthetic(), 16);
    }

    #[test]
    fn equals_torchaudio_on_real_audio() {
        let Some(path) = util::skip::shared("media/audio/mmaction2_test_2ch_16k.wav") else {
            return;
        };
        let mono: Vec<f32> = wav(&path)
            .chunks_exact(2)
            .map(|c| (c[0] + c[1]) * 0.5)
            .collect();
        compare("stereo", &mono, 16);
    }

    #[test]
    fn incomplete_windows_give_no_frame() {
        let mut front_end = MelFrontEnd::new();
        for (samples, frames) in [
            (0, 0),
            (399, 0),
            (400, 1),
            (559, 1),
            (560, 2),
            (16000, 98),
            (164079, 1023),
            (164080, 1024),
            (200000, 1024),
        ] {
            assert_eq!(
                front_end.compute(&vec![0.1; samples]).frames(),
                frames,
                "{samples}"
            );
            assert_eq!(mel_frames(samples), frames);
        }
    }

    #[test]
    fn frames_depend_only_on_their_own_samples() {
        let samples = synthetic();
        let mut front_end = MelFrontEnd::new();
        let whole = front_end.compute(&samples);
        for first in [1, 3, 13, 400] {
            let part = front_end.compute(&samples[first * HOP..][..WINDOW + 4 * HOP]);
            let same = &whole.values[first * MEL_BINS..][..5 * MEL_BINS];
            for (a, b) in part.values.iter().zip(same) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn silence_and_dc_offset_give_the_floor() {
        for level in [0.0, 0.5] {
            let mel = MelFrontEnd::new().compute(&[level; 4000]);
            assert!(mel.values.iter().all(|&v| v == FLOOR.ln()), "{level}");
        }
    }

    #[test]
    fn powers_equal_the_direct_dft() {
        let (mut front_end, samples) = (MelFrontEnd::new(), synthetic());
        for first in [0, 6, 205, 450] {
            front_end.compute(&samples[first * HOP..][..SPAN]);
            for frame in 0..BLOCK {
                let x: Vec<f64> = samples[(first + frame) * HOP..][..WINDOW]
                    .iter()
                    .map(|&x| x.into())
                    .collect();
                let mean = x.iter().sum::<f64>() / WINDOW as f64;
                let windowed = |i: usize| {
                    let before = x[i.saturating_sub(1)] - mean;
                    2.0 * front_end.window[i] * (x[i] - mean - PRE_EMPHASIS * before)
                };
                for bin in 0..FFT / 2 {
                    let (mut re, mut im) = (0.0, 0.0);
                    for i in 0..WINDOW {
                        let angle = -2.0 * PI * (bin * i % FFT) as f64 / FFT as f64;
                        re += windowed(i) * angle.cos();
                        im += windowed(i) * angle.sin();
                    }
                    let (want, got) = (re * re + im * im, front_end.power[bin][frame]);
                    let off = (want - got).abs();
                    assert!(off < 1e-12 * want.max(1.0), "{frame} {bin}: {want} {got}");
                }
            }
        }
    }

    /// The planner that uses AVX where it can rounds differently.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn fft_gives_the_same_bits_on_every_processor() {
        let spectrum = |fft: Arc<dyn Fft<f64>>| {
            let samples = synthetic();
            let pairs = samples[..FFT].iter().zip(&samples[FFT..]);
            let mut points: Vec<_> = pairs
                .map(|(&re, &im)| Complex::new(f64::from(re), f64::from(im)))
                .collect();
            fft.process(&mut points);
            points
        };
        if let Ok(mut sse) = FftPlannerSse::new() {
            assert!(spectrum(plan_fft()) == spectrum(sse.plan_fft_forward(FFT)));
        }
        if std::arch::is_x86_feature_detected!("fma") {
            let mut widest = rustfft::FftPlanner::new();
            assert!(spectrum(plan_fft()) != spectrum(widest.plan_fft_forward(FFT)));
        }
    }

    #[test]
    fn fast_logarithm_is_within_1e_6() {
        let (mut worst, mut x) = (0.0f64, f32::EPSILON);
        while x < 1e6 {
            worst = worst.max((f64::from(ln(x)) - f64::from(x).ln()).abs());
            x *= 1.000_1;
        }
        assert!(worst < 1e-6, "{worst}");
        assert_eq!(ln(1.0), 0.0);
    }
}
