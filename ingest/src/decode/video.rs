//! A video stream's packets to a pool of frames.
//!
//! The pool is `size` frames evenly spaced over the frames that can be decoded, in presentation order: frame number
//! floor((i + 0.5) n / size) for i in 0..size, or all n where there are fewer. Frames are upright (rotation and mirroring
//! as the container asks), shorter side 256, JPEG. Non-square pixels stay as stored.
//!
//! n is known for certain only after decoding. The packets promise a count; one forward pass keeps the frames that this
//! count asks for, and only where the promise was wrong a second pass fetches the others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use features::image::{self, Rgb};
use ffmpeg_next::frame;

use super::demux::Track;
use super::orient::Orientation;
use super::{Health, drive, libav};
use crate::failure::{self, Failure};

/// What came out of a video stream.
pub struct Video {
    /// JPEG files in presentation order.
    pub frames: Vec<Vec<u8>>,
    /// Seconds from the first presented frame, one per frame.
    pub times: Vec<f32>,
    /// From the first frame's start to the last one's end, in seconds.
    pub seconds: f64,
    /// Damage met on the way.
    pub health: Health,
}

/// Decodes a stream's pool of `size` frames; 0 keeps every frame.
///
/// # Errors
/// No decoder, nothing decodable, or a picture beyond the limits.
pub fn decode(track: &Track, size: usize) -> Result<Video, Failure> {
    let mut found = BTreeMap::new();
    let promised: BTreeSet<usize> = pool(track.promised_frames(), size).collect();
    let pass = forward(track, &promised, &mut found)?;
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
    let chosen: Vec<usize> = pool(order.len(), size).map(|place| order[place]).collect();
    let missing: BTreeSet<usize> = chosen
        .iter()
        .copied()
        .filter(|i| !found.contains_key(i))
        .collect();
    if !missing.is_empty() {
        forward(track, &missing, &mut found)?;
    }

    let start = times[order[0]];
    let last = times[order[order.len() - 1]];
    let mut frames = Vec::with_capacity(chosen.len());
    for index in &chosen {
        let jpeg = found
            .remove(index)
            .ok_or_else(|| Failure::with(failure::UNDECODABLE, "decodes differently each time"))?;
        frames.push(jpeg);
    }
    Ok(Video {
        frames,
        times: chosen
            .iter()
            .map(|&index| (times[index] - start) as f32)
            .collect(),
        seconds: last - start + last_duration(track, &pass, last - start),
        health,
    })
}

/// Numbers of the pool's frames among `n`.
fn pool(n: usize, size: usize) -> impl Iterator<Item = usize> {
    let count = if size == 0 { n } else { n.min(size) };
    (0..count).map(move |i| (2 * i + 1) * n / (2 * count))
}

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
    let mut decoder = libav::video_decoder(&track.parameters, track.time_base)
        .map_err(|error| super::open_failure(error, &track.parameters))?;
    let orientation = track
        .display_matrix
        .map_or(Orientation::UPRIGHT, Orientation::from_matrix);
    let mut converter = libav::ToRgb::new();
    let mut pass = Pass {
        times: Vec::new(),
        last_duration: 0,
        errors: 0,
    };
    let mut problem = None;
    pass.errors = drive(
        &mut decoder,
        &track.packets,
        frame::Video::empty(),
        |frame| {
            if wanted.contains(&pass.times.len()) {
                match finish(frame, &mut converter, orientation) {
                    Ok(jpeg) => drop(found.insert(pass.times.len(), jpeg)),
                    Err(failure) => {
                        problem = Some(failure);
                        return ControlFlow::Break(());
                    }
                }
            }
            pass.times.push(frame.timestamp());
            pass.last_duration = frame.packet().duration;
            ControlFlow::Continue(())
        },
    );
    problem.map_or(Ok(pass), Err)
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
