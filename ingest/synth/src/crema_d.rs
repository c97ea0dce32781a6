//! A miniature CREMA-D: FLV files (flv1 and mp3) in `VideoFlash`, WAV files, MP3 files, the
//! annotation and OGM-GE's two lists.
//!
//! File names, columns, quoting and line ends are as published, and so are the codes of actors,
//! sentences and emotions.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};
use datasets::Info;
use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::audio::{self, Voice};
use crate::encode::{self, Audio, Video};
use crate::plan::{Cue, shuffle, test_count};
use crate::scene::Scene;
use crate::{Contents, Job};

const EMOTIONS: [&str; 6] = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"];

const SENTENCES: [&str; 12] = [
    "IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI",
];

const ACTORS: std::ops::RangeInclusive<u32> = 1001..=1091;

/// OGM-GE's share of test clips: 744 of 7,442.
const TEST_SHARE: f64 = 0.1;

/// The shortest and the longest duration in seconds. Published clips last 1.3 to 5 seconds.
const SECONDS: (f64, f64) = (1.3, 2.6);

const WIDTH: u32 = 480;
const HEIGHT: u32 = 360;
const RATE: Rational = Rational(30_000, 1_001);
const VIDEO_BIT_RATE: usize = 700_000;
const WAV_RATE: u32 = 16_000;

/// The sample rate of the MP3 streams in Hz, one of the few that FLV allows.
const MP3_RATE: u32 = 44_100;
const MP3_BIT_RATE: usize = 64_000;

/// The streams of random numbers, one for each purpose.
const ASSIGN: u32 = 1;
const PERSON: u32 = 2;
const CLIP: u32 = 3;
const VOTE: u32 = 4;

/// A clip of the tree.
#[derive(Debug, Clone)]
struct Clip {
    /// Its file names without their extensions.
    stem: String,
    actor: u32,
    emotion: usize,
    cue: Cue,
    test: bool,
}

/// Plans a tree of `samples` clips.
pub fn plan(_info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    let mut clips = assign(samples, seed)?;
    // The lists are in random order, the tables are sorted by stem.
    let mut lists = [String::new(), String::new()];
    for clip in &clips {
        write!(
            lists[usize::from(clip.test)],
            "{},{}\r\n",
            clip.stem,
            EMOTIONS[clip.emotion]
        )?;
    }
    clips.sort_by(|a, b| a.stem.cmp(&b.stem));
    let test = clips.iter().filter(|clip| clip.test).count();
    let [train_list, test_list] = lists;
    Ok(Contents {
        folders: ["AudioWAV", "AudioMP3", "VideoFlash", "processedResults"]
            .map(str::to_owned)
            .into(),
        texts: vec![
            ("train.csv".to_owned(), train_list),
            ("test.csv".to_owned(), test_list),
            (
                "SentenceFilenames.csv".to_owned(),
                sentence_filenames(&clips),
            ),
            ("VideoDemographics.csv".to_owned(), demographics(seed)),
            (
                "processedResults/summaryTable.csv".to_owned(),
                summary_table(&clips, seed),
            ),
        ],
        counts: vec![("train", clips.len() - test), ("test", test)],
        jobs: clips
            .into_iter()
            .zip(0..)
            .map(|(clip, number)| -> Job {
                Box::new(move |root| write_clip(&clip, number, seed, root))
            })
            .collect(),
    })
}

