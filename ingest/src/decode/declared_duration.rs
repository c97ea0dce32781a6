//! The durations that the headers of a file declare.
//!
//! libav reads them from most containers. Where a file is shorter than its header says, it replaces
//! the durations of some containers by an estimate from the bit rate or from the index; their
//! headers are read here. A duration that is only estimated or measured is not declared.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ffmpeg_next::Stream;
use ffmpeg_next::format::context::Input;

use super::libav;

/// What may be missing of a declared duration, in seconds. The streams of a good file differ from
/// its header by a few frames: the encoder's priming samples, the last packet, and the video frames
/// that are reordered take 0.1 s.
const MIN_TOLERANCE: f64 = 0.25;

/// The same as a share of the duration. Frame rates in headers are rounded, such as 29.97 to 30.
const TOLERANCE: f64 = 0.01;

/// Limit on the chunks of a file that are searched for a duration.
const MAX_CHUNKS: usize = 64;

/// Sizes of WAV data from here on are those of a stream of unknown length.
const UNKNOWN_SIZE: u64 = 0x7fff_0000;

/// The declared durations of a file and of its streams, in seconds.
pub struct DeclaredDurations {
    /// The duration of the longest stream.
    pub file: Option<f64>,
    /// Whether the header also declares the duration of each stream.
    by_stream: bool,
}

impl DeclaredDurations {
    /// Reads the durations that the headers of an opened file declare.
    pub fn of(input: &Input, path: &Path) -> DeclaredDurations {
        let name = input.format().name().to_owned();
        let declared = libav::declared_duration(input);
        let is_mov = name.starts_with("mov") && declared.is_some();
        // The header of a fragmented mp4 lists no samples.
        let is_fragmented = is_mov && input.streams().all(|stream| stream.frames() == 0);
        let header = |read: &dyn Fn(&File) -> Option<f64>| read(&File::open(path).ok()?);
        let file = match name.as_str() {
            // libav measures these.
            "ogg" | "gif" => None,
            // The whole file may last as long as a stream that is neither audio nor video.
            _ if is_mov && !is_fragmented => None,
            _ if is_mov => [declared, header(&mp4)]
                .into_iter()
                .flatten()
                .reduce(f64::max),
            "avi" => header(&avi),
            _ if declared.is_some() => declared,
            "asf" => header(&asf),
            "wav" | "w64" | "caf" => header(&|file| {
                let bits = data_size(file, &name)? as f64 * 8.0;
                Some(bits / input.bit_rate() as f64)
            }),
            _ => None,
        };
        DeclaredDurations {
            file: file.filter(|seconds| seconds.is_finite()),
            by_stream: is_mov && (!is_fragmented || has_own_durations(path, input.nb_streams())),
        }
    }

    /// The duration that is declared for one of the streams.
    pub fn stream(&self, stream: &Stream) -> Option<f64> {
        let seconds = libav::seconds(stream.duration(), stream.time_base());
        (self.by_stream && seconds > 0.0).then_some(seconds)
    }
}

/// Whether libav knows the duration of each stream of a fragmented mp4. Where there are boxes `sidx`
/// (ISO/IEC 14496-12, 8.16.3), but not for all streams, it takes that of another stream.
fn has_own_durations(path: &Path, streams: u32) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let (mut at, mut indices) = (0, 0);
    while let Some((name, _, end)) = read_box(&file, (at, u64::MAX)) {
        match &name {
            b"moof" => return indices == 0 || indices >= streams,
            b"sidx" => indices += 1,
            _ => {}
        }
        at = end;
    }
    false
}

/// Whether less was found than was declared, in seconds.
pub fn is_short(declared: f64, found: f64) -> bool {
    declared - found > MIN_TOLERANCE.max(TOLERANCE * declared)
}

/// Reads the size of the data in a header of sampled audio: RIFF and RF64 (`wav`), Sony's `w64`, or
/// Apple's `caf`.
fn data_size(file: &File, format: &str) -> Option<u64> {
    // The first chunk, and the length of a chunk's name and size.
    let (mut at, head) = match format {
        "wav" => (12, 8),
        "w64" => (40, 24),
        _ => (8, 12),
    };
    let mut large = None;
    for _ in 0..MAX_CHUNKS {
        let mut chunk = [0; 24];
        file.read_exact_at(&mut chunk[..head], at).ok()?;
        let size = match format {
            "wav" => u64::from(u32::from_le_bytes(chunk[4..8].try_into().ok()?)),
            // The size counts the name and itself.
            "w64" => u64_le(&chunk[16..24])?.checked_sub(24)?,
            _ => u64::from_be_bytes(chunk[4..12].try_into().ok()?),
        };
        if chunk.starts_with(b"ds64") {
            let mut sizes = [0; 16];
            file.read_exact_at(&mut sizes, at + 8).ok()?;
            large = u64_le(&sizes[8..]);
        }
        if chunk.starts_with(b"data") {
            return match (format, large) {
                ("wav", Some(large)) if size == u64::from(u32::MAX) => Some(large),
                ("wav", _) => (size < UNKNOWN_SIZE).then_some(size),
                // -1 is an unknown size, and an edit count of 4 bytes precedes the data.
                ("caf", _) => (size >> 63 == 0).then(|| size.saturating_sub(4)),
                _ => Some(size),
            };
        }
        let padding = match format {
            "wav" => size % 2,
            "w64" => (8 - size % 8) % 8,
            _ => 0,
        };
        at = at
            .checked_add(head as u64)?
            .checked_add(size)?
            .checked_add(padding)?;
    }
    None
}

