//! What AVE and Kinetics-Sound share: clips of YouTube videos, h264 and aac in mp4, in which events are seen and heard.

use std::collections::BTreeSet;
use std::path::Path;

use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::deal::Cue;
use crate::encode::{self, Audio, Video};
use crate::scene::Scene;
use crate::sound::Voice;

/// Seconds of every clip.
pub const SECONDS: f64 = 10.0;

/// Hz of the sound, as small web videos have it.
const AUDIO_RATE: u32 = 22_050;
const AUDIO_BIT_RATE: usize = 48_000;

/// Frames between two that stand alone: what libx264 takes by itself.
const GOP: u32 = 250;

/// The characters of an id.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Streams of random numbers.
const ID: u32 = 60;
const LOOK: u32 = 61;
const CLIP: u32 = 62;

/// `n` different ids of 11 characters. One in `dashed` begins with `-`, beside those that do by chance.
pub fn ids(n: usize, dashed: u32, seed: u64) -> Vec<String> {
    let rng = &mut Rng::new(seed, &[ID]);
    let mut taken = BTreeSet::new();
    let mut ids = Vec::with_capacity(n);
    while ids.len() < n {
        let mut id: String = (0..11)
            .map(|_| char::from(ALPHABET[rng.below(64) as usize]))
            .collect();
        if rng.below(dashed) == 0 {
            id.replace_range(..1, "-");
        }
        if taken.insert(id.clone()) {
            ids.push(id);
        }
    }
    ids
}

/// Something that happens in a clip.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// What, and out of how many.
    pub class: (usize, usize),
    /// Whether it is heard, seen, or both.
    pub cue: Cue,
    /// From and to, in seconds.
    pub span: (f64, f64),
}

/// One clip to be. Where no event is, gray and a voice that goes with anything.
#[derive(Debug, Clone)]
pub struct Clip {
    /// In order, apart from each other.
    pub events: Vec<Event>,
    /// Pixels, both even.
    pub size: (u32, u32),
    /// Frames per second.
    pub rate: Rational,
    /// Bits per second of the picture.
    pub bit_rate: usize,
    /// Whether there is a sound track at all.
    pub sound: bool,
}

impl Clip {
    /// Writes the file. `number` tells its randomness from others'.
    pub fn write(&self, path: &Path, number: u32, seed: u64) -> anyhow::Result<()> {
        let rng = &mut Rng::new(seed, &[CLIP, number]);
        let recording = self.sound.then(|| self.record(rng));
        let (width, height) = self.size;
        let mut scene = |class| {
            let look = &mut Rng::new(seed, &[LOOK, number]);
            Scene::new(width as usize, height as usize, class, look, rng)
        };
        let idle = scene(None);
        let shown: Vec<_> = self
            .events
            .iter()
            .map(|event| {
                (
                    event.span,
                    scene(event.cue.in_second().then_some(event.class)),
                )
            })
            .collect();
        let frame_rate = f64::from(self.rate);
        let video = Video {
            encoder: "libx264",
            preset: Some("veryfast"),
            width,
            height,
            rate: self.rate,
            frames: (SECONDS * frame_rate).round() as usize,
            bit_rate: self.bit_rate,
            gop: GOP,
            paint: &|n, canvas| {
                let t = n as f64 / frame_rate;
                let now = shown
                    .iter()
                    .find(|((from, to), _)| (*from..*to).contains(&t));
                now.map_or(&idle, |(_, scene)| scene).paint(t, canvas);
            },
        };
        let audio = recording.as_ref().map(|samples| Audio {
            encoder: "aac",
            rate: AUDIO_RATE,
            bit_rate: AUDIO_BIT_RATE,
            samples,
        });
        encode::clip(path, "mp4", Some(video), audio)
    }

    fn record(&self, rng: &mut Rng) -> Vec<f32> {
        let mut sing = |class, seconds| {
            let voice = Voice {
                class,
                pitch: 1.0,
                seconds,
            };
            voice.sing(AUDIO_RATE, rng)
        };
        let mut samples = Vec::new();
        let mut at = 0.0;
        let end = (None, (SECONDS, SECONDS));
        let parts = self
            .events
            .iter()
            .map(|event| (event.cue.in_first().then_some(event.class), event.span));
        for (class, (from, to)) in parts.chain([end]) {
            if from > at {
                samples.extend(sing(None, from - at));
            }
            if to > from {
                samples.extend(sing(class, to - from));
            }
            at = to;
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_videos() {
        let ids = ids(2000, 4, 1);
        let distinct: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), 2000);
        assert!(ids.iter().all(|id| id.len() == 11));
        let dashed = ids.iter().filter(|id| id.starts_with('-')).count();
        assert!((450..600).contains(&dashed), "{dashed}");
    }

    #[test]
    fn an_event_is_heard_in_its_own_seconds() {
        let event = |class, span| Event {
            class: (class, 2),
            cue: Cue::Both,
            span,
        };
        let clip = |events| Clip {
            events,
            size: (32, 32),
            rate: Rational(10, 1),
            bit_rate: 1000,
            sound: true,
        };
        let whole = clip(vec![event(1, (0.0, SECONDS))]).record(&mut Rng::new(1, &[]));
        assert_eq!(whole.len(), (SECONDS * f64::from(AUDIO_RATE)) as usize);
        let two = clip(vec![event(0, (1.0, 4.0)), event(1, (6.0, 9.0))]);
        assert_eq!(two.record(&mut Rng::new(1, &[])).len(), whole.len());
    }
}
