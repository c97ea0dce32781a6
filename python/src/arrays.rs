//! Batches as dictionaries of NumPy arrays. The arrays of inputs are the loader's own memory, not
//! copies of it.

use features::{Batch, ModalityBatch, ModalityData};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::shards::Shards;

/// Returns a batch as a dictionary.
pub fn dictionary<'py>(
    py: Python<'py>,
    batch: Batch,
    shards: &Shards,
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
            set_input(py, &out, name.as_str(), input)?;
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
) -> PyResult<()> {
    let shape = input.shape();
    let rows: Vec<i64> = input.rows.iter().map(|row| *row as i64).collect();
    out.set_item(format!("{name}_rows"), PyArray1::from_vec(py, rows))?;
    match input.data {
        ModalityData::Dense { values, .. } => {
            out.set_item(name, PyArray1::from_vec(py, values).reshape(shape)?)?;
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
