//! Compares images with Pillow and Hugging Face's `CLIPImageProcessor`, by the values that
//! `tests/golden/image.py` computed.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use media::Error;
use media::image::{
    Augmentation, CLIP_MEAN, CLIP_STD, CROP_AREA, CROP_ASPECT, FRAME_SHORTER_SIDE, ImageTransform,
    JPEG_QUALITY, MAX_SIDE, PixelFormat, Rgb, View, decode, encode_jpeg, evaluation_view,
    shrink_to_jpeg, training_view, view_of_file,
};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use util::rng::Rng;
use util::skip::shared;

/// The side of the golden views; `SIZE` in the script.
const SIZE: usize = 32;
/// The shorter side of the golden shrunk image; `SHRUNK` in the script.
const SHRUNK: usize = 48;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn golden_image(name: &str) -> Rgb {
    decode(&std::fs::read(golden().join("image").join(name)).unwrap()).unwrap()
}

/// Returns a view's values before normalization, in 0..=255.
fn levels(view: &[f32]) -> Vec<f32> {
    let plane = view.len() / 3;
    let level = |(i, v): (usize, &f32)| (v * CLIP_STD[i / plane] + CLIP_MEAN[i / plane]) * 255.0;
    view.iter().enumerate().map(level).collect()
}

/// Returns the mean and the largest absolute difference in levels of 255.
fn difference(ours: &[f32], theirs: &[u8]) -> (f32, f32) {
    assert_eq!(ours.len(), theirs.len());
    let off = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (a - f32::from(*b)).abs());
    let (sum, most) = off.fold((0.0, 0.0f32), |(sum, most), x| (sum + x, most.max(x)));
    (sum / ours.len() as f32, most)
}

fn view(image: &Rgb) -> Vec<f32> {
    let mut out = Vec::new();
    evaluation_view(image, &ImageTransform::clip(SIZE), &mut out).unwrap();
    out
}

#[test]
fn views_of_every_format_equal_clip_image_processor() {
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    let mut names: Vec<_> = values
        .names()
        .into_iter()
        .filter_map(|name| name.strip_prefix("view."))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names.len(),
        std::fs::read_dir(golden().join("image")).unwrap().count()
    );
    for name in names {
        let theirs = values.tensor(&format!("view.{name}")).unwrap();
        let (mean, most) = difference(&levels(&view(&golden_image(name))), theirs.data());
        println!("{name}: mean {mean:.4}, largest {most:.2} levels");
        // Five bits become eight by rounding here and by cutting in Pillow.
        let allowed = match name {
            "555.bmp" | "565.bmp" => 2.5,
            _ => 1e-4,
        };
        assert!(
            mean < allowed / 3.0 && most < allowed,
            "{name}: mean {mean}, largest {most} levels"
        );
    }
}

#[test]
fn views_of_photos_equal_clip_image_processor() {
    let Some(folder) = shared("media/images") else {
        return;
    };
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    let names = values.names();
    let photos: Vec<_> = names
        .iter()
        .filter_map(|name| name.strip_prefix("photo."))
        .collect();
    assert_eq!(photos.len(), 5);
    for name in photos {
        let theirs = values.tensor(&format!("photo.{name}")).unwrap();
        let photo = decode(&std::fs::read(folder.join(name)).unwrap()).unwrap();
        let (mean, most) = difference(&levels(&view(&photo)), theirs.data());
        println!("{name}: mean {mean:.4}, largest {most:.2} levels");
        assert!(
            mean < 1e-5 && most < 1e-4,
            "{name}: mean {mean}, largest {most} levels"
        );
    }
}

fn hashes() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden().join("image.json")).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Subsampled, progressive, gray, RGB, CMYK and YCCK files, with and without restart markers, and
/// photos.
#[test]
fn jpeg_decodes_to_the_bytes_of_pillow() {
    let hashes = hashes();
    let mut folders = vec![("sha256", golden().join("image"), 15)];
    if let Some(photos) = shared("media/images") {
        folders.push(("photos_sha256", photos, 5));
    }
    for (key, folder, count) in folders {
        let hashes = hashes[key].as_object().unwrap();
        assert_eq!(hashes.len(), count);
        for (name, theirs) in hashes {
            let image = decode(&std::fs::read(folder.join(name)).unwrap()).unwrap();
            assert_eq!(&sha256(&image.pixels), theirs, "{name}");
        }
    }
}

