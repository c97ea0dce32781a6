//! Handwritten digits with the same digit spoken, as a user's own dataset of `audio` and `image`,
//! made of the sample in tests/golden/digits. Its script, tests/golden/digits.py, has origin and
//! licences.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tests::workspace;
use util::rng::Rng;

/// Samples of the training split: the first images of the sample.
const TRAIN: usize = 1300;
/// Samples of the test split: the last images.
pub const TEST: usize = 400;
/// Voices of the training split; the test split has others.
const TRAIN_VOICES: [&str; 8] = [
    "train-0", "train-1", "train-2", "train-3", "train-4", "train-5", "train-6", "train-7",
];
const TEST_VOICES: [&str; 2] = ["test-0", "test-1"];
/// The seed of voices, speeds, loudness, pauses and noise.
const SEED: u64 = 1;

/// Pixels of a side of an image of the sample, and of the image file that shows it.
const SIDE: usize = 8;
const FILE_SIDE: usize = 32;
/// Samples per second of the sounds.
const RATE: u32 = 8000;
/// Samples in which a voice says one digit, silence at their end included.
const SLOT: usize = 3000;
/// Samples of a sound file.
const SOUND: usize = 5200;
/// The largest standard deviation of the noise in a sound.
const SOUND_NOISE: f64 = 0.08;
/// The share of pixels that are replaced by random ones.
const PIXEL_NOISE: f64 = 0.1;

/// Writes media, `table.csv` and `digits.toml` into a folder. Returns the path of the last.
pub fn write(folder: &Path) -> PathBuf {
    let images = images();
    let voices = [&TRAIN_VOICES[..], &TEST_VOICES].map(|names| {
        let voices = names.iter().map(|name| voice(name));
        voices.collect::<Vec<_>>()
    });
    fs::create_dir(folder.join("media")).unwrap();
    let mut table = "id,label,split,sound,picture\n".to_owned();
    for sample in 0..TRAIN + TEST {
        let is_test = sample >= TRAIN;
        let (split, row) = match is_test {
            false => ("train", sample),
            true => ("test", images.len() - 1 - (sample - TRAIN)),
        };
        let (pixels, digit) = &images[row];
        let mut rng = Rng::new(SEED, &[sample as u32]);
        let voices = &voices[usize::from(is_test)];
        let voice = &voices[rng.below(voices.len() as u32) as usize];
        let sound = sound(&voice[digit * SLOT..(digit + 1) * SLOT], &mut rng);
        let [wav, bmp] = ["wav", "bmp"].map(|extension| format!("media/{sample}.{extension}"));
        fs::write(folder.join(&wav), wav_file(&sound)).unwrap();
        fs::write(folder.join(&bmp), bmp_file(&noisy(pixels, &mut rng))).unwrap();
        table += &format!("{sample},{digit},{split},{wav},{bmp}\n");
    }
    fs::write(folder.join("table.csv"), table).unwrap();
    let description = "name = \"digits\"\ntable = \"table.csv\"\n[columns]\nid = \"id\"\n\
        label = \"label\"\nsplit = \"split\"\naudio = \"sound\"\nimage = \"picture\"\n";
    let path = folder.join("digits.toml");
    fs::write(&path, description).unwrap();
    path
}

fn sample_file(name: &str) -> PathBuf {
    workspace().join("tests/golden/digits").join(name)
}

/// The images, 64 values from 0 to 16 each, and what digits they show.
fn images() -> Vec<(Vec<u8>, usize)> {
    let mut text = String::new();
    let mut decoder = GzDecoder::new(File::open(sample_file("digits.csv.gz")).unwrap());
    decoder.read_to_string(&mut text).unwrap();
    let image = |line: &str| {
        // Whole numbers in the notation of real ones, such as 1.000000000000000000e+00.
        let mut values: Vec<u8> = line
            .split(',')
            .map(|cell| cell.parse::<f64>().unwrap() as u8)
            .collect();
        let digit = usize::from(values.pop().unwrap());
        assert_eq!(values.len(), SIDE * SIDE);
        (values, digit)
    };
    text.lines().map(image).collect()
}

