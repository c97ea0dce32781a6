//! One pass over a media file: the packets of its best audio and best video stream, undecoded.
//!
//! "Best" is libav's own choice (default flag, size, bit rate). Packets are held in memory, so their bytes are bounded;
//! audio packets that lie wholly behind the part that the mel front end uses are counted, not kept.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Error, Packet, Rational};

use super::libav;
use crate::failure::{self, Failure};

/// Most compressed bytes held for one clip. A 10 s clip at 100 Mbit/s has 125 MB.
pub const MAX_CLIP_BYTES: usize = 512 << 20;

/// Audio packets are kept up to this many seconds: the mel front end's 10.255 s, the resampler's surroundings, and the
/// samples that a decoder skips at the start.
const AUDIO_SECONDS_KEPT: f64 = 12.0;

/// Read errors in a row after which the rest of the file is given up.
const MAX_READ_ERRORS: usize = 32;

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The best audio stream.
    pub audio: bool,
    /// The best video stream.
    pub video: bool,
}

/// One stream's packets in decoding order, and what is needed to decode and place them.
pub struct Track {
    /// Codec and its settings.
    pub parameters: codec::Parameters,
    /// Seconds per tick of every time stamp here.
    pub time_base: Rational,
    /// Mean frames per second as the container tells it, where it does.
    pub frame_rate: Option<f64>,
    /// See [`libav::display_matrix`].
    pub display_matrix: Option<[i32; 4]>,
    /// The packets.
    pub packets: Vec<Packet>,
    /// End of the packet that is shown last, those not kept included, in ticks.
    pub end: Option<i64>,
    /// Whether every packet of the stream was kept.
    pub whole: bool,
    /// Read errors met on the way.
    pub read_errors: usize,
}

impl Track {
    /// A time stamp in seconds.
    pub fn seconds(&self, ticks: i64) -> f64 {
        ticks as f64 * f64::from(self.time_base.numerator())
            / f64::from(self.time_base.denominator().max(1))
    }

    /// How many frames the packets promise to show.
    pub fn promised_frames(&self) -> usize {
        let shown = |packet: &&Packet| packet.size() > 0 && !libav::is_hidden(packet);
        self.packets.iter().filter(shown).count()
    }

    /// When they promise to show them, in order, in seconds from the first one; `None` where a packet does not tell.
    pub fn promised_times(&self) -> Option<Vec<f64>> {
        let shown = |packet: &&Packet| packet.size() > 0 && !libav::is_hidden(packet);
        let times = self.packets.iter().filter(shown).map(Packet::pts);
        let mut times = times.collect::<Option<Vec<i64>>>()?;
        times.sort_unstable();
        let first = *times.first()?;
        let since = |ticks: i64| self.seconds(ticks.saturating_sub(first));
        Some(times.into_iter().map(since).collect())
    }
}

/// What a file holds. A stream that was not wanted is `Err` too.
pub struct Tracks {
    /// The audio stream, or why there is none.
    pub audio: Result<Track, Failure>,
    /// The video stream, or why there is none.
    pub video: Result<Track, Failure>,
}

/// Reads a file once.
///
/// # Errors
/// The file cannot be used at all: absent, empty, an LFS pointer, no known container, or too large.
pub fn demux(path: &Path, wanted: Wanted) -> Result<Tracks, Failure> {
    let head = check_file(path)?;
    let mut input = libav::open(path, &head).map_err(|error| match error {
        Error::Other {
            errno: libc::ENOENT,
        } => Failure::new(failure::NO_FILE),
        Error::Other {
            errno: libc::ENOMEM,
        } => Failure::out_of_memory(),
        // What libav says of a demuxer that it may not use, and of Matroska that is cut short.
        Error::Other {
            errno: libc::EINVAL,
        } => Failure::with(failure::NOT_MEDIA, "a playlist or an unusual container"),
        Error::Other { errno: libc::EIO } => {
            Failure::with(failure::NOT_MEDIA, "damaged, or cut short")
        }
        Error::Other { .. } => Failure::with(failure::UNREADABLE, error),
        error => Failure::with(failure::NOT_MEDIA, error),
    })?;
    let mut audio = Gatherer::new(&input, Type::Audio, wanted.audio);
    let mut video = Gatherer::new(&input, Type::Video, wanted.video);
    let indices: Vec<usize> = [&audio, &video]
        .iter()
        .filter_map(|one| one.index())
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
        for one in [&mut audio, &mut video] {
            if one.index() == Some(packet.stream()) {
                bytes += one.take(packet);
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

/// Tells the common cases apart that libav would all call "invalid data"; gives the first bytes.
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
    let mut beginning = file.take(LFS_HEAD.len() as u64);
    beginning.read_to_end(&mut head).map_err(unreadable)?;
    match head == LFS_HEAD {
        true => Err(Failure::with(failure::LFS_POINTER, "run git lfs pull")),
        false => Ok(head),
    }
}

/// First bytes of every Git LFS pointer, as its specification has them.
const LFS_HEAD: &[u8; 23] = b"version https://git-lfs";

/// Collects one stream.
struct Gatherer {
    track: Option<(usize, Track)>,
    cover_only: bool,
    first: Option<i64>,
}

impl Gatherer {
    fn new(input: &ffmpeg::format::context::Input, medium: Type, wanted: bool) -> Gatherer {
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
        Gatherer {
            track,
            cover_only,
            first: None,
        }
    }

    fn index(&self) -> Option<usize> {
        self.track.as_ref().map(|(index, _)| *index)
    }

    /// Keeps a packet of this stream, and returns how many bytes that holds in memory.
    fn take(&mut self, packet: Packet) -> usize {
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

    fn finish(self, read_errors: usize, absent: &str) -> Result<Track, Failure> {
        let Some((_, mut track)) = self.track else {
            let detail = if self.cover_only {
                "only a cover picture"
            } else {
                ""
            };
            return Err(Failure::with(absent, detail));
        };
        track.read_errors = read_errors;
        Ok(track)
    }
}
