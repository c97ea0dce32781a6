//! `u2a_features`: the batches that `train` sees, as NumPy arrays.
//!
//! The Python side of the package (`python/u2a_features`) has the documentation that users see.

mod arrays;
mod loader;
mod shards;

use pyo3::prelude::*;

/// The compiled part of the package `u2a_features`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::loader::{Batches, Loader};
    #[pymodule_export]
    use super::shards::Shards;
}

/// Returns a Python exception for an error of `features`: `OSError` for what the system refused,
/// `ValueError` otherwise.
fn exception(error: features::Error) -> PyErr {
    use pyo3::exceptions::{PyOSError, PyValueError};
    match error {
        features::Error::Io { .. } => PyOSError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}
