//! A miniature AVE: `AVE/<id>.mp4`, `Annotations.txt` with its header, and the three lists without.
//!
//! A few files carry two rows, as real ones do: one event in the first half, another in the second. One row has no span.

use std::fmt::Write;

use datasets::Info;
use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::deal::{self, Dealt};
use crate::youtube::{self, Clip, Event, SECONDS};
use crate::{Contents, Job};

const SPLITS: [&str; 3] = ["train", "val", "test"];

/// The dataset's own shares: 3,339, 402 and 402 of 4,143 rows.
const SHARES: [f64; 3] = [0.806, 0.097, 0.097];

/// Fewest and most rows.
const RANGE: (usize, usize) = (24, 20_000);

/// One pair of rows on one file for so many rows, as in the real lists; two pairs at least.
const ROWS_PER_PAIR: usize = 90;

/// One id in so many begins with `-`.
const DASHED: u32 = 4;

/// Streams of random numbers.
const SPAN: u32 = 1;
const PAIR: u32 = 2;

/// One annotation row.
struct Row {
    dealt: Dealt,
    file: usize,
    span: (u32, u32),
}

/// Plans a tree of `samples` rows.
pub fn tree(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    deal::check_range(&info.title, samples, RANGE.0, RANGE.1)?;
    let shares = deal::shares(samples, &SHARES);
    let dealt = deal::deal(info.classes.len(), samples, &shares, seed);
    let counts = deal::counts(&SPLITS, &dealt);
    let mut rows: Vec<Row> = dealt
        .iter()
        .zip(0..)
        .map(|(&dealt, file)| Row {
            dealt,
            file,
            span: span(&mut Rng::new(seed, &[SPAN, file as u32])),
        })
        .collect();
    pair_up(&mut rows, seed);
    let ids = youtube::ids(rows.len(), DASHED, seed);

    let mut lists = [String::new(), String::new(), String::new()];
    let mut all = "Category&VideoID&Quality&StartTime&EndTime\n".to_owned();
    // The published rows have one without a span; its clip is as good as any.
    let mut spanless = (samples >= 3 * info.classes.len()).then_some(0);
    for row in &rows {
        let (mut from, mut to) = row.span;
        if spanless == Some(row.dealt.class) && row.dealt.split == 0 && (from, to) == (0, 10) {
            (from, to, spanless) = (0, 0, None);
        }
        let line = format!(
            "{}&{}&good&{from}&{to}\n",
            info.classes[row.dealt.class], ids[row.file]
        );
        lists[row.dealt.split].write_str(&line)?;
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

/// Two events in three last as long as the clip.
fn span(rng: &mut Rng) -> (u32, u32) {
    if rng.below(3) > 0 {
        return (0, SECONDS as u32);
    }
    let length = 4 + rng.below(5);
    let from = rng.below(SECONDS as u32 - length + 1);
    (from, from + length)
}

/// Puts some rows on another row's file: by turns on one of the same split and on one of another.
fn pair_up(rows: &mut [Row], seed: u64) {
    let rng = &mut Rng::new(seed, &[PAIR]);
    let pairs = (rows.len() / ROWS_PER_PAIR).max(2);
    let mut made = 0;
    let mut alone = vec![true; rows.len()];
    // Bounded: a tree with too few fitting rows has fewer pairs.
    for _ in 0..100 * pairs {
        let mut pick = || rng.below(rows.len() as u32) as usize;
        let (one, other) = (pick(), pick());
        let (a, b) = (&rows[one].dealt, &rows[other].dealt);
        let fits = (a.split == b.split) == (made % 2 == 0) && a.split == 0;
        if a.class != b.class && fits && alone[one] && alone[other] {
            (alone[one], alone[other]) = (false, false);
            rows[other].file = rows[one].file;
            rows[one].span = (0, 5);
            rows[other].span = (5, 10);
            made += 1;
            if made == pairs {
                break;
            }
        }
    }
}

/// One job per file that any row is on.
fn jobs(rows: &[Row], ids: &[String], classes: usize, seed: u64) -> Vec<Job> {
    let mut events: Vec<Vec<Event>> = vec![Vec::new(); ids.len()];
    for row in rows {
        let (from, to) = row.span;
        events[row.file].push(Event {
            class: (row.dealt.class, classes),
            cue: row.dealt.cue,
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
            // What small AudioSet clips have.
            size: (256, 144),
            rate: Rational(25, 2),
            bit_rate: 120_000,
            sound: true,
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
    fn rows_and_files_are_as_in_the_real_lists() {
        let info = datasets::open("ave").unwrap().info().clone();
        let tree = tree(&info, 224, 0).unwrap();
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
