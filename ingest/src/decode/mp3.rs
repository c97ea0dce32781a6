//! Decoded audio as an MP3 file, for listening.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::channel_layout::ChannelLayout;
use ffmpeg_next::codec::{self, encoder};
use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{Packet, Rational, frame};

use features::mel::SAMPLE_RATE;

use crate::failure::Failure;

/// The encoder by libav's name.
const ENCODER: &str = "libmp3lame";

/// Bits per second: speech and most sounds up to 8 kHz are like the original. 10 s take 40 kB.
const BIT_RATE: usize = 32_000;

/// As the cause of a failure: the sound cannot be encoded.
const NOT_ENCODED: &str = "cannot be encoded for listening";

/// Encodes mono samples at 16 kHz. An MP3 file is its packets one after the other, so there is no
/// container to write. Samples beyond full scale, which is 1, are clipped.
///
/// # Errors
/// This machine's FFmpeg has no encoder for MP3, or it fails.
pub fn encode(samples: &[f32]) -> Result<Vec<u8>, Failure> {
    let missing = "this machine's FFmpeg has no encoder libmp3lame; install the full libavcodec";
    let codec =
        encoder::find_by_name(ENCODER).ok_or_else(|| Failure::with(NOT_ENCODED, missing))?;
    encode_with(codec, samples).map_err(|error| Failure::with(NOT_ENCODED, error))
}

fn encode_with(codec: ffmpeg::Codec, samples: &[f32]) -> Result<Vec<u8>, ffmpeg::Error> {
    let mut context = codec::Context::new_with_codec(codec);
    context.set_flags(codec::Flags::BITEXACT);
    let format = Sample::F32(sample::Type::Planar);
    let mut settings = context.encoder().audio()?;
    settings.set_rate(SAMPLE_RATE as i32);
    settings.set_format(format);
    settings.set_channel_layout(ChannelLayout::MONO);
    settings.set_bit_rate(BIT_RATE);
    settings.set_time_base(Rational(1, SAMPLE_RATE as i32));
    let mut encoder = settings.open_as(codec)?;
    let frame_size = (encoder.frame_size() as usize).max(1);
    let (mut file, mut packet, mut time) = (Vec::new(), Packet::empty(), 0);
    for part in samples.chunks(frame_size) {
        let mut frame = frame::Audio::new(format, part.len(), ChannelLayout::MONO);
        frame.set_rate(SAMPLE_RATE as u32);
        for (to, from) in frame.plane_mut::<f32>(0).iter_mut().zip(part) {
            *to = from.clamp(-1.0, 1.0);
        }
        frame.set_pts(Some(time));
        time += part.len() as i64;
        encoder.send_frame(&frame)?;
        while encoder.receive_packet(&mut packet).is_ok() {
            file.extend_from_slice(packet.data().unwrap_or_default());
        }
    }
    encoder.send_eof()?;
    while encoder.receive_packet(&mut packet).is_ok() {
        file.extend_from_slice(packet.data().unwrap_or_default());
    }
    Ok(file)
}
