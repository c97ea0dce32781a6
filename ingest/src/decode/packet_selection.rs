//! Which packets of a video have to be decoded for some of its frames to come out, bit for bit as if all were.
//!
//! A frame that no other is predicted from need not be decoded unless it is wanted itself, and behind a wanted frame
//! nothing need be up to the next frame that begins anew. Whether that is so is read from the packets themselves, not
//! from what the container says of them.
//!
//! Invariant: where a stream is not as the two codecs known here ought to be, the answer is "cannot tell", and then all
//! is decoded. So is damage met by whoever decodes everything; where only frames that nobody wants are damaged, it goes
//! unseen.

use std::collections::BTreeSet;

use ffmpeg_next::Packet;
use ffmpeg_next::codec::{Id, packet::side_data};

use super::demux::Track;
use super::libav;

/// What a packet means to the packets behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    kind: Kind,
    /// Whether it carries what later packets need to be read, such as parameter sets.
    settings: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing behind it refers to anything before it.
    Key,
    /// Others may be predicted from it.
    Reference,
    /// No other is.
    Disposable,
}

/// A way through a stream that brings some frames out.
pub struct Plan<'a> {
    /// The packets to decode.
    pub packets: Vec<&'a Packet>,
    /// The time stamps of the frames that will come out of them, in the order in which they will.
    pub frames: Vec<i64>,
    /// The time stamps of all frames that the stream has, in order.
    pub all: Vec<i64>,
    /// Duration of the last of all, in ticks.
    pub last_duration: i64,
}

/// Plans for the frames of these numbers, counted as shown; `None` where one cannot tell.
pub fn plan<'a>(track: &'a Track, wanted: &BTreeSet<usize>) -> Option<Plan<'a>> {
    let packets: Vec<&Packet> = track.packets.iter().filter(|p| p.size() > 0).collect();
    let units = units(track, &packets)?;
    if track.read_errors > 0 || units.first()?.kind != Kind::Key {
        return None;
    }
    let times: Vec<i64> = packets.iter().map(|p| p.pts()).collect::<Option<_>>()?;
    // Where the decoder expects less disorder than there is, it drops frames on the way.
    if disorder(&times) > libav::reorder_depth(&track.parameters) {
        return None;
    }
    let mut shown: Vec<(i64, usize)> = Vec::with_capacity(times.len());
    for (number, (&time, packet)) in times.iter().zip(&packets).enumerate() {
        if !libav::is_hidden(packet) {
            shown.push((time, number));
        }
    }
    shown.sort_unstable();
    if shown.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    let targets: BTreeSet<usize> = wanted
        .iter()
        .map(|&place| shown.get(place).map(|(_, number)| *number))
        .collect::<Option<_>>()?;
    let needed = needed(&units, &targets);
    let last = packets[shown.last()?.1];
    let out = shown.iter().filter(|(_, number)| needed[*number]);
    Some(Plan {
        frames: out.map(|(time, _)| *time).collect(),
        all: shown.iter().map(|(time, _)| *time).collect(),
        last_duration: last.duration(),
        packets: (0..)
            .zip(packets)
            .filter(|(number, _)| needed[*number])
            .map(|(_, packet)| packet)
            .collect(),
    })
}

/// By packet, whether it has to be decoded for the targets to come out.
fn needed(units: &[Unit], targets: &BTreeSet<usize>) -> Vec<bool> {
    let mut needed = vec![false; units.len()];
    let mut referred = false;
    for (number, unit) in units.iter().enumerate().rev() {
        needed[number] =
            unit.settings || targets.contains(&number) || referred && unit.kind != Kind::Disposable;
        referred = (referred || needed[number]) && unit.kind != Kind::Key;
    }
    needed
}

/// At most how many packets come before one that is shown before them.
fn disorder(times: &[i64]) -> usize {
    let mut ahead = BTreeSet::new();
    let mut most = 0;
    for &time in times {
        // Those shown already are no longer compared with.
        most = most.max(ahead.range(time + 1..).count());
        ahead.insert(time);
        if ahead.len() > MAX_DISORDER {
            ahead.pop_first();
        }
    }
    most
}

/// More than any codec here allows.
const MAX_DISORDER: usize = 64;

/// Reads what a packet of a codec is.
type Read = Box<dyn Fn(&[u8]) -> Option<Unit>>;

fn units(track: &Track, packets: &[&Packet]) -> Option<Vec<Unit>> {
    let read: Read = match track.parameters.id() {
        Id::H264 => {
            let nal_length = h264_length(libav::extradata(&track.parameters));
            Box::new(move |bytes| h264(bytes, nal_length))
        }
        Id::FLV1 => Box::new(flv1),
        _ => return None,
    };
    let unit = |packet: &&Packet| {
        let new_settings = packet
            .side_data()
            .any(|side| side.kind() == side_data::Type::NewExtraData);
        if packet.is_corrupt() || new_settings {
            return None;
        }
        read(packet.data()?)
    };
    packets.iter().map(unit).collect()
}

/// Bytes of the length before each NAL unit; `None` where start codes separate them (ISO/IEC 14496-15, 5.3.3.1).
fn h264_length(extradata: &[u8]) -> Option<usize> {
    match extradata {
        [1, _, _, _, sizes, ..] => Some(usize::from(sizes & 3) + 1),
        _ => None,
    }
}

