//! The bytes that a shard stores for fixed input. A change of them is a change of the format:
//! shards written before and after must not be in one folder, so `SCHEMA_VERSION`, which a resumed
//! ingest compares, has to be raised with it.
#![allow(clippy::unwrap_used)]

use features::image::{JPEG_QUALITY, Rgb, shrink_to_jpeg};
use features::mel::SAMPLE_RATE;
use features::{MelFrontEnd, SCHEMA_VERSION};
use sha2::{Digest, Sha256};

/// The SHA-256 of the frame, of the same frame where its shorter side is below that of shards, and
/// of the spectrogram below, for each schema version. The second is not known of version 1. A
/// published row never changes.
const VERSIONS: [(u32, &str, &str, &str); 3] = [
    (
        1,
        "b419e3ea3216172d941414fccedb5d4811e94c7073f128c159add029bbf3191e",
        "",
        "70e91e963beb36b8476445587a7586ead98045bddb503316ad78fd16b0044e16",
    ),
    (
        2,
        "59cab7354d38a059e0348cc26b335f9cf0a5f3ad2baa1a4795f24bbc21cab45d",
        "22364ac01aa3587dd5beb7553cdc938e00317254be89e8659cf883ee1303f459",
        "70e91e963beb36b8476445587a7586ead98045bddb503316ad78fd16b0044e16",
    ),
    (
        3,
        "59cab7354d38a059e0348cc26b335f9cf0a5f3ad2baa1a4795f24bbc21cab45d",
        "59cab7354d38a059e0348cc26b335f9cf0a5f3ad2baa1a4795f24bbc21cab45d",
        "70e91e963beb36b8476445587a7586ead98045bddb503316ad78fd16b0044e16",
    ),
];

/// Returns pseudo-random integers from -128 to 127, the same on every machine.
fn noise() -> impl Iterator<Item = i32> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as i32 - 128
    })
}

/// Returns the JPEG file that shards of this shorter side hold of 99 x 53 pixels, no multiple of a
/// block: ramps, hard edges and noise.
fn frame(shorter: usize) -> Vec<u8> {
    let (width, height) = (99, 53);
    let mut noise = noise();
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let edge = if (x / 16 + y / 16) % 2 == 0 { 60 } else { 0 };
            for ramp in [x, 2 * y, x + y] {
                let value = ramp as i32 + edge + noise.next().unwrap() / 8;
                pixels.push(value.clamp(0, 255) as u8);
            }
        }
    }
    let image = Rgb {
        width,
        height,
        pixels,
    };
    shrink_to_jpeg(&image, shorter, JPEG_QUALITY).unwrap()
}

/// Returns the spectrogram of one second of a falling tone and fading noise, as little-endian f32.
fn spectrogram() -> Vec<u8> {
    let mut noise = noise();
    let mut phase = 0i32;
    let samples: Vec<f32> = (0..SAMPLE_RATE as i32)
        .map(|i| {
            // A triangle wave of integers, since a sine differs between machines.
            phase = (phase + 8_000 - i / 4) % 65_536;
            let tone = (phase - 32_768).abs() - 16_384;
            let rest = noise.next().unwrap() * (SAMPLE_RATE as i32 - i) / 256;
            (tone + rest) as f32 / 65_536.0
        })
        .collect();
    let mel = MelFrontEnd::default().compute(&samples);
    mel.values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn stored_bytes_change_only_with_the_schema_version() {
    let [whole, small] = [53, 64].map(|shorter| sha256(&frame(shorter)));
    let spectrogram = sha256(&spectrogram());
    let now = (SCHEMA_VERSION, &*whole, &*small, &*spectrogram);
    assert_eq!(
        VERSIONS.last(),
        Some(&now),
        "the bytes of a shard's frame or spectrogram have changed, or the version has without them. Shards of both kinds \
         must not be mixed: raise SCHEMA_VERSION in features/src/schema.rs by one and add the row on the right to \
         VERSIONS in this file; change the last row only if its version has never been merged"
    );
    for (versions, number) in VERSIONS.windows(2).zip(1..) {
        let [before, after] = [versions[0], versions[1]];
        assert_eq!((before.0, after.0), (number, number + 1));
        let bytes = |row: (u32, &'static str, &'static str, &'static str)| (row.1, row.2, row.3);
        assert_ne!(bytes(before), bytes(after));
    }
}
