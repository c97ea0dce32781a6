//! Measures the log-mel spectrogram of 10 s of audio on one thread, for `tests/bench/bench.py`: for
//! each line of input it does one unit of work and prints one line of JSON.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use media::mel::MelFrontEnd;
use std::io::BufRead;
use std::time::Instant;
use util::rng::Rng;

const REPEAT: usize = 10;
const SECONDS: usize = 10;

fn main() {
    let mut rng = Rng::new(0, &[0]);
    let samples: Vec<f32> = (0..SECONDS * 16_000)
        .map(|_| 0.1 * rng.normal() as f32)
        .collect();
    let mut front_end = MelFrontEnd::new();
    println!("{{\"ready\": true}}");
    for _ in std::io::stdin().lock().lines() {
        let start = Instant::now();
        for _ in 0..REPEAT {
            std::hint::black_box(front_end.compute(std::hint::black_box(&samples)));
        }
        println!(
            "{{\"seconds\": {}, \"items\": {}, \"peak_mb\": 0}}",
            start.elapsed().as_secs_f64(),
            REPEAT * SECONDS
        );
    }
}
