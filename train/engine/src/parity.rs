//! Layers with inputs on which a GPU is compared with the CPU: by the tests, which run a GPU's
//! kernels on the host, and by `train selftest`, which runs them on the GPU at hand.

use crate::cuda::{AttentionBlocks, set_attention_blocks};
use crate::layers::{
    AdapterGradients, NormedInput, NormedLinear, activate, activate_backward, dropout, ends,
    ends_backward, last_rows, sum_rows,
};
use crate::{
    Activation, Adapter, Adapters, Attention, Dropout, Linear, Norm, Precision, Rows, normals,
};
use candle_core::{DType, Device, Result, Tensor, bail};

/// A layer with inputs, forward and backward.
pub struct LayerCase {
    /// The name of the layer and of its settings.
    pub name: String,
    inputs: Vec<Tensor>,
    layer: Box<Layer>,
}

/// A function from inputs to all results of a layer, in a fixed order. The layer's parameters are
/// among the inputs or are copied to the device of the first.
type Layer = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;

impl LayerCase {
    fn new(
        name: impl Into<String>,
        inputs: Vec<Tensor>,
        layer: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
    ) -> LayerCase {
        LayerCase {
            name: name.into(),
            inputs,
            layer: Box::new(layer),
        }
    }

    /// Returns the layer's results on a device in a number type, in a fixed order.
    pub fn run(&self, device: &Device, dtype: DType) -> Result<Vec<Tensor>> {
        let inputs = self
            .inputs
            .iter()
            .map(|t| t.to_device(device)?.to_dtype(dtype));
        (self.layer)(&inputs.collect::<Result<Vec<_>>>()?)
    }
}

/// Returns normally distributed numbers, f32, on the CPU.
pub fn noise(seed: u32, shape: (usize, usize)) -> Result<Tensor> {
    let numbers = normals(7, &[seed], 1.0, shape.0 * shape.1);
    Tensor::from_vec(numbers, shape, &Device::Cpu)
}

/// Returns the largest difference, relative to the largest number of `want`, or infinity if there
/// is a NaN.
///
/// # Errors
/// The shapes differ.
pub fn max_relative_error(got: &Tensor, want: &Tensor) -> Result<f64> {
    if got.dims() != want.dims() {
        bail!("shapes {:?} and {:?}", got.dims(), want.dims());
    }
    let numbers = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (got, want) = (numbers(got)?, numbers(want)?);
    let largest = want.iter().fold(1e-12f64, |m, v| m.max(f64::from(v.abs())));
    let pairs = got.iter().zip(&want);
    let worst = pairs.map(|(a, b)| f64::from((a - b).abs()) / largest);
    Ok(worst.fold(
        0.0,
        |m, v| if v.is_nan() { f64::INFINITY } else { m.max(v) },
    ))
}

/// The dropout of all cases.
pub const DROPOUT: Dropout = Dropout {
    rate: 0.2,
    seed: 0x1_2345_6789,
    step: 5,
    module: 12,
};

/// Returns the layout of three sequences: one of several tiles, one of one token, one of a tile's
/// length.
pub fn rows() -> Rows {
    Rows::new(vec![0, 70, 71, 135], vec![3, 0, 9])
}

/// Returns a case for every layer and combination of its settings.
pub fn layer_cases() -> Result<Vec<LayerCase>> {
    let mut cases = vec![norm()?];
    for (parts, rank) in [(0, 1), (1, 2), (3, 1), (3, 16)] {
        for dropped in [false, true] {
            cases.push(normed_linear(parts, rank, dropped)?);
        }
    }
    for f in [Activation::Gelu, Activation::QuickGelu] {
        let inputs = vec![(noise(1, (33, 40))? * 3.0)?, noise(2, (33, 40))?];
        cases.push(LayerCase::new(format!("{f:?}"), inputs, move |t| {
            Ok(vec![
                activate(f, &t[0])?,
                activate_backward(f, &t[0], &t[1])?,
            ])
        }));
    }
    cases.push(LayerCase::new("dropout", vec![noise(1, (135, 72))?], |t| {
        Ok(vec![dropout(&t[0], Some(&DROPOUT), &rows())?])
    }));
    let inputs = vec![noise(1, (135, 72))?, noise(2, (6, 72))?];
    cases.push(LayerCase::new("ends of sequences", inputs, |t| {
        Ok(vec![
            ends(&t[0], &rows())?,
            ends_backward(&t[1], &rows())?,
            last_rows(&t[0], &rows())?,
            sum_rows(&t[0])?,
        ])
    }));
    // Parts, rank, input and output width of a part.
    let sizes = [
        (0, 1, 40, 24),
        (1, 1, 40, 24),
        (3, 1, 40, 24),
        (3, 2, 40, 24),
        (1, 4, 40, 24),
        (3, 16, 8, 8),
        // Wider than the columns that one block of threads adds up.
        (3, 1, 776, 264),
    ];
    for (parts, rank, d, width) in sizes {
        for dropped in [false, true] {
            cases.push(linear((parts, rank), (d, width), dropped)?);
        }
    }
    for dim in [16, 32, 64] {
        for dropped in [None, Some(DROPOUT)] {
            cases.push(attention(dim, AttentionBlocks::Narrow, dropped, &rows())?);
        }
    }
    Ok(cases)
}

