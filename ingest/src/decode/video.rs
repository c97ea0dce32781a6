//! A video stream's packets to a pool of frames.
//!
//! The pool is `size` frames evenly spaced over the frames that can be decoded, in presentation order: frame number
//! floor((i + 0.5) n / size) for i in 0..size, or all n where there are fewer. Frames are upright (rotation and mirroring
//! as the container asks), shorter side 256, JPEG. Non-square pixels stay as stored.
//!
//! n is known for certain only after decoding. The packets promise a count, and of most streams they tell which of them
//! the frames that it asks for need: only those are decoded, and if they bring out what they should, that was it.
//! Otherwise one pass decodes all and keeps the same frames, and only where the promise was wrong a second one fetches
//! the others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use features::image::{self, Rgb};
use ffmpeg_next::{Packet, frame};

use super::demux::Track;
use super::orientation::Orientation;
use super::packet_selection::{self, Plan};
use super::{Health, Span, drive, libav, nothing_in};
use crate::failure::{self, Failure};

/// What came out of a video stream, or of a span of it.
pub struct Video {
    /// JPEG files in presentation order.
    pub frames: Vec<Vec<u8>>,
    /// Seconds from the first presented frame, one per frame.
    pub times: Vec<f32>,
    /// From the first frame's start to the last one's end, in seconds; of a span, as much of it as there is.
    pub seconds: f64,
    /// Damage met on the way.
    pub health: Health,
}

/// Decodes a stream's pool of `size` frames; 0 keeps every frame. Once for all `spans` of the stream that are wanted:
/// of a span, the pool is drawn from the frames shown in it, and the duration is what the stream has of it.
///
/// # Errors
/// No decoder, nothing decodable, or a picture beyond the limits. Of one span: nothing is shown in it.
pub fn decode(
    track: &Track,
    size: usize,
    spans: &[Option<Span>],
) -> Result<Vec<Result<Video, Failure>>, Failure> {
    let mut found = BTreeMap::new();
    let promised: BTreeSet<usize> = promised(track, size, spans).collect();
    let pass = match packet_selection::plan(track, &promised) {
        Some(plan) => only_needed(track, &promised, plan, &mut found)?,
        None => None,
    };
    let pass = match pass {
        Some(pass) => pass,
        None => forward(track, &promised, &mut found)?,
    };
    let health = Health {
        good: pass.times.len(),
        bad: pass.errors + track.read_errors,
    };
    if pass.times.is_empty() {
        return Err(Failure::with(
            failure::UNDECODABLE,
            health.describe("frame"),
        ));
    }
    health.check("frame")?;

    let times = seconds(track, &pass.times);
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
    let start = times[order[0]];
    let shown: Vec<f64> = order.iter().map(|&index| times[index] - start).collect();
    let last = shown[shown.len() - 1];
    let total = last + last_duration(track, &pass, last);
    let chosen: Vec<Vec<usize>> = spans
        .iter()
        .map(|&span| choose(&shown, size, span).collect())
        .collect();
    let missing: BTreeSet<usize> = chosen
        .iter()
        .flatten()
        .map(|&place| order[place])
        .filter(|index| !found.contains_key(index))
        .collect();
    if !missing.is_empty() {
        forward(track, &missing, &mut found)?;
    }
    let mut videos = Vec::with_capacity(spans.len());
    for (span, places) in spans.iter().zip(chosen) {
        if places.is_empty() {
            videos.push(Err(nothing_in(*span, total)));
            continue;
        }
        let mut frames = Vec::with_capacity(places.len());
        for &place in &places {
            let jpeg = found.get(&order[place]).cloned().ok_or_else(|| {
                Failure::with(failure::UNDECODABLE, "decodes differently each time")
            })?;
            frames.push(jpeg);
        }
        videos.push(Ok(Video {
            frames,
            times: places.iter().map(|&place| shown[place] as f32).collect(),
            seconds: span.map_or(total, |(from, to)| {
                total.min(f64::from(to)) - f64::from(from)
            }),
            health,
        }));
    }
    Ok(videos)
}

