//! Demuxing: one pass over a media file that returns the packets of its best audio and its best
//! video stream.
//!
//! libav decides which stream is the best one, by its default flag, size and bit rate. Of audio
//! streams, one that is marked as a commentary or the like is used only if there is no other. Packets
//! are held in memory, so their bytes are limited. Audio packets after the part that the mel front end
//! uses are counted, but not kept.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use datasets::LFS_PREFIX;
use ffmpeg_next::codec::{self, packet::side_data};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Error, Packet, Rational, Stream};

use super::declared_duration::{self, DeclaredDurations};
use super::file_kind::{self, HEAD_BYTES};
use super::libav;
use super::timeline::Timeline;
use crate::failure::{self, Failure};

/// Limit on the bytes of packets of one clip. A clip of 10 s at 100 Mbit/s has 125 MB.
const MAX_CLIP_BYTES: usize = 512 << 20;

/// Audio packets are kept up to this time in seconds. It covers the 10.255 s of the mel front end,
/// the context of the resampler, and the samples that a decoder skips at the start.
const AUDIO_SECONDS_KEPT: f64 = 12.0;

/// A stream that starts later than the other one by less than this many seconds starts with it.
/// Encoders and containers shift streams by that much: by the priming samples of an audio codec
/// (up to 0.05 s) and by the frames that B-frames wait for (0.08 s at 25 frames a second).
const LEAST_OFFSET: f64 = 0.1;

/// Number of read errors in a row after which the rest of the file is skipped.
const MAX_READ_ERRORS: usize = 32;

