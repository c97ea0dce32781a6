//! Media files to features: demux once, decode what is wanted.
//!
//! Runs in a child process (`worker`), because what is decoded comes from strangers. Nothing here knows about datasets
//! or shards.

pub mod audio;
pub mod demux;
pub mod libav;
pub mod orientation;
pub mod packet_selection;
pub mod video;
pub mod yuv;

use std::ops::ControlFlow;

use ffmpeg_next::codec::{self, decoder};
use ffmpeg_next::{Error, Frame, Packet};

use crate::failure::{self, Failure};

/// From and to, in seconds from the start of the stream.
pub type Span = (f32, f32);

/// How much of a stream could be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Frames that came out.
    pub good: usize,
    /// Packets that could not be read or decoded.
    pub bad: usize,
}

impl Health {
    /// For people: "12 of 50 frames".
    pub fn describe(self, what: &str) -> String {
        format!("{} {what}s decoded, {} lost", self.good, self.bad)
    }

    /// A stream of which less than half survives is not worth keeping: its few frames stand for one moment.
    fn check(self, what: &str) -> Result<(), Failure> {
        if self.bad > self.good {
            return Err(Failure::with(failure::UNDECODABLE, self.describe(what)));
        }
        Ok(())
    }
}

/// Sends packets through a decoder and shows each frame to `each` until that breaks off. Counts the errors; a broken
/// packet does not end the stream.
fn drive<'a, F: std::ops::DerefMut<Target = Frame>>(
    decoder: &mut decoder::Opened,
    packets: impl IntoIterator<Item = &'a Packet>,
    mut frame: F,
    mut each: impl FnMut(&F) -> ControlFlow<()>,
) -> usize {
    let mut errors = 0;
    let mut receive = |decoder: &mut decoder::Opened, errors: &mut usize| {
        loop {
            match decoder.receive_frame(&mut frame) {
                Ok(()) => each(&frame)?,
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
        // libav takes an empty packet for the end of the stream.
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

/// Why a span of a stream of so many seconds gives nothing.
fn nothing_in(span: Option<Span>, seconds: f64) -> Failure {
    let (from, to) = span.unwrap_or_default();
    let detail = format!("{seconds:.2} s, and the event is from {from} to {to} s");
    Failure::with(failure::TOO_SHORT, detail)
}

/// Why a decoder could not be opened.
fn open_failure(error: Error, parameters: &codec::Parameters) -> Failure {
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
