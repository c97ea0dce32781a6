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
}

/// [`Rows`] as a device's kernels read them, all `u32`.
#[derive(Clone, Debug)]
pub struct DeviceTables {
    /// The rows at which sequences begin, and the total as the last entry.
    pub offsets: Tensor,
    /// The number of each sequence's sample.
    pub samples: Tensor,
    /// The sample and the position of each row, `n x 2`.
    pub positions: Tensor,
}

impl Rows {
    /// Makes the layout in which sequence `s` is rows `offsets[s]..offsets[s + 1]` and belongs to
    /// sample `samples[s]`.
    pub fn new(offsets: Vec<usize>, samples: Vec<u32>) -> Rows {
        Rows {
            packed: PackedRows::new(offsets, samples),
            tables: OnceLock::new(),
        }
    }

    /// Returns the tables on a device. They are made on the first call, for the device of that
    /// call.
    pub fn tables(&self, device: &Device) -> Result<DeviceTables> {
        if let Some(tables) = self.tables.get() {
            return Ok(tables.clone());
        }
        let offsets: Vec<u32> = self.offsets.iter().map(|o| *o as u32).collect();
        let mut positions = Vec::with_capacity(2 * self.len());
        for (ends, sample) in self.offsets.windows(2).zip(&self.samples) {
            positions.extend((0..ends[1] - ends[0]).flat_map(|at| [*sample, at as u32]));
        }
        let made = DeviceTables {
            offsets: Tensor::new(offsets, device)?,
            samples: Tensor::new(self.samples.as_slice(), device)?,
            positions: Tensor::from_vec(positions, (self.len(), 2), device)?,
        };
        Ok(self.tables.get_or_init(|| made).clone())
    }
}

impl Deref for Rows {
    type Target = PackedRows;

    fn deref(&self) -> &PackedRows {
        &self.packed
    }
}
