//! The mel front end: 16 kHz samples in, log-mel frames out, as AST was trained on them.
//!
//! The recipe is Kaldi's filter bank with the settings AST was trained with: 25 ms symmetric Hann window, 10 ms hop,
//! no padding at the edges, DC offset removed per frame, pre-emphasis 0.97, 512-point power spectrum, 128 triangular
//! filters on the HTK mel scale from 20 Hz to 8 kHz, natural log with a floor. Not here: resampling, mixing to mono,
//! zero-padding to 1024 frames and normalisation.
//!
//! What makes it fast without changing the numbers:
//! - Subtracting a frame's mean m and then pre-emphasising is the same as pre-emphasising first and subtracting
//!   (1 - 0.97) m, so samples are pre-emphasised once, not once per frame that holds them. The whole clip's mean falls
//!   out the same way. (Only sample 0 of a frame has no predecessor, and the window is 0 there.)
//! - Two frames make one complex transform, and up to eight transforms run side by side.
//! - A filter touches the few bins it covers.
//!
//! All of it is float64 up to the logarithm: in float32 a loud bin drowns the quiet ones (torchaudio's own float32
//! result is up to 1e-2 away from its float64 one), and two frames in one transform would disturb each other.

mod block;
mod vector;

use block::{Engine, FFT, Filter, Tables};

/// Mel bins per frame.
pub const MEL_BINS: usize = 128;

/// Most frames kept of a clip: 10.24 s, what AST takes in.
pub const MAX_MEL_FRAMES: usize = 1024;

/// Samples per second of the input.
pub const SAMPLE_RATE: usize = 16_000;

/// Samples in a frame: 25 ms.
pub const WINDOW: usize = 400;

/// Samples from one frame to the next: 10 ms.
pub const HOP: usize = 160;

/// Names the recipe in the shards' metadata; any change of the numbers changes this.
pub const MEL_RECIPE: &str =
    "kaldi-fbank-16k-128-hann25ms-hop10ms-fft512-pre0.97-htk20..8000-ln-v1";

const PRE_EMPHASIS: f64 = 0.97;
const LOW_HZ: f32 = 20.0;
const HIGH_HZ: f32 = 8_000.0;
/// Energies below this are taken as this: the smallest step of float32 at 1, as in Kaldi.
const FLOOR: f32 = f32::EPSILON;

/// Log-mel frames of one clip: natural log, unpadded, unnormalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Mel {
    /// Values per frame, [`MEL_BINS`].
    pub bins: usize,
    /// Frame-major: frames x bins.
    pub values: Vec<f32>,
}

impl Mel {
    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.values.len() / self.bins
    }
}

/// Frames that so many samples give, at most [`MAX_MEL_FRAMES`]: only whole windows count, so fewer than [`WINDOW`]
/// samples give none.
pub fn mel_frames(samples: usize) -> usize {
    match samples.checked_sub(WINDOW) {
        Some(rest) => (1 + rest / HOP).min(MAX_MEL_FRAMES),
        None => 0,
    }
}

/// Tables and buffers. Make one per thread and use it for many clips.
pub struct MelFrontEnd {
    tables: Tables,
    engine: Engine,
}

impl Default for MelFrontEnd {
    fn default() -> Self {
        Self::new()
    }
}

impl MelFrontEnd {
    /// Makes the tables.
    pub fn new() -> Self {
        MelFrontEnd {
            tables: Tables::new(),
            engine: Engine::new(),
        }
    }

    /// The log-mel frames of mono samples at 16 kHz in [-1, 1], [`mel_frames`] of them.
    ///
    /// Fewer than [`WINDOW`] samples give no frame at all: the caller decides what a clip that short is worth (no
    /// shard row takes a mel without frames). Samples that are not finite give values that are not.
    pub fn compute(&mut self, samples_16k_mono: &[f32]) -> Mel {
        let frames = mel_frames(samples_16k_mono.len());
        let mut values = vec![0.0; frames * MEL_BINS];
        self.engine.run(&self.tables, samples_16k_mono, &mut values);
        Mel {
            bins: MEL_BINS,
            values,
        }
    }
}

/// The triangles, centred at even distances on the mel scale, each reaching to its neighbours' centres.
///
/// In float32, because Kaldi and torchaudio form them so and AST saw nothing else; a low triangle covers one or two
/// bins, and an exact weight there would be up to 2e-4 off in the logarithm.
fn filters() -> Vec<Filter> {
    let mel = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
    let low = mel(f64::from(LOW_HZ));
    let step = (mel(f64::from(HIGH_HZ)) - low) / (MEL_BINS + 1) as f64;
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
    use std::f64::consts::PI;
    use std::path::{Path, PathBuf};

    /// Samples of a 16-bit PCM wav.
    fn wav(path: &Path) -> Vec<f32> {
        let bytes = std::fs::read(path).unwrap();
        let data = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
        bytes[data..]
            .chunks_exact(2)
            .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0)
            .collect()
    }

    /// The samples that tests/golden/mel.py makes.
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
            .join("../tests/golden")
            .join(name)
    }

    /// Holds every `step`-th frame against torchaudio: 1e-5 on average against both its float64 results, and nowhere
    /// further off than its own float32 by more than 1e-4.
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
    fn equals_torchaudio_on_speech() {
        compare("speech", &wav(&golden("mel_speech.wav")), 5);
    }

    #[test]
    fn equals_torchaudio_on_noise_chirp_silence_and_a_click() {
        compare("synthetic", &synthetic(), 16);
    }

    #[test]
    fn equals_torchaudio_on_real_sound() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../shared/media/audio/mmaction2_test_2ch_16k.wav");
        if !path.exists() {
            eprintln!("skipped: {} is absent", path.display());
            return;
        }
        let mono: Vec<f32> = wav(&path)
            .chunks_exact(2)
            .map(|c| (c[0] + c[1]) * 0.5)
            .collect();
        compare("stereo", &mono, 16);
    }

    #[test]
    fn frames_are_whole_windows() {
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
    fn a_frame_depends_on_its_samples_alone() {
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
    fn silence_and_dc_give_the_floor() {
        for level in [0.0, 0.5] {
            let mel = MelFrontEnd::new().compute(&[level; 4000]);
            assert!(mel.values.iter().all(|&v| v == FLOOR.ln()), "{level}");
        }
    }
}
