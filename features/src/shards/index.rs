//! The samples of a split, from the small columns of its shards.

use super::shard::{Shard, column, parquet_error};
use crate::schema::{ShardSpec, has_column};
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, BooleanArray};
use arrow_schema::DataType;
use media::Error;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use store::StoredFile;

/// The samples of one split, in the order of the files.
#[derive(Clone, Debug, Default)]
pub struct SplitIndex {
    /// The ids.
    pub ids: Vec<String>,
    /// The class indices of each sample: one for single-label data, any number for multi-label.
    pub labels: Vec<Vec<u32>>,
    /// Which modalities each sample has; a dataset of one modality has no second.
    pub present: Vec<[bool; 2]>,
    /// The shard number and the row of each sample.
    pub(super) places: Vec<(u32, u32)>,
}

impl SplitIndex {
    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether the split has no sample.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Appends the samples of the shard with this number.
    pub(super) fn append(&mut self, shard: SplitIndex, number: u32) {
        self.ids.extend(shard.ids);
        self.labels.extend(shard.labels);
        self.present.extend(shard.present);
        let places = shard.places.into_iter().map(|(_, row)| (number, row));
        self.places.extend(places);
    }
}

/// Returns the names of the columns that make an index.
pub(super) fn columns(spec: &ShardSpec) -> Vec<String> {
    let mut columns = vec!["id".to_owned(), label_column(spec).to_owned()];
    columns.extend(spec.modalities.names().map(has_column));
    columns
}

fn label_column(spec: &ShardSpec) -> &'static str {
    if spec.multi_label { "labels" } else { "label" }
}

/// Reads the samples of a shard; they have the shard number 0.
pub(super) fn read(shard: &Shard, file: StoredFile, spec: &ShardSpec) -> Result<SplitIndex, Error> {
    let (columns, label) = (columns(spec), label_column(spec));
    let mut index = SplitIndex::default();
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, shard.metadata.clone());
    let names = columns.iter().map(String::as_str);
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|e| parquet_error(&shard.path, e))?;
    let mut row = 0;
    for batch in reader {
        let batch = batch.map_err(|e| parquet_error(&shard.path, e))?;
        let ids = column(&batch, "id", &shard.path)?
            .as_string::<i32>()
            .clone();
        let has: Vec<BooleanArray> = spec
            .modalities
            .names()
            .map(|input| {
                Ok(column(&batch, &has_column(input), &shard.path)?
                    .as_boolean()
                    .clone())
            })
            .collect::<Result<_, Error>>()?;
        let labels = column(&batch, label, &shard.path)?;
        for i in 0..batch.num_rows() {
            let of = match labels.data_type() {
                DataType::Int32 => vec![labels.as_primitive::<Int32Type>().value(i)],
                _ => labels
                    .as_list::<i32>()
                    .value(i)
                    .as_primitive::<Int32Type>()
                    .values()
                    .to_vec(),
            };
            let of = of.into_iter().map(|l| match u32::try_from(l) {
                Ok(l) if (l as usize) < spec.classes.len() => Ok(l),
                _ => Err(Error::unusable(
                    format!(
                        "{}: sample {} has label {l}, there are {} classes",
                        shard.path.display(),
                        ids.value(i),
                        spec.classes.len()
                    ),
                    "ingest this dataset again with --overwrite",
                )),
            });
            index.labels.push(of.collect::<Result<_, Error>>()?);
            index.ids.push(ids.value(i).to_owned());
            let has = |m: usize| has.get(m).is_some_and(|has| has.value(i));
            index.present.push([has(0), has(1)]);
            index.places.push((0, row));
            row += 1;
        }
    }
    Ok(index)
}
