//! One training step, or one evaluation batch, at full size: one line in, one unit of work, one line of JSON out, for
//! `tests/bench/bench.py`. `step audio-video|image-text train|eval`; two threads.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use candle_core::DType;
use train::compute::Compute;
use train::encoder::Keep;
use train::ops::cases::{AUDIO_VIDEO, IMAGE_TEXT};
use train::selftest::{Task, serve};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |word: &str| arguments.iter().any(|a| a == word);
    let threads = std::env::var("BENCH_THREADS").map_or(2, |n| n.parse().unwrap());
    let compute = Compute::open("cpu", Some(threads)).unwrap();
    let video = asked("audio-video");
    let batch = if video { 4 } else { 8 };
    let task = Task {
        pair: if video { AUDIO_VIDEO } else { IMAGE_TEXT },
        evaluate: asked("eval"),
        batch,
        at_once: batch,
        tiny: false,
        keep: Keep::All,
        steps: 1,
    };
    serve(&task, &compute.device, DType::F32).unwrap();
}
