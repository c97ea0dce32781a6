//! The task losses and the alignment loss, on candle's autograd: the only recorded graph is from
//! the selected tokens to the loss.

use anyhow::Result;
use candle_core::{D, Tensor};

/// Mean cross-entropy of logits (`n x classes`) against class indices (`n`).
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok((log_sum - shifted.gather(&targets, D::Minus1)?)?.mean_all()?)
}

/// Mean binary cross-entropy of logits against 0/1 targets of the same shape, stable at any logit:
/// `max(x, 0) - x y + ln(1 + e^-|x|)`.
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let positive = logits.relu()?;
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok(((positive - (logits * targets)?)? + soft)?.mean_all()?)
}

/// Mean over samples and width of the squared difference; both `n x d`.
pub fn mse(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((a - b)?.sqr()?.mean_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

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
        check(|x| cross_entropy(x, &[2, 0]).unwrap(), &x);
        let y = Tensor::new(&[[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
        check(|x| binary_cross_entropy(x, &y).unwrap(), &x);
        check(|x| mse(x, &y).unwrap(), &x);
    }

    #[test]
    fn finite_at_any_logit() {
        let x = Var::new(&[[-1e4f32, 1e4, 200.0, -200.0]], &Device::Cpu).unwrap();
        for y in [[1f32, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]] {
            let loss =
                binary_cross_entropy(x.as_tensor(), &Tensor::new(&[y], &Device::Cpu).unwrap())
                    .unwrap();
            assert!(loss.to_scalar::<f32>().unwrap().is_finite());
            let grad = loss
                .backward()
                .unwrap()
                .get(&x)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
        }
        assert!(
            cross_entropy(x.as_tensor(), &[0])
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .is_finite()
        );
    }
}
