//! Demuxing: one pass over a media file that returns the packets of its best audio and its best
//! video stream.
//!
//! libav decides which stream is the best one, by its default flag, size and bit rate. Packets are
//! held in memory, so their bytes are limited. Audio packets after the part that the mel front end
//! uses are counted, but not kept.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use datasets::LFS_PREFIX;
use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, packet::side_data};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Error, Packet, Rational};

use super::file_kind::{self, HEAD_BYTES};
use super::libav;
use crate::failure::{self, Failure};

/// Limit on the bytes of packets of one clip. A clip of 10 s at 100 Mbit/s has 125 MB.
const MAX_CLIP_BYTES: usize = 512 << 20;

/// Audio packets are kept up to this time in seconds. It covers the 10.255 s of the mel front end,
/// the context of the resampler, and the samples that a decoder skips at the start.
const AUDIO_SECONDS_KEPT: f64 = 12.0;

/// Number of read errors in a row after which the rest of the file is skipped.
const MAX_READ_ERRORS: usize = 32;

/// The streams to demux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Whether to demux the best audio stream.
    pub audio: bool,
    /// Whether to demux the best video stream.
    pub video: bool,
}

/// The packets of one stream in the order of decoding, and what their decoding depends on.
pub struct Track {
    /// The codec and its settings.
    pub parameters: codec::Parameters,
    /// Seconds per tick of all time stamps.
    pub time_base: Rational,
    /// Mean frames per second, if the container gives it.
    pub frame_rate: Option<f64>,
    /// The rotation and mirroring of the frames, see [`libav::display_matrix`].
    pub display_matrix: Option<[i32; 4]>,
    /// The packets.
    pub packets: Vec<Packet>,
    /// The end of the packet that is presented last, in ticks. Packets that were not kept count
    /// too.
    pub end: Option<i64>,
    /// Whether all packets of the stream were kept.
    pub whole: bool,
    /// Number of read errors.
    pub read_errors: usize,
}

impl Track {
    /// Refuses an encrypted stream. Its samples and frames would be noise.
    ///
    /// # Errors
    /// A packet is encrypted.
    pub fn check_encryption(&self) -> Result<(), Failure> {
        let is_encrypted = |packet: &Packet| {
            let mut side_data = packet.side_data();
            side_data.any(|side| side.kind() == side_data::Type::EncryptionInfo)
        };
        match self.packets.iter().any(is_encrypted) {
            true => Err(Failure::with(
                failure::UNDECODABLE,
                "encrypted; a copy without copy protection is needed",
            )),
            false => Ok(()),
        }
    }

    /// Converts a time stamp to seconds.
    pub fn seconds(&self, ticks: i64) -> f64 {
        ticks as f64 * f64::from(self.time_base.numerator())
            / f64::from(self.time_base.denominator().max(1))
    }

    /// Number of frames that the packets announce.
    pub fn expected_frames(&self) -> usize {
        let is_presented = |packet: &&Packet| packet.size() > 0 && !libav::is_hidden(packet);
        self.packets.iter().filter(is_presented).count()
    }

    /// Presentation times of these frames, in order, in seconds from the first one. `None` if a
    /// packet has no time stamp.
    pub fn expected_times(&self) -> Option<Vec<f64>> {
        let is_presented = |packet: &&Packet| packet.size() > 0 && !libav::is_hidden(packet);
        let times = self.packets.iter().filter(is_presented).map(Packet::pts);
        let mut times = times.collect::<Option<Vec<i64>>>()?;
        times.sort_unstable();
        let first = *times.first()?;
        let since = |ticks: i64| self.seconds(ticks.saturating_sub(first));
        Some(times.into_iter().map(since).collect())
    }
}

/// The streams of a file. A stream that was not wanted is an error too.
pub struct Tracks {
    /// The audio stream, or the reason why there is none.
    pub audio: Result<Track, Failure>,
    /// The video stream, or the reason why there is none.
    pub video: Result<Track, Failure>,
}

/// Reads a file and returns the packets of the wanted streams.
///
/// # Errors
/// The file is absent, empty, a Git LFS pointer, in no known container, or too large.
pub fn demux(path: &Path, wanted: Wanted) -> Result<Tracks, Failure> {
    let head = check_file(path)?;
    let mut input = libav::open(path, &head).map_err(|error| open_failure(path, &head, error))?;
    if input.nb_streams() == 0
        && let Some(kind) = file_kind::describe(path, &head)
    {
        return Err(Failure::with(failure::NOT_MEDIA, kind));
    }
    let mut audio = StreamCollector::new(&input, Type::Audio, wanted.audio);
    let mut video = StreamCollector::new(&input, Type::Video, wanted.video);
    let indices: Vec<usize> = [&audio, &video]
        .iter()
        .filter_map(|collector| collector.index())
        .collect();
    libav::keep_only(&mut input, &indices);

    let (mut errors, mut in_a_row, mut bytes) = (0, 0, 0);
    while !indices.is_empty() && in_a_row < MAX_READ_ERRORS {
        let mut packet = Packet::empty();
        match libav::read(&mut input, &mut packet) {
            Ok(None) => break,
            Err(_) => {
                (errors, in_a_row) = (errors + 1, in_a_row + 1);
                continue;
            }
            Ok(Some(())) => in_a_row = 0,
        }
        for collector in [&mut audio, &mut video] {
            if collector.index() == Some(packet.stream()) {
                bytes += collector.push(packet);
                break;
            }
        }
        if bytes > MAX_CLIP_BYTES {
            let detail = format!(
                "more than {} MiB of packets; cut it into clips",
                MAX_CLIP_BYTES >> 20
            );
            return Err(Failure::with(failure::TOO_LARGE, detail));
        }
    }
    Ok(Tracks {
        audio: audio.finish(errors, failure::NO_AUDIO),
        video: video.finish(errors, failure::NO_VIDEO),
    })
}

