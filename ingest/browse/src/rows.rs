//! The small columns of all rows.

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, RecordBatch};
use datasets::{Modality, Split};
use features::schema::{frame_times_column, seconds_column};
use features::{Error, Shards};

/// A row's split and its number in the split, both in the order of the shards.
pub type RowId = (Split, u32);

/// What is known of a row without its media.
pub struct Row {
    /// Which row it is.
    pub at: RowId,
    /// The id of the sample.
    pub id: String,
    /// The class indices.
    pub labels: Vec<u32>,
    /// Which modalities it has; a dataset of one modality has no second.
    pub present: [bool; 2],
    /// The decoded durations in seconds of its modalities, where they have one.
    pub seconds: [Option<f32>; 2],
    /// The times of the frames of its videos in seconds.
    pub frame_times: [Vec<f32>; 2],
    /// The start and end of the labelled event in seconds.
    pub segment: Option<(f32, f32)>,
    /// The path of the input below the raw tree.
    pub source: String,
    /// Why something is missing or damaged.
    pub error: Option<String>,
}

impl Row {
    /// Returns whether it has every modality of a dataset that has `count`.
    pub fn is_complete(&self, count: usize) -> bool {
        self.present[..count].iter().all(|present| *present)
    }

    /// Returns the name of its element on a page, such as "train-12".
    pub fn anchor(&self) -> String {
        let (split, number) = self.at;
        format!("{split}-{number}")
    }
}

/// Reads the rows of all shards, in their order.
///
/// # Errors
/// A shard cannot be read.
pub fn read(shards: &Shards) -> Result<Vec<Row>, Error> {
    let spec = shards.spec();
    let seconds_columns = spec.modalities.map(seconds_column);
    let times_columns = spec.modalities.map(|input| {
        let has_frames = input.modality == Modality::Video;
        has_frames.then(|| frame_times_column(input))
    });
    let mut columns = vec!["source", "error"];
    let optional = seconds_columns.iter().chain(&times_columns);
    columns.extend(optional.flatten().map(String::as_str));
    if spec.segment {
        columns.extend(["event_start", "event_end"]);
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut number = 0;
    shards.scan(&columns, |split, batch| -> Result<(), Error> {
        if rows.last().is_none_or(|row| row.at.0 != split) {
            number = 0;
        }
        let index = shards.split(split);
        for i in 0..batch.num_rows() {
            let in_split = number as usize;
            let seconds = |name: &Option<String>| float(batch, name.as_ref()?, i);
            let times = |name: &Option<String>| {
                let name = name.as_ref();
                name.map_or_else(Vec::new, |name| floats(batch, name, i))
            };
            rows.push(Row {
                at: (split, number),
                id: index.ids[in_split].clone(),
                labels: index.labels[in_split].clone(),
                present: index.present[in_split],
                seconds: seconds_columns.each_ref().map(seconds),
                frame_times: times_columns.each_ref().map(times),
                segment: float(batch, "event_start", i).zip(float(batch, "event_end", i)),
                source: text(batch, "source", i).unwrap_or_default(),
                error: text(batch, "error", i),
            });
            number += 1;
        }
        Ok(())
    })?;
    Ok(rows)
}

/// Returns a cell, if there is such a column and the cell is not null. The columns have the types of
/// the schema, which was checked when the shards were opened.
fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let cells = batch.column_by_name(column)?.as_string_opt::<i32>()?;
    cells.is_valid(row).then(|| cells.value(row).to_owned())
}

fn float(batch: &RecordBatch, column: &str, row: usize) -> Option<f32> {
    let cells = batch.column_by_name(column)?;
    let cells = cells.as_primitive_opt::<Float32Type>()?;
    cells.is_valid(row).then(|| cells.value(row))
}

fn floats(batch: &RecordBatch, column: &str, row: usize) -> Vec<f32> {
    let cells = batch.column_by_name(column);
    let cells = cells.and_then(|cells| cells.as_list_opt::<i32>());
    let Some(values) = cells.map(|cells| cells.value(row)) else {
        return Vec::new();
    };
    let values = values.as_primitive_opt::<Float32Type>();
    values.map_or_else(Vec::new, |values| values.values().to_vec())
}
