//! Pictures against Pillow and Hugging Face's `CLIPImageProcessor`, from the values that `tests/golden/image.py` made.

use std::path::{Path, PathBuf};

use features::Error;
use features::image::{
    Augmentation, CLIP_MEAN, CLIP_STD, CROP_AREA, CROP_ASPECT, FRAME_SHORTER_SIDE, ImageTransform, JPEG_QUALITY,
    MAX_SIDE, Rgb, decode, shrink_to_jpeg, test_view, train_view,
};
use features::rng::Rng;
use safetensors::SafeTensors;

/// Side of the golden views; `SIZE` in the script.
const SIZE: usize = 32;
/// Shorter side of the golden shrunk picture; `SHRUNK` in the script.
const SHRUNK: usize = 48;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn media() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/media")
}

fn picture(name: &str) -> Rgb {
    decode(&std::fs::read(golden().join("image").join(name)).unwrap()).unwrap()
}

/// The view's values before rescaling, in 0..=255.
fn levels(view: &[f32]) -> Vec<f32> {
    let plane = view.len() / 3;
    let level = |(i, v): (usize, &f32)| (v * CLIP_STD[i / plane] + CLIP_MEAN[i / plane]) * 255.0;
    view.iter().enumerate().map(level).collect()
}

/// (mean, largest) absolute difference in levels of 255.
fn difference(ours: &[f32], theirs: &[u8]) -> (f32, f32) {
    assert_eq!(ours.len(), theirs.len());
    let off = ours.iter().zip(theirs).map(|(a, b)| (a - f32::from(*b)).abs());
    let (sum, most) = off.fold((0.0, 0.0f32), |(sum, most), x| (sum + x, most.max(x)));
    (sum / ours.len() as f32, most)
}

fn viewed(image: &Rgb) -> Vec<f32> {
    let mut out = Vec::new();
    test_view(image, &ImageTransform::clip(SIZE), &mut out).unwrap();
    out
}

#[test]
fn views_of_every_format() {
    let file = std::fs::read(golden().join("image.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&file).unwrap();
    let mut seen = 0;
    for name in values.names().into_iter().filter_map(|name| name.strip_prefix("view.")) {
        let theirs = values.tensor(&format!("view.{name}")).unwrap();
        let (mean, most) = difference(&levels(&viewed(&picture(name))), theirs.data());
        println!("{name}: mean {mean:.4}, largest {most:.2} levels");
        seen += 1;
    }
    assert_eq!(seen, std::fs::read_dir(golden().join("image")).unwrap().count());
}
