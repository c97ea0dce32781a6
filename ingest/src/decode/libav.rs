//! Calls into libav: what ffmpeg-next does not offer, or offers with a panic. No other module of
//! this crate calls libav directly.
//!
//! Decisions are made elsewhere, in `demux`, `audio` and `video`. Each `unsafe` block is a call
//! into libav on a pointer that a live wrapper object owns.
//!
//! Invariant: a file is opened through the `file:` protocol alone and by a demuxer of [`DEMUXERS`]
//! alone, so no input can make libav reach the network, follow a playlist or open a second file.

use std::ffi::{CStr, CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{self, decoder};
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::frame;
use ffmpeg_next::packet::{Mut as _, Ref as _};
use ffmpeg_next::{Error, Packet, Rational, Stream};

use util::cpu;

use super::wav_header::{self, SampleFormat};
use super::yuv;

/// Demuxers for media files. Playlists (hls, dash, concat, ...), devices and text formats are left
/// out.
const DEMUXERS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,asf,ogg,\
                        rm,nut,wav,w64,aiff,au,caf,mp3,aac,ac3,eac3,flac,amr,ape,wv,tta,gif,apng,nistsphere,voc,dv,\
                        yuv4mpegpipe";

const WAV: &CStr = c"wav";

/// Number of packets of 4 KiB of a wav file that libav searches for compressed audio in the place
/// of samples (DTS, whose frames are at most this long). With its default of 2500 the search takes
/// longer than everything else on a short file.
const WAV_PROBE_PACKETS: &str = "8";

/// Limit on the pixels of a frame: 8192 x 8192, which is above 8K video.
const MAX_PIXELS: i64 = 1 << 26;

/// `AV_CPU_FLAG_AVX512ICL`, the flag of AVX-512 of Ice Lake and later, which the headers of FFmpeg
/// 4.4 lack.
const AVX512ICL: c_int = 0x20_0000;

/// Initialises libav. It prints nothing on stderr, and uses no AVX-512 if the user has masked it.
///
/// # Errors
/// libav cannot be initialised.
pub fn init() -> Result<(), Error> {
    ffmpeg::init()?;
    if !cpu::allows(cpu::Level::Avx512) {
        let avx512 = ffi::AV_CPU_FLAG_AVX512 as c_int | AVX512ICL;
        // SAFETY: both calls take and return numbers; no decoder or scaler exists yet.
        unsafe { ffi::av_force_cpu_flags(ffi::av_get_cpu_flags() & !avx512) };
    }
    ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    Ok(())
}

/// Returns the demuxer of a file whose first bytes leave no choice. To probe all demuxers takes
/// longer than to open a short clip.
fn known_demuxer(head: &[u8]) -> Option<&'static CStr> {
    match head {
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'A',
            b'V',
            b'E',
            ..,
        ] => Some(WAV),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some(c"mov"),
        // Version 1, its flags, and a header of 9 bytes.
        [b'F', b'L', b'V', 1, _, 0, 0, 0, 9, ..] => Some(c"flv"),
        _ => None,
    }
}

/// Opens a media file and finds its streams. `head` holds the first bytes of the file.
///
/// # Errors
/// libav cannot open the file, or finds no streams in it.
pub fn open(path: &Path, head: &[u8]) -> Result<Input, Error> {
    // With "file:", a name such as "concat:a|b" or "-" is a file name too.
    let mut url = b"file:".to_vec();
    url.extend_from_slice(path.as_os_str().as_bytes());
    let url = CString::new(url).map_err(|_| Error::Other {
        errno: libc::EINVAL,
    })?;
    let mut options = ffmpeg::Dictionary::new();
    options.set("protocol_whitelist", "file");
    options.set("format_whitelist", DEMUXERS);
    let demuxer = known_demuxer(head);
    if demuxer == Some(WAV) {
        options.set("max_probe_packets", WAV_PROBE_PACKETS);
    }
    // SAFETY: `options` is handed to libav, which leaves what it did not use in it, and taken back
    // at once. `context` is null or a valid context after avformat_open_input (which frees it on
    // failure); Input owns and closes it.
    unsafe {
        let mut context: *mut ffi::AVFormatContext = ptr::null_mut();
        let mut raw = options.disown();
        let format = demuxer.map_or(ptr::null(), |name| ffi::av_find_input_format(name.as_ptr()));
        let code = ffi::avformat_open_input(&mut context, url.as_ptr(), format, &mut raw);
        drop(ffmpeg::Dictionary::own(raw));
        if code < 0 {
            return Err(Error::from(code));
        }
        let input = Input::wrap(context);
        if let Some(format) = wav_header::sample_format(head) {
            correct_samples(context, format);
        }
        match ffi::avformat_find_stream_info(context, ptr::null_mut()) {
            code if code < 0 => Err(Error::from(code)),
            _ => Ok(input),
        }
    }
}

