//! The mel front end: 16 kHz samples in, log-mel frames out.

/// Mel bins per frame.
pub const MEL_BINS: usize = 128;

/// Most frames kept of a clip: 10.24 s, what AST takes in.
pub const MAX_MEL_FRAMES: usize = 1024;

/// Names the recipe in the shards' metadata; any change of the numbers changes this.
pub const MEL_RECIPE: &str =
    "kaldi-fbank-16k-128-hann25ms-hop10ms-fft512-pre0.97-htk20..8000-ln-v1";

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
