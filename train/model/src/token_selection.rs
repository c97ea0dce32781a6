//! Token selection (equation 4): the two tokens of each sample that are fused, and the pairs of
//! mask token and class token that the alignment loss compares (equation 6).

use crate::pair::{Pair, Slot};
use crate::variant::MissingToken;
use anyhow::{Result, bail};
use candle_core::{Tensor, Var};

/// The class and mask tokens of the samples that have a modality.
pub(crate) struct ModalityTokens<'a> {
    /// The numbers of these samples in the batch, ascending.
    pub(crate) rows: &'a [usize],
    /// The class tokens, `rows x d`.
    pub(crate) class: Tensor,
    /// The mask tokens, `rows x d`.
    pub(crate) mask: Tensor,
}

impl ModalityTokens<'_> {
    /// Copies class and mask tokens into variables, whose gradients can be asked for.
    pub(crate) fn variables(&self) -> Result<[Var; 2]> {
        Ok([
            Var::from_tensor(&self.class)?,
            Var::from_tensor(&self.mask)?,
        ])
    }

    /// Returns the row of a sample of the batch.
    fn row_of(&self, sample: usize) -> Result<u32> {
        match self.rows.binary_search(&sample) {
            Ok(row) => Ok(row as u32),
            Err(_) => bail!("sample {sample} of the batch is marked present but has no input"),
        }
    }
}

/// The rule by which the two tokens of a sample are selected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SelectionRule {
    /// What stands in for the class token of a missing modality.
    pub(crate) missing: MissingToken,
    /// The only modality in use, in a unimodal baseline; the token of the other one is zero.
    pub(crate) only: Option<Slot>,
}

/// The origin of one selected token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Source {
    /// The class token of a modality.
    Class(Slot),
    /// The mask token of a modality's encoder.
    Mask(Slot),
    /// A token of zeros.
    #[default]
    Zeros,
}

impl SelectionRule {
    /// Chooses the two tokens of every sample (equation 4).
    pub(crate) fn sources(&self, present: &[[bool; 2]]) -> Result<Vec<Pair<Source>>> {
        let samples = present.iter().enumerate().map(|(sample, has)| {
            if *has == [false, false] && self.only.is_none() {
                bail!("sample {sample} of the batch has no modality at all");
            }
            let source = |slot: Slot| self.source(slot, has[slot.index()]);
            Ok(Pair::from(Slot::ALL.map(source)))
        });
        samples.collect()
    }

    /// Chooses the token that stands for modality `slot` of a sample which `has` that modality or
    /// not.
    fn source(&self, slot: Slot, has: bool) -> Source {
        match (self.only, has, self.missing) {
            (Some(only), ..) if only != slot || !has => Source::Zeros,
            (_, true, _) | (_, false, MissingToken::Input) => Source::Class(slot),
            (_, false, MissingToken::Zeros) => Source::Zeros,
            (_, false, MissingToken::Mask) => Source::Mask(slot.other()),
        }
    }
}

/// Selects `(T_1, T_2)` for every sample, each `n x d` (equation 4). `mask_token` is any mask token
/// of the model, `1 x d`: it gives width, number type and device.
pub(crate) fn select(
    present: &[[bool; 2]],
    tokens: &Pair<Option<ModalityTokens>>,
    rule: SelectionRule,
    mask_token: &Tensor,
) -> Result<Pair<Tensor>> {
    // All tokens under one another: CLS_1, MT_1, CLS_2, MT_2, and one row of zeros.
    let mut parts = Vec::new();
    let mut first_row = Pair::<u32>::default();
    let mut total = 0;
    for (slot, tokens) in tokens.as_ref().entries() {
        let Some(tokens) = tokens else { continue };
        first_row[slot] = total;
        total += 2 * tokens.rows.len() as u32;
        parts.extend([tokens.class.clone(), tokens.mask.clone()]);
    }
    let zeros = total;
    parts.push(mask_token.zeros_like()?);
    let all = Tensor::cat(&parts, 0)?;
    let tokens_of = |slot: Slot, sample: usize| match &tokens[slot] {
        Some(tokens) => Ok(tokens),
        None => bail!("sample {sample} of the batch is marked present but its encoder did not run"),
    };
    let mut selected = Pair::<Vec<u32>>::default();
    for (sample, sources) in rule.sources(present)?.into_iter().enumerate() {
        for (slot, source) in sources.entries() {
            selected[slot].push(match source {
                Source::Zeros => zeros,
                Source::Class(owner) => {
                    first_row[owner] + tokens_of(owner, sample)?.row_of(sample)?
                }
                Source::Mask(owner) => {
                    let tokens = tokens_of(owner, sample)?;
                    first_row[owner] + tokens.rows.len() as u32 + tokens.row_of(sample)?
                }
            });
        }
    }
    selected.try_map(|rows| Ok(all.index_select(&Tensor::new(rows, all.device())?, 0)?))
}

/// A mask token and the class token that it stands for if that modality is missing, of every
/// complete sample: each `n x d`.
pub(crate) struct AlignmentPair {
    /// The mask tokens of one modality's encoder.
    pub(crate) mask: Tensor,
    /// The class tokens of the other modality.
    pub(crate) class: Tensor,
}

/// Returns the numbers of the complete samples, and for each modality its mask tokens with the
/// other modality's class tokens: (MT_1, CLS_2) and (MT_2, CLS_1). `None` if no sample is complete.
pub(crate) fn alignment_pairs(
    present: &[[bool; 2]],
    tokens: &Pair<Option<ModalityTokens>>,
) -> Result<Option<(Vec<usize>, Pair<AlignmentPair>)>> {
    let (Some(first), Some(second)) = (&tokens.m1, &tokens.m2) else {
        return Ok(None);
    };
    let samples: Vec<usize> = (0..present.len())
        .filter(|i| present[*i] == [true, true])
        .collect();
    if samples.is_empty() {
        return Ok(None);
    }
    let rows = |tokens: &ModalityTokens| -> Result<Tensor> {
        let rows = samples.iter().map(|sample| tokens.row_of(*sample));
        let rows = rows.collect::<Result<Vec<u32>>>()?;
        Ok(Tensor::new(rows, tokens.class.device())?)
    };
    let (rows1, rows2) = (rows(first)?, rows(second)?);
    let pairs = Pair {
        m1: AlignmentPair {
            mask: first.mask.index_select(&rows1, 0)?,
            class: second.class.index_select(&rows2, 0)?,
        },
        m2: AlignmentPair {
            mask: second.mask.index_select(&rows2, 0)?,
            class: first.class.index_select(&rows1, 0)?,
        },
    };
    Ok(Some((samples, pairs)))
}
