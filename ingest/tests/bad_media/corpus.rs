//! Bad media made from good clips: everything that an upload, a disk, a crawler or an attacker may have done to them.

use std::fs;
use std::path::Path;

use features::image::{PixelFormat, encode_jpeg};
use image::{DynamicImage, ImageFormat};
use util::rng::Rng;

/// How a file reaches the program: as a clip with sound and picture, as a picture, or as a page of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    Clip,
    Picture,
    Text,
}

/// One bad file. The name of the file tells what is wrong.
pub struct Bad {
    pub name: String,
    pub what: As,
    pub bytes: Vec<u8>,
}

/// Good files to spoil: (ending, bytes).
pub struct Good {
    pub clips: Vec<(&'static str, Vec<u8>)>,
    pub pictures: Vec<(&'static str, Vec<u8>)>,
}

/// How much of everything.
#[derive(Clone, Copy)]
pub struct Amount {
    /// Places at which each good file is cut.
    pub cuts: usize,
    /// Copies of each good file with some bytes flipped.
    pub flips: usize,
    /// Of the lying headers, every so manieth.
    pub every: usize,
}

/// The whole corpus, the same for the same seed.
pub fn make(good: &Good, amount: Amount, seed: u64) -> Vec<Bad> {
    let mut all = Vec::new();
    for (what, files) in [(As::Clip, &good.clips), (As::Picture, &good.pictures)] {
        for (ending, bytes) in files {
            let mut add = |name: String, bytes: Vec<u8>| {
                all.push(Bad {
                    name: format!("{ending}-{name}.{ending}"),
                    what,
                    bytes,
                });
            };
            for cut in 0..amount.cuts {
                // The first bytes hold the headers: half of the cuts fall there.
                let end = match cut % 2 {
                    0 => bytes.len() * cut / amount.cuts,
                    _ => cut * 13 % bytes.len().min(2000),
                };
                add(format!("cut-{cut}"), bytes[..end].to_vec());
            }
            let mut rng = Rng::new(seed, &[bytes.len() as u32]);
            for flip in 0..amount.flips {
                add(format!("flip-{flip}"), flipped(bytes, &mut rng));
            }
            for (number, (name, lie)) in lies(ending, bytes).into_iter().enumerate() {
                if number % amount.every == 0 {
                    add(name, lie);
                }
            }
        }
    }
    all.extend(foreign(seed));
    all.extend(sounds());
    all.extend(pictures());
    all
}

/// Flips up to 64 bits; every second time all of them near the beginning, where the headers are.
fn flipped(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
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

/// Headers that lie: every field that states a size, a length, a rate, a count or an offset, once huge, once
/// negative, once zero.
fn lies(ending: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut lie = |name: String, at: usize, width: usize| {
        for (word, fill) in [("huge", 0x7f), ("negative", 0xff), ("zero", 0)] {
            let mut copy = bytes.to_vec();
            if let Some(field) = copy.get_mut(at..at + width) {
                field.fill(fill);
                all.push((format!("{name}-{word}"), copy));
            }
        }
    };
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    match ending {
        "mp4" => {
            // Box, and where behind its name a field lies.
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
                    lie(format!("{name}{offset}"), at as usize, 4);
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
                    lie(name.to_owned(), at + name.len() + 1, 8);
                }
            }
            for (name, at, width) in [
                ("data-offset", 5, 4),
                ("tag-size", 14, 3),
                ("tag-time", 17, 4),
            ] {
                lie(name.to_owned(), at, width);
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
                lie(name.to_owned(), at, width);
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
                    lie(name.to_owned(), frame + at, width);
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
                lie(name.to_owned(), at, width);
            }
        }
        "gif" => lie("screen".to_owned(), 6, 4),
        "bmp" => {
            for (name, at) in [
                ("offset", 10),
                ("header", 14),
                ("width", 18),
                ("height", 22),
                ("bits", 28),
                ("colours", 46),
            ] {
                lie(name.to_owned(), at, 4);
            }
        }
        "webp" => {
            for (name, at) in [("riff-size", 4), ("chunk-size", 16), ("size", 21)] {
                lie(name.to_owned(), at, 4);
            }
        }
        _ => {}
    }
    all
}

/// What is no media at all.
fn foreign(seed: u64) -> Vec<Bad> {
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
        for (what, ending) in [
            (As::Clip, "mp4"),
            (As::Clip, "flv"),
            (As::Clip, "wav"),
            (As::Picture, "jpg"),
            (As::Text, "txt"),
        ] {
            all.push(Bad {
                name: format!("{name}.{ending}"),
                what,
                bytes: bytes.to_vec(),
            });
        }
    }
    // Text that is none, or too much of it.
    for (name, bytes) in [
        ("latin1", b"caf\xe9 cr\xe8me".to_vec()),
        ("utf16", b"\xff\xfeh\0i\0".to_vec()),
        ("nul", b"a\0b\x1b[2Jc\r\n\x07".to_vec()),
        ("entities", "&lt;".repeat(100_000).into_bytes()),
        ("five-megabytes", b"word ".repeat(1 << 20)),
        ("deep-json", b"[".repeat(200_000)),
    ] {
        all.push(Bad {
            name: format!("{name}.txt"),
            what: As::Text,
            bytes,
        });
    }
    all
}

