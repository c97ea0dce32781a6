//! Video packets to a pool of frames.
//!
//! The pool is `size` frames that are evenly spaced over the n frames that can be decoded, in the
//! order of presentation: the frames of index floor((i + 0.5) n / size) for i in 0..size. It is all
//! n frames if they are fewer. Frames are turned upright (rotation and mirroring as the container
//! says), scaled to a shorter side of 256 at most, and encoded as JPEG. Non-square pixels stay as
//! they are stored.
//!
//! A damaged frame (see [`super::damage`]) counts among the n frames, but the nearest frame that is
//! intact and not in the pool yet takes its place.
//!
//! Only decoding tells n for certain. The packets give an expected number, and in most streams they
//! tell which of them the frames of the pool depend on. Then only those are decoded, and if the
//! frames come out as expected, nothing else is. Otherwise all packets are decoded once, and once
//! more if the expected number was wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use features::image::{self, Rgb};
use ffmpeg_next::{Packet, frame};

use super::damage::{self, Damage};
use super::demux::Track;
use super::orientation::Orientation;
use super::packet_selection::{self, Selection};
use super::{Health, Span, decode_packets, empty_span, libav};
use crate::failure::{self, Failure};

/// The frames of a video stream, or of a span of it.
pub struct Video {
    /// JPEG files, in the order of presentation.
    pub frames: Vec<Vec<u8>>,
    /// Presentation time of each frame in seconds from the start of the clip.
    pub times: Vec<f32>,
    /// Duration in seconds, from the start of the first frame to the end of the last one. For a
    /// span, the duration of the part of it that the stream has.
    pub seconds: f64,
    /// The start and the end of the whole stream in seconds from the start of the clip.
    pub stream: (f64, f64),
    /// How much of the stream could be decoded.
    pub health: Health,
}

/// Decodes a stream and extracts a pool of `size` frames for each of `spans`; a size of 0 stands
/// for all frames. The pool of a span is selected from the frames that are presented in it. With
/// `all_packets` all packets are decoded, also where those that the frames depend on would do.
///
/// # Errors
/// There is no decoder, nothing can be decoded, or a frame exceeds a limit. The result of a span is
/// an error if no frame is presented in it, or if more of its frames are damaged than intact.
pub fn decode(
    track: &Track,
    size: usize,
    all_packets: bool,
    spans: &[Option<Span>],
) -> Result<Vec<Result<Video, Failure>>, Failure> {
    let mut jpegs = BTreeMap::new();
    let expected = expected_pool(track, size, spans);
    let pass = match packet_selection::select(track, &expected) {
        Some(selection) if !all_packets => {
            decode_selection(track, &expected, selection, &mut jpegs)?
        }
        _ => None,
    };
    let pass = match pass {
        Some(pass) => pass,
        None => decode_all(track, &expected, &mut jpegs)?,
    };
    let health = Health {
        decoded: pass.times.len(),
        lost: pass.errors + track.read_errors,
        damaged: pass.damaged.iter().filter(|&&is| is).count(),
    };
    if pass.times.is_empty() {
        return Err(Failure::with(
            failure::UNDECODABLE,
            health.describe("frame"),
        ));
    }
    if health.lost > health.decoded {
        health.check("frame")?;
    }

    let times = presentation_times(track, &pass.times);
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
    let first = times[order[0]];
    let start = match pass.times.contains(&None) {
        // Times that were computed from the frame rate begin at 0.
        true => 0.0,
        false => track.since_clip_start(first),
    };
    let since = |&index: &usize| start + (times[index] - first);
    let presented: Vec<f64> = order.iter().map(since).collect();
    let last = presented[presented.len() - 1];
    let end = last + last_duration(track, &pass, last - start);
    let is_damaged = |position: usize| pass.damaged.get(order[position]).is_some_and(|&is| is);
    let pools: Vec<Result<Vec<usize>, Failure>> = spans
        .iter()
        .map(|&span| {
            let range = positions_of_span(&presented, span);
            if range.is_empty() {
                return Err(empty_span(span, (start, end)));
            }
            let damaged = range
                .clone()
                .filter(|&position| is_damaged(position))
                .count();
            // Nobody knows which spans the lost packets are from.
            let lost = if span.is_none() { health.lost } else { 0 };
            let decoded = range.len();
            Health {
                decoded,
                lost,
                damaged,
            }
            .check("frame")?;
            let pool = pool_of_range(range.clone(), size).collect();
            Ok(damage::replace_damaged(pool, range, is_damaged))
        })
        .collect();
    let missing: BTreeSet<usize> = pools
        .iter()
        .flatten()
        .flatten()
        .map(|&position| order[position])
        .filter(|index| !jpegs.contains_key(index))
        .collect();
    if !missing.is_empty() {
        decode_all(track, &missing, &mut jpegs)?;
    }
    let mut videos = Vec::with_capacity(spans.len());
    for (span, pool) in spans.iter().zip(pools) {
        let pool = match pool {
            Ok(pool) => pool,
            Err(failure) => {
                videos.push(Err(failure));
                continue;
            }
        };
        let mut frames = Vec::with_capacity(pool.len());
        for &position in &pool {
            let jpeg = jpegs.get(&order[position]).cloned().ok_or_else(|| {
                Failure::with(failure::UNDECODABLE, "decodes differently each time")
            })?;
            frames.push(jpeg);
        }
        videos.push(Ok(Video {
            frames,
            times: pool
                .iter()
                .map(|&position| presented[position] as f32)
                .collect(),
            seconds: span.map_or(end - start, |(from, to)| {
                end.min(to.into()) - start.max(from.into())
            }),
            stream: (start, end),
            health,
        }));
    }
    Ok(videos)
}

