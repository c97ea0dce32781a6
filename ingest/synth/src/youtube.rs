//! Clips of YouTube videos as AVE and Kinetics-Sound have them: H.264 and AAC in MP4, with events
//! that are visible, audible or both.

use std::collections::BTreeSet;
use std::path::Path;

use ffmpeg_next::Rational;
use util::rng::Rng;

use crate::audio::Voice;
use crate::encode::{self, Audio, Video};
use crate::plan::Cue;
use crate::scene::Scene;

/// The duration of every clip in seconds.
pub const SECONDS: f64 = 10.0;

/// The sample rate of the audio in Hz, as in small web videos.
const AUDIO_RATE: u32 = 22_050;
const AUDIO_BIT_RATE: usize = 48_000;

/// The largest number of frames from one keyframe to the next: libx264's default.
const GOP: u32 = 250;

/// The characters of a YouTube id.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The streams of random numbers, one for each purpose.
const ID: u32 = 60;
const PERSON: u32 = 61;
const CLIP: u32 = 62;

/// Returns `n` distinct ids of 11 characters. On average one in `ids_per_dash` gets a leading `-`,
/// in addition to those that have one by chance.
pub fn ids(n: usize, ids_per_dash: u32, seed: u64) -> Vec<String> {
    let rng = &mut Rng::new(seed, &[ID]);
    let mut known = BTreeSet::new();
    let mut ids = Vec::with_capacity(n);
    while ids.len() < n {
        let mut id: String = (0..11)
            .map(|_| char::from(ALPHABET[rng.below(64) as usize]))
            .collect();
        if rng.below(ids_per_dash) == 0 {
            id.replace_range(..1, "-");
        }
        if known.insert(id.clone()) {
            ids.push(id);
        }
    }
    ids
}

/// An event in a clip.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The class and the number of classes.
    pub class: (usize, usize),
    /// Whether the event is audible, visible or both.
    pub cue: Cue,
    /// The start and the end in seconds.
    pub span: (f64, f64),
}

/// The settings of a clip. Outside of its events it shows no class.
#[derive(Debug, Clone)]
pub struct Clip {
    /// The events, in order and without overlap.
    pub events: Vec<Event>,
    /// The width and the height in pixels, both even.
    pub size: (u32, u32),
    /// The frame rate in Hz.
    pub rate: Rational,
    /// The bit rate of the video stream in bits per second.
    pub bit_rate: usize,
    /// Whether the clip has an audio stream.
    pub has_audio: bool,
}

impl Clip {
    /// Writes the clip as a file. Clips of different `number` get different random numbers.
    ///
    /// # Errors
    /// See [`encode::write_clip`].
    pub fn write(&self, path: &Path, number: u32, seed: u64) -> anyhow::Result<()> {
        let rng = &mut Rng::new(seed, &[CLIP, number]);
        let recording = self.has_audio.then(|| self.synthesize_audio(rng));
        let (width, height) = self.size;
        let mut scene = |class| {
            let person_rng = &mut Rng::new(seed, &[PERSON, number]);
            Scene::new(width as usize, height as usize, class, person_rng, rng)
        };
        let idle = scene(None);
        let event_scenes: Vec<_> = self
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
            draw: &|n, canvas| {
                let t = n as f64 / frame_rate;
                let current = event_scenes
                    .iter()
                    .find(|((from, to), _)| (*from..*to).contains(&t));
                current.map_or(&idle, |(_, scene)| scene).draw(t, canvas);
            },
        };
        let audio = recording.as_ref().map(|samples| Audio {
            encoder: "aac",
            rate: AUDIO_RATE,
            bit_rate: AUDIO_BIT_RATE,
            samples,
        });
        encode::write_clip(path, "mp4", Some(video), audio)
    }

    /// Synthesizes the audio of the events and of the gaps between them.
    fn synthesize_audio(&self, rng: &mut Rng) -> Vec<f32> {
        let mut voice = |class, seconds| {
            let voice = Voice {
                class,
                pitch: 1.0,
                seconds,
            };
            voice.synthesize(AUDIO_RATE, rng)
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
                samples.extend(voice(None, from - at));
            }
            if to > from {
                samples.extend(voice(class, to - from));
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
    fn ids_are_distinct_and_have_11_characters() {
        let ids = ids(2000, 4, 1);
        let distinct: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), 2000);
        assert!(ids.iter().all(|id| id.len() == 11));
        let dashed = ids.iter().filter(|id| id.starts_with('-')).count();
        assert!((450..600).contains(&dashed), "{dashed}");
    }

    #[test]
    fn audio_lasts_as_long_as_the_clip_whatever_its_events() {
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
            has_audio: true,
        };
        let whole = clip(vec![event(1, (0.0, SECONDS))]).synthesize_audio(&mut Rng::new(1, &[]));
        assert_eq!(whole.len(), (SECONDS * f64::from(AUDIO_RATE)) as usize);
        let two = clip(vec![event(0, (1.0, 4.0)), event(1, (6.0, 9.0))]);
        assert_eq!(
            two.synthesize_audio(&mut Rng::new(1, &[])).len(),
            whole.len()
        );
    }
}
