//! Measures an epoch of audio-video batches as training loads them, for `tests/bench/bench.py`: for
//! each line of input it does one unit of work and prints one line of JSON. `stream SHARDS`; two
//! threads, batches of 16, shuffled, augmented. Items: samples.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use features::{Loader, ModalityData, Shards};
use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 16;
const THREADS: usize = 2;
/// Three batches of 37 MB: one that each thread decodes and one that waits. With room for one, only
/// one thread would work.
const BYTES: usize = 120 << 20;

fn main() {
    let folder = std::env::args().nth(1).unwrap();
    let shards = Arc::new(Shards::open(&folder.parse().unwrap()).unwrap());
    let loader = Loader::builder(&shards)
        .augment(true)
        .batch_size(BATCH)
        .threads(THREADS)
        .byte_budget(BYTES);
    println!("{{\"ready\": true}}");
    for (epoch, _) in (0..).zip(std::io::stdin().lock().lines()) {
        let start = Instant::now();
        let (mut samples, mut sum) = (0, 0.0);
        let mut loader = loader.clone().epoch(epoch).unwrap();
        while let Some(batch) = loader.next() {
            let batch = batch.unwrap();
            samples += batch.ids.len();
            for input in batch.inputs.iter().flatten() {
                if let ModalityData::Dense { values, .. } = &input.data {
                    sum += values[values.len() / 2];
                }
            }
            loader.reuse(batch.inputs);
        }
        std::hint::black_box(sum);
        println!(
            "{{\"seconds\": {}, \"items\": {samples}, \"peak_mb\": 0}}",
            start.elapsed().as_secs_f64()
        );
    }
}
