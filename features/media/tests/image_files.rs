//! Image files as people have them, compared with Pillow by the values that `jpeg.py` and
//! `orientation.py` of `tests/golden` computed: every kind of JPEG, every place of an orientation
//! tag, files that lack their end, and files of another kind.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use media::Error;
use media::image::{JPEG_QUALITY, Rgb, decode, foreign, orientation, shrink_to_jpeg};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn json(name: &str) -> serde_json::Map<String, Value> {
    let text = std::fs::read(golden().join(name)).unwrap();
    serde_json::from_slice::<Value>(&text)
        .unwrap()
        .as_object()
        .unwrap()
        .clone()
}

fn file(path: &str) -> Vec<u8> {
    std::fs::read(golden().join(path)).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_jpeg_decodes_to_the_bytes_of_pillow() {
    let values = json("jpeg.json");
    assert_eq!(
        values.len(),
        std::fs::read_dir(golden().join("jpeg")).unwrap().count()
    );
    for (name, expected) in values {
        let image = decode(&file(&format!("jpeg/{name}.jpg"))).unwrap();
        let hash = sha256(&image.pixels);
        let found = serde_json::json!([image.width, image.height, hash]);
        assert_eq!(found, expected, "{name}");
    }
}

/// Pillow cannot read these either.
#[test]
fn jpeg_of_other_precision_is_refused_with_its_reason() {
    let mut jpeg = file("jpeg/420.jpg");
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    // Only an extended file (SOF1) may have 12 bits.
    jpeg[frame + 1] = 0xC1;
    jpeg[frame + 4] = 12;
    let error = decode(&jpeg).unwrap_err().to_string();
    assert!(
        error.ends_with("it has 12 bits per sample; convert it to one of 8"),
        "{error}"
    );
    for bits in [16, 2] {
        jpeg[frame + 4] = bits;
        let error = decode(&jpeg).unwrap_err().to_string();
        assert!(error.contains(&format!("precision {bits}")), "{error}");
    }
}

#[test]
fn orientation_is_found_where_pillow_finds_it() {
    let tags = json("orientation.json");
    assert_eq!(
        tags.len(),
        std::fs::read_dir(golden().join("orientation"))
            .unwrap()
            .count()
    );
    for (name, tag) in tags {
        let bytes = file(&format!("orientation/{name}"));
        assert_eq!(
            u64::from(orientation(&bytes)),
            tag.as_u64().unwrap(),
            "{name}"
        );
        decode(&bytes).unwrap();
        for cut in 0..bytes.len() {
            assert!((1..=8).contains(&orientation(&bytes[..cut])));
        }
    }
    assert_eq!(orientation(b"no image"), 1);
}

/// What Pillow reads of files that were cut at their end: of a PNG all that has the whole image
/// data, of a GIF all but the image data's last block, nothing of the others.
#[test]
fn files_without_their_end_are_read_if_no_pixel_is_missing() {
    for name in [
        "landscape.png",
        "palette_alpha.png",
        "bits.png",
        "deep.png",
        "gray_alpha.png",
    ] {
        let bytes = file(&format!("image/{name}"));
        let whole = decode(&bytes).unwrap();
        // IEND has 12 bytes, and the checksum before it 4.
        for cut in 1..=16 {
            let image = decode(&bytes[..bytes.len() - cut]);
            assert!(
                image.unwrap() == whole,
                "{name} without its last {cut} bytes"
            );
        }
        // A text behind the image data, cut short.
        let data = &bytes[..bytes.len() - 12];
        let text = [data, b"\0\0\0\x40tEXtComment\0hel"].concat();
        assert!(decode(&text).unwrap() == whole, "{name} with a cut text");
        for cut in [60, 200, bytes.len() - 60] {
            let error = decode(&bytes[..bytes.len() - cut]).unwrap_err();
            assert!(matches!(error, Error::Media(_)), "{name}: {error}");
        }
    }
    let gif = file("image/palette.gif");
    let whole = decode(&gif).unwrap();
    for cut in [1, 2] {
        assert!(
            decode(&gif[..gif.len() - cut]).unwrap() == whole,
            "GIF, {cut}"
        );
    }
    for name in [
        "420.jpg",
        "420_progressive.jpg",
        "lossy.webp",
        "lossless.webp",
        "colours.bmp",
    ] {
        let bytes = file(&format!("image/{name}"));
        let whole = decode(&bytes).unwrap();
        for cut in [1, 2, 20, bytes.len() / 2] {
            match decode(&bytes[..bytes.len() - cut]) {
                Err(error) => assert!(matches!(error, Error::Media(_)), "{error}"),
                // The last bytes of a WebP file may be padding.
                Ok(image) => assert!(name.ends_with("webp") && image == whole, "{name}, {cut}"),
            }
        }
    }
}

#[test]
fn files_of_another_kind_are_named_with_a_remedy() {
    let ftyp = |brands: &[u8]| {
        let length = (8 + brands.len() as u32).to_be_bytes();
        [&length[..], b"ftyp", brands, b"\0\0\0\x08mdat"].concat()
    };
    let cases: [(Vec<u8>, &str); 30] = [
        (
            ftyp(b"avif\0\0\0\0avifmif1miaf"),
            "an AVIF image; convert it to JPEG or PNG",
        ),
        (ftyp(b"mif1\0\0\0\0mif1avifmiaf"), "an AVIF image; convert"),
        (
            ftyp(b"heic\0\0\0\0mif1heic"),
            "a HEIC image; convert it to JPEG or PNG",
        ),
        (ftyp(b"mif1\0\0\0\0mif1heic"), "a HEIC image; convert"),
        (ftyp(b"mif1\0\0\0\0"), "a HEIC image; convert"),
        (
            ftyp(b"isom\0\0\x02\0isomiso2avc1mp41"),
            "an MP4 or MOV video; give the path of the image",
        ),
        (ftyp(b"qt  \0\0\x02\0qt  "), "an MP4 or MOV video"),
        (
            b"\0\0\0\x0CJXL \r\n\x87\n".to_vec(),
            "a JPEG XL image; convert",
        ),
        (
            b"\0\0\0\x0CjP  \r\n\x87\n".to_vec(),
            "a JPEG 2000 image; convert",
        ),
        (
            b"II*\0\x08\0\0\0".to_vec(),
            "a TIFF image or a raw photo; convert",
        ),
        (
            b"MM\0*\0\0\0\x08".to_vec(),
            "a TIFF image or a raw photo; convert",
        ),
        (b"8BPS\0\x01".to_vec(), "a Photoshop file; convert"),
        (
            b"P6\n2 2\n255\n............".to_vec(),
            "a PBM, PGM or PPM image; convert",
        ),
        (
            b"%PDF-1.7\n%\xE2\xE3".to_vec(),
            "a PDF document; save its page as JPEG or PNG",
        ),
        (
            b"\x1A\x45\xDF\xA3\x93".to_vec(),
            "a Matroska or WebM video; give the path",
        ),
        (
            b"RIFF\0\0\0\0AVI LIST".to_vec(),
            "an AVI video; give the path",
        ),
        (
            b"RIFF\0\0\0\0WAVEfmt ".to_vec(),
            "a WAV file; give the path",
        ),
        (b"ID3\x03\0".to_vec(), "an audio file; give the path"),
        (b"PK\x03\x04".to_vec(), "a compressed archive; unpack it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n".to_vec(),
            "a Git LFS pointer; run git lfs pull",
        ),
        (
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(),
            "an SVG drawing; convert",
        ),
        (
            b"\xEF\xBB\xBF<?xml version=\"1.0\"?>\n<svg/>".to_vec(),
            "an SVG drawing; convert",
        ),
        (
            b"\n <!DOCTYPE html>\n<html><svg".to_vec(),
            "a web page; fetch the image again",
        ),
        (
            b"\n <!DOCTYPE html>\n<html>".to_vec(),
            "a web page; fetch the image again",
        ),
        (
            b"<HTML><HEAD><TITLE>404</TITLE>".to_vec(),
            "a web page; fetch",
        ),
        (
            b"<?xml version=\"1.0\"?><Error><Code>AccessDenied".to_vec(),
            "an XML text",
        ),
        (
            b"{\"error\": \"not found\"}".to_vec(),
            "a JSON text; fetch the image again",
        ),
        (b"Not Found\n".to_vec(), "a text; fetch the image again"),
        (
            "Zugriff verweigert für die Datei".as_bytes().to_vec(),
            "a text; fetch",
        ),
        (
            vec![0; 3000],
            "a file of zeros, as an interrupted copy leaves it; fetch",
        ),
    ];
    let read = "not a JPEG, PNG, GIF, WEBP or BMP image";
    for (bytes, expected) in cases {
        let error = decode(&bytes).unwrap_err();
        let expected = format!("{read} but {expected}");
        assert!(
            error.to_string().starts_with(&expected),
            "{error}\nexpected: {expected}"
        );
        assert!(matches!(error, Error::Media(_)));
        assert_eq!(foreign(&bytes), Some(error.to_string()));
    }
    for name in [
        "image/420.jpg",
        "image/tiny.png",
        "image/palette.gif",
        "image/lossy.webp",
    ] {
        assert_eq!(foreign(&file(name)[..64]), None);
    }
    assert_eq!(decode(b"\x01\x02\xFE\xFF").unwrap_err().to_string(), read);
    assert_eq!(decode(b"").unwrap_err().to_string(), "the image is empty");
}

/// Banners and photos that Pillow reads, up to its own limit.
#[test]
fn long_and_large_images_are_read_and_stored() {
    for (width, height, expected) in [
        (6000, 90, (6000, 90)),
        (90, 6000, (90, 6000)),
        (20_000, 300, (17_066, 256)),
        (40_000, 2, (40_000, 2)),
    ] {
        let pixels = vec![200; width * height * 3];
        let file = shrink_to_jpeg(
            &Rgb {
                width,
                height,
                pixels,
            },
            256,
            JPEG_QUALITY,
        )
        .unwrap();
        let stored = decode(&file).unwrap();
        assert_eq!((stored.width, stored.height), expected);
    }
    let (width, height) = (12_000, 9_000);
    let pixels = vec![100; width * height * 3];
    let large = Rgb {
        width,
        height,
        pixels,
    };
    let file = shrink_to_jpeg(&large, height, 50).unwrap();
    drop(large);
    let image = decode(&file).unwrap();
    assert_eq!((image.width, image.height), (width, height));
}
