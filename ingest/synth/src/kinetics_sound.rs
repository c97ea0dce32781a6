//! A miniature Kinetics-Sound: CVDF's flat folders of `<id>_<start>_<end>.mp4`, its folder of
//! replacements and OGM-GE's two lists.
//!
//! As in the published tree, some files are empty and have a replacement, and some clips lack an
//! audio stream.

use std::fmt::Write;
use std::ops::RangeInclusive;

use datasets::Info;
use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::plan;
use crate::youtube::{self, Clip, Event, SECONDS};
use crate::{Contents, Job};

const SPLITS: [&str; 2] = ["train", "test"];

/// The published shares: 14,799 and 2,597 of 17,396 clips.
const SHARES: [f64; 2] = [0.851, 0.149];

/// The allowed numbers of clips.
const SAMPLES: RangeInclusive<usize> = 24..=20_000;

/// One clip in this many lacks audio, and one in this many has a replacement. A smaller tree has
/// one replacement and audio in all clips.
const CLIPS_PER_DEFECT: usize = 120;

/// On average one id in this many gets a leading `-`.
const IDS_PER_DASH: u32 = 50;

/// CVDF's folder with replacements of corrupt files.
const REPLACEMENTS: &str = "replacement/replacement_for_corrupted_k400";

/// The latest start of a clip in its video, in seconds.
const MAX_START: u32 = 300;

/// The stream of random numbers that start times are drawn from.
const START: u32 = 1;

/// Plans a tree of `samples` clips.
pub fn plan(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    plan::check_samples(&info.title, samples, SAMPLES)?;
    let shares = plan::split_shares(samples, &SHARES);
    let assignments = plan::assign(info.classes.len(), samples, &shares, seed);
    let ids = youtube::ids(samples, IDS_PER_DASH, seed);
    let defects = samples / CLIPS_PER_DEFECT;
    let mut lists: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    let mut texts = Vec::new();
    let mut jobs: Vec<Job> = Vec::new();
    for (number, (one, id)) in assignments.iter().zip(&ids).enumerate() {
        let start = Rng::new(seed, &[START, number as u32]).below(MAX_START);
        let name = format!("{id}_{start:06}_{:06}", start + SECONDS as u32);
        // The test list has neither the leading zeros nor the end.
        let listed = if one.split == 0 {
            name.clone()
        } else {
            format!("{id}_{start}")
        };
        lists[one.split].push(format!("{listed},10,{}", one.class));
        let folder = SPLITS[one.split];
        let mut path = format!("{folder}/{name}.mp4");
        // Defects are spread over the classes, and no clip has both.
        let position = number % CLIPS_PER_DEFECT;
        let may_be_defective = number / CLIPS_PER_DEFECT < defects.max(1);
        if may_be_defective && position == 10 {
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
            has_audio: !(defects > 0 && may_be_defective && position == 20),
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
        counts: plan::split_counts(&SPLITS, &assignments),
        jobs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_the_published_grammar() {
        let info = datasets::open("kinetics-sound").unwrap().info().clone();
        let tree = plan(&info, 248, 0).unwrap();
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
