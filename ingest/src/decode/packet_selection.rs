//! Packet selection: which packets of a video have to be decoded so that some of its frames are the
//! same, bit for bit, as if all were decoded.
//!
//! A frame that no other is predicted from has to be decoded only if it is wanted. After a wanted
//! frame, nothing has to be decoded up to the next key frame. Both are read from the packets
//! themselves and not from the flags of the container.
//!
//! Invariant: where a stream is not as the two codecs known here ought to be, [`select`] returns
//! `None`, and then all packets are decoded. The same holds for damage, as far as it shows in the
//! selected packets; damage to other packets goes unnoticed.

use std::collections::BTreeSet;

use ffmpeg_next::Packet;
use ffmpeg_next::codec::{Id, packet::side_data};

use super::demux::Track;
use super::libav;

/// What later packets depend on in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    kind: Kind,
    /// Whether it holds parameter sets (SPS or PPS), which later packets are parsed with.
    parameter_sets: bool,
}

/// How a frame is used for the prediction of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing after it refers to anything before it.
    Key,
    /// Other frames may be predicted from it.
    Reference,
    /// No other frame is predicted from it.
    Disposable,
}

/// A selection of a stream's packets.
pub struct Selection<'a> {
    /// The packets to decode.
    pub packets: Vec<&'a Packet>,
    /// The time stamps of the frames that are decoded from them, in the order of presentation.
    pub frames: Vec<i64>,
    /// The time stamps of all frames of the stream, in order.
    pub all_frames: Vec<i64>,
    /// The duration of the last frame of the stream, in ticks.
    pub last_duration: i64,
}

/// Selects the packets that the wanted frames depend on. `wanted` are positions in the order of
/// presentation. Returns `None` if the packets do not tell.
pub fn select<'a>(track: &'a Track, wanted: &BTreeSet<usize>) -> Option<Selection<'a>> {
    let packets: Vec<&Packet> = track.packets.iter().filter(|p| p.size() > 0).collect();
    let units = units(track, &packets)?;
    if track.read_errors > 0 || units.first()?.kind != Kind::Key {
        return None;
    }
    let times: Vec<i64> = packets.iter().map(|p| p.pts()).collect::<Option<_>>()?;
    // A decoder that expects fewer reorder frames than the stream has drops frames.
    if reorder_depth(&times) > libav::reorder_depth(&track.parameters) {
        return None;
    }
    let mut presented: Vec<(i64, usize)> = Vec::with_capacity(times.len());
    for (number, (&time, packet)) in times.iter().zip(&packets).enumerate() {
        if !libav::is_hidden(packet) {
            presented.push((time, number));
        }
    }
    presented.sort_unstable();
    if presented.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    let targets: BTreeSet<usize> = wanted
        .iter()
        .map(|&position| presented.get(position).map(|(_, number)| *number))
        .collect::<Option<_>>()?;
    let needed = dependencies(&units, &targets);
    let last = packets[presented.last()?.1];
    let decoded = presented.iter().filter(|(_, number)| needed[*number]);
    Some(Selection {
        frames: decoded.map(|(time, _)| *time).collect(),
        all_frames: presented.iter().map(|(time, _)| *time).collect(),
        last_duration: last.duration(),
        packets: (0..)
            .zip(packets)
            .filter(|(number, _)| needed[*number])
            .map(|(_, packet)| packet)
            .collect(),
    })
}

/// Returns for each packet whether the targets depend on it.
fn dependencies(units: &[Unit], targets: &BTreeSet<usize>) -> Vec<bool> {
    let mut needed = vec![false; units.len()];
    let mut is_referenced = false;
    for (number, unit) in units.iter().enumerate().rev() {
        needed[number] = unit.parameter_sets
            || targets.contains(&number)
            || is_referenced && unit.kind != Kind::Disposable;
        is_referenced = (is_referenced || needed[number]) && unit.kind != Kind::Key;
    }
    needed
}

/// Returns the reorder depth of time stamps in the order of decoding: the most packets that precede
/// one that is presented before them.
fn reorder_depth(times: &[i64]) -> usize {
    let mut ahead = BTreeSet::new();
    let mut depth = 0;
    for &time in times {
        depth = depth.max(ahead.range(time + 1..).count());
        ahead.insert(time);
        // The earliest ones have been presented already.
        if ahead.len() > MAX_REORDER_DEPTH {
            ahead.pop_first();
        }
    }
    depth
}

/// A reorder depth above that of both codecs.
const MAX_REORDER_DEPTH: usize = 64;

/// A function that parses a packet of one codec.
type ParsePacket = Box<dyn Fn(&[u8]) -> Option<Unit>>;