/// Corrects the codec of the only stream of a WAV or Wave64 file, and the duration that libav has
/// computed with the wrong one. The streams have not been probed yet, so all that libav computes
/// from then on is right.
///
/// # Safety
/// `context` is an open context.
unsafe fn correct_samples(context: *mut ffi::AVFormatContext, format: SampleFormat) {
    // SAFETY: the streams and their parameters live as long as the context.
    unsafe {
        if (*context).nb_streams != 1 {
            return;
        }
        let stream = *(*context).streams;
        let parameters = (*stream).codecpar;
        let bits = 8 * format.bytes as c_int;
        let wrong_bits = (*parameters).bits_per_coded_sample;
        if (*parameters).codec_id == format.codec.into() && wrong_bits == bits {
            return;
        }
        (*parameters).codec_id = format.codec.into();
        (*parameters).bits_per_coded_sample = bits;
        // The demuxer of Wave64 computes the duration from the size of a block, which is right.
        let is_wav = CStr::from_ptr((*(*context).iformat).name) == WAV;
        if is_wav && (*stream).duration > 0 && wrong_bits > 0 {
            let exact = (*stream).duration as f64 * f64::from(wrong_bits) / f64::from(bits);
            (*stream).duration = exact.round() as i64;
        }
    }
}

/// Converts ticks of a time base to seconds.
pub fn seconds(ticks: i64, time_base: Rational) -> f64 {
    ticks as f64 * f64::from(time_base.numerator()) / f64::from(time_base.denominator().max(1))
}

/// Returns the duration of a file in seconds if its header gives it. Otherwise libav estimates one
/// from the bit rate, or measures it.
pub fn declared_duration(input: &Input) -> Option<f64> {
    use ffi::AVDurationEstimationMethod::AVFMT_DURATION_FROM_STREAM;
    // SAFETY: reads a plain field of a context that we hold.
    let method = unsafe { (*input.as_ptr()).duration_estimation_method };
    let seconds = input.duration() as f64 / f64::from(ffi::AV_TIME_BASE);
    (method == AVFMT_DURATION_FROM_STREAM).then_some(seconds)
}

/// Whether a read has met the end of the file.
pub fn has_met_end(input: &Input) -> bool {
    // SAFETY: reads a plain field of a reader that the context owns, if it has one.
    unsafe {
        let reader = (*input.as_ptr()).pb;
        !reader.is_null() && (*reader).eof_reached != 0
    }
}

/// Makes the demuxer drop the packets of all streams but these.
pub fn keep_only(input: &mut Input, streams: &[usize]) {
    for index in 0..input.nb_streams() as usize {
        if !streams.contains(&index) {
            // SAFETY: index < nb_streams, and the context owns its streams for as long as it lives.
            unsafe {
                let stream = *(*input.as_mut_ptr()).streams.add(index);
                (*stream).discard = ffi::AVDiscard::AVDISCARD_ALL;
            }
        }
    }
}