/// Places of the pool's frames of a span among all frames, given when each is shown, in order.
fn choose(shown: &[f64], size: usize, span: Option<Span>) -> impl Iterator<Item = usize> {
    let before = |end: f32| shown.partition_point(|&t| t < f64::from(end) - SAME_TIME);
    let (from, to) = span.map_or((0, shown.len()), |(from, to)| (before(from), before(to)));
    pool(to.saturating_sub(from), size).map(move |place| from + place)
}

/// Numbers of the frames that will be wanted if the packets keep their promise.
fn promised(track: &Track, size: usize, spans: &[Option<Span>]) -> impl Iterator<Item = usize> {
    let shown = track.promised_times();
    let count = track.promised_frames();
    let places = spans.iter().flat_map(move |&span| -> Vec<usize> {
        match (span, &shown) {
            (None, _) => pool(count, size).collect(),
            (Some(_), Some(shown)) => choose(shown, size, span).collect(),
            // Without times in the packets there is nothing to go by: the second pass fetches all.
            (Some(_), None) => Vec::new(),
        }
    });
    places.collect::<Vec<_>>().into_iter()
}

/// Numbers of the pool's frames among `n`.
fn pool(n: usize, size: usize) -> impl Iterator<Item = usize> {
    let count = if size == 0 { n } else { n.min(size) };
    (0..count).map(move |i| (2 * i + 1) * n / (2 * count))
}

/// Seconds by which time stamps of one moment may differ, having been multiplied out.
const SAME_TIME: f64 = 1e-6;

/// What one pass over the packets saw, in the decoder's output order.
struct Pass {
    times: Vec<Option<i64>>,
    last_duration: i64,
    errors: usize,
}

/// Decodes everything and stores the wanted frames, by output number.
fn forward(
    track: &Track,
    wanted: &BTreeSet<usize>,
    found: &mut BTreeMap<usize, Vec<u8>>,
) -> Result<Pass, Failure> {
    let mut pass = Pass {
        times: Vec::new(),
        last_duration: 0,
        errors: 0,
    };
    pass.errors = run(track, &track.packets, |frame, finish| {
        let number = pass.times.len();
        if wanted.contains(&number) {
            found.insert(number, finish(frame)?);
        }
        pass.times.push(frame.timestamp());
        pass.last_duration = frame.packet().duration;
        Ok(())
    })?;
    Ok(pass)
}

/// Decodes what the plan says and stores the wanted frames, by number among all. `None`: something else came out.
fn only_needed(
    track: &Track,
    wanted: &BTreeSet<usize>,
    plan: Plan,
    found: &mut BTreeMap<usize, Vec<u8>>,
) -> Result<Option<Pass>, Failure> {
    let mut expected = plan.frames.iter();
    let mut as_planned = true;
    let errors = run(track, plan.packets, |frame, finish| {
        let time = frame.timestamp();
        as_planned &= time == expected.next().copied();
        if let Some(Ok(number)) = time.map(|time| plan.all.binary_search(&time))
            && as_planned
            && wanted.contains(&number)
        {
            found.insert(number, finish(frame)?);
        }
        Ok(())
    })?;
    if errors > 0 || !as_planned || expected.next().is_some() {
        found.clear();
        return Ok(None);
    }
    Ok(Some(Pass {
        times: plan.all.into_iter().map(Some).collect(),
        last_duration: plan.last_duration,
        errors: 0,
    }))
}

/// Makes a JPEG of a decoded frame.
type Finish<'a> = dyn FnMut(&frame::Video) -> Result<Vec<u8>, Failure> + 'a;