/// Parses all packets. Returns `None` for a codec that is not known here, and where a packet is not
/// as expected.
fn units(track: &Track, packets: &[&Packet]) -> Option<Vec<Unit>> {
    let parse = parser(track)?;
    let unit = |packet: &&Packet| {
        let has_new_extradata = packet
            .side_data()
            .any(|side| side.kind() == side_data::Type::NewExtraData);
        if packet.is_corrupt() || has_new_extradata {
            return None;
        }
        parse(packet.data()?)
    };
    packets.iter().map(unit).collect()
}

/// Returns the parser of a stream's codec, or `None` for a codec that is not known here.
fn parser(track: &Track) -> Option<ParsePacket> {
    match track.parameters.id() {
        Id::H264 => {
            let length_size = h264_length_size(libav::extradata(&track.parameters));
            Some(Box::new(move |bytes| h264(bytes, length_size)))
        }
        Id::FLV1 => Some(Box::new(flv1)),
        _ => None,
    }
}

/// Returns the time stamps of the frames that no other frame is predicted from, as far as their
/// packets tell. In a damaged stream some packets do not.
pub fn disposable_times(track: &Track) -> BTreeSet<i64> {
    let Some(parse) = parser(track) else {
        return BTreeSet::new();
    };
    let is_disposable = |packet: &&Packet| {
        let unit = packet.data().and_then(&parse);
        unit.is_some_and(|unit| unit.kind == Kind::Disposable)
    };
    let packets = track.packets.iter().filter(is_disposable);
    packets.filter_map(|packet| packet.pts()).collect()
}

/// Returns the number of bytes of the length before each NAL unit (ISO/IEC 14496-15, 5.3.3.1), or
/// `None` if start codes separate the units.
fn h264_length_size(extradata: &[u8]) -> Option<usize> {
    match extradata {
        [1, _, _, _, sizes, ..] => Some(usize::from(sizes & 3) + 1),
        _ => None,
    }
}

/// Parses a packet of H.264: the headers of its NAL units (ITU-T H.264, 7.3.1 and table 7-1).
fn h264(packet: &[u8], length_size: Option<usize>) -> Option<Unit> {
    let (mut idr, mut non_idr) = (false, false);
    let (mut reference, mut parameter_sets) = (false, false);
    let mut parse_nal = |nal: &[u8]| {
        let header = *nal.first()?;
        if header & 0x80 != 0 {
            return None;
        }
        match header & 31 {
            1 => non_idr = true,
            5 => idr = true,
            // Supplemental enhancement information, delimiter, end of sequence or stream, filler.
            6 | 9..=12 => return Some(()),
            7 | 8 | 13 => {
                parameter_sets = true;
                return Some(());
            }
            // Data partitions and extensions.
            _ => return None,
        }
        reference |= header & 0x60 != 0;
        Some(())
    };
    match length_size {
        Some(length_size) => {
            let mut rest = packet;
            while !rest.is_empty() {
                let (size, tail) = rest.split_at_checked(length_size)?;
                let size = size
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                let (nal, tail) = tail.split_at_checked(size)?;
                parse_nal(nal)?;
                rest = tail;
            }
        }
        None => start_codes(packet).try_for_each(parse_nal)?,
    }
    let kind = match (idr, non_idr) {
        (true, false) => Kind::Key,
        (false, true) if reference => Kind::Reference,
        (false, true) => Kind::Disposable,
        _ => return None,
    };
    Some(Unit {
        kind,
        parameter_sets,
    })
}

/// Returns what follows each start code, 00 00 01, up to the end of the packet.
fn start_codes(packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let windows = packet.windows(3).enumerate();
    windows
        .filter(|(_, three)| *three == [0, 0, 1])
        .map(|(position, _)| &packet[position + 3..])
}

