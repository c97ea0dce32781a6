//! The encoders' layers on candle tensors, with backward passes written by hand.
//!
//! No graph is recorded here: an operation takes tensors and gives tensors, and its backward is a
//! function beside it that returns gradients of the input and of the adapters. Those of weights and
//! norms are functions of their own, called in full fine-tuning only. (candle's fused layer norm and softmax give
//! no gradient, without an error, and its product forms the gradient of a frozen weight too: the test
//! `candles_layers_do_not_serve_frozen_encoders` shows both.)
//!
//! Token matrices are packed: `n x d`, sequence after sequence, see [`Rows`].
//!
//! On the CPU a layer is a function of [`crate::kernels`]; on a GPU [`gpu`] launches kernels of
//! `train/engine/cuda`, which a build without CUDA leaves out.

use crate::kernels::lora::{self, LoraGrad, Start};
use crate::kernels::norm;
use crate::kernels::shared::zeros;
use crate::kernels::{Activation, Dropout, Mat, Real, activation, attention, product};
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};
use std::ops::Deref;

pub use crate::kernels::lora::Rows;

pub mod gpu;

/// Returns the body's value where the tensor is on a device with kernels of its own.
macro_rules! on_device {
    ($t:expr, $gpu:ident => $body:expr) => {
        if let Some($gpu) = gpu::of($t)? {
            return $body;
        }
    };
}

/// A contiguous tensor in host memory, readable as a slice.
struct Slice<G, T> {
    storage: G,
    range: (usize, usize),
    _type: std::marker::PhantomData<T>,
}

impl<G: Deref<Target = Storage>, T: Real> Deref for Slice<G, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(cpu) => &cpu_slice::<T>(cpu)[self.range.0..self.range.1],
            // `slice` lets host tensors through only.
            _ => unreachable!("checked when the slice was made"),
        }
    }
}

fn cpu_slice<T: Real>(storage: &CpuStorage) -> &[T] {
    // `slice` has compared the types.
    storage
        .as_slice::<T>()
        .expect("type checked when the slice was made")
}

fn slice<T: Real>(t: &Tensor) -> Result<Slice<impl Deref<Target = Storage> + '_, T>> {
    let (storage, layout): (_, &Layout) = t.storage_and_layout();
    let Some(range) = layout.contiguous_offsets() else {
        bail!("a kernel was given a tensor that is not contiguous: {layout:?}")
    };
    match &*storage {
        Storage::Cpu(cpu) => drop(cpu.as_slice::<T>()?),
        _ => bail!("a CPU kernel was given a tensor on another device"),
    }
    Ok(Slice {
        storage,
        range,
        _type: std::marker::PhantomData,
    })
}

/// Runs a body with `$T` bound to the tensor's number type.
macro_rules! typed {
    ($t:expr, $T:ident => $body:expr) => {
        match ($t.device(), $t.dtype()) {
            (Device::Cpu, DType::F32) => {
                type $T = f32;
                $body
            }
            (Device::Cpu, DType::F64) => {
                type $T = f64;
                $body
            }
            (device, dtype) => bail!("no kernel for {dtype:?} on {:?}", device.location()),
        }
    };
}

