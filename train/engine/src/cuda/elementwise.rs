//! Activations, dropout and the patches of images.

use super::dropout::DropoutArgument;
use super::launch::Argument;
use super::{Gpu, THREADS, VECTOR_WIDTH, dims, empty, empty_like, kernel_name};
use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::rows::Rows;
use candle_core::{DType, Result, Tensor};

impl Gpu {
    /// [`crate::layers::activate`].
    pub(crate) fn activate(&self, f: Activation, z: &Tensor) -> Result<Tensor> {
        let y = empty_like(z)?;
        let arguments = [
            self.address(z)?,
            self.address(&y)?,
            Argument::new((z.elem_count() / VECTOR_WIDTH) as u32),
            Argument::new(activation_number(f)),
        ];
        self.launch_elements(&kernel_name("activate", z)?, z.elem_count(), &arguments)?;
        Ok(y)
    }

    /// [`crate::layers::activate_backward`].
    pub(crate) fn activate_backward(
        &self,
        f: Activation,
        z: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let dz = empty_like(z)?;
        let arguments = [
            self.address(z)?,
            self.address(dy)?,
            self.address(&dz)?,
            Argument::new((z.elem_count() / VECTOR_WIDTH) as u32),
            Argument::new(activation_number(f)),
        ];
        self.launch_elements(
            &kernel_name("activate_backward", z)?,
            z.elem_count(),
            &arguments,
        )?;
        Ok(dz)
    }

    /// [`crate::layers::dropout`].
    pub(crate) fn dropout(&self, x: &Tensor, dropout: &Dropout, rows: &Rows) -> Result<Tensor> {
        let (n, d) = dims(x)?;
        let y = empty_like(x)?;
        let arguments = [
            self.address(x)?,
            self.address(&y)?,
            self.address(&rows.tables(x.device())?.positions)?,
            Argument::new(n as i32),
            Argument::new(d as i32),
            Argument::new(DropoutArgument::new(Some(dropout))),
        ];
        self.launch_elements(&kernel_name("dropout", x)?, n * d, &arguments)?;
        Ok(y)
    }

    /// Returns the patches of images as rows of the number type `dtype`; `input` is `inputs x
    /// (channels * rows * cols)`, f32. `sizes` are channels, rows, columns, patch size, row stride,
    /// column stride, patches down and patches across.
    pub fn cut_patches(
        &self,
        input: &Tensor,
        sizes: [usize; 8],
        transposed: bool,
        dtype: DType,
    ) -> Result<Tensor> {
        let [channels, _, _, patch, _, _, down, across] = sizes;
        let shape = (input.dim(0)? * down * across, channels * patch * patch);
        let out = empty(shape, dtype, input)?;
        let total = out.elem_count();
        let mut arguments = vec![
            self.address(input)?,
            self.address(&out)?,
            Argument::new(total as u32),
        ];
        arguments.extend(sizes.map(|n| Argument::new(n as i32)));
        arguments.push(Argument::new(i32::from(transposed)));
        let blocks = total.div_ceil(THREADS as usize);
        self.launch(
            &kernel_name("cut_patches", &out)?,
            [blocks, 1, 1],
            THREADS,
            0,
            &arguments,
        )?;
        Ok(out)
    }
}

/// Returns the number by which the kernels know an activation.
pub(super) fn activation_number(f: Activation) -> i32 {
    i32::from(f == Activation::QuickGelu)
}
