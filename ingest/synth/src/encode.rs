//! Encodes frames and samples into media files through libav.
//!
//! The bytes do not depend on the machine's cores or the time: each encoder has one thread and the
//! bit-exact flag, and no header holds a date.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use ffmpeg_next as ffmpeg;
use ffmpeg_next::channel_layout::ChannelLayout;
use ffmpeg_next::codec::{self, encoder};
use ffmpeg_next::format::context::Output;
use ffmpeg_next::format::{Pixel, Sample, sample};
use ffmpeg_next::{Packet, Rational, frame};

use crate::canvas::Canvas;

/// Initializes libav and keeps it from printing messages.
pub fn init() -> Result<(), ffmpeg::Error> {
    ffmpeg::init()?;
    ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    Ok(())
}

/// Returns the muxer's options that keep dates and version numbers out of a file.
fn bit_exact() -> ffmpeg::Dictionary<'static> {
    let mut options = ffmpeg::Dictionary::new();
    options.set("fflags", "+bitexact");
    options
}

/// Draws the frame with this number.
pub type DrawFrame<'a> = &'a dyn Fn(usize, &mut Canvas);

/// The video stream of a clip.
pub struct Video<'a> {
    /// The encoder by libav's name, such as "flv" or "libx264".
    pub encoder: &'static str,
    /// The encoder's preset, if it has presets.
    pub preset: Option<&'static str>,
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The frame rate in Hz.
    pub rate: Rational,
    /// The number of frames.
    pub frames: usize,
    /// The bit rate in bits per second.
    pub bit_rate: usize,
    /// The largest number of frames from one keyframe to the next.
    pub gop: u32,
    /// Draws the frames.
    pub draw: DrawFrame<'a>,
}

/// The audio stream of a clip, with one channel.
pub struct Audio<'a> {
    /// The encoder by libav's name, such as "libmp3lame" or "aac".
    pub encoder: &'static str,
    /// The sample rate in Hz.
    pub rate: u32,
    /// The bit rate in bits per second.
    pub bit_rate: usize,
    /// The samples; full scale is 1.
    pub samples: &'a [f32],
}

/// Writes a clip into a container that libav knows by this name, such as "flv", "mp3" or "mp4".
///
/// # Errors
/// This machine's FFmpeg lacks an encoder, or the file cannot be written.
pub fn write_clip(
    path: &Path,
    container: &str,
    video: Option<Video>,
    audio: Option<Audio>,
) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        // ffmpeg-next panics on a path that is no C string in UTF-8.
        if path.to_str().is_none_or(|name| name.contains('\0')) {
            bail!("the name of the folder is not UTF-8; choose another --out");
        }
        let mut output = ffmpeg::format::output_as(path, container)?;
        let mut video = video
            .map(|video| VideoTrack::open(&mut output, video))
            .transpose()?;
        let mut audio = audio
            .map(|audio| AudioTrack::open(&mut output, audio))
            .transpose()?;
        output.write_header_with(bit_exact())?;
        // Interleaves the streams: the one with the earlier next frame is encoded next.
        loop {
            let video_time = video.as_ref().and_then(VideoTrack::next_time);
            let audio_time = audio.as_ref().and_then(AudioTrack::next_time);
            match (video_time, audio_time, &mut video, &mut audio) {
                (Some(video_time), Some(audio_time), _, Some(track))
                    if audio_time <= video_time =>
                {
                    track.encode_next(&mut output)?
                }
                (Some(_), _, Some(track), _) => track.encode_next(&mut output)?,
                (None, Some(_), _, Some(track)) => track.encode_next(&mut output)?,
                _ => break,
            }
        }
        for encoder in [
            video.map(|track| track.encoder),
            audio.map(|track| track.encoder),
        ]
        .into_iter()
        .flatten()
        {
            encoder.finish(&mut output)?;
        }
        output.write_trailer()?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}

/// An open encoder and the stream of the container that its packets go to.
struct StreamEncoder {
    encoder: encoder::Encoder,
    stream: usize,
    time_base: Rational,
}

impl StreamEncoder {
    /// Writes the packets that are ready.
    fn write_packets(&mut self, output: &mut Output) -> anyhow::Result<()> {
        let stream = output
            .stream(self.stream)
            .ok_or_else(|| anyhow!("no stream"))?
            .time_base();
        let mut packet = Packet::empty();
        while self.encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(self.stream);
            packet.rescale_ts(self.time_base, stream);
            packet.write_interleaved(output)?;
        }
        Ok(())
    }

    /// Flushes the encoder and writes the packets that it held back.
    fn finish(mut self, output: &mut Output) -> anyhow::Result<()> {
        self.encoder.send_eof()?;
        self.write_packets(output)
    }
}

fn find_encoder(name: &str) -> anyhow::Result<ffmpeg::Codec> {
    encoder::find_by_name(name).ok_or_else(|| {
        anyhow!("this machine's FFmpeg has no encoder {name}; install the full libavcodec")
    })
}

/// Creates an encoder with one thread and the bit-exact flag, not yet open.
fn new_encoder(codec: ffmpeg::Codec, output: &Output) -> encoder::Encoder {
    let mut context = codec::Context::new_with_codec(codec);
    context.set_threading(codec::threading::Config::count(1));
    let mut flags = codec::Flags::BITEXACT;
    if output
        .format()
        .flags()
        .contains(ffmpeg::format::Flags::GLOBAL_HEADER)
    {
        flags |= codec::Flags::GLOBAL_HEADER;
    }
    context.set_flags(flags);
    context.encoder()
}