/// Returns cases for all kernels of attention in bf16, over sequences shorter and longer than a block,
/// among them one row more than blocks hold and one less, and those of CLIP ViT-L/14.
pub fn attention_cases() -> Result<Vec<LayerCase>> {
    let mut offsets = vec![0];
    for length in [70, 1, 64, 198, 41, 128, 129, 255, 258] {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let rows = Rows::new(offsets, vec![3, 0, 9, 1, 2, 11, 4, 5, 6]);
    let mut cases = Vec::new();
    for dim in [16, 32, 64] {
        cases.push(attention(dim, AttentionBlocks::Narrow, None, &rows)?);
        cases.push(attention(
            dim,
            AttentionBlocks::Narrow,
            Some(DROPOUT),
            &rows,
        )?);
        cases.push(attention(dim, AttentionBlocks::Wide, None, &rows)?);
    }
    Ok(cases)
}

fn norm() -> Result<LayerCase> {
    let norm = Norm {
        weight: noise(1, (1, 72))?.flatten_all()?,
        bias: noise(2, (1, 72))?.flatten_all()?,
        eps: 1e-5,
    };
    let x = |seed| noise(seed, (135, 72));
    Ok(LayerCase::new(
        "layer norm",
        vec![x(3)?, x(4)?, x(5)?],
        move |t| {
            let device = t[0].device();
            let norm = Norm {
                weight: norm.weight.to_device(device)?,
                bias: norm.bias.to_device(device)?,
                eps: norm.eps,
            };
            let (y, stats) = norm.forward(&t[0])?;
            let recomputed = norm.recompute(&t[0], &stats)?;
            let dx = norm.backward(&t[1], &t[0], &stats, None)?;
            let dx_residual = norm.backward(&t[1], &t[0], &stats, Some(&t[2]))?;
            let [scale, shift] = norm.weight_gradient(&t[1], &t[0], &stats)?;
            Ok(vec![y, recomputed, dx, dx_residual, scale, shift])
        },
    ))
}

fn linear(
    (parts, rank): (usize, usize),
    (d, width): (usize, usize),
    dropped: bool,
) -> Result<LayerCase> {
    let out = parts.max(1) * width;
    let adapters = adapters_of(parts, rank, (d, width))?;
    let bias = noise(4, (1, out))?.flatten_all()?;
    let inputs = vec![
        noise(1, (135, d))?,
        noise(2, (135, out))?,
        noise(5, (135, out))?,
        // Outputs of about 1, of which activations are not steeper than bf16 can follow.
        (noise(3, (out, d))? * (d as f64).powf(-0.5))?,
    ];
    let name =
        format!("linear {d} to {out} with {parts} adapters of rank {rank}, dropout {dropped}");
    Ok(LayerCase::new(name, inputs, move |t| {
        let device = t[0].device();
        let on_device = to_device(&adapters, device)?;
        let on_device: Vec<&Adapter> = on_device.iter().collect();
        let adapters = applied(&on_device, dropped);
        let adapters = (parts > 0).then_some(&adapters);
        let linear = Linear {
            weight: t[3].clone(),
            bias: bias.to_device(device)?,
            precision: Precision::F32,
        };
        let rows = rows();
        let (y, u) = linear.forward(&t[0], &rows, adapters)?;
        let drop = dropped.then_some(&DROPOUT);
        let (y_residual, _) = linear.forward_residual(&t[0], &rows, adapters, drop, &t[2])?;
        let activated =
            |return_z| linear.forward_activated(&t[0], &rows, Activation::Gelu, return_z);
        let (a, z) = activated(true)?;
        let (a_alone, _) = activated(false)?;
        let dz = linear.activation_backward(&t[0], &rows, Activation::Gelu, &t[1])?;
        let mut grads = AdapterGradients::default();
        let dx = linear.backward(&t[1], &t[0], u.as_ref(), &rows, adapters, &mut grads)?;
        let single = |t: &Tensor| t.to_dtype(DType::F32);
        let [dw, db] = linear.weight_gradient(&single(&t[1])?, &single(&t[0])?)?;
        let mut all = vec![y, y_residual, a, a_alone, dz, dx, dw, db];
        all.extend(z);
        all.extend(u);
        all.extend(grads.finish()?.into_iter().flat_map(|g| [g.a, g.b]));
        Ok(all)
    }))
}

fn normed_linear(parts: usize, rank: usize, dropped: bool) -> Result<LayerCase> {
    let (d, width) = (40, 24);
    let out = parts.max(1) * width;
    let adapters = adapters_of(parts, rank, (d, width))?;
    let vectors = [(4, out), (5, d), (6, d)].map(|(seed, n)| noise(seed, (1, n)));
    let inputs = vec![
        noise(1, (135, d))?,
        noise(2, (135, out))?,
        noise(7, (135, d))?,
        noise(3, (out, d))?,
    ];
    let [bias, scale, shift] = vectors;
    let [bias, scale, shift] = [bias?, scale?, shift?];
    let name = format!("norm and linear, {parts} adapters of rank {rank}, dropout {dropped}");
    Ok(LayerCase::new(name, inputs, move |t| {
        let device = t[0].device();
        let vector = |v: &Tensor| v.flatten_all()?.to_device(device);
        let linear = Linear {
            weight: t[3].clone(),
            bias: vector(&bias)?,
            precision: Precision::F32,
        };
        let norm = Norm {
            weight: vector(&scale)?,
            bias: vector(&shift)?,
            eps: 1e-5,
        };
        let layer = NormedLinear {
            norm: &norm,
            linear: &linear,
        };
        let on_device = to_device(&adapters, device)?;
        let on_device: Vec<&Adapter> = on_device.iter().collect();
        let adapters = applied(&on_device, dropped);
        let adapters = (parts > 0).then_some(&adapters);
        let rows = rows();
        let (y, stats, u) = layer.forward(&t[0], &rows, adapters)?;
        let input = NormedInput {
            x: &t[0],
            stats: &stats,
            u: u.as_ref(),
        };
        let mut grads = AdapterGradients::default();
        let dx = layer.backward(&t[1], input, Some(&t[2]), &rows, adapters, &mut grads)?;
        let mut all = vec![y, dx];
        all.extend(u);
        all.extend(grads.finish()?.into_iter().flat_map(|g| [g.a, g.b]));
        Ok(all)
    }))
}

/// Returns adapters from `d` to `width` numbers for each part, on the CPU.
fn adapters_of(parts: usize, rank: usize, (d, width): (usize, usize)) -> Result<Vec<Adapter>> {
    let adapters = (0..parts as u32).map(|i| {
        Ok(Adapter {
            a: noise(10 + i, (rank, d))?,
            b: noise(20 + i, (width, rank))?,
        })
    });
    adapters.collect()
}

fn to_device(adapters: &[Adapter], device: &Device) -> Result<Vec<Adapter>> {
    let copies = adapters.iter().map(|adapter| {
        Ok(Adapter {
            a: adapter.a.to_device(device)?,
            b: adapter.b.to_device(device)?,
        })
    });
    copies.collect()
}

fn applied<'a>(parts: &'a [&'a Adapter], dropped: bool) -> Adapters<'a> {
    let dropout = (0..parts.len() as u32).map(|i| Dropout {
        module: 4 + i,
        ..DROPOUT
    });
    Adapters {
        parts,
        scale: 0.7,
        dropout: match dropped {
            true => dropout.collect(),
            false => Vec::new(),
        },
    }
}

/// Attention over the sequences of `layout`. `blocks` makes no difference in f32 and on the CPU.
fn attention(
    dim: usize,
    blocks: AttentionBlocks,
    dropped: Option<Dropout>,
    layout: &Rows,
) -> Result<LayerCase> {
    let heads = 2;
    let (n, d) = (layout.len(), heads * dim);
    let (offsets, samples) = (layout.offsets.clone(), layout.samples.clone());
    let inputs = vec![noise(1, (n, 3 * d))?, noise(2, (n, d))?];
    let name = format!(
        "attention, {} sequences, heads of {dim}, {blocks:?} blocks, dropout {}",
        samples.len(),
        dropped.is_some()
    );
    Ok(LayerCase::new(name, inputs, move |t| {
        // New ones, because the tables of `Rows` are on the first device that asks for them.
        let rows = Rows::new(offsets.clone(), samples.clone());
        let attention = Attention {
            heads,
            rows: &rows,
            dropout: dropped.as_ref(),
            precision: Precision::F32,
        };
        let before = set_attention_blocks(Some(blocks));
        let results = attention.forward(&t[0]).and_then(|(out, saved)| {
            let grad = attention.backward(&t[0], &out, &saved, &t[1])?;
            Ok(vec![out, grad])
        });
        set_attention_blocks(before);
        results
    }))
}
