//! Time stamps that go on where those of a stream begin again.
//!
//! A file of several recordings, one behind the other, such as MPEG-TS joined by `cat`, counts the
//! time of each from its own start. Here the second recording follows the first.

use ffmpeg_next::Packet;

/// How far time stamps must fall back, in seconds, for a new recording to begin. Muxers that
/// interleave badly step back by less.
const MIN_STEP_BACK: f64 = 0.5;

/// The time stamps of one stream.
#[derive(Default)]
pub struct Timeline {
    /// The last time stamp in the order of decoding, in ticks, as the file has it.
    last: Option<i64>,
    /// What is added to the time stamps of the file.
    shift: i64,
}

impl Timeline {
    /// Moves a packet's time stamps behind those of the recordings before. `decoded` is the time
    /// stamp that never falls back within a recording, `end` is the end of the packets before, and
    /// a tick lasts `seconds_per_tick`.
    pub fn place(
        &mut self,
        packet: &mut Packet,
        decoded: Option<i64>,
        end: Option<i64>,
        seconds_per_tick: f64,
    ) {
        let presented = packet.pts().or(packet.dts());
        if let (Some(last), Some(decoded)) = (self.last, decoded)
            && last.saturating_sub(decoded) as f64 * seconds_per_tick > MIN_STEP_BACK
            && let (Some(end), Some(presented)) = (end, presented)
        {
            self.shift = end.saturating_sub(presented);
        }
        self.last = decoded.or(self.last);
        if self.shift != 0 {
            let moved = |ticks: i64| ticks.saturating_add(self.shift);
            packet.set_pts(packet.pts().map(moved));
            packet.set_dts(packet.dts().map(moved));
        }
    }
}
