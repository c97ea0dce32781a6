//! Assigns classes, splits and cues to the synthetic samples.
//!
//! Everything here is a function of counts and a seed; it knows no names and no media.

use std::ops::RangeInclusive;

use anyhow::bail;
use util::rng::Rng;

/// The number of samples from which a tree has the published dataset's share of test samples.
pub const LARGE_TREE: usize = 2000;

/// The share of test samples in a tree of fewer than [`LARGE_TREE`] samples.
const SMALL_TREE_TEST_SHARE: f64 = 0.25;

/// The stream of random numbers that assigns cues.
const ASSIGN: u32 = 50;

/// Which modalities of a sample carry its class.
///
/// The other modality then has a content that occurs with every class alike, so that both
/// modalities together determine the class of every sample, and one alone that of 70 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// Both modalities carry the class.
    Both,
    /// Only the first modality carries the class: audio, or the image.
    First,
    /// Only the second modality carries the class: video, or the text.
    Second,
}

impl Cue {
    /// The shares of `Both` and of `First`; all others are `Second`.
    const SHARES: (f64, f64) = (0.4, 0.3);

    /// Whether the first modality carries the class.
    pub fn in_first(self) -> bool {
        self != Cue::Second
    }

    /// Whether the second modality carries the class.
    pub fn in_second(self) -> bool {
        self != Cue::First
    }

    /// Assigns cues to `n` samples of one class and split, in random order. Their counts are
    /// [`Cue::SHARES`] of `n`, rounded.
    pub fn assign(n: usize, rng: &mut Rng) -> Vec<Cue> {
        // A random offset before rounding keeps the shares right over many small groups.
        let offset = rng.uniform();
        let end = |share: f64| ((share * n as f64 + offset).floor() as usize).min(n);
        let (both_end, first_end) = (end(Cue::SHARES.0), end(Cue::SHARES.0 + Cue::SHARES.1));
        let mut cues: Vec<Cue> = (0..n)
            .map(|i| match i {
                i if i < both_end => Cue::Both,
                i if i < first_end => Cue::First,
                _ => Cue::Second,
            })
            .collect();
        shuffle(&mut cues, rng);
        cues
    }
}

/// Shuffles in place (Fisher and Yates).
pub fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.below(i as u32 + 1) as usize);
    }
}

/// Returns the number of test samples among `n` of one class, in a tree of `total` samples.
///
/// A small tree gets a quarter, a large one the published dataset's share. A class of two or more
/// samples gets at least one.
pub fn test_count(n: usize, total: usize, published_share: f64) -> usize {
    let share = if total < LARGE_TREE {
        SMALL_TREE_TEST_SHARE
    } else {
        published_share
    };
    ((n as f64 * share).round() as usize).clamp(usize::from(n > 1), n)
}

/// What a synthetic sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The index of its class.
    pub class: usize,
    /// The index of its split in the shares that [`assign`] was given.
    pub split: usize,
    /// The modalities that carry the class.
    pub cue: Cue,
}

/// Assigns a class, a split and a cue to each of `samples` samples, class by class.
///
/// Classes get equal numbers of samples. Within a class, each split but the first gets its share,
/// the first gets the rest. What rounding leaves of a split's share is carried over to the next
/// class, so that small classes get a sample of that split now and then; a class with at least as
/// many samples as there are splits gets one of each.
pub fn assign(classes: usize, samples: usize, shares: &[f64], seed: u64) -> Vec<Assignment> {
    let mut carried = vec![0.0; shares.len()];
    let mut assignments = Vec::with_capacity(samples);
    for class in 0..classes {
        let rng = &mut Rng::new(seed, &[ASSIGN, class as u32]);
        let n = samples / classes + usize::from(class < samples % classes);
        let mut counts = vec![0; shares.len()];
        let mut left = n - usize::from(n > 1);
        for split in 1..shares.len() {
            carried[split] += n as f64 * shares[split];
            let least = usize::from(n >= shares.len());
            let count = (carried[split].round().max(0.0) as usize)
                .max(least)
                .min(left);
            carried[split] = (carried[split] - count as f64).clamp(-1.0, 1.0);
            counts[split] = count;
            left -= count;
        }
        counts[0] = n - counts.iter().sum::<usize>();
        for (split, count) in counts.into_iter().enumerate() {
            let cues = Cue::assign(count, rng).into_iter();
            assignments.extend(cues.map(|cue| Assignment { class, split, cue }));
        }
    }
    assignments
}

/// Returns the splits' shares of a tree: the published ones, the last of which (test) is enlarged
/// in a small tree.
pub fn split_shares(samples: usize, published: &[f64]) -> Vec<f64> {
    let mut shares = published.to_vec();
    if let Some(test) = shares.last_mut().filter(|_| samples < LARGE_TREE) {
        *test = SMALL_TREE_TEST_SHARE;
    }
    shares
}

/// Returns the name and the number of samples of each split.
pub fn split_counts(
    names: &[&'static str],
    assignments: &[Assignment],
) -> Vec<(&'static str, usize)> {
    let count = |split| assignments.iter().filter(|one| one.split == split).count();
    let names = names.iter().enumerate();
    names.map(|(split, &name)| (name, count(split))).collect()
}

/// Returns an error unless the dataset's file names allow that many samples.
pub fn check_samples(
    title: &str,
    samples: usize,
    allowed: RangeInclusive<usize>,
) -> anyhow::Result<()> {
    if !allowed.contains(&samples) {
        bail!(
            "--samples {samples}: a miniature {title} takes {} to {}; choose a number between",
            allowed.start(),
            allowed.end()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn cues_keep_their_shares() {
        let mut rng = Rng::new(1, &[]);
        let many: Vec<Cue> = (0..500).flat_map(|_| Cue::assign(7, &mut rng)).collect();
        let share = |cue| many.iter().filter(|&&one| one == cue).count() as f64 / many.len() as f64;
        assert!((share(Cue::Both) - 0.4).abs() < 0.02);
        assert!((share(Cue::First) - 0.3).abs() < 0.02);
        let ten = Cue::assign(10, &mut rng);
        assert_eq!(ten.iter().filter(|cue| cue.in_first()).count(), 7);
    }

    #[test]
    fn every_class_is_in_every_split_if_it_has_enough_samples() {
        let shares = [0.65, 0.1, 0.25];
        for (samples, in_every_split) in [
            (24, false),
            (28, false),
            (84, true),
            (224, true),
            (1000, true),
        ] {
            let assignments = assign(28, samples, &shares, 3);
            assert_eq!(assignments.len(), samples);
            let mut groups: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            let mut splits = [0; 3];
            for one in &assignments {
                *groups.entry((one.class, one.split)).or_default() += 1;
                splits[one.split] += 1;
            }
            assert!(
                !in_every_split || groups.len() == 3 * 28,
                "{samples}: {groups:?}"
            );
            assert!(splits.iter().all(|&n| n > 0), "{samples}: {splits:?}");
            if samples != 84 {
                for (count, share) in splits.iter().zip(shares) {
                    let wanted = share * samples as f64;
                    assert!(
                        (*count as f64 - wanted).abs() <= 0.03 * samples as f64 + 1.0,
                        "{samples}: {splits:?}"
                    );
                }
            }
        }
    }
}
