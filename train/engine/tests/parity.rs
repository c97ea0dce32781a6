//! Compares every layer with the GPU's kernels, run by the host emulator, with the CPU's own
//! kernels.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::{DType, Device, Tensor};
use engine::layers::dropout;
use engine::parity::{layer_cases, max_relative_error, noise, rows};
use engine::{Attention, Precision};
use host_emulator::emulate;

#[test]
fn gpu_layers_equal_cpu_layers() {
    for case in layer_cases().unwrap() {
        let want = case.run(&Device::Cpu, DType::F32).unwrap();
        for (dtype, limit) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
            let Some(got) = emulate(|| case.run(&Device::Cpu, dtype).unwrap()) else {
                return;
            };
            assert_eq!(got.len(), want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let worst = max_relative_error(got, want).unwrap();
                assert!(
                    worst < limit,
                    "{} in {dtype:?}, result {i}: {worst:e}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn gpu_dropout_draws_the_same_mask() {
    let x = Tensor::ones((135, 72), DType::F32, &Device::Cpu).unwrap();
    let layer = |x: &Tensor| dropout(x, Some(&engine::parity::DROPOUT), &rows()).unwrap();
    if let Some(got) = emulate(|| layer(&x)) {
        assert_eq!(max_relative_error(&got, &layer(&x)).unwrap(), 0.0);
    }
}

/// A head size or a kernel that does not exist is an error.
#[test]
fn sizes_without_a_kernel_are_refused() {
    let qkv = noise(1, (135, 3 * 48)).unwrap();
    let rows = rows();
    let attention = Attention {
        heads: 2,
        rows: &rows,
        dropout: None,
        precision: Precision::F32,
    };
    let refused = || attention.forward(&qkv).err().unwrap().to_string();
    if let Some(message) = emulate(refused) {
        assert!(
            message.contains("heads of [16, 32, 64] numbers, not 24"),
            "{message}"
        );
    }
    if let Some(launcher) = host_emulator::launcher() {
        let message = launcher
            .launch("nothing", [1; 3], 32, 0, &[])
            .unwrap_err()
            .to_string();
        assert!(message.contains("no kernel nothing"), "{message}");
    }
}