/// A video stream while it is being encoded.
struct VideoTrack<'a> {
    video: Video<'a>,
    encoder: StreamEncoder,
    canvas: Canvas,
    next: usize,
}

impl<'a> VideoTrack<'a> {
    fn open(output: &mut Output, video: Video<'a>) -> anyhow::Result<VideoTrack<'a>> {
        let codec = find_encoder(video.encoder)?;
        let time_base = video.rate.invert();
        let mut settings = new_encoder(codec, output).video()?;
        settings.set_width(video.width);
        settings.set_height(video.height);
        settings.set_format(Pixel::YUV420P);
        settings.set_time_base(time_base);
        settings.set_frame_rate(Some(video.rate));
        settings.set_bit_rate(video.bit_rate);
        settings.set_gop(video.gop);
        let mut options = ffmpeg::Dictionary::new();
        if let Some(preset) = video.preset {
            options.set("preset", preset);
        }
        let encoder = settings.open_as_with(codec, options)?;
        let mut stream = output.add_stream(codec)?;
        stream.set_parameters(&encoder);
        stream.set_time_base(time_base);
        stream.set_avg_frame_rate(video.rate);
        let encoder = StreamEncoder {
            stream: stream.index(),
            encoder: encoder.0.0,
            time_base,
        };
        let canvas = Canvas::new(video.width as usize, video.height as usize);
        Ok(VideoTrack {
            video,
            encoder,
            canvas,
            next: 0,
        })
    }

    /// The time of the next frame in seconds; `None` after the last.
    fn next_time(&self) -> Option<f64> {
        (self.next < self.video.frames)
            .then(|| self.next as f64 * f64::from(self.encoder.time_base))
    }

    fn encode_next(&mut self, output: &mut Output) -> anyhow::Result<()> {
        (self.video.draw)(self.next, &mut self.canvas);
        let mut frame = frame::Video::new(Pixel::YUV420P, self.video.width, self.video.height);
        for (plane, (pixels, width)) in self.canvas.planes().into_iter().enumerate() {
            let stride = frame.stride(plane);
            for (to, from) in frame
                .data_mut(plane)
                .chunks_mut(stride)
                .zip(pixels.chunks(width))
            {
                to[..width].copy_from_slice(from);
            }
        }
        frame.set_pts(Some(self.next as i64));
        self.next += 1;
        self.encoder.encoder.send_frame(&frame)?;
        self.encoder.write_packets(output)
    }
}

/// An audio stream while it is being encoded.
struct AudioTrack<'a> {
    audio: Audio<'a>,
    encoder: StreamEncoder,
    format: Sample,
    frame_size: usize,
    next: usize,
}

impl<'a> AudioTrack<'a> {
    fn open(output: &mut Output, audio: Audio<'a>) -> anyhow::Result<AudioTrack<'a>> {
        let codec = find_encoder(audio.encoder)?;
        let format = Sample::F32(sample::Type::Planar);
        let time_base = Rational(1, audio.rate as i32);
        let mut settings = new_encoder(codec, output).audio()?;
        settings.set_rate(audio.rate as i32);
        settings.set_format(format);
        settings.set_channel_layout(ChannelLayout::MONO);
        settings.set_bit_rate(audio.bit_rate);
        settings.set_time_base(time_base);
        let encoder = settings.open_as(codec)?;
        let frame_size = match encoder.frame_size() as usize {
            0 => 1024,
            size => size,
        };
        let mut stream = output.add_stream(codec)?;
        stream.set_parameters(&encoder);
        stream.set_time_base(time_base);
        let encoder = StreamEncoder {
            stream: stream.index(),
            encoder: encoder.0.0,
            time_base,
        };
        Ok(AudioTrack {
            audio,
            encoder,
            format,
            frame_size,
            next: 0,
        })
    }

    /// The time of the next sample in seconds; `None` after the last.
    fn next_time(&self) -> Option<f64> {
        (self.next < self.audio.samples.len())
            .then(|| self.next as f64 / f64::from(self.audio.rate))
    }

    fn encode_next(&mut self, output: &mut Output) -> anyhow::Result<()> {
        let rest = &self.audio.samples[self.next..];
        let rest = &rest[..rest.len().min(self.frame_size)];
        let mut frame = frame::Audio::new(self.format, rest.len(), ChannelLayout::MONO);
        frame.set_rate(self.audio.rate);
        frame.plane_mut::<f32>(0).copy_from_slice(rest);
        frame.set_pts(Some(self.next as i64));
        self.next += rest.len();
        self.encoder.encoder.send_frame(&frame)?;
        self.encoder.write_packets(output)
    }
}

/// Writes mono samples as a WAV file with 16 bits per sample and the header of 44 bytes.
///
/// # Errors
/// The file cannot be written.
pub fn write_wav(path: &Path, rate: u32, samples: &[f32]) -> anyhow::Result<()> {
    let size = 2 * samples.len() as u32;
    let mut bytes = Vec::with_capacity(44 + size as usize);
    bytes.extend(b"RIFF");
    bytes.extend((36 + size).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    // PCM, one channel, the rate, bytes per second, bytes per sample, bits per sample.
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((2 * rate).to_le_bytes());
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(size.to_le_bytes());
    for sample in samples {
        bytes.extend(((sample.clamp(-1.0, 1.0) * 32_767.0).round() as i16).to_le_bytes());
    }
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