/// Parses a packet of Sorenson's H.263: the picture header, which is a start code of 17 bits, the
/// version in 5, a counter in 8, the size in 3 and, if that says so, in 2 x 8 or 2 x 16 more, and
/// the type in 2 (Adobe's FLV specification 10, annex E, H263VIDEOPACKET).
fn flv1(packet: &[u8]) -> Option<Unit> {
    let bits = packet.first_chunk::<9>()?;
    let bits = bits
        .iter()
        .fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    let field = |from: u32, length: u32| (bits >> (72 - from - length)) & ((1 << length) - 1);
    if field(0, 17) != 1 {
        return None;
    }
    let kind_at = match field(30, 3) {
        0 => 33 + 16,
        1 => 33 + 32,
        2..=6 => 33,
        _ => return None,
    };
    let kind = match field(kind_at, 2) {
        0 => Kind::Key,
        1 => Kind::Reference,
        2 => Kind::Disposable,
        _ => return None,
    };
    Some(Unit {
        kind,
        parameter_sets: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection_of(units: &str, targets: &[usize]) -> String {
        let unit = |letter: char| Unit {
            kind: match letter.to_ascii_uppercase() {
                'K' => Kind::Key,
                'R' => Kind::Reference,
                _ => Kind::Disposable,
            },
            parameter_sets: letter.is_lowercase(),
        };
        let units: Vec<Unit> = units.chars().map(unit).collect();
        let needed = dependencies(&units, &targets.iter().copied().collect());
        needed
            .iter()
            .map(|&is| if is { 'x' } else { '-' })
            .collect()
    }

    #[test]
    fn frames_depend_on_references_back_to_the_key_frame() {
        assert_eq!(selection_of("KRDRDR", &[3]), "xx-x--");
        assert_eq!(selection_of("KRDRDR", &[2]), "xxx---");
        assert_eq!(selection_of("KRDRDR", &[4]), "xx-xx-");
        // A second key frame: nothing before it is needed but for the target there.
        assert_eq!(selection_of("KRRKRR", &[1, 4]), "xx-xx-");
        assert_eq!(selection_of("KRRKRR", &[3]), "---x--");
        assert_eq!(selection_of("KRRkRRKR", &[7]), "---x--xx");
        assert_eq!(selection_of("KRrR", &[]), "xxx-");
        assert_eq!(selection_of("KRDR", &[]), "----");
    }

    #[test]
    fn reorder_depth_counts_b_frames() {
        assert_eq!(reorder_depth(&[0, 1, 2, 3]), 0);
        assert_eq!(reorder_depth(&[0, 3, 1, 2]), 1);
        // x264's pyramid.
        assert_eq!(reorder_depth(&[0, 4, 2, 1, 3, 8, 6, 5, 7]), 2);
    }

    fn unit(kind: Kind, parameter_sets: bool) -> Option<Unit> {
        Some(Unit {
            kind,
            parameter_sets,
        })
    }

    #[test]
    fn h264_packets_are_parsed() {
        let avc = |packet: &[u8]| h264(packet, Some(2));
        assert_eq!(avc(&[0, 2, 0x65, 9, 0, 1, 0x65]), unit(Kind::Key, false));
        assert_eq!(avc(&[0, 1, 0x67, 0, 1, 0x65]), unit(Kind::Key, true));
        assert_eq!(avc(&[0, 1, 0x06, 0, 1, 0x41]), unit(Kind::Reference, false));
        assert_eq!(avc(&[0, 2, 0x01, 9]), unit(Kind::Disposable, false));
        // A truncated packet, a length beyond its end, a forbidden bit, no frame, a data partition,
        // two kinds of frame.
        for invalid in [
            &[0, 2, 0x01][..],
            &[0, 1, 0x01, 0],
            &[0, 1, 0x81],
            &[0, 1, 0x06],
            &[0, 1, 0x42],
            &[0, 1, 0x65, 0, 1, 0x41],
            &[0, 0],
            &[],
        ] {
            assert_eq!(avc(invalid), None, "{invalid:?}");
        }
        let annex_b = |packet: &[u8]| h264(packet, None);
        let packet = [0, 0, 0, 1, 0x09, 7, 0, 0, 1, 0x41, 5, 0, 3, 0, 0, 1, 0x41];
        assert_eq!(annex_b(&packet), unit(Kind::Reference, false));
        assert_eq!(annex_b(&[5, 5]), None);
        assert_eq!(annex_b(&[0, 0, 1]), None);
        assert_eq!(h264_length_size(&[1, 100, 0, 31, 0xff, 0xe1]), Some(4));
        assert_eq!(h264_length_size(&[0, 0, 0, 1, 0x67]), None);
        assert_eq!(h264_length_size(&[]), None);
    }

    #[test]
    fn flv1_packets_are_parsed() {
        // Version 1, counter 0, then size and type from bit 30 on.
        let packet = |size: u128, size_bits: u32, kind: u128| {
            let bits = 1u128 << 55 | 1 << 50 | size << 39 | kind << (37 - size_bits);
            flv1(&bits.to_be_bytes()[7..])
        };
        assert_eq!(packet(0, 16, 0), unit(Kind::Key, false));
        assert_eq!(packet(1, 32, 1), unit(Kind::Reference, false));
        assert_eq!(packet(4, 0, 2), unit(Kind::Disposable, false));
        assert_eq!(packet(4, 0, 3), None);
        assert_eq!(packet(7, 0, 0), None);
        assert_eq!(flv1(&[0; 9]), None);
        assert_eq!(flv1(&[0, 0, 0x80]), None);
    }
}
