//! Evaluation: metrics of a split, with any modality missing, and labels for new media files.

mod alignment;
mod evaluator;
mod files;
pub mod metrics;
pub mod predict;

pub use crate::session::MaskSource;
pub use alignment::Alignment;
pub use evaluator::{Evaluation, Evaluator};
pub(crate) use files::to_json;
pub use files::write;

use datasets::{InputName, Split};
use model::variant::MissingToken;
use std::path::Path;

/// What to evaluate.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// The split.
    pub split: Split,
    /// The missing-modality mask that hides inputs of the split; `None` hides nothing.
    pub mask: Option<MaskSource>,
    /// A modality that is missing from every sample that has the other one.
    pub missing: Option<InputName>,
    /// The token that stands for a missing modality.
    pub missing_token: MissingToken,
    /// The name of the checkpoint, if it is another one than is taken by default. Its evaluation
    /// must not replace that of the default one.
    pub checkpoint: Option<String>,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            split: Split::Test,
            mask: None,
            missing: None,
            missing_token: MissingToken::Mask,
            checkpoint: None,
        }
    }
}

impl EvalOptions {
    /// The name of the evaluation in the names of its files: `test`, `test-no-audio`,
    /// `test-missing-both-0.7-seed0`, with `-zeros` or `-input` at the end for another missing
    /// token than the mask token, and the name of a checkpoint that was asked for.
    pub fn name(&self) -> String {
        let mut name = self.split.to_string();
        if let Some(MaskSource { source, rate, seed }) = &self.mask {
            let stem = Path::new(source)
                .file_stem()
                .map_or(source.clone(), |stem| stem.to_string_lossy().into_owned());
            name += &format!("-{stem}-{rate}-seed{seed}");
        }
        if let Some(modality) = self.missing {
            name += &format!("-no-{modality}");
        }
        match self.missing_token {
            MissingToken::Mask => {}
            MissingToken::Zeros => name += "-zeros",
            MissingToken::Input => name += "-input",
        }
        if let Some(checkpoint) = &self.checkpoint {
            name += &format!("-{checkpoint}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_names_are_distinct() {
        let name = |protocol: Option<&str>, missing, missing_token| {
            let options = EvalOptions {
                mask: protocol.map(|source| MaskSource {
                    source: source.to_string(),
                    rate: 0.7,
                    seed: 1,
                }),
                missing,
                missing_token,
                ..EvalOptions::default()
            };
            options.name()
        };
        let audio = Some(datasets::Modality::Audio.into());
        assert_eq!(name(None, None, MissingToken::Mask), "test");
        assert_eq!(
            name(None, audio, MissingToken::Input),
            "test-no-audio-input"
        );
        assert_eq!(
            name(Some("missing-both"), None, MissingToken::Zeros),
            "test-missing-both-0.7-seed1-zeros"
        );
        let older = EvalOptions {
            missing: audio,
            checkpoint: Some("checkpoint-00000012".to_string()),
            ..EvalOptions::default()
        };
        assert_eq!(older.name(), "test-no-audio-checkpoint-00000012");
    }
}
