//! Frozen linear layers with low-rank adapters.

use super::elementwise::{activate, add, dropout};
use super::host::{on_device, slice, tensor, typed};
use crate::cpu::Real;
use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::cpu::layout::Mat;
use crate::cpu::lora::{self, LoraGrad, Start};
use crate::cpu::matmul::product;
use crate::cuda;
use crate::params::{Adapter, Adapters, Linear};
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};

impl Linear {
    /// `y = x W^T + b + scale dropout(x) A^T B^T`, and `u = dropout(x) A^T` (`n x parts*rank`) for
    /// the backward pass.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        on_device!(x, gpu => {
            let (y, u, _) = gpu.linear(self, x, rows, adapters, cuda::After::default())?;
            Ok((y, u))
        });
        let (n, d) = x.dims2()?;
        let out = self.weight.dim(0)?;
        typed!(x, T => {
            let (xs, weight, bias) = (slice::<T>(x)?, slice::<T>(&self.weight)?, slice::<T>(&self.bias)?);
            let (input, weight) = (Mat::new(&xs, n, d), Mat::new(&weight, out, d).t());
            let Some(adapters) = adapters else {
                let y = product(input, weight, Some(&Start::new(&bias, T::of(1.0), &[], &[], n)));
                return Ok((tensor(y, (n, out))?, None));
            };
            let rank = adapters.parts[0].a.dim(0)?;
            let width = adapters.parts.len() * rank;
            let mut u: Vec<T> = vec![0.0; n * width];
            for (i, part) in adapters.parts.iter().enumerate() {
                lora::down::<T>(&xs, d, &slice(&part.a)?, adapters.dropout.get(i), rows, &mut u, width, i * rank);
            }
            let ups = adapters.parts.iter().map(|part| slice::<T>(&part.b)).collect::<Result<Vec<_>>>()?;
            let ups: Vec<&[T]> = ups.iter().map(|b| &**b).collect();
            let start = Start::new(&bias, T::of(adapters.scale), &ups, &u, n);
            let y = product(input, weight, Some(&start));
            Ok((tensor(y, (n, out))?, Some(tensor(u, (n, width))?)))
        })
    }

    /// `drop([Linear::forward]) + plus`, and `u`.
    pub fn forward_plus(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
        drop: Option<&Dropout>,
        plus: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        on_device!(x, gpu => {
            let after = cuda::After { dropout: drop, plus: Some(plus), activation: None };
            let (y, u, _) = gpu.linear(self, x, rows, adapters, after)?;
            Ok((y, u))
        });
        let (y, u) = self.forward(x, rows, adapters)?;
        Ok((add(&dropout(&y, drop, rows)?, plus)?, u))
    }

    /// [`Linear::forward`] without adapters, and `f` of it.
    pub fn forward_activated(
        &self,
        x: &Tensor,
        rows: &Rows,
        f: Activation,
    ) -> Result<(Tensor, Tensor)> {
        on_device!(x, gpu => {
            let after = cuda::After { activation: Some(f), ..cuda::After::default() };
            match gpu.linear(self, x, rows, None, after)? {
                (z, _, Some(y)) => Ok((z, y)),
                _ => bail!("a linear layer without the activation that was asked for"),
            }
        });
        let (z, _) = self.forward(x, rows, None)?;
        let y = activate(f, &z)?;
        Ok((z, y))
    }

    /// The gradient of the input (through the frozen weight and the adapters) and of the adapters.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        u: Option<&Tensor>,
        rows: &Rows,
        adapters: Option<&Adapters>,
    ) -> Result<(Tensor, Vec<Adapter>)> {
        on_device!(dy, gpu => gpu.linear_backward(self, dy, x, u, rows, adapters));
        let (n, out) = dy.dims2()?;
        let d = self.weight.dim(1)?;
        typed!(dy, T => {
            let (dys, weight) = (slice::<T>(dy)?, slice::<T>(&self.weight)?);
            let mut dx = product(Mat::new(&dys, n, out), Mat::new(&weight, out, d), None);
            let mut grads = Vec::new();
            if let (Some(adapters), Some(u)) = (adapters, u) {
                let (xs, us) = (slice::<T>(x)?, slice::<T>(u)?);
                let parts = adapters.parts.len();
                let rank = adapters.parts[0].a.dim(0)?;
                let width = out / parts;
                for (i, part) in adapters.parts.iter().enumerate() {
                    let (a, b) = (slice::<T>(&part.a)?, slice::<T>(&part.b)?);
                    let LoraGrad { a, b } = lora::backward::<T>(
                        &dys, out, i * width, &xs, d, &us, parts * rank, i * rank,
                        &a, &b, T::of(adapters.scale), adapters.dropout.get(i), rows, &mut dx,
                    );
                    grads.push(Adapter { a: tensor(a, (rank, d))?, b: tensor(b, (width, rank))? });
                }
            }
            Ok((tensor(dx, (n, d))?, grads))
        })
    }

    /// Gradients of weight (`dy^T x`) and bias (column sums of `dy`).
    pub fn weight_gradient(dy: &Tensor, x: &Tensor) -> Result<[Tensor; 2]> {
        let ((n, out), d) = (dy.dims2()?, x.dim(1)?);
        on_device!(dy, _gpu => {
            let single = |t: &Tensor| t.to_dtype(DType::F32);
            Ok([single(&dy.t()?.matmul(x)?)?, single(dy)?.sum(0)?])
        });
        typed!(dy, T => {
            let (dys, xs) = (slice::<T>(dy)?, slice::<T>(x)?);
            let weight = product(Mat::new(&dys, n, out).t(), Mat::new(&xs, n, d), None);
            let mut bias: Vec<T> = vec![0.0; out];
            for row in dys.chunks_exact(out) {
                bias.iter_mut().zip(row).for_each(|(b, v)| *b += *v);
            }
            Ok([tensor(weight, (out, d))?, tensor(bias, out)?])
        })
    }

    /// The layer with its adapters multiplied out into the weight: for evaluation. Added up in the
    /// adapters' number type, kept in the weight's.
    pub fn merged(&self, adapters: &Adapters) -> Result<Linear> {
        let deltas = adapters
            .parts
            .iter()
            .map(|p| p.b.matmul(&p.a)? * adapters.scale)
            .collect::<Result<Vec<_>>>()?;
        let delta = Tensor::cat(&deltas, 0)?;
        let weight = (self.weight.to_dtype(delta.dtype())? + delta)?;
        Ok(Linear {
            weight: weight.to_dtype(self.weight.dtype())?,
            bias: self.bias.clone(),
        })
    }
}
