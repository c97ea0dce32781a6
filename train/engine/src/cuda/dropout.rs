//! The dropout of a module as an argument of the kernels.

use crate::cpu::dropout::Dropout;

/// The struct `Dropout` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct DropoutArgument {
    threshold: u32,
    scale: f32,
    key: [u32; 2],
    module: u32,
    step: u32,
}

impl DropoutArgument {
    /// Converts the dropout; without one, nothing is dropped.
    pub(super) fn new(dropout: Option<&Dropout>) -> DropoutArgument {
        let Some(d) = dropout else {
            return DropoutArgument {
                threshold: 0,
                scale: 1.0,
                key: [0; 2],
                module: 0,
                step: 0,
            };
        };
        DropoutArgument {
            threshold: d.threshold(),
            scale: (1.0 / (1.0 - d.rate)) as f32,
            key: [d.seed as u32, (d.seed >> 32) as u32],
            module: d.module,
            step: d.step,
        }
    }
}
