//! The Python package `u2a_features`: its batches are those of the Rust loader, bit for bit, and it
//! keeps its promises on resuming, ranks, threads, forks and signals (python/tests/test_loader.py).
//!
//! Needs a Python as `tests/python.rs` does, and the compiled module, which
//! `cargo build --workspace --lib` makes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::sync::Arc;

use features::{Batch, Loader, ModalityData, Shards};
use sha2::{Digest, Sha256};
use tests::{CremaD, EXIT_DONE, python_package, run, temp, workspace};
use util::skip::{Missing, skip};

/// The epochs that are compared.
const EPOCHS: u64 = 2;

/// The SHA-256 of a batch of single-label data: ids, labels, availability, rows and bytes of the
/// inputs, as test_loader.py computes it.
fn digest(batch: &Batch) -> String {
    let mut sha = Sha256::new();
    for id in &batch.ids {
        sha.update(id.as_bytes());
        sha.update([0]);
    }
    for labels in &batch.labels {
        sha.update(i64::from(labels[0]).to_le_bytes());
    }
    for (m, input) in batch.inputs.iter().enumerate() {
        for present in &batch.present {
            sha.update([u8::from(present[m])]);
        }
        let Some(input) = input else { continue };
        for row in &input.rows {
            sha.update((*row as i64).to_le_bytes());
        }
        match &input.data {
            ModalityData::Dense { values, .. } => {
                values.iter().for_each(|v| sha.update(v.to_le_bytes()));
            }
            ModalityData::Tokens { ids, .. } => {
                let ids = ids.iter().map(|id| i64::from(*id));
                ids.for_each(|id| sha.update(id.to_le_bytes()));
            }
        }
    }
    sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn python_gets_the_batches_of_rust() {
    let Some(python) = tests::python() else {
        skip(
            Missing::Platform,
            "no Python with tests/golden/requirements.txt: set U2A_PYTHON or run `just test-python`",
        );
        return;
    };
    let data = CremaD::new(48);
    let shards = Arc::new(Shards::open(&data.shards().to_str().unwrap().parse().unwrap()).unwrap());
    let loader = Loader::builder(&shards).augment(true).batch_size(5).seed(3);
    let epoch = |epoch| -> Vec<String> {
        let batches = loader.clone().epoch(epoch).unwrap();
        batches.map(|batch| digest(&batch.unwrap())).collect()
    };
    let digests: Vec<Vec<String>> = (0..EPOCHS).map(epoch).collect();

    let installed = temp();
    python_package(installed.path());
    let mut tests = Command::new(python);
    tests
        .arg(workspace().join("python/tests/test_loader.py"))
        .env("PYTHONPATH", installed.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("U2A_SHARDS", data.shards())
        .env("U2A_DIGESTS", serde_json::to_string(&digests).unwrap());
    run(&mut tests).expect(EXIT_DONE);
}
