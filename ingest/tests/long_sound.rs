//! Clips with more sound than a spectrogram holds.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{describe_dataset, ingest, run};

/// 17 s of sound, silent in its first 13 s, and 12 s of which all are heard: a run says what was
/// used of them.
#[test]
fn a_run_says_which_part_of_a_long_sound_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let tone = |seconds: std::ops::Range<usize>| -> Vec<u8> {
        let sample = |i: usize| {
            if (i / 20).is_multiple_of(2) {
                9000i16
            } else {
                -9000
            }
        };
        let heard = |i: &usize| seconds.contains(&(i / 16_000));
        let samples = (0..seconds.end * 16_000).map(|i| if heard(&i) { sample(i) } else { 0 });
        let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
        let mut wav =
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data"
                .to_vec();
        wav.extend((data.len() as u32).to_le_bytes());
        wav.extend(data);
        wav
    };
    let sounds = [
        ("late.wav", 13..17),
        ("long.wav", 0..12),
        ("short.wav", 0..10),
        ("mute.wav", 4..4),
    ];
    for (name, seconds) in &sounds {
        fs::write(folder.path().join(name), tone(seconds.clone())).unwrap();
    }
    let table = sounds.map(|(name, _)| (name, "train", name));
    let toml = describe_dataset(folder.path(), folder.path(), &table);
    let out = folder.path().join("out");
    let mut command = ingest();
    command.args(["run", "--json", "--max-failures", "100%"]);
    let outcome = run(command.arg(toml).arg("--out").arg(&out));
    let note = "1 clips have more sound than a spectrogram holds: the first 10.24 s are used";
    assert!(outcome.ok().stderr.contains(note), "{}", outcome.stderr);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["manifest"]["failures"]["quarantined"], 2);
    let failures = common::batches(&out.join("failures.parquet"));
    let errors = arrow_array::cast::AsArray::as_string::<i32>(
        failures[0].column_by_name("audio_error").unwrap().as_ref(),
    );
    let errors: Vec<&str> = errors.iter().flatten().collect();
    let late = "silent (the first 10.2 s of 17.0 s are silent, and no more is used)";
    assert_eq!(errors, [late, "silent (all samples are zero)"]);
}
