//! Batches as dictionaries of NumPy arrays. The arrays of inputs are the loader's own memory, not
//! copies of it, and later batches use it again once the arrays are gone.

use features::{Batch, Buffers, ModalityBatch, ModalityData};
use numpy::ndarray::{ArrayViewMut, IxDyn};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::shards::Shards;

/// Returns a batch as a dictionary, whose memory goes to `buffers` when Python frees it.
pub fn dictionary<'py>(
    py: Python<'py>,
    batch: Batch,
    shards: &Shards,
    buffers: &Buffers,
) -> PyResult<Bound<'py, PyDict>> {
    let spec = shards.shards.spec();
    let out = PyDict::new(py);
    let samples = batch.ids.len();
    out.set_item("id", batch.ids)?;
    if spec.multi_label {
        let classes = spec.classes.len();
        let mut hot = vec![0.0f32; samples * classes];
        for (row, labels) in batch.labels.iter().enumerate() {
            for label in labels {
                hot[row * classes + *label as usize] = 1.0;
            }
        }
        let hot = PyArray1::from_vec(py, hot).reshape([samples, classes])?;
        out.set_item("labels", hot)?;
    } else {
        let labels = batch.labels.iter().map(|labels| i64::from(labels[0]));
        out.set_item("label", PyArray1::from_vec(py, labels.collect()))?;
    }
    let inputs = spec.modalities.names().zip(batch.inputs);
    for (m, (name, input)) in inputs.enumerate() {
        let present: Vec<bool> = batch.present.iter().map(|present| present[m]).collect();
        out.set_item(format!("has_{name}"), PyArray1::from_vec(py, present))?;
        if let Some(input) = input {
            set_input(py, &out, name.as_str(), input, buffers)?;
        }
    }
    Ok(out)
}

/// Adds the inputs of one modality.
fn set_input(
    py: Python<'_>,
    out: &Bound<'_, PyDict>,
    name: &str,
    input: ModalityBatch,
    buffers: &Buffers,
) -> PyResult<()> {
    let shape = input.shape();
    let rows: Vec<i64> = input.rows.iter().map(|row| *row as i64).collect();
    out.set_item(format!("{name}_rows"), PyArray1::from_vec(py, rows))?;
    match input.data {
        ModalityData::Dense { values, .. } => {
            out.set_item(name, Values::array(py, values, &shape, buffers)?)?;
        }
        ModalityData::Tokens { ids, lengths, .. } => {
            let ids = ids.into_iter().map(i64::from).collect();
            out.set_item(name, PyArray1::from_vec(py, ids).reshape(shape)?)?;
            let lengths = lengths.into_iter().map(|length| length as i64).collect();
            out.set_item(format!("{name}_lengths"), PyArray1::from_vec(py, lengths))?;
        }
    }
    Ok(())
}

/// The values of an array. They go back to the loader's buffers when the last array that shows them
/// is freed.
#[pyclass(frozen, module = "u2a_features")]
struct Values {
    values: Vec<f32>,
    buffers: Buffers,
    /// The process whose threads use the buffers.
    process: u32,
}

impl Values {
    /// Returns an array of `shape` that shows the values.
    fn array<'py>(
        py: Python<'py>,
        mut values: Vec<f32>,
        shape: &[usize],
        buffers: &Buffers,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let (first, shape) = (values.as_mut_ptr(), IxDyn(shape));
        let owner = Values {
            values,
            buffers: buffers.clone(),
            process: std::process::id(),
        };
        let owner = Bound::new(py, owner)?.into_any();
        // SAFETY: `first` points to as many values as the shape has, by the assertion above. They
        // stay where they are until `owner` is dropped, which nothing but the array can reach, and
        // the array keeps it alive.
        Ok(unsafe {
            let view = ArrayViewMut::from_shape_ptr(shape, first);
            PyArrayDyn::borrow_from_array(&view, owner)
        })
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        // In a process that was forked, a thread that is not there may hold the lock of the
        // buffers.
        if self.process == std::process::id() {
            self.buffers.give_back(std::mem::take(&mut self.values));
        }
    }
}