fn tensor<T: Real>(values: Vec<T>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Scale and shift of a layer normalisation, each `d`, and its epsilon.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Scale.
    pub weight: Tensor,
    /// Shift.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// Mean and reciprocal standard deviation per row.
#[derive(Clone)]
pub enum NormStats {
    /// Single precision.
    F32(norm::RowStats<f32>),
    /// Double precision.
    F64(norm::RowStats<f64>),
    /// On a device: `n x 2`, f32.
    Device(Tensor),
}

trait StatsOf: Real {
    fn wrap_stats(stats: norm::RowStats<Self>) -> NormStats;
    fn stats_of(stats: &NormStats) -> Result<&norm::RowStats<Self>>;
}

impl StatsOf for f32 {
    fn wrap_stats(stats: norm::RowStats<f32>) -> NormStats {
        NormStats::F32(stats)
    }
    fn stats_of(stats: &NormStats) -> Result<&norm::RowStats<f32>> {
        match stats {
            NormStats::F32(s) => Ok(s),
            _ => bail!("statistics of another precision or device"),
        }
    }
}

impl StatsOf for f64 {
    fn wrap_stats(stats: norm::RowStats<f64>) -> NormStats {
        NormStats::F64(stats)
    }
    fn stats_of(stats: &NormStats) -> Result<&norm::RowStats<f64>> {
        match stats {
            NormStats::F64(s) => Ok(s),
            _ => bail!("statistics of another precision or device"),
        }
    }
}

impl Norm {
    /// Normalises each row of `x` (`n x d`).
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, NormStats)> {
        on_device!(x, gpu => gpu.norm(self, x, None).map(|(y, s)| (y, NormStats::Device(s))));
        typed!(x, T => {
            let (y, stats) = norm::layer_norm::<T>(&slice(x)?, &slice(&self.weight)?, &slice(&self.bias)?, self.eps);
            Ok((tensor(y, x.dims())?, T::wrap_stats(stats)))
        })
    }

    /// The output of [`Norm::forward`] again: cheaper than keeping it.
    pub fn again(&self, x: &Tensor, stats: &NormStats) -> Result<Tensor> {
        on_device!(x, gpu => Ok(gpu.norm(self, x, Some(gpu::stats_of(stats)?))?.0));
        typed!(x, T => {
            let y = norm::layer_norm_again::<T>(&slice(x)?, &slice(&self.weight)?, &slice(&self.bias)?, T::stats_of(stats)?);
            tensor(y, x.dims())
        })
    }

    /// `plus` + the gradient of the input, given that of the output.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
        plus: Option<&Tensor>,
    ) -> Result<Tensor> {
        on_device!(x, gpu => gpu.norm_backward(self, dy, x, gpu::stats_of(stats)?, plus));
        typed!(x, T => {
            let mut dx: Vec<T> = match plus {
                Some(t) => activation::copied::<T>(&slice(t)?),
                None => zeros(x.elem_count()),
            };
            norm::layer_norm_backward::<T>(&slice(dy)?, &slice(x)?, &slice(&self.weight)?, T::stats_of(stats)?, &mut dx);
            tensor(dx, x.dims())
        })
    }
}

impl Norm {
    /// Gradients of scale and shift, given that of the output.
    pub fn weight_gradient(
        &self,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
    ) -> Result<[Tensor; 2]> {
        let d = self.weight.elem_count();
        on_device!(x, _gpu => norm_weight_gradient(dy, x, gpu::stats_of(stats)?));
        typed!(x, T => {
            let (scale, shift) = norm::layer_norm_weights::<T>(&slice(dy)?, &slice(x)?, d, T::stats_of(stats)?);
            Ok([tensor(scale, d)?, tensor(shift, d)?])
        })
    }
}

/// The two factors of a low-rank adapter: `a` is `rank x in`, `b` is `out x rank`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Projects down.
    pub a: Tensor,
    /// Projects up.
    pub b: Tensor,
}

/// A frozen linear layer, `weight` is `out x in`; several layers that read the same input may be
/// stacked into one (query, key, value).
#[derive(Clone, Debug)]
pub struct Linear {
    /// `out x in`.
    pub weight: Tensor,
    /// `out`.
    pub bias: Tensor,
}

/// Adapters on a [`Linear`]: adapter `i` covers the `i`-th of equal slices of the output.
pub struct Adapters<'a> {
    /// One per stacked layer.
    pub parts: &'a [&'a Adapter],
    /// `alpha / rank`.
    pub scale: f64,
    /// Dropout of each part's input, with a stream of its own each; empty for none.
    pub dropout: Vec<Dropout>,
}

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
            let (y, u, _) = gpu.linear(self, x, rows, adapters, gpu::After::default())?;
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
            let after = gpu::After { dropout: drop, plus: Some(plus), activation: None };
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
            let after = gpu::After { activation: Some(f), ..gpu::After::default() };
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

/// What attention's backward needs beside its inputs and output.
pub enum AttentionSaved {
    /// Single precision.
    F32(attention::Saved<f32>),
    /// Double precision.
    F64(attention::Saved<f64>),
    /// On a device: the logarithm of each softmax's denominator, `heads x n`, f32.
    Device(Tensor),
}

trait SavedOf: Real {
    fn wrap_saved(saved: attention::Saved<Self>) -> AttentionSaved;
    fn saved_of(saved: &AttentionSaved) -> Result<&attention::Saved<Self>>;
}

