//! Rows that stand behind those of each sequence of a packed matrix, and their gradients.

use super::prompts::MissingCase;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use engine::{Rows, layers};

/// The sum over sequences of the gradients of each case's rows; `None` for a case that no sequence
/// has.
pub(super) type CaseSums = [Option<Tensor>; 3];

/// Rows that stand behind those of each sequence: one of three groups of equally many rows, chosen
/// by the sequence's case.
pub(super) struct AppendedRows {
    /// The sequences with these rows.
    pub(super) rows: Rows,
    /// For each row of the result, its place in the tokens followed by the groups.
    order: Tensor,
    /// The places of the tokens in the result.
    tokens: Tensor,
    /// For each case, the places of its sequences' appended rows in the result.
    appended: [Option<Tensor>; 3],
    /// The number of rows in a group.
    count: usize,
}

impl AppendedRows {
    /// Lays out `count` more rows behind each sequence of `rows`, for matrices on a device.
    ///
    /// # Errors
    /// There is not one case for each sequence.
    pub(super) fn new(
        rows: &Rows,
        cases: &[MissingCase],
        count: usize,
        device: &Device,
    ) -> Result<AppendedRows> {
        ensure!(cases.len() == rows.sequences(), "a case for each sequence");
        let (mut offsets, mut order, mut tokens) = (vec![0], Vec::new(), Vec::new());
        let mut appended: [Vec<u32>; 3] = Default::default();
        for (ends, case) in rows.offsets.windows(2).zip(cases) {
            tokens.extend((0..ends[1] - ends[0]).map(|i| (order.len() + i) as u32));
            order.extend((ends[0]..ends[1]).map(|row| row as u32));
            let group = rows.len() + *case as usize * count;
            appended[*case as usize].extend((0..count).map(|i| (order.len() + i) as u32));
            order.extend((group..group + count).map(|row| row as u32));
            offsets.push(order.len());
        }
        let place = |places: Vec<u32>| -> Result<Option<Tensor>> {
            match places.is_empty() {
                true => Ok(None),
                false => Ok(Some(Tensor::new(places, device)?)),
            }
        };
        let [a, b, c] = appended;
        Ok(AppendedRows {
            rows: Rows::new(offsets, rows.samples.clone()),
            order: Tensor::new(order, device)?,
            tokens: Tensor::new(tokens, device)?,
            appended: [place(a)?, place(b)?, place(c)?],
            count,
        })
    }

    /// Appends rows of `groups` (`3 count x width`) to each sequence of `tokens` (`n x width`).
    pub(super) fn append(&self, tokens: &Tensor, groups: &Tensor) -> candle_core::Result<Tensor> {
        Tensor::cat(&[tokens, groups], 0)?.index_select(&self.order, 0)
    }

    /// Appends rows of zeros: the gradient of the argument of [`AppendedRows::tokens`], given that of
    /// its result.
    pub(super) fn append_zeros(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let shape = (3 * self.count, tokens.dim(1)?);
        let zeros = Tensor::zeros(shape, tokens.dtype(), tokens.device())?;
        self.append(tokens, &zeros)
    }

    /// Returns the rows of the tokens alone.
    pub(super) fn tokens(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        rows.index_select(&self.tokens, 0)
    }

    /// Returns the gradient of each group, `count x width`, given that of the result of
    /// [`AppendedRows::append`]; in f32 if that is bf16.
    pub(super) fn group_gradients(&self, rows: &Tensor) -> candle_core::Result<CaseSums> {
        let width = rows.dim(1)?;
        let sum = |places: &Option<Tensor>| -> candle_core::Result<Option<Tensor>> {
            let Some(places) = places else {
                return Ok(None);
            };
            let own = rows.index_select(places, 0)?;
            let sequences = own.dim(0)? / self.count;
            let sum = layers::sum_rows(&own.reshape((sequences, self.count * width))?)?;
            sum.reshape((self.count, width)).map(Some)
        };
        let [a, b, c] = &self.appended;
        Ok([sum(a)?, sum(b)?, sum(c)?])
    }
}

/// Keys and values that join those of the tokens in one block's attention. Their queries are zero,
/// and nobody reads what these attend to.
#[derive(Clone, Copy)]
pub(super) struct AttentionPrompts<'a> {
    /// The rows behind each sequence.
    pub(super) appended: &'a AppendedRows,
    /// Queries, keys and values of these rows for each case in turn.
    pub(super) qkv: &'a Tensor,
}