/// Number of packets in a row that may lie behind the end of an mp4 that was cut short. Between them
/// are packets of the other stream that lie before it, because those of one stream lie together.
const MAX_BEHIND_END: usize = 1000;

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
    /// The start of the clip in seconds, on the clock of the time stamps: the earlier one of the
    /// starts of its audio and its video, whichever of them are wanted. `None` without time stamps.
    pub clip_start: Option<f64>,
    /// Mean frames per second, if the container gives it.
    pub frame_rate: Option<f64>,
    /// The rotation and mirroring of the frames, see [`libav::display_matrix`].
    pub display_matrix: Option<[i32; 4]>,
    /// The packets.
    pub packets: Vec<Packet>,
    /// The start of the packet that is presented first, in ticks.
    pub start: Option<i64>,
    /// The end of the packet that is presented last, in ticks. Packets that were not kept count
    /// too.
    pub end: Option<i64>,
    /// The duration in seconds that the header declares, if the file holds less.
    pub declared: Option<f64>,
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
        libav::seconds(ticks, self.time_base)
    }

    /// When something is presented that is presented first in this stream, in seconds from the start
    /// of the clip. `first` is its time stamp in seconds.
    pub fn since_clip_start(&self, first: f64) -> f64 {
        let offset = self.clip_start.map_or(0.0, |start| first - start);
        // Below zero, the demuxer has announced a later start than the decoder then finds.
        if offset < LEAST_OFFSET { 0.0 } else { offset }
    }

    /// Seconds from the start of the first packet to the end of the last one.
    pub fn found(&self) -> f64 {
        let span = self.start.zip(self.end);
        span.map_or(0.0, |(start, end)| self.seconds(end.saturating_sub(start)))
    }

    /// What to tell of a stream that is shorter than its header says. Of its packets, so many
    /// `decoded` seconds could be decoded.
    pub fn cut_short(&self, decoded: f64) -> Option<Failure> {
        let found = self.found().min(decoded);
        let detail = |declared| format!("header {declared:.1} s, found {found:.1} s");
        Some(Failure::with(failure::CUT_SHORT, detail(self.declared?)))
    }

    /// Number of frames that the packets announce.
    pub fn expected_frames(&self) -> usize {
        let is_presented = |packet: &&Packet| packet.size() > 0 && !libav::is_hidden(packet);
        self.packets.iter().filter(is_presented).count()
    }

    /// Presentation times of these frames, in order, in seconds from the start of the clip. `None` if
    /// a packet has no time stamp.
    pub fn expected_times(&self) -> Option<Vec<f64>> {
        let is_presented = |packet: &&Packet| packet.size() > 0 && !libav::is_hidden(packet);
        let times = self.packets.iter().filter(is_presented).map(Packet::pts);
        let mut times = times.collect::<Option<Vec<i64>>>()?;
        times.sort_unstable();
        let first = *times.first()?;
        let start = self.since_clip_start(self.seconds(first));
        let since = |ticks: i64| start + self.seconds(ticks.saturating_sub(first));
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

impl Tracks {
    fn each(&self) -> impl Iterator<Item = &Track> {
        [&self.audio, &self.video].into_iter().flatten()
    }

    /// Seconds of the longer stream.
    fn found(&self) -> f64 {
        self.each().map(Track::found).fold(0.0, f64::max)
    }

    /// Notes in each stream that is shorter than the header of the file declares.
    fn note_short(&mut self, declared: f64) {
        for track in [&mut self.audio, &mut self.video].into_iter().flatten() {
            if declared_duration::is_short(declared, track.found()) {
                let own = track.declared.unwrap_or_default();
                track.declared = Some(own.max(declared));
            }
        }
    }
}

/// Reads a file and returns the packets of the wanted streams.
///
/// # Errors
/// The file is absent, empty, a Git LFS pointer, in no known container, or too large.
pub fn demux(path: &Path, wanted: Wanted) -> Result<Tracks, Failure> {
    let (mut tracks, declared) = read_tracks(path, wanted)?;
    let is_short = |found| declared_duration::is_short(declared.unwrap_or_default(), found);
    if is_short(tracks.found()) && is_short(found_in_others(path, wanted)) {
        tracks.note_short(declared.unwrap_or_default());
    }
    Ok(tracks)
}

/// Returns the duration of the streams that were not wanted. They may last as long as the header
/// of the file declares where the wanted one does not.
fn found_in_others(path: &Path, wanted: Wanted) -> f64 {
    let others = Wanted {
        audio: !wanted.audio,
        video: !wanted.video,
    };
    match others.audio || others.video {
        true => read_tracks(path, others).map_or(0.0, |(tracks, _)| tracks.found()),
        false => 0.0,
    }
}

/// Reads the packets of the wanted streams, and the duration that the header declares for the
/// longest one.
fn read_tracks(path: &Path, wanted: Wanted) -> Result<(Tracks, Option<f64>), Failure> {
    let head = check_file(path)?;
    let mut input = libav::open(path, &head).map_err(|error| open_failure(path, &head, error))?;
    if input.nb_streams() == 0
        && let Some(kind) = file_kind::describe(path, &head)
    {
        return Err(Failure::with(failure::NOT_MEDIA, kind));
    }
    let durations = DeclaredDurations::of(&input, path);
    let [mut audio, mut video] = collectors(&input, wanted, &durations);
    let indices: Vec<usize> = [&audio, &video]
        .iter()
        .filter_map(|collector| collector.index())
        .collect();
    libav::keep_only(&mut input, &indices);

    let is_mov = input.format().name().starts_with("mov");
    let (mut errors, mut in_a_row, mut behind_end, mut bytes) = (0, 0, 0, 0);
    while !indices.is_empty() && in_a_row < MAX_READ_ERRORS {
        let mut packet = Packet::empty();
        match libav::read(&mut input, &mut packet) {
            Ok(None) if is_mov && behind_end < MAX_BEHIND_END && libav::has_met_end(&input) => {
                behind_end += 1;
                continue;
            }
            Ok(None) => break,
            Err(_) => {
                (errors, in_a_row) = (errors + 1, in_a_row + 1);
                continue;
            }
            Ok(Some(())) => (in_a_row, behind_end) = (0, 0),
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
    let tracks = Tracks {
        audio: audio.finish(errors, failure::NO_AUDIO),
        video: video.finish(errors, failure::NO_VIDEO),
    };
    Ok((tracks, durations.file))
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

/// libav's time stamp of what has none (`AV_NOPTS_VALUE`).
const NO_TIME: i64 = i64::MIN;

/// Collects the packets of one stream.
struct StreamCollector {
    /// The index of the stream in the file, and its packets.
    track: Option<(usize, Track)>,
    /// Whether the only video stream is a cover image.
    cover_only: bool,
    /// The time stamp of the first packet.
    first: Option<i64>,
    /// The time stamps of the packets so far.
    timeline: Timeline,
}

/// Returns a collector for the best audio stream and one for the best video stream. They collect
/// what is wanted of them.
fn collectors(
    input: &Input,
    wanted: Wanted,
    durations: &DeclaredDurations,
) -> [StreamCollector; 2] {
    let audio = best_audio(input);
    let (covers, video): (Vec<Stream>, Vec<Stream>) = input
        .streams()
        .best(Type::Video)
        .into_iter()
        .partition(|stream| stream.disposition().contains(Disposition::ATTACHED_PIC));
    let video = video.into_iter().next();
    let clip_start = [&audio, &video].into_iter().flatten().filter_map(start);
    let clip_start = clip_start.reduce(f64::min);
    let collector = |stream: Option<Stream>, wanted: bool, cover_only: bool| StreamCollector {
        track: stream
            .filter(|_| wanted)
            .map(|stream| (stream.index(), new_track(&stream, clip_start, durations))),
        cover_only,
        first: None,
        timeline: Timeline::default(),
    };
    [
        collector(audio, wanted.audio, false),
        collector(video, wanted.video, !covers.is_empty()),
    ]
}

/// Returns the audio stream that libav calls the best, or another one where that is marked as
/// something else than the sound of the scene and another one is not.
fn best_audio(input: &Input) -> Option<Stream<'_>> {
    let best = input.streams().best(Type::Audio)?;
    if !is_secondary_audio(&best) {
        return Some(best);
    }
    let is_sound = |stream: &Stream| {
        stream.parameters().medium() == Type::Audio && !is_secondary_audio(stream)
    };
    let is_default = |stream: &Stream| stream.disposition().contains(Disposition::DEFAULT);
    let sounds = || input.streams().filter(is_sound);
    let chosen = sounds().find(is_default).or_else(|| sounds().next());
    chosen.or(Some(best))
}

/// Whether an audio stream is marked as a commentary, as spoken for people who do not see or hear
/// well, as dubbed, or as music or effects alone.
fn is_secondary_audio(stream: &Stream) -> bool {
    let secondary = Disposition::COMMENT
        | Disposition::VISUAL_IMPAIRED
        | Disposition::HEARING_IMPAIRED
        | Disposition::DESCRIPTIONS
        | Disposition::DUB
        | Disposition::KARAOKE
        | Disposition::CLEAN_EFFECTS;
    stream.disposition().intersects(secondary)
}

/// When a stream starts, in seconds. `None` if it has no time stamps.
fn start(stream: &Stream) -> Option<f64> {
    let ticks = stream.start_time();
    (ticks != NO_TIME).then(|| libav::seconds(ticks, stream.time_base()))
}

fn new_track(stream: &Stream, clip_start: Option<f64>, durations: &DeclaredDurations) -> Track {
    let rate = stream.avg_frame_rate();
    let frame_rate = (rate.numerator() > 0 && rate.denominator() > 0).then(|| f64::from(rate));
    Track {
        parameters: stream.parameters(),
        time_base: stream.time_base(),
        clip_start,
        frame_rate,
        display_matrix: libav::display_matrix(stream),
        packets: Vec::new(),
        start: None,
        end: None,
        declared: durations.stream(stream),
        whole: true,
        read_errors: 0,
    }
}

impl StreamCollector {
    fn index(&self) -> Option<usize> {
        self.track.as_ref().map(|(index, _)| *index)
    }

    /// Adds a packet of this stream. Returns the number of bytes that are kept of it.
    fn push(&mut self, mut packet: Packet) -> usize {
        let Some((_, track)) = &mut self.track else {
            return 0;
        };
        let is_audio = track.parameters.medium() == Type::Audio;
        // Packets of video are not in the order in which their frames are presented.
        let decoded = packet.dts().or(packet.pts().filter(|_| is_audio));
        let tick = track.seconds(1);
        self.timeline.place(&mut packet, decoded, track.end, tick);
        if let Some(at) = packet.pts().or(packet.dts()) {
            let first = *self.first.get_or_insert(at);
            let end = at.saturating_add(packet.duration().max(0));
            track.end = Some(track.end.map_or(end, |known| known.max(end)));
            if !libav::is_hidden(&packet) {
                track.start = Some(track.start.map_or(at, |known| known.min(at)));
            }
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
        let found = track.found();
        track.declared = track
            .declared
            .filter(|&declared| declared_duration::is_short(declared, found));
        Ok(track)
    }
}