impl SavedOf for f32 {
    fn wrap_saved(saved: attention::Saved<f32>) -> AttentionSaved {
        AttentionSaved::F32(saved)
    }
    fn saved_of(saved: &AttentionSaved) -> Result<&attention::Saved<f32>> {
        match saved {
            AttentionSaved::F32(s) => Ok(s),
            _ => bail!("attention state of another precision or device"),
        }
    }
}

impl SavedOf for f64 {
    fn wrap_saved(saved: attention::Saved<f64>) -> AttentionSaved {
        AttentionSaved::F64(saved)
    }
    fn saved_of(saved: &AttentionSaved) -> Result<&attention::Saved<f64>> {
        match saved {
            AttentionSaved::F64(s) => Ok(s),
            _ => bail!("attention state of another precision or device"),
        }
    }
}

/// Multi-head self-attention; `qkv` is `n x 3d`, the result `n x d`.
pub fn attention_forward(
    qkv: &Tensor,
    heads: usize,
    rows: &Rows,
    dropout: Option<&Dropout>,
) -> Result<(Tensor, AttentionSaved)> {
    on_device!(qkv, gpu => gpu.attention_forward(qkv, heads, rows, dropout));
    let d = qkv.dim(1)? / 3;
    typed!(qkv, T => {
        let (out, saved) = attention::forward::<T>(&slice(qkv)?, d, heads, rows, dropout);
        Ok((tensor(out, (rows.len(), d))?, T::wrap_saved(saved)))
    })
}

/// The gradient of `qkv`, given the output and its gradient.
pub fn attention_backward(
    qkv: &Tensor,
    heads: usize,
    rows: &Rows,
    dropout: Option<&Dropout>,
    out: &Tensor,
    saved: &AttentionSaved,
    d_out: &Tensor,
) -> Result<Tensor> {
    on_device!(qkv, gpu => gpu.attention_backward(qkv, heads, rows, dropout, out, gpu::saved_of(saved)?, d_out));
    let d = qkv.dim(1)? / 3;
    typed!(qkv, T => {
        let grad = attention::backward::<T>(&slice(qkv)?, d, heads, rows, dropout, &slice(out)?, T::saved_of(saved)?, &slice(d_out)?);
        tensor(grad, (rows.len(), 3 * d))
    })
}

/// `f(z)` for every element.
pub fn activate(f: Activation, z: &Tensor) -> Result<Tensor> {
    on_device!(z, gpu => gpu.activate(f, z));
    typed!(z, T => tensor(f.forward::<T>(&slice(z)?), z.dims()))
}

/// `dy f'(z)` for every element.
pub fn activate_backward(f: Activation, z: &Tensor, dy: &Tensor) -> Result<Tensor> {
    on_device!(z, gpu => gpu.activate_backward(f, z, dy));
    typed!(z, T => tensor(f.backward::<T>(&slice(z)?, &slice(dy)?), z.dims()))
}

/// The sum of two tensors of one shape, on this crate's threads: candle's own keeps a second pool
/// of spinning threads busy.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    on_device!(a, _gpu => a + b);
    typed!(a, T => {
        tensor(activation::sum::<T>(&slice(a)?, &slice(b)?), a.dims())
    })
}

/// Dropout of a token matrix; its own backward, applied to the gradient.
pub fn dropout(x: &Tensor, dropout: Option<&Dropout>, rows: &Rows) -> Result<Tensor> {
    let Some(dropout) = dropout else {
        return Ok(x.clone());
    };
    on_device!(x, gpu => gpu.dropout(x, dropout, rows));
    let d = x.dim(1)?;
    typed!(x, T => {
        let mut y = activation::copied::<T>(&slice(x)?);
        dropout.apply::<T>(&mut y, d, rows);
        tensor(y, x.dims())
    })
}

/// Gradients of a normalisation's scale and shift on a device, in candle's own operations: full
/// fine-tuning alone asks for them.
fn norm_weight_gradient(dy: &Tensor, x: &Tensor, stats: &Tensor) -> Result<[Tensor; 2]> {
    let (dy, x) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    let (mean, rstd) = (stats.narrow(1, 0, 1)?, stats.narrow(1, 1, 1)?);
    let h = x.broadcast_sub(&mean)?.broadcast_mul(&rstd)?;
    Ok([(&dy * h)?.sum(0)?, dy.sum(0)?])
}
