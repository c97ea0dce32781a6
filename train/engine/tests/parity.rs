//! Compares every layer with the GPU's kernels, run by the host emulator, with the CPU's own
//! kernels.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::{DType, Device, Tensor};
use engine::cuda::trace;
use engine::layers::dropout;
use engine::parity::{LayerCase, attention_cases, layer_cases, max_relative_error, noise, rows};
use engine::{Attention, Linear, Norm, Precision, Rows};
use host_emulator::{emulate, emulate_with_linear_products};

/// Compares the GPU's results in a number type with the CPU's in f32. Returns false if there is no
/// emulator.
fn is_near(case: &LayerCase, dtype: DType, limit: f64) -> bool {
    let want = case.run(&Device::Cpu, DType::F32).unwrap();
    let Some(got) = emulate(|| case.run(&Device::Cpu, dtype).unwrap()) else {
        return false;
    };
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let worst = max_relative_error(got, want).unwrap();
        let name = &case.name;
        assert!(worst < limit, "{name} in {dtype:?}, result {i}: {worst:e}");
    }
    true
}

#[test]
fn gpu_layers_equal_cpu_layers() {
    for case in layer_cases().unwrap() {
        if !is_near(&case, DType::F32, 2e-5) {
            return;
        }
        is_near(&case, DType::BF16, 2e-2);
    }
}

#[test]
fn gpu_attention_equals_cpu_attention_at_all_lengths() {
    for case in attention_cases().unwrap() {
        if !is_near(&case, DType::BF16, 2e-2) {
            return;
        }
    }
}

/// A linear layer as one product with bias and residual, which cuBLASLt computes on a GPU.
#[test]
fn linear_products_equal_cpu_layers() {
    for case in layer_cases().unwrap() {
        if !case.name.contains("with 0 adapters") {
            continue;
        }
        let want = case.run(&Device::Cpu, DType::F32).unwrap();
        for (dtype, limit) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
            let run = || case.run(&Device::Cpu, dtype).unwrap();
            let Some(got) = emulate_with_linear_products(run) else {
                return;
            };
            for (got, want) in got.iter().zip(&want) {
                let worst = max_relative_error(got, want).unwrap();
                assert!(worst < limit, "{} in {dtype:?}: {worst:e}", case.name);
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

/// The table of positions, which dropout's masks depend on, is made on the device.
#[test]
fn positions_of_packed_rows_are_those_of_their_sequences() {
    let rows = Rows::new(vec![0, 1, 1, 601, 605], vec![7, 1, u32::MAX, 0]);
    let on = Tensor::zeros((605, 8), DType::F32, &Device::Cpu).unwrap();
    let found = emulate(|| {
        let gpu = engine::cuda::of(&on).unwrap().unwrap();
        gpu.positions(&rows, &on).unwrap().to_vec2::<u32>().unwrap()
    });
    let Some(found) = found else {
        return;
    };
    assert_eq!(found.len(), 605);
    for (row, found) in found.iter().enumerate() {
        let (sample, position) = rows.locate(row);
        assert_eq!(found[..], [sample, position as u32], "row {row}");
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
            .launch("nothing".into(), [1; 3], 32, 0, &[])
            .unwrap_err()
            .to_string();
        assert!(message.contains("no kernel nothing"), "{message}");
    }
}

/// A trace has a row for each kernel and each shape of a product, with all their launches.
#[test]
fn trace_counts_launches_and_products() {
    let norm = Norm {
        weight: noise(1, (1, 72)).unwrap().flatten_all().unwrap(),
        bias: noise(2, (1, 72)).unwrap().flatten_all().unwrap(),
        eps: 1e-5,
    };
    let linear = Linear {
        weight: noise(3, (24, 72)).unwrap(),
        bias: noise(4, (1, 24)).unwrap().flatten_all().unwrap(),
        precision: Precision::F32,
    };
    let x = noise(5, (135, 72)).unwrap();
    let traced = emulate(|| {
        trace::start();
        let (y, _) = norm.forward(&x).unwrap();
        norm.forward(&y).unwrap();
        linear.forward(&y, &rows(), None).unwrap();
        let traced = trace::finish().unwrap();
        // What follows the trace is not part of it.
        norm.forward(&x).unwrap();
        traced
    });
    let Some(traced) = traced else {
        return;
    };
    assert!(traced.is_sorted_by(|a, b| a.microseconds >= b.microseconds));
    for (name, count) in [("layer_norm_f32", 2), ("product 135 x 72 x 24", 1)] {
        let row = traced.iter().find(|row| row.name == name).unwrap();
        assert!(row.count == count && row.microseconds > 0.0, "{row:?}");
    }
    assert!(trace::finish().is_err());
}