#[test]
fn jpeg_encodes_to_the_file_of_pillow() {
    let image = golden_image("square.png");
    let stored = shrink_to_jpeg(&image, SIZE, JPEG_QUALITY).unwrap();
    assert_eq!(sha256(&stored), hashes()["stored_sha256"]);
    let format = PixelFormat::Rgb;
    let [width, height] = [image.width, image.height];
    assert_eq!(
        encode_jpeg(&image.pixels, width, height, format, JPEG_QUALITY).unwrap(),
        stored
    );
    for (pixels, width, quality) in [
        (&image.pixels[..], 0, 95),
        (&image.pixels[1..], width, 95),
        (&image.pixels[..], width, 0),
        (&image.pixels[..], width, 101),
    ] {
        let result = encode_jpeg(pixels, width, height, format, quality);
        assert!(matches!(result, Err(Error::Invalid(_))));
    }
    let result = encode_jpeg(&[0; 3], MAX_SIDE + 1, 1, format, 95);
    assert!(matches!(result, Err(Error::Limit(_))));
}

#[test]
fn normalization_equals_clip_image_processor() {
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    let theirs = values.tensor("pixels").unwrap();
    let theirs = theirs
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let ours = view(&golden_image("square.png"));
    let off = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    println!("largest difference {off:e}");
    assert!(ours.len() == 3 * SIZE * SIZE && off < 1e-6, "{off}");
}

/// Returns an augmentation whose crop of an image is (left, top, right, bottom), given as shares of
/// its sides.
fn augmentation(image: &Rgb, [left, top, right, bottom]: [f64; 4], flip: bool) -> Augmentation {
    let (w, h) = (right - left, bottom - top);
    let aspect = w * image.width as f64 / (h * image.height as f64);
    let position = |start: f64, length: f64| {
        if length < 1.0 {
            start / (1.0 - length)
        } else {
            0.0
        }
    };
    Augmentation {
        shapes: [(w * h * (1.0 - 1e-12), aspect); 10],
        position: (position(left, w), position(top, h)),
        flip,
    }
}

#[test]
fn crops_and_flips_equal_pillow() {
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    let image = golden_image("landscape.png");
    for (n, area) in [[0.1, 0.2, 0.85, 0.9], [0.0, 0.0, 1.0, 0.75]]
        .into_iter()
        .enumerate()
    {
        let mut ours = Vec::new();
        training_view(
            &image,
            &ImageTransform::clip(SIZE),
            &augmentation(&image, area, n == 1),
            &mut ours,
        )
        .unwrap();
        let theirs = values.tensor(&format!("crop.{n}")).unwrap();
        let (mean, most) = difference(&levels(&ours), theirs.data());
        println!("crop {n}: mean {mean:.4}, largest {most:.2} levels");
        assert!(most < 1e-4, "crop {n}: mean {mean}, largest {most} levels");
    }
}

#[test]
fn shrunk_jpeg_is_close_to_pillow_resize() {
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    let theirs = values.tensor("shrunk").unwrap();
    let image = golden_image("landscape.png");
    let ours = decode(&shrink_to_jpeg(&image, SHRUNK, JPEG_QUALITY).unwrap()).unwrap();
    assert_eq!(theirs.shape(), [ours.height, ours.width, 3]);
    let ours: Vec<f32> = ours.pixels.iter().map(|v| f32::from(*v)).collect();
    let (mean, most) = difference(&ours, theirs.data());
    println!("mean {mean:.4}, largest {most:.2} levels");
    // Quality 95 on noise and hard edges.
    assert!(
        mean < 2.0 && most < 20.0,
        "mean {mean}, largest {most} levels"
    );
    // Never enlarged; the longer side is rounded down.
    for (width, height, expected) in [
        (91, 57, (91, 57)),
        (1, 100, (1, 100)),
        (257, 2000, (256, 1992)),
        (300, 1000, (256, 853)),
        (256, 256, (256, 256)),
    ] {
        let image = Rgb {
            width,
            height,
            pixels: vec![77; width * height * 3],
        };
        let stored = shrink_to_jpeg(&image, FRAME_SHORTER_SIDE, JPEG_QUALITY).unwrap();
        let stored = decode(&stored).unwrap();
        assert_eq!((stored.width, stored.height), expected);
        assert!(stored.pixels.iter().all(|v| v.abs_diff(77) <= 1));
    }
}