/// Playlists of every dialect that name a file outside the raw root, and an address.
pub fn playlists(secret: &Path, address: &str) -> Vec<Bad> {
    let secret = secret.to_str().unwrap();
    let mut all = Vec::new();
    for (kind, target) in [
        ("file", secret.to_owned()),
        ("url", format!("http://{address}/x.mp4")),
    ] {
        let dialects = [
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
        for (dialect, ending, text) in dialects {
            for ending in [ending, "mp4"] {
                all.push(Bad {
                    name: format!("playlist-{dialect}-{kind}.{ending}"),
                    what: As::Clip,
                    bytes: text.clone().into_bytes(),
                });
            }
            all.push(Bad {
                name: format!("playlist-{dialect}-{kind}.jpg"),
                what: As::Picture,
                bytes: text.into_bytes(),
            });
        }
    }
    all
}

/// A WAV file of these parameters.
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

/// One second of a square wave of `hertz`, 16 bits, on every channel.
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

/// Sounds that are odd and good, and odd and bad.
fn sounds() -> Vec<Bad> {
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
    let clip = |(name, bytes)| Bad {
        name: format!("sound-{name}.wav"),
        what: As::Clip,
        bytes,
    };
    table.into_iter().map(clip).collect()
}

/// Pictures at the edge of what is allowed, and beyond.
fn pictures() -> Vec<Bad> {
    let mut all = Vec::new();
    let mut add = |name: &str, ending: &str, bytes: Vec<u8>| {
        all.push(Bad {
            name: format!("picture-{name}.{ending}"),
            what: As::Picture,
            bytes,
        });
    };
    for (ending, format) in [
        ("png", ImageFormat::Png),
        ("jpg", ImageFormat::Jpeg),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
        ("webp", ImageFormat::WebP),
    ] {
        add(
            "good-1x1",
            ending,
            encoded(DynamicImage::new_rgb8(1, 1), format),
        );
        // Its shorter side of 256 would make it 1,280,000 pixels long.
        add(
            "1x5000",
            ending,
            encoded(DynamicImage::new_rgb8(1, 5000), format),
        );
    }
    for (ending, format) in [
        ("png", ImageFormat::Png),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
    ] {
        // 256 million pixels behind few bytes, honestly stated.
        let mut small = encoded(DynamicImage::new_rgb8(2, 2), format);
        match ending {
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
        add("16384x16384", ending, small);
    }
    all
}

/// A real picture of 16384 x 16384 pixels, which compresses to next to nothing.
pub fn bomb() -> Bad {
    Bad {
        name: "picture-bomb.png".to_owned(),
        what: As::Picture,
        bytes: encoded(DynamicImage::new_luma8(16_384, 16_384), ImageFormat::Png),
    }
}

pub fn encoded(picture: DynamicImage, format: ImageFormat) -> Vec<u8> {
    if format == ImageFormat::Jpeg {
        // The crate `image` is built without its JPEG codec.
        let rgb = picture.into_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        return encode_jpeg(rgb.as_raw(), width, height, PixelFormat::Rgb, 75).unwrap();
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// PNG's checksum.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

/// Writes the corpus below a folder.
pub fn write(corpus: &[Bad], folder: &Path) {
    for bad in corpus {
        let path = folder.join(&bad.name);
        assert!(!path.exists(), "{} twice", bad.name);
        fs::write(path, &bad.bytes).unwrap();
    }
}
