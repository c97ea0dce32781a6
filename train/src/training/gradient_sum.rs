//! Gradients of data-parallel training.

use super::ranks::Ranks;
use anyhow::Result;
use candle_core::{DType, Tensor};
use model::u2a::U2a;

/// Sums gradients and losses over the ranks, and tells all of them if one is to stop. A rank
/// without a sample adds nothing.
pub fn all_reduce_gradients(
    ranks: &Ranks,
    model: &U2a,
    grads: &mut Vec<Option<Tensor>>,
    losses: Option<Tensor>,
    stop: bool,
) -> Result<(Tensor, bool)> {
    let device = model.device().clone();
    let shapes: Vec<_> = model
        .parameters()
        .iter()
        .map(|p| p.tensor.shape().clone())
        .collect();
    grads.resize_with(shapes.len(), || None);
    let losses = match losses {
        Some(losses) => losses,
        None => Tensor::zeros(3, DType::F32, &device)?,
    };
    let mut flat = vec![losses];
    for (grad, shape) in grads.iter().zip(&shapes) {
        flat.push(match grad {
            Some(grad) => grad.flatten_all()?.to_dtype(DType::F32)?,
            None => Tensor::zeros(shape.elem_count(), DType::F32, &device)?,
        });
    }
    let mut numbers: Vec<f32> = Tensor::cat(&flat, 0)?.to_vec1()?;
    let has_gradient = grads
        .iter()
        .map(|grad| if grad.is_some() { 1.0 } else { 0.0 });
    // A flag for each gradient that exists follows the numbers, and the request to stop.
    let flags = numbers.len();
    numbers.extend(has_gradient);
    numbers.push(if stop { 1.0 } else { 0.0 });
    ranks.all_reduce(&mut numbers);
    let stop = numbers.last().is_some_and(|asked| *asked > 0.0);
    let summed = Tensor::from_slice(&numbers[..flags], flags, &device)?;
    let mut next = 3;
    for (i, (grad, shape)) in grads.iter_mut().zip(&shapes).enumerate() {
        let n = shape.elem_count();
        *grad = match numbers[flags + i] > 0.0 {
            true => Some(summed.narrow(0, next, n)?.reshape(shape)?),
            false => None,
        };
        next += n;
    }
    Ok((summed.narrow(0, 0, 3)?, stop))
}
