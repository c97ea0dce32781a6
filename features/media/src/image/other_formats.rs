//! Names of the files that people have under the names of images: other formats of images, and
//! what a download or a copy leaves in place of one.

/// How a kind of file is known, and what is said of it.
struct Kind {
    /// Whether the beginning of a file is of this kind.
    is: fn(&[u8]) -> bool,
    /// What it is.
    name: &'static str,
    /// What to do about it.
    remedy: &'static str,
}

const CONVERT: &str = "convert it to JPEG or PNG";
const FETCH: &str = "fetch the image again";
const WRONG: &str = "give the path of the image";

/// The kinds, the more special ones first.
const KINDS: &[Kind] = &[
    kind(|head| brand(head, b"avif avis"), "an AVIF image", CONVERT),
    kind(
        |head| brand(head, b"heic heix heim heis hevc hevx mif1 msf1 miaf"),
        "a HEIC image",
        CONVERT,
    ),
    kind(|head| brand(head, b"crx "), "a raw photo", CONVERT),
    kind(
        |head| head.starts_with(b"\xFF\x0A") || head.starts_with(b"\0\0\0\x0CJXL "),
        "a JPEG XL image",
        CONVERT,
    ),
    kind(
        |head| head.starts_with(b"\0\0\0\x0CjP  ") || head.starts_with(b"\xFF\x4F\xFF\x51"),
        "a JPEG 2000 image",
        CONVERT,
    ),
    kind(
        |head| head.starts_with(b"II*\0") || head.starts_with(b"MM\0*"),
        "a TIFF image or a raw photo",
        CONVERT,
    ),
    kind(
        |head| head.starts_with(b"8BPS"),
        "a Photoshop file",
        CONVERT,
    ),
    kind(|head| head.starts_with(b"\0\0\x01\0"), "an icon", CONVERT),
    kind(|head| head.starts_with(b"DDS "), "a DDS texture", CONVERT),
    kind(|head| head.starts_with(b"qoif"), "a QOI image", CONVERT),
    kind(
        |head| matches!(head, [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..]),
        "a PBM, PGM or PPM image",
        CONVERT,
    ),
    kind(
        |head| head.starts_with(b"%PDF"),
        "a PDF document",
        "save its page as JPEG or PNG",
    ),
    kind(
        |head| head.starts_with(b"%!PS") || head.starts_with(b"\xC5\xD0\xD3\xC6"),
        "a PostScript file",
        CONVERT,
    ),
    kind(
        |head| head.get(4..8) == Some(b"ftyp"),
        "an MP4 or MOV video",
        WRONG,
    ),
    kind(
        |head| head.starts_with(b"\x1A\x45\xDF\xA3"),
        "a Matroska or WebM video",
        WRONG,
    ),
    kind(|head| riff(head, b"AVI "), "an AVI video", WRONG),
    kind(|head| riff(head, b"WAVE"), "a WAV file", WRONG),
    kind(
        |head| head.starts_with(b"ID3") || head.starts_with(b"OggS") || head.starts_with(b"fLaC"),
        "an audio file",
        WRONG,
    ),
    kind(
        |head| head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x1F\x8B"),
        "a compressed archive",
        "unpack it",
    ),
    kind(
        |head| head.starts_with(b"version https://git-lfs"),
        "a Git LFS pointer",
        "run git lfs pull",
    ),
    kind(
        |head| {
            let text = text(head).unwrap_or_default();
            let starts = |tag: &&str| text.starts_with(tag);
            ["<!doctype html", "<html", "<head", "<body"]
                .iter()
                .any(starts)
        },
        "a web page",
        FETCH,
    ),
    kind(
        |head| text(head).is_some_and(|text| text.contains("<svg")),
        "an SVG drawing",
        CONVERT,
    ),
    kind(
        |head| {
            text(head).is_some_and(|text| text.starts_with("<?xml") || text.starts_with("<error"))
        },
        "an XML text, as servers answer with in place of a file",
        FETCH,
    ),
    kind(
        |head| text(head).is_some_and(|text| text.starts_with(['{', '['])),
        "a JSON text",
        FETCH,
    ),
    kind(
        |head| head.iter().all(|&byte| byte == 0),
        "a file of zeros, as an interrupted copy leaves it",
        FETCH,
    ),
    kind(|head| text(head).is_some(), "a text", FETCH),
];

const fn kind(is: fn(&[u8]) -> bool, name: &'static str, remedy: &'static str) -> Kind {
    Kind { is, name, remedy }
}

/// The bytes by which a file is known.
const HEAD: usize = 1024;

/// Says what a file is that is no image of a kind that is read, and what to do about it.
pub(super) fn describe(file: &[u8]) -> String {
    const READ: &str = "not a JPEG, PNG, GIF, WEBP or BMP image";
    let head = &file[..file.len().min(HEAD)];
    match KINDS.iter().find(|kind| (kind.is)(head)) {
        Some(kind) => format!("{READ} but {}; {}", kind.name, kind.remedy),
        None => READ.to_owned(),
    }
}

/// Whether a file of the ISO base media format has one of these brands, of four bytes each with a
/// blank between them (ISO/IEC 14496-12, 4.3). It is known by its first brand, or by the first of
/// the compatible ones where that only says that it holds an image.
fn brand(head: &[u8], brands: &[u8]) -> bool {
    let Some((&[l0, l1, l2, l3, b'f', b't', b'y', b'p'], rest)) = head.split_first_chunk() else {
        return false;
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let own = &rest[..rest.len().min(length.saturating_sub(8))];
    let own = own.as_chunks::<4>().0;
    let is_general = |brand: &&[u8; 4]| matches!(*brand, b"mif1" | b"msf1" | b"miaf");
    // A version follows the first brand.
    let special = own.iter().enumerate().filter(|(at, _)| *at != 1);
    let special = special
        .map(|(_, brand)| brand)
        .find(|brand| !is_general(brand));
    let found = match own.first() {
        Some(first) if is_general(&first) => special.unwrap_or(first),
        Some(first) => first,
        None => return false,
    };
    brands.chunks(5).any(|brand| brand[..4] == *found)
}

/// Whether a RIFF file is of this form.
fn riff(head: &[u8], form: &[u8; 4]) -> bool {
    head.starts_with(b"RIFF") && head.get(8..12) == Some(form)
}

/// Returns the beginning of a text in small letters, without the blanks before it.
fn text(head: &[u8]) -> Option<String> {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    (!text.is_empty() && text.chars().all(is_text)).then(|| text.trim_start().to_ascii_lowercase())
}