/// Whether a packet is decoded but not presented, because it is outside of the container's edit
/// list.
pub fn is_hidden(packet: &Packet) -> bool {
    // SAFETY: reads a plain field of a packet that we hold.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Reads the next packet. Returns `None` at the end of the file.
pub fn read(input: &mut Input, packet: &mut Packet) -> Result<Option<()>, Error> {
    // SAFETY: both pointers come from live wrappers. av_read_frame overwrites the packet, which is
    // blank here.
    match unsafe { ffi::av_read_frame(input.as_mut_ptr(), packet.as_mut_ptr()) } {
        0.. => Ok(Some(())),
        ffi::AVERROR_EOF => Ok(None),
        code => Err(Error::from(code)),
    }
}

/// Whether the decoder has marked a frame: errors in it are concealed.
pub fn is_concealed(frame: &frame::Video) -> bool {
    // SAFETY: reads plain fields of a frame that we hold.
    let (flags, errors) = unsafe {
        (
            (*frame.as_ptr()).flags,
            (*frame.as_ptr()).decode_error_flags,
        )
    };
    flags & ffi::AV_FRAME_FLAG_CORRUPT as c_int != 0 || errors != 0
}

/// Creates a decoder for these parameters. It has one thread, because clips are decoded in
/// parallel.
fn new_decoder(
    parameters: &codec::Parameters,
    time_base: Rational,
) -> Result<decoder::Decoder, Error> {
    let mut context = codec::Context::new();
    // SAFETY: both pointers are owned by live wrappers; max_pixels is a plain field.
    unsafe {
        let code = ffi::avcodec_parameters_to_context(context.as_mut_ptr(), parameters.as_ptr());
        if code < 0 {
            return Err(Error::from(code));
        }
        (*context.as_mut_ptr()).max_pixels = MAX_PIXELS;
        if parameters.id() == codec::Id::MJPEG {
            // This decoder marks no frame. It returns the errors of a scan only if it is told to.
            (*context.as_mut_ptr()).err_recognition = ffi::AV_EF_EXPLODE as c_int;
        }
    }
    context.set_threading(codec::threading::Config::count(1));
    let mut decoder = context.decoder();
    // Without the time base, libav cannot remove the encoder's priming samples.
    decoder.set_packet_time_base(time_base);
    Ok(decoder)
}

/// Returns the codec's header from the container.
pub fn extradata(parameters: &codec::Parameters) -> &[u8] {
    // SAFETY: libav guarantees extradata_size bytes where the pointer is not null; they live as
    // long as the parameters.
    unsafe {
        let raw = parameters.as_ptr();
        match (*raw).extradata.is_null() {
            true => &[],
            false => {
                let size = usize::try_from((*raw).extradata_size).unwrap_or(0);
                std::slice::from_raw_parts((*raw).extradata, size)
            }
        }
    }
}

/// Returns how many frames the decoder holds back to output them in order.
pub fn reorder_depth(parameters: &codec::Parameters) -> usize {
    // SAFETY: reads a plain field of parameters that we hold.
    let depth = unsafe { (*parameters.as_ptr()).video_delay };
    usize::try_from(depth).unwrap_or(0)
}

/// Opens the audio decoder of a stream.
pub fn audio_decoder(
    parameters: &codec::Parameters,
    time_base: Rational,
) -> Result<decoder::Audio, Error> {
    new_decoder(parameters, time_base)?.audio()
}

/// Opens the video decoder of a stream.
pub fn video_decoder(
    parameters: &codec::Parameters,
    time_base: Rational,
) -> Result<decoder::Video, Error> {
    new_decoder(parameters, time_base)?.video()
}

/// Returns the bytes of one plane of an audio frame: the channel `plane` of a planar format, or all
/// channels interleaved as plane 0.
///
/// The accessors of ffmpeg-next end at 8 channels.
pub fn audio_plane(frame: &frame::Audio, plane: usize) -> &[u8] {
    let channels = usize::from(frame.channels());
    let (planes, per_plane) = if frame.is_planar() {
        (channels, 1)
    } else {
        (1, channels)
    };
    assert!(plane < planes, "plane {plane} of {planes}");
    let bytes = frame.samples() * per_plane * frame.format().bytes();
    // SAFETY: libav guarantees that extended_data holds one pointer per plane, each to at least
    // that many bytes.
    unsafe { std::slice::from_raw_parts(*(*frame.as_ptr()).extended_data.add(plane), bytes) }
}

/// Returns the linear part (a, b, c, d) of a stream's display matrix, which maps the stored point
/// (x, y) to (a x + c y, b x + d y).
pub fn display_matrix(stream: &Stream) -> Option<[i32; 4]> {
    stream
        .side_data()
        .find(|side| side.kind() == codec::packet::side_data::Type::DisplayMatrix)
        .and_then(|side| {
            let at = |i: usize| {
                let bytes = side.data().get(4 * i..4 * i + 4)?;
                Some(i32::from_ne_bytes(bytes.try_into().ok()?))
            };
            Some([at(0)?, at(1)?, at(3)?, at(4)?])
        })
}

/// Converts frames of any pixel format to packed RGB of the same size, with the colour matrix and
/// range of the frame.
pub struct ToRgb {
    /// The converter of 8-bit YUV 4:2:0.
    yuv: yuv::Converter,
    /// The converter of all other formats, for frames with one key.
    scaler: Option<(FormatKey, ffmpeg::software::scaling::Context)>,
    /// The frame that libswscale converts to.
    target: frame::Video,
}

/// Everything that a conversion depends on.
#[derive(PartialEq, Clone, Copy)]
struct FormatKey {
    format: ffmpeg::format::Pixel,
    width: u32,
    height: u32,
    matrix: c_int,
    full_range: c_int,
}

impl ToRgb {
    /// Creates a converter. It allocates nothing before the first frame.
    pub fn new() -> ToRgb {
        ToRgb {
            yuv: yuv::Converter::default(),
            scaler: None,
            target: frame::Video::empty(),
        }
    }

    /// Returns the RGB bytes of a frame, without gaps between rows.
    ///
    /// # Errors
    /// libswscale does not know the pixel format.
    pub fn convert(&mut self, frame: &frame::Video) -> Result<Vec<u8>, Error> {
        let key = format_key(frame);
        match yuv_image(frame, &key) {
            Some((image, matrix)) => Ok(self.yuv.convert(&image, &matrix)),
            None => self.scale(frame, key),
        }
    }

    /// Converts a frame with libswscale.
    fn scale(&mut self, frame: &frame::Video, key: FormatKey) -> Result<Vec<u8>, Error> {
        let scaler = match &mut self.scaler {
            Some((current, scaler)) if *current == key => scaler,
            slot => {
                self.target = frame::Video::empty();
                &mut slot.insert((key, new_scaler(&key)?)).1
            }
        };
        scaler.run(frame, &mut self.target)?;
        let row = 3 * key.width as usize;
        let stride = self.target.stride(0);
        let mut rgb = Vec::with_capacity(row * key.height as usize);
        for line in self.target.data(0).chunks(stride).take(key.height as usize) {
            rgb.extend_from_slice(&line[..row]);
        }
        Ok(rgb)
    }
}

fn format_key(frame: &frame::Video) -> FormatKey {
    use ffi::AVColorRange::{AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG};
    use ffmpeg::format::Pixel;
    let format = frame.format();
    // SAFETY: reads plain fields of a frame that we hold.
    let (space, range) = unsafe { ((*frame.as_ptr()).colorspace, (*frame.as_ptr()).color_range) };
    let full = match range {
        AVCOL_RANGE_JPEG => true,
        AVCOL_RANGE_MPEG => false,
        _ => matches!(
            format,
            Pixel::YUVJ420P
                | Pixel::YUVJ422P
                | Pixel::YUVJ444P
                | Pixel::YUVJ440P
                | Pixel::YUVJ411P
                | Pixel::GRAY8
        ),
    };
    FormatKey {
        format,
        width: frame.width(),
        height: frame.height(),
        matrix: space as c_int,
        full_range: c_int::from(full),
    }
}

/// Returns the frame as an image that [`yuv`] converts, and its colour matrix. `None` if `yuv` does
/// not convert frames like this one.
fn yuv_image<'a>(
    frame: &'a frame::Video,
    key: &FormatKey,
) -> Option<(yuv::Image<'a>, yuv::Matrix)> {
    use ffmpeg::format::Pixel;
    let is_yuv = match key.format {
        Pixel::YUV420P => true,
        Pixel::YUVJ420P => key.full_range == 1,
        _ => false,
    };
    let (width, height) = (key.width as usize, key.height as usize);
    if !is_yuv || !yuv::fits(width, height) {
        return None;
    }
    let plane = |plane: usize| yuv::Plane {
        bytes: frame.data(plane),
        stride: frame.stride(plane),
    };
    // SAFETY: libswscale's tables are static and have four numbers, whatever the colour space.
    let table = unsafe { *ffi::sws_getCoefficients(key.matrix).cast::<[c_int; 4]>() };
    let image = yuv::Image {
        planes: [plane(0), plane(1), plane(2)],
        width,
        height,
    };
    Some((image, yuv::Matrix::new(table, key.full_range == 1)))
}