/// Assigns actors and sentences at random, emotions in equal numbers, and splits and cues by their
/// shares within each emotion.
///
/// # Errors
/// The codes do not allow that many clips.
fn assign(samples: usize, seed: u64) -> anyhow::Result<Vec<Clip>> {
    let stems: Vec<Vec<(String, u32)>> = EMOTIONS
        .iter()
        .zip(0..)
        .map(|(emotion, number)| {
            let mut stems: Vec<_> = ACTORS.flat_map(|actor| stems(actor, emotion)).collect();
            shuffle(&mut stems, &mut Rng::new(seed, &[ASSIGN, number]));
            stems
        })
        .collect();
    let most: usize = stems.iter().map(Vec::len).sum();
    let least = 2 * EMOTIONS.len();
    if !(least..=most).contains(&samples) {
        bail!(
            "--samples {samples}: CREMA-D's names allow {least} to {most} clips; \
             choose a number between"
        );
    }
    // Emotions get one clip each in turn; one whose stems are used up is skipped.
    let mut counts = [0; EMOTIONS.len()];
    let mut total = 0;
    while total < samples {
        for (count, stems) in counts.iter_mut().zip(&stems) {
            if total < samples && *count < stems.len() {
                (*count, total) = (*count + 1, total + 1);
            }
        }
    }
    let mut clips = Vec::with_capacity(samples);
    for (emotion, (count, stems)) in counts.into_iter().zip(stems).enumerate() {
        let rng = &mut Rng::new(seed, &[ASSIGN, 100 + emotion as u32]);
        let test = test_count(count, samples, TEST_SHARE);
        let cues = Cue::assign(test, rng)
            .into_iter()
            .chain(Cue::assign(count - test, rng));
        for (i, ((stem, actor), cue)) in stems.into_iter().zip(cues).enumerate() {
            clips.push(Clip {
                stem,
                actor,
                emotion,
                cue,
                test: i < test,
            });
        }
    }
    shuffle(&mut clips, &mut Rng::new(seed, &[ASSIGN, 1000]));
    Ok(clips)
}

/// Returns the stems of an actor's clips of one emotion: each sentence once, but the first sentence
/// at three levels unless the emotion is neutral.
fn stems(actor: u32, emotion: &str) -> Vec<(String, u32)> {
    let mut stems = Vec::new();
    for sentence in SENTENCES {
        let levels: &[&str] = if sentence == "IEO" && emotion != "NEU" {
            &["LO", "MD", "HI"]
        } else {
            &["XX"]
        };
        stems.extend(
            levels
                .iter()
                .map(|level| (format!("{actor}_{sentence}_{emotion}_{level}"), actor)),
        );
    }
    stems
}

fn sentence_filenames(clips: &[Clip]) -> String {
    let rows: Vec<String> = clips
        .iter()
        .zip(1..)
        .map(|(clip, number)| format!("{number},\"{}\"", clip.stem))
        .collect();
    // The published file lacks the last line end.
    format!("\"Stimulus_Number\",\"Filename\"\n{}", rows.join("\n"))
}

fn demographics(seed: u64) -> String {
    let mut text = "\"ActorID\",\"Age\",\"Sex\",\"Race\",\"Ethnicity\"\n".to_owned();
    for actor in ACTORS {
        let mut rng = Rng::new(seed, &[PERSON, actor, 1]);
        let age = 20 + rng.below(55);
        let sex = ["Male", "Female"][rng.below(2) as usize];
        let race = ["Caucasian", "Caucasian", "African American", "Asian"][rng.below(4) as usize];
        let ethnicity = if rng.below(10) == 0 {
            "Hispanic"
        } else {
            "Not Hispanic"
        };
        text += &format!("{actor},{age},\"{sex}\",\"{race}\",\"{ethnicity}\"\n");
    }
    text
}

/// Returns the crowd's votes: the emotion for the modalities that carry it, neutral for the other.
fn summary_table(clips: &[Clip], seed: u64) -> String {
    let mut text = "\"\",\"FileName\",\"VoiceVote\",\"VoiceLevel\",\"FaceVote\",\"FaceLevel\",\
                    \"MultiModalVote\",\"MultiModalLevel\"\n"
        .to_owned();
    for (clip, number) in clips.iter().zip(1u32..) {
        let mut rng = Rng::new(seed, &[VOTE, number]);
        let mut vote = |carries_class: bool| {
            let letter = &EMOTIONS[clip.emotion][..1];
            let level = if carries_class { 60.0 } else { 35.0 } + 30.0 * rng.uniform();
            match (carries_class, rng.below(20)) {
                // A tie shows in both columns.
                (_, 0) if letter != "N" => {
                    format!("\"{letter}:N\",\"{level:.2}:{:.2}\"", level - 10.0)
                }
                (true, _) => format!("\"{letter}\",\"{level:.2}\""),
                (false, _) => format!("\"N\",\"{level:.2}\""),
            }
        };
        let (voice, face, both) = (
            vote(clip.cue.in_first()),
            vote(clip.cue.in_second()),
            vote(true),
        );
        text += &format!("\"{number}\",\"{}\",{voice},{face},{both}\n", clip.stem);
    }
    text
}

