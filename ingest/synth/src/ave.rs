//! A miniature AVE: `AVE/<id>.mp4`, `Annotations.txt` with a header, and the three split lists
//! without.
//!
//! As in the published lists, a few files have two rows: one event in the first half of the clip,
//! another in the second. One row has an empty time span.

use std::fmt::Write;
use std::ops::RangeInclusive;

use datasets::Info;
use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::plan::{self, Assignment};
use crate::youtube::{self, Clip, Event, SECONDS};
use crate::{Contents, Job};

const SPLITS: [&str; 3] = ["train", "val", "test"];

/// The published shares: 3,339, 402 and 402 of 4,143 rows.
const SHARES: [f64; 3] = [0.806, 0.097, 0.097];

/// The allowed numbers of rows.
const SAMPLES: RangeInclusive<usize> = 24..=20_000;

/// One pair of rows per this many rows shares a file, as in the published lists; at least two
/// pairs.
const ROWS_PER_PAIR: usize = 90;

/// On average one id in this many gets a leading `-`.
const IDS_PER_DASH: u32 = 4;

/// The streams of random numbers, one for each purpose.
const SPAN: u32 = 1;
const PAIR: u32 = 2;

/// A row of the annotation.
struct Row {
    assignment: Assignment,
    /// The index of its file.
    file: usize,
    /// The start and the end of the event in seconds.
    span: (u32, u32),
}

/// Plans a tree of `samples` rows.
pub fn plan(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    plan::check_samples(&info.title, samples, SAMPLES)?;
    let shares = plan::split_shares(samples, &SHARES);
    let assignments = plan::assign(info.classes.len(), samples, &shares, seed);
    let counts = plan::split_counts(&SPLITS, &assignments);
    let mut rows: Vec<Row> = assignments
        .iter()
        .zip(0..)
        .map(|(&assignment, file)| Row {
            assignment,
            file,
            span: random_span(&mut Rng::new(seed, &[SPAN, file as u32])),
        })
        .collect();
    share_files(&mut rows, seed);
    let ids = youtube::ids(rows.len(), IDS_PER_DASH, seed);

    let mut lists = [String::new(), String::new(), String::new()];
    let mut all = "Category&VideoID&Quality&StartTime&EndTime\n".to_owned();
    // One published row has an empty span. Here it is the first row of class 0 in the training
    // split that lasts as long as its clip.
    let mut empty_span_class = (samples >= 3 * info.classes.len()).then_some(0);
    for row in &rows {
        let (mut from, mut to) = row.span;
        if empty_span_class == Some(row.assignment.class)
            && row.assignment.split == 0
            && (from, to) == (0, 10)
        {
            (from, to, empty_span_class) = (0, 0, None);
        }
        let line = format!(
            "{}&{}&good&{from}&{to}\n",
            info.classes[row.assignment.class], ids[row.file]
        );
        lists[row.assignment.split].write_str(&line)?;
        all.write_str(&line)?;
    }
    let mut texts = vec![
        ("Annotations.txt".to_owned(), all),
        ("ReadMe.txt".to_owned(), README.to_owned()),
    ];
    for (split, list) in SPLITS.iter().zip(lists) {
        texts.push((format!("{split}Set.txt"), list));
    }
    Ok(Contents {
        folders: vec!["AVE".to_owned()],
        texts,
        counts,
        jobs: jobs(&rows, &ids, info.classes.len(), seed),
    })
}

const README: &str = "A miniature of the AVE dataset, made by `ingest synth`.\n\
    Annotations.txt: Category&VideoID&Quality&StartTime&EndTime\n";

/// Draws the span of an event. Two events in three last as long as the clip.
fn random_span(rng: &mut Rng) -> (u32, u32) {
    if rng.below(3) > 0 {
        return (0, SECONDS as u32);
    }
    let length = 4 + rng.below(5);
    let from = rng.below(SECONDS as u32 - length + 1);
    (from, from + length)
}

/// Lets some rows share the file of another row: in turns one of the same split and one of another.
fn share_files(rows: &mut [Row], seed: u64) {
    let rng = &mut Rng::new(seed, &[PAIR]);
    let pairs = (rows.len() / ROWS_PER_PAIR).max(2);
    let mut found = 0;
    let mut paired = vec![false; rows.len()];
    // Bounded, since a small tree may have too few rows that match; it then has fewer pairs.
    for _ in 0..100 * pairs {
        let mut pick = || rng.below(rows.len() as u32) as usize;
        let (one, other) = (pick(), pick());
        let (a, b) = (&rows[one].assignment, &rows[other].assignment);
        let splits_match = (a.split == b.split) == (found % 2 == 0) && a.split == 0;
        if a.class != b.class && splits_match && !paired[one] && !paired[other] {
            (paired[one], paired[other]) = (true, true);
            rows[other].file = rows[one].file;
            rows[one].span = (0, 5);
            rows[other].span = (5, 10);
            found += 1;
            if found == pairs {
                break;
            }
        }
    }
}

/// Returns one job for each file that has rows.
fn jobs(rows: &[Row], ids: &[String], classes: usize, seed: u64) -> Vec<Job> {
    let mut events: Vec<Vec<Event>> = vec![Vec::new(); ids.len()];
    for row in rows {
        let (from, to) = row.span;
        events[row.file].push(Event {
            class: (row.assignment.class, classes),
            cue: row.assignment.cue,
            span: (f64::from(from), f64::from(to)),
        });
    }
    let mut jobs: Vec<Job> = Vec::new();
    for (number, (id, mut events)) in ids.iter().zip(events).enumerate() {
        if events.is_empty() {
            continue;
        }
        events.sort_by(|a, b| a.span.0.total_cmp(&b.span.0));
        let clip = Clip {
            events,
            // The size and rates of small AudioSet clips.
            size: (256, 144),
            rate: Rational(25, 2),
            bit_rate: 120_000,
            has_audio: true,
        };
        let name = format!("{id}.mp4");
        jobs.push(Box::new(move |root| {
            clip.write(&root.join("AVE").join(&name), number as u32, seed)
        }));
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_have_two_rows_and_one_row_has_an_empty_span() {
        let info = datasets::open("ave").unwrap().info().clone();
        let tree = plan(&info, 224, 0).unwrap();
        let text = |name: &str| &tree.texts.iter().find(|(path, _)| path == name).unwrap().1;
        let all = text("Annotations.txt");
        assert_eq!(all.lines().count(), 225);
        assert!(all.lines().skip(1).all(|line| line.split('&').count() == 5));
        assert!(all.contains("Rodents, rats, mice&") && all.contains("&good&0&0\n"));
        let rows: usize = SPLITS
            .iter()
            .map(|split| text(&format!("{split}Set.txt")).lines().count())
            .sum();
        assert_eq!(rows, 224);
        // Two files have two rows, one of them in two splits.
        assert_eq!(tree.jobs.len(), 222);
        let ids = |name: &str| -> Vec<String> {
            text(name)
                .lines()
                .map(|line| line.split('&').nth(1).unwrap().to_owned())
                .collect()
        };
        let train = ids("trainSet.txt");
        let leaks = ids("valSet.txt").into_iter().chain(ids("testSet.txt"));
        assert_eq!(leaks.filter(|id| train.contains(id)).count(), 1);
    }
}
