//! Missing-aware prompts (Lee et al. 2023, section 3): learnable vectors in the first blocks of a
//! frozen encoder, of which a sample gets those of its missing case.
//!
//! - Input-level: at each of these blocks, `length` more tokens join the sequence, and stay in it.
//! - Attention-level: half of a block's prompts are more keys of its attention, half are more
//!   values. No query is added, and the sequence stays as it is.
//!
//! `prompted` holds the passes of an encoder with prompts.

use super::config::EncoderConfig;
use crate::init::normal;
use anyhow::{Result, ensure};
use candle_core::Tensor;
use util::rng::Rng;

/// The stream of the random generator for new prompts.
const INIT_PROMPTS: u32 = 0x5072_6f6d;
/// The standard deviation of new prompts.
const PROMPT_STD: f64 = 0.02;

/// Where prompts enter a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptLevel {
    /// As tokens of the sequence.
    Input,
    /// As keys and values of attention.
    Attention,
}

/// Which modality of a sample is missing: each case has prompts of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingCase {
    /// Neither.
    Complete,
    /// The first one.
    MissingFirst,
    /// The second one.
    MissingSecond,
}

impl MissingCase {
    /// All cases, in the order of their prompts.
    pub const ALL: [MissingCase; 3] = [
        MissingCase::Complete,
        MissingCase::MissingFirst,
        MissingCase::MissingSecond,
    ];

    /// Returns the case of a sample that has these of its two modalities; `None` without any.
    pub fn of(present: [bool; 2]) -> Option<MissingCase> {
        match present {
            [true, true] => Some(MissingCase::Complete),
            [false, true] => Some(MissingCase::MissingFirst),
            [true, false] => Some(MissingCase::MissingSecond),
            [false, false] => None,
        }
    }

    /// Returns the name of the case in the names of parameters.
    pub fn name(self) -> &'static str {
        match self {
            MissingCase::Complete => "complete",
            MissingCase::MissingFirst => "missing_first",
            MissingCase::MissingSecond => "missing_second",
        }
    }
}

/// The sizes of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptConfig {
    /// Prompts in a block; at attention level half of them are keys, and half are values.
    pub length: usize,
    /// Blocks with prompts, from the first one on. An encoder that has fewer blocks has prompts in
    /// all of them.
    pub layers: usize,
}

impl Default for PromptConfig {
    /// Returns the values of Lee et al. 2023 (section 4): 16 prompts in each of the first 6 blocks.
    fn default() -> Self {
        PromptConfig {
            length: 16,
            layers: 6,
        }
    }
}

impl PromptConfig {
    /// Returns the shape of one case's prompts in an encoder.
    pub fn shape(&self, config: &EncoderConfig) -> [usize; 3] {
        let layers = self.layers.min(config.layers);
        [layers, self.length, config.hidden]
    }
}

/// The prompts of one encoder.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// Where they enter a block.
    pub level: PromptLevel,
    /// The prompts of each of [`MissingCase::ALL`], `layers x length x d`.
    pub cases: [Tensor; 3],
}

impl Prompts {
    /// Draws new prompts from a normal distribution with standard deviation 0.02. `encoder` numbers
    /// the encoder to the random generator.
    ///
    /// # Errors
    /// There is no prompt, or at attention level their number is odd.
    pub fn new(
        config: &EncoderConfig,
        level: PromptLevel,
        sizes: &PromptConfig,
        seed: u64,
        encoder: u32,
    ) -> Result<Prompts> {
        ensure!(sizes.length > 0 && sizes.layers > 0, "prompts of no length");
        ensure!(
            level == PromptLevel::Input || sizes.length.is_multiple_of(2),
            "{} prompts cannot be halved into keys and values",
            sizes.length
        );
        let new = |case: u32| {
            let mut rng = Rng::new(seed, &[INIT_PROMPTS, encoder, case]);
            normal(&mut rng, sizes.shape(config).to_vec(), PROMPT_STD)
        };
        Ok(Prompts {
            level,
            cases: [new(0)?, new(1)?, new(2)?],
        })
    }

    /// Returns the prompts of one block as rows that can stand beside those of the tokens or, at
    /// attention level, beside their queries, keys and values: `count` rows for each case in turn.
    pub(super) fn rows_of_block(&self, block: usize) -> Result<Tensor> {
        let of_case = |prompts: &Tensor| -> candle_core::Result<Tensor> {
            let prompts = prompts.get(block)?;
            if self.level == PromptLevel::Input {
                return Ok(prompts);
            }
            let half = prompts.dim(0)? / 2;
            let (keys, values) = (prompts.narrow(0, 0, half)?, prompts.narrow(0, half, half)?);
            Tensor::cat(&[&keys.zeros_like()?, &keys, &values], 1)
        };
        let [a, b, c] = &self.cases;
        let cases = [of_case(a)?, of_case(b)?, of_case(c)?];
        Ok(Tensor::cat(&cases, 0)?.contiguous()?)
    }

    /// Returns the gradient of one case's prompts in one block, `length x d`, given that of their
    /// rows in [`Prompts::rows_of_block`].
    pub(super) fn gradient_of_rows(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        if self.level == PromptLevel::Input {
            return Ok(rows.clone());
        }
        let d = rows.dim(1)? / 3;
        Tensor::cat(&[rows.narrow(1, d, d)?, rows.narrow(1, 2 * d, d)?], 0)
    }

    /// Returns the rows that a sequence gets in a block.
    pub(super) fn count(&self) -> Result<usize> {
        let (_, length, _) = self.cases[0].dims3()?;
        Ok(match self.level {
            PromptLevel::Input => length,
            PromptLevel::Attention => length / 2,
        })
    }
}

/// The prompts that the sequences of one forward pass get.
#[derive(Clone, Copy)]
pub struct SequencePrompts<'a> {
    /// The prompts of the encoder.
    pub prompts: &'a Prompts,
    /// Which modality the sample of each sequence lacks, in the order of the sequences.
    pub cases: &'a [MissingCase],
}
