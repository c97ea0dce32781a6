//! Frozen linear layers with LoRA adapters.

use super::elementwise::{activate, activate_backward, add, dropout};
use super::host::{on_device, slice, tensor, typed};
use super::product::multiply;
use crate::cpu::Real;
use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::cpu::layout::{Columns, Mat};
use crate::cpu::lora::{self as cpu_lora, Epilogue, LoraGradients};
use crate::cpu::matmul::product;
use crate::cuda::{self, Gpu, LinearEpilogue, Lora, PartialSums};
use crate::params::{Adapter, Adapters, Linear};
use crate::rows::Rows;
use candle_core::{DType, Device, Result, Tensor, bail};

/// The gradients of adapters, collected over the layers of a backward pass. A GPU computes them in
/// part where a layer is, and in one launch for all layers at the end.
#[derive(Default)]
pub struct AdapterGradients {
    adapters: Vec<Adapter>,
    /// The sums that fill them.
    sums: Vec<PartialSums>,
}

impl AdapterGradients {
    /// Adds what a GPU has computed in a layer, and returns the gradient of the layer's input.
    pub(super) fn add(
        &mut self,
        (dx, adapters, sums): (Tensor, Vec<Adapter>, [PartialSums; 2]),
    ) -> Tensor {
        self.adapters.extend(adapters);
        self.sums.extend(sums);
        dx
    }

    /// Returns the gradients in the order in which [`Linear::backward`] has added them.
    pub fn finish(self) -> Result<Vec<Adapter>> {
        if let Some(adapter) = self.adapters.first()
            && let Some(gpu) = cuda::of(&adapter.a)?
        {
            gpu.add_sums(&self.sums)?;
        }
        Ok(self.adapters)
    }
}

