//! stand-in
use features::Mel;
pub struct MelFrontEnd;
impl MelFrontEnd {
    pub fn new() -> Self {
        MelFrontEnd
    }
    pub fn compute(&mut self, s: &[f32]) -> Mel {
        let n = ((s.len() - 400) / 160 + 1).min(1024);
        Mel {
            bins: 128,
            values: (0..n * 128).map(|i| s[i % s.len()]).collect(),
        }
    }
}