/// The failure of a file that libav cannot open.
fn open_failure(path: &Path, head: &[u8], error: Error) -> Failure {
    let errno = match error {
        Error::Other { errno } => Some(errno),
        _ => None,
    };
    match errno {
        Some(libc::ENOENT) => return Failure::new(failure::NO_FILE),
        Some(libc::ENOMEM) => return Failure::out_of_memory(),
        _ => {}
    }
    if let Some(kind) = file_kind::describe(path, head) {
        return Failure::with(failure::NOT_MEDIA, kind);
    }
    match errno {
        // libav returns EINVAL for a demuxer that it may not use, and EIO for Matroska that is cut
        // short.
        Some(libc::EINVAL) => {
            let detail = "an unusual container; `ffmpeg -i FILE FILE.mp4`, or FILE.wav for sound, converts it";
            Failure::with(failure::NOT_MEDIA, detail)
        }
        Some(libc::EIO) => {
            Failure::with(failure::NOT_MEDIA, "damaged, or cut short; fetch it again")
        }
        Some(_) => Failure::with(failure::UNREADABLE, error),
        None => Failure::with(failure::NOT_MEDIA, error),
    }
}

/// Returns the first [`HEAD_BYTES`] of a file.
///
/// # Errors
/// The file is absent, empty, no regular file, or a Git LFS pointer. libav would call all of these
/// "invalid data".
pub fn check_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            Failure::new(failure::NO_FILE)
        }
        kind => Failure::with(failure::UNREADABLE, kind),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::with(failure::NOT_MEDIA, "not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(Failure::new(failure::EMPTY));
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    let mut start = file.take(HEAD_BYTES as u64);
    start.read_to_end(&mut head).map_err(unreadable)?;
    match head.starts_with(LFS_PREFIX) {
        true => Err(Failure::with(failure::LFS_POINTER, "run git lfs pull")),
        false => Ok(head),
    }
}

/// Collects the packets of one stream.
struct StreamCollector {
    /// The index of the stream in the file, and its packets.
    track: Option<(usize, Track)>,
    /// Whether the only video stream is a cover image.
    cover_only: bool,
    /// The time stamp of the first packet.
    first: Option<i64>,
}

impl StreamCollector {
    fn new(input: &ffmpeg::format::context::Input, medium: Type, wanted: bool) -> StreamCollector {
        let best = wanted.then(|| input.streams().best(medium)).flatten();
        let cover_only = best
            .as_ref()
            .is_some_and(|s| s.disposition().contains(Disposition::ATTACHED_PIC));
        let track = best.filter(|_| !cover_only).map(|stream| {
            let rate = stream.avg_frame_rate();
            let frame_rate =
                (rate.numerator() > 0 && rate.denominator() > 0).then(|| f64::from(rate));
            let track = Track {
                parameters: stream.parameters(),
                time_base: stream.time_base(),
                frame_rate,
                display_matrix: libav::display_matrix(&stream),
                packets: Vec::new(),
                end: None,
                whole: true,
                read_errors: 0,
            };
            (stream.index(), track)
        });
        StreamCollector {
            track,
            cover_only,
            first: None,
        }
    }

    fn index(&self) -> Option<usize> {
        self.track.as_ref().map(|(index, _)| *index)
    }

    /// Adds a packet of this stream. Returns the number of bytes that are kept of it.
    fn push(&mut self, packet: Packet) -> usize {
        let Some((_, track)) = &mut self.track else {
            return 0;
        };
        if let Some(at) = packet.pts().or(packet.dts()) {
            let first = *self.first.get_or_insert(at);
            let end = at.saturating_add(packet.duration().max(0));
            track.end = Some(track.end.map_or(end, |known| known.max(end)));
            let is_audio = track.parameters.medium() == Type::Audio;
            if is_audio && track.seconds(at.saturating_sub(first)) > AUDIO_SECONDS_KEPT {
                track.whole = false;
                return 0;
            }
        }
        let bytes = packet.size();
        track.packets.push(packet);
        bytes
    }

    fn finish(self, read_errors: usize, no_stream: &str) -> Result<Track, Failure> {
        let Some((_, mut track)) = self.track else {
            let detail = if self.cover_only {
                "only a cover picture"
            } else {
                ""
            };
            return Err(Failure::with(no_stream, detail));
        };
        track.read_errors = read_errors;
        Ok(track)
    }
}