impl Linear {
    /// Returns `y = x W^T + b + scale dropout(x) A^T B^T` and, if there are adapters,
    /// `u = dropout(x) A^T` (`n x parts*rank`) for the backward pass.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        on_device!(x, gpu => {
            let u = lora_down(gpu, x, rows, adapters)?;
            let lora = lora(adapters, rows, u.as_ref());
            let (y, _) = gpu.linear(self, x, rows, lora, LinearEpilogue::default())?;
            Ok((y, u))
        });
        let (n, d) = x.dims2()?;
        let out = self.weight.dim(0)?;
        typed!(x, T => {
            let (xs, bias) = (slice::<T>(x)?, slice::<T>(&self.bias)?);
            let weight = slice::<T>(&self.weight)?;
            let (input, weight) = (Mat::new(&xs, n, d), Mat::new(&weight, out, d).t());
            let Some(adapters) = adapters else {
                let epilogue = Epilogue::new(&bias, T::of(1.0), &[], &[], n);
                let y = product(input, weight, Some(&epilogue), self.precision);
                return Ok((tensor(y, (n, out))?, None));
            };
            let rank = adapters.parts[0].a.dim(0)?;
            let width = adapters.parts.len() * rank;
            let ups = adapters.parts.iter().map(|part| slice::<T>(&part.b));
            let ups = ups.collect::<Result<Vec<_>>>()?;
            let ups: Vec<&[T]> = ups.iter().map(|b| &**b).collect();
            let mut u: Vec<T> = vec![0.0; n * width];
            for (i, part) in adapters.parts.iter().enumerate() {
                let lora = cpu_lora::Lora {
                    a: &slice(&part.a)?,
                    b: ups[i],
                    scale: T::of(adapters.scale),
                    x: &xs,
                    d,
                    rows,
                    dropout: adapters.dropout.get(i),
                };
                lora.down(&mut u, width, i * rank);
            }
            let epilogue = Epilogue::new(&bias, T::of(adapters.scale), &ups, &u, n);
            let y = product(input, weight, Some(&epilogue), self.precision);
            Ok((tensor(y, (n, out))?, Some(tensor(u, (n, width))?)))
        })
    }

    /// Returns `residual` plus the output of [`Linear::forward`] after dropout, and `u`.
    pub fn forward_residual(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: Option<&Adapters>,
        drop: Option<&Dropout>,
        residual: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        on_device!(x, gpu => {
            let epilogue = LinearEpilogue {
                dropout: drop,
                residual: Some(residual),
                ..LinearEpilogue::default()
            };
            let u = lora_down(gpu, x, rows, adapters)?;
            let (y, _) = gpu.linear(self, x, rows, lora(adapters, rows, u.as_ref()), epilogue)?;
            Ok((y, u))
        });
        let (y, u) = self.forward(x, rows, adapters)?;
        Ok((add(&dropout(&y, drop, rows)?, residual)?, u))
    }

    /// Returns `f(z)` of the output `z` of [`Linear::forward`] without adapters, and `z` itself if
    /// `return_z`.
    pub fn forward_activated(
        &self,
        x: &Tensor,
        rows: &Rows,
        f: Activation,
        return_z: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        on_device!(x, gpu => {
            let epilogue = LinearEpilogue {
                activation: Some(f),
                in_place: !return_z,
                ..LinearEpilogue::default()
            };
            match gpu.linear(self, x, rows, None, epilogue)? {
                (z, Some(y)) => Ok((y, return_z.then_some(z))),
                _ => bail!("a linear layer without the activation that was asked for"),
            }
        });
        let (z, _) = self.forward(x, rows, None)?;
        let y = activate(f, &z)?;
        Ok((y, return_z.then_some(z)))
    }

    /// Returns the gradient `dy f'(z)` of the output `z` of [`Linear::forward`] without adapters,
    /// given that of `f(z)`. `z` is computed again.
    pub fn activation_backward(
        &self,
        x: &Tensor,
        rows: &Rows,
        f: Activation,
        dy: &Tensor,
    ) -> Result<Tensor> {
        on_device!(x, gpu => {
            let z = cuda::product(x, &self.weight.t()?, self.precision)?;
            gpu.activate_backward(f, &z, Some(&self.bias), dy)
        });
        let (z, _) = self.forward(x, rows, None)?;
        activate_backward(f, &z, dy)
    }

    /// Returns the gradient of the input through the frozen weight alone, given that of the output.
    pub fn input_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        on_device!(dy, _gpu => cuda::product(dy, &self.weight, self.precision));
        let (n, out) = dy.dims2()?;
        let d = self.weight.dim(1)?;
        typed!(dy, T => {
            let (dys, weight) = (slice::<T>(dy)?, slice::<T>(&self.weight)?);
            let (dys, weight) = (Mat::new(&dys, n, out), Mat::new(&weight, out, d));
            let dx = product(dys, weight, None, self.precision);
            tensor(dx, (n, d))
        })
    }

    /// Returns the gradient of the input through the frozen weight and the adapters, given that of
    /// the output, and adds the gradients of the adapters to `grads`. `u` is what
    /// [`Linear::forward`] has returned.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        u: Option<&Tensor>,
        rows: &Rows,
        adapters: Option<&Adapters>,
        grads: &mut AdapterGradients,
    ) -> Result<Tensor> {
        let (Some(adapters), Some(u)) = (adapters, u) else {
            return self.input_gradient(dy);
        };
        on_device!(dy, gpu => {
            Ok(grads.add(gpu.linear_backward(self, dy, x, Lora { adapters, rows, u }, None)?))
        });
        let (n, out) = dy.dims2()?;
        let d = self.weight.dim(1)?;
        typed!(dy, T => {
            let (dys, weight) = (slice::<T>(dy)?, slice::<T>(&self.weight)?);
            let (dys_mat, weight) = (Mat::new(&dys, n, out), Mat::new(&weight, out, d));
            let mut dx = product(dys_mat, weight, None, self.precision);
            let (xs, us) = (slice::<T>(x)?, slice::<T>(u)?);
            let parts = adapters.parts.len();
            let rank = adapters.parts[0].a.dim(0)?;
            let width = out / parts;
            for (i, part) in adapters.parts.iter().enumerate() {
                let lora = cpu_lora::Lora {
                    a: &slice(&part.a)?,
                    b: &slice(&part.b)?,
                    scale: T::of(adapters.scale),
                    x: &xs,
                    d,
                    rows,
                    dropout: adapters.dropout.get(i),
                };
                let dy = Columns { data: &dys[..], stride: out, start: i * width };
                let u = Columns { data: &us[..], stride: parts * rank, start: i * rank };
                let LoraGradients { a, b } = lora.backward(dy, u, &mut dx);
                let (a, b) = (tensor(a, (rank, d))?, tensor(b, (width, rank))?);
                grads.adapters.push(Adapter { a, b });
            }
            tensor(dx, (n, d))
        })
    }

    /// Returns the gradients of weight (`dy^T x`) and bias (column sums of `dy`).
    pub fn weight_gradient(&self, dy: &Tensor, x: &Tensor) -> Result<[Tensor; 2]> {
        let ((n, out), d) = (dy.dims2()?, x.dim(1)?);
        on_device!(dy, _gpu => {
            let single = |t: &Tensor| t.to_dtype(DType::F32);
            Ok([single(&cuda::product(&dy.t()?, x, self.precision)?)?, single(dy)?.sum(0)?])
        });
        typed!(dy, T => {
            let (dys, xs) = (slice::<T>(dy)?, slice::<T>(x)?);
            let (dys_t, xs) = (Mat::new(&dys, n, out).t(), Mat::new(&xs, n, d));
            let weight = product(dys_t, xs, None, self.precision);
            let mut bias: Vec<T> = vec![0.0; out];
            for row in dys.chunks_exact(out) {
                bias.iter_mut().zip(row).for_each(|(b, v)| *b += *v);
            }
            Ok([tensor(weight, (out, d))?, tensor(bias, out)?])
        })
    }

    /// Returns the layer with its adapters multiplied into the weight, for evaluation. The sum is
    /// formed in the adapters' number type and stored in the weight's.
    pub fn merged(&self, adapters: &Adapters) -> Result<Linear> {
        let deltas = adapters
            .parts
            .iter()
            .map(|p| multiply(&p.b, &p.a)? * adapters.scale)
            .collect::<Result<Vec<_>>>()?;
        let delta = Tensor::cat(&deltas, 0)?;
        let weight = (self.weight.to_dtype(delta.dtype())? + delta)?;
        Ok(Linear {
            weight: weight.to_dtype(self.weight.dtype())?,
            ..self.clone()
        })
    }
}

/// Returns the low-rank activation of the rows of `x` on a GPU, if there are adapters.
fn lora_down(
    gpu: Gpu,
    x: &Tensor,
    rows: &Rows,
    adapters: Option<&Adapters>,
) -> Result<Option<Tensor>> {
    adapters
        .map(|adapters| gpu.lora_down(x, rows, adapters))
        .transpose()
}

/// Puts adapters and their low-rank activation together, if there are both.
pub(super) fn lora<'a>(
    adapters: Option<&'a Adapters<'a>>,
    rows: &'a Rows,
    u: Option<&'a Tensor>,
) -> Option<Lora<'a>> {
    let (adapters, u) = adapters.zip(u)?;
    Some(Lora { adapters, rows, u })
}
