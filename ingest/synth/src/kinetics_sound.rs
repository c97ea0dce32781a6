//! A miniature Kinetics-Sound: CVDF's flat folders of `<id>_<start>_<end>.mp4`, OGM-GE's two lists, a replacement folder.
//!
//! As in the real tree some files hold no bytes and lie whole among the replacements, and some clips have no sound track.

use std::fmt::Write;

use datasets::Info;
use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::deal;
use crate::youtube::{self, Clip, Event, SECONDS};
use crate::{Contents, Job};

const SPLITS: [&str; 2] = ["train", "test"];

/// The lists' own shares: 14,799 and 2,597.
const SHARES: [f64; 2] = [0.851, 0.149];

/// Fewest and most clips.
const RANGE: (usize, usize) = (24, 20_000);

/// One clip in so many has no sound; one in so many is a replacement. A tree of fewer has no silent ones.
const CLIPS_PER_FLAW: usize = 120;

/// One id in so many begins with `-`.
const DASHED: u32 = 50;

/// Where CVDF puts what it found broken.
const REPLACEMENTS: &str = "replacement/replacement_for_corrupted_k400";

/// Latest start of a clip in its video, in seconds.
const LATEST: u32 = 300;

/// Streams of random numbers.
const START: u32 = 1;

/// Plans a tree of `samples` clips.
pub fn tree(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    deal::check_range(&info.title, samples, RANGE.0, RANGE.1)?;
    let shares = deal::shares(samples, &SHARES);
    let dealt = deal::deal(info.classes.len(), samples, &shares, seed);
    let ids = youtube::ids(samples, DASHED, seed);
    let flaws = samples / CLIPS_PER_FLAW;
    let mut lists: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    let mut texts = Vec::new();
    let mut jobs: Vec<Job> = Vec::new();
    for (number, (one, id)) in dealt.iter().zip(&ids).enumerate() {
        let start = Rng::new(seed, &[START, number as u32]).below(LATEST);
        let name = format!("{id}_{start:06}_{:06}", start + SECONDS as u32);
        // The test list writes its clips another way.
        let listed = if one.split == 0 {
            name.clone()
        } else {
            format!("{id}_{start}")
        };
        lists[one.split].push(format!("{listed},10,{}", one.class));
        let folder = SPLITS[one.split];
        let mut path = format!("{folder}/{name}.mp4");
        // Spread over the classes, never the same clip.
        let turn = number % CLIPS_PER_FLAW;
        let may = number / CLIPS_PER_FLAW < flaws.max(1);
        if may && turn == 10 {
            texts.push((path, String::new()));
            path = format!("{REPLACEMENTS}/{name}.mp4");
        }
        let clip = Clip {
            events: vec![Event {
                class: (one.class, info.classes.len()),
                cue: one.cue,
                span: (0.0, SECONDS),
            }],
            size: (320, 240),
            rate: Rational(12, 1),
            bit_rate: 200_000,
            sound: !(flaws > 0 && may && turn == 20),
        };
        jobs.push(Box::new(move |root| {
            clip.write(&root.join(&path), number as u32, seed)
        }));
    }
    for (split, list) in SPLITS.iter().zip(&mut lists) {
        list.sort();
        let mut text = String::new();
        for row in list {
            write!(text, "{row}\r\n")?;
        }
        texts.push((format!("my_{split}.txt"), text));
    }
    Ok(Contents {
        folders: ["train", "test", REPLACEMENTS].map(str::to_owned).into(),
        texts,
        counts: deal::counts(&SPLITS, &dealt),
        jobs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_the_real_ones() {
        let info = datasets::open("kinetics-sound").unwrap().info().clone();
        let tree = tree(&info, 248, 0).unwrap();
        let text = |name: &str| &tree.texts.iter().find(|(path, _)| path == name).unwrap().1;
        for (list, underscores) in [("my_train.txt", 2), ("my_test.txt", 1)] {
            for row in text(list).split_terminator("\r\n") {
                let (clip, rest) = row.split_once(',').unwrap();
                assert_eq!(clip[11..].matches('_').count(), underscores, "{row}");
                let class: usize = rest.strip_prefix("10,").unwrap().parse().unwrap();
                assert!(class < 31);
            }
        }
        assert_eq!(tree.jobs.len(), 248);
        let empty = tree
            .texts
            .iter()
            .filter(|(path, text)| path.ends_with(".mp4") && text.is_empty());
        assert_eq!(empty.count(), 2);
    }
}
