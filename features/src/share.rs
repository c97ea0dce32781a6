//! The part of each batch that one of several readers decodes.

use std::ops::Range;

/// The place of a reader among the readers that share the work on every batch. The default is that
/// of the only reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The number of the reader, counted from 0.
    pub rank: usize,
    /// The number of readers.
    pub count: usize,
}

impl Default for Share {
    fn default() -> Self {
        Share { rank: 0, count: 1 }
    }
}

impl Share {
    /// Returns this reader's samples of a batch of `samples`: consecutive ones, in the order of the
    /// ranks, of which two readers have equally many or one more. A reader has none where a batch
    /// has fewer samples than there are readers.
    pub fn range(&self, samples: usize) -> Range<usize> {
        samples * self.rank / self.count..samples * (self.rank + 1) / self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_a_batch_once_and_evenly() {
        for count in 1..7 {
            for samples in 0..20 {
                let shares = (0..count).map(|rank| Share { rank, count }.range(samples));
                let shares: Vec<_> = shares.collect();
                let joined: Vec<usize> = shares.iter().cloned().flatten().collect();
                assert_eq!(joined, (0..samples).collect::<Vec<_>>());
                let least = samples / count;
                assert!(
                    shares
                        .iter()
                        .all(|s| (least..=least + 1).contains(&s.len()))
                );
            }
        }
        assert_eq!(Share::default().range(5), 0..5);
    }
}