/// Sends packets of a stream through a decoder of their own and shows each frame to `each`, with what makes a JPEG of
/// it. Returns the number of errors.
fn run<'a>(
    track: &Track,
    packets: impl IntoIterator<Item = &'a Packet>,
    mut each: impl FnMut(&frame::Video, &mut Finish) -> Result<(), Failure>,
) -> Result<usize, Failure> {
    let mut decoder = libav::video_decoder(&track.parameters, track.time_base)
        .map_err(|error| super::open_failure(error, &track.parameters))?;
    let orientation = track
        .display_matrix
        .map_or(Orientation::UPRIGHT, Orientation::from_matrix);
    let mut converter = libav::ToRgb::new();
    let mut finish = |frame: &frame::Video| finish(frame, &mut converter, orientation);
    let mut problem = None;
    let errors = drive(
        &mut decoder,
        packets,
        frame::Video::empty(),
        |frame| match each(frame, &mut finish) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                problem = Some(failure);
                ControlFlow::Break(())
            }
        },
    );
    problem.map_or(Ok(errors), Err)
}

/// Decoded frame to JPEG.
fn finish(
    frame: &frame::Video,
    converter: &mut libav::ToRgb,
    orientation: Orientation,
) -> Result<Vec<u8>, Failure> {
    let rgb = Rgb {
        width: frame.width() as usize,
        height: frame.height() as usize,
        pixels: converter
            .convert(frame)
            .map_err(|error| Failure::with(failure::UNDECODABLE, error))?,
    };
    Ok(image::shrink_to_jpeg(
        &orientation.apply(rgb),
        image::FRAME_SHORTER_SIDE,
        image::JPEG_QUALITY,
    )?)
}

/// Presentation times in seconds; counted by the frame rate where the stream has none.
fn seconds(track: &Track, times: &[Option<i64>]) -> Vec<f64> {
    match times.iter().copied().collect::<Option<Vec<i64>>>() {
        Some(known) => known
            .into_iter()
            .map(|ticks| track.seconds(ticks))
            .collect(),
        None => (0..times.len())
            .map(|i| i as f64 / track.frame_rate.unwrap_or(DEFAULT_FRAME_RATE))
            .collect(),
    }
}

/// Assumed where a stream tells neither times nor a rate (raw h264): what libav itself assumes.
const DEFAULT_FRAME_RATE: f64 = 25.0;

/// How long the last frame is shown: as its packet says, else like the others on average.
fn last_duration(track: &Track, pass: &Pass, span: f64) -> f64 {
    if pass.last_duration > 0 {
        return track.seconds(pass.last_duration);
    }
    match pass.times.len() {
        1 => 1.0 / track.frame_rate.unwrap_or(DEFAULT_FRAME_RATE),
        n => span / (n - 1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_half_open_and_may_be_empty() {
        let shown: Vec<f64> = (0..100).map(|n| f64::from(n) * 0.1).collect();
        let of = |size, span| choose(&shown, size, span).collect::<Vec<_>>();
        assert_eq!(of(0, Some((3.0, 3.5))), [30, 31, 32, 33, 34]);
        assert_eq!(of(2, Some((0.0, 10.0))), of(2, None));
        assert_eq!(of(2, Some((5.0, 9.0))), [60, 80]);
        assert!(of(5, Some((9.95, 20.0))).is_empty());
        assert!(of(5, Some((4.0, 2.0))).is_empty());
    }

    #[test]
    fn pool_is_evenly_spaced_and_whole_when_short() {
        assert_eq!(pool(0, 10).count(), 0);
        assert_eq!(pool(3, 10).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            pool(10, 10).collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
        assert_eq!(
            pool(250, 10).collect::<Vec<_>>(),
            [12, 37, 62, 87, 112, 137, 162, 187, 212, 237]
        );
        assert_eq!(pool(11, 10).last(), Some(10));
        assert_eq!(pool(7, 0).count(), 7);
        for n in 1..400 {
            for (i, place) in pool(n, 10).enumerate() {
                let expected = if n <= 10 {
                    i
                } else {
                    ((i as f64 + 0.5) * n as f64 / 10.0).floor() as usize
                };
                assert_eq!(place, expected, "{n}");
            }
        }
    }
}
