//! Which samples are shown, and in which order. It depends on the ids alone, not on files or
//! threads.

use std::collections::{BTreeMap, BTreeSet};

use datasets::{InputName, Modalities, Split};
use features::order;
use page::problems;

use crate::failures::cause;
use crate::rows::Row;

/// Chooses `per_class` samples of each class and split, and as many of each split and reason for
/// which something is missing. Returns their positions in `rows`, sorted as [`sorted`] does.
///
/// The samples are the first ones in an order by SHA-256 of their ids: neighbours in the annotation
/// are often of one speaker or one scene.
pub fn examples(rows: &[Row], modalities: Modalities, per_class: usize) -> Vec<usize> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let mut taken: BTreeMap<(Split, Reason), usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    for at in order::by_rank(&["u2a-browse"], &ids) {
        let row = &rows[at as usize];
        let reasons: Vec<(Split, Reason)> = reasons(row, modalities)
            .into_iter()
            .map(|reason| (row.at.0, reason))
            .collect();
        let is_wanted = |reason| taken.get(reason).copied().unwrap_or_default() < per_class;
        if reasons.iter().any(is_wanted) {
            for reason in reasons {
                *taken.entry(reason).or_default() += 1;
            }
            chosen.push(at as usize);
        }
    }
    sorted(rows, chosen)
}

/// What a sample is an example of.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// A class.
    Class(u32),
    /// An input that is missing or damaged, with the cause. Without a cause, the publisher provides
    /// none.
    Problem(InputName, String),
}

fn reasons(row: &Row, modalities: Modalities) -> BTreeSet<Reason> {
    let problems = problems(row.error.as_deref().unwrap_or_default());
    let missing = modalities.names().zip(row.present);
    let unexplained = missing
        .filter(|(modality, present)| !present && problems.iter().all(|(of, _)| of != modality))
        .map(|(modality, _)| Reason::Problem(modality, String::new()));
    let classes = row.labels.iter().copied().map(Reason::Class);
    let of_problem = |(modality, problem): &(InputName, &str)| {
        Reason::Problem(*modality, cause(problem).to_owned())
    };
    classes
        .chain(unexplained)
        .chain(problems.iter().map(of_problem))
        .collect()
}

/// Sorts positions in `rows` by split, then by class, then as in the shards. Samples without a
/// label come last; of several labels the first one counts.
pub fn sorted(rows: &[Row], mut positions: Vec<usize>) -> Vec<usize> {
    positions.sort_by_key(|&at| {
        let first = rows[at].labels.first().copied();
        (rows[at].at.0, first.unwrap_or(u32::MAX), at)
    });
    positions
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use datasets::Modality;

    pub(crate) fn row(number: u32, split: Split, labels: &[u32], error: Option<&str>) -> Row {
        let audio = error.is_none_or(|error| !error.starts_with("audio"));
        Row {
            at: (split, number),
            id: format!("clip{number}"),
            labels: labels.to_vec(),
            present: [audio, true],
            seconds: [audio.then_some(10.0), Some(10.0)],
            frame_times: [Vec::new(), Vec::new()],
            segment: None,
            source: String::new(),
            error: error.map(str::to_owned),
        }
    }

    const MODALITIES: Modalities = Modalities::Two(Modality::Audio, Modality::Video);

    #[test]
    fn each_class_of_each_split_and_each_cause_is_shown() {
        let mut rows: Vec<Row> = (0..90)
            .map(|i| row(i, Split::ALL[i as usize / 30], &[i % 3], None))
            .collect();
        rows[40].error = Some("audio: silent (all samples are zero)".to_owned());
        rows[41].error = Some("audio: silent (of the event)".to_owned());
        rows[42].present = [true, false];
        let chosen = examples(&rows, MODALITIES, 1);
        assert!(chosen.is_sorted_by_key(|&at| (rows[at].at.0, rows[at].labels[0], at)));
        for split in Split::ALL {
            for class in 0..3 {
                let shown = chosen
                    .iter()
                    .filter(|&&at| rows[at].at.0 == split && rows[at].labels == [class])
                    .count();
                assert!((1..=3).contains(&shown), "{split} {class}: {shown}");
            }
        }
        assert!(
            chosen.contains(&40) || chosen.contains(&41),
            "one of the silent ones"
        );
        assert!(chosen.contains(&42), "the one without video");
        assert!((9..=11).contains(&chosen.len()), "{}", chosen.len());
        // The order of the rows makes no difference.
        let ids = |rows: &[Row]| -> BTreeSet<String> {
            let chosen = examples(rows, MODALITIES, 1);
            chosen.iter().map(|&at| rows[at].id.clone()).collect()
        };
        let before = ids(&rows);
        rows.reverse();
        assert_eq!(ids(&rows), before);
    }

    #[test]
    fn samples_of_several_labels_count_for_each() {
        let rows = [
            row(0, Split::Train, &[0, 1, 2], None),
            row(1, Split::Train, &[0, 1, 2], None),
            row(2, Split::Train, &[], None),
        ];
        assert_eq!(examples(&rows, MODALITIES, 1).len(), 1);
        assert_eq!(sorted(&rows, vec![2, 1, 0]), [0, 1, 2]);
    }
}
