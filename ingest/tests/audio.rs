//! Audio at other rates than 16 kHz, from a stereo file to the mel values in the shard, compared
//! with torchaudio on the same samples (golden values of `tests/golden/audio.py`); and every way to
//! store samples in a WAV file, compared with what soundfile reads.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::fs;
use std::path::Path;

use arrow_array::Array;
use common::{batches, describe_dataset, ingest, rows, run};

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

/// How the samples of a file are stored: bytes of the container, valid bits, whether they are
/// floats, and whether the header is WAVE_FORMAT_EXTENSIBLE.
#[derive(Debug, Clone, Copy)]
struct Stored {
    bytes: usize,
    valid: u16,
    float: bool,
    extensible: bool,
}

/// The samples of the file formats' test: a tone of 440 Hz with one of 3 kHz, for a second.
fn tone() -> Vec<f64> {
    let value = |i: usize| {
        let t = i as f64 / 16_000.0;
        0.5 * (2.0 * PI * 440.0 * t).sin() + 0.1 * (2.0 * PI * 3_000.0 * t).sin()
    };
    (0..16_000).map(value).collect()
}

/// Returns the samples rounded to the valid bits, as soundfile 0.14 (libsndfile 1.2.2) reads these
/// files: every one of them, to the bit.
fn read_by_soundfile(stored: Stored) -> Vec<f32> {
    let scale = 2f64.powi(i32::from(stored.valid) - 1);
    let round = |value: f64| match stored.float {
        true => value as f32,
        false => ((value * (scale - 1.0)).round() / scale) as f32,
    };
    tone().into_iter().map(round).collect()
}

