//! Who is what: how a miniature deals its samples out to classes, splits and cues.
//!
//! Everything here is a function of counts and a random generator; no names, no media.

use anyhow::bail;
use util::rng::Rng;

/// From here on a tree is large enough for the real dataset's share of test samples.
pub const LARGE: usize = 2000;

/// Test samples among all of a tree that is not [`LARGE`].
pub const SMALL_TEST_SHARE: f64 = 0.25;

/// Streams of random numbers.
const DEAL: u32 = 50;

/// Which modalities of a sample show its class. The other one then shows something that goes with every class alike, so
/// that two modalities can tell every sample and one alone three quarters of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// Both do.
    Both,
    /// Only the first (m1: audio, or the image).
    First,
    /// Only the second (m2: video, or the text).
    Second,
}

impl Cue {
    /// Shares of `Both` and of `First`; `Second` has the rest.
    const SHARES: (f64, f64) = (0.4, 0.3);

    /// Whether the first modality shows the class.
    pub fn in_first(self) -> bool {
        self != Cue::Second
    }

    /// Whether the second modality shows the class.
    pub fn in_second(self) -> bool {
        self != Cue::First
    }

    /// Cues for `n` samples of one class and split, in the shares above as nearly as whole numbers can be, shuffled.
    pub fn deal(n: usize, rng: &mut Rng) -> Vec<Cue> {
        // Rounded with a random offset, so that many small groups get the shares right on the whole.
        let offset = rng.uniform();
        let cut = |share: f64| ((share * n as f64 + offset).floor() as usize).min(n);
        let (both, first) = (cut(Cue::SHARES.0), cut(Cue::SHARES.0 + Cue::SHARES.1));
        let mut cues: Vec<Cue> = (0..n)
            .map(|i| match i {
                i if i < both => Cue::Both,
                i if i < first => Cue::First,
                _ => Cue::Second,
            })
            .collect();
        shuffle(&mut cues, rng);
        cues
    }
}

/// Fisher and Yates.
pub fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.below(i as u32 + 1) as usize);
    }
}

/// Test samples among `n` of one class: a quarter in a small tree, else the dataset's own share; at least one of two.
pub fn test_share(n: usize, total: usize, own: f64) -> usize {
    let share = if total < LARGE { SMALL_TEST_SHARE } else { own };
    ((n as f64 * share).round() as usize).clamp(usize::from(n > 1), n)
}

/// One sample to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dealt {
    /// Its class.
    pub class: usize,
    /// Its split, a place in the shares that [`deal`] was given.
    pub split: usize,
    /// What shows the class.
    pub cue: Cue,
}

/// Deals `samples` out to classes alike, to splits by `shares` (the first split takes what the others leave), and to
/// cues. Class by class. A class of so few that a split's share is no whole sample gets one now and then, and one at
/// least where it has as many samples as there are splits.
pub fn deal(classes: usize, samples: usize, shares: &[f64], seed: u64) -> Vec<Dealt> {
    let mut owed = vec![0.0; shares.len()];
    let mut dealt = Vec::with_capacity(samples);
    for class in 0..classes {
        let rng = &mut Rng::new(seed, &[DEAL, class as u32]);
        let n = samples / classes + usize::from(class < samples % classes);
        let mut counts = vec![0; shares.len()];
        let mut left = n - usize::from(n > 1);
        for split in 1..shares.len() {
            owed[split] += n as f64 * shares[split];
            let least = usize::from(n >= shares.len());
            let count = (owed[split].round().max(0.0) as usize).max(least).min(left);
            owed[split] = (owed[split] - count as f64).clamp(-1.0, 1.0);
            counts[split] = count;
            left -= count;
        }
        counts[0] = n - counts.iter().sum::<usize>();
        for (split, count) in counts.into_iter().enumerate() {
            let cues = Cue::deal(count, rng).into_iter();
            dealt.extend(cues.map(|cue| Dealt { class, split, cue }));
        }
    }
    dealt
}

/// The splits' shares of a tree: the dataset's own ones, with more for testing while the tree is small.
pub fn shares(samples: usize, own: &[f64]) -> Vec<f64> {
    let mut shares = own.to_vec();
    if let Some(test) = shares.last_mut().filter(|_| samples < LARGE) {
        *test = SMALL_TEST_SHARE;
    }
    shares
}

/// Samples per split, by their names.
pub fn counts(names: &[&'static str], dealt: &[Dealt]) -> Vec<(&'static str, usize)> {
    let count = |split| dealt.iter().filter(|one| one.split == split).count();
    let names = names.iter().enumerate();
    names.map(|(split, &name)| (name, count(split))).collect()
}

/// Refuses what a dataset's names do not allow.
pub fn check_range(title: &str, samples: usize, least: usize, most: usize) -> anyhow::Result<()> {
    if !(least..=most).contains(&samples) {
        bail!(
            "--samples {samples}: a miniature {title} takes {least} to {most}; choose a number between"
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
        let many: Vec<Cue> = (0..500).flat_map(|_| Cue::deal(7, &mut rng)).collect();
        let share = |cue| many.iter().filter(|&&one| one == cue).count() as f64 / many.len() as f64;
        assert!((share(Cue::Both) - 0.4).abs() < 0.02);
        assert!((share(Cue::First) - 0.3).abs() < 0.02);
        let ten = Cue::deal(10, &mut rng);
        assert_eq!(ten.iter().filter(|cue| cue.in_first()).count(), 7);
    }

    #[test]
    fn every_class_is_in_every_split_where_it_can_be() {
        let shares = [0.65, 0.1, 0.25];
        for (samples, whole) in [
            (24, false),
            (28, false),
            (84, true),
            (224, true),
            (1000, true),
        ] {
            let dealt = deal(28, samples, &shares, 3);
            assert_eq!(dealt.len(), samples);
            let mut groups: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            let mut splits = [0; 3];
            for one in &dealt {
                *groups.entry((one.class, one.split)).or_default() += 1;
                splits[one.split] += 1;
            }
            assert!(!whole || groups.len() == 3 * 28, "{samples}: {groups:?}");
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
