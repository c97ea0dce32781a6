//! The orientation tag of image files, found where Pillow finds it: in the EXIF data of a JPEG, PNG
//! or WebP file, and where those have no such tag, in the XMP data.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::jpeg::Segments;
use super::markers::APP1;
use super::png;

/// The tag of the orientation in a TIFF directory (EXIF 2.3, 4.6.4).
const ORIENTATION: u16 = 0x0112;

/// The name of EXIF data where a container has several kinds of metadata. Some writers put it once
/// more before the data.
const EXIF_NAME: &[u8] = b"Exif\0\0";

/// The name of XMP data in a JPEG file.
const XMP_NAME: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// The most bytes that a compressed text of a PNG file may have.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Returns the orientation tag of an image file, 1 to 8 as in EXIF 2.3. It is 1, upright, if there
/// is none, or none that can be understood.
pub fn orientation(file: &[u8]) -> u8 {
    let metadata = Metadata::of(file);
    let exif = metadata.exif.as_deref().and_then(tiff_orientation);
    let found = exif.or_else(|| metadata.xmp.as_deref().and_then(xmp_orientation));
    found.filter(|tag| (1..=8).contains(tag)).unwrap_or(1) as u8
}

/// What an image file says of its image.
#[derive(Default)]
struct Metadata<'a> {
    /// A TIFF file.
    exif: Option<Cow<'a, [u8]>>,
    /// An XML text.
    xmp: Option<Cow<'a, [u8]>>,
}

impl<'a> Metadata<'a> {
    fn of(file: &'a [u8]) -> Metadata<'a> {
        if file.starts_with(b"\xFF\xD8") {
            Metadata::of_jpeg(file)
        } else if file.starts_with(png::SIGNATURE) {
            Metadata::of_png(file)
        } else if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") {
            Metadata::of_webp(file)
        } else {
            Metadata::default()
        }
    }

