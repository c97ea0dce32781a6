//! Damage in video: which decoded frames are not as they were encoded, and which frames take their
//! places.
//!
//! A decoder conceals errors: it guesses the parts of a frame that it cannot decode, and marks the
//! frame. A demuxer marks packets that are incomplete, or that follow a gap. Frames that are
//! predicted from a marked one are as bad, and bear no mark. So damage lasts from a marked frame,
//! or from a packet that could not be decoded, to the next key frame, and it includes the B-frames
//! that are presented just before the marked frame. Where no other frame is predicted from the
//! marked one, it alone is damaged.
//!
//! Known limits: a decoder marks what it notices. The arithmetic coders of VP6, VP8, VP9, HEVC and AV1
//! turn most wrong bytes into a wrong picture without an error, and that of H.264 some. Frames that
//! an edit list hides are not put out, so their marks are not seen.

use std::collections::BTreeSet;
use std::ops::Range;

use ffmpeg_next::codec::Id;
use ffmpeg_next::frame;
use ffmpeg_next::picture;

use super::demux::Track;
use super::{libav, packet_selection};

/// How a frame is predicted, as far as damage spreads by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prediction {
    /// Nothing after it refers to anything before it.
    Key,
    /// From frames that are presented before it and after it.
    Both,
    /// Any other.
    Other,
}

/// Whether a frame is marked as damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It is not.
    None,
    /// It is, and other frames may be predicted from it.
    Reference,
    /// It is, and no other frame is predicted from it.
    Disposable,
}

/// Follows the damage through the frames of a decoder, in the order of its output.
pub struct Damage {
    /// Number of frames that the decoder holds back to output them in order.
    reorder_depth: usize,
    /// Time stamps of the packets that the demuxer has marked.
    marked: BTreeSet<i64>,
    /// Time stamps of the frames that no other frame is predicted from.
    disposable: BTreeSet<i64>,
    /// Whether the codec predicts no frame from a B-frame.
    has_disposable_b_frames: bool,
    /// How each frame so far is predicted, and whether it is damaged.
    frames: Vec<(Prediction, bool)>,
    /// Number of errors so far.
    errors: usize,
    /// Whether the next frame is damaged unless it is a key frame.
    spreads: bool,
    /// The frames before this one were decoded before the last error, so a key frame among them
    /// does not end the damage.
    held_back: usize,
}

impl Damage {
    /// Starts at the beginning of a stream.
    pub fn new(track: &Track) -> Damage {
        let marked = track.packets.iter().filter(|packet| packet.is_corrupt());
        let marked = marked.filter_map(|packet| packet.pts().or(packet.dts()));
        Damage {
            marked: marked.collect(),
            disposable: packet_selection::disposable_times(track),
            has_disposable_b_frames: matches!(
                track.parameters.id(),
                Id::MPEG1VIDEO | Id::MPEG2VIDEO | Id::MPEG4
            ),
            ..Damage::with(libav::reorder_depth(&track.parameters))
        }
    }

    fn with(reorder_depth: usize) -> Damage {
        Damage {
            reorder_depth,
            marked: BTreeSet::new(),
            disposable: BTreeSet::new(),
            has_disposable_b_frames: false,
            frames: Vec::new(),
            errors: 0,
            spreads: false,
            held_back: 0,
        }
    }

    /// Records the next frame. `errors` is the number of packets that could not be decoded so far.
    pub fn record(&mut self, frame: &frame::Video, errors: usize) {
        let prediction = match frame.kind() {
            _ if frame.is_key() => Prediction::Key,
            picture::Type::B => Prediction::Both,
            _ => Prediction::Other,
        };
        let time = frame.timestamp();
        let is_marked =
            libav::is_concealed(frame) || time.is_some_and(|t| self.marked.contains(&t));
        let is_disposable = time.is_some_and(|t| self.disposable.contains(&t))
            || prediction == Prediction::Both && self.has_disposable_b_frames;
        let mark = match (is_marked, is_disposable) {
            (false, _) => Mark::None,
            (true, true) => Mark::Disposable,
            (true, false) => Mark::Reference,
        };
        self.push(prediction, mark, errors);
    }

    fn push(&mut self, prediction: Prediction, mark: Mark, errors: usize) {
        if errors > self.errors {
            self.errors = errors;
            self.spreads = true;
            self.held_back = self.frames.len() + self.reorder_depth;
        }
        if prediction == Prediction::Key && self.frames.len() >= self.held_back {
            self.spreads = false;
        }
        if mark == Mark::Reference {
            self.spreads = true;
            let before = self.frames.iter_mut().rev();
            for (_, is_damaged) in before.take_while(|(kind, _)| *kind == Prediction::Both) {
                *is_damaged = true;
            }
        }
        let is_damaged = self.spreads || mark == Mark::Disposable;
        self.frames.push((prediction, is_damaged));
    }

