//! Products of two matrices that candle's autograd differentiates.
//!
//! candle's own product sums in an order that depends on the processor and on the number of
//! threads; on the CPU, those here do not (see `crate::cpu::fma`).

use crate::cpu::Real;
use crate::cpu::layout::Mat;
use crate::cpu::matmul;
use crate::precision::Precision;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail};

/// Returns `x W^T`, `n x out`, of `x` (`n x d`) and a weight `W` (`out x d`), with gradients of
/// both.
pub fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    product(x, weight, Turned::Right)
}

/// Returns `a b` of two matrices, without gradients.
pub(super) fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(a, b, Turned::None)
}

fn product(a: &Tensor, b: &Tensor, turned: Turned) -> Result<Tensor> {
    if a.device().is_cpu() {
        return a.contiguous()?.apply_op2(&b.contiguous()?, Product(turned));
    }
    match turned {
        Turned::None => a.matmul(b),
        Turned::Left => a.t()?.matmul(b),
        Turned::Right => a.matmul(&b.t()?),
    }
}

/// The operand that is transposed before it is multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turned {
    None,
    Left,
    Right,
}

/// The product of two contiguous matrices on the CPU.
struct Product(Turned);

impl Product {
    fn multiply<T: Real + WithDType>(
        &self,
        a: (&CpuStorage, &Layout),
        b: (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (matrix::<T>(a)?, matrix::<T>(b)?);
        let (a, b) = match self.0 {
            Turned::None => (a, b),
            Turned::Left => (a.t(), b),
            Turned::Right => (a, b.t()),
        };
        if a.shape().1 != b.shape().0 {
            bail!("a product of {:?} by {:?}", a.shape(), b.shape());
        }
        let shape = (a.shape().0, b.shape().1);
        let values = matmul::product(a, b, None, Precision::F32);
        Ok((T::to_cpu_storage_owned(values), shape.into()))
    }
}

/// Views a contiguous tensor as a matrix.
fn matrix<'a, T: WithDType>((storage, layout): (&'a CpuStorage, &Layout)) -> Result<Mat<'a, T>> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        bail!("a product of a matrix that is not contiguous: {layout:?}");
    };
    let (rows, cols) = layout.shape().dims2()?;
    Ok(Mat::new(&storage.as_slice::<T>()?[from..to], rows, cols))
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = ((a, a_layout), (b, b_layout));
        match a.0 {
            CpuStorage::F32(_) => self.multiply::<f32>(a, b),
            CpuStorage::F64(_) => self.multiply::<f64>(a, b),
            _ => bail!("no product of this number type on the CPU"),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if self.0 != Turned::Right {
            bail!("only the gradient of x W^T is formed");
        }
        let dx = product(dy, weight, Turned::None)?;
        let dw = product(dy, x, Turned::Left)?;
        Ok((Some(dx), Some(dw)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Values and gradients of candle's own product, in f64.
    #[test]
    fn values_and_gradients_are_those_of_candles_product() {
        let cpu = Device::Cpu;
        let x = Var::rand(-1f64, 1.0, (5, 40), &cpu).unwrap();
        let weight = Var::rand(-1f64, 1.0, (7, 40), &cpu).unwrap();
        let factor = Tensor::rand(-1f64, 1.0, (5, 7), &cpu).unwrap();
        let run = |y: Tensor| {
            let grads = (&y * &factor)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            let numbers = [&y, grads.get(&x).unwrap(), grads.get(&weight).unwrap()];
            numbers.map(|t| t.flatten_all().unwrap().to_vec1::<f64>().unwrap())
        };
        let own = run(project(x.as_tensor(), weight.as_tensor()).unwrap());
        let candle = run(x.matmul(&weight.t().unwrap()).unwrap());
        for (own, candle) in own.iter().flatten().zip(candle.iter().flatten()) {
            assert!((own - candle).abs() < 1e-13, "{own} {candle}");
        }
    }
}