/// Writes the three files of a clip.
fn write_clip(clip: &Clip, number: u32, seed: u64, root: &Path) -> anyhow::Result<()> {
    let rng = &mut Rng::new(seed, &[CLIP, number]);
    let class = |carries_class: bool| carries_class.then_some((clip.emotion, EMOTIONS.len()));
    let seconds = SECONDS.0 + (SECONDS.1 - SECONDS.0) * rng.uniform();
    let pitch = 1.0 + 0.05 * Rng::new(seed, &[PERSON, clip.actor, 2]).normal();
    let voice = Voice {
        class: class(clip.cue.in_first()),
        pitch,
        seconds,
    };
    // The publisher's WAV files are the same recordings, resampled to 16 kHz.
    let recording = voice.synthesize(MP3_RATE, rng);
    let samples = audio::resample(&recording, MP3_RATE, WAV_RATE)
        .with_context(|| format!("{}: cannot resample to {WAV_RATE} Hz", clip.stem))?;
    let file =
        |folder: &str, ending: &str| root.join(folder).join(format!("{}.{ending}", clip.stem));
    encode::write_wav(&file("AudioWAV", "wav"), WAV_RATE, &samples)?;

    let person_rng = &mut Rng::new(seed, &[PERSON, clip.actor]);
    let scene = Scene::new(
        WIDTH as usize,
        HEIGHT as usize,
        class(clip.cue.in_second()),
        person_rng,
        rng,
    );
    let frame_rate = f64::from(RATE);
    let video = Video {
        encoder: "flv",
        preset: None,
        width: WIDTH,
        height: HEIGHT,
        rate: RATE,
        frames: (seconds * frame_rate) as usize,
        bit_rate: VIDEO_BIT_RATE,
        gop: 30,
        draw: &|n, canvas| scene.draw(n as f64 / frame_rate, canvas),
    };
    let mp3_stream = || Audio {
        encoder: "libmp3lame",
        rate: MP3_RATE,
        bit_rate: MP3_BIT_RATE,
        samples: &recording,
    };
    encode::write_clip(
        &file("VideoFlash", "flv"),
        "flv",
        Some(video),
        Some(mp3_stream()),
    )?;
    encode::write_clip(&file("AudioMP3", "mp3"), "mp3", None, Some(mp3_stream()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn splits_have_equal_shares_of_emotions_and_cues() {
        let clips = assign(300, 0).unwrap();
        assert_eq!(clips.len(), 300);
        let mut stems: Vec<_> = clips.iter().map(|clip| &clip.stem).collect();
        stems.sort();
        stems.dedup();
        assert_eq!(stems.len(), 300, "names differ");
        let mut counts: BTreeMap<(usize, bool), [usize; 3]> = BTreeMap::new();
        for clip in &clips {
            counts.entry((clip.emotion, clip.test)).or_default()[clip.cue as usize] += 1;
        }
        for ((_, test), count) in counts {
            let n: usize = count.iter().sum();
            assert!(
                if test {
                    (12..=13).contains(&n)
                } else {
                    (37..=38).contains(&n)
                },
                "{n}"
            );
            for (share, count) in [0.4, 0.3, 0.3].into_iter().zip(count) {
                assert!(
                    (share * n as f64 - count as f64).abs() < 1.0,
                    "{count} of {n}"
                );
            }
        }
    }

    #[test]
    fn number_of_clips_is_limited_by_the_codes() {
        assert!(assign(11, 0).is_err());
        assert_eq!(
            assign(12, 0)
                .unwrap()
                .iter()
                .filter(|clip| clip.test)
                .count(),
            6
        );
        let all = assign(7442, 0).unwrap();
        assert!((735..=755).contains(&all.iter().filter(|clip| clip.test).count()));
        assert!(assign(8000, 0).is_err());
    }
}
