//! What the stream hands to a model: one batch, each modality's present samples side by side.

/// A batch of samples in the epoch's order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Sample ids.
    pub ids: Vec<String>,
    /// Class indices per sample: one for single-label data, any number for multi-label.
    pub labels: Vec<Vec<u32>>,
    /// Per sample, which of the two modalities it has.
    pub present: Vec<[bool; 2]>,
    /// Per modality, the samples that have it; none where no sample has.
    pub inputs: [Option<ModalityBatch>; 2],
    /// Samples of this epoch that are consumed once this batch is used.
    pub consumed: u64,
}

/// One modality of a batch.
#[derive(Clone, Debug)]
pub struct ModalityBatch {
    /// Which samples of the batch have it, ascending; `data` holds these only.
    pub rows: Vec<usize>,
    /// Their values, in the order of `rows`.
    pub data: ModalityData,
}

/// Model-ready values, row-major.
#[derive(Clone, Debug)]
pub enum ModalityData {
    /// `[rows, frames, bins]`: log-mel, zero-padded, then normalised.
    Mel {
        /// Values.
        values: Vec<f32>,
        /// Frames after padding.
        frames: usize,
        /// Mel bins.
        bins: usize,
    },
    /// `[rows, images_per_sample, 3, size, size]`: normalised RGB.
    Pixels {
        /// Values.
        values: Vec<f32>,
        /// Frames of a video, 1 for an image.
        images_per_sample: usize,
        /// Side in pixels.
        size: usize,
    },
    /// `[rows, max_len]`: word pieces, padded with 0.
    Tokens {
        /// Word-piece ids.
        ids: Vec<u32>,
        /// Word pieces per row, class and separator included.
        lengths: Vec<usize>,
        /// Columns.
        max_len: usize,
    },
}

impl ModalityBatch {
    /// The part of the given samples of the batch; none if none of them has the modality.
    pub fn pick(&self, samples: &[usize]) -> Option<ModalityBatch> {
        let places: Vec<usize> = samples
            .iter()
            .filter_map(|s| self.rows.binary_search(s).ok())
            .collect();
        if places.is_empty() {
            return None;
        }
        let part = |values: &[f32]| -> Vec<f32> {
            let each = values.len() / self.rows.len();
            places
                .iter()
                .flat_map(|at| &values[at * each..(at + 1) * each])
                .copied()
                .collect()
        };
        let data = match &self.data {
            ModalityData::Mel {
                values,
                frames,
                bins,
            } => ModalityData::Mel {
                values: part(values),
                frames: *frames,
                bins: *bins,
            },
            ModalityData::Pixels {
                values,
                images_per_sample,
                size,
            } => ModalityData::Pixels {
                values: part(values),
                images_per_sample: *images_per_sample,
                size: *size,
            },
            ModalityData::Tokens {
                ids,
                lengths,
                max_len,
            } => ModalityData::Tokens {
                ids: places
                    .iter()
                    .flat_map(|at| &ids[at * max_len..(at + 1) * max_len])
                    .copied()
                    .collect(),
                lengths: places.iter().map(|at| lengths[*at]).collect(),
                max_len: *max_len,
            },
        };
        Some(ModalityBatch {
            rows: places.iter().map(|at| self.rows[*at]).collect(),
            data,
        })
    }
}