#[test]
fn random_crops_stay_inside_and_in_range() {
    let (mut flips, mut small, mut left) = (0, 0, 0.0);
    let draws = 4000;
    for i in 0..draws {
        let drawn = Augmentation::draw(&mut Rng::new(1, &[i]));
        assert_eq!(drawn, Augmentation::draw(&mut Rng::new(1, &[i])));
        for (width, height) in [(455, 256), (256, 455), (256, 256), (2000, 256), (256, 3000)] {
            let [x, y, w, h] = drawn.crop(width, height);
            let (width, height) = (width as f64, height as f64);
            assert!(x >= 0.0 && y >= 0.0 && x + w <= width + 1e-9 && y + h <= height + 1e-9);
            let (share, aspect) = (w * h / width / height, w / h);
            assert!(aspect > CROP_ASPECT.0 - 1e-9 && aspect < CROP_ASPECT.1 + 1e-9);
            if width.max(height) < 1.5 * width.min(height) {
                assert!(share > CROP_AREA.0 - 1e-9 && share <= CROP_AREA.1);
                small += usize::from(share < 0.75);
                left += x / (width - w);
            }
        }
        flips += usize::from(drawn.flip);
    }
    let n = f64::from(draws);
    let (flips, small, left) = (flips as f64 / n, small as f64 / n, left / n);
    println!("flips {flips:.3}, below 3/4 of the area {small:.3}, mean place {left:.3}");
    assert!((flips - 0.5).abs() < 0.03 && (left - 0.5).abs() < 0.03);
    // Large shares fit less often, so more than half are small.
    assert!((0.5..0.75).contains(&small));

    // Frames of one clip are cropped alike, whatever their size.
    let drawn = Augmentation::draw(&mut Rng::new(1, &[7]));
    let (a, b) = (drawn.crop(320, 180), drawn.crop(640, 360));
    assert!(a.iter().zip(b).all(|(a, b)| (2.0 * a - b).abs() < 1e-9));

    // Every drawn crop can be resized.
    let image = golden_image("strip.png");
    let mut out = Vec::new();
    for i in 0..200 {
        let drawn = Augmentation::draw(&mut Rng::new(2, &[i]));
        out.clear();
        training_view(&image, &ImageTransform::clip(SIZE), &drawn, &mut out).unwrap();
        assert!(out.len() == 3 * SIZE * SIZE && out.iter().all(|v| v.is_finite()));
    }
}

/// A shard holds a small image in its own size, so its views are those that Pillow makes of the
/// JPEG file that it writes of the same image.
#[test]
fn views_of_small_stored_images_equal_clip_image_processor() {
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    for (name, stored) in [
        ("tiny.png", "tiny_rows.jpg"),
        ("strip.png", "strip_rows.jpg"),
        ("dot.png", "dot_rows.jpg"),
    ] {
        let jpeg = shrink_to_jpeg(&golden_image(name), FRAME_SHORTER_SIDE, JPEG_QUALITY).unwrap();
        let theirs = std::fs::read(golden().join("image").join(stored)).unwrap();
        assert!(jpeg == theirs, "{name}");
        let transform = ImageTransform::clip(SIZE);
        let mut ours = Vec::new();
        view_of_file(&jpeg, &transform, View::Evaluation, &mut ours).unwrap();
        let theirs = values.tensor(&format!("view.{stored}")).unwrap();
        let (mean, most) = difference(&levels(&ours), theirs.data());
        assert!(most < 1e-4, "{name}: mean {mean}, largest {most} levels");
        let image = golden_image(stored);
        for i in 0..20 {
            let drawn = Augmentation::draw(&mut Rng::new(4, &[i]));
            let (mut whole, mut part) = (Vec::new(), Vec::new());
            training_view(&image, &ImageTransform::clip(224), &drawn, &mut whole).unwrap();
            let view = View::Training(&drawn);
            view_of_file(&jpeg, &ImageTransform::clip(224), view, &mut part).unwrap();
            assert!(whole == part && part.len() == 3 * 224 * 224, "{name}");
        }
    }
}