/// Creates a libswscale context that converts to RGB of the same size.
fn new_scaler(key: &FormatKey) -> Result<ffmpeg::software::scaling::Context, Error> {
    use ffmpeg::software::scaling::{Context, Flags};
    // The size does not change, so the bicubic kernel is used for the chroma planes alone.
    let flags = Flags::BICUBIC | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INT;
    let rgb = ffmpeg::format::Pixel::RGB24;
    let mut scaler = Context::get(
        key.format, key.width, key.height, rgb, key.width, key.height, flags,
    )?;
    const UNITY: c_int = 1 << 16;
    // SAFETY: the context is live and the coefficient tables are static. An RGB source is refused
    // (-1) and needs none.
    unsafe {
        ffi::sws_setColorspaceDetails(
            scaler.as_mut_ptr(),
            ffi::sws_getCoefficients(key.matrix),
            key.full_range,
            ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT),
            1,
            0,
            UNITY,
            UNITY,
        );
    }
    Ok(scaler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffi::AVColorRange::{AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG};
    use ffi::AVColorSpace::{
        AVCOL_SPC_BT470BG, AVCOL_SPC_BT709, AVCOL_SPC_BT2020_NCL, AVCOL_SPC_UNSPECIFIED,
    };

    /// Compares with libswscale on noise that exceeds the limited range.
    #[test]
    fn yuv_420_conversion_matches_libswscale_bit_for_bit() {
        ffmpeg::init().unwrap();
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for (width, height) in [(32, 32), (98, 34), (480, 360), (642, 362)] {
            for space in [
                AVCOL_SPC_UNSPECIFIED,
                AVCOL_SPC_BT709,
                AVCOL_SPC_BT470BG,
                AVCOL_SPC_BT2020_NCL,
            ] {
                for range in [AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG] {
                    let mut frame =
                        frame::Video::new(ffmpeg::format::Pixel::YUV420P, width, height);
                    for plane in 0..3 {
                        // Both extremes and the values between them.
                        frame.data_mut(plane).fill_with(|| match random() {
                            0..40 => 0,
                            40..80 => 255,
                            _ => random(),
                        });
                    }
                    // SAFETY: sets plain fields of a frame that we own.
                    unsafe {
                        (*frame.as_mut_ptr()).colorspace = space;
                        (*frame.as_mut_ptr()).color_range = range;
                    }
                    let mut to_rgb = ToRgb::new();
                    let key = format_key(&frame);
                    assert!(yuv_image(&frame, &key).is_some());
                    let ours = to_rgb.convert(&frame).unwrap();
                    let theirs = to_rgb.scale(&frame, key).unwrap();
                    let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
                    assert_eq!(differ, None, "{width} x {height}, {space:?}, {range:?}");
                    assert_eq!(ours.len(), theirs.len());
                }
            }
        }
    }

    #[test]
    fn other_formats_and_sizes_are_left_to_libswscale() {
        use ffmpeg::format::Pixel;
        for (format, width, height) in [
            (Pixel::YUV420P, 65, 64),
            (Pixel::YUV420P, 64, 30),
            (Pixel::YUV422P, 64, 64),
            (Pixel::YUV420P10LE, 64, 64),
        ] {
            let frame = frame::Video::new(format, width, height);
            assert!(yuv_image(&frame, &format_key(&frame)).is_none());
        }
    }
}