/// Positions of a span's frames among all frames, whose presentation times are given in order.
fn positions_of_span(times: &[f64], span: Option<Span>) -> Range<usize> {
    let before = |end: f32| times.partition_point(|&t| t < f64::from(end) - TIME_TOLERANCE);
    span.map_or(0..times.len(), |(from, to)| before(from)..before(to))
}

/// Positions of the pool of a range of frames.
fn pool_of_range(range: Range<usize>, size: usize) -> impl Iterator<Item = usize> {
    pool(range.len(), size).map(move |position| range.start + position)
}

/// Positions of the pools of all spans among the frames that the packets announce.
fn expected_pool(track: &Track, size: usize, spans: &[Option<Span>]) -> BTreeSet<usize> {
    let times = track.expected_times();
    let count = track.expected_frames();
    let positions = spans.iter().flat_map(|&span| -> Vec<usize> {
        match (span, &times) {
            (None, _) => pool(count, size).collect(),
            (Some(_), Some(times)) => pool_of_range(positions_of_span(times, span), size).collect(),
            // Without times in the packets, only the second pass can know the frames of a span.
            (Some(_), None) => Vec::new(),
        }
    });
    positions.collect()
}

/// Positions of the pool's frames among `n` frames.
fn pool(n: usize, size: usize) -> impl Iterator<Item = usize> {
    let count = if size == 0 { n } else { n.min(size) };
    (0..count).map(move |i| (2 * i + 1) * n / (2 * count))
}

/// Rounding error of a presentation time in seconds.
const TIME_TOLERANCE: f64 = 1e-6;

/// The frames of one pass over the packets, in the order in which the decoder outputs them.
struct Pass {
    /// Time stamps of all frames.
    times: Vec<Option<i64>>,
    /// Which of these frames are damaged. Empty if none is.
    damaged: Vec<bool>,
    /// Duration of the last frame in ticks.
    last_duration: i64,
    /// Number of decoding errors.
    errors: usize,
}

/// Decodes all packets and stores the wanted frames by their number in the output.
fn decode_all(
    track: &Track,
    wanted: &BTreeSet<usize>,
    jpegs: &mut BTreeMap<usize, Vec<u8>>,
) -> Result<Pass, Failure> {
    let mut pass = Pass {
        times: Vec::new(),
        damaged: Vec::new(),
        last_duration: 0,
        errors: 0,
    };
    let mut damage = Damage::new(track);
    pass.errors = decode_frames(track, &track.packets, |frame, errors, encode| {
        damage.record(frame, errors);
        let number = pass.times.len();
        if wanted.contains(&number) {
            jpegs.insert(number, encode(frame)?);
        }
        pass.times.push(frame.timestamp());
        pass.last_duration = frame.packet().duration;
        Ok(())
    })?;
    pass.damaged = damage.finish();
    Ok(pass)
}

