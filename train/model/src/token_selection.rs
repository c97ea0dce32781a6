//! Which tokens of a batch are fused, and which are compared: U2A's token selection and alignment.

use crate::u2a::MissingToken;
use anyhow::{Result, bail};
use candle_core::Tensor;
use candle_nn::loss::mse;

/// Class and mask tokens of the samples that have a modality, and which samples those are.
pub struct Tokens {
    /// Sample numbers in the batch, ascending.
    pub rows: Vec<usize>,
    /// `rows x d`.
    pub cls: Tensor,
    /// `rows x d`.
    pub mask: Tensor,
}

/// Position of `sample` among the rows of a modality.
fn position(tokens: &Tokens, sample: usize) -> Result<u32> {
    match tokens.rows.binary_search(&sample) {
        Ok(at) => Ok(at as u32),
        Err(_) => bail!("sample {sample} of the batch is marked present but has no input"),
    }
}

/// How the two tokens of a sample are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// What stands in for a missing modality.
    pub missing: MissingToken,
    /// The only modality in use, where there is but one; the other's token is zero.
    pub only: Option<usize>,
}

/// `(T_1, T_2)`, each `n x d`. `like` has width `d` and the number type.
pub fn select(
    present: &[[bool; 2]],
    tokens: &[Option<Tokens>; 2],
    how: Selection,
    like: &Tensor,
) -> Result<[Tensor; 2]> {
    let zero = Tensor::zeros((1, like.dim(0)?), like.dtype(), like.device())?;
    // All tokens under one another: CLS_1, MT_1, CLS_2, MT_2, and one row of zeros.
    let mut parts = Vec::new();
    let mut start = [[0u32; 2]; 2];
    let mut total = 0;
    for (m, t) in tokens.iter().enumerate() {
        let Some(t) = t else { continue };
        start[m] = [total, total + t.rows.len() as u32];
        total += 2 * t.rows.len() as u32;
        parts.extend([t.cls.clone(), t.mask.clone()]);
    }
    parts.push(zero);
    let all = Tensor::cat(&parts, 0)?;
    let mut picks: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
    for (sample, has) in present.iter().enumerate() {
        if *has == [false, false] && how.only.is_none() {
            bail!("sample {sample} of the batch has no modality at all");
        }
        for m in 0..2 {
            let (owner, which) = match (has[m], how.only, how.missing) {
                (_, Some(only), _) if only != m || !has[m] => {
                    picks[m].push(total);
                    continue;
                }
                (true, ..) | (false, _, MissingToken::Input) => (m, 0),
                (false, _, MissingToken::Zeros) => {
                    picks[m].push(total);
                    continue;
                }
                (false, _, MissingToken::Mask) => (1 - m, 1),
            };
            let Some(t) = &tokens[owner] else {
                bail!("sample {sample} of the batch is marked present but its encoder did not run")
            };
            picks[m].push(start[owner][which] + position(t, sample)?);
        }
    }
    let pick = |ids: &[u32]| -> Result<Tensor> {
        Ok(all.index_select(&Tensor::new(ids, all.device())?, 0)?)
    };
    Ok([pick(&picks[0])?, pick(&picks[1])?])
}

/// Over the complete samples: their numbers, and (MT_1, CLS_2), (MT_2, CLS_1).
#[allow(
    clippy::type_complexity,
    reason = "two pairs of tensors, named where they are used"
)]
pub fn complete(
    present: &[[bool; 2]],
    tokens: &[Option<Tokens>; 2],
) -> Result<Option<(Vec<usize>, [[Tensor; 2]; 2])>> {
    let [Some(first), Some(second)] = tokens else {
        return Ok(None);
    };
    let samples: Vec<usize> = (0..present.len())
        .filter(|i| present[*i] == [true, true])
        .collect();
    if samples.is_empty() {
        return Ok(None);
    }
    let rows = |t: &Tokens| -> Result<Tensor> {
        let ids = samples
            .iter()
            .map(|s| position(t, *s))
            .collect::<Result<Vec<u32>>>()?;
        Ok(Tensor::new(ids, t.cls.device())?)
    };
    let (a, b) = (rows(first)?, rows(second)?);
    let pairs = [
        [
            first.mask.index_select(&a, 0)?,
            second.cls.index_select(&b, 0)?,
        ],
        [
            second.mask.index_select(&b, 0)?,
            first.cls.index_select(&a, 0)?,
        ],
    ];
    Ok(Some((samples, pairs)))
}

/// The alignment loss; none where no sample is complete.
pub fn alignment(
    present: &[[bool; 2]],
    tokens: &[Option<Tokens>; 2],
    stop_gradient: bool,
) -> Result<Option<Tensor>> {
    let Some((_, pairs)) = complete(present, tokens)? else {
        return Ok(None);
    };
    let target = |t: &Tensor| if stop_gradient { t.detach() } else { t.clone() };
    let [forth, back] = pairs.map(|[mask, cls]| mse(&mask, &target(&cls)));
    Ok(Some((forth? + back?)?))
}