/// Returns the contents of the `fmt ` chunk, and the samples.
fn stored(stored: Stored) -> (Vec<u8>, Vec<u8>) {
    let Stored {
        bytes,
        valid,
        float,
        extensible,
    } = stored;
    let mut data = Vec::new();
    for value in tone() {
        let integer = (value * (2f64.powi(i32::from(valid) - 1) - 1.0)).round() as i64;
        // The valid bits are the upper ones.
        let integer = integer << (8 * bytes as u32 - u32::from(valid)).min(40);
        match (float, bytes) {
            (true, 4) => data.extend((value as f32).to_le_bytes()),
            (true, _) => data.extend(value.to_le_bytes()),
            (false, 1) => data.push((integer + 128) as u8),
            (false, _) => data.extend(&integer.to_le_bytes()[..bytes]),
        }
    }
    let tag: u16 = if float { 3 } else { 1 };
    let block = bytes as u32;
    let mut fmt = Vec::new();
    fmt.extend(if extensible { 0xfffeu16 } else { tag }.to_le_bytes());
    fmt.extend(1u16.to_le_bytes());
    fmt.extend(16_000u32.to_le_bytes());
    fmt.extend((16_000 * block).to_le_bytes());
    fmt.extend((block as u16).to_le_bytes());
    if extensible {
        fmt.extend(
            [8 * block as u16, 22, valid, 0, 0, tag]
                .map(u16::to_le_bytes)
                .concat(),
        );
        fmt.extend(b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
    } else {
        fmt.extend(valid.to_le_bytes());
    }
    (fmt, data)
}

/// Returns a WAV file. `size` is what its header says of the samples' bytes.
fn wav_file(fmt: &[u8], data: &[u8], size: u32) -> Vec<u8> {
    let mut file = b"RIFF".to_vec();
    file.extend((28 + fmt.len() as u32).saturating_add(size).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend((fmt.len() as u32).to_le_bytes());
    file.extend(fmt);
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(data);
    file
}

/// Returns a Wave64 file.
fn w64_file(fmt: &[u8], data: &[u8]) -> Vec<u8> {
    const TAIL: &[u8] = b"\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a";
    let chunk = |name: &[u8], contents: &[u8]| {
        let mut chunk = [name, TAIL].concat();
        chunk.extend((24 + contents.len() as u64).to_le_bytes());
        chunk.extend(contents);
        chunk.resize(chunk.len().next_multiple_of(8), 0);
        chunk
    };
    let chunks = [chunk(b"fmt ", fmt), chunk(b"data", data)].concat();
    let mut file = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0".to_vec();
    file.extend((40 + chunks.len() as u64).to_le_bytes());
    file.extend(b"wave");
    file.extend(TAIL);
    file.extend(chunks);
    file
}

/// Ingests files that hold sound, and returns their rows by id.
fn ingest_sounds(folder: &Path, files: &[(String, Vec<u8>)]) -> BTreeMap<String, common::Row> {
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let table: Vec<(&str, &str, &str)> = files
        .iter()
        .map(|(name, _)| (name.as_str(), "train", name.as_str()))
        .collect();
    let toml = describe_dataset(folder, folder, &table);
    let out = folder.join("shards");
    let mut command = ingest();
    command.arg("run").arg(toml).arg("--out").arg(&out);
    run(command.args(["--max-failures", "100%"])).ok();
    rows(&out)
}

#[test]
fn samples_of_every_container_are_read_as_soundfile_reads_them() {
    let formats = [
        (1, 8, false),
        (2, 16, false),
        (2, 12, false),
        (2, 8, false),
        (3, 24, false),
        (3, 20, false),
        (3, 16, false),
        (4, 32, false),
        (4, 24, false),
        (4, 20, false),
        (4, 16, false),
        (4, 32, true),
        (4, 24, true),
        (8, 64, true),
    ];
    let plain = [
        (2, 12, false),
        (3, 20, false),
        (4, 24, false),
        (4, 32, true),
        (8, 64, true),
    ];
    let stores = formats
        .iter()
        .map(|f| (f, true))
        .chain(plain.iter().map(|f| (f, false)));
    let mut files = Vec::new();
    let mut pairs = Vec::new();
    for (&(bytes, valid, float), extensible) in stores {
        let how = Stored {
            bytes,
            valid,
            float,
            extensible,
        };
        let (fmt, data) = stored(how);
        let truth: Vec<u8> = read_by_soundfile(how)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        let plain_float = stored(Stored {
            bytes: 4,
            valid: 32,
            float: true,
            extensible: false,
        })
        .0;
        let name = format!(
            "{}{valid}in{}{}",
            if float { "f" } else { "i" },
            8 * bytes,
            if extensible { "x" } else { "" }
        );
        files.push((
            format!("{name}-truth.wav"),
            wav_file(&plain_float, &truth, truth.len() as u32),
        ));
        files.push((
            format!("{name}.wav"),
            wav_file(&fmt, &data, data.len() as u32),
        ));
        pairs.push((format!("{name}.wav"), format!("{name}-truth.wav")));
        if extensible {
            files.push((format!("{name}.w64"), w64_file(&fmt, &data)));
            pairs.push((format!("{name}.w64"), format!("{name}-truth.wav")));
        }
    }
    // What the header says of the size: unknown in a stream, or more than there is.
    for (valid, size) in [
        (16, 0),
        (16, u32::MAX),
        (16, 0x7fff_f000),
        (24, 0),
        (24, u32::MAX),
    ] {
        let bytes = if valid == 16 { 2 } else { 4 };
        let (fmt, data) = stored(Stored {
            bytes,
            valid,
            float: false,
            extensible: true,
        });
        let name = format!("streamed-{valid}-{size}.wav");
        files.push((name.clone(), wav_file(&fmt, &data, size)));
        pairs.push((name, format!("i{valid}in{}x-truth.wav", 8 * bytes)));
    }
    let folder = tempfile::tempdir().unwrap();
    let rows = ingest_sounds(folder.path(), &files);
    for (name, truth) in pairs {
        let (row, truth) = (&rows[&name], &rows[&truth]);
        let error = row.error.as_deref().unwrap_or_default();
        assert_eq!(row.audio_seconds, Some(1.0), "{name}: {error}");
        assert!(row.mel == truth.mel, "{name} is read differently");
    }
}

/// Floats may exceed full scale a little. What is far beyond is no sound.
#[test]
fn samples_far_beyond_full_scale_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fmt = stored(Stored {
        bytes: 4,
        valid: 32,
        float: true,
        extensible: false,
    })
    .0;
    let file = |name: &str, gain: f64| {
        let data: Vec<u8> = tone()
            .iter()
            .flat_map(|v| ((v * gain) as f32).to_le_bytes())
            .collect();
        (name.to_owned(), wav_file(&fmt, &data, data.len() as u32))
    };
    let files = [
        file("loud", 3.0),
        file("standardised", 60.0),
        file("integers", 32_767.0),
        file("noise", 1e31),
    ];
    let out = ingest_sounds(folder.path(), &files);
    assert_eq!(out.keys().collect::<Vec<_>>(), ["loud", "standardised"]);
    // A gain is a shift of the logarithms.
    let most = |name: &str| {
        let mel = out[name].mel.as_ref().unwrap();
        mel.iter().copied().fold(f32::MIN, f32::max)
    };
    let shift = most("standardised") - most("loud");
    assert!((shift - 2.0 * 20f32.ln()).abs() < 1e-3, "{shift}");
    let failures = common::batches(&folder.path().join("shards/failures.parquet"));
    let text = format!("{failures:?}");
    assert!(
        text.contains("full scale is 1") && text.contains("e30"),
        "{text}"
    );
}

#[test]
fn two_views_of_one_file_both_have_its_sound() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("shards");
    fs::write(folder.path().join("a.wav"), wav(16_000)).unwrap();
    let toml = describe_dataset(folder.path(), folder.path(), &[("a", "train", "a.wav")]);
    let text = fs::read_to_string(&toml).unwrap();
    let two_views = text.replace("video = \"file\"", "audio_a = \"file\"\naudio_b = \"file\"");
    fs::write(&toml, two_views).unwrap();
    run(ingest().arg("run").arg(toml).arg("--out").arg(&out)).ok();
    let shard = &batches(&out.join("train-00000-of-00001.parquet"))[0];
    let [a, b] = ["mel_a", "mel_b"].map(|name| shard.column_by_name(name).unwrap());
    assert_eq!(a, b);
    assert_eq!((a.null_count(), b.null_count()), (0, 0));
}