/// Decodes the selected packets and stores the wanted frames by their number among all frames.
/// Returns `None` if other frames came out than the selection says, or a damaged one.
fn decode_selection(
    track: &Track,
    wanted: &BTreeSet<usize>,
    selection: Selection,
    jpegs: &mut BTreeMap<usize, Vec<u8>>,
) -> Result<Option<Pass>, Failure> {
    let mut expected = selection.frames.iter();
    let mut as_expected = true;
    let errors = decode_frames(track, selection.packets, |frame, _errors, encode| {
        let time = frame.timestamp();
        as_expected &= time == expected.next().copied() && !libav::is_concealed(frame);
        if let Some(Ok(number)) = time.map(|time| selection.all_frames.binary_search(&time))
            && as_expected
            && wanted.contains(&number)
        {
            jpegs.insert(number, encode(frame)?);
        }
        Ok(())
    })?;
    if errors > 0 || !as_expected || expected.next().is_some() {
        jpegs.clear();
        return Ok(None);
    }
    Ok(Some(Pass {
        times: selection.all_frames.into_iter().map(Some).collect(),
        damaged: Vec::new(),
        last_duration: selection.last_duration,
        errors: 0,
    }))
}

/// A function that turns a decoded frame into a JPEG file.
type EncodeFrame<'a> = dyn FnMut(&frame::Video) -> Result<Vec<u8>, Failure> + 'a;

/// Decodes packets of a stream with a new decoder, and calls `each` with every frame, the number of
/// errors before it, and a function that encodes it as JPEG. Returns the number of errors.
fn decode_frames<'a>(
    track: &Track,
    packets: impl IntoIterator<Item = &'a Packet>,
    mut each: impl FnMut(&frame::Video, usize, &mut EncodeFrame) -> Result<(), Failure>,
) -> Result<usize, Failure> {
    let mut decoder = libav::video_decoder(&track.parameters, track.time_base)
        .map_err(|error| super::decoder_failure(error, &track.parameters))?;
    let orientation = track
        .display_matrix
        .map_or(Orientation::UPRIGHT, Orientation::from_matrix);
    let mut converter = libav::ToRgb::new();
    let mut encode = |frame: &frame::Video| encode_frame(frame, &mut converter, orientation);
    let mut problem = None;
    let errors = decode_packets(
        &mut decoder,
        packets,
        frame::Video::empty(),
        |frame, errors| match each(frame, errors, &mut encode) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                problem = Some(failure);
                ControlFlow::Break(())
            }
        },
    );
    problem.map_or(Ok(errors), Err)
}

/// Turns a decoded frame upright and encodes it as JPEG in the size that shards hold.
fn encode_frame(
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

/// Returns presentation times in seconds. If a frame has no time stamp, the times are computed from
/// the frame rate.
fn presentation_times(track: &Track, times: &[Option<i64>]) -> Vec<f64> {
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

/// Frame rate of a stream without time stamps and without a rate, such as raw H.264. libav assumes
/// the same.
const DEFAULT_FRAME_RATE: f64 = 25.0;

/// Duration of the last frame in seconds: that of its packet, or else the mean duration of the
/// others.
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
    use crate::plan::DEFAULT_FRAME_POOL;

    #[test]
    fn spans_are_half_open_and_may_be_empty() {
        let times: Vec<f64> = (0..100).map(|n| f64::from(n) * 0.1).collect();
        let of = |size, span| -> Vec<usize> {
            pool_of_range(positions_of_span(&times, span), size).collect()
        };
        assert_eq!(of(0, Some((3.0, 3.5))), [30, 31, 32, 33, 34]);
        assert_eq!(of(2, Some((0.0, 10.0))), of(2, None));
        assert_eq!(of(2, Some((5.0, 9.0))), [60, 80]);
        assert!(of(5, Some((9.95, 20.0))).is_empty());
        assert!(of(5, Some((4.0, 2.0))).is_empty());
    }

    /// The frames of an evaluation, see `segment_centres` of features.
    #[test]
    fn default_pool_holds_the_centres_of_three_thirds() {
        for n in [250, 300, 301] {
            let pool: Vec<usize> = pool(n, DEFAULT_FRAME_POOL as usize).collect();
            assert_eq!([1, 4, 7].map(|i| pool[i]), [n / 6, n / 2, 5 * n / 6]);
        }
    }

    #[test]
    fn pool_is_evenly_spaced_or_all_frames() {
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
            for (i, position) in pool(n, 10).enumerate() {
                let expected = if n <= 10 {
                    i
                } else {
                    ((i as f64 + 0.5) * n as f64 / 10.0).floor() as usize
                };
                assert_eq!(position, expected, "{n}");
            }
        }
    }
}
