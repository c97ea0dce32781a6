//! The forward and backward pass of a frozen encoder with missing-aware prompts.
//!
//! The paper puts prompts in front of the tokens, and here they are behind them. That is the same
//! function, since attention knows no order apart from the position embeddings, which are added
//! before; and the class token stays the first row of its sequence. There is no mask token.

use super::appended_rows::{AppendedRows, AttentionPrompts, CaseSums};
use super::block::DropoutConfig;
use super::prompts::{PromptLevel, Prompts, SequencePrompts};
use super::{Encoder, EncoderInput, EncoderOutput, StoredActivations, Tape};
use anyhow::Result;
use candle_core::Tensor;
use engine::Rows;

/// The prompts of one forward pass, as rows of each block.
pub(super) struct PromptRows {
    level: PromptLevel,
    /// At input level, for each block with prompts its sequences; at attention level the same ones
    /// for all.
    appended: Vec<AppendedRows>,
    /// For each block with prompts, those of all cases: see [`Prompts::rows_of_block`].
    blocks: Vec<Tensor>,
}

impl PromptRows {
    /// Lays out the prompts behind sequences of tokens like those of `x`.
    fn new(of: &SequencePrompts, x: &Tensor, rows: &Rows) -> Result<PromptRows> {
        let SequencePrompts { prompts, cases } = *of;
        let (blocks, _, _) = prompts.cases[0].dims3()?;
        let mut appended: Vec<AppendedRows> = Vec::new();
        let layouts = match prompts.level {
            PromptLevel::Input => blocks,
            PromptLevel::Attention => 1,
        };
        for _ in 0..layouts {
            let before = appended.last().map_or(rows, |appended| &appended.rows);
            let next = AppendedRows::new(before, cases, prompts.count()?, x.device())?;
            appended.push(next);
        }
        let rows_of_block = |block| Ok(prompts.rows_of_block(block)?.to_dtype(x.dtype())?);
        Ok(PromptRows {
            level: prompts.level,
            appended,
            blocks: (0..blocks).map(rows_of_block).collect::<Result<_>>()?,
        })
    }

    /// Returns the sequences in the input of a block; `None` if they are those of the tokens.
    pub(super) fn sequences(&self, block: usize) -> Option<&Rows> {
        match self.level {
            PromptLevel::Input => {
                let latest = self.appended.get(block).or(self.appended.last());
                latest.map(|appended| &appended.rows)
            }
            PromptLevel::Attention => None,
        }
    }

    /// Returns the rows that join the sequences before a block, and the prompts in them.
    fn at_input(&self, block: usize) -> Option<(&AppendedRows, &Tensor)> {
        match self.level {
            PromptLevel::Input => self.appended.get(block).zip(self.blocks.get(block)),
            PromptLevel::Attention => None,
        }
    }

    /// Appends the prompts that join the sequences before a block.
    pub(super) fn enter(&self, block: usize, x: Tensor) -> candle_core::Result<Tensor> {
        match self.at_input(block) {
            Some((appended, prompts)) => appended.append(&x, prompts),
            None => Ok(x),
        }
    }

    /// Returns the gradient of what [`PromptRows::enter`] was given, and adds those of the prompts
    /// to `sums`.
    pub(super) fn leave(
        &self,
        block: usize,
        dx: Tensor,
        sums: &mut Vec<CaseSums>,
    ) -> candle_core::Result<Tensor> {
        let Some((appended, _)) = self.at_input(block) else {
            return Ok(dx);
        };
        sums.push(appended.group_gradients(&dx)?);
        appended.tokens(&dx)
    }

    /// Returns the keys and values that join the attention of a block.
    pub(super) fn in_attention(&self, block: usize) -> Option<AttentionPrompts<'_>> {
        match self.level {
            PromptLevel::Input => None,
            PromptLevel::Attention => Some(AttentionPrompts {
                appended: self.appended.first()?,
                qkv: self.blocks.get(block)?,
            }),
        }
    }
}

impl Encoder {
    /// Runs the encoder with prompts, without mask token and adapters. The second token of each
    /// sequence in the output is of no use.
    ///
    /// With `stored` of `None` the tape has nothing for a backward pass, as evaluation needs none.
    pub fn forward_prompted(
        &self,
        input: &EncoderInput,
        prompts: &SequencePrompts,
        dropout: &DropoutConfig,
        stored: Option<StoredActivations>,
    ) -> Result<(EncoderOutput, Tape)> {
        // The embedding layer appends a mask token, which is taken away again.
        let none = prompts.prompts.cases[0].get(0)?.narrow(0, 0, 1)?;
        let (x, rows) = self
            .embedding
            .tokens(input, &none.zeros_like()?.contiguous()?, dropout)?;
        let x = match &self.pre_norm {
            Some(norm) => norm.forward(&x)?.0,
            None => x,
        };
        let (x, rows) = without_last_rows(&x, &rows)?;
        let prompts = PromptRows::new(prompts, &x, &rows)?;
        self.forward_blocks(x, rows, Some(prompts), None, dropout, stored)
    }

    /// Computes the gradients of the prompts of each case, given that of the output; `None` for a
    /// case that no sequence has. Frees the tape as it goes.
    pub fn backward_prompted(
        &self,
        tape: Tape,
        gradient: &EncoderOutput,
        prompts: &Prompts,
    ) -> Result<[Option<Tensor>; 3]> {
        let d_last = self.final_norm_backward(&tape, gradient)?;
        drop(tape.last);
        let gradients = self.blocks_backward(d_last, tape.blocks, &tape.layout, None, None)?;
        let of_case = |case: usize| -> Result<Option<Tensor>> {
            let blocks = gradients.prompts.iter().rev().flat_map(|sums| &sums[case]);
            let blocks = blocks.map(|rows| prompts.gradient_of_rows(rows));
            let blocks = blocks.collect::<candle_core::Result<Vec<Tensor>>>()?;
            match blocks.is_empty() {
                true => Ok(None),
                false => Ok(Some(Tensor::stack(&blocks, 0)?)),
            }
        };
        Ok([of_case(0)?, of_case(1)?, of_case(2)?])
    }
}

/// Removes the last row of each sequence.
fn without_last_rows(x: &Tensor, rows: &Rows) -> Result<(Tensor, Rows)> {
    let (mut kept, mut offsets) = (Vec::new(), vec![0]);
    for ends in rows.offsets.windows(2) {
        kept.extend((ends[0]..ends[1] - 1).map(|row| row as u32));
        offsets.push(kept.len());
    }
    let x = x.index_select(&Tensor::new(kept, x.device())?, 0)?;
    Ok((x, Rows::new(offsets, rows.samples.clone())))
}
