//! Packed rows of a token matrix, with the tables that a device's kernels read.

use crate::cpu::layout::PackedRows;
use candle_core::{Device, Result, Tensor};
use std::ops::Deref;
use std::sync::OnceLock;

/// The layout of a packed token matrix: [`PackedRows`], which it dereferences to, and a copy of it
/// on a device.
#[derive(Clone, Debug)]
pub struct Rows {
    packed: PackedRows,
    tables: OnceLock<DeviceTables>,
    positions: OnceLock<Tensor>,
}

/// [`Rows`] as a device's kernels read them, all `u32`.
#[derive(Clone, Debug)]
pub struct DeviceTables {
    /// The rows at which sequences begin, and the total as the last entry.
    pub offsets: Tensor,
    /// The number of each sequence's sample.
    pub samples: Tensor,
}

impl Rows {
    /// Makes the layout in which sequence `s` is rows `offsets[s]..offsets[s + 1]` and belongs to
    /// sample `samples[s]`.
    pub fn new(offsets: Vec<usize>, samples: Vec<u32>) -> Rows {
        Rows {
            packed: PackedRows::new(offsets, samples),
            tables: OnceLock::new(),
            positions: OnceLock::new(),
        }
    }

    /// Returns the tables on a device. They are made on the first call, for the device of that
    /// call.
    pub fn tables(&self, device: &Device) -> Result<&DeviceTables> {
        if let Some(tables) = self.tables.get() {
            return Ok(tables);
        }
        // One copy for both. It is small: a table of all rows would be a copy that waits for the
        // GPU, so that of their positions is made there.
        let mut both: Vec<u32> = self.offsets.iter().map(|o| *o as u32).collect();
        let ends = both.len();
        both.extend(&self.samples);
        let both = Tensor::new(both, device)?;
        let made = DeviceTables {
            offsets: both.narrow(0, 0, ends)?,
            samples: both.narrow(0, ends, self.samples.len())?,
        };
        Ok(self.tables.get_or_init(|| made))
    }

    /// Returns the sample and the position of each row on a device, `n x 2`, which `make` makes
    /// from the tables on the first call.
    pub(crate) fn positions(
        &self,
        device: &Device,
        make: impl FnOnce(&DeviceTables) -> Result<Tensor>,
    ) -> Result<&Tensor> {
        if let Some(positions) = self.positions.get() {
            return Ok(positions);
        }
        let made = make(self.tables(device)?)?;
        Ok(self.positions.get_or_init(|| made))
    }
}

impl Deref for Rows {
    type Target = PackedRows;

    fn deref(&self) -> &PackedRows {
        &self.packed
    }
}