    fn of_jpeg(file: &'a [u8]) -> Metadata<'a> {
        let mut metadata = Metadata::default();
        for segment in Segments::of(file).filter(|segment| segment.marker == APP1) {
            let Some(data) = file[segment.range].get(4..) else {
                continue;
            };
            if let (Some(exif), None) = (data.strip_prefix(EXIF_NAME), &metadata.exif) {
                metadata.exif = Some(exif.into());
            } else if let Some(xmp) = data.strip_prefix(XMP_NAME) {
                metadata.xmp = Some(xmp.into());
            }
        }
        metadata
    }

    fn of_png(file: &'a [u8]) -> Metadata<'a> {
        let mut metadata = Metadata::default();
        let mut raw_profile = None;
        for chunk in png::chunks(file) {
            match &chunk.kind {
                b"eXIf" => metadata.exif = Some(chunk.data.into()),
                b"iTXt" => metadata.xmp = png_xmp(chunk.data).or(metadata.xmp),
                b"tEXt" | b"zTXt" => raw_profile = raw_profile.or(png_raw_profile(&chunk)),
                _ => {}
            }
        }
        metadata.exif = metadata.exif.or(raw_profile.map(Cow::Owned));
        metadata
    }

    /// Only an extended file has metadata, and its first chunk has a flag for each kind (WebP
    /// Container Specification, "Extended File Format").
    fn of_webp(file: &'a [u8]) -> Metadata<'a> {
        const EXIF_FLAG: u8 = 8;
        const XMP_FLAG: u8 = 4;
        let mut metadata = Metadata::default();
        let mut rest = &file[12..];
        let mut flags = 0;
        while let Some((head, after)) = rest.split_first_chunk::<8>() {
            let [kind @ .., _, _, _, _] = head;
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let Some((data, after)) = after.split_at_checked(length) else {
                break;
            };
            match kind {
                b"VP8X" => flags = data.first().copied().unwrap_or_default(),
                b"EXIF" if flags & EXIF_FLAG != 0 => metadata.exif = Some(data.into()),
                b"XMP " if flags & XMP_FLAG != 0 => metadata.xmp = Some(data.into()),
                _ => {}
            }
            // Chunks are padded to an even length.
            rest = after.get(length % 2..).unwrap_or_default();
        }
        metadata
    }
}

/// Reads the XMP data of an `iTXt` chunk (PNG, 11.3.3.4): a keyword, a flag and a method of
/// compression, a language, a translated keyword and the text.
fn png_xmp(data: &[u8]) -> Option<Cow<'_, [u8]>> {
    let rest = data.strip_prefix(b"XML:com.adobe.xmp\0")?;
    let (&[compressed, _method], rest) = rest.split_first_chunk()?;
    let mut parts = rest.splitn(3, |&byte| byte == 0);
    let text = parts.nth(2)?;
    match compressed {
        0 => Some(text.into()),
        _ => inflated(text).map(Cow::Owned),
    }
}

/// Reads EXIF data that ImageMagick wrote as a text (`tEXt` or `zTXt`): a line break, a name, a
/// length and hexadecimal digits, each in lines of their own.
fn png_raw_profile(chunk: &png::Chunk) -> Option<Vec<u8>> {
    let rest = chunk.data.strip_prefix(b"Raw profile type exif\0")?;
    let text = match &chunk.kind {
        b"zTXt" => inflated(rest.get(1..)?)?,
        _ => rest.to_vec(),
    };
    let digits: Vec<u8> = text
        .splitn(4, |&byte| byte == b'\n')
        .nth(3)?
        .iter()
        .copied()
        .filter(u8::is_ascii_hexdigit)
        .collect();
    let pairs = digits.as_chunks::<2>().0.iter();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

/// Decompresses a text of a PNG file. `None` if it is damaged or too long.
fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut decoder = ZlibDecoder::new(data).take(MAX_TEXT_BYTES + 1);
    let length = decoder.read_to_end(&mut text).ok()?;
    (length as u64 <= MAX_TEXT_BYTES).then_some(text)
}

/// Reads the orientation in the first directory of a TIFF file (TIFF 6.0, section 2).
fn tiff_orientation(exif: &[u8]) -> Option<u32> {
    let mut tiff = exif;
    for _ in 0..2 {
        tiff = tiff.strip_prefix(EXIF_NAME).unwrap_or(tiff);
    }
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(match little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    };
    let long = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(match little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    // An entry is a tag, a type, a count and a value of four bytes. Of two equal tags Pillow takes
    // the last.
    let places = (0..entries).map(|entry| directory.saturating_add(2 + 12 * entry));
    let tags = places.take_while(|&at| short(at).is_some());
    let at = tags.filter(|&at| short(at) == Some(ORIENTATION)).last()?;
    match short(at.saturating_add(2))? {
        // BYTE, SHORT, LONG.
        1 => tiff.get(at + 8).map(|&value| value.into()),
        3 => short(at + 8).map(u32::from),
        4 => long(at + 8),
        _ => None,
    }
}

/// Finds `tiff:Orientation="N"` or `<tiff:Orientation>N` in XMP data.
fn xmp_orientation(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = xmp;
    loop {
        let at = rest.windows(NAME.len()).position(|name| name == NAME)?;
        rest = &rest[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or(rest.strip_prefix(b">"));
        if let Some(&[digit @ b'0'..=b'9', ..]) = value {
            return Some(u32::from(digit - b'0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TIFF data with one entry.
    fn tiff(little: bool, tag: u16, kind: u16, value: [u8; 4]) -> Vec<u8> {
        let short = |value: u16| match little {
            true => value.to_le_bytes(),
            false => value.to_be_bytes(),
        };
        let long = |value: u32| match little {
            true => value.to_le_bytes(),
            false => value.to_be_bytes(),
        };
        let mut bytes = match little {
            true => b"II*\0".to_vec(),
            false => b"MM\0*".to_vec(),
        };
        bytes.extend(long(8));
        bytes.extend([short(1), short(tag), short(kind)].concat());
        bytes.extend(long(1));
        bytes.extend(value);
        bytes
    }

    #[test]
    fn directories_of_both_byte_orders_and_all_whole_numbers_are_read() {
        let cases = [
            (tiff(false, ORIENTATION, 3, [0, 6, 0, 0]), Some(6)),
            (tiff(true, ORIENTATION, 3, [8, 0, 0, 0]), Some(8)),
            (tiff(true, ORIENTATION, 4, [3, 0, 0, 0]), Some(3)),
            (tiff(false, ORIENTATION, 4, [0, 0, 0, 5]), Some(5)),
            (tiff(false, ORIENTATION, 1, [7, 0, 0, 0]), Some(7)),
            (tiff(false, ORIENTATION, 2, [b'6', 0, 0, 0]), None),
            (tiff(false, 0x0110, 3, [0, 6, 0, 0]), None),
            (b"Exif\0\0Exif\0\0".to_vec(), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(tiff_orientation(&bytes), expected, "{bytes:?}");
            for name in [&b"Exif\0\0"[..], b"Exif\0\0Exif\0\0"] {
                assert_eq!(tiff_orientation(&[name, &bytes].concat()), expected);
            }
            for cut in 0..bytes.len() {
                let found = tiff_orientation(&bytes[..cut]);
                assert!(found.is_none() || found == expected, "{cut} of {bytes:?}");
            }
        }
        let far = [&b"II*\0"[..], &[0xFF; 40]].concat();
        assert_eq!(tiff_orientation(&far), None);
    }

    #[test]
    fn xmp_is_read_as_attribute_and_as_element() {
        let cases: [(&[u8], Option<u32>); 5] = [
            (b"<x tiff:Orientation=\"6\" y>", Some(6)),
            (b"<tiff:Orientation>3</tiff:Orientation>", Some(3)),
            (b"tiff:Orientation='6' tiff:Orientation=\"8\"", Some(8)),
            (b"tiff:Orientation=\"x\"", None),
            (b"", None),
        ];
        for (xmp, expected) in cases {
            assert_eq!(xmp_orientation(xmp), expected);
        }
    }
}
