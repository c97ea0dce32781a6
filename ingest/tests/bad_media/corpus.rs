//! Malformed media made from valid files: what a broken upload, a disk, a crawler or an attacker
//! may have done to them.

use std::fs;
use std::path::Path;

use features::image::{PixelFormat, encode_jpeg};
use image::{DynamicImage, ImageFormat};
use util::rng::Rng;

/// How a file is ingested: as a clip with audio and video, as an image, or as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Clip,
    Image,
    Text,
}

/// A malformed file. Its name says what is wrong with it.
pub struct BadFile {
    pub name: String,
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

/// Valid files, each with its extension.
pub struct GoodFiles {
    pub clips: Vec<(&'static str, Vec<u8>)>,
    pub images: Vec<(&'static str, Vec<u8>)>,
}

/// The size of the corpus.
#[derive(Clone, Copy)]
pub struct Amount {
    /// Number of positions at which each valid file is truncated.
    pub cuts: usize,
    /// Number of copies of each valid file with some bits flipped.
    pub flips: usize,
    /// One of so many false headers is used.
    pub every: usize,
}

/// Returns the corpus, which is a function of the seed.
pub fn make(good: &GoodFiles, amount: Amount, seed: u64) -> Vec<BadFile> {
    let mut all = Vec::new();
    for (kind, files) in [(Kind::Clip, &good.clips), (Kind::Image, &good.images)] {
        for (extension, bytes) in files {
            let mut add = |name: String, bytes: Vec<u8>| {
                all.push(BadFile {
                    name: format!("{extension}-{name}.{extension}"),
                    kind,
                    bytes,
                });
            };
            for cut in 0..amount.cuts {
                // Half of the cuts are in the first bytes, which hold the headers.
                let end = match cut % 2 {
                    0 => bytes.len() * cut / amount.cuts,
                    _ => cut * 13 % bytes.len().min(2000),
                };
                add(format!("cut-{cut}"), bytes[..end].to_vec());
            }
            let mut rng = Rng::new(seed, &[bytes.len() as u32]);
            for flip in 0..amount.flips {
                add(format!("flip-{flip}"), flip_bits(bytes, &mut rng));
            }
            for (number, (name, bytes)) in false_headers(extension, bytes).into_iter().enumerate() {
                if number % amount.every == 0 {
                    add(name, bytes);
                }
            }
        }
    }
    all.extend(not_media(seed));
    all.extend(unusual_audio());
    all.extend(unusual_images());
    all
}

/// Flips up to 64 bits. In every second copy all of them are near the start, where the headers are.
fn flip_bits(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let near = rng.below(2) == 0;
    let range = if near {
        bytes.len().min(1500)
    } else {
        bytes.len()
    };
    for _ in 0..1 + rng.below(64) {
        let at = rng.below(range as u32) as usize;
        bytes[at] ^= 1 << rng.below(8);
    }
    bytes
}

/// Returns copies with false headers: each field with a size, a length, a rate, a count or an
/// offset is once huge, once negative and once zero.
fn false_headers(extension: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut falsify = |name: String, at: usize, width: usize| {
        for (word, fill) in [("huge", 0x7f), ("negative", 0xff), ("zero", 0)] {
            let mut copy = bytes.to_vec();
            if let Some(field) = copy.get_mut(at..at + width) {
                field.fill(fill);
                all.push((format!("{name}-{word}"), copy));
            }
        }
    };
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    match extension {
        "mp4" => {
            // A box, and the offset of a field after the box's name.
            let fields = [
                ("ftyp", -4),
                ("moov", -4),
                ("mvhd", -4),
                ("mvhd", 12),
                ("mvhd", 16),
                ("trak", -4),
                ("tkhd", 20),
                ("tkhd", 76),
                ("tkhd", 80),
                ("mdhd", 12),
                ("mdhd", 16),
                ("hdlr", 8),
                ("stsd", -4),
                ("stsd", 4),
                ("avc1", 24),
                ("avcC", -4),
                ("mp4a", 16),
                ("mp4a", 24),
                ("esds", -4),
                ("stts", 4),
                ("stts", 8),
                ("stts", 12),
                ("ctts", 4),
                ("stsc", 4),
                ("stsc", 8),
                ("stsc", 12),
                ("stsz", 4),
                ("stsz", 8),
                ("stsz", 12),
                ("stco", 4),
                ("stco", 8),
                ("elst", 4),
                ("elst", 8),
                ("elst", 12),
                ("mdat", -4),
                ("dref", 4),
            ];
            for (name, offset) in fields {
                if let Some(at) = find(name.as_bytes()) {
                    let at = at as i64 + if offset < 0 { offset } else { 4 + offset };
                    falsify(format!("{name}{offset}"), at as usize, 4);
                }
            }
        }
        "flv" => {
            for name in [
                "duration",
                "width",
                "height",
                "framerate",
                "filesize",
                "audiosamplerate",
            ] {
                if let Some(at) = find(name.as_bytes()) {
                    falsify(name.to_owned(), at + name.len() + 1, 8);
                }
            }
            for (name, at, width) in [
                ("data-offset", 5, 4),
                ("tag-size", 14, 3),
                ("tag-time", 17, 4),
            ] {
                falsify(name.to_owned(), at, width);
            }
        }
        "wav" => {
            let fields = [
                ("riff-size", 4, 4),
                ("fmt-size", 16, 4),
                ("format", 20, 2),
                ("channels", 22, 2),
                ("rate", 24, 4),
                ("bytes-per-second", 28, 4),
                ("block", 32, 2),
                ("bits", 34, 2),
                ("data-size", 40, 4),
            ];
            for (name, at, width) in fields {
                falsify(name.to_owned(), at, width);
            }
        }
        "jpg" => {
            if let Some(frame) = find(b"\xff\xc0") {
                for (name, at, width) in [
                    ("length", 2, 2),
                    ("bits", 4, 1),
                    ("height", 5, 2),
                    ("width", 7, 2),
                    ("components", 9, 1),
                    ("sampling", 11, 1),
                ] {
                    falsify(name.to_owned(), frame + at, width);
                }
            }
        }
        "png" => {
            for (name, at, width) in [
                ("width", 16, 4),
                ("height", 20, 4),
                ("bits", 24, 1),
                ("colour", 25, 1),
                ("idat", 33, 4),
            ] {
                falsify(name.to_owned(), at, width);
            }
        }
        "gif" => falsify("screen".to_owned(), 6, 4),
        "bmp" => {
            for (name, at) in [
                ("offset", 10),
                ("header", 14),
                ("width", 18),
                ("height", 22),
                ("bits", 28),
                ("colours", 46),
            ] {
                falsify(name.to_owned(), at, 4);
            }
        }
        "webp" => {
            for (name, at) in [("riff-size", 4), ("chunk-size", 16), ("size", 21)] {
                falsify(name.to_owned(), at, 4);
            }
        }
        _ => {}
    }
    all
}

/// Returns files that are no media.
fn not_media(seed: u64) -> Vec<BadFile> {
    let mut rng = Rng::new(seed, &[0]);
    let noise: Vec<u8> = (0..65_536).map(|_| rng.below(256) as u8).collect();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 40618\n";
    let table: [(&str, &[u8]); 8] = [
        ("empty", b""),
        ("one-byte", b"\0"),
        ("zeros", &[0; 100_000]),
        ("noise", &noise),
        ("text", b"It was a dark and stormy night.\n"),
        (
            "html",
            b"<!doctype html><html><body>404 not found</body></html>",
        ),
        ("lfs-pointer", pointer),
        ("json", b"{\"error\": \"quota exceeded\"}"),
    ];
    let mut all = Vec::new();
    for (name, bytes) in table {
        for (kind, extension) in [
            (Kind::Clip, "mp4"),
            (Kind::Clip, "flv"),
            (Kind::Clip, "wav"),
            (Kind::Image, "jpg"),
            (Kind::Text, "txt"),
        ] {
            all.push(BadFile {
                name: format!("{name}.{extension}"),
                kind,
                bytes: bytes.to_vec(),
            });
        }
    }
    // Text that is not UTF-8, or that is very long.
    for (name, bytes) in [
        ("latin1", b"caf\xe9 cr\xe8me".to_vec()),
        ("utf16", b"\xff\xfeh\0i\0".to_vec()),
        ("nul", b"a\0b\x1b[2Jc\r\n\x07".to_vec()),
        ("entities", "&lt;".repeat(100_000).into_bytes()),
        ("five-megabytes", b"word ".repeat(1 << 20)),
        ("deep-json", b"[".repeat(200_000)),
    ] {
        all.push(BadFile {
            name: format!("{name}.txt"),
            kind: Kind::Text,
            bytes,
        });
    }
    all
}

/// Returns playlists in every format, once with a file outside of the raw root and once with an
/// address.
pub fn playlists(secret: &Path, address: &str) -> Vec<BadFile> {
    let secret = secret.to_str().unwrap();
    let mut all = Vec::new();
    for (target_kind, target) in [
        ("file", secret.to_owned()),
        ("url", format!("http://{address}/x.mp4")),
    ] {
        let formats = [
            (
                "hls",
                "m3u8",
                format!(
                    "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"
                ),
            ),
            (
                "hls-key",
                "m3u8",
                format!(
                    "#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"{target}\"\n#EXTINF:10,\n{target}\n"
                ),
            ),
            (
                "master",
                "m3u8",
                format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n"),
            ),
            (
                "concat",
                "txt",
                format!("ffconcat version 1.0\nfile '{target}'\n"),
            ),
            (
                "dash",
                "mpd",
                format!(
                    "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"><Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
                ),
            ),
            (
                "sdp",
                "sdp",
                format!(
                    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\nm=audio 9 RTP/AVP 0\n"
                ),
            ),
            (
                "asx",
                "asx",
                format!("<asx version=\"3.0\"><entry><ref href=\"{target}\"/></entry></asx>"),
            ),
            (
                "pls",
                "pls",
                format!("[playlist]\nFile1={target}\nNumberOfEntries=1\n"),
            ),
            (
                "imf",
                "xml",
                format!(
                    "<?xml version=\"1.0\"?><CompositionPlaylist xmlns=\"http://www.smpte-ra.org/schemas/2067-3/2016\"><Id>{target}</Id></CompositionPlaylist>"
                ),
            ),
            (
                "svg",
                "svg",
                format!(
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\"><image xlink:href=\"{target}\"/></svg>"
                ),
            ),
            (
                "subtitles",
                "vobsub",
                format!("# VobSub index file, v7\n{target}\n"),
            ),
        ];
        for (format, extension, text) in formats {
            for extension in [extension, "mp4"] {
                all.push(BadFile {
                    name: format!("playlist-{format}-{target_kind}.{extension}"),
                    kind: Kind::Clip,
                    bytes: text.clone().into_bytes(),
                });
            }
            all.push(BadFile {
                name: format!("playlist-{format}-{target_kind}.jpg"),
                kind: Kind::Image,
                bytes: text.into_bytes(),
            });
        }
    }
    all
}

/// Returns a WAV file with this header.
pub fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = u32::from(channels) * u32::from(bits) / 8;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0");
    bytes.extend(format.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(block).to_le_bytes());
    bytes.extend((block as u16).to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// Returns one second of a square wave of `hertz` in 16 bits on every channel.
fn tone(rate: u32, channels: u16, hertz: u32) -> Vec<u8> {
    let sample = |i: u32| {
        if (i * hertz * 2 / rate).is_multiple_of(2) {
            9000i16
        } else {
            -9000
        }
    };
    let frame = |i: u32| std::iter::repeat_n(sample(i).to_le_bytes(), channels.into());
    (0..rate).flat_map(frame).flatten().collect()
}

/// Returns unusual audio files: valid ones, with "good" in their names, and invalid ones.
fn unusual_audio() -> Vec<BadFile> {
    let floats = |value: f32| value.to_le_bytes().repeat(16_000);
    let table = [
        (
            "good-192kHz",
            wav(1, 1, 192_000, 16, &tone(192_000, 1, 200)),
        ),
        (
            "good-16-channels",
            wav(1, 16, 48_000, 16, &tone(48_000, 16, 200)),
        ),
        (
            "good-192kHz-16-channels",
            wav(1, 16, 192_000, 16, &tone(192_000, 16, 200)),
        ),
        ("good-8000Hz", wav(1, 1, 8000, 16, &tone(8000, 1, 200))),
        ("1Hz", wav(1, 1, 1, 16, &[7; 2000])),
        ("4GHz", wav(1, 1, u32::MAX, 16, &tone(16_000, 1, 200))),
        ("0Hz", wav(1, 1, 0, 16, &tone(16_000, 1, 200))),
        ("0-channels", wav(1, 0, 16_000, 16, &tone(16_000, 1, 200))),
        (
            "65535-channels",
            wav(1, u16::MAX, 16_000, 16, &tone(16_000, 1, 200)),
        ),
        ("nan", wav(3, 1, 16_000, 32, &floats(f32::NAN))),
        ("infinity", wav(3, 1, 16_000, 32, &floats(f32::INFINITY))),
        ("loudest", wav(3, 1, 16_000, 32, &floats(f32::MAX))),
        ("one-sample", wav(1, 1, 16_000, 16, &[1, 2])),
        ("no-sample", wav(1, 1, 16_000, 16, &[])),
        ("0-bits", wav(1, 1, 16_000, 0, &tone(16_000, 1, 200))),
    ];
    let clip = |(name, bytes)| BadFile {
        name: format!("sound-{name}.wav"),
        kind: Kind::Clip,
        bytes,
    };
    table.into_iter().map(clip).collect()
}

/// Returns images at the limits of what is allowed, and beyond them.
fn unusual_images() -> Vec<BadFile> {
    let mut all = Vec::new();
    let mut add = |name: &str, extension: &str, bytes: Vec<u8>| {
        all.push(BadFile {
            name: format!("picture-{name}.{extension}"),
            kind: Kind::Image,
            bytes,
        });
    };
    for (extension, format) in [
        ("png", ImageFormat::Png),
        ("jpg", ImageFormat::Jpeg),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
        ("webp", ImageFormat::WebP),
    ] {
        add(
            "good-1x1",
            extension,
            encoded(DynamicImage::new_rgb8(1, 1), format),
        );
        add(
            "1x5000",
            extension,
            encoded(DynamicImage::new_rgb8(1, 5000), format),
        );
    }
    for (extension, format) in [
        ("png", ImageFormat::Png),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
    ] {
        // The header says 256 million pixels, and few bytes follow.
        let mut small = encoded(DynamicImage::new_rgb8(2, 2), format);
        match extension {
            "png" => {
                small[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
                let sum = crc32(&small[12..29]).to_be_bytes();
                small[29..33].copy_from_slice(&sum);
            }
            "gif" => small[6..10].copy_from_slice(&[0, 0x40, 0, 0x40]),
            _ => {
                small[18..22].copy_from_slice(&[0, 0x40, 0, 0]);
                small[22..26].copy_from_slice(&[0, 0x40, 0, 0]);
            }
        }
        add("16384x16384", extension, small);
    }
    all
}

/// Returns a valid image of 16384 x 16384 pixels in a small file.
pub fn bomb() -> BadFile {
    BadFile {
        name: "picture-bomb.png".to_owned(),
        kind: Kind::Image,
        bytes: encoded(DynamicImage::new_luma8(16_384, 16_384), ImageFormat::Png),
    }
}

/// Encodes an image.
pub fn encoded(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
    if format == ImageFormat::Jpeg {
        // The crate `image` is built without its JPEG codec.
        let rgb = image.into_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        return encode_jpeg(rgb.as_raw(), width, height, PixelFormat::Rgb, 75).unwrap();
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Returns the checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

/// Writes the corpus below a folder.
pub fn write(corpus: &[BadFile], folder: &Path) {
    for bad in corpus {
        let path = folder.join(&bad.name);
        assert!(!path.exists(), "{} twice", bad.name);
        fs::write(path, &bad.bytes).unwrap();
    }
}
