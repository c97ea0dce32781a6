//! Audio at other rates than 16 kHz, from a stereo file to the mel values in the shard, compared
//! with torchaudio on the same samples (golden values of `tests/golden/audio.py`).

#![allow(clippy::unwrap_used)]

mod common;

use std::f64::consts::PI;
use std::fs;
use std::path::Path;

use common::{describe_dataset, ingest, rows, run};

const SECONDS: usize = 3;
/// Every eighth frame has golden values. The constant has the same name in the script.
const STEP: usize = 8;
const BINS: usize = 128;
/// Number of bins below 6 kHz, which torchaudio's default filter leaves unchanged.
const LOW: usize = 104;

/// Returns the samples of the script as a 16-bit WAV file.
fn wav(rate: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut data = Vec::new();
    for i in 0..SECONDS * rate {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = f64::from(state) / 2f64.powi(31) - 1.0;
        let t = i as f64 / rate as f64;
        let left = 0.3 * (2.0 * PI * (50.0 * t + 1200.0 * t * t)).sin() + 0.1 * noise;
        let right = 0.2 * (2.0 * PI * 440.0 * t).sin() + 0.1 * (2.0 * PI * 880.0 * t).sin();
        for value in [left, right] {
            data.extend(((value * 32767.0 + 0.5).floor() as i16).to_le_bytes());
        }
    }
    let mut out = Vec::from(*b"RIFF");
    out.extend((36 + data.len() as u32).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0");
    out.extend((rate as u32).to_le_bytes());
    out.extend((rate as u32 * 4).to_le_bytes());
    out.extend(b"\x04\0\x10\0data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// Returns the mean and the largest difference over some of the bins of all frames.
fn difference(ours: &[f32], theirs: &[f32], bins: std::ops::Range<usize>) -> (f32, f32) {
    let frames = ours.chunks_exact(BINS).step_by(STEP);
    let pairs = frames.zip(theirs.chunks_exact(BINS)).flat_map(|(a, b)| {
        let (a, b) = (&a[bins.clone()], &b[bins.clone()]);
        a.iter().zip(b).map(|(a, b)| (a - b).abs())
    });
    let (count, sum, most) = pairs.fold((0, 0.0, 0.0f32), |(count, sum, most), x| {
        (count + 1, sum + x, most.max(x))
    });
    (sum / count as f32, most)
}

#[test]
fn mel_of_44_and_48_khz_stereo_matches_torchaudio() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("shards");
    let rates = [44_100, 48_000];
    for rate in rates {
        fs::write(folder.path().join(format!("{rate}.wav")), wav(rate)).unwrap();
    }
    let toml = describe_dataset(
        folder.path(),
        folder.path(),
        &[
            ("44100", "train", "44100.wav"),
            ("48000", "train", "48000.wav"),
        ],
    );
    run(ingest().arg("run").arg(toml).arg("--out").arg(&out));
    let rows = rows(&out);
    for rate in rates {
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/audio_{rate}.f32"));
        let stored: Vec<f32> = fs::read(golden)
            .unwrap()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let (ideal, usual) = stored.split_at(stored.len() / 2);
        let ours = rows[&rate.to_string()].mel.as_ref().unwrap();
        assert_eq!(
            ours.len().div_ceil(BINS).div_ceil(STEP),
            ideal.len() / BINS,
            "{rate}"
        );
        for (name, theirs, bins, mean_allowed, most_allowed) in [
            ("near-ideal filter, all bins", ideal, 0..BINS, 3e-3, 1.5),
            ("near-ideal filter, below 6 kHz", ideal, 0..LOW, 8e-5, 0.035),
            (
                "torchaudio's default, below 6 kHz",
                usual,
                0..LOW,
                4e-3,
                0.2,
            ),
        ] {
            let (mean, most) = difference(ours, theirs, bins);
            println!("measured: {rate} Hz, {name}: mean {mean:.1e}, largest {most:.1e}");
            assert!(
                mean <= mean_allowed && most <= most_allowed,
                "{rate} Hz, {name}: mean {mean}, largest {most}"
            );
        }
    }
}