fn u64_le(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Reads the duration of an AVI from its main header: the number of frames, and the microseconds of
/// each.
fn avi(file: &File) -> Option<f64> {
    let mut head = [0; 52];
    file.read_exact_at(&mut head, 0).ok()?;
    let field = |at: usize| Some(u32::from_le_bytes(head[at..at + 4].try_into().ok()?));
    let has_header = head[12..16] == *b"LIST" && head[20..28] == *b"hdrlavih";
    let seconds = f64::from(field(32)?) * f64::from(field(48)?) / 1e6;
    has_header.then_some(seconds)
}

/// The GUID of the file properties of ASF (ASF specification, 3.2).
const ASF_FILE_PROPERTIES: [u8; 16] = [
    0xa1, 0xdc, 0xab, 0x8c, 0x47, 0xa9, 0xcf, 0x11, 0x8e, 0xe4, 0, 0xc0, 0x0c, 0x20, 0x53, 0x65,
];

/// Reads the duration of an ASF file, without its preroll, from the file properties.
fn asf(file: &File) -> Option<f64> {
    let mut at = 30;
    for _ in 0..MAX_CHUNKS {
        let mut object = [0; 92];
        file.read_exact_at(&mut object[..24], at).ok()?;
        if object[..16] == ASF_FILE_PROPERTIES {
            file.read_exact_at(&mut object, at).ok()?;
            let play_time = u64_le(&object[64..72])? as f64 / 1e7;
            let preroll = u64_le(&object[80..88])? as f64 / 1e3;
            let is_broadcast = object[88] & 1 == 1;
            return (!is_broadcast).then_some(play_time - preroll);
        }
        at = at.checked_add(u64_le(&object[16..24])?.max(24))?;
    }
    None
}

/// Reads the duration of a fragmented mp4 from its box `mehd` (ISO/IEC 14496-12, 8.8.2), which
/// counts in the ticks of `mvhd`.
fn mp4(file: &File) -> Option<f64> {
    let end = file.metadata().ok()?.len();
    let moov = find_box(file, (0, end), b"moov")?;
    let (mvhd, _) = find_box(file, moov, b"mvhd")?;
    let mvex = find_box(file, moov, b"mvex")?;
    let (mehd, _) = find_box(file, mvex, b"mehd")?;
    let (mut movie, mut extent) = ([0; 24], [0; 12]);
    file.read_exact_at(&mut movie, mvhd).ok()?;
    file.read_exact_at(&mut extent, mehd).ok()?;
    // Version 1 has times of 8 bytes.
    let ticks_at = if movie[0] == 1 { 20 } else { 12 };
    let ticks = u32::from_be_bytes(movie[ticks_at..ticks_at + 4].try_into().ok()?);
    let duration = match extent[0] {
        1 => u64::from_be_bytes(extent[4..12].try_into().ok()?),
        _ => u64::from(u32::from_be_bytes(extent[4..8].try_into().ok()?)),
    };
    Some(duration as f64 / f64::from(ticks))
}

/// Returns the start and the end of what a box holds. The box is between two offsets.
fn find_box(file: &File, (mut at, end): (u64, u64), name: &[u8; 4]) -> Option<(u64, u64)> {
    while at < end {
        let (found, inside, next) = read_box(file, (at, end))?;
        if found == *name {
            return Some((inside, next));
        }
        at = next;
    }
    None
}

/// Reads the header of the box at the first of two offsets. Returns its name, the offset of what it
/// holds, and that of the next box, which is at most the second.
fn read_box(file: &File, (at, limit): (u64, u64)) -> Option<([u8; 4], u64, u64)> {
    let mut head = [0; 16];
    file.read_exact_at(&mut head[..8], at).ok()?;
    let (header, size) = match u32::from_be_bytes(head[..4].try_into().ok()?) {
        0 => (8, u64::MAX),
        1 => {
            file.read_exact_at(&mut head, at).ok()?;
            (16, u64::from_be_bytes(head[8..].try_into().ok()?))
        }
        size => (8, u64::from(size)),
    };
    let next = at.saturating_add(size.max(header)).min(limit);
    Some((head[4..8].try_into().ok()?, at + header, next))
}
