//! Activations and dropout.

use super::dropout::DropoutArgument;
use super::launch::Argument;
use super::{Gpu, VECTOR_WIDTH, dims, empty_like, kernel_name};
use crate::cpu::activation::Activation;
use crate::cpu::dropout::Dropout;
use crate::rows::Rows;
use candle_core::{Result, Tensor};

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
        self.launch_elements(kernel_name("activate", z)?, z.elem_count(), &arguments)?;
        Ok(y)
    }

    /// [`crate::layers::activate_backward`]; `bias`, if there is one, is added to `z` first.
    pub(crate) fn activate_backward(
        &self,
        f: Activation,
        z: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let dz = empty_like(z)?;
        let arguments = [
            self.address(z)?,
            self.optional(bias)?,
            self.address(dy)?,
            self.address(&dz)?,
            Argument::new((z.elem_count() / VECTOR_WIDTH) as u32),
            Argument::new((dims(z)?.1 / VECTOR_WIDTH) as u32),
            Argument::new(activation_number(f)),
        ];
        self.launch_elements(
            kernel_name("activate_backward", z)?,
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
            self.address(self.positions(rows, x)?)?,
            Argument::new(n as i32),
            Argument::new(d as i32),
            Argument::new(DropoutArgument::new(Some(dropout))),
        ];
        self.launch_elements(kernel_name("dropout", x)?, n * d, &arguments)?;
        Ok(y)
    }
}

/// Returns the number by which the kernels know an activation.
pub(super) fn activation_number(f: Activation) -> i32 {
    i32::from(f == Activation::QuickGelu)
}
