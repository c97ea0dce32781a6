//! The loss of several classes per sample. Those of one class and of alignment are candle's own.

use anyhow::Result;
use candle_core::Tensor;

/// Mean binary cross-entropy of logits against 0/1 targets of the same shape, stable at any logit:
/// `max(x, 0) - x y + ln(1 + e^-|x|)`.
///
/// candle's `binary_cross_entropy_with_logit` takes the logarithm of a rounded sigmoid, which is infinite or
/// not a number at logits of 200; the test `finite_at_any_logit` shows it.
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let positive = logits.relu()?;
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok(((positive - (logits * targets)?)? + soft)?.mean_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use candle_nn::loss::{binary_cross_entropy_with_logit, cross_entropy, mse};

    fn check(f: impl Fn(&Tensor) -> Tensor, x: &[f64]) {
        let shape = (2, x.len() / 2);
        let var = Var::from_vec(x.to_vec(), shape, &Device::Cpu).unwrap();
        let grads = f(var.as_tensor()).backward().unwrap();
        let got = grads
            .get(&var)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();
        for i in 0..x.len() {
            let at = |delta: f64| {
                let mut x = x.to_vec();
                x[i] += delta;
                f(&Tensor::from_vec(x, shape, &Device::Cpu).unwrap())
                    .to_scalar::<f64>()
                    .unwrap()
            };
            let want = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((want - got[i]).abs() < 1e-8, "{i}: {want} {}", got[i]);
        }
    }

    #[test]
    fn gradients_by_finite_differences() {
        let x = [0.3, -1.2, 2.0, 0.1, 0.7, -0.4];
        let classes = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
        check(|x| cross_entropy(x, &classes).unwrap(), &x);
        let y = Tensor::new(&[[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
        check(|x| binary_cross_entropy(x, &y).unwrap(), &x);
        check(|x| mse(x, &y).unwrap(), &x);
    }

    #[test]
    fn finite_at_any_logit() {
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let finite = |loss: &Tensor, x: &Var| {
            let grads = loss.backward().unwrap();
            let grad = numbers(grads.get(x).unwrap());
            let loss = loss.to_scalar::<f32>().unwrap();
            loss.is_finite() && grad.iter().all(|g| g.is_finite())
        };
        let x = Var::new(&[[-1e4f32, 1e4, 200.0, -200.0]], &Device::Cpu).unwrap();
        for y in [[1f32, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]] {
            let y = Tensor::new(&[y], &Device::Cpu).unwrap();
            assert!(finite(&binary_cross_entropy(&x, &y).unwrap(), &x));
            // The reason for a function of our own.
            let candle = binary_cross_entropy_with_logit(&x, &y).unwrap();
            assert!(!finite(&candle, &x));
        }
        for class in [0u32, 1] {
            let class = Tensor::new(&[class], &Device::Cpu).unwrap();
            assert!(finite(&cross_entropy(&x, &class).unwrap(), &x));
        }
    }
}
