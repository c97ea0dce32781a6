//! Media files to features: demuxing, and decoding of what is wanted.
//!
//! Everything here runs in a decode worker, because media files may be hostile. Nothing here knows
//! of datasets or shards.

pub mod audio;
mod damage;
pub mod declared_duration;
pub mod demux;
pub mod file_kind;
pub mod header_check;
pub mod libav;
pub mod mp3;
pub mod orientation;
pub mod packet_selection;
mod timeline;
pub mod video;
mod wav_header;
pub mod yuv;

use std::ops::ControlFlow;

use ffmpeg_next::codec::{self, decoder};
use ffmpeg_next::{Error, Frame, Packet};

use crate::failure::{self, Failure};

/// The start and the end of a part of a clip, in seconds from the start of the clip.
pub type Span = (f32, f32);

/// How much of a stream could be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Number of decoded frames.
    pub decoded: usize,
    /// Number of packets that could not be read or decoded.
    pub lost: usize,
    /// Number of decoded frames that are damaged. Only those of video are known.
    pub damaged: usize,
}

impl Health {
    /// Whether nothing is lost or damaged.
    pub fn is_whole(self) -> bool {
        self.lost == 0 && self.damaged == 0
    }

    /// Describes it in words, such as "12 frames decoded, 3 lost". `unit` is "frame" or the like.
    pub fn describe(self, unit: &str) -> String {
        let mut text = format!("{} {unit}s decoded, {} lost", self.decoded, self.lost);
        if self.damaged > 0 {
            text += &format!(", {} damaged", self.damaged);
        }
        text
    }

    /// Refuses a stream with more losses than whole frames, because its few frames are from one
    /// moment.
    fn check(self, unit: &str) -> Result<(), Failure> {
        if self.lost + self.damaged > self.decoded.saturating_sub(self.damaged) {
            return Err(Failure::with(failure::UNDECODABLE, self.describe(unit)));
        }
        Ok(())
    }
}

/// Decodes packets and calls `each` with every frame and the number of errors before it, until that
/// breaks off. `frame` is the buffer that frames are decoded into. Returns the number of errors. A
/// broken packet does not end the stream.
fn decode_packets<'a, F: std::ops::DerefMut<Target = Frame>>(
    decoder: &mut decoder::Opened,
    packets: impl IntoIterator<Item = &'a Packet>,
    mut frame: F,
    mut each: impl FnMut(&F, usize) -> ControlFlow<()>,
) -> usize {
    let mut errors = 0;
    let mut receive = |decoder: &mut decoder::Opened, errors: &mut usize| {
        loop {
            match decoder.receive_frame(&mut frame) {
                Ok(()) => each(&frame, *errors)?,
                Err(
                    Error::Eof
                    | Error::Other {
                        errno: libc::EAGAIN,
                    },
                ) => return ControlFlow::Continue(()),
                Err(_) => {
                    *errors += 1;
                    return ControlFlow::Continue(());
                }
            }
        }
    };
    for packet in packets {
        // For libav, an empty packet is the end of the stream.
        if packet.size() == 0 {
            continue;
        }
        if decoder.send_packet(packet).is_err() {
            errors += 1;
        }
        if receive(decoder, &mut errors).is_break() {
            return errors;
        }
    }
    if decoder.send_eof().is_ok() {
        let _stopped = receive(decoder, &mut errors);
    }
    errors
}

/// The failure of a span that holds nothing of a stream, whose start and end in the clip are given.
fn empty_span(span: Option<Span>, (start, end): (f64, f64)) -> Failure {
    let (from, to) = span.unwrap_or_default();
    let detail = format!("{start:.2} to {end:.2} s, and the event is from {from} to {to} s");
    Failure::with(failure::TOO_SHORT, detail)
}

/// The failure of a decoder that cannot be opened.
fn decoder_failure(error: Error, parameters: &codec::Parameters) -> Failure {
    let codec = match parameters.id() {
        codec::Id::None => "an unknown codec",
        id => id.name(),
    };
    match error {
        Error::Other {
            errno: libc::ENOMEM,
        } => Failure::out_of_memory(),
        Error::DecoderNotFound => Failure::with(failure::NO_DECODER, format!("for {}", codec)),
        error => Failure::with(failure::UNDECODABLE, format!("{}: {error}", codec)),
    }
}