/// The ten digits in one voice, of [`SLOT`] samples each, from -1 to 1.
fn voice(name: &str) -> Vec<f64> {
    let wav = fs::read(sample_file(&format!("{name}.wav"))).unwrap();
    // The data are the last chunk of the file.
    let coded = &wav[wav.len() - 10 * SLOT..];
    coded.iter().map(|&code| from_mu_law(code)).collect()
}

/// Decodes a sample in mu-law (ITU-T G.711): sign, exponent and mantissa of a value that has been
/// shifted by 132, with all bits inverted.
fn from_mu_law(code: u8) -> f64 {
    let bits = i32::from(!code);
    let (exponent, mantissa) = ((bits >> 4) & 7, bits & 15);
    let magnitude = (((mantissa << 3) + 132) << exponent) - 132;
    let sign = if bits & 128 == 0 { 1.0 } else { -1.0 };
    sign * f64::from(magnitude) / 32768.0
}

/// An image of which some pixels are random.
fn noisy(pixels: &[u8], rng: &mut Rng) -> Vec<u8> {
    let pixel = |&pixel: &u8| match rng.uniform() < PIXEL_NOISE {
        true => rng.below(17) as u8,
        false => pixel,
    };
    pixels.iter().map(pixel).collect()
}

/// A word at another speed and loudness, after a pause, in white noise.
fn sound(word: &[f64], rng: &mut Rng) -> Vec<f64> {
    let speed = 0.9 + 0.2 * rng.uniform();
    let start = 400.0 * rng.uniform();
    let gain = 0.25 + 0.25 * rng.uniform();
    let noise = SOUND_NOISE * rng.uniform().sqrt();
    let value = |i: usize| {
        let position = (i as f64 - start) * speed;
        let speech = match position >= 0.0 {
            true => interpolate(word, position),
            false => 0.0,
        };
        gain * speech + noise * rng.normal()
    };
    (0..SOUND).map(value).collect()
}

/// The value between two neighbours; 0 behind the end.
fn interpolate(values: &[f64], position: f64) -> f64 {
    let (before, share) = (position as usize, position.fract());
    match values.get(before..before + 2) {
        Some(pair) => pair[0] * (1.0 - share) + pair[1] * share,
        None => 0.0,
    }
}

/// A WAV file of 16-bit samples.
fn wav_file(samples: &[f64]) -> Vec<u8> {
    let size = 2 * samples.len() as u32;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + size).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    // PCM, mono.
    file.extend([1u16, 1].map(u16::to_le_bytes).concat());
    file.extend([RATE, 2 * RATE].map(u32::to_le_bytes).concat());
    // Bytes and bits of a sample.
    file.extend([2u16, 16].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    for value in samples {
        // The conversion saturates.
        file.extend(((value * 32767.0) as i16).to_le_bytes());
    }
    file
}

/// A BMP file that shows each pixel as a square.
fn bmp_file(pixels: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 54;
    let size = (FILE_SIDE * FILE_SIDE * 3) as u32;
    let mut file = Vec::new();
    file.extend(b"BM");
    file.extend([HEADER + size, 0, HEADER].map(u32::to_le_bytes).concat());
    let side = FILE_SIDE as u32;
    file.extend([40, side, side].map(u32::to_le_bytes).concat());
    // One plane, 24 bits per pixel.
    file.extend([1u16, 24].map(u16::to_le_bytes).concat());
    file.extend([0; 24]);
    let scale = FILE_SIDE / SIDE;
    // The rows of a BMP file go from the lowest to the highest.
    for y in (0..FILE_SIDE).rev() {
        for x in 0..FILE_SIDE {
            let value = pixels[y / scale * SIDE + x / scale];
            file.extend([(u16::from(value) * 255 / 16) as u8; 3]);
        }
    }
    file
}
