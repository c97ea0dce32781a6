//! The positions of packed rows, by which dropout draws its masks.

use super::launch::Argument;
use super::{Gpu, THREADS, empty};
use crate::rows::Rows;
use candle_core::{DType, Result, Tensor};

impl Gpu {
    /// Returns the sample and the position of each row, `n x 2`, u32, on the device of `on`. They
    /// are made on the first call for `rows`, and live as long as these.
    pub fn positions<'a>(&self, rows: &'a Rows, on: &Tensor) -> Result<&'a Tensor> {
        rows.positions(on.device(), |tables| {
            let positions = empty((rows.len(), 2), DType::U32, on)?;
            let blocks = rows.longest().div_ceil(THREADS as usize);
            self.launch(
                "row_positions",
                [blocks, rows.sequences(), 1],
                THREADS,
                0,
                &[
                    self.address(&tables.offsets)?,
                    self.address(&tables.samples)?,
                    self.address(&positions)?,
                ],
            )?;
            Ok(positions)
        })
    }

    /// Returns the address of [`Gpu::positions`], or a null pointer if nothing is dropped, so that
    /// no kernel reads them.
    pub(super) fn dropped_positions(
        &self,
        rows: &Rows,
        is_dropped: bool,
        on: &Tensor,
    ) -> Result<Argument> {
        match is_dropped {
            true => self.address(self.positions(rows, on)?),
            false => self.optional(None),
        }
    }
}