/// What a packet of H.264 is, by the headers of its NAL units (ITU-T H.264, 7.3.1 and table 7-1).
fn h264(packet: &[u8], length: Option<usize>) -> Option<Unit> {
    let (mut idr, mut other, mut reference, mut settings) = (false, false, false, false);
    let mut see = |nal: &[u8]| {
        let header = *nal.first()?;
        if header & 0x80 != 0 {
            return None;
        }
        match header & 31 {
            1 => other = true,
            5 => idr = true,
            // Enhancement information, delimiter, end of sequence or stream, filler.
            6 | 9..=12 => return Some(()),
            7 | 8 | 13 => {
                settings = true;
                return Some(());
            }
            // Partitions and extensions.
            _ => return None,
        }
        reference |= header & 0x60 != 0;
        Some(())
    };
    match length {
        Some(length) => {
            let mut rest = packet;
            while !rest.is_empty() {
                let (size, tail) = rest.split_at_checked(length)?;
                let size = size
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                let (nal, tail) = tail.split_at_checked(size)?;
                see(nal)?;
                rest = tail;
            }
        }
        None => start_codes(packet).try_for_each(see)?,
    }
    let kind = match (idr, other) {
        (true, false) => Kind::Key,
        (false, true) if reference => Kind::Reference,
        (false, true) => Kind::Disposable,
        _ => return None,
    };
    Some(Unit { kind, settings })
}

/// The NAL units behind start codes, 00 00 01.
fn start_codes(packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let places = packet.windows(3).enumerate();
    places
        .filter(|(_, three)| *three == [0, 0, 1])
        .map(|(place, _)| &packet[place + 3..])
}

/// What a packet of Sorenson's H.263 is, by its picture header: a start code of 17 bits, the version in 5, a counter in 8,
/// the size in 3 and, if that says so, in 2 x 8 or 2 x 16 more, the type in 2 (Adobe's FLV specification 10, annex E,
/// H263VIDEOPACKET).
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
        settings: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed_of(units: &str, targets: &[usize]) -> String {
        let unit = |letter: char| Unit {
            kind: match letter.to_ascii_uppercase() {
                'K' => Kind::Key,
                'R' => Kind::Reference,
                _ => Kind::Disposable,
            },
            settings: letter.is_lowercase(),
        };
        let units: Vec<Unit> = units.chars().map(unit).collect();
        let needed = needed(&units, &targets.iter().copied().collect());
        needed
            .iter()
            .map(|&is| if is { 'x' } else { '-' })
            .collect()
    }

    #[test]
    fn what_a_frame_needs() {
        assert_eq!(needed_of("KRDRDR", &[3]), "xx-x--");
        assert_eq!(needed_of("KRDRDR", &[2]), "xxx---");
        assert_eq!(needed_of("KRDRDR", &[4]), "xx-xx-");
        // Another beginning: nothing before it but for the target there.
        assert_eq!(needed_of("KRRKRR", &[1, 4]), "xx-xx-");
        assert_eq!(needed_of("KRRKRR", &[3]), "---x--");
        assert_eq!(needed_of("KRRkRRKR", &[7]), "---x--xx");
        assert_eq!(needed_of("KRrR", &[]), "xxx-");
        assert_eq!(needed_of("KRDR", &[]), "----");
    }

    #[test]
    fn disorder_is_what_b_frames_make() {
        assert_eq!(disorder(&[0, 1, 2, 3]), 0);
        assert_eq!(disorder(&[0, 3, 1, 2]), 1);
        // x264's pyramid.
        assert_eq!(disorder(&[0, 4, 2, 1, 3, 8, 6, 5, 7]), 2);
    }

    fn unit(kind: Kind, settings: bool) -> Option<Unit> {
        Some(Unit { kind, settings })
    }

    #[test]
    fn h264_packets() {
        let avc = |packet: &[u8]| h264(packet, Some(2));
        assert_eq!(avc(&[0, 2, 0x65, 9, 0, 1, 0x65]), unit(Kind::Key, false));
        assert_eq!(avc(&[0, 1, 0x67, 0, 1, 0x65]), unit(Kind::Key, true));
        assert_eq!(avc(&[0, 1, 0x06, 0, 1, 0x41]), unit(Kind::Reference, false));
        assert_eq!(avc(&[0, 2, 0x01, 9]), unit(Kind::Disposable, false));
        // Cut off, too long, a forbidden bit, no picture, a partition, two kinds of picture.
        for odd in [
            &[0, 2, 0x01][..],
            &[0, 1, 0x01, 0],
            &[0, 1, 0x81],
            &[0, 1, 0x06],
            &[0, 1, 0x42],
            &[0, 1, 0x65, 0, 1, 0x41],
            &[0, 0],
            &[],
        ] {
            assert_eq!(avc(odd), None, "{odd:?}");
        }
        let annex_b = |packet: &[u8]| h264(packet, None);
        let packet = [0, 0, 0, 1, 0x09, 7, 0, 0, 1, 0x41, 5, 0, 3, 0, 0, 1, 0x41];
        assert_eq!(annex_b(&packet), unit(Kind::Reference, false));
        assert_eq!(annex_b(&[5, 5]), None);
        assert_eq!(annex_b(&[0, 0, 1]), None);
        assert_eq!(h264_length(&[1, 100, 0, 31, 0xff, 0xe1]), Some(4));
        assert_eq!(h264_length(&[0, 0, 0, 1, 0x67]), None);
        assert_eq!(h264_length(&[]), None);
    }

    #[test]
    fn flv1_packets() {
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
