//! The emulator shows the faults that it is there to find: `tests.cu` has kernels with one barrier
//! or one wait left out.

use super::*;
use engine::cuda::Argument;

const THREADS: usize = 128;
const ROUNDS: usize = 4;

fn faulty_kernels() -> Option<&'static HostEmulator> {
    static LOADED: OnceLock<Option<HostEmulator>> = OnceLock::new();
    LOADED.get_or_init(|| load("src/tests.cu")).as_ref()
}

/// Runs one block of a kernel that takes pointers to an input and an output, or to an output alone.
fn run(
    kernel: &'static str,
    input: Option<&[f32]>,
    output: usize,
    shared: usize,
) -> Result<Vec<f32>> {
    let mut out = vec![-1.0f32; output];
    let pointers = input.map(|numbers| numbers.as_ptr() as u64);
    let arguments: Vec<Argument> = pointers
        .into_iter()
        .chain([out.as_mut_ptr() as u64])
        .map(Argument::new)
        .collect();
    let emulator = faulty_kernels().unwrap();
    emulator.launch(
        kernel.into(),
        [1; 3],
        THREADS as u32,
        shared as u32,
        &arguments,
    )?;
    Ok(out)
}

#[test]
fn a_missing_barrier_changes_the_result() {
    if faulty_kernels().is_none() {
        return;
    }
    let want: Vec<f32> = (0..THREADS)
        .map(|i| {
            (0..ROUNDS)
                .map(|round| ((i + 32) % THREADS + round) as f32)
                .sum()
        })
        .collect();
    let run = |kernel| run(kernel, None, THREADS, THREADS * 4).unwrap();
    assert_eq!(run("pass_on_right"), want);
    for faulty in ["pass_on_reads_early", "pass_on_writes_early"] {
        let got = run(faulty);
        assert!(got != want, "{faulty} is not found");
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&run(faulty)), bits(&got), "{faulty} does not repeat");
    }
}

#[test]
fn a_missing_wait_for_a_copy_changes_the_result() {
    if faulty_kernels().is_none() {
        return;
    }
    let input: Vec<f32> = (0..THREADS * ROUNDS * 4).map(|i| i as f32).collect();
    let want: Vec<f32> = (0..ROUNDS)
        .flat_map(|round| (0..THREADS).map(move |i| round * THREADS + (i + 32) % THREADS))
        .flat_map(|quad| (0..4).map(move |i| (quad * 4 + i) as f32))
        .collect();
    let run = |kernel| run(kernel, Some(&input), input.len(), 2 * THREADS * 16).unwrap();
    assert!(run("copy_on_right") == want);
    for faulty in [
        "copy_on_does_not_wait",
        "copy_on_reads_early",
        "copy_on_reuses_early",
    ] {
        assert!(run(faulty) != want, "{faulty} is not found");
    }
    assert_eq!(run("copy_nothing")[..THREADS * 4], [0.0; THREADS * 4]);
}

#[test]
fn faults_in_shared_memory_are_found() {
    if faulty_kernels().is_none() {
        return;
    }
    let run = |kernel| run(kernel, None, THREADS, THREADS * 4);
    assert!(run("read_unwritten").unwrap().iter().all(|x| x.is_nan()));
    for (kernel, fault) in [
        ("write_beyond", "writes beyond its shared memory"),
        ("wait_apart", "has threads that wait at different barriers"),
    ] {
        let message = run(kernel).unwrap_err().to_string();
        assert!(message.contains(&format!("{kernel} {fault}")), "{message}");
    }
}
