//! Encoding through libav: painted frames and samples into a real container.
//!
//! Deterministic: one thread per encoder, bit-exact flags, no dates in any header.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use ffmpeg_next as ffmpeg;
use ffmpeg_next::channel_layout::ChannelLayout;
use ffmpeg_next::codec::{self, encoder};
use ffmpeg_next::format::context::Output;
use ffmpeg_next::format::{Pixel, Sample, sample};
use ffmpeg_next::{Packet, Rational, frame};

use crate::canvas::Canvas;

/// Prepares libav, which then prints nothing itself.
pub fn init() -> Result<(), ffmpeg::Error> {
    ffmpeg::init()?;
    ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    Ok(())
}

/// The muxer's option that keeps dates and version names out of the file.
fn bit_exact() -> ffmpeg::Dictionary<'static> {
    let mut options = ffmpeg::Dictionary::new();
    options.set("fflags", "+bitexact");
    options
}

/// Paints frame number `n`.
pub type Paint<'a> = &'a dyn Fn(usize, &mut Canvas);

/// The picture side of a clip.
pub struct Video<'a> {
    /// libav's name of the encoder: "flv", "libx264".
    pub encoder: &'static str,
    /// The encoder's own name for how hard it tries, where it has such names.
    pub preset: Option<&'static str>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second.
    pub rate: Rational,
    /// How many frames.
    pub frames: usize,
    /// Bits per second.
    pub bit_rate: usize,
    /// Frames between two that stand alone.
    pub gop: u32,
    /// What is seen.
    pub paint: Paint<'a>,
}

/// The sound side of a clip. One channel.
pub struct Audio<'a> {
    /// libav's name of the encoder: "libmp3lame", "aac".
    pub encoder: &'static str,
    /// Hz.
    pub rate: u32,
    /// Bits per second.
    pub bit_rate: usize,
    /// Full scale is 1.
    pub samples: &'a [f32],
}

/// Writes a clip. The container follows from its name as libav knows it ("flv", "mp3", "mp4").
pub fn clip(
    path: &Path,
    container: &str,
    video: Option<Video>,
    audio: Option<Audio>,
) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        // ffmpeg-next panics on such a name.
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
        // Whichever is behind goes next, as in a recording.
        loop {
            let picture = video.as_ref().and_then(VideoTrack::at);
            let sound = audio.as_ref().and_then(AudioTrack::at);
            match (picture, sound, &mut video, &mut audio) {
                (Some(picture), Some(sound), _, Some(track)) if sound <= picture => {
                    track.step(&mut output)?
                }
                (Some(_), _, Some(track), _) => track.step(&mut output)?,
                (None, Some(_), _, Some(track)) => track.step(&mut output)?,
                _ => break,
            }
        }
        for encoder in [video.map(|track| track.out), audio.map(|track| track.out)]
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

/// An opened encoder and its stream.
struct Out {
    encoder: encoder::Encoder,
    stream: usize,
    time_base: Rational,
}

impl Out {
    fn drain(&mut self, output: &mut Output) -> anyhow::Result<()> {
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

    fn finish(mut self, output: &mut Output) -> anyhow::Result<()> {
        self.encoder.send_eof()?;
        self.drain(output)
    }
}

fn find(name: &str) -> anyhow::Result<ffmpeg::Codec> {
    encoder::find_by_name(name).ok_or_else(|| {
        anyhow!("this machine's FFmpeg has no encoder {name}; install the full libavcodec")
    })
}

fn context(codec: ffmpeg::Codec, output: &Output) -> encoder::Encoder {
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

struct VideoTrack<'a> {
    video: Video<'a>,
    out: Out,
    canvas: Canvas,
    next: usize,
}

impl<'a> VideoTrack<'a> {
    fn open(output: &mut Output, video: Video<'a>) -> anyhow::Result<VideoTrack<'a>> {
        let codec = find(video.encoder)?;
        let time_base = video.rate.invert();
        let mut settings = context(codec, output).video()?;
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
        let out = Out {
            stream: stream.index(),
            encoder: encoder.0.0,
            time_base,
        };
        let canvas = Canvas::new(video.width as usize, video.height as usize);
        Ok(VideoTrack {
            video,
            out,
            canvas,
            next: 0,
        })
    }

    /// Seconds of the next frame, while there is one.
    fn at(&self) -> Option<f64> {
        (self.next < self.video.frames).then(|| self.next as f64 * f64::from(self.out.time_base))
    }

    fn step(&mut self, output: &mut Output) -> anyhow::Result<()> {
        (self.video.paint)(self.next, &mut self.canvas);
        let mut picture = frame::Video::new(Pixel::YUV420P, self.video.width, self.video.height);
        for (plane, (pixels, width)) in self.canvas.planes().into_iter().enumerate() {
            let stride = picture.stride(plane);
            for (to, from) in picture
                .data_mut(plane)
                .chunks_mut(stride)
                .zip(pixels.chunks(width))
            {
                to[..width].copy_from_slice(from);
            }
        }
        picture.set_pts(Some(self.next as i64));
        self.next += 1;
        self.out.encoder.send_frame(&picture)?;
        self.out.drain(output)
    }
}

struct AudioTrack<'a> {
    audio: Audio<'a>,
    out: Out,
    format: Sample,
    frame_size: usize,
    next: usize,
}

impl<'a> AudioTrack<'a> {
    fn open(output: &mut Output, audio: Audio<'a>) -> anyhow::Result<AudioTrack<'a>> {
        let codec = find(audio.encoder)?;
        let format = Sample::F32(sample::Type::Planar);
        let time_base = Rational(1, audio.rate as i32);
        let mut settings = context(codec, output).audio()?;
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
        let out = Out {
            stream: stream.index(),
            encoder: encoder.0.0,
            time_base,
        };
        Ok(AudioTrack {
            audio,
            out,
            format,
            frame_size,
            next: 0,
        })
    }

    /// Seconds of the next sample, while there is one.
    fn at(&self) -> Option<f64> {
        (self.next < self.audio.samples.len())
            .then(|| self.next as f64 / f64::from(self.audio.rate))
    }

    fn step(&mut self, output: &mut Output) -> anyhow::Result<()> {
        let rest = &self.audio.samples[self.next..];
        let rest = &rest[..rest.len().min(self.frame_size)];
        let mut sound = frame::Audio::new(self.format, rest.len(), ChannelLayout::MONO);
        sound.set_rate(self.audio.rate);
        sound.plane_mut::<f32>(0).copy_from_slice(rest);
        sound.set_pts(Some(self.next as i64));
        self.next += rest.len();
        self.out.encoder.send_frame(&sound)?;
        self.out.drain(output)
    }
}

/// Writes 16-bit mono samples as a WAV file with the plain 44-byte header.
pub fn wav(path: &Path, rate: u32, samples: &[f32]) -> anyhow::Result<()> {
    let size = 2 * samples.len() as u32;
    let mut bytes = Vec::with_capacity(44 + size as usize);
    bytes.extend(b"RIFF");
    bytes.extend((36 + size).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    // PCM, one channel, rate, bytes per second, bytes per sample, bits.
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
