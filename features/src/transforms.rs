//! What stored content goes through on its way into a batch: pad, crop, resize, normalize.

use media::image::ImageTransform;
use media::mel::Mel;
use media::text::TextTransform;
use util::rng::Rng;

/// The frames that a video contributes by default, as in the paper (section 4.2).
pub const FRAMES: usize = 3;
/// The side of images and frames by default, in pixels: the input of CLIP ViT-B/16.
pub const IMAGE_SIZE: usize = 224;
/// The mel frames of a spectrogram by default: the input of AST.
pub const MEL_FRAMES: usize = 1024;

/// How a log-mel spectrogram is padded and normalized: `(x - mean) / (2 std)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MelTransform {
    /// The frames of the output; shorter spectrograms are padded with 0, longer ones cut.
    pub frames: usize,
    /// The mean that is subtracted.
    pub mean: f32,
    /// The standard deviation; twice this is the divisor, as AST has it.
    pub std: f32,
}

impl MelTransform {
    /// AST's normalization, from the feature extractor of
    /// `MIT/ast-finetuned-audioset-10-10-0.4593`.
    pub fn ast(frames: usize) -> Self {
        MelTransform {
            frames,
            mean: -4.267_739_3,
            std: 4.568_997_4,
        }
    }

    /// Appends the padded and normalized spectrogram. It is padded first, as AST does it, so the
    /// padding is not 0 afterwards.
    pub(crate) fn append(&self, mel: &Mel, out: &mut Vec<f32>) {
        let kept = mel.values.len().min(self.frames * mel.bins);
        let scale = 2.0 * self.std;
        out.extend(mel.values[..kept].iter().map(|v| (v - self.mean) / scale));
        out.extend(std::iter::repeat_n(
            (0.0 - self.mean) / scale,
            self.frames * mel.bins - kept,
        ));
    }
}

/// What turns the stored content of each modality into model input.
#[derive(Clone)]
pub struct Transforms {
    /// The frames of a video.
    pub frames: usize,
    /// Decodes, crops, resizes and normalizes images and frames: JPEG to f32 `[3, size, size]`.
    pub image: ImageTransform,
    /// Pads and normalizes spectrograms to f32 `[frames, 128]`.
    pub mel: MelTransform,
    /// Turns text into the ids of word pieces. A dataset with text needs it.
    pub text: Option<TextTransform>,
}

/// The input of CLIP ViT-B/16 and AST, and no tokenizer.
impl Default for Transforms {
    fn default() -> Self {
        Transforms {
            frames: FRAMES,
            image: ImageTransform::clip(IMAGE_SIZE),
            mel: MelTransform::ast(MEL_FRAMES),
            text: None,
        }
    }
}

/// The frames of an evaluation view, from a pool of `n`: the centres of `k` equal segments.
pub(crate) fn segment_centres(n: usize, k: usize) -> Vec<usize> {
    // floor((i + 1/2) n / k) in whole numbers.
    (0..k).map(|i| (2 * i + 1) * n / (2 * k)).collect()
}

/// Draws `k` distinct frames in time order; if the pool has fewer, takes those of the evaluation
/// view.
pub(crate) fn random_frames(n: usize, k: usize, rng: &mut Rng) -> Vec<usize> {
    if n < k {
        return segment_centres(n, k);
    }
    let mut chosen: Vec<usize> = Vec::with_capacity(k);
    while chosen.len() < k {
        let i = rng.below(n as u32) as usize;
        if !chosen.contains(&i) {
            chosen.push(i);
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_centres_round_down() {
        assert_eq!(segment_centres(9, 3), [1, 4, 7]);
        assert_eq!(segment_centres(10, 3), [1, 5, 8]);
        assert_eq!(segment_centres(3, 3), [0, 1, 2]);
        assert_eq!(segment_centres(1, 3), [0, 0, 0]);
        assert_eq!(segment_centres(2, 3), [0, 1, 1]);
        for n in 1..50 {
            for (i, at) in segment_centres(n, 3).into_iter().enumerate() {
                assert_eq!(at, ((i as f64 + 0.5) * n as f64 / 3.0).floor() as usize);
            }
        }
    }

    #[test]
    fn random_frames_are_distinct_and_in_order() {
        let mut counts = [0; 10];
        for seed in 0..300 {
            let chosen = random_frames(10, 3, &mut Rng::new(seed, &[]));
            assert!(chosen[0] < chosen[1] && chosen[1] < chosen[2]);
            chosen.iter().for_each(|i| counts[*i] += 1);
        }
        assert!(counts.iter().all(|n| (60..120).contains(n)), "{counts:?}");
        assert_eq!(random_frames(2, 3, &mut Rng::new(0, &[])), [0, 1, 1]);
    }

    #[test]
    fn padding_comes_before_normalization() {
        let t = MelTransform::ast(3);
        let mut out = Vec::new();
        t.append(
            &Mel {
                bins: 2,
                values: vec![1.0, -4.267_739_3],
            },
            &mut out,
        );
        let pad = 4.267_739_3 / (2.0 * 4.568_997_4);
        assert_eq!(out.len(), 6);
        assert!((out[0] - 5.267_739_3 / (2.0 * 4.568_997_4)).abs() < 1e-6 && out[1] == 0.0);
        assert!(out[2..].iter().all(|v| (v - pad).abs() < 1e-6));
        out.clear();
        t.append(
            &Mel {
                bins: 2,
                values: vec![0.0; 20],
            },
            &mut out,
        );
        assert_eq!(out.len(), 6);
    }
}