    /// Returns for each frame whether it is damaged.
    pub fn finish(self) -> Vec<bool> {
        self.frames.into_iter().map(|(_, is)| is).collect()
    }
}

/// Replaces each damaged frame of a pool by the nearest frame of `range` that is intact and not in
/// the pool, or the earlier one of two. The pool becomes smaller where there are too few. It stays
/// in order.
pub fn replace_damaged(
    pool: Vec<usize>,
    range: Range<usize>,
    is_damaged: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let mut chosen: BTreeSet<usize> = pool.iter().copied().filter(|&p| !is_damaged(p)).collect();
    if chosen.len() == pool.len() {
        return pool;
    }
    let intact: Vec<usize> = range.filter(|&position| !is_damaged(position)).collect();
    if intact.len() <= pool.len() {
        return intact;
    }
    for position in pool.into_iter().filter(|&position| is_damaged(position)) {
        let after = intact.partition_point(|&other| other < position);
        let is_free = |other: &&usize| !chosen.contains(other);
        let earlier = intact[..after].iter().rev().find(is_free).copied();
        let later = intact[after..].iter().find(is_free).copied();
        chosen.extend(match (earlier, later) {
            (Some(earlier), Some(later)) if later - position < position - earlier => Some(later),
            (Some(earlier), _) => Some(earlier),
            (None, later) => later,
        });
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows damage through frames in the order of output, and returns an `x` for each damaged
    /// one. K is a key frame, B is predicted from both sides, P is any other; `!` after a frame
    /// is its mark, `?` that of a frame that no other is predicted from, and `-` stands for a packet
    /// that cannot be decoded.
    fn damaged(output: &str, reorder_depth: usize) -> String {
        let mut damage = Damage::with(reorder_depth);
        let mut errors = 0;
        for (at, letter) in output.char_indices() {
            let prediction = match letter {
                'K' => Prediction::Key,
                'B' => Prediction::Both,
                'P' => Prediction::Other,
                '-' => {
                    errors += 1;
                    continue;
                }
                _ => continue,
            };
            let mark = match output[at + 1..].chars().next() {
                Some('!') => Mark::Reference,
                Some('?') => Mark::Disposable,
                _ => Mark::None,
            };
            damage.push(prediction, mark, errors);
        }
        let letter = |is| if is { 'x' } else { '.' };
        damage.finish().into_iter().map(letter).collect()
    }

    #[test]
    fn damage_spreads_to_the_next_key_frame() {
        for (output, depth, expected) in [
            ("KPPKPP", 0, "......"),
            ("KPP!PKPP", 0, "..xx..."),
            ("K!PPKP", 0, "xxx.."),
            ("KPPK!PK", 0, "...xx."),
            // B-frames before a damaged frame are predicted from it.
            ("KBBPBBP!BBPK", 2, "....xxxxxx."),
            ("KPBB!BPKP", 2, "..xxxx.."),
            ("KPBB?BPP?PKP", 2, "...x..x..."),
            // A lost packet leaves no frame.
            ("KP-PPKP", 0, "..xx.."),
            ("KP-K-PP", 0, "...xx"),
            // Frames that were held back come out after the error: one of them may be a key frame,
            // which the lost packet was predicted from.
            ("KP-KPPPKP", 2, "..xxxx.."),
            ("-KPKP", 1, "xx.."),
        ] {
            assert_eq!(damaged(output, depth), expected, "{output}");
        }
    }

    #[test]
    fn the_nearest_intact_frame_takes_the_place_of_a_damaged_one() {
        let replaced = |pool: &[usize], n: usize, damaged: &[usize]| {
            replace_damaged(pool.to_vec(), 0..n, |position| damaged.contains(&position))
        };
        assert_eq!(replaced(&[2, 5, 8], 10, &[]), [2, 5, 8]);
        assert_eq!(replaced(&[2, 5, 8], 10, &[3, 4]), [2, 5, 8]);
        // The earlier one of two, and never one that is in the pool.
        assert_eq!(replaced(&[2, 5, 8], 10, &[5]), [2, 4, 8]);
        assert_eq!(replaced(&[2, 5, 8], 10, &[4, 5]), [2, 6, 8]);
        assert_eq!(replaced(&[0, 1, 2, 3], 6, &[1, 2]), [0, 3, 4, 5]);
        assert_eq!(replaced(&[3, 5], 9, &[2, 3, 4, 5, 6]), [1, 7]);
        // Fewer intact frames than the pool has, or none.
        assert_eq!(replaced(&[0, 1, 2, 3], 6, &[1, 2, 3, 4]), [0, 5]);
        assert!(replaced(&[0, 1], 2, &[0, 1]).is_empty());
        // Only frames of the range.
        let in_range = replace_damaged(vec![4, 6], 4..8, |position| position < 6);
        assert_eq!(in_range, [6, 7]);
    }
}
