//! The predictions of a model on a split, as `predictions-NAME.parquet` holds them, and what their
//! logits mean.

use anyhow::{Context, Result, ensure};
use arrow_array::builder::{Float32Builder, Int32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use datasets::{InputName, Modalities};
use features::schema::has_column;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use util::atomic::AtomicFile;

/// The probability from which a class of multi-label data is predicted.
pub const THRESHOLD: f64 = 0.5;

/// One scored sample.
pub struct Prediction {
    /// The sample's id.
    pub id: String,
    /// The true classes.
    pub labels: Vec<u32>,
    /// Which modalities the model was given.
    pub present: [bool; 2],
    /// One logit per class.
    pub logits: Vec<f32>,
}

/// Returns the class of the largest logit, the first among equals.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best
}

/// Returns the classes whose probability reaches [`THRESHOLD`].
pub fn above_threshold(logits: &[f32]) -> Vec<u32> {
    // sigmoid(x) >= 1/2 exactly where x >= 0.
    logits
        .iter()
        .enumerate()
        .filter(|(_, x)| **x >= 0.0)
        .map(|(i, _)| i as u32)
        .collect()
}

/// Returns the classes' probabilities: the softmax of the logits, or for multi-label data a sigmoid
/// of each.
pub fn probabilities(logits: &[f32], multi_label: bool) -> Vec<f64> {
    if multi_label {
        return logits
            .iter()
            .map(|x| 1.0 / (1.0 + (-f64::from(*x)).exp()))
            .collect();
    }
    let top = logits.iter().fold(f32::MIN, |m, x| m.max(*x));
    let exp: Vec<f64> = logits.iter().map(|x| f64::from(x - top).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}

/// Writes predictions as a Parquet file with the columns `id`, `labels` and `predicted` (lists of
/// class indices), `has_M` for each modality, and `logits`.
///
/// # Errors
/// The file cannot be written.
pub fn write(
    path: &Path,
    modalities: Modalities,
    multi_label: bool,
    predictions: &[Prediction],
) -> Result<()> {
    let mut labels = ListBuilder::new(Int32Builder::new());
    let mut predicted = ListBuilder::new(Int32Builder::new());
    let mut logits = ListBuilder::new(Float32Builder::new());
    for p in predictions {
        labels.append_value(p.labels.iter().map(|l| Some(*l as i32)));
        let classes = if multi_label {
            above_threshold(&p.logits)
        } else {
            vec![argmax(&p.logits) as u32]
        };
        predicted.append_value(classes.into_iter().map(|l| Some(l as i32)));
        logits.append_value(p.logits.iter().map(|l| Some(*l)));
    }
    let has = |m: usize| -> ArrayRef {
        Arc::new(
            predictions
                .iter()
                .map(|p| Some(p.present[m]))
                .collect::<BooleanArray>(),
        )
    };
    let ids = StringArray::from_iter_values(predictions.iter().map(|p| &p.id));
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("id".into(), Arc::new(ids)),
        ("labels".into(), Arc::new(labels.finish())),
        ("predicted".into(), Arc::new(predicted.finish())),
    ];
    let names = modalities.names().enumerate();
    columns.extend(names.map(|(m, input)| (has_column(input), has(m))));
    columns.push(("logits".into(), Arc::new(logits.finish())));
    let batch = RecordBatch::try_from_iter(columns)?;
    let file = AtomicFile::create(path)?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.publish()?)
}

/// Reads a file that [`write()`] wrote, in its order.
///
/// # Errors
/// The file cannot be read, lacks a column or has it with another type, or a sample has no logits.
pub fn read(path: &Path, modalities: Modalities) -> Result<Vec<Prediction>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut predictions = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let lacks = |name: &str| {
            format!(
                "{}: has no column {name} of the right type; make it again with `train eval`",
                path.display()
            )
        };
        let column = |name: &str| batch.column_by_name(name).with_context(|| lacks(name));
        let list = |name: &str| {
            let list = column(name)?.as_list_opt::<i32>();
            list.with_context(|| lacks(name))
        };
        let flags = |input: InputName| {
            let name = has_column(input);
            let flags = column(&name)?.as_boolean_opt();
            flags.with_context(|| lacks(&name))
        };
        let ids = column("id")?.as_string_opt::<i32>();
        let ids = ids.with_context(|| lacks("id"))?;
        let (labels, logits) = (list("labels")?, list("logits")?);
        let has: Vec<_> = modalities.names().map(flags).collect::<Result<_>>()?;
        for row in 0..batch.num_rows() {
            let (label, logit) = (labels.value(row), logits.value(row));
            let label = label.as_primitive_opt::<Int32Type>();
            let label = label.with_context(|| lacks("labels"))?;
            let logit = logit.as_primitive_opt::<Float32Type>();
            let logit = logit.with_context(|| lacks("logits"))?;
            let id = ids.value(row).to_string();
            ensure!(
                !logit.is_empty(),
                "{}: sample {id} has no logits; make it again with `train eval`",
                path.display()
            );
            predictions.push(Prediction {
                id,
                labels: label.values().iter().map(|l| *l as u32).collect(),
                present: [0, 1].map(|m| has.get(m).is_some_and(|flags| flags.value(row))),
                logits: logit.values().to_vec(),
            });
        }
    }
    Ok(predictions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Modality;

    #[test]
    fn probabilities_add_up() {
        let p = probabilities(&[1.0, 3.0, 1.0], false);
        // e^2 / (e^2 + 2)
        assert!((p[1] - 0.786_986_042_4).abs() < 1e-9, "{p:?}");
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(probabilities(&[0.0, -800.0], true), [0.5, 0.0]);
    }

    #[test]
    fn predictions_read_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions-test.parquet");
        let modalities = Modalities::Two(Modality::Audio, Modality::Video);
        let prediction = Prediction {
            id: "a".into(),
            labels: vec![2],
            present: [true, false],
            logits: vec![0.5, -1.0, 2.0],
        };
        write(&path, modalities, false, &[prediction]).unwrap();
        let [read] = &read(&path, modalities).unwrap()[..] else {
            panic!("one row was written");
        };
        assert_eq!((read.id.as_str(), &read.labels[..]), ("a", &[2][..]));
        assert_eq!(read.present, [true, false]);
        assert_eq!(read.logits, [0.5, -1.0, 2.0]);
        let other = super::read(&path, Modalities::Two(Modality::Image, Modality::Text));
        let error = other.err().unwrap().to_string();
        assert!(error.contains("has_image"), "{error}");
    }

    #[test]
    fn samples_without_logits_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions-test.parquet");
        let modalities = Modalities::Two(Modality::Audio, Modality::Video);
        let prediction = Prediction {
            id: "a".into(),
            labels: vec![0],
            present: [true, true],
            logits: Vec::new(),
        };
        write(&path, modalities, true, &[prediction]).unwrap();
        let error = super::read(&path, modalities).err().unwrap().to_string();
        assert!(error.contains("sample a has no logits"), "{error}");
    }
}