#[test]
fn view_of_a_file_equals_view_of_the_decoded_image() {
    let transform = ImageTransform::clip(SIZE);
    for name in ["landscape.png", "strip.png"] {
        let file = shrink_to_jpeg(&golden_image(name), 100, JPEG_QUALITY).unwrap();
        let image = decode(&file).unwrap();
        let (mut whole, mut part) = (Vec::new(), Vec::new());
        evaluation_view(&image, &transform, &mut whole).unwrap();
        view_of_file(&file, &transform, View::Evaluation, &mut part).unwrap();
        for i in 0..40 {
            let drawn = Augmentation::draw(&mut Rng::new(3, &[i]));
            training_view(&image, &transform, &drawn, &mut whole).unwrap();
            view_of_file(&file, &transform, View::Training(&drawn), &mut part).unwrap();
        }
        assert!(whole == part, "{name}");
        // Another kind of file is decoded whole.
        let other = std::fs::read(golden().join("image").join(name)).unwrap();
        whole.clear();
        part.clear();
        evaluation_view(&golden_image(name), &transform, &mut whole).unwrap();
        view_of_file(&other, &transform, View::Evaluation, &mut part).unwrap();
        assert!(whole == part, "{name}");
        let error = view_of_file(
            &file[..file.len() / 3],
            &transform,
            View::Evaluation,
            &mut part,
        );
        assert!(error.is_err(), "{name}");
    }
}

#[test]
fn damaged_files_give_an_error_of_one_line() {
    let one_line = |error: &Error| {
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.is_empty(), "{text:?}");
    };
    let mut names: Vec<_> = std::fs::read_dir(golden().join("image"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort_unstable();
    for path in names {
        let bytes = std::fs::read(&path).unwrap();
        let jpeg = path.extension().unwrap() == "jpg";
        for cut in (0..bytes.len())
            .step_by(if jpeg { 97 } else { 211 })
            .chain([bytes.len() - 1])
        {
            match decode(&bytes[..cut]) {
                Err(error) => one_line(&error),
                Ok(_) => assert!(!jpeg, "{}: {cut} bytes are enough", path.display()),
            }
        }
        let mut rng = Rng::new(3, &[bytes.len() as u32]);
        for _ in 0..30 {
            let mut bytes = bytes.clone();
            for _ in 0..4 {
                let at = rng.below(bytes.len() as u32) as usize;
                bytes[at] = rng.bits() as u8;
            }
            if let Err(error) = decode(&bytes) {
                one_line(&error);
            }
        }
    }
    for bytes in [
        &b""[..],
        b"\0",
        b"<html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
    ] {
        assert!(matches!(decode(bytes), Err(Error::Media(_))));
    }
    let Some(damaged) = shared("media/damaged") else {
        return;
    };
    for name in ["corrupt.jpg", "bad_huffman.jpg"] {
        let error = decode(&std::fs::read(damaged.join(name)).unwrap()).unwrap_err();
        println!("{name}: {error}");
        assert!(matches!(error, Error::Media(_)));
        one_line(&error);
    }
}

#[test]
fn sizes_are_checked_before_pixels_are_decoded() {
    // A PNG with a wrong size in its header is an error anyway, but the error must be the size.
    let png = std::fs::read(golden().join("image/tiny.png")).unwrap();
    let jpeg = std::fs::read(golden().join("image/444.jpg")).unwrap();
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    for (width, height) in [(MAX_SIDE as u32 + 1, 1u32), (16_000, 16_000), (1, 65_535)] {
        let mut png = png.clone();
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let sum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&sum.to_be_bytes());
        assert!(
            matches!(decode(&png), Err(Error::Limit(_))),
            "{:?}",
            decode(&png).map(|p| p.width)
        );
        let mut jpeg = jpeg.clone();
        jpeg[frame + 5..frame + 7].copy_from_slice(&(height as u16).to_be_bytes());
        jpeg[frame + 7..frame + 9].copy_from_slice(&(width as u16).to_be_bytes());
        assert!(
            matches!(decode(&jpeg), Err(Error::Limit(_))),
            "{:?}",
            decode(&jpeg).map(|p| p.width)
        );
    }
}

/// Returns the checksum of PNG chunks (CRC-32), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 {
                sum >> 1 ^ 0xEDB8_8320
            } else {
                sum >> 1
            }
        })
    })
}
