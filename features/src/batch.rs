//! One batch of a loader: the present samples of each modality side by side.

/// A batch of samples in the epoch's order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The samples' ids.
    pub ids: Vec<String>,
    /// The class indices of each sample: one for single-label data, any number for multi-label.
    pub labels: Vec<Vec<u32>>,
    /// Which modalities each sample has; a dataset of one modality has no second.
    pub present: Vec<[bool; 2]>,
    /// The inputs of each modality; `None` where no sample of the batch has it. Of a loader that
    /// decodes a [`Share`](crate::Share) of each batch, only the inputs of that share.
    pub inputs: [Option<ModalityBatch>; 2],
    /// The number of samples of this epoch that are consumed once this batch is used.
    pub consumed: u64,
}

/// One modality of a batch.
#[derive(Clone, Debug)]
pub struct ModalityBatch {
    /// The samples of the batch that `data` holds, ascending: those that have the modality.
    pub rows: Vec<usize>,
    /// The samples' values, in the order of `rows`.
    pub data: ModalityData,
}

/// What an encoder reads.
#[derive(Clone, Debug)]
pub enum ModalityData {
    /// Images, frames of a video or spectrograms, normalized.
    Dense {
        /// The values of all samples, row-major.
        values: Vec<f32>,
        /// The shape of one sample: `[images, 3, size, size]`, where images is the number of a
        /// video's frames and 1 for an image, or `[mel frames, mel bins]`.
        shape: Vec<usize>,
    },
    /// Text as word pieces, `[rows, max_len]`, padded with 0.
    Tokens {
        /// The ids of the word pieces.
        ids: Vec<u32>,
        /// The number of word pieces of each row, `[CLS]` and `[SEP]` included.
        lengths: Vec<usize>,
        /// The number of ids of each row, padding included.
        max_len: usize,
    },
}

impl ModalityData {
    /// Returns the number of images of one sample: the frames of a video, 1 for everything else.
    pub fn images_per_sample(&self) -> usize {
        match self {
            ModalityData::Dense { shape, .. } => match shape[..] {
                [images, _, _, _] => images,
                _ => 1,
            },
            ModalityData::Tokens { .. } => 1,
        }
    }
}

impl ModalityBatch {
    /// Returns the shape of the values of all rows.
    pub fn shape(&self) -> Vec<usize> {
        let sample = match &self.data {
            ModalityData::Dense { shape, .. } => shape.as_slice(),
            ModalityData::Tokens { max_len, .. } => std::slice::from_ref(max_len),
        };
        [&[self.rows.len()], sample].concat()
    }

    /// Returns the part that belongs to the given samples of the batch; `None` if none of them has
    /// the modality.
    pub fn pick(&self, samples: &[usize]) -> Option<ModalityBatch> {
        let positions: Vec<usize> = samples
            .iter()
            .filter_map(|s| self.rows.binary_search(s).ok())
            .collect();
        if positions.is_empty() {
            return None;
        }
        let data = match &self.data {
            ModalityData::Dense { values, shape } => {
                let each = values.len() / self.rows.len();
                ModalityData::Dense {
                    values: positions
                        .iter()
                        .flat_map(|at| &values[at * each..(at + 1) * each])
                        .copied()
                        .collect(),
                    shape: shape.clone(),
                }
            }
            ModalityData::Tokens {
                ids,
                lengths,
                max_len,
            } => ModalityData::Tokens {
                ids: positions
                    .iter()
                    .flat_map(|at| &ids[at * max_len..(at + 1) * max_len])
                    .copied()
                    .collect(),
                lengths: positions.iter().map(|at| lengths[*at]).collect(),
                max_len: *max_len,
            },
        };
        Some(ModalityBatch {
            rows: positions.iter().map(|at| self.rows[*at]).collect(),
            data,
        })
    }
}
